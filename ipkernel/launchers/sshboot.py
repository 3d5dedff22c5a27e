"""The way from a login shell of unknown kind to a Python that runs :mod:`ipkernel.launchers.remote`.

The command line that ssh is given is always the same; everything else, what a user has written
included, goes over the standard input. So nothing of it is seen in a list of processes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

#: Reads one line and does what it says; all shells understand the quotes around it.
_OBEY: Final = 'IFS= read -r ipk_line && eval "$ipk_line"'
#: What ssh is told to run.
COMMAND: Final = f"exec sh -c '{_OBEY}'"
#: The oldest Python that will do.
OLDEST: Final = (3, 11)
#: Events of the shell's script.
SETUP: Final = "@setup"
NO_PYTHON: Final = "@no-python"
OLD_PYTHON: Final = "@old-python"

#: bash where there is one: people write 'source' and 'module load'.
_ANY_SHELL: Final = f"""\
if command -v bash >/dev/null 2>&1; then exec bash -c '{_OBEY}'; else {_OBEY}; fi
"""

_SCRIPT: Final = """\
ipk_at=0
exec 8<&0 9>&1 </dev/null >&2
printf '\\n{"event": "@shell"}\\n' >&9
trap 'ipk_code=$?; printf "{\\"event\\": \\"@setup\\", \\"at\\": %d, \\"code\\": %d}\\n" $ipk_at $ipk_code >&9' 0
@SETUP@
trap - 0
exec <&8 >&9 8<&- 9>&-
ipk_python=@PYTHON@
if ! command -v "$ipk_python" >/dev/null 2>&1; then
    printf '{"event": "@no-python"}\\n'
    exit 3
fi
exec "$ipk_python" -c '@LOADER@'
"""

# The two below are read by any Python from 2.7 on; the second says so if it is too old.
_LOADER: Final = """\
import os
n, s = @SIZE@, b""
while len(s) < n:
    d = os.read(0, n - len(s))
    if not d:
        raise SystemExit(4)
    s += d
exec(compile(s, "ipkernel-check", "exec"))
"""
_CHECK: Final = """\
import os, sys
sys.path[:] = [p for p in sys.path if p]
if sys.version_info < @OLDEST@:
    v = ".".join(str(part) for part in sys.version_info[:3])
    os.write(1, ('{"event": "@old-python", "version": "%s"}\\n' % v).encode())
    raise SystemExit(3)
n, s = @SIZE@, b""
while len(s) < n:
    d = os.read(0, n - len(s))
    if not d:
        raise SystemExit(4)
    s += d
exec(compile(s, "ipkernel-remote", "exec"), {"__name__": "__main__"})
"""


def first_words(python: str, setup: Sequence[str] = (), shell: str = "") -> bytes:
    """Return what must be sent first; after that the host takes orders.

    Args:
        python: Which Python, a path or a name; one that begins with ``~/`` is in the user's home.
        setup: Commands for a shell that come before it; their output goes to the standard error.
        shell: Which shell, with its options; empty for bash, or sh where there is no bash.
    """
    remote = files("ipkernel.launchers").joinpath("remote.py").read_bytes()
    check = _CHECK.replace("@OLDEST@", repr(OLDEST)).replace("@SIZE@", str(len(remote))).encode()
    script = (
        _SCRIPT.replace("@LOADER@", _LOADER.replace("@SIZE@", str(len(check))))
        .replace("@PYTHON@", _quoted_path(python))
        .replace("@SETUP@", "".join(_step(n, line) for n, line in enumerate(setup)))
        .encode()
    )
    begin = _ANY_SHELL if not shell else f"exec {shell} -c '{_OBEY}'\n"
    take = f'eval "$(dd bs=1 count={len(script)} 2>/dev/null)"\n'
    return begin.encode() + take.encode() + script + check + remote


def _step(number: int, line: str) -> str:
    return f"ipk_at={number}; eval {shlex.quote(line)} || exit\n"


def _quoted_path(python: str) -> str:
    if python.startswith("~/"):
        return f'"$HOME"/{shlex.quote(python[2:])}'
    return shlex.quote(python)
