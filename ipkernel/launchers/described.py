"""Jobs that are described by a document instead of a shell script: of HPC Pack and of Xgrid."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ipkernel.host.walltime import EARLY
from ipkernel.launchers import foreach
from ipkernel.launchers.batchlauncher import BatchLauncher
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.jobfiles import JobFiles
from ipkernel.launchers.jobrunner import JOB

__all__ = ["DescribedController", "DescribedHost", "DescribedLauncher", "DescribingSystem"]


class DescribingSystem(BatchSystem):
    """A batch system with documents for jobs, whose commands are for one job at a time.

    Attributes:
        job_variable: Environment variable with the job's id within the job; may be empty.
    """

    spools: ClassVar[bool] = True
    job_variable: ClassVar[str] = ""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        if self.options["setup"]:
            raise self.options.wrong("setup", f"jobs of {self.title} have no shell: leave it out")

    def describe(self, job: Job, words: list[str], files: JobFiles) -> str:
        """Return the document for a job.

        Args:
            job: The job.
            words: The command line in it.
            files: The job's files.
        """
        raise NotImplementedError

    def ask(self, job: str) -> list[str]:
        """Return the command that tells about one job."""
        raise NotImplementedError

    def read_one(self, job: str, code: int, text: str) -> JobState | None:
        """Return the state of a job from the answer to :meth:`ask`; None if there is no such job.

        Raises:
            QueryFailed: The system could not answer.
        """
        raise NotImplementedError

    def query(self, jobs: Sequence[str]) -> list[str]:
        """Return a command that asks about each of the jobs."""
        return foreach.command(jobs, self.ask(JOB))

    def read_states(self, jobs: Sequence[str], answer: Answer) -> dict[str, JobState]:
        """Return the states of the jobs that there are."""
        if answer.code:
            raise QueryFailed(answer.complaint)
        answers = foreach.answers(answer.out)
        found = {job: self.read_one(job, code, text) for job, code, text in answers}
        return {job: state for job, state in found.items() if state is not None}


class DescribedLauncher(BatchLauncher):
    """One of ipkernel's programs as a job that a document describes."""

    system: DescribingSystem

    def words(self, job: Job) -> list[str]:
        """Return the program's command line."""
        raise NotImplementedError

    def script(self) -> str:
        """Return the document. There is no value of an environment variable in it."""
        job = self.describe_job()
        files, system = self.files, self.system
        where = ["--environment", str(files.environment)]
        where += ["--output", str(files.output), "--error", str(files.error)]
        where += ["--job-variable", system.job_variable] if system.job_variable else []
        python = str(system.options["python"])
        runner = [python, "-P", "-m", "ipkernel.launchers.jobrunner", *where, "--"]
        return system.describe(job, [*runner, *self.words(job)], files)

    def preview(self) -> str:
        """Return the document and, after it, how it would be submitted."""
        command = shlex.join(self.system.submit(self.files.script))
        return f"{self.script().rstrip()}\n<!-- submitted by: {command} -->\n"


class DescribedController(DescribedLauncher):
    """A controller in a job."""

    name = "ipcontroller"
    module = "ipkernel.cli.ipcontroller"

    def words(self, job: Job) -> list[str]:
        """Return the command line of a controller that other hosts reach."""
        arguments = list(self.arguments)
        if "--interface" not in arguments:
            arguments += ["--interface", "0.0.0.0"]  # noqa: S104 - that is what it is for
        return [*self.python, *arguments]


class DescribedHost(DescribedLauncher):
    """A host daemon, with its engines, in a job."""

    name = "ipdaemon"
    module = "ipkernel.cli.ipdaemon"

    def words(self, job: Job) -> list[str]:
        """Return the command line of a host daemon that knows its walltime."""
        options = self.system.options
        words = [*self.python, *self.arguments]
        if options.walltime:
            words += ["--walltime", str(options.walltime - min(EARLY, options.walltime // 10))]
            words += ["--drain-margin", f"{options['drain_margin']:g}"]
        where = f" {JOB}" if self.system.job_variable else ""
        return [*words, "--label", f"{self.system.section} job{where}"]
