"""Objects that come in over data connections: who may write where, and when it is over."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock

from ipkernel.errors import ObjectError, StoreFull, TransferError, UnknownObject
from ipkernel.objects.digests import combined_digest
from ipkernel.objects.entries import ObjectExists
from ipkernel.objects.interfaces import ObjectInfo, Placement
from ipkernel.objects.ranges import PIECE
from ipkernel.objects.uploads import Upload, Uploads

ONE = b"1" * 16
TWO = b"2" * 16


class Reactor(Clock):
    """A clock whose thread is this one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def callFromThread(self, call, *args) -> None:
        self.calls.append((call, args))

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call, args in calls:
            call(*args)


class Store:
    """A store that remembers what it was told, and answers when it is told to."""

    def __init__(self) -> None:
        self.writing: dict[bytes, str] = {}
        self.sealed: dict[bytes, bytes] = {}
        self.abandoned: list[bytes] = []
        self.room: Deferred[None] = succeed(None)
        self.waits: dict[bytes, Deferred[Placement]] = {}
        self.released: list[tuple[bytes, str]] = []

    def create(self, object_id, size, *, owner, writer):
        if object_id in self.writing or object_id in self.sealed:
            return fail(ObjectExists("there"))
        self.writing[object_id] = writer
        placed = Deferred(lambda _: self.writing.pop(object_id))
        self.room.addCallback(lambda _: placed.called or placed.callback(Placement(1, 0, size)))
        return placed

    def seal(self, object_id, digest=b""):
        if object_id not in self.writing:
            raise UnknownObject("nobody is writing it")
        del self.writing[object_id]
        self.sealed[object_id] = digest

    def abandon(self, object_id):
        self.abandoned.append(object_id)
        self.writing.pop(object_id, None)

    def lease(self, object_id, holder, **_):
        return self.waits.setdefault(object_id, Deferred())

    def release(self, object_id, holder):
        self.released.append((object_id, holder))

    def view(self, placement):
        return memoryview(bytearray(placement.size))

    def info(self, object_id):
        if object_id in self.sealed:
            return ObjectInfo(1, True, b"", True, 0)
        return ObjectInfo(1, False, b"", True, 0) if object_id in self.writing else None


class Writer:
    """A connection."""

    def __init__(self) -> None:
        self.was_cut = threading.Event()

    def cut(self) -> None:
        self.was_cut.set()


class World:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.store = Store()
        self.uploads = Uploads(self.reactor, self.store, grace=30.0)

    def begin(
        self,
        writer: Writer,
        object_id: bytes = ONE,
        size: int = 100,
        who: str = "ann",
        owner: int = 7,
    ) -> Deferred[Upload | None]:
        return ensureDeferred(self.uploads.begin(object_id, size, owner, who, writer))

    def begun(self, writer: Writer, **how: Any) -> Upload:
        found: list[Upload] = []
        self.begin(writer, **how).addCallback(found.append)
        assert isinstance(found[0], Upload)
        return found[0]


@pytest.fixture
def world() -> World:
    return World()


def outcome(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "there is no outcome yet"
    return getattr(found[0], "value", found[0])


# ---------------------------------------------------------------- one that comes in


def test_an_object_comes_in(world: World) -> None:
    writer = Writer()
    upload = world.begun(writer, size=PIECE + 5)
    assert upload.have == []
    first = upload.claim(0, PIECE, writer)
    assert first is not None
    first[:3] = b"abc"
    assert not upload.settle(0, PIECE, b"d" * 16)
    assert upload.have == [(0, PIECE)]
    assert upload.claim(0, PIECE, writer) is None
    last = upload.claim(PIECE, 5, writer)
    assert last is not None and len(last) == 5
    assert upload.settle(PIECE, 5, b"e" * 16)
    world.uploads.seal(upload)
    assert world.store.sealed == {ONE: combined_digest([b"d" * 16, b"e" * 16])}
    assert len(world.uploads) == 0
    assert not world.store.abandoned
    world.uploads.leave(writer)
    assert not world.reactor.getDelayedCalls()


def test_wrong_bytes_do_not_count(world: World) -> None:
    writer = Writer()
    upload = world.begun(writer)
    upload.claim(0, 100, writer)
    assert not upload.settle(0, 100, None)
    assert upload.have == []
    assert upload.claim(0, 100, writer) is not None


def test_an_empty_object_is_complete_at_once(world: World) -> None:
    assert outcome(world.begin(Writer(), size=0)) is None
    assert world.store.sealed == {ONE: combined_digest([])}


def test_no_room(world: World) -> None:
    world.store.room = fail(StoreFull("no room"))
    world.store.create = lambda *a, **k: fail(StoreFull("no room"))
    assert isinstance(outcome(world.begin(Writer())), StoreFull)
    assert len(world.uploads) == 0


def test_what_is_not_a_piece_is_refused(world: World) -> None:
    writer = Writer()
    upload = world.begun(writer)
    with pytest.raises(TransferError, match="not a piece"):
        upload.claim(0, 99, writer)


def test_who_goes_away_while_he_waits_for_room_leaves_nothing(world: World) -> None:
    world.store.room = Deferred()
    waiting = world.begin(Writer())
    assert world.store.writing
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert not world.store.writing


# ---------------------------------------------------------------- several connections


def test_two_connections_write_one_object(world: World) -> None:
    one, two = Writer(), Writer()
    upload = world.begun(one, size=2 * PIECE)
    assert world.begun(two, size=2 * PIECE) is upload
    assert upload.claim(0, PIECE, one) is not None
    assert upload.claim(PIECE, PIECE, two) is not None
    assert not upload.settle(PIECE, PIECE, bytes(16))
    assert upload.settle(0, PIECE, bytes(16))
    assert not one.was_cut.is_set()


def test_an_upload_outlives_its_connections_for_a_while(world: World) -> None:
    one, two = Writer(), Writer()
    upload = world.begun(one)
    world.uploads.leave(one)
    world.reactor.advance(29.0)
    assert world.begun(two) is upload
    world.reactor.advance(100.0)
    assert not world.store.abandoned
    world.uploads.leave(two)
    world.reactor.advance(30.0)
    assert world.store.abandoned == [ONE]
    assert len(world.uploads) == 0


def test_it_lives_as_long_as_one_of_them_is_there(world: World) -> None:
    one, two = Writer(), Writer()
    world.begun(one)
    world.begun(two)
    world.uploads.leave(one)
    world.reactor.advance(100.0)
    assert not world.store.abandoned


def test_who_sends_a_piece_again_has_the_other_cut(world: World) -> None:
    old, new = Writer(), Writer()
    upload = world.begun(old)
    world.begun(new)
    assert upload.claim(0, 100, old) is not None

    def let_go() -> None:
        assert old.was_cut.wait(10)
        upload.settle(0, 100, None)

    thread = threading.Thread(target=let_go)
    thread.start()
    assert upload.claim(0, 100, new) is not None
    thread.join()


def test_one_who_finishes_first_has_brought_it(world: World) -> None:
    old, new = Writer(), Writer()
    upload = world.begun(old)
    world.begun(new)
    assert upload.claim(0, 100, old) is not None

    def finish() -> None:
        assert old.was_cut.wait(10)
        assert upload.settle(0, 100, bytes(16))

    thread = threading.Thread(target=finish)
    thread.start()
    assert upload.claim(0, 100, new) is None
    thread.join()
    world.uploads.seal(upload)
    assert upload.claim(0, 100, new) is None


def test_one_who_does_not_let_go_keeps_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.objects.uploads._LET_GO", 0.0)
    old, new = Writer(), Writer()
    upload = world.begun(old)
    upload.claim(0, 100, old)
    with pytest.raises(TransferError, match="are still being written by another connection"):
        upload.claim(0, 100, new)


# ---------------------------------------------------------------- the end before the end


@pytest.mark.parametrize("how", ["abandon", "session", "close"])
def test_ends(world: World, how: str) -> None:
    writer = Writer()
    upload = world.begun(writer)
    ending = {
        "abandon": lambda: world.uploads.abandon(ONE, "ann"),
        "session": lambda: world.uploads.session_gone(7),
        "close": lambda: world.uploads.close(),
    }
    ending[how]()
    assert world.store.abandoned == [ONE]
    with pytest.raises(TransferError, match="was given up meanwhile"):
        upload.claim(0, 100, writer)
    with pytest.raises(UnknownObject, match="was given up meanwhile"):
        world.uploads.seal(upload)
    world.uploads.leave(writer)
    assert not world.reactor.getDelayedCalls()


def test_nothing_begins_after_the_end(world: World) -> None:
    world.store.room = Deferred()
    waiting = world.begin(Writer())
    world.uploads.close()
    assert "the host takes no more objects in" in str(outcome(world.begin(Writer(), TWO)))
    world.store.room.callback(None)
    assert "the host takes no more objects in" in str(outcome(waiting))
    assert world.store.abandoned == [ONE]
    assert not world.store.writing
    assert len(world.uploads) == 0


def test_the_store_gets_its_memory_back_only_when_nobody_writes_there(world: World) -> None:
    writer = Writer()
    upload = world.begun(writer)
    upload.claim(0, 100, writer)
    world.uploads.abandon(ONE, "ann")
    assert writer.was_cut.is_set()
    world.reactor.turn()
    assert not world.store.abandoned
    assert not upload.settle(0, 100, None)
    assert not world.store.abandoned  # that was not the reactor's thread
    world.reactor.turn()
    assert world.store.abandoned == [ONE]


def test_a_last_piece_that_comes_too_late(world: World) -> None:
    writer = Writer()
    upload = world.begun(writer)
    upload.claim(0, 100, writer)
    world.uploads.session_gone(7)
    if upload.settle(0, 100, bytes(16)):
        with pytest.raises(UnknownObject):
            world.uploads.seal(upload)
    world.reactor.turn()
    assert world.store.abandoned == [ONE]
    assert not world.store.sealed


def test_others_cannot_end_it(world: World) -> None:
    world.begun(Writer())
    world.uploads.abandon(ONE, "bob")
    world.uploads.abandon(TWO, "ann")
    world.uploads.session_gone(8)
    assert not world.store.abandoned
    assert len(world.uploads) == 1


# ---------------------------------------------------------------- somebody else writes it


def test_an_object_that_is_there(world: World) -> None:
    world.store.sealed[ONE] = b""
    assert outcome(world.begin(Writer())) is None


def test_an_object_that_somebody_else_completes(world: World) -> None:
    world.begun(Writer(), who="bob")
    begun = world.begin(Writer(), who="ann")
    world.store.waits[ONE].callback(Placement(1, 0, 100))
    assert outcome(begun) is None
    assert [one for one, _ in world.store.released] == [ONE]


def test_an_object_that_somebody_else_gives_up(world: World) -> None:
    world.begun(Writer(), who="bob")
    begun = world.begin(Writer(), who="ann")
    world.uploads.abandon(ONE, "bob")
    world.store.waits.pop(ONE).errback(TransferError("given up"))
    upload = outcome(begun)
    assert isinstance(upload, Upload)
    assert upload.subject == "ann"


def test_another_size_is_another_object(world: World) -> None:
    world.begun(Writer(), size=100)
    begun = world.begin(Writer(), size=99)
    world.store.waits[ONE].callback(Placement(1, 0, 100))
    assert outcome(begun) is None


def test_waiting_has_an_end(world: World) -> None:
    world.store.lease = lambda *a, **k: fail(TransferError("given up"))
    world.store.writing[ONE] = "somebody who never finishes"
    error = outcome(world.begin(Writer()))
    assert isinstance(error, ObjectError)
    assert "others give it up again" in str(error)


def test_an_upload_does_not_have_the_name_of_a_connection(world: World) -> None:
    world.begun(Writer())
    # Dropping what a connection of this number holds must not end what it has begun.
    assert world.store.writing[ONE].startswith("upload:")
