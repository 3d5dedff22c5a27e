"""One virtual environment per peer, made on demand; the project's own for the others."""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import Entry

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "benchmarks" / ".envs"
INSTALL_LIMIT = 900
"""Seconds that making one environment may take."""

_VERSIONS = """
import importlib.metadata as metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
json.dump(found, sys.stdout)
"""


class EnvironmentFailed(Exception):
    """An environment could not be made; the text says which and why."""


def python_of(entry: Entry, envs: Path = ENVS) -> Path:
    """Return the interpreter for a system (that may not exist yet)."""
    if not entry.requirements:
        return Path(sys.executable)
    return envs / entry.name / "bin" / "python"


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of those of ``packages`` that are installed."""
    done = subprocess.run(
        [str(python), "-c", _VERSIONS, *packages],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _call(command: list[str], what: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no output"])[-1]
        raise EnvironmentFailed(f"{what}: {last}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise EnvironmentFailed(f"{what}: {error}") from error


def ensure(entry: Entry, envs: Path = ENVS) -> Path:
    """Return the interpreter for a system, its environment made and filled if need be.

    The project's own modules are compiled, as pip does with what it installs: otherwise each
    process of a cluster compiles them anew where PYTHONDONTWRITEBYTECODE is set.

    Raises:
        EnvironmentFailed: if the environment cannot be made or its packages not installed.
    """
    python = python_of(entry, envs)
    if not entry.requirements:
        compileall.compile_dir(ROOT / "ipkernel", quiet=1)
        return python
    if python.exists():
        found = versions(python, entry.requirements)
        if all(name in found for name in entry.requirements):
            return python
    _call([sys.executable, "-m", "venv", str(python.parent.parent)], f"venv {entry.name}")
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    _call([*pip, *entry.requirements], f"pip install {' '.join(entry.requirements)}")
    return python
