"""The loop of an engine: receive, run, answer.

All messages that have arrived are taken at once, and results are collected while tasks take
microseconds: they go out when the input is used up, when the last flush is a millisecond ago,
or before a task that may take long. Should a task take long unexpectedly, a thread flushes what
waits behind it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from socket import socket
from time import perf_counter, sleep, time
from typing import Any, Final

from ipkernel.engine.current import State, state
from ipkernel.engine.interrupts import Interrupts
from ipkernel.engine.objects import EngineObjects
from ipkernel.engine.streams import Streams
from ipkernel.engine.work import Work
from ipkernel.objects import INLINE_LIMIT
from ipkernel.serialize import failure
from ipkernel.serialize.dependent import rejects
from ipkernel.serialize.payload import size_of
from ipkernel.serialize.retrying import Retry
from ipkernel.wire.link import Link
from ipkernel.wire.messages import (
    Assign,
    Clear,
    Done,
    EngineSetup,
    ForgetFunctions,
    Function,
    Message,
    Outcome,
    Output,
    Release,
    Stream,
)

__all__ = ["Loop"]

#: Bytes taken from the socket at once; where little comes, room for more would be mapped and
#: unmapped for each message.
READ: Final = 1 << 18
SMALL_READ: Final = 1 << 14
#: Seconds that a finished result may wait while tasks follow each other.
FLUSH_AFTER: Final = 1e-3
#: A task that took longer than this, in seconds, makes the next one wait for a flush.
LONG: Final = 200e-6
#: Seconds after which the thread flushes behind a task that takes long.
LATE: Final = 5e-3
#: Bytes of results that are flushed at once.
HEAVY: Final = 1 << 18
#: Windows does not interrupt who waits for a socket, so there it is waited for in slices (seconds):
#: an interrupt that is noticed when the next task is there would be taken for that one's.
SLICE: Final = 0.05 if os.name == "nt" else None

_OK: Final = Outcome.OK
_ERROR: Final = Outcome.ERROR
_REJECTED: Final = Outcome.REJECTED
_RETRY: Final = Outcome.RETRY
_RETRY_ITEMS: Final = Outcome.RETRY_ITEMS
_BEFORE: Final = int(Clear.BEFORE)
_AFTER: Final = int(Clear.AFTER)


class Loop:
    """Runs the tasks that arrive on a socket.

    Args:
        sock: A connected stream socket, blocking.
        work: What to do for each kind of task.
        streams: The engine's output.
        interrupts: The engine's interrupts.
        link: The engine's end of the link.
        objects: The engine's connection to the store of its host.
        identity: The record that says which task runs.
        progress: Its first item counts the tasks that were started; shared with the daemon, so
            that it knows which ones a crash has cost. The second says which of them, counted from
            1, an interrupt is for; 0 for any.
    """

    def __init__(
        self,
        sock: socket,
        work: Work,
        streams: Streams,
        interrupts: Interrupts,
        *,
        link: Link | None = None,
        objects: EngineObjects | None = None,
        identity: State = state,
        progress: list[int] | memoryview | None = None,
    ) -> None:
        self._socket = sock
        self._work = work
        self._streams = streams
        self._interrupts = interrupts
        self._link = link if link is not None else Link()
        #: The engine's connection to the store of its host.
        self.objects = objects if objects is not None else EngineObjects(interrupts.open)
        self._state = identity
        self._progress = progress if progress is not None else [0, 0]
        self._ended = 0
        self._lock = threading.Lock()
        self._flusher = _Flusher(self._flush_late)
        self._pending = 0
        self._untidy = False
        self._flushed = 0.0
        self._flushes = 0
        self._last = 1.0
        self._waiting = False
        self._look = looks_at(sock)
        interrupts.due = self._is_due
        interrupts.meant = self._is_meant
        identity.loop = self
        work.opened = interrupts.open

    def send(self, message: Message, payload: Any = b"") -> None:
        """Send a message at once; from any thread."""
        with self._lock:
            self._link.send(message, payload)
            self._write()

    def publish(self, stream: Stream, payload: bytes) -> None:
        """Send output of the running task that does not go through the pipes."""
        self._streams.flush()
        with self._interrupts.held():
            self.send(Output(self._state.task, self._state.engine, stream, len(payload)), payload)

    def uninterrupted(self) -> AbstractContextManager[None]:
        """Return a context in which an interrupt of the running task waits until the end."""
        return self._interrupts.held()

    def run(self) -> None:
        """Serve until the other end closes the link."""
        try:
            self._serve()
        finally:
            self._flusher.stop()

    def _serve(self) -> None:
        receive = self._socket.recv
        link = self._link
        run_task = self._run_task
        opened = self._interrupts.open
        look = self._look
        size = SMALL_READ
        while True:
            try:
                self._waiting = True
                if opened[1]:
                    opened[1] = self._is_due()
                look(None)
                # From here on, because what was sent may not be in the socket any more.
                self._waiting = False
                data = receive(size)
            except OSError:
                return
            except Exception:  # noqa: BLE001, S112 - a signal handler that user code has left behind
                continue
            if not data:
                return
            size = READ if len(data) == size else SMALL_READ
            with self._lock:
                batch = link.receive(data)
            for message, payload in batch:
                if type(message) is Assign:
                    run_task(message, payload)
                else:
                    self._handle(message, payload)
            # The payloads must not live until the next batch arrives.
            message = payload = batch = None  # type: ignore[assignment]
            with self._lock:
                link.acknowledge()
                try:
                    self._write()
                except ConnectionError:
                    return
            if self._untidy:  # now, as nobody waits for it
                self._untidy = False
                self.objects.tidy()

    def _is_due(self) -> bool:
        """Tell whether an interrupt between tasks is for one that has been sent already.

        The daemon takes a task for running when it has sent it, so its interrupt may be faster
        than the task; one that comes while there is nothing to do is for nobody.
        """
        return not self._waiting or self._link.partial or bool(self._look(0))

    def _is_meant(self) -> bool:
        """Tell whether an interrupt is for the task that runs, or that comes next."""
        wanted = self._progress[1]
        return not wanted or wanted == self._ended + 1

    def _handle(self, message: Message, payload: Any) -> None:
        if isinstance(message, Function):
            self._work.store.add(message.digest, payload)
        elif isinstance(message, ForgetFunctions):
            self._work.store.forget(message.digests)
        elif isinstance(message, EngineSetup):
            self._state.engine = message.engine
            self._state.host = message.host
            self._state.cluster = message.cluster
            os.environ.update(message.environment)
            self.objects.set_up(message)
            set_title(message.engine, message.cluster)

    def _run_task(self, task: Assign, payload: Any) -> None:
        opened = self._interrupts.open
        if self._pending:
            if self._last > LONG or perf_counter() - self._flushed > FLUSH_AFTER:
                with self._lock:
                    self._write()
            else:
                self._flusher.arm()
        mine = self._state
        mine.task = task.task
        self._progress[0] += 1
        outcome = _OK
        kept = b""
        started = time()
        try:
            if task.clear & _BEFORE:
                self._work.namespace.clear()
            if task.placed:
                payload = self._bring(task, payload)
            pieces = self._work.kinds[task.kind](payload, task.digest)
            opened[0] = False
            if len(pieces) > 1 or task.keep or len(pieces[0]) >= INLINE_LIMIT:
                kept = self._put(task, pieces)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is its result
            opened[0] = False
            outcome = _REJECTED if rejects(error) else _ERROR
            if isinstance(error, Retry):
                outcome = _RETRY
                error = error.error
            self._work.values = None
            pieces = [failure.encode(self._work.describe(error, task.kind))]
            _forget(error)
        completed = time()
        if self._work.retry:
            self._work.retry = False
            outcome = outcome or _RETRY_ITEMS
        if task.clear & _AFTER:
            self._work.namespace.clear()
        if mine.forked:  # a child that user code forked and let return
            os._exit(0)
        streams = self._streams
        if streams.synchronised or streams.out.marked or streams.err.marked:
            streams.finish()
        mine.task = 0
        self._ended += 1
        opened[1] = False  # whoever sent it late meant this task
        if _signal.getsignal(_SIGINT) is not self._interrupts._handler:
            self._interrupts.restore()
        if len(pieces) == 1:
            body: Any = pieces[0]
            size = len(body)
        else:
            body = pieces
            size = size_of(pieces)
        if kept:
            body = b""
            done = Done(task.task, task.engine, outcome, started, completed, 0, kept, size)
            size = 0
        else:
            done = Done(task.task, task.engine, outcome, started, completed, size)
        with self._lock:
            if task.placed:
                payload = None  # perhaps an object
                if ended := self.objects.ended():
                    self._link.send(Release(ended))
                    self._untidy = True
            self._link.send(done, body)
            self._pending += 1
            if size > HEAVY:
                self._write()
        self._last = completed - started

    def _bring(self, task: Assign, payload: Any) -> Any:
        """Map what a task needs out of the host's store; return its payload."""
        views = self.objects.bring(task.placed)
        self._work.values = {one.object: view for one, view in zip(task.placed, views, strict=True)}
        return views[0] if task.stored else payload

    def _put(self, task: Assign, pieces: Sequence[Any]) -> bytes:
        """Put a result that is large into the host's store; return its id, or nothing."""
        if self._state.forked or not self.objects.available:
            return b""
        size = size_of(pieces)  # type: ignore[arg-type]
        if size < INLINE_LIMIT and not task.keep:
            return b""
        return self.objects.put(pieces, size, task.task)

    def _write(self) -> None:
        # Called with the lock held.
        link = self._link
        send = self._socket.sendall
        while pieces := link.data_to_send():
            if len(pieces) == 1:
                send(pieces[0])
            else:
                send(b"".join(pieces))
        self._pending = 0
        self._flushes += 1
        self._flushed = perf_counter()

    def _flush_late(self) -> bool:
        """Flush if nothing else has for a while; returns whether to look again."""
        seen = self._flushes
        if not self._pending:
            return False
        sleep(LATE)
        with self._lock:
            if self._pending and self._flushes == seen:
                try:
                    self._write()
                except OSError:
                    return False
        return True


class _Flusher:
    """A thread that calls a function again and again while that returns True; started lazily."""

    def __init__(self, function: Callable[[], bool]) -> None:
        self._function = function
        self._wake = threading.Semaphore(0)
        self._armed = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Start calling, unless it is being called anyway."""
        if self._armed:
            return
        self._armed = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
            self._thread.start()
        self._wake.release()

    def stop(self) -> None:
        """End the thread, if there is one."""
        self._stopped = True
        if self._thread is not None:
            self._wake.release()
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            # First: who arms after the function's last look must wake this thread again.
            self._armed = False
            while self._function():
                pass
            if self._stopped:
                return


_SIGINT = _signal.SIGINT


def looks_at(sock: socket) -> Callable[[int | None], object]:
    """Return a function that tells whether there is something to read.

    Args:
        sock: Where.

    Returns:
        It waits until there is if it is given None, and not at all if it is given 0.
    """
    descriptor = sock.fileno()
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return poll.poll

    def look(timeout: int | None) -> object:
        while True:
            limit = SLICE if timeout is None else timeout
            found = select.select([descriptor], [], [], limit)[0]
            if found or timeout is not None:
                return found

    return look


def _forget(error: BaseException) -> None:
    """Let go of the frames of an exception, and so of what a failed task held."""
    error.__traceback__ = None


def set_title(engine: int, cluster: str) -> None:
    """Show in ``ps`` which engine this process is."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"ipengine {engine} [{cluster}]" if cluster else f"ipengine {engine}")
