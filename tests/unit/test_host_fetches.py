"""Fetches from other hosts: how many at a time, with which connections, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from ipkernel.errors import ConnectError, TransferError
from ipkernel.host.fetches import AT_A_TIME, HostFetches
from ipkernel.objects.transfer import Transfer
from ipkernel.wire.messages import HostAccess


class Threads:
    """A reactor and its threads, which work when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def getThreadPool(self) -> Threads:
        return self

    def callFromThread(self, function: Any, *args: Any) -> None:
        function(*args)

    def callInThreadWithCallback(self, told: Any, function: Any, *args: Any, **kwargs: Any) -> None:
        from twisted.python.failure import Failure

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception:
                told(False, Failure())
            else:
                told(True, result)

        self.work.append(run)

    def step(self) -> None:
        self.work.pop(0)()


class Remote:
    """Access to a store that has every object."""

    def __init__(self, access: HostAccess, identity: Any, *, relay: Any) -> None:
        self.access, self.relay = access, relay
        self.closed = False
        self.fetched: list[bytes] = []

    def fetch_into(
        self, object_id: bytes, size: int, target: memoryview, transfer: Transfer
    ) -> bytes:
        if self.closed:
            raise ConnectError("the connections are closed")
        if object_id == b"bad":
            raise TransferError("cut too often")
        assert size == len(target)
        target[:] = object_id[:1] * size
        self.fetched.append(object_id)
        return b"digest"

    def close(self) -> None:
        self.closed = True


class Scene:
    def __init__(self) -> None:
        self.threads = Threads()
        self.made: list[Remote] = []
        self.relayed: list[int] = []
        self.fetches = HostFetches(self.threads, "identity", self.relayed.append, self.connect)  # type: ignore[arg-type]

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        self.made.append(Remote(*args, **kwargs))
        return self.made[-1]

    def fetch(self, host: int, object_id: bytes = b"a", hints: tuple[str, ...] = ()) -> list[Any]:
        out: list[Any] = []
        target = memoryview(bytearray(10))
        access = HostAccess(host, f"n{host}", "tub", "pin", list(hints))
        done: Deferred[bytes] = self.fetches.fetch(access, object_id, target, Transfer())
        done.addCallback(lambda digest: out.extend((digest, bytes(target))))
        done.addErrback(lambda failure: out.append(failure.value))
        return out


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_object_is_fetched_in_a_thread(scene: Scene) -> None:
    done = scene.fetch(2)
    assert done == [] and len(scene.threads.work) == 1
    scene.threads.step()
    assert done == [b"digest", b"a" * 10]


def test_a_few_at_a_time(scene: Scene) -> None:
    done = [scene.fetch(2 + n % 3) for n in range(AT_A_TIME + 3)]
    assert len(scene.threads.work) == AT_A_TIME
    scene.threads.step()
    assert len(scene.threads.work) == AT_A_TIME
    while scene.threads.work:
        scene.threads.step()
    assert all(done)


def test_one_access_for_each_host(scene: Scene) -> None:
    for host in (2, 3, 2):
        scene.fetch(host)
        scene.threads.step()
    assert [(one.access.host, len(one.fetched)) for one in scene.made] == [(2, 2), (3, 1)]
    scene.made[1].relay()
    assert scene.relayed == [3]


def test_another_address_makes_another_access(scene: Scene) -> None:
    scene.fetch(2)
    scene.fetch(2, hints=("tcp:10.0.0.1:1",))
    assert scene.made[0].closed and not scene.made[1].closed


def test_a_failure_is_passed_on_and_the_turn_with_it(scene: Scene) -> None:
    bad = [scene.fetch(2, b"bad") for _ in range(AT_A_TIME)]
    good = scene.fetch(2)
    while scene.threads.work:
        scene.threads.step()
    assert all(isinstance(one[0], TransferError) for one in bad)
    assert good[0] == b"digest"


def test_a_lost_host_ends_its_fetches(scene: Scene) -> None:
    done = scene.fetch(2)
    scene.fetches.forget(2)
    scene.fetches.forget(3)
    scene.threads.step()
    assert isinstance(done[0], ConnectError)
    scene.fetch(2)
    assert len(scene.made) == 2


def test_closing_waits_for_the_threads(scene: Scene) -> None:
    first, second = scene.fetch(2), scene.fetch(3)
    closed: list[Any] = []
    scene.fetches.close().addCallback(closed.append)
    assert all(one.closed for one in scene.made)
    scene.threads.step()
    assert not closed
    scene.threads.step()
    assert closed and first and second
    assert scene.fetches.close().called
