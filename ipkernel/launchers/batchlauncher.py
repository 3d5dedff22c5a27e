"""One program as a job of a batch system: it waits in a queue, then runs on a node.

A job's script is made from a template, the user's or ipkernel's own. What the program tells, its
events and its errors, goes to files in the cluster's log directory, which the nodes share with
this host. Environment variables come from a file of their own, for their owner only: neither a
command line nor the script, which batch systems show to others, has a value.
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers.base import Launcher, tail
from ipkernel.launchers.batchsystem import BatchSystem, Job, JobState
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.jobfiles import JobFiles, check_environment
from ipkernel.launchers.jobqueue import Wish, queue_of, why_not
from ipkernel.launchers.jobscript import exit_code, prepare, reporting
from ipkernel.launchers.local import child_environment
from ipkernel.launchers.template import Template

#: Seconds for which the batch system may call a job running whose script has ended.
_LAG: Final = 3.0
#: How many lines of a job's output may be events.
_MOST_EVENTS: Final = 1000
#: Variables of this process that a job needs as well.
_INHERITED: Final = ("PYTHONPATH", "IPKERNEL_CLUSTER", "SPT_NOENV")


class BatchLauncher(Launcher):
    """One of ipkernel's programs as a job of a batch system.

    Its arguments are those of :class:`~ipkernel.launchers.base.Launcher`. It cannot end with this
    process as a child does: a host daemon ends soon after its controller, and a controller when it
    is told to or when its walltime is over.

    Attributes:
        system_class: The batch system.
        job: The job's id; empty before the start.
        job_state: Where it stands, as far as is known.
        submitted: When it was submitted, by the monotonic clock.
        submitted_at: The same, in seconds since the epoch.
        asked_to_end: Whether its end was asked for from here.
    """

    system_class: ClassVar[type[BatchSystem]]
    immediate: ClassVar[bool] = False
    #: No process of this host belongs to it.
    pid: Final = 0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        stem = f"{self.name}-{secrets.token_hex(4)}"
        self.files = JobFiles(self.directory, stem, self.system_class.suffix)
        self.job = ""
        self.job_state = JobState("pending")
        self.submitted = self.submitted_at = 0.0
        self.asked_to_end = False
        self.queue = queue_of(self.directory, self.system_class(self.options))
        self.system = self.queue.system
        self._read = 0
        self._left_over = b""
        self._code: int | None = None
        self._code_since = 0.0
        self._reading = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} job={self.job or None} {self.job_state.text}>"

    @classmethod
    def plan(cls, n: int | None, options: Mapping[str, Any]) -> list[Share]:
        """Split engines over jobs; see :class:`~ipkernel.launchers.interfaces.ILauncherClass`."""
        return cls.system_class(options).options.plan(n)

    @classmethod
    def from_record(
        cls, directory: ClusterDirectory, record: dict[str, Any], options: Mapping[str, Any]
    ) -> BatchLauncher:
        """Return a launcher for a job that another process has submitted.

        Raises:
            LauncherError: The record is not one of a job.
        """
        job, stem, n = record.get("job"), record.get("stem"), record.get("n", 0)
        since = record.get("submitted", 0.0)
        numbers = isinstance(n, int) and isinstance(since, int | float)
        if not isinstance(job, str) or not isinstance(stem, str) or not numbers:
            raise LauncherError(f"a record of a job needs its 'job' and 'stem': {record!r}")
        launcher = cls(directory, options=options, share=Share(n), lifeline=False)
        launcher.job, launcher.files = job, JobFiles(directory, stem, cls.system_class.suffix)
        launcher.system.variant = str(record.get("variant", ""))
        launcher.submitted_at = since
        launcher.submitted = launcher.queue.clock() - max(0.0, time.time() - since)
        launcher.queue.add(launcher)
        return launcher

    # -- what it is -----------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Where it runs, for messages: the batch system and the job."""
        return f"{self.system.section} job {self.job}" if self.job else self.system.section

    @property
    def started(self) -> bool:
        """Whether the job was submitted."""
        return bool(self.job)

    @property
    def running(self) -> bool:
        """Whether the job was submitted and has not ended; it may wait in the queue."""
        return self.started and self.job_state.phase != "ended"

    @property
    def exit_code(self) -> int | None:
        """How it ended, as subprocess has it; None before. What nobody knows counts as 1."""
        if not self.started or self.running:
            return None
        if self.asked_to_end:
            return 0
        return 1 if self.job_state.exit_code is None else self.job_state.exit_code

    @property
    def error_file(self) -> Path:
        """Where the job's standard error goes."""
        return self.files.error

    @property
    def log_file(self) -> Path:
        """What is shown of a job that has left no errors: what the batch system says."""
        return self.files.spooled

    def output(self, lines: int = 20) -> list[str]:
        """Return the last lines of its standard error or, if there are none, of its output.

        Events, which are in its output as well, are left out.
        """
        said = super().output(lines) or tail(self.files.output, _MOST_EVENTS + lines)
        return [line for line in said if not line.startswith('{"event": ')][-lines:]

    @property
    def template_file(self) -> Path:
        """Where a template of the user's is looked for."""
        return self.directory.path / f"{self.system.section}.template"

    def how_ended(self) -> str:
        """Say how it ended, such as ``"exited with code 1"``."""
        return self.job_state.detail or "has left the queue, and nobody knows why"

    def state(self) -> str:
        """Say where the job stands, from the queue; asks for all jobs of the cluster at once."""
        if not self.started:
            return "not started"
        if self.running:
            self.queue.refresh(age=1.0)
        if self.running and self.queue.trouble:
            return f"{self.job_state.text}; {self.queue.trouble}"
        return self.job_state.text

    def record(self) -> dict[str, Any]:
        """Return what :meth:`from_record` needs."""
        known = {"job": self.job, "stem": self.files.stem, "n": self.share.n}
        return {**known, "variant": self.system.variant, "submitted": self.submitted_at}

    # -- the script -----------------------------------------------------------------------

    def program(self, job: Job) -> str:
        """Return the shell text that runs the program on one node of a job."""
        raise NotImplementedError

    @property
    def python(self) -> list[str]:
        """The beginning of the program's command line."""
        return [self.system.options["python"], "-P", "-m", self.module]

    def describe_job(self) -> Job:
        """Return the job to be."""
        options = self.system.options
        nodes = max(1, min(options.nodes, self.share.n))
        return Job(self.name, self.share.n, nodes, self.files.output, self.files.error, options)

    def script(self) -> str:
        """Return the job's script. There is no value of an environment variable in it.

        Raises:
            ConfigurationError: The template, or an option, is not right.
        """
        self._learn()
        system, job = self.system, self.describe_job()
        template = Template.find(self.template_file, system.template, system.title)
        return template.render(self._values(job), system.required)

    def _learn(self) -> None:
        """Let the batch system find out which one it is."""
        command = self.system.probe()
        if not command:
            return
        try:
            self.system.learn(self.queue.run(command))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _no_answer(
                f"cannot ask {self.system.title}", command[0], "query", self.system, error
            ) from None

    def _values(self, job: Job) -> dict[str, str]:
        options = self.system.options
        command = self.system.command(job, self.program(job))
        return {
            "directives": "\n".join(self.system.directives(job)),
            "environment": prepare(self.files, self.environment(), self.system.spools),
            "setup": "\n".join(options["setup"]),
            "command": reporting(command),
            "program": self.name,
            "python": options["python"],
            "job_name": job.name,
            "queue": options["queue"],
            "account": options["account"],
            "walltime": options["walltime"],
            "n": str(job.n),
            "nodes": str(job.nodes),
            "cpus": str(job.cpus),
            "output_file": str(job.output),
            "error_file": str(job.error),
            "cluster": self.directory.name,
            "cluster_dir": str(self.directory),
            "log_dir": str(self.directory.log),
        }  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the job's script sets.

        Raises:
            ConfigurationError: A name cannot be that of a variable.
        """
        ours = child_environment(self.directory, {})
        chosen = {name: ours[name] for name in _INHERITED if name in ours} | self._environment
        check_environment(chosen)
        return chosen

    def preview(self) -> str:
        """Return the script and, as a comment after it, how it would be submitted."""
        command = shlex.join(self.system.submit(self.files.script))
        return f"{self.script().rstrip()}\n\n# submitted by: {command}\n"

    # -- its life -------------------------------------------------------------------------

    def start(self) -> None:
        """Submit the job; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        if self.started:
            raise LauncherError(f"{self.name} was started already, as {self.label}")
        self.files.write(self.script(), self.environment())
        command = self.system.submit(self.files.script)
        what = f"cannot submit a job with {self.name} to {self.system.title}"
        try:
            answer = self.queue.run(command, self.system.submit_environment(os.environ))
            if answer.code:
                raise LauncherError(f"{what}: {answer.complaint}")
            self.job = self.system.read_job(answer)
        except (LauncherError, OSError, subprocess.TimeoutExpired, ValueError) as error:
            self.files.remove_script()
            raise _no_answer(what, command[0], "submit", self.system, error) from None
        self.submitted, self.submitted_at = self.queue.clock(), time.time()
        self.tell({"event": "submitted", "job": self.job})
        self.queue.watch(self)

    def read_output(self) -> bool:
        """Take what is new in the job's output; return whether its state must be another now."""
        with self._reading:
            try:
                with self.files.output.open("rb") as file:
                    file.seek(self._read)
                    data = file.read()
            except OSError:  # not there yet, or not to be seen from this host
                data = b""
            self._read += len(data)
            *lines, self._left_over = (self._left_over + data).split(b"\n")
        for line in lines:
            if (code := exit_code(line)) is None:
                self.tell_line(line)
            else:
                self._code, self._code_since = code, self.queue.clock()
        return self._code is not None or (bool(data) and self.job_state.phase == "pending")

    def take_state(self, state: JobState) -> None:
        """Take what the batch system, or else the job's own output, says about the job."""
        if state.phase == "pending":
            self._code = None  # of an earlier attempt: the job waits for another one
        if self._code is not None:
            state = self._with_code(state, JobState.exited(self._code))
        with self._changed:
            before = self.job_state
            if before.phase == "ended" or state == before:
                return
            if state.phase == "ended":
                self._remove_files(state)
            self.job_state = state
            self._changed.notify_all()
        if state.text != before.text:
            self.tell({"event": "state", "text": state.text})
        if state.phase == "ended":
            self.tell_end()

    def _with_code(self, state: JobState, own: JobState) -> JobState:
        """Return what is true if the script has ended by itself, and the batch system says so."""
        if state.phase == "ended":
            return state if state.detail or state.exit_code is not None else own
        late = self.queue.clock() - self._code_since > _LAG
        return own if late or state.phase == "ending" else state

    def _remove_files(self, state: JobState) -> None:
        """Keep of an ended job what tells why it failed."""
        self.files.remove_script()
        if self.asked_to_end or state.exit_code == 0:
            self.files.remove_output(also_errors=self.asked_to_end)

    def request_stop(self) -> None:
        """Let the program end in good order; a job that still waits is cancelled."""
        self._wish("stop")

    def terminate(self) -> None:
        """Cancel the job."""
        self._wish("cancel")

    def kill(self) -> None:
        """Have the job ended at once, as far as the batch system does that."""
        self._wish("kill")

    def _wish(self, wish: Wish) -> None:
        if self.running:
            self.asked_to_end = True
            self.queue.wish(wish, self)

    def wait(self, timeout: float) -> bool:
        """Wait until the job has left the nodes, at most ``timeout`` seconds."""
        if not self.running:
            return True
        self.queue.watch(self)
        deadline = time.monotonic() + timeout
        with self._changed:
            while self.running and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        return not self.running

    def signal(self, name: str) -> None:
        """Send the program a signal by name, such as ``"SIGTERM"``.

        Raises:
            LauncherError: The batch system cannot do that.
        """
        if not self.running:
            return
        command = self.system.signal(self.job, name)
        if not command:
            raise LauncherError(f"{self.system.title} cannot send signals to jobs")
        try:
            answer = self.queue.run(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            why = why_not(command[0], error)
            raise LauncherError(f"cannot send {name} to {self.label}: {why}") from None
        if answer.code:
            raise LauncherError(f"cannot send {name} to {self.label}: {answer.complaint}")

    def close(self) -> None:
        """Let go of the job; one that was to end with this process, and has not, is cancelled."""
        if self.lifeline and self.running:
            self.asked_to_end = True
            self.queue.fulfil([("cancel", self)])
        self.release()

    def release(self) -> None:
        """Let go of the job: it goes on, and is no longer watched."""
        self.queue.unwatch(self)
        self.queue.join(1.0)


def _no_answer(
    what: str, command: str, option: str, system: BatchSystem, error: Exception
) -> LauncherError:
    if isinstance(error, LauncherError):
        return error
    if isinstance(error, FileNotFoundError):
        return LauncherError(
            f"{what}: {why_not(command, error)}; start from one that submits jobs, or name the "
            f"command by option {option!r} in section [{system.section}]"
        )
    if isinstance(error, ValueError):
        return LauncherError(f"{what}: {command}: {error}")
    return LauncherError(f"{what}: {why_not(command, error)}")
