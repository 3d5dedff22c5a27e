"""The shell of a store: Deferreds, time limits, segments, threads that copy, closing."""

from __future__ import annotations

import errno
import threading

import psutil
import pytest
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.task import Clock

from ipkernel.errors import ObjectError, ObjectLost, StoreFull, TransferError, UnknownObject
from ipkernel.objects.allocator import PAGE, SEGMENT
from ipkernel.objects.interfaces import ObjectInfo, Placement
from ipkernel.objects.memory import NamedMemory, NativeMemory
from ipkernel.objects.spill import Spill
from ipkernel.objects.store import MINIMUM, HostStore, ObjectExists, default_limit
from tests.support.objects import FakeDisk, FakeMemory, FakeThreads, outcome

A, B, C, D = (bytes([letter]) * 16 for letter in b"ABCD")
LIMIT = 8 * PAGE


class Scene:
    """A store with fakes around it."""

    def __init__(self, **options) -> None:
        self.clock = Clock()
        self.memory = FakeMemory()
        self.disk = FakeDisk(64 * PAGE)
        self.threads = FakeThreads()
        options = {"limit": LIMIT, "segment_size": 4 * PAGE, "spill": self.disk, **options}
        self.store = HostStore(
            self.clock, self.memory, defer_to_thread=self.threads.defer, **options
        )

    def create(self, object_id: bytes, size: int = PAGE, **names):
        names = {"owner": 1, "writer": "w", **names}
        return outcome(self.store.create(object_id, size, **names))

    def lease(self, object_id: bytes, holder: str = "h", **options):
        return outcome(self.store.lease(object_id, holder, **options))

    def put(self, object_id: bytes, data: bytes) -> Placement:
        placement = self.create(object_id, len(data)).value
        self.store.view(placement)[:] = data
        self.store.seal(object_id)
        return placement

    def read(self, object_id: bytes) -> bytes:
        data = bytes(self.store.view(self.lease(object_id, "reader").value))
        self.store.release(object_id, "reader")
        return data


@pytest.fixture
def scene():
    scene = Scene()
    yield scene
    scene.store.close()
    assert not scene.clock.getDelayedCalls()
    assert not scene.memory.open


class TestLeasesWithoutWaiting:
    def test_what_is_there_is_leased_at_once(self, scene):
        placement = scene.put(A, b"a" * 100)
        assert scene.store.lease_now(A, "one") == placement
        assert scene.lease(A, "one").value == placement
        assert scene.store.stats().holders == {"one": PAGE}
        scene.store.release(A, "one")
        assert scene.store.stats().holders == {"one": PAGE}
        scene.store.release(A, "one")
        assert scene.store.stats().holders == {}

    def test_it_stays_where_it_is(self, scene):
        placement = scene.put(A, b"a" * 3 * PAGE)
        assert scene.store.lease_now(A, "one") == placement
        scene.store.free([A])
        for letter in b"BCD":
            scene.put(bytes([letter]) * 16, bytes([letter]) * PAGE)
        assert bytes(scene.store.view(placement)) == b"a" * 3 * PAGE
        assert scene.store.lease_now(A, "one") is None

    def test_what_is_not_there_or_not_complete_is_not_leased(self, scene):
        assert scene.store.lease_now(A, "one") is None
        scene.create(A)
        assert scene.store.lease_now(A, "one") is None
        scene.store.abandon(A)
        assert scene.store.stats().holders == {}

    def test_what_is_on_disk_is_not_leased(self, scene):
        scene.put(A, b"a" * 6 * PAGE)
        waiting = scene.create(B, 6 * PAGE)
        assert scene.store.lease_now(A, "one") is None  # on its way to disk
        scene.threads.run_all()
        assert waiting.value is not None
        assert scene.store.lease_now(A, "one") is None

    def test_a_closed_store_leases_nothing(self, scene):
        scene.put(A, b"a")
        scene.store.close()
        assert scene.store.lease_now(A, "one") is None


class TestObjects:
    def test_bytes_that_are_put_can_be_read(self, scene):
        scene.put(A, b"a" * 100)
        scene.put(B, b"b" * 5000)
        assert scene.read(A) == b"a" * 100
        assert scene.read(B) == b"b" * 5000

    def test_a_view_is_as_long_as_the_object(self, scene):
        placement = scene.create(A, 7).value
        view = scene.store.view(placement)
        assert len(view) == 7
        assert not view.readonly

    def test_an_object_without_bytes(self, scene):
        scene.put(A, b"")
        assert scene.read(A) == b""

    def test_less_than_nothing(self, scene):
        with pytest.raises(ValueError, match="-1 bytes"):
            scene.store.create(A, -1, owner=1, writer="w")

    def test_a_segment_is_described(self, scene):
        placement = scene.put(A, b"a")
        assert scene.store.segment(placement.segment) == f"segment of {4 * PAGE}"
        with pytest.raises(KeyError):
            scene.store.segment(99)

    def test_an_id_is_used_once(self, scene):
        scene.put(A, b"a")
        error = scene.create(A).error
        assert isinstance(error, ObjectExists)
        assert isinstance(error, ObjectError)

    def test_information(self, scene):
        scene.put(A, b"aaa")
        scene.store.set_digest(A, b"digest")
        scene.lease(A)
        assert scene.store.info(A) == ObjectInfo(3, True, b"digest", True, 1)
        assert scene.store.info(B) is None
        stats = scene.store.stats()
        assert (stats.limit, stats.used, stats.objects) == (LIMIT, PAGE, 1)
        assert stats.holders == {"h": PAGE}

    def test_what_was_freed_is_unknown(self, scene):
        scene.put(A, b"a")
        scene.store.free([A])
        assert isinstance(scene.lease(A).error, UnknownObject)

    def test_a_dropped_writer(self, scene):
        scene.create(A, writer="x")
        reader = scene.lease(A)
        scene.store.drop("x")
        assert isinstance(reader.error, TransferError)
        with pytest.raises(UnknownObject):
            scene.store.seal(A)

    def test_a_thread_may_write(self, scene):
        placement = scene.create(A, 100).value

        def write():
            scene.store.view(placement)[:] = b"t" * 100

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        scene.store.seal(A)
        assert scene.read(A) == b"t" * 100


class TestWaiting:
    def test_a_lease_waits_for_the_seal(self, scene):
        placement = scene.create(A).value
        reader = scene.lease(A)
        assert reader.pending
        scene.store.seal(A)
        assert reader.value == placement

    def test_a_time_limit(self, scene):
        scene.create(A)
        reader = scene.lease(A, timeout=5)
        scene.clock.advance(4)
        assert reader.pending
        scene.clock.advance(1)
        assert isinstance(reader.error, TimeoutError)
        assert A.hex() in str(reader.error) and "5 seconds" in str(reader.error)
        scene.store.seal(A)
        assert scene.store.info(A).leases == 0

    def test_no_time_at_all(self, scene):
        scene.put(A, b"a")
        assert scene.lease(A, timeout=0).value
        reader = scene.lease(B, bringer=1, timeout=0)
        scene.clock.advance(0)
        assert isinstance(reader.error, TimeoutError)

    def test_an_answer_stops_the_clock(self, scene):
        scene.create(A)
        reader = scene.lease(A, timeout=5)
        scene.store.seal(A)
        assert reader.value
        assert not scene.clock.getDelayedCalls()

    def test_a_bringer(self, scene):
        reader = scene.lease(A, bringer=3)
        other = scene.lease(B, bringer=3)
        scene.put(A, b"a")
        scene.store.session_gone(3)
        assert reader.value
        assert isinstance(other.error, UnknownObject)

    def test_a_wait_can_be_cancelled(self, scene):
        scene.create(A)
        deferred = scene.store.lease(A, "h", timeout=5)
        found = outcome(deferred)
        deferred.cancel()
        assert isinstance(found.error, CancelledError)
        assert not scene.clock.getDelayedCalls()
        scene.store.seal(A)
        assert scene.store.info(A).leases == 0

    def test_until_it_is_sealed(self, scene):
        found = outcome(scene.store.when_sealed(A))
        assert found.pending
        scene.put(A, b"aaa")
        assert found.value.size == 3

    def test_that_can_be_cancelled(self, scene):
        deferred = scene.store.when_sealed(A)
        found = outcome(deferred)
        deferred.cancel()
        assert isinstance(found.error, CancelledError)
        assert scene.store.stats().waiting == 0

    def test_until_it_is_freed(self, scene):
        assert outcome(scene.store.wait_freed(A, 5)).value is True
        scene.put(A, b"a")
        found, late = (outcome(scene.store.wait_freed(A, time)) for time in (5, 3))
        scene.clock.advance(3)
        assert late.value is False
        scene.store.free([A])
        assert found.value is True
        assert scene.store.stats().waiting == 0


class TestReentry:
    """Those who are called may call the store."""

    def test_asking_from_an_answer(self, scene):
        scene.create(A)
        found = []

        def then(_):
            scene.store.free([A])
            found.append(scene.create(B, 2 * PAGE))
            found.append(scene.lease(A))

        scene.store.lease(A, "h").addCallback(then)
        scene.store.seal(A)
        assert found[0].value
        assert isinstance(found[1].error, UnknownObject)

    def test_an_object_is_not_given_to_whom_does_not_want_it_any_more(self, scene):
        scene.create(A)
        scene.store.lease(A, "first").addCallback(lambda _: second.cancel())
        second = scene.store.lease(A, "second", timeout=9)
        found = outcome(second)
        scene.store.seal(A)
        assert isinstance(found.error, CancelledError)
        assert set(scene.store.stats().holders) == {"first"}
        assert not scene.clock.getDelayedCalls()

    def test_nor_to_whom_was_declared_gone(self, scene):
        scene.create(A)
        scene.store.lease(A, "first").addCallback(lambda _: scene.store.drop("second"))
        second = scene.lease(A, "second")
        scene.store.seal(A)
        assert isinstance(second.error, TransferError)
        assert set(scene.store.stats().holders) == {"first"}

    def test_nor_is_room(self, scene):
        scene.put(A, b"a" * LIMIT)
        first = scene.store.create(B, PAGE, owner=1, writer="x")
        second = scene.store.create(C, PAGE, owner=1, writer="y")
        third = scene.create(D, PAGE, writer="z")
        found = outcome(second)

        def then(_):
            second.cancel()
            scene.store.drop("z")

        first.addCallback(then)
        scene.threads.run_all()
        assert isinstance(found.error, CancelledError)
        assert isinstance(third.error, TransferError)
        assert scene.store.stats().used == PAGE
        assert scene.store.info(C) is None

    def test_cancelling_what_was_answered_does_nothing(self, scene):
        deferred = scene.store.create(A, PAGE, owner=1, writer="w")
        deferred.cancel()
        scene.store.seal(A)
        assert scene.store.info(A).sealed


class TestMemory:
    def test_the_same_memory_is_used_again(self, scene):
        first = scene.put(A, b"a" * 3 * PAGE)
        scene.store.free([A])
        assert scene.put(B, b"b" * 3 * PAGE) == first
        assert len(scene.memory.segments) == 1
        assert scene.memory.segments[0].discarded == []

    def test_a_large_object_again_and_again(self, scene):
        for object_id in (A, B, C):
            scene.put(object_id, bytes(7 * PAGE))
            scene.store.free([object_id])
        assert len(scene.memory.segments) == 1

    def test_memory_that_is_idle_for_long_is_given_back(self, scene):
        scene.put(A, b"a" * PAGE)
        scene.store.free([A])
        scene.clock.advance(30)
        assert len(scene.memory.open) == 1
        scene.clock.advance(30)
        assert not scene.memory.open
        # Whoever has it mapped still keeps a mapping, but no memory.
        assert scene.memory.segments[0].discarded == [(0, 4 * PAGE)]
        assert not scene.clock.getDelayedCalls()

    def test_idle_pages_beside_an_object_are_given_back(self, scene):
        scene.put(A, b"a" * PAGE)
        placement = scene.put(B, b"b" * PAGE)
        scene.store.free([A])
        scene.clock.pump([30, 30])
        assert scene.memory.segments[0].discarded == [(0, PAGE)]
        assert bytes(scene.store.view(placement)) == b"b" * PAGE

    def test_memory_in_use_is_not_looked_after(self, scene):
        scene.put(A, b"a")
        assert not scene.clock.getDelayedCalls()

    @pytest.mark.parametrize(
        "error", [OSError(errno.ENOMEM, "Cannot allocate memory"), OverflowError("too large")]
    )
    def test_the_system_has_no_more(self, scene, error):
        scene.memory.problem = error
        found = scene.create(A)
        assert isinstance(found.error, StoreFull)
        assert ("Cannot allocate memory" if error.args[0] == errno.ENOMEM else "too large") in str(
            found.error
        )

    @pytest.mark.parametrize(
        ("limit", "size"), [(1 << 30, SEGMENT), (32 << 30, 512 << 20), (200 << 30, 2 << 30)]
    )
    def test_a_large_store_has_large_segments(self, limit, size):
        made = []

        class Memory(FakeMemory):
            def make(self, size):
                made.append(size)
                return super().make(PAGE)

        store = HostStore(Clock(), Memory(), limit=limit)
        store.create(A, 1, owner=1, writer="w")
        assert made == [size]
        store.close()

    def test_default_limit(self, monkeypatch):
        assert MINIMUM <= default_limit() < psutil.virtual_memory().total
        small = psutil.virtual_memory()._replace(total=100 << 20)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
        assert default_limit() == 64 << 20


class TestDisk:
    def test_objects_go_to_disk_and_come_back(self, scene):
        for object_id in (A, B, C, D):
            scene.put(object_id, object_id[:1] * 2 * PAGE)
        found = scene.create(b"E" * 16, 2 * PAGE)
        assert found.pending
        scene.threads.run()
        scene.store.view(found.value)[:] = b"e" * 2 * PAGE
        scene.store.seal(b"E" * 16)
        assert scene.store.info(A) == ObjectInfo(2 * PAGE, True, b"", False, 0)
        readers = [scene.lease(A, "x"), scene.lease(A, "y")]
        scene.threads.run_all()
        for reader in readers:
            assert bytes(scene.store.view(reader.value)) == b"A" * 2 * PAGE
        assert scene.disk.writes == 2
        assert not scene.store.info(B).in_memory

    def test_a_full_disk(self, scene):
        scene.put(A, b"a" * LIMIT)
        scene.disk.full = True
        found = scene.create(B)
        scene.threads.run()
        text = str(found.error)
        assert isinstance(found.error, StoreFull)
        assert "No space left on device (/disk)" in text
        assert "\n" not in text
        assert scene.read(A) == b"a" * LIMIT

    def test_a_broken_disk(self, scene):
        scene.put(A, b"a" * LIMIT)
        found = scene.create(B)
        scene.threads.run()
        assert found.value
        scene.store.abandon(B)
        scene.disk.broken = True
        reader = scene.lease(A)
        scene.threads.run()
        assert isinstance(reader.error, ObjectLost)
        assert "Input/output error" in str(reader.error)

    def test_without_a_disk(self):
        scene = Scene(spill=None)
        scene.put(A, b"a" * LIMIT)
        assert isinstance(scene.create(B).error, StoreFull)
        scene.store.close()

    def test_files_are_given_back(self, scene):
        scene.put(A, b"a" * LIMIT)
        scene.create(B)
        scene.threads.run()
        assert scene.disk.files
        scene.store.free([A])
        scene.clock.pump([30, 30])
        assert not scene.disk.files

    def test_the_reactors_threads_are_the_default(self):
        class Pool:
            def callInThreadWithCallback(self, done, function, *args):
                done(True, function(*args))

        class Reactor(Clock):
            def getThreadPool(self):
                return Pool()

            def callFromThread(self, function, *args):
                self.callLater(0, function, *args)

        reactor = Reactor()
        disk = FakeDisk(64 * PAGE)
        store = HostStore(reactor, FakeMemory(), limit=LIMIT, spill=disk)
        store.create(A, LIMIT, owner=1, writer="w")
        store.seal(A)
        found = outcome(store.create(B, PAGE, owner=1, writer="w"))
        reactor.advance(0)
        assert found.value
        store.close()


class TestClosing:
    def test_everybody_who_waits_is_told(self, scene):
        scene.create(A)
        waits = [
            scene.lease(A, timeout=9),
            scene.lease(B, bringer=1),
            outcome(scene.store.when_sealed(C)),
            outcome(scene.store.wait_freed(A, 9)),
        ]
        scene.store.close()
        for wait in waits:
            assert isinstance(wait.error, ObjectError)
            assert "closed" in str(wait.error)

    def test_whoever_comes_later_too(self, scene):
        scene.store.close()
        assert isinstance(scene.create(A).error, ObjectError)
        assert isinstance(scene.lease(A, timeout=3).error, ObjectError)
        scene.store.release(A, "h")
        scene.store.drop("h")
        scene.store.free([A])
        with pytest.raises(ObjectError, match="closed"):
            scene.store.view(Placement(1, 0, 1))

    def test_twice(self, scene):
        scene.store.close()
        scene.store.close()
        assert scene.disk.closed

    def test_from_an_answer(self, scene):
        scene.create(A)
        scene.store.lease(A, "x").addCallback(lambda _: scene.store.close())
        second = scene.lease(A, "y")
        scene.store.seal(A)
        assert isinstance(second.error, ObjectError)

    def test_while_a_thread_copies(self, scene):
        scene.put(A, b"a" * LIMIT)
        found = scene.create(B)
        scene.store.close()
        assert isinstance(found.error, ObjectError)
        scene.threads.run_all()


@pytest.mark.parametrize("make", [NativeMemory, NamedMemory])
def test_with_real_memory_and_disk(make, tmp_path):
    spill = Spill(1 << 30, tmp_path, reserve=0)
    store = HostStore(
        Clock(),
        make(),
        limit=2 << 20,
        spill=spill,
        defer_to_thread=maybeDeferred,
        segment_size=1 << 20,
    )
    ids = [bytes([n]) * 16 for n in range(1, 9)]
    for object_id in ids:
        placement = outcome(store.create(object_id, 500_000, owner=1, writer="w")).value
        store.view(placement)[:] = object_id[:1] * 500_000
        store.seal(object_id)
    views = []
    for object_id in ids:
        view = store.view(outcome(store.lease(object_id, "h")).value)
        assert bytes(view) == object_id[:1] * 500_000
        store.release(object_id, "h")
        views.append(view)
    assert store.stats().used <= 2 << 20
    store.free(ids)
    store.close()
    assert len(views[-1].tobytes()) == 500_000
    assert list(tmp_path.iterdir()) == []
