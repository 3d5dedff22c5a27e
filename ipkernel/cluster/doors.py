"""Ask a running controller, through its monitor and admin doors, and wait for the answer.

This is where Foolscap comes in; nothing else of this package loads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from ipkernel.client.reactor_thread import run_in_reactor, start_reactor
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ClusterError, LauncherError
from ipkernel.ranges import ranges_text
from ipkernel.wire.records import (
    EngineAnswer,
    EngineInfo,
    EngineOrder,
    Record,
    Status,
    pack,
    unpack,
)

R = TypeVar("R", bound=Record)
T = TypeVar("T")

#: Seconds for a connection, and for an answer that needs no work.
TIMEOUT: Final = 10.0
#: Seconds that stopping and restarting engines may take.
_WORK: Final = 60.0
_POLL: Final = 0.03


class Door:
    """A connection to one door of a controller; its methods are for the reactor's thread.

    Args:
        directory: The cluster's directory.
        role: ``"monitor"`` or ``"admin"``.
    """

    def __init__(self, directory: ClusterDirectory, role: str) -> None:
        self._directory = directory
        self._role = role
        self._tub: Any = None
        self._reference: Any = None

    async def __aenter__(self) -> Door:
        from twisted.internet import reactor

        from ipkernel.wire.furl import read_furl
        from ipkernel.wire.identity import Identity
        from ipkernel.wire.tub import connect, make_tub

        furl = read_furl(self._directory.furl_file(self._role))
        self._tub = make_tub(Identity.create(), reactor)
        try:
            self._reference = await connect(self._tub, furl, TIMEOUT)
        except BaseException:
            await self._tub.stopService()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._tub.stopService()

    async def tell(self, method: str, data: bytes) -> None:
        """Call a method that answers nothing."""
        from ipkernel.wire.connect import call

        await call(self._reference, method, data)

    async def ask(self, method: str, request: Record | None, answer: type[R]) -> R:
        """Call a method with a request, or without one, and return its answer."""
        from ipkernel.wire.connect import call

        data = b"" if request is None else pack(request)
        return unpack(answer, await call(self._reference, method, data))


def _run(what: str, start: Callable[[], Coroutine[Any, Any, T]], timeout: float | None) -> T:
    return run_in_reactor(start_reactor(), start, what, timeout)


def ask_monitor(
    directory: ClusterDirectory, what: str, method: str, request: Record | None, answer: type[R]
) -> R:
    """Ask something by the monitor door.

    Args:
        directory: The cluster's directory.
        what: What this is about, for messages.
        method: Of the door.
        request: Its argument, or None.
        answer: The kind of answer.

    Raises:
        ConnectError: The controller cannot be reached.
        SecurityError: The FURL file is not private.
        TimeoutError: There was no answer.
    """

    async def ask() -> R:
        async with Door(directory, "monitor") as door:
            return await door.ask(method, request, answer)

    return _run(what, ask, 2 * TIMEOUT)


def order(
    directory: ClusterDirectory,
    method: str,
    engines: Sequence[int] = (),
    signal: str = "",
    *,
    drain: bool = False,
    limit: float = 0.0,
) -> tuple[int, ...]:
    """Have something done to engines, by the admin door.

    Args:
        directory: The cluster's directory.
        method: ``"stop_engines"``, ``"restart_engines"`` or ``"signal_engines"``.
        engines: Which; none for all.
        signal: Name of the signal.
        drain: For a stop: let them finish what they have begun; waits as long as that takes.
        limit: Seconds that this may take; 0 for any number.

    Returns:
        The engines that it was done to.

    Raises:
        ClusterError: It could not be done; the text says why.
        ConnectError: The controller cannot be reached.
    """
    request = EngineOrder(engines=list(engines), signal=signal, drain=drain, limit=limit)

    async def ask() -> EngineAnswer:
        async with Door(directory, "admin") as door:
            return await door.ask(method, request, EngineAnswer)

    patience = _WORK + limit if not drain or limit else None  # a lost connection ends it
    answer = _run(method.replace("_", " "), ask, patience)
    if answer.problem:
        done = f" (it was done for {ranges_text(answer.engines)})" if answer.engines else ""
        raise ClusterError(f"{answer.problem}{done}")
    return tuple(answer.engines)


def shut_down(directory: ClusterDirectory) -> None:
    """Have the controller end in good order, by the admin door.

    Args:
        directory: The cluster's directory.

    Raises:
        KernelError: It cannot be asked.
        TimeoutError: There was no answer.
    """

    async def ask() -> None:
        async with Door(directory, "admin") as door:
            await door.tell("shutdown", b"the cluster is stopped")

    _run("stopping the controller", ask, TIMEOUT)


def start_engines(directory: ClusterDirectory, count: int, patience: float) -> tuple[int, ...]:
    """Have the cluster's host daemons start more engines; wait until they are ready.

    Args:
        directory: The cluster's directory.
        count: How many.
        patience: Seconds to wait.

    Returns:
        Their ids.

    Raises:
        ClusterError: It cannot be done; the text says why.
        LauncherError: An engine did not start; the text says why.
        ConnectError: The controller cannot be reached.
        TimeoutError: They were not ready in time.
    """
    deadline = time.monotonic() + patience

    async def start() -> tuple[int, ...]:
        async with Door(directory, "admin") as door:
            answer = await door.ask("start_engines", EngineOrder(count=count), EngineAnswer)
            if answer.problem:
                raise ClusterError(answer.problem)
            ids = tuple(answer.engines)
            while True:
                seen = await door.ask("status", None, Status)
                if _all_ready(ids, {e.engine: e for e in seen.engines}):
                    return ids
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"the new engines of cluster {directory.name} were not ready "
                        f"within {patience:g} s; see {directory.log}"
                    )
                await _pause()

    return _run("starting engines", start, patience + 2 * TIMEOUT)


def _all_ready(ids: Sequence[int], engines: dict[int, EngineInfo]) -> bool:
    found = [engines[i] for i in ids if i in engines]
    for engine in found:
        if engine.state == "dead":
            raise LauncherError(f"engine {engine.engine} did not start: {engine.reason}")
    return len(found) == len(ids) and all(engine.state == "ready" for engine in found)


async def _pause() -> None:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, _POLL)
