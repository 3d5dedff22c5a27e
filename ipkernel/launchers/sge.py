"""Launch through Grid Engine: ``qsub``, ``qstat``, ``qacct`` and ``qdel``.

Grid Engine has many descendants; what is used here is common to Sun's 6.2, Son of Grid Engine, Univa's
and Altair's.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final
from xml.etree import ElementTree

from zope.interface import implementer, provider

from ipkernel.launchers.batch import BatchControllerLauncher, BatchHostLauncher
from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

#: A line of ``qacct -j``: a name, and the rest.
_ACCOUNT: Final = re.compile(
    r"^(exit_status|failed|ru_wallclock)[ \t]+(\d+)[ \t]*:?[ \t]*(.*)$", re.MULTILINE
)
#: The walltime that a job has asked for, in seconds, in another such line.
_ASKED: Final = re.compile(r"^category[ \t].*\bh_rt=(\d+)", re.MULTILINE)
#: What ``failed`` is when a job was ended because of a limit, or by its owner.
_KILLED: Final = "100"
#: What it is when a job was ended because of a limit of its own.
_LIMIT: Final = "37"


class GridEngine(BatchSystem):
    """How to talk to Grid Engine; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "sge"
    title: ClassVar[str] = "Grid Engine"
    job_variable: ClassVar[str] = "$JOB_ID"
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("qsub", "qstat", "qdel"),
        Option(
            "parallel_environment",
            "string",
            "smp",
            "The parallel environment that gives a job several slots of one host; empty: none.",
        ),
        Option("history", "string", "qacct", "The command that knows jobs that left the queue."),
    )

    def directives(self, job: Job) -> list[str]:
        """Return ``#$`` lines."""
        options = job.options
        environment = options["parallel_environment"]
        several = job.cpus > 1 and environment
        chosen = [
            ("N", shlex.quote(job.name)),
            ("S", "/bin/sh"),
            ("r", "n"),
            ("pe", f"{shlex.quote(environment)} {job.cpus}" if several else ""),
            ("q", shlex.quote(options["queue"]) if options["queue"] else ""),
            ("P", shlex.quote(options["account"]) if options["account"] else ""),
            ("l", f"h_rt={options['walltime']}" if options["walltime"] else ""),
        ]
        lines = [f"-{name} {value}" for name, value in chosen if value]
        lines += [line.removeprefix("#$").strip() for line in options["extra"]]
        return [f"#$ {line}" for line in lines]

    def submit(self, script: Path) -> list[str]:
        """Return the command that submits a script and tells nothing but the job's id."""
        files = JobFiles.of_script(script)
        where = ["-o", str(files.output), "-e", str(files.error)]
        return [*self.options.submit, "-terse", *where, str(script)]

    def read_job(self, answer: Answer) -> str:
        """Return the id; warnings may stand before it."""
        number = super().read_job(answer).partition(".")[0]
        if not number.isdigit():
            raise ValueError(f"it did not say which job it submitted: {answer.complaint}")
        return number

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the ``qstat`` command: all of this user's jobs, as XML."""
        return [*self.options.query, "-u", getpass.getuser(), "-xml"]

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states of jobs that ``qstat -xml`` lists."""
        if answer.code:
            raise QueryFailed(answer.complaint)
        try:
            root = ElementTree.fromstring(answer.out)  # noqa: S314 - the batch system is trusted
        except ElementTree.ParseError as error:
            raise QueryFailed(f"its answer is no XML ({error}): {answer.complaint}") from None
        states = {}
        for one in root.iter("job_list"):
            number = one.findtext("JB_job_number", "")
            if number in jobs:
                states[number] = _state(one.findtext("state", ""), one.findtext("queue_name", ""))
        return states

    def history(self, job: str) -> list[str]:
        """Return the ``qacct`` command."""
        command = shlex.split(self.options["history"])
        return [*command, "-j", job] if command else []

    def read_history(self, job: str, answer: Answer) -> JobState | None:
        """Return how a job has ended by ``qacct``."""
        found = {name: (number, text) for name, number, text in _ACCOUNT.findall(answer.out)}
        if answer.code or "exit_status" not in found:
            return None
        code = int(found["exit_status"][0])
        failed, why = found.get("failed", ("0", ""))
        if failed in (_KILLED, _LIMIT):
            asked = _ASKED.findall(answer.out)
            limit = int(asked[-1]) if asked else self.options.walltime
            if 0 < limit <= int(found.get("ru_wallclock", ("0", ""))[0]):
                return JobState(
                    "ended", "ran out of walltime", JobState.exited(code or 1).exit_code
                )
        if failed not in ("0", _KILLED):
            told = f"failed: {why}" if why else f"failed ({failed})"
            return JobState("ended", told, JobState.exited(code or 1).exit_code)
        return JobState.exited(code)


def _state(letters: str, queue: str) -> JobState:
    """Return the state that the letters of ``qstat`` mean.

    Args:
        letters: Such as ``"qw"``; several may stand together.
        queue: The queue instance in which it runs, such as ``"all.q@alpha"``.
    """
    if "E" in letters:
        return JobState("pending", "in error: 'qstat -j' says why; 'qmod -cj' lets it try again")
    if "h" in letters:
        return JobState("pending", "held back")
    if "r" in letters or "t" in letters:
        return JobState("running", queue)
    if "d" in letters:
        return JobState("running", f"{queue} (being deleted)".strip())
    if "s" in letters.lower() or "T" in letters:
        return JobState("running", f"{queue} (suspended)".strip())
    return JobState("pending")


@implementer(ILauncher)
@provider(ILauncherClass)
class GridEngineControllerLauncher(BatchControllerLauncher):
    """A controller as a job of Grid Engine."""

    system_class: ClassVar[type[BatchSystem]] = GridEngine
    SPEC: ClassVar[str] = specification(GridEngine.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class GridEngineHostLauncher(BatchHostLauncher):
    """A host daemon, with its engines, as a job of Grid Engine."""

    system_class: ClassVar[type[BatchSystem]] = GridEngine
    SPEC: ClassVar[str] = specification(GridEngine.option_list)
