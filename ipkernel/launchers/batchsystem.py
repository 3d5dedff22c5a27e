"""What a batch system is to a launcher: commands to run, and how to read their answers.

Pure: nothing here runs a command or looks at a clock.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from attrs import frozen

from ipkernel.cluster import processes
from ipkernel.launchers.batchoptions import BatchOptions, Option

#: The script of a job in systems whose options stand in comments.
SCRIPT: Final = """\
#!/bin/sh
@{directives}
@{environment}
@{setup}
@{command}
"""


@frozen
class Answer:
    """What a command has said.

    Attributes:
        code: Its exit code.
        out: Its standard output.
        err: Its standard error.
    """

    code: int
    out: str
    err: str = ""

    @property
    def complaint(self) -> str:
        """What it said is wrong, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(lines[-3:]) or f"it {processes.describe_exit(self.code)}"


class QueryFailed(Exception):
    """The batch system could not be asked for the states of jobs; the text says why."""


@frozen
class JobState:
    """Where a job stands.

    Attributes:
        phase: What that means for us. When a job is ending, its script has ended, or was told to,
            and the batch system is not done with it.
        detail: More about it: why it is pending, where it runs, how it ended.
        exit_code: How it ended, as :mod:`subprocess` has it; None if that is not known.
    """

    phase: Literal["pending", "running", "ending", "ended"]
    detail: str = ""
    exit_code: int | None = None

    @property
    def text(self) -> str:
        """Say it in a few words."""
        if self.phase == "ended":
            return f"ended: {self.detail}" if self.detail else "ended"
        if self.phase == "running":
            return f"running on {self.detail}" if self.detail else "running"
        return f"{self.phase} ({self.detail})" if self.detail else self.phase

    @classmethod
    def exited(cls, code: int, why: str = "") -> JobState:
        """Return the state of a job whose script has ended.

        Args:
            code: Exit code as shells have it, more than 128 for signals, or negative for them.
            why: What is known about it beyond the code.
        """
        if 128 < code <= 128 + signal.NSIG:
            code = 128 - code
        return cls("ended", why or processes.describe_exit(code), code)


@frozen
class Job:
    """A job to be.

    Attributes:
        program: The program in it.
        n: How many engines it has; 0 for a controller.
        nodes: How many nodes.
        output: File for its standard output.
        error: File for its standard error.
        options: Values of the section.
    """

    program: str
    n: int
    nodes: int
    output: Path
    error: Path
    options: BatchOptions

    @property
    def name(self) -> str:
        """What it is called in the queue."""
        return str(self.options["job_name"] or self.program)

    @property
    def cpus(self) -> int:
        """How many cores it needs on each node."""
        each = -(-self.n // self.nodes)
        return max(1, each) * int(self.options["cpus_per_engine"])


class BatchSystem:
    """A batch system; one small subclass for each.

    Args:
        given: Values of the section of the configuration.

    Attributes:
        variant: Which of the systems it is that share these commands, if that has been found out.
        section: Its name in the configuration.
        title: Its name in messages.
        job_variable: Shell expression for the job's id within the job.
        rank_variable: Name of the shell variable with the number, from 0, of a node of a job with
            several; empty if the system's launcher has none with several.
        time_left: Shell expression for the time that is left to the job, as ``MM:SS`` with hours and
            days before it if need be; empty if a job cannot ask for it.
        template: Text of the built-in template.
        required: Placeholders that a template must have.
        spools: Whether it delivers a job's output only at the job's end; then scripts write their
            output themselves, and the system's is ``JobFiles.spooled``.
        suffix: What the names of scripts end with.
        option_list: The options of its section.
    """

    section: ClassVar[str]
    title: ClassVar[str]
    job_variable: ClassVar[str]
    rank_variable: ClassVar[str] = ""
    time_left: ClassVar[str] = ""
    template: ClassVar[str] = SCRIPT
    required: ClassVar[tuple[str, ...]] = ("environment", "command")
    spools: ClassVar[bool] = False
    suffix: ClassVar[str] = ".sh"
    option_list: ClassVar[tuple[Option, ...]]

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.options = BatchOptions.read(self.section, self.option_list, given)
        self.variant = ""

    # -- submitting -----------------------------------------------------------------------

    def probe(self) -> list[str]:
        """Return a command whose answer :meth:`learn` needs before scripts are made; or nothing."""
        return []

    def learn(self, answer: Answer) -> None:
        """Set :attr:`variant` from the answer to :meth:`probe`.

        Raises:
            ipkernel.errors.ConfigurationError: It does not help.
        """

    def directives(self, job: Job) -> list[str]:
        """Return the lines that tell the system what the job needs, ``extra`` among them."""
        raise NotImplementedError

    def command(self, job: Job, program: str) -> str:
        """Return the shell command that runs the program on each of the job's nodes.

        Args:
            job: The job.
            program: Shell text that runs it on one node.
        """
        return program

    def engines_here(self, job: Job) -> str:
        """Return the shell text for the number of engines on one of several nodes."""
        return f'"$((({job.n + job.nodes - 1} - {self.rank_variable}) / {job.nodes}))"'

    def submit(self, script: Path) -> list[str]:
        """Return the command that submits a script."""
        return [*self.options.submit, str(script)]

    def submit_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment in which to submit, from that of this process."""
        return dict(environment)

    def read_job(self, answer: Answer) -> str:
        """Return the id of the job that was submitted.

        Raises:
            ValueError: The answer has none.
        """
        words = answer.out.split()
        if not words:
            raise ValueError("it said nothing")
        return words[-1]

    # -- watching -------------------------------------------------------------------------

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return the command that tells the states of jobs."""
        raise NotImplementedError

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states of the jobs that the answer of :meth:`query` knows.

        A job that is missing has left the queue. An answer that is an error only because jobs
        have left it is none here.

        Raises:
            QueryFailed: The system could not answer.
        """
        raise NotImplementedError

    def history(self, job: str) -> list[str]:
        """Return a command that tells how a job that left the queue has ended; may be empty."""
        return []

    def read_history(self, job: str, answer: Answer) -> JobState | None:
        """Return how a job has ended, from the answer of :meth:`history`; None if unknown."""
        return None

    # -- ending ---------------------------------------------------------------------------

    def stop(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return commands that let running jobs end in good order."""
        return self.cancel(jobs)

    def cancel(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return commands that end jobs, pending or running."""
        return [[*self.options.cancel, *jobs]]

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return commands that end jobs at once."""
        return self.cancel(jobs)

    def signal(self, job: str, name: str) -> list[str]:
        """Return a command that sends a signal to a job's processes; empty if there is none.

        Args:
            job: Its id.
            name: Such as ``"SIGINT"``.
        """
        return []
