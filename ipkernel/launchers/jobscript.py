"""What jobs' scripts say in shell, and what they tell back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Final

from ipkernel.launchers.jobfiles import JobFiles

#: Name of the variable with the time at which a script began, in seconds.
BEGAN: Final = "ipkernel_began"
#: Tells an exit code, once: at the end of the program, or of a script that does not come so far. A
#: shell that dies of a signal may believe that its code is 0; that is not told.
_TELL: Final = """\
ipkernel_code=
ipkernel_exited() {
    [ "$ipkernel_code" ] || printf '{"event": "exited", "code": %d}\\n' "${ipkernel_code:=$1}"
}
trap 'ipkernel_end=$?; [ $ipkernel_end = 0 ] || ipkernel_exited $ipkernel_end' EXIT"""


def prepare(files: JobFiles, variables: Iterable[str], redirect: bool) -> str:
    """Return the lines after which output goes to its files and the environment is set.

    From there on the script tells its exit code, wherever it ends: not all batch systems do, and
    others do later.

    Args:
        files: The job's files.
        variables: Names of the environment variables, to be seen by who reads the script.
        redirect: Whether the script has to see to its output itself.
    """
    out, err, environment = (
        shlex.quote(str(path)) for path in (files.output, files.error, files.environment)
    )
    lines = [f"exec >>{out} 2>>{err}"] if redirect else []
    lines += [_TELL, f"export {BEGAN}=$(date +%s)", f"# sets {' '.join(sorted(variables))}"]
    return "\n".join([*lines, f". {environment}"])


def reporting(command: str) -> str:
    """Have a script run a command, live until that has ended, and tell its exit code.

    The signals with which jobs are ended reach the program as well; a shell that died of one
    would take the program with it before that has ended in good order.
    """
    return f'trap : TERM INT HUP USR1 USR2\n{command}\nipkernel_exited $?\nexit "$ipkernel_code"'


def exit_code(line: bytes) -> int | None:
    """Return the exit code that a line of a job's output tells, or None."""
    if b'"exited"' not in line:
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    code = event.get("code") if isinstance(event, dict) and event.get("event") == "exited" else None
    return code if isinstance(code, int) else None
