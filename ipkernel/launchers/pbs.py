"""Launch through PBS: ``qsub``, ``qstat`` and ``qdel`` of PBS Pro (or OpenPBS) and of Torque."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.launchers.batch import BatchControllerLauncher, BatchHostLauncher
from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

_HEAD: Final = re.compile(r"Job Id:\s*(\S+)")
_ATTRIBUTE: Final = re.compile(r"\s+([\w.]+) = (.*)")
#: What ``qstat`` says of jobs that have left the queue; no other complaint is harmless.
_GONE: Final = re.compile(r"Unknown Job Id|Job has finished|Invalid job id", re.IGNORECASE)
_WAITING: Final = {
    "H": "held",
    "Q": "",
    "T": "moves to another server or node",
    "W": "waits for its time",
}
#: Exit codes that are the system's own, not the script's.
_TORQUE_CODES: Final = {
    -10: "ran out of memory",
    -11: "ran out of walltime",
    -12: "ran out of processor time",
}
_PRO_CODES: Final = {
    -24: "used more cores than it had asked for",
    -25: "used more cores than it had asked for",
    -26: "ran out of virtual memory",
    -27: "ran out of memory",
    -28: "ran out of processor time",
    -29: "ran out of walltime",
}


class PBS(BatchSystem):
    """How to talk to PBS; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`.

    Its variant is ``"pro"`` or ``"torque"``.
    """

    section: ClassVar[str] = "pbs"
    title: ClassVar[str] = "PBS"
    #: With the commands of Torque that Slurm brings, only its own variable is there.
    job_variable: ClassVar[str] = "${PBS_JOBID:-$SLURM_JOB_ID}"
    spools: ClassVar[bool] = True
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("qsub", "qstat", "qdel"),
        Option(
            "flavour", 'option("auto", "pro", "torque")', "auto",
            "Which PBS it is: pro (OpenPBS too) or torque; auto: find out by 'qstat --version'.",
        ),
        Option("qsig", "string", "qsig", "The command that sends a signal to a job."),
    )  # fmt: skip

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        chosen = self.options["flavour"]
        self.variant = "" if chosen == "auto" else str(chosen)

    def probe(self) -> list[str]:
        """Ask for the version, unless the flavour is known."""
        return [] if self.variant else [*self.options.query, "--version"]

    def learn(self, answer: Answer) -> None:
        """Find the flavour in ``pbs_version = 23.06.06`` or ``Version: 6.1.3``."""
        said = f"{answer.out}\n{answer.err}"
        if "pbs_version" in said:
            self.variant = "pro"
        elif "Version:" in said or "qstat [-f] [-a|-i|-r]" in said:  # the latter is Slurm's qstat
            self.variant = "torque"
        else:
            raise self.options.wrong(
                "flavour",
                f"'qstat --version' does not tell PBS Pro from Torque; write pro or torque "
                f"(it said: {answer.complaint})",
            )

    def directives(self, job: Job) -> list[str]:
        """Return ``#PBS`` lines; all cores are on one node."""
        options = job.options
        pro = f"select=1:ncpus={job.cpus}"
        chosen = [
            ("S", "/bin/sh"),
            ("N", job.name),
            ("l", pro if self.variant == "pro" else f"nodes=1:ppn={job.cpus}"),
            ("l", f"walltime={options['walltime']}" if options.walltime else ""),
            ("q", options["queue"]),
            ("A", options["account"]),
        ]
        lines = [f"-{name} {shlex.quote(value)}" for name, value in chosen if value]
        lines += [line.removeprefix("#PBS").strip() for line in options["extra"]]
        return [f"#PBS {line}" for line in lines]

    def submit(self, script: Path) -> list[str]:
        """Return the ``qsub`` command; what PBS collects itself comes at the job's end."""
        spooled = JobFiles.of_script(script).spooled
        return [*self.options.submit, "-j", "oe", "-o", str(spooled), str(script)]

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the ``qstat`` command; its long form is the same for all of them."""
        return [*self.options.query, "-f", *jobs]

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states that ``qstat -f`` lists."""
        complaints = [line for line in answer.err.splitlines() if line.strip()]
        if answer.code and not all(_GONE.search(line) for line in complaints):
            raise QueryFailed(answer.complaint)
        known = {number(job): job for job in jobs}
        found = parse_jobs(answer.out)
        return {
            known[number(job)]: self.state(attributes)
            for job, attributes in found.items()
            if number(job) in known
        }

    def history(self, job: str) -> list[str]:
        """Ask for jobs that have ended, which only PBS Pro can be."""
        return [*self.options.query, "-x", "-f", job] if self.variant == "pro" else []

    def read_history(self, job: str, answer: Answer) -> JobState | None:
        """Return how a job has ended by ``qstat -x -f``, if PBS keeps a history."""
        for attributes in parse_jobs(answer.out).values():
            state = self.state(attributes)
            return state if state.phase == "ended" else None
        return None

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Delete them, without the time to end that jobs otherwise have."""
        how = "force" if self.variant == "pro" else "0"
        return [*self.cancel(jobs), [*self.options.cancel, "-W", how, *jobs]]

    def signal(self, job: str, name: str) -> list[str]:
        """Return the ``qsig`` command that sends a signal."""
        return [*shlex.split(self.options["qsig"]), "-s", name, job]

    def state(self, attributes: Mapping[str, str]) -> JobState:
        """Return the state of a job from what ``qstat -f`` tells about it."""
        word = attributes.get("job_state", "")
        comment = attributes.get("comment", "")
        if word in _WAITING:
            reason = _WAITING[word] or comment.removeprefix("Not Running:").strip()
            return JobState("pending", reason)
        if word in ("C", "F", "X"):
            return self._ended(attributes)
        if word == "E":
            return JobState("ending")
        hosts = [part.partition("/")[0] for part in attributes.get("exec_host", "").split("+")]
        where = ", ".join(dict.fromkeys(filter(None, hosts)))
        return JobState("running", f"{where} (suspended)" if word in ("S", "U") else where)

    def _ended(self, attributes: Mapping[str, str]) -> JobState:
        try:
            code = int(attributes.get("exit_status", ""))
        except ValueError:  # it was deleted before it ran, or this PBS does not tell
            return JobState("ended")
        if code < 0:
            known = _PRO_CODES if self.variant == "pro" else _TORQUE_CODES
            return JobState("ended", known.get(code, f"could not be run by PBS (code {code})"), 1)
        if code > 256:  # a signal
            code = 256 - code
        used, limit = (
            _seconds(attributes.get(f"{name}.walltime", ""))
            for name in ("resources_used", "resource_list")
        )
        over = code < 0 and 0 < limit <= used
        return JobState.exited(code, "ran out of walltime" if over else "")


def number(job: str) -> str:
    """Return the number of a job: its id without the server, which may be abbreviated."""
    return job.partition(".")[0]


def parse_jobs(text: str) -> dict[str, dict[str, str]]:
    """Return the attributes of jobs, names in lower case, by id.

    Args:
        text: The output of ``qstat -f``, where long values go on in the next line.
    """
    jobs: dict[str, dict[str, str]] = {}
    attributes: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            attributes = jobs.setdefault(head[1], {})
            last = ""
        elif found := _ATTRIBUTE.fullmatch(line):
            last = found[1].lower()
            attributes[last] = found[2].strip()
        elif last and line.strip():
            attributes[last] += line.strip()
    return jobs


def _seconds(text: str) -> int:
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return 0
    hours, minutes, seconds = map(int, parts)
    return 3600 * hours + 60 * minutes + seconds


@implementer(ILauncher)
@provider(ILauncherClass)
class PBSControllerLauncher(BatchControllerLauncher):
    """A controller as a job of PBS."""

    system_class: ClassVar[type[BatchSystem]] = PBS
    SPEC: ClassVar[str] = specification(PBS.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class PBSHostLauncher(BatchHostLauncher):
    """A host daemon, with its engines, as a job of PBS."""

    system_class: ClassVar[type[BatchSystem]] = PBS
    SPEC: ClassVar[str] = specification(PBS.option_list)
