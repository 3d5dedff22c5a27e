"""Ctrl-C at any moment of a command's life, as the shell sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

_INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"
_CALL = "sys.exit(entry.ipcluster())"


def run(code: str, **options: object) -> tuple[int, str]:
    """Run code that has the entries; return the exit code and all that was printed."""
    prelude = "import atexit, os, signal, sys\nfrom ipkernel.cli import entry\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(
            f"entry.import_module = lambda name: {_INTERRUPT}\n{_CALL}",
            -signal.SIGINT,
            id="loading",
        ),
        pytest.param(
            f"import ipkernel.cli.ipcluster as it\nit.make_parser = lambda: {_INTERRUPT}\n{_CALL}",
            130,
            id="beginning",
        ),
        pytest.param(
            f"atexit.register(lambda: {_INTERRUPT})\n{_CALL}", -signal.SIGINT, id="ending"
        ),
    ],
)
def test_an_interrupt_is_quiet(code: str, expected: int) -> None:
    status, out = run(code)
    assert status == expected
    assert "Traceback" not in out
    assert "KeyboardInterrupt" not in out


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    status, out = run(f"{ignore}atexit.register(lambda: {_INTERRUPT})\n{_CALL}")
    assert status == 0
    assert out.startswith("ipkernel ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened(closed: str, tmp_path: Path) -> None:
    code = """
import os, sys
from types import SimpleNamespace
from ipkernel.cli import entry
def main():
    print("out", flush=True)
    assert not sys.stdin.isatty()
    sys.stderr.write("err")
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
    os.write(1, b"more")
    return 7
entry.import_module = lambda name: SimpleNamespace(main=main)
sys.exit(entry.ipcluster())
"""
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code]
    path = tmp_path / "file"
    done = subprocess.run([*words, path], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 7, done.stderr
    assert done.stdout == (b"" if " >&-" in f" {closed}" else b"out\nmore")
    assert done.stderr == (b"" if "2>&-" in closed else b"err")
    assert path.read_bytes() == b""


def test_what_the_output_has_no_character_for_is_shown_somehow() -> None:
    code = "entry.import_module = lambda name: sys.modules['__main__']\n"
    code += f"main = lambda: print('\\u4f60\\udcff')\n{_CALL}"
    status, out = run(code, env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert (status, out) == (0, "\\u4f60\\udcff\n")


def test_little_is_loaded_before_an_interrupt_is_quiet() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from ipkernel.cli import entry
print(sorted({"typing", "signal", "enum", "re", "collections.abc", "pathlib"} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-S", "-c", code, str(root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_installed_command_has_an_entry() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    for name, place in project["project"]["scripts"].items():
        module, _, function = place.partition(":")
        assert function == name
        assert callable(getattr(import_module(module), function))
        assert callable(import_module(f"ipkernel.cli.{name}").main)
