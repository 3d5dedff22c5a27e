"""Launch through Slurm: ``sbatch``, ``squeue`` and ``scancel``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.launchers.batch import BatchControllerLauncher, BatchHostLauncher
from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

#: How jobs end that are not ended by themselves.
_ENDED: Final = {
    "BOOT_FAIL": "could not begin: a node did not boot",
    "CANCELLED": "was cancelled",
    "DEADLINE": "ran into its deadline",
    "NODE_FAIL": "lost a node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted by another job",
    "REVOKED": "was moved to another cluster",
    "TIMEOUT": "ran out of walltime",
}
#: What waits, and why, if Slurm gives no reason.
_WAITING: Final = {
    "PENDING": "",
    "CONFIGURING": "its nodes are being prepared",
    "REQUEUED": "it was put back",
    "REQUEUE_FED": "it was put back",
    "REQUEUE_HOLD": "it was put back and is held",
}
_FIELDS: Final = "JobID:|,State:|,Reason:|,NodeList:|,exit_code:|"
#: Variables of Slurm that are about the system; others are about the job that we may be in.
_KEPT: Final = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class Slurm(BatchSystem):
    """How to talk to Slurm; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "slurm"
    title: ClassVar[str] = "Slurm"
    job_variable: ClassVar[str] = "$SLURM_JOB_ID"
    rank_variable: ClassVar[str] = "SLURM_PROCID"
    time_left: ClassVar[str] = "$(squeue -h -j $SLURM_JOB_ID -o %L 2>/dev/null)"
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("sbatch", "squeue", "scancel", nodes=True),
        Option("srun", "string", "srun", "The command that runs a program on each node of a job."),
        Option("history", "string", "sacct", "The command that knows jobs that left the queue."),
    )

    def directives(self, job: Job) -> list[str]:
        """Return ``#SBATCH`` lines."""
        options = job.options
        chosen = [
            ("job-name", job.name),
            ("nodes", str(job.nodes)),
            ("ntasks-per-node", "1"),
            ("cpus-per-task", str(job.cpus)),
            ("partition", options["queue"]),
            ("account", options["account"]),
            ("time", options["walltime"]),
        ]
        lines = [f"--{name}={shlex.quote(value)}" for name, value in chosen if value]
        lines += ["--exclusive"] if options.nodes and job.n else []
        lines += [line.removeprefix("#SBATCH").strip() for line in options["extra"]]
        return [f"#SBATCH {line}" for line in lines]

    def command(self, job: Job, program: str) -> str:
        """Run the program by ``srun`` if jobs have several nodes."""
        if not self._in_steps:
            return program
        srun = shlex.split(self.options["srun"])
        spread = [f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1"]
        inner = ["sh", "-c", f"exec {program}"]
        return shlex.join([*srun, *spread, f"--cpus-per-task={job.cpus}", *inner])

    def submit(self, script: Path) -> list[str]:
        """Return the command that submits a script and tells nothing but the job's id."""
        files = JobFiles.of_script(script)
        output, error = (str(path).replace("%", "%%") for path in (files.output, files.error))
        where = [f"--output={output}", f"--error={error}", "--open-mode=append"]
        return [*self.options.submit, "--parsable", *where, str(script)]

    def submit_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Leave out what describes the job in which this process itself may run."""
        return {
            name: value
            for name, value in environment.items()
            if name in _KEPT or not name.startswith("SLURM_")
        }

    def read_job(self, answer: Answer) -> str:
        """Return the id, which may come with the name of a cluster after it."""
        return super().read_job(answer).partition(";")[0]

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the ``squeue`` command; it knows jobs that have ended for some minutes."""
        which = f"--jobs={','.join(jobs)}"
        return [*self.options.query, "--noheader", "--states=all", which, f"--Format={_FIELDS}"]

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states that ``squeue`` lists."""
        if answer.code:
            if "Invalid job id" in answer.err:  # none of them is known any more
                return {}
            raise QueryFailed(answer.complaint)
        states = {}
        for line in answer.out.splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) >= 5:
                states[fields[0]] = _state(*fields[1:5])
        return states

    def history(self, job: str) -> list[str]:
        """Return the ``sacct`` command."""
        command = shlex.split(self.options["history"])
        choice = ["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode"]
        return [*command, *choice, f"--jobs={job}"] if command else []

    def read_history(self, job: str, answer: Answer) -> JobState | None:
        """Return how a job has ended by ``sacct``."""
        state, _, code = answer.out.strip().partition("|")
        if answer.code or not code:
            return None
        number, _, signal = code.partition(":")
        if not (number.isdigit() and signal.isdigit()):
            return None
        known = _state(state, "", "", str(int(number) << 8 | int(signal)))
        return known if known.phase == "ended" else None

    def stop(self, jobs: Sequence[str]) -> list[list[str]]:
        """Send SIGTERM, and leave the job the time to end."""
        return [[*self._signal("TERM"), *jobs]]

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Cancel them, and do not wait until they have obeyed.

        In this order: ``scancel`` would wait for long to send a signal to a job that is pending.
        """
        return [*self.cancel(jobs), [*self.options.cancel, "--signal=KILL", "--full", *jobs]]

    def signal(self, job: str, name: str) -> list[str]:
        """Return the ``scancel`` command that sends a signal."""
        return [*self._signal(name.removeprefix("SIG")), job]

    @property
    def _in_steps(self) -> bool:
        """Whether programs are run by ``srun``, in job steps."""
        return self.options.nodes > 1

    def _signal(self, name: str) -> list[str]:
        # srun must not get the signal as well: it would kill the programs.
        whole = [] if self._in_steps else ["--full"]
        return [*self.options.cancel, f"--signal={name}", *whole]


def _state(state: str, reason: str, nodes: str, status: str) -> JobState:
    """Return a state from the words of ``squeue``.

    Args:
        state: Such as ``"PENDING"``, perhaps with more after it.
        reason: Why it is pending.
        nodes: Where it runs.
        status: How it ended, as :func:`os.wait` tells it.
    """
    word = state.split()[0].rstrip("+") if state else ""
    if word in _WAITING:
        return JobState("pending", _WAITING[word] if reason in ("None", "N/A", "") else reason)
    number = int(status) if status.isdigit() else 0
    code = -(number & 0x7F) if number & 0x7F else number >> 8
    if word in _ENDED:
        return JobState("ended", _ENDED[word], code or None)
    if word in ("COMPLETED", "FAILED", "SPECIAL_EXIT"):
        return JobState.exited(code)
    if word == "COMPLETING":
        return JobState("ending")
    return JobState("running", f"{nodes} (suspended)" if word == "SUSPENDED" else nodes)


@implementer(ILauncher)
@provider(ILauncherClass)
class SlurmControllerLauncher(BatchControllerLauncher):
    """A controller as a job of Slurm."""

    system_class: ClassVar[type[BatchSystem]] = Slurm
    SPEC: ClassVar[str] = specification(Slurm.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class SlurmHostLauncher(BatchHostLauncher):
    """A host daemon, with its engines, on each node of a job of Slurm."""

    system_class: ClassVar[type[BatchSystem]] = Slurm
    SPEC: ClassVar[str] = specification(Slurm.option_list)
