"""Launch through HTCondor: ``condor_submit``, ``condor_q``, ``condor_history``, ``condor_rm``.

A submit description is no shell script. So that a user sees and edits one file here as well, it
stands in comments of the script, ``#CONDOR name = value``, and goes to ``condor_submit`` by its
standard input. The commands are those of the HTCondor manual, version 10.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.errors import ConfigurationError
from ipkernel.launchers.batch import BatchControllerLauncher, BatchHostLauncher
from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

#: The job attributes that are asked for.
_ATTRIBUTES: Final = (
    "ClusterId,JobStatus,ExitBySignal,ExitCode,ExitSignal,RemoteHost,HoldReason,RemoveReason"
)
#: Values of JobStatus.
_IDLE: Final = 1
_RUNNING: Final = (2, 6)  # the second one is transferring output
_REMOVED: Final = 3
_COMPLETED: Final = 4
_HELD: Final = 5
_SUSPENDED: Final = 7
#: What means something else in a path of a submit description, and cannot always be quoted.
_SPECIAL: Final = re.compile(r"""['"\r\n]|\$+\(""")
#: Submits what stands in comments of a script. Its arguments: that script, the files for the job's
#: output and errors, and the command.
_SUBMIT: Final = """\
{ sed -n 's/^#CONDOR //p' "$0"
printf 'executable = /bin/sh\\narguments = "%s"\\n' "'$0'"
printf 'output = %s\\nerror = %s\\nqueue\\n' "$1" "$2"; } | { shift 2; exec "$@"; }
"""


class HTCondor(BatchSystem):
    """How to talk to HTCondor; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "htcondor"
    title: ClassVar[str] = "HTCondor"
    job_variable: ClassVar[str] = "$IPKERNEL_JOB"
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("condor_submit", "condor_q", "condor_rm"),
        Option(
            "history",
            "string",
            "condor_history",
            "The command that knows jobs that left the queue.",
        ),
    )

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        if self.options["queue"]:
            raise self.options.wrong(
                "queue", "HTCondor has no queues; say by 'extra' what a machine must have"
            )

    def directives(self, job: Job) -> list[str]:
        """Return ``#CONDOR`` lines: the submit description but for what to execute."""
        options = job.options
        chosen = [
            ("universe", "vanilla"),
            ("should_transfer_files", "NO"),
            ("transfer_executable", "False"),
            ("batch_name", job.name),
            ("stream_output", "True"),
            ("stream_error", "True"),
            ("request_cpus", str(job.cpus)),
            ("environment", '"IPKERNEL_JOB=$(ClusterId)"'),
            ("kill_sig", "SIGTERM"),
            ("accounting_group", options["account"]),
            ("allowed_execute_duration", str(options.walltime or "")),
        ]
        lines = [f"{name} = {value}" for name, value in chosen if value]
        lines += [line.removeprefix("#CONDOR").strip() for line in options["extra"]]
        return [f"#CONDOR {line}" for line in lines]

    def submit(self, script: Path) -> list[str]:
        """Return a command that submits the description in a script, which runs that script."""
        if _SPECIAL.search(str(script)):
            raise ConfigurationError(
                f"HTCondor cannot have jobs in {str(script.parent)!r}: use a cluster directory "
                f"without quotes, line ends and '$(' in its path"
            )
        job = JobFiles.of_script(script)
        files = [str(script), str(job.output), str(job.error)]
        return ["/bin/sh", "-c", _SUBMIT, *files, *self.options.submit, "-terse", "-"]

    def read_job(self, answer: Answer) -> str:
        """Return the id, from ``123.0 - 123.0``."""
        number = super().read_job(answer).partition(".")[0]
        if not number.isdigit():
            raise ValueError(f"it did not say which job it submitted: {answer.complaint}")
        return number

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the ``condor_q`` command."""
        return [*self.options.query, *jobs, *_asking()]

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states that ``condor_q`` tells."""
        if answer.code:
            raise QueryFailed(answer.complaint)
        try:
            return {str(ad["ClusterId"]): _state(ad) for ad in _read(answer.out)}
        except ValueError:
            raise QueryFailed(f"it did not answer in JSON: {answer.complaint}") from None

    def history(self, job: str) -> list[str]:
        """Return the ``condor_history`` command."""
        command = shlex.split(self.options["history"])
        return [*command, job, "-limit", "1", *_asking()] if command else []

    def read_history(self, job: str, answer: Answer) -> JobState | None:
        """Return how a job has ended by ``condor_history``."""
        try:
            found = [_state(ad) for ad in _read(answer.out) if str(ad["ClusterId"]) == job]
        except ValueError:
            return None
        return found[0] if found and found[0].phase == "ended" else None


def _asking() -> list[str]:
    return ["-json", "-attributes", _ATTRIBUTES]


def _read(text: str) -> list[dict[str, Any]]:
    """Return the attributes of each job; nothing at all stands for no jobs.

    Raises:
        ValueError: That is no list in JSON.
    """
    found = json.loads(text) if text.strip() else []
    if not isinstance(found, list):
        raise ValueError("no list")
    return [ad for ad in found if isinstance(ad, dict) and "ClusterId" in ad]


def _state(ad: dict[str, Any]) -> JobState:
    """Return the state that the attributes of a job tell."""
    status = ad.get("JobStatus")
    if status == _IDLE:
        return JobState("pending")
    if status == _HELD:
        why = ad.get("HoldReason")
        return JobState("pending", f"held: {why}" if why else "held")
    if status in _RUNNING:
        return JobState("running", str(ad.get("RemoteHost", "")))
    if status == _SUSPENDED:
        return JobState("running", f"{ad.get('RemoteHost', '')} (suspended)".strip())
    if status == _REMOVED:
        why = ad.get("RemoveReason")
        return JobState("ended", f"was cancelled: {why}" if why else "was cancelled")
    if status == _COMPLETED:
        if ad.get("ExitBySignal"):
            return JobState.exited(-int(ad.get("ExitSignal", 9)))
        return JobState.exited(int(ad.get("ExitCode", 1)))
    return JobState("pending", f"in state {status}")


@implementer(ILauncher)
@provider(ILauncherClass)
class HTCondorControllerLauncher(BatchControllerLauncher):
    """A controller as a job of HTCondor."""

    system_class: ClassVar[type[BatchSystem]] = HTCondor
    SPEC: ClassVar[str] = specification(HTCondor.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class HTCondorHostLauncher(BatchHostLauncher):
    """A host daemon, with its engines, as a job of HTCondor."""

    system_class: ClassVar[type[BatchSystem]] = HTCondor
    SPEC: ClassVar[str] = specification(HTCondor.option_list)
