"""What an engine knows about itself, and how code on it reaches the engine's link."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipkernel.engine.loop import Loop

__all__ = ["CurrentEngine", "State", "current", "publish_data", "state", "uninterrupted"]


class CurrentEngine(NamedTuple):
    """Where the calling code runs.

    Attributes:
        engine: Id of the engine, -1 while it has none.
        host: Name of its host.
        cluster: Name of its cluster.
        task: Id of the task that runs now, 0 when none does.
        pid: Process id of the engine.
    """

    engine: int
    host: str
    cluster: str
    task: int
    pid: int


class State:
    """The one changing record of an engine process: its identity and its running task."""

    __slots__ = ("cluster", "engine", "forked", "host", "loop", "pid", "task")

    def __init__(self) -> None:
        self.engine = -1
        self.host = ""
        self.cluster = ""
        self.task = 0
        self.pid = os.getpid()
        self.loop: Loop | None = None
        #: True in a process that user code has forked off the engine.
        self.forked = False


#: This process's own.
state = State()


def current() -> CurrentEngine:
    """Return where the calling code runs.

    Raises:
        RuntimeError: This process is not an engine.
    """
    if state.loop is None:
        raise RuntimeError("this code does not run on an engine")
    return CurrentEngine(state.engine, state.host, state.cluster, state.task, state.pid)


def uninterrupted() -> AbstractContextManager[None]:
    """Return a context in which an interrupt waits until the end; for the engine's own parts."""
    return state.loop.uninterrupted() if state.loop is not None else nullcontext()


def publish_data(value: Any) -> None:
    """Send a value to the client of the running task while it goes on running.

    Args:
        value: Anything that can be pickled.

    Raises:
        RuntimeError: No task runs in this process.
        SerializationError: The value cannot be pickled.
    """
    if state.loop is None or state.forked or not state.task:
        raise RuntimeError("publish_data() needs a task that runs on an engine")
    from ipkernel.serialize.payload import dumps
    from ipkernel.wire.messages import Stream

    # Joined to one piece: the caller may change the value as soon as this returns.
    state.loop.publish(Stream.DATA, b"".join(dumps(value)))
