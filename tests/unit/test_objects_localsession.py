"""What one connection to a host's store may do, against the real store and without sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from ipkernel.objects import localwire as wire
from ipkernel.objects.localsession import LocalSession, Subjects
from ipkernel.objects.memory import NamedMemory, make_memory
from ipkernel.objects.store import HostStore
from ipkernel.objects.tickets import make_key, make_ticket

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
SIZE = 10_000


class Peer:
    """A connection: its session and what was answered."""

    def __init__(self, scene: Scene, subject: str) -> None:
        self.scene = scene
        self.name = subject
        self.answers: list[Any] = []
        self.session = LocalSession(scene.store, scene.key, scene.subjects, self.answers.append)

    def greet(self, key: bytes | None = None, protocol: int = wire.PROTOCOL) -> Any:
        ticket = make_ticket(key or self.scene.key, self.name)
        nonce = b"n" * 16
        proof = wire.proof(ticket, nonce, "client")
        return self.ask(wire.Hello(self.name, nonce, proof, protocol))

    def ask(self, message: wire.Request) -> Any:
        """Ask; return the answer, or None if there is none yet."""
        count = len(self.answers)
        self.session.ask(message)
        assert len(self.answers) <= count + 1
        return self.answers[-1] if len(self.answers) > count else None

    def write(self, object_id: bytes, size: int = SIZE) -> None:
        assert isinstance(self.ask(wire.Create(object_id, size, 1)), wire.Region)
        assert self.ask(wire.Seal(object_id)) == wire.Ok()


class Scene:
    """A store and those who are connected to it."""

    def __init__(self, memory: Any = None, limit: int = 1 << 20) -> None:
        self.clock = Clock()
        self.store = HostStore(
            self.clock,
            memory or make_memory(),
            limit=limit,
            segment_size=1 << 17,
            defer_to_thread=lambda function, *args: succeed(function(*args)),
        )
        self.key = make_key()
        self.subjects = Subjects(self.store)

    def stranger(self, subject: str = "x") -> Peer:
        return Peer(self, subject)

    def peer(self, subject: str = "x") -> Peer:
        peer = Peer(self, subject)
        assert isinstance(peer.greet(), wire.Welcome)
        return peer

    def leases(self, holder: str, object_id: bytes = A) -> int:
        return self.store._catalog._held.get(holder, {}).get(object_id, 0)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.store.close()
    assert not made.clock.getDelayedCalls()


def problem(answer: Any) -> str:
    assert isinstance(answer, wire.Problem), answer
    return answer.kind


# ------------------------------------------------------------------ greeting


def test_a_ticket_opens_the_store(scene: Scene) -> None:
    peer = scene.stranger("engine:1:1")
    ticket = make_ticket(scene.key, "engine:1:1")
    assert peer.greet() == wire.Welcome(wire.proof(ticket, b"n" * 16, "store"))
    assert peer.session.subject == "engine:1:1"


def test_the_ticket_of_another_store_does_not(scene: Scene) -> None:
    peer = scene.stranger()
    with pytest.raises(wire.WireError, match="not good for this store"):
        peer.greet(make_key())
    assert problem(peer.answers[-1]) == "refused"
    assert not peer.session.subject


def test_the_ticket_of_another_subject_does_not(scene: Scene) -> None:
    peer = scene.stranger("a")
    ticket, nonce = make_ticket(scene.key, "b"), bytes(16)
    with pytest.raises(wire.WireError, match="not good for this store"):
        peer.ask(wire.Hello("a", nonce, wire.proof(ticket, nonce, "client")))


def test_what_the_store_says_does_not_open_it(scene: Scene) -> None:
    peer = scene.stranger("a")
    ticket, nonce = make_ticket(scene.key, "a"), bytes(16)
    with pytest.raises(wire.WireError, match="not good for this store"):
        peer.ask(wire.Hello("a", nonce, wire.proof(ticket, nonce, "store")))


def test_another_version_is_told_what_to_do(scene: Scene) -> None:
    peer = scene.stranger()
    with pytest.raises(wire.WireError, match="version 1, not 2"):
        peer.greet(protocol=2)
    assert peer.answers[-1].text.endswith("update both")


@pytest.mark.parametrize(
    "message",
    [wire.Get(A), wire.Release([A]), wire.Kept(A), wire.Free([A]), wire.Attach(1), wire.Hold([A])],
)
def test_strangers_can_ask_for_nothing(scene: Scene, message: Any) -> None:
    scene.peer("y").write(A)
    peer = scene.stranger()
    with pytest.raises(wire.WireError, match="not due"):
        peer.session.ask(message)
    assert peer.answers == []
    peer.session.end()
    assert scene.store.info(A) is not None


def test_nobody_introduces_himself_twice(scene: Scene) -> None:
    peer = scene.peer()
    with pytest.raises(wire.WireError, match="not due"):
        peer.greet()


# ------------------------------------------------------------------- writing


def test_an_object_is_written_and_sealed(scene: Scene) -> None:
    peer = scene.peer()
    region = peer.ask(wire.Create(A, SIZE, 7))
    assert isinstance(region, wire.Region) and region.size == SIZE
    info = scene.store.info(A)
    assert info is not None and not info.sealed
    assert peer.ask(wire.Seal(A)) == wire.Ok()
    info = scene.store.info(A)
    assert info is not None and info.sealed
    peer.session.end()
    assert scene.store.info(A) == info


def test_what_is_there_is_not_written_again(scene: Scene) -> None:
    scene.peer("y").write(A)
    assert problem(scene.peer().ask(wire.Create(A, SIZE, 1))) == "there"


def test_what_another_one_writes_is_waited_for(scene: Scene) -> None:
    writer, other = scene.peer("y"), scene.peer("x")
    writer.ask(wire.Create(A, SIZE, 1))
    assert other.ask(wire.Create(A, SIZE, 1)) is None
    assert other.session.busy
    writer.ask(wire.Seal(A))
    assert problem(other.answers[-1]) == "there"
    assert not other.session.busy
    assert scene.leases("x") == 0


def test_what_another_one_has_given_up_can_be_written(scene: Scene) -> None:
    writer, other = scene.peer("y"), scene.peer("x")
    writer.ask(wire.Create(A, SIZE, 1))
    assert other.ask(wire.Create(A, SIZE, 1)) is None
    assert writer.ask(wire.Abandon(A)) == wire.Ok()
    assert isinstance(other.answers[-1], wire.Region)
    assert other.ask(wire.Seal(A)) == wire.Ok()


def test_who_waits_for_another_writer_can_leave(scene: Scene) -> None:
    writer, other = scene.peer("y"), scene.peer("x")
    writer.ask(wire.Create(A, SIZE, 1))
    other.ask(wire.Create(A, SIZE, 1))
    other.session.end()
    assert writer.ask(wire.Abandon(A)) == wire.Ok()
    assert scene.store.info(A) is None
    assert len(other.answers) == 1


def test_what_does_not_fit_is_refused(scene: Scene) -> None:
    answer = scene.peer().ask(wire.Create(A, 1 << 30, 1))
    assert problem(answer) == "full"
    assert "does not fit into this host's store" in answer.text


def test_a_connection_that_ends_abandons_what_it_was_writing(scene: Scene) -> None:
    peer, other = scene.peer(), scene.peer()
    peer.write(A)
    peer.ask(wire.Create(B, SIZE, 1))
    other.ask(wire.Create(C, SIZE, 1))
    peer.session.end()
    assert scene.store.info(A) is not None
    assert scene.store.info(B) is None
    assert scene.store.info(C) is not None
    assert other.ask(wire.Seal(C)) == wire.Ok()


@pytest.mark.parametrize("message", [wire.Seal(A), wire.Abandon(A)])
def test_only_the_writer_can_end_the_writing(scene: Scene, message: Any) -> None:
    scene.peer("y").ask(wire.Create(A, SIZE, 1))
    answer = scene.peer("x").ask(message)
    assert problem(answer) == "error"
    assert "not being written on this connection" in answer.text
    info = scene.store.info(A)
    assert info is not None and not info.sealed


def test_who_has_left_gets_no_room(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[bool] = []
    room: Deferred[Any] = Deferred(lambda _: cancelled.append(True))
    monkeypatch.setattr(scene.store, "create", lambda *args, **kwargs: room)
    peer = scene.peer()
    assert peer.ask(wire.Create(A, SIZE, 1)) is None
    peer.session.end()
    assert cancelled
    assert len(peer.answers) == 1


# ------------------------------------------------------------------- reading


def test_a_lease_is_counted_and_released(scene: Scene) -> None:
    peer = scene.peer()
    peer.write(A)
    for _ in range(3):
        assert peer.ask(wire.Get(A)).size == SIZE
        assert peer.ask(wire.Kept(A)) is None
    assert scene.leases("x") == 3
    assert peer.ask(wire.Release([A, B, A])) is None
    assert scene.leases("x") == 1


def test_an_unknown_object_is_unknown(scene: Scene) -> None:
    assert problem(scene.peer().ask(wire.Get(A))) == "unknown"


def test_an_object_that_is_being_written_is_waited_for(scene: Scene) -> None:
    writer, reader = scene.peer(), scene.peer()
    writer.ask(wire.Create(A, SIZE, 1))
    assert reader.ask(wire.Get(A)) is None
    writer.ask(wire.Seal(A))
    assert reader.answers[-1].size == SIZE


def test_an_object_that_somebody_will_bring_is_waited_for(scene: Scene) -> None:
    reader = scene.peer()
    assert reader.ask(wire.Get(A, bringer=5)) is None
    scene.store.session_gone(5)
    assert problem(reader.answers[-1]) == "unknown"


def test_waiting_has_an_end(scene: Scene) -> None:
    reader = scene.peer()
    assert reader.ask(wire.Get(A, bringer=5, timeout=3.0)) is None
    scene.clock.advance(3)
    assert problem(reader.answers[-1]) == "timeout"


def test_who_has_left_waits_no_more(scene: Scene) -> None:
    reader, writer = scene.peer("x"), scene.peer("y")
    reader.ask(wire.Get(A, bringer=5, timeout=3.0))
    reader.session.end()
    writer.write(A)
    assert scene.leases("x") == 0
    assert len(reader.answers) == 1


def test_a_lease_that_may_not_have_arrived_is_taken_back(scene: Scene) -> None:
    peer, other = scene.peer(), scene.peer()
    peer.write(A)
    peer.ask(wire.Get(A))
    peer.ask(wire.Attach(1))
    other.ask(wire.Get(A))
    other.ask(wire.Kept(A))
    peer.session.end()
    assert scene.leases("x") == 1


def test_a_lease_that_has_arrived_outlives_the_connection(scene: Scene) -> None:
    peer, other = scene.peer(), scene.peer()
    peer.write(A)
    peer.ask(wire.Get(A))
    peer.ask(wire.Kept(B))
    peer.ask(wire.Kept(A))
    peer.ask(wire.Kept(A))
    peer.session.end()
    assert scene.leases("x") == 1
    other.session.end()
    assert scene.leases("x") == 0


def test_the_last_connection_takes_all_leases_along(scene: Scene) -> None:
    peers = [scene.peer() for _ in range(3)]
    stranger = scene.stranger()
    peers[0].write(A)
    for peer in peers:
        peer.ask(wire.Get(A))
        peer.ask(wire.Kept(A))
    scene.store.lease(A, "x")
    stranger.session.end()
    peers[0].session.end()
    peers[0].session.end()
    peers[1].session.end()
    assert scene.leases("x") == 4
    peers[2].session.end()
    assert scene.leases("x") == 0


def test_others_may_decide_when_leases_end(scene: Scene) -> None:
    left: list[str] = []
    scene.subjects = Subjects(scene.store, left.append)
    peers = [scene.peer(), scene.peer(), scene.peer("y")]
    peers[0].write(A)
    peers[0].ask(wire.Get(A))
    peers[0].ask(wire.Kept(A))
    peers[0].session.end()
    assert left == []
    peers[1].session.end()
    assert (left, scene.leases("x")) == (["x"], 1)


def test_segments_are_handed_out(scene: Scene) -> None:
    peer = scene.peer()
    region = peer.ask(wire.Create(A, SIZE, 1))
    segment = scene.store.segment(region.segment)
    known = wire.Segment(segment) if isinstance(segment, str) else (wire.Segment(), segment)
    assert peer.ask(wire.Attach(region.segment)) == known
    answer = peer.ask(wire.Attach(99))
    assert problem(answer) == "error"
    assert answer.text == "the store has no segment 99"


def test_segments_with_names_are_handed_out_by_name() -> None:
    scene = Scene(NamedMemory())
    peer = scene.peer()
    region = peer.ask(wire.Create(A, SIZE, 1))
    answer = peer.ask(wire.Attach(region.segment))
    assert answer == wire.Segment(scene.store.segment(region.segment))
    assert answer.name
    scene.store.close()


# ------------------------------------------------------------------- freeing


def test_objects_are_freed_and_that_can_be_waited_for(scene: Scene) -> None:
    peer, other = scene.peer(), scene.peer()
    peer.write(A)
    assert other.ask(wire.WaitFreed(A, 10.0)) is None
    assert peer.ask(wire.Free([A, B])) == wire.Ok()
    assert other.answers[-1] == wire.Ok(True)
    assert other.ask(wire.WaitFreed(A, 10.0)) == wire.Ok(True)


def test_waiting_for_an_end_that_does_not_come(scene: Scene) -> None:
    peer = scene.peer()
    peer.write(A)
    assert peer.ask(wire.WaitFreed(A, 2.0)) is None
    scene.clock.advance(2)
    assert peer.answers[-1] == wire.Ok(False)


def test_a_store_that_closes_says_so(scene: Scene) -> None:
    peer = scene.peer()
    peer.ask(wire.Get(A, bringer=1))
    scene.store.close()
    assert problem(peer.answers[-1]) == "error"
    assert peer.answers[-1].text == "the store of this host is closed"


def test_a_fault_of_the_store_is_told_and_logged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(scene.store, "free", broken)
    peer = scene.peer()
    assert peer.ask(wire.Free([A])) == wire.Problem("error", "oops")
    assert "the store failed for x" in caplog.text
    assert not peer.session.busy


# ------------------------------------------------------------------- forking


def test_a_child_holds_what_its_parent_has_mapped(scene: Scene) -> None:
    parent, lifeline = scene.peer(), scene.peer()
    for object_id in (A, B):
        parent.write(object_id)
        parent.ask(wire.Get(object_id))
        parent.ask(wire.Kept(object_id))
    assert lifeline.ask(wire.Hold([A, A])) == wire.Ok()
    assert lifeline.ask(wire.Hold([B, C])) == wire.Ok()
    child = lifeline.session.subject
    assert child == "x/1"
    parent.session.end()
    assert (scene.leases("x"), scene.leases(child), scene.leases(child, B)) == (0, 2, 1)
    lifeline.session.end()
    assert scene.leases(child) == scene.leases(child, B) == 0


def test_each_child_is_another_one(scene: Scene) -> None:
    parent, *children = (scene.peer() for _ in range(3))
    parent.write(A)
    parent.ask(wire.Get(A))
    for child in children:
        child.ask(wire.Hold([A]))
    assert (scene.leases("x/1"), scene.leases("x/2")) == (1, 1)
    children[0].session.end()
    assert (scene.leases("x/1"), scene.leases("x/2")) == (0, 1)


def test_a_child_holds_what_was_freed_before_it_was_made(scene: Scene) -> None:
    parent, lifeline, other = scene.peer(), scene.peer(), scene.peer("y")
    parent.write(A)
    parent.ask(wire.Get(A))
    parent.ask(wire.Kept(A))
    other.ask(wire.Free([A]))
    assert lifeline.ask(wire.Hold([A])) == wire.Ok()
    parent.ask(wire.Release([A]))
    assert scene.leases("x/1") == 1
    assert scene.store.stats().used > 0
    lifeline.session.end()
    assert scene.store.stats().used == 0


def test_a_child_holds_nothing_that_its_parent_has_not_leased(scene: Scene) -> None:
    writer, reader, lifeline = scene.peer("y"), scene.peer("y"), scene.peer()
    writer.write(A)
    writer.ask(wire.Create(B, SIZE, 1))
    reader.ask(wire.Get(A))
    assert lifeline.ask(wire.Hold([A, B, C])) == wire.Ok()
    assert [scene.leases("x/1", object_id) for object_id in (A, B, C)] == [0, 0, 0]
    lifeline.session.end()


# ------------------------------------------------------------- in any order


@settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
class Machine(RuleBasedStateMachine):
    """Leases of two subjects with several connections each, against a model that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        writer = self.scene.peer("writer")
        for object_id in (A, B):
            writer.write(object_id)
        self.peers: list[Peer] = []
        self.granted: dict[Peer, bytes] = {}
        self.counts: dict[tuple[str, bytes], int] = {}

    def teardown(self) -> None:
        self.scene.store.close()

    @rule(subject=st.sampled_from("xy"))
    def connect(self, subject: str) -> None:
        self.peers.append(self.scene.peer(subject))

    @precondition(lambda self: self.peers)
    @rule(data=st.data(), object_id=st.sampled_from([A, B]))
    def get(self, data: Any, object_id: bytes) -> None:
        peer = data.draw(st.sampled_from(self.peers))
        if peer in self.granted:
            peer.ask(wire.Kept(self.granted.pop(peer)))
        assert peer.ask(wire.Get(object_id)).size == SIZE
        self.granted[peer] = object_id
        self._count(peer, object_id, 1)

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def keep(self, data: Any) -> None:
        peer = data.draw(st.sampled_from(list(self.granted)))
        peer.ask(wire.Kept(self.granted.pop(peer)))

    @precondition(lambda self: self.peers)
    @rule(data=st.data(), objects=st.lists(st.sampled_from([A, B, C]), max_size=3))
    def release(self, data: Any, objects: list[bytes]) -> None:
        peer = data.draw(st.sampled_from(self.peers))
        peer.ask(wire.Release(objects))
        for object_id in objects:
            if self.counts.get((peer.name, object_id), 0):
                self._count(peer, object_id, -1)

    @precondition(lambda self: self.peers)
    @rule(data=st.data())
    def disconnect(self, data: Any) -> None:
        peer = data.draw(st.sampled_from(self.peers))
        self.peers.remove(peer)
        peer.session.end()
        granted = self.granted.pop(peer, None)
        if not any(other.name == peer.name for other in self.peers):
            for object_id in (A, B):
                self.counts[peer.name, object_id] = 0
        elif granted is not None and self.counts[peer.name, granted]:
            self._count(peer, granted, -1)

    def _count(self, peer: Peer, object_id: bytes, change: int) -> None:
        key = peer.name, object_id
        self.counts[key] = self.counts.get(key, 0) + change

    @invariant()
    def the_store_counts_the_same(self) -> None:
        for (subject, object_id), count in self.counts.items():
            assert self.scene.leases(subject, object_id) == count


TestMachine = Machine.TestCase
