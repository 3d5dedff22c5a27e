"""Launch through a batch system: the base of launchers for its controllers and host daemons."""

from __future__ import annotations

import shlex
from pathlib import Path

from ipkernel.host.walltime import EARLY
from ipkernel.launchers.batchlauncher import BatchLauncher
from ipkernel.launchers.batchsystem import Job
from ipkernel.launchers.jobscript import BEGAN


class BatchControllerLauncher(BatchLauncher):
    """A controller in a job."""

    name = "ipcontroller"
    module = "ipkernel.cli.ipcontroller"

    @property
    def template_file(self) -> Path:
        """Where a template of the user's is looked for."""
        return self.directory.path / f"{self.system.section}-controller.template"

    def program(self, job: Job) -> str:
        """Return the shell text that runs the controller, reachable from other hosts."""
        arguments = list(self.arguments)
        if "--interface" not in arguments:
            arguments += ["--interface", "0.0.0.0"]  # noqa: S104 - that is what it is for
        return shlex.join([*self.python, *arguments])


class BatchHostLauncher(BatchLauncher):
    """A host daemon with its engines on each node of a job."""

    name = "ipdaemon"
    module = "ipkernel.cli.ipdaemon"

    def program(self, job: Job) -> str:
        """Return the shell text that runs a host daemon on one node of a job."""
        words = [*map(shlex.quote, self.python), *self._arguments(job)]
        options = self.system.options
        if options.walltime:
            # The batch system began to count when nothing of the job's script had run yet.
            last = options.walltime - min(EARLY, options.walltime // 10)
            words += ["--walltime", f'"$(({last} - $(date +%s) + {BEGAN}))"']
        if self.system.time_left:
            words += ["--time-left", f'"{self.system.time_left}"']
        if options.walltime or self.system.time_left:
            words += ["--drain-margin", f"{options['drain_margin']:g}"]
        words += ["--label", f'"{self.system.section} job {self.system.job_variable}"']
        return " ".join(words)

    def _arguments(self, job: Job) -> list[str]:
        """Return the arguments, quoted; on several nodes the engines are shared out."""
        words = [shlex.quote(word) for word in self.arguments]
        if job.nodes > 1:
            for position, word in enumerate(self.arguments[:-1]):
                if word == "-n":
                    words[position + 1] = self.system.engines_here(job)
        return words
