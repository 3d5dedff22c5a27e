"""The files of one job: script and environment, output and errors."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError, LauncherError

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@frozen
class JobFiles:
    """Where the files of a job are.

    Attributes:
        directory: The cluster's directory, on a file system that the nodes share.
        stem: What the names of all of them begin with.
        suffix: What the name of the script, or what there is instead, ends with.
    """

    directory: ClusterDirectory
    stem: str
    suffix: str = ".sh"

    @classmethod
    def of_script(cls, script: Path) -> JobFiles:
        """Return the files of the job with a script."""
        return cls(ClusterDirectory(script.parent.parent), script.stem, script.suffix)

    @property
    def script(self) -> Path:
        """The script that is submitted."""
        return self.directory.path / "jobs" / f"{self.stem}{self.suffix}"

    @property
    def environment(self) -> Path:
        """Environment variables as shell commands, which the script reads."""
        return self.script.with_suffix(".env")

    @property
    def output(self) -> Path:
        """What the job writes to its standard output."""
        return self.directory.log / f"{self.stem}.out"

    @property
    def error(self) -> Path:
        """What the job writes to its standard error."""
        return self.directory.log / f"{self.stem}.err"

    @property
    def spooled(self) -> Path:
        """What the batch system itself collects, where the script writes its own output."""
        return self.directory.log / f"{self.stem}.job"

    def write(self, script: str, environment: Mapping[str, str]) -> None:
        """Write the script and the environment.

        Raises:
            LauncherError: They cannot be written.
        """
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
        try:
            self.script.parent.mkdir(mode=0o700, exist_ok=True)
            _write(self.environment, "".join(lines), 0o600)
            _write(self.script, script, 0o700)
        except OSError as error:
            raise LauncherError(
                f"cannot write the job's files in {self.script.parent}: {error.strerror or error}"
            ) from None

    def remove_script(self) -> None:
        """Remove what :meth:`write` has written."""
        _remove(self.script)
        _remove(self.environment)

    def remove_output(self, also_errors: bool) -> None:
        """Remove the output, and the errors if there are none.

        Args:
            also_errors: Remove them in any case.
        """
        _remove(self.output)
        for path in (self.error, self.spooled):
            try:
                if also_errors or not path.stat().st_size:
                    _remove(path)
            except OSError:  # there is no such file
                continue


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse what a shell cannot set.

    Raises:
        ConfigurationError: A name cannot be that of a variable, or a value has a null character.
    """
    for name, value in environment.items():
        if not _VARIABLE.match(name):
            raise ConfigurationError(
                f"{name!r} cannot name an environment variable of a job: use letters, digits, '_'"
            )
        if "\0" in value:
            raise ConfigurationError(
                f"the environment variable {name!r} has a null character in its value"
            )


def _write(path: Path, text: str, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, flags, mode)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # gone already, or somebody else's business
        pass
