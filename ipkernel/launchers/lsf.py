"""Launch through IBM Spectrum LSF: ``bsub``, ``bjobs`` and ``bkill``.

The commands, their options and their answers are those of the LSF command reference, version 10.1.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.launchers.batch import BatchControllerLauncher, BatchHostLauncher
from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

_SUBMITTED: Final = re.compile(r"Job <(\d+)> is submitted")
#: What ``bjobs -o`` is asked for, in this order.
_FIELDS: Final = "jobid stat exit_code exec_host exit_reason pend_reason delimiter='|'"
_PENDING: Final = {
    "PEND": "",
    "PSUSP": "held back",
    "WAIT": "waits for its array",
}
_RUNNING: Final = {
    "RUN": "",
    "USUSP": "suspended by its owner or an administrator",
    "SSUSP": "suspended by LSF",
    "UNKWN": "its host does not answer",
    "PROV": "its host is being prepared",
}
#: How jobs end that are not ended by themselves, by the name of the reason.
_REASONS: Final = {
    "TERM_RUNLIMIT": "ran out of walltime",
    "TERM_MEMLIMIT": "ran out of memory",
    "TERM_OWNER": "was cancelled",
    "TERM_ADMIN": "was cancelled by an administrator",
    "TERM_FORCE_OWNER": "was cancelled",
    "TERM_FORCE_ADMIN": "was cancelled by an administrator",
    "TERM_PREEMPT": "was preempted by another job",
    "TERM_DEADLINE": "ran into its deadline",
    "TERM_CPULIMIT": "used more processor time than it may",
    "TERM_PROCESSLIMIT": "had more processes than it may",
    "TERM_SWAP": "used more swap space than it may",
    "TERM_ZOMBIE": "lost its host",
    "TERM_UNKNOWN": "was ended, and LSF does not know why",
}


class LSF(BatchSystem):
    """How to talk to LSF; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "lsf"
    title: ClassVar[str] = "LSF"
    job_variable: ClassVar[str] = "$LSB_JOBID"
    option_list: ClassVar[tuple[Option, ...]] = common_options("bsub", "bjobs", "bkill")

    def directives(self, job: Job) -> list[str]:
        """Return ``#BSUB`` lines; all cores are on one host."""
        options = job.options
        minutes = -(-options.walltime // 60)
        chosen = [
            ("J", job.name),
            ("n", str(job.cpus)),
            ("R", "span[hosts=1]"),
            ("q", options["queue"]),
            ("P", options["account"]),
            ("W", f"{minutes // 60}:{minutes % 60:02}" if minutes else ""),
        ]
        lines = [f"-{name} {shlex.quote(value)}" for name, value in chosen if value]
        lines += [line.removeprefix("#BSUB").strip() for line in options["extra"]]
        return [f"#BSUB {line}" for line in lines]

    def submit(self, script: Path) -> list[str]:
        """Return a command that submits a script: LSF reads directives from its input only."""
        files = JobFiles.of_script(script)
        where = ["-o", str(files.output), "-e", str(files.error)]
        return ["/bin/sh", "-c", 'exec "$@" < "$0"', str(script), *self.options.submit, *where]

    def read_job(self, answer: Answer) -> str:
        """Return the id, from ``Job <123> is submitted to queue <normal>.``"""
        found = _SUBMITTED.search(answer.out)
        if found is None:
            raise ValueError(f"it did not say which job it submitted: {answer.complaint}")
        return found[1]

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the ``bjobs`` command; it knows jobs that have ended for about an hour."""
        return [*self.options.query, "-a", "-noheader", "-o", _FIELDS, *jobs]

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states that ``bjobs`` lists."""
        states = {}
        for line in answer.out.splitlines():
            fields = [field.strip() for field in line.split("|", 5)]
            if len(fields) == 6 and fields[0] in jobs:
                states[fields[0]] = _state(*fields[1:])
        complaints = [line for line in answer.err.splitlines() if line.strip()]
        if any("is not found" not in line for line in complaints):
            raise QueryFailed(answer.complaint)
        return states

    def stop(self, jobs: Sequence[str]) -> list[list[str]]:
        """Send SIGTERM, and leave the job the time to end."""
        return [[*self.options.cancel, "-s", "TERM", *jobs]]

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Send SIGKILL, then cancel what has not begun."""
        return [[*self.options.cancel, "-s", "KILL", *jobs], *self.cancel(jobs)]

    def signal(self, job: str, name: str) -> list[str]:
        """Return the ``bkill`` command that sends a signal."""
        return [*self.options.cancel, "-s", name.removeprefix("SIG"), job]


def _state(word: str, code: str, host: str, reason: str, pending: str) -> JobState:
    """Return a state from the fields of ``bjobs``, where ``-`` stands for nothing.

    Args:
        word: The state, such as ``"RUN"``.
        code: Exit code of the job.
        host: Where it runs.
        reason: Why it was ended, such as ``"TERM_RUNLIMIT: job killed after ..."``.
        pending: Why it is pending.
    """
    if word in _PENDING:
        return JobState("pending", _PENDING[word] or _said(pending).rstrip(";"))
    if word in _RUNNING:
        notes = f"({_RUNNING[word]})" if _RUNNING[word] else ""
        return JobState("running", f"{_said(host)} {notes}".strip())
    number = int(code) if code.isdigit() else 0
    why = _REASONS.get(_said(reason).partition(":")[0].strip(), "")
    if word == "DONE":
        return JobState.exited(0)
    if why:
        return JobState("ended", why, JobState.exited(number).exit_code or None)
    return JobState.exited(number or 1)


def _said(field: str) -> str:
    return "" if field == "-" else field


@implementer(ILauncher)
@provider(ILauncherClass)
class LSFControllerLauncher(BatchControllerLauncher):
    """A controller as a job of LSF."""

    system_class: ClassVar[type[BatchSystem]] = LSF
    SPEC: ClassVar[str] = specification(LSF.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class LSFHostLauncher(BatchHostLauncher):
    """A host daemon, with its engines, as a job of LSF."""

    system_class: ClassVar[type[BatchSystem]] = LSF
    SPEC: ClassVar[str] = specification(LSF.option_list)
