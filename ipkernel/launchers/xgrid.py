"""Launch through Apple's Xgrid: the command ``xgrid``, and batch files that are property lists.

The commands and the form of their answers are those of its manual page in Mac OS X 10.6. The
password of a controller comes from the environment variable ``XGRID_CONTROLLER_PASSWORD``, which
the command reads itself.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.described import DescribedController, DescribedHost, DescribingSystem
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

_PAIR: Final = re.compile(r'\b(\w+) = (?:"((?:[^"\\]|\\.)*)"|([^;{}\n]*));')
_ENDED: Final = {"Canceled": "was cancelled", "Failed": "failed"}


class Xgrid(DescribingSystem):
    """How to talk to Xgrid; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "xgrid"
    title: ClassVar[str] = "Xgrid"
    suffix: ClassVar[str] = ".plist"
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("xgrid", "xgrid", "xgrid"),
        Option("host", "string", "", "Host of the controller; empty: XGRID_CONTROLLER_HOSTNAME."),
        Option("auth", "option('', 'Password', 'Kerberos')", "", "How the controller knows you."),
    )

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        for name in ("account", "extra"):
            if self.options[name]:
                raise self.options.wrong(name, "Xgrid has nothing of that kind: leave it out")

    def describe(self, job: Job, words: list[str], files: JobFiles) -> str:
        """Return the batch file: one job with one task."""
        command, *arguments = words
        specification = {
            "applicationIdentifier": "org.ipkernel",
            "name": job.name,
            "submissionIdentifier": files.stem,
            "inputFiles": {},
            "taskSpecifications": {"0": {"command": command, "arguments": arguments}},
        }
        return plistlib.dumps({"jobSpecification": specification}).decode("utf-8")

    def submit(self, script: Path) -> list[str]:
        """Return the ``xgrid -job batch`` command."""
        grid = ["-gid", self.options["queue"]] if self.options["queue"] else []
        return [*self.options.submit, *self._where, "-job", "batch", *grid, str(script)]

    def read_job(self, answer: Answer) -> str:
        """Return the id, from ``{ jobIdentifier = 17; }``."""
        found = _pairs(answer.out).get("jobIdentifier", "")
        if not found.isdigit():
            raise ValueError(f"it did not say which job it submitted: {answer.complaint}")
        return found

    def ask(self, job: str) -> list[str]:
        """Return the ``xgrid -job attributes`` command."""
        return [*self.options.query, *self._where, "-job", "attributes", "-id", job]

    def read_one(self, job: str, code: int, text: str) -> JobState | None:
        """Return the state that ``xgrid -job attributes`` tells."""
        pairs = _pairs(text)
        if pairs.get("error") == "InvalidJobIdentifier":
            return None
        status = pairs.get("jobStatus", "")
        if not status:
            raise QueryFailed(pairs.get("error", "") or Answer(code, text).complaint)
        if status == "Running":
            return JobState("running")
        if status == "Finished":
            return JobState.exited(0)
        if status in _ENDED:
            why = pairs.get("error", "")
            return JobState("ended", f"{_ENDED[status]}: {why}" if why else _ENDED[status], 1)
        return JobState("pending", "" if status == "Pending" else status.lower())

    def cancel(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return the ``xgrid -job stop`` commands."""
        return self._each("stop", jobs)

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return the ``xgrid -job delete`` commands."""
        return self._each("delete", jobs)

    def _each(self, verb: str, jobs: Sequence[str]) -> list[list[str]]:
        ours = [*self.options.cancel, *self._where]
        return [[*ours, "-job", verb, "-id", job] for job in jobs]

    @property
    def _where(self) -> list[str]:
        host = ["-h", self.options["host"]] if self.options["host"] else []
        return [*host, *(["-auth", self.options["auth"]] if self.options["auth"] else [])]


def _pairs(text: str) -> dict[str, str]:
    """Return the names and values of a property list in its old form, of all its levels."""
    return {name: quoted or plain.strip() for name, quoted, plain in _PAIR.findall(text)}


@implementer(ILauncher)
@provider(ILauncherClass)
class XgridControllerLauncher(DescribedController):
    """A controller as a job of Xgrid."""

    system_class: ClassVar[type[BatchSystem]] = Xgrid
    SPEC: ClassVar[str] = specification(Xgrid.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class XgridHostLauncher(DescribedHost):
    """A host daemon, with its engines, as a job of Xgrid."""

    system_class: ClassVar[type[BatchSystem]] = Xgrid
    SPEC: ClassVar[str] = specification(Xgrid.option_list)
