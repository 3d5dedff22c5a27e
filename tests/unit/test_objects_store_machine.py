"""A store in all the orders of events that hypothesis can think of.

Every object is painted with a byte of its own when its writer gets a place, and looked at whenever
anybody may look: while it is written, and while somebody has a lease. So whatever moves it, overwrites
it, or gives it away too early is seen, as is memory beyond the limit.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from ipkernel.errors import ObjectError, UnknownObject
from ipkernel.objects.allocator import PAGE
from ipkernel.objects.entries import State
from ipkernel.objects.store import HostStore
from tests.support.objects import FakeDisk, FakeMemory, FakeThreads, Outcome, outcome

LIMIT = 12 * PAGE
IDS = st.sampled_from([bytes([letter]) * 16 for letter in b"ABCDEF"])
HOLDERS = st.sampled_from(["x", "y"])
WRITERS = st.sampled_from(["v", "w"])
SESSIONS = st.sampled_from([1, 2])
PICK = st.integers(0, 1 << 16)


class Written:
    """A place that somebody writes to."""

    def __init__(self, writer, placement, paint) -> None:
        self.writer = writer
        self.placement = placement
        self.paint = paint


class StoreMachine(RuleBasedStateMachine):
    discards = True

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = FakeMemory(discards=self.discards)
        self.disk = FakeDisk(10 * PAGE)
        self.threads = FakeThreads()
        self.store = HostStore(
            self.clock,
            self.memory,
            limit=LIMIT,
            spill=self.disk,
            defer_to_thread=self.threads.defer,
            segment_size=4 * PAGE,
        )
        self.paint = 0
        self.known: dict[bytes, int] = {}  # paint of what can be asked for
        self.written: dict[bytes, Written] = {}
        self.leases: list[tuple[bytes, str, object, int]] = []
        self.requests: list[tuple[object, Outcome]] = []

    # ------------------------------------------------------------ what is done

    @rule(object_id=IDS, pages=st.integers(1, 5))
    def put(self, object_id, pages):
        self.create(object_id, pages * PAGE, 1, "w")
        if object_id in self.written:
            self.seal(list(self.written).index(object_id))

    @rule(object_id=IDS, pages=st.integers(3, 5))
    def put_another(self, object_id, pages):
        self.put(object_id, pages)

    @rule(object_id=IDS, size=st.integers(0, 14 * PAGE), owner=SESSIONS, writer=WRITERS)
    def create(self, object_id, size, owner, writer):
        self.paint = self.paint % 255 + 1
        paint = self.paint
        if self.store.info(object_id) is None and object_id not in self.written:
            self.known[object_id] = paint

        def granted(placement):
            assert placement.size == size
            assert placement.offset % PAGE == 0
            assert object_id not in self.written
            assert self.known[object_id] == paint
            for other in self.in_use():
                assert disjoint(placement, other)
            self.store.view(placement)[:] = bytes([paint]) * size
            self.written[object_id] = Written(writer, placement, paint)
            return placement

        deferred = self.store.create(object_id, size, owner=owner, writer=writer)
        self.follow(deferred.addCallback(granted))

    @precondition(lambda self: self.written)
    @rule(pick=PICK)
    def seal(self, pick):
        object_id = choose(pick, self.written)
        del self.written[object_id]
        self.store.seal(object_id)

    @precondition(lambda self: self.written)
    @rule(pick=PICK)
    def abandon(self, pick):
        object_id = choose(pick, self.written)
        del self.written[object_id]
        self.store.abandon(object_id)

    @rule(
        object_id=IDS,
        holder=HOLDERS,
        bringer=st.none() | SESSIONS,
        timeout=st.none() | st.just(5.0),
    )
    def lease(self, object_id, holder, bringer, timeout):
        def granted(placement):
            paint = self.known[object_id]
            assert set(self.store.view(placement)) <= {paint}
            self.leases.append((object_id, holder, placement, paint))
            return placement

        deferred = self.store.lease(object_id, holder, bringer=bringer, timeout=timeout)
        self.follow(deferred.addCallback(granted))

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def release(self, pick):
        object_id, holder, _, _ = self.leases.pop(pick % len(self.leases))
        self.store.release(object_id, holder)

    @rule(object_id=IDS, holder=HOLDERS)
    def lease_what_is_there(self, object_id, holder):
        if self.store.info(object_id) is not None:
            self.lease(object_id, holder, None, None)

    @precondition(lambda self: len(self.leases) + len(self.written) > 3)
    @rule(holder=HOLDERS | WRITERS)
    def drop(self, holder):
        self.leases = [lease for lease in self.leases if lease[1] != holder]
        self.written = {i: w for i, w in self.written.items() if w.writer != holder}
        self.store.drop(holder)

    @rule(object_ids=st.lists(IDS, min_size=1, max_size=2))
    def free(self, object_ids):
        self.store.free(object_ids)
        for object_id in object_ids:
            assert self.store.info(object_id) is None

    @rule(object_id=IDS)
    def when_sealed(self, object_id):
        self.follow(self.store.when_sealed(object_id))

    @rule(object_id=IDS)
    def wait_freed(self, object_id):
        self.follow(self.store.wait_freed(object_id, 7.0))

    @rule(session=SESSIONS)
    def session_gone(self, session):
        self.store.session_gone(session)

    @precondition(lambda self: self.requests)
    @rule(pick=PICK)
    def cancel(self, pick):
        deferred, found = self.requests[pick % len(self.requests)]
        deferred.cancel()
        assert isinstance(found.error, CancelledError)

    # ------------------------------------------------------------ what happens

    @precondition(lambda self: len(self.threads))
    @rule()
    def all_threads_end(self):
        self.threads.run_all()

    @precondition(lambda self: len(self.threads))
    @rule(pick=PICK)
    def thread_ends(self, pick):
        self.threads.run(pick % len(self.threads))

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(full=st.sampled_from([False, False, True]), broken=st.sampled_from([False, False, True]))
    def disk_is_full_or_broken(self, full, broken):
        self.disk.full, self.disk.broken = full, broken

    @rule(problem=st.sampled_from([None, None, OSError(12, "Cannot allocate memory")]))
    def memory_is_short(self, problem):
        self.memory.problem = problem

    # ------------------------------------------------------------ what holds

    def follow(self, deferred) -> None:
        self.requests.append((deferred, outcome(deferred)))

    def in_use(self) -> list:
        return [w.placement for w in self.written.values()] + [
            placement for _, _, placement, _ in self.leases
        ]

    @invariant()
    def errors_are_errors_of_objects(self):
        for _, found in self.requests:
            for error in found.errors:
                assert isinstance(error, ObjectError | TimeoutError | CancelledError), error
        self.requests = [(d, found) for d, found in self.requests if found.pending]

    @invariant()
    def whoever_may_look_sees_his_object(self):
        for written in self.written.values():
            assert set(self.store.view(written.placement)) <= {written.paint}
        for _, _, placement, paint in self.leases:
            assert set(self.store.view(placement)) <= {paint}

    @invariant()
    def the_limits_are_kept(self):
        stats = self.store.stats()
        assert stats.used + stats.idle <= LIMIT
        assert stats.disk_used <= stats.disk_limit
        touched = 0
        for segment in self.memory.open:
            for start in range(0, segment.size, PAGE):
                touched += any(segment.view[start : start + PAGE])
        assert touched * PAGE <= LIMIT

    @invariant()
    def only_what_is_not_used_may_be_moved(self):
        room = self.store._catalog._room
        for entry in room.unused:
            assert entry.state is State.SEALED and not entry.pins and not entry.freed
        assert room._unused_bytes == sum(entry.region.length for entry in room.unused)

    @invariant()
    def nobody_waits_for_room_in_vain(self):
        assert not self.store._catalog._room.wants or len(self.threads)

    def teardown(self):
        self.disk.full = self.disk.broken = False
        self.memory.problem = None
        self.leases.clear()
        self.written.clear()
        for holder in "xyvw":
            self.store.drop(holder)
        self.threads.run_all()
        for name in b"ABCDEF":
            self.store.free([bytes([name]) * 16])
        self.threads.run_all()
        stats = self.store.stats()
        assert (stats.objects, stats.used, stats.disk_used, stats.leased) == (0, 0, 0, 0)
        self.follow(self.store.create(b"Z" * 16, LIMIT, owner=1, writer="w"))
        assert self.requests[-1][1].value.size == LIMIT
        self.store.close()
        for _, found in self.requests:
            assert not found.pending
        assert not self.clock.getDelayedCalls()
        assert not self.memory.open
        assert self.disk.closed


class WithoutDiscards(StoreMachine):
    discards = False


def choose(pick: int, things):
    return list(things)[pick % len(things)]


def disjoint(one, other) -> bool:
    if one.segment != other.segment:
        return True
    first, second = sorted([one, other], key=lambda p: p.offset)
    return first.offset + max(first.size, 1) <= second.offset


TestStore = StoreMachine.TestCase
TestStoreWithoutDiscards = WithoutDiscards.TestCase
for _case in (TestStore, TestStoreWithoutDiscards):
    _case.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
del _case  # or pytest would take it for one more


def test_unknown_objects_are_not_invented():
    store = HostStore(Clock(), FakeMemory(), limit=LIMIT)
    assert isinstance(outcome(store.lease(b"A" * 16, "x")).error, UnknownObject)
    store.close()
