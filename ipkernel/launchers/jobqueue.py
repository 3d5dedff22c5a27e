"""Watch the jobs of one cluster in a batch system: one thread, and one query for all of them."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers.batchsystem import Answer, BatchSystem, JobState, QueryFailed

logger = logging.getLogger(__name__)

#: Seconds that a command of a batch system may take, and one that ends jobs.
_PATIENCE: Final = 60.0
_ENDING_PATIENCE: Final = 10.0
#: Seconds between two looks at the output files of jobs: when something happens, and at most.
_TICK: Final = 0.25
_LONGEST_TICK: Final = 2.0
#: Seconds until the next query after something has happened; doubled when nothing has.
_SOON: Final = 0.5
#: Seconds in which a new job may be missing in the queue.
_SETTLING: Final = 15.0
#: Seconds in which the accounting may not know yet of a job that has left the queue: Grid Engine
#: writes down what has ended once in 15 seconds, unless a site has it otherwise.
_ACCOUNTING: Final = 30.0

_queues: weakref.WeakValueDictionary[tuple[ClusterDirectory, str, str], JobQueue] = (
    weakref.WeakValueDictionary()
)
_queues_lock: Final = threading.Lock()

Wish = Literal["stop", "cancel", "kill"]


class RunCommand(Protocol):
    """Runs a command of a batch system; see :func:`run_command`."""

    def __call__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        patience: float = _PATIENCE,
    ) -> Answer:
        """Run a command."""


class WatchedJob(Protocol):
    """A job as the queue sees it."""

    job: str
    job_state: JobState
    submitted: float
    asked_to_end: bool

    def read_output(self) -> bool:
        """Take what is new in the job's output; return whether its state must be another now."""

    def take_state(self, state: JobState) -> None:
        """Take a state that the batch system has told."""


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    patience: float = _PATIENCE,
) -> Answer:
    """Run a command of a batch system.

    Args:
        command: The command line.
        environment: Its environment; None for ours.
        patience: Seconds that it may take.

    Raises:
        OSError: It cannot be run.
        subprocess.TimeoutExpired: It did not end in time.
    """
    done = subprocess.run(
        [*command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=patience,
        env={**(os.environ if environment is None else environment), "LC_ALL": "C"},
        check=False,
    )
    out, err = (data.decode("utf-8", "replace") for data in (done.stdout, done.stderr))
    return Answer(done.returncode, out, err)


def why_not(command: str, error: Exception) -> str:
    """Say why a command has no answer.

    Args:
        command: The command.
        error: What :func:`run_command` has raised.
    """
    if isinstance(error, FileNotFoundError):
        return f"there is no command {command!r} on this host"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command} has not answered within {error.timeout:g} s"
    if isinstance(error, OSError):
        return f"{command} cannot be run: {error.strerror or error}"
    return f"{command} does not answer: {error}"


def begin_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Run something in a thread that does not keep the process alive."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class JobQueue:
    """The jobs of one cluster in one batch system.

    Args:
        system: The batch system.
        run: Runs a command.
        clock: Seconds.
        begin: Runs something in a thread of its own.
    """

    def __init__(
        self,
        system: BatchSystem,
        run: RunCommand = run_command,
        clock: Callable[[], float] = time.monotonic,
        begin: Callable[[Callable[[], None], str], threading.Thread | None] = begin_thread,
    ) -> None:
        self.system = system
        self.run = run
        self.clock = clock
        self._begin = begin
        self.trouble = ""
        self._known: weakref.WeakSet[WatchedJob] = weakref.WeakSet()
        self._watched: set[WatchedJob] = set()
        self._wishes: list[tuple[Wish, WatchedJob]] = []
        self._asking = threading.Lock()
        self._asked = -math.inf
        self._asked_for: weakref.WeakSet[WatchedJob] = weakref.WeakSet()
        self._seen: set[str] = set()
        self._missed: dict[str, float] = {}
        self._wake = threading.Condition()
        self._interval = _SOON
        self._next = 0.0
        self._thread: threading.Thread | None = None

    # -- called by launchers --------------------------------------------------------------

    def add(self, job: WatchedJob) -> None:
        """Have a job's state asked for whenever that of another one is."""
        with self._wake:
            self._known.add(job)

    def watch(self, job: WatchedJob) -> None:
        """Look after a job until it has ended, or :meth:`unwatch` is called."""
        self.add(job)
        with self._wake:
            self._watched.add(job)
            self._hurry()
            if self._thread is None:
                self._thread = self._begin(self._loop, f"queue-{self.system.section}")

    def unwatch(self, job: WatchedJob) -> None:
        """Let go of a job."""
        with self._wake:
            self._watched.discard(job)
            self._wake.notify_all()

    def wish(self, wish: Wish, job: WatchedJob) -> None:
        """Have a job ended, soon, with all others for which that is wished now."""
        with self._wake:
            self._wishes.append((wish, job))
        self.watch(job)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, if nothing is watched any more."""
        thread = self._thread
        if thread is not None and not self._watched and thread is not threading.current_thread():
            thread.join(timeout)

    def refresh(self, age: float = 0.0) -> None:
        """Ask for the states of all jobs, unless that was done within the last ``age`` seconds."""
        with self._asking:
            with self._wake:
                jobs = [job for job in self._known if job.job_state.phase != "ended"]
            recent = self.clock() - self._asked < age
            if recent and all(job in self._asked_for for job in jobs):
                return
            states = self._ask(sorted({job.job for job in jobs}))
            self._asked, self._asked_for = self.clock(), weakref.WeakSet(jobs)
        for job in jobs:
            if states is not None:
                self._pass_on(job, states.get(job.job))
            elif job.read_output():  # what its script tells of its end must do then
                began = job.job_state.phase != "pending"
                job.take_state(job.job_state if began else JobState("running"))

    # -- the thread -----------------------------------------------------------------------

    def _hurry(self) -> None:
        self._interval = _SOON
        self._next = min(self._next, self.clock() + _SOON)
        self._wake.notify_all()

    def _loop(self) -> None:
        while True:
            with self._wake:
                if not self._watched:
                    self._thread = None
                    return
                if not self._wishes:
                    self._wake.wait(min(max(_TICK, self._interval / 2), _LONGEST_TICK))
            try:
                self.turn()
            except Exception:  # or nobody would look after the jobs
                logger.exception("jobs of %s could not be looked after", self.system.title)

    def turn(self) -> None:
        """Look after the jobs once: end some, read their output, ask for their states."""
        with self._wake:
            jobs, wishes, self._wishes = list(self._watched), self._wishes, []
        self.fulfil(wishes)
        moved = [job for job in jobs if job.read_output()]
        if wishes or moved or self.clock() >= self._next:
            before = [job.job_state for job in jobs]
            self.refresh()
            changed = wishes or moved or before != [job.job_state for job in jobs]
            with self._wake:
                longest = float(self.system.options["poll"])
                self._interval = _SOON if changed else min(2 * self._interval, longest)
                self._next = self.clock() + self._interval
        with self._wake:
            self._watched -= {job for job in jobs if job.job_state.phase == "ended"}

    def fulfil(self, wishes: Sequence[tuple[Wish, WatchedJob]]) -> None:
        """Have jobs ended: one command for each degree of severity."""
        if any(wish == "stop" for wish, _ in wishes):  # what that means depends on the states
            self.refresh(age=1.0)
        wanted: dict[Wish, list[str]] = {}
        for wish, job in wishes:
            if job.job_state.phase == "ended":
                continue
            if wish == "stop" and job.job_state.phase == "pending":
                wish = "cancel"
            wanted.setdefault(wish, []).append(job.job)
        for wish, jobs in wanted.items():
            for command in getattr(self.system, wish)(jobs):
                try:
                    answer = self.run(command, patience=_ENDING_PATIENCE)
                except (OSError, subprocess.TimeoutExpired) as error:
                    why = why_not(command[0], error)
                    logger.warning("cannot end jobs of %s: %s", self.system.title, why)
                    continue
                if answer.code:  # most likely because a job has ended meanwhile
                    logger.info("%s: %s", command[0], answer.complaint)

    # -- states ---------------------------------------------------------------------------

    def _ask(self, jobs: Sequence[str]) -> Mapping[str, JobState] | None:
        """Return the states of jobs; None if the batch system cannot tell."""
        if not jobs:
            return {}
        command = self.system.query(jobs)
        try:
            states = self.system.read_states(jobs, self.run(command))
        except (OSError, subprocess.TimeoutExpired, QueryFailed) as error:
            trouble = why_not(command[0], error)
            if trouble != self.trouble:
                logger.warning("%s", trouble)
            self.trouble = trouble
            return None
        self.trouble = ""
        return states

    def _pass_on(self, job: WatchedJob, state: JobState | None) -> None:
        if state is None:
            state = self._unlisted(job)
            if state is None:
                return
        else:
            self._seen.add(job.job)
            self._missed.pop(job.job, None)
        if state.phase == "ended":
            job.read_output()
            self._seen.discard(job.job)
            self._missed.pop(job.job, None)
        job.take_state(state)

    def _unlisted(self, job: WatchedJob) -> JobState | None:
        """Return the state of a job that is not in the queue; None if it may not be there yet."""
        history = self._history(job.job)
        state = None if history is None else self.system.read_history(job.job, history)
        if state is not None:
            return state
        now, seen, told = self.clock(), job.job in self._seen, job.read_output()
        young = now - job.submitted < _SETTLING
        if young and not (seen or told or job.asked_to_end):
            return None
        missing = now - self._missed.setdefault(job.job, now)
        late = history is None or missing >= _ACCOUNTING or not (seen or young)
        if late or job.asked_to_end:
            return JobState("ended")
        return JobState("ending", "has left the queue; how it ended is not known yet")

    def _history(self, job: str) -> Answer | None:
        """Return what the system's accounting says of a job; None if there is none."""
        command = self.system.history(job)
        if not command:
            return None
        try:
            return self.run(command)
        except (OSError, subprocess.TimeoutExpired):
            return None


def queue_of(directory: ClusterDirectory, system: BatchSystem) -> JobQueue:
    """Return the queue of all jobs of a cluster that are asked for in the same way."""
    key = (directory, system.section, repr(sorted(system.options.values.items())))
    with _queues_lock:
        queue = _queues.get(key)
        if queue is None:
            queue = _queues[key] = JobQueue(system)
        return queue
