"""Objects on their way to a host: searches, fetches, leases, and how each of them ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from ipkernel.errors import KernelError, ObjectLost, StoreFull, TransferError
from ipkernel.host.searches import EVERY, MAX_TRIES
from ipkernel.objects.transfer import TransferCancelled
from ipkernel.wire.messages import (
    Closing,
    Copied,
    Free,
    HostAccess,
    HostGone,
    Moving,
    Placed,
    Seek,
    SessionGone,
    Source,
)
from tests.support.objectscene import LIMIT, SIZE, Scene, oid

A, B = oid(1), oid(2)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


# ---------------------------------------------------------------- what is here


def test_what_is_here_is_leased_at_once(scene: Scene) -> None:
    scene.has(A)
    scene.has(B)
    needed = scene.require(B, A)
    assert needed.placed is not None
    assert [one.object for one in needed.placed] == [B, A]
    assert [one.size for one in needed.placed] == [SIZE, SIZE]
    assert scene.sent == []
    assert scene.leases(A) == scene.leases(B) == 1
    scene.objects.give_back([one.object for one in needed.placed], "e")
    assert scene.quiet()


def test_all_or_none_is_leased_now(scene: Scene) -> None:
    scene.has(A)
    assert scene.objects.lease_now([A, B, A], "e") is None
    assert scene.sent == []
    assert scene.quiet()
    scene.has(B)
    placed = scene.objects.lease_now([A, B, A], "e")
    assert placed is not None
    assert [one.object for one in placed] == [A, B, A]
    assert placed[0] == placed[2]
    assert scene.leases(A) == scene.leases(B) == 1
    scene.objects.give_back([A, B, A], "e")
    assert scene.quiet()
    assert scene.objects.lease_now([], "e") == []


def test_an_object_that_is_needed_twice_is_leased_twice(scene: Scene) -> None:
    scene.has(A)
    needed = scene.require(A, A)
    assert needed.placed is not None and needed.placed[0] == needed.placed[1]
    scene.objects.give_back([needed.placed[0].object], "e")
    assert scene.leases(A) == 1
    scene.objects.give_back([one.object for one in needed.placed[1:]], "e")
    assert scene.quiet()


def test_a_holder_that_is_gone_holds_nothing(scene: Scene) -> None:
    scene.has(A)
    scene.has(B)
    scene.require(A)
    scene.objects.drop("e", [B, oid(3)])
    assert scene.quiet()
    assert scene.store.info(B) is None and scene.store.info(A) is not None


# ---------------------------------------------------------------- fetched


def test_an_object_is_fetched_from_where_it_is(scene: Scene) -> None:
    needed = scene.require(A)
    assert scene.sent == [Seek(A)]
    scene.say(Source(A, SIZE, 2))
    fetch = scene.fetches[0]
    assert (fetch.access.host, fetch.object_id, len(fetch.target)) == (2, A, SIZE)
    assert needed.open
    fetch.succeed()
    assert scene.sent == [Seek(A), Copied([A])]
    assert needed.placed == [Placed(A, needed.placed[0].segment, needed.placed[0].offset, SIZE)]  # type: ignore[index]
    info = scene.store.info(A)
    assert info is not None and info.digest == b"digest of 16 byt" and info.sealed
    assert info.leases == 1


def test_many_who_need_it_are_one_search(scene: Scene) -> None:
    first, second = scene.require(A, holder="e"), scene.require(A, A, holder="f")
    scene.say(Source(A, SIZE, 2))
    third = scene.require(A, holder="g")
    scene.fetches[0].succeed()
    assert scene.sent == [Seek(A), Copied([A])]
    assert [len(one.placed or ()) for one in (first, second, third)] == [1, 2, 1]
    assert scene.leases(A) == 3
    assert len(scene.fetches) == 1


def test_a_source_that_fails_is_reported_and_the_next_one_tried(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].fail()
    assert scene.sent[1:] == [Seek(A, 2, "it does not answer")]
    assert scene.store.info(A) is None and needed.open
    scene.say(Source(A, SIZE, 3))
    scene.fetches[1].succeed()
    assert needed.placed and scene.sent[-1] == Copied([A])


def test_a_search_ends_with_the_controllers_reason(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, problem="host n2 is gone, and nobody else has it"))
    assert isinstance(needed.error, ObjectLost)
    assert str(needed.error) == "host n2 is gone, and nobody else has it"
    assert scene.quiet()


def test_a_search_that_leads_nowhere_is_given_up(scene: Scene) -> None:
    needed = scene.require(A)
    for _ in range(MAX_TRIES):
        assert needed.open
        scene.say(Source(A, SIZE, 2))
        scene.fetches[-1].fail()
    assert isinstance(needed.error, ObjectLost) and "does not answer" in str(needed.error)
    assert scene.quiet()


@pytest.mark.parametrize("host", [1, 9])
def test_a_host_that_cannot_be_asked(scene: Scene, host: int) -> None:
    scene.require(A)
    scene.say(Source(A, SIZE, host))
    assert scene.sent[-1] == Seek(A, host, "its address is not known here")
    assert not scene.fetches


def test_a_second_answer_while_it_is_fetched_changes_nothing(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2), Source(A, SIZE, 3), Source(A, problem="no"))
    assert len(scene.fetches) == 1 and needed.open


def test_answers_about_what_nobody_seeks(scene: Scene) -> None:
    """The controller is not left waiting for a copy that nobody makes."""
    scene.say(Source(A, problem="no"), Source(A), Closing("bye"))
    assert scene.sent == []
    scene.say(Source(A, SIZE, 2))
    assert scene.sent.pop() == Seek(A, 2, "it is not looked for any more")
    scene.has(A)
    scene.say(Source(A, SIZE, 2))
    assert scene.sent == [Copied([A])]
    assert not scene.fetches and scene.quiet()


def test_an_object_that_does_not_fit_ends_the_task(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, 2 * LIMIT, 2))
    assert isinstance(needed.error, StoreFull)
    assert scene.quiet()
    assert scene.sent[-1].failed == 2  # the other host may serve somebody else


def test_a_host_that_cannot_bring_it_back_from_disk_is_not_the_last_one(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].fail(StoreFull("no room"))
    assert needed.open and scene.sent[-1].failed == 2
    scene.say(Source(A, SIZE, 3))
    scene.fetches[1].succeed()
    assert needed.placed


def test_what_is_on_a_full_host_is_not_lost(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].fail(StoreFull("no room"))
    scene.say(Source(A, problem="nobody else has it"))
    assert isinstance(needed.error, StoreFull)
    assert str(needed.error) == f"host n2 cannot send object {A[:4].hex()}: no room"
    assert scene.quiet() and scene.store.info(A) is None


def test_fetches_that_take_long_are_reported_every_second(scene: Scene) -> None:
    quick, slow = scene.require(A), scene.require(B)
    scene.say(Source(A, SIZE, 2), Source(B, SIZE, 3))
    scene.fetches[0].succeed()
    scene.sent.clear()
    scene.clock.advance(EVERY)
    assert quick.placed and not scene.sent, "nothing has come yet"
    for done in (100, 200):
        scene.fetches[1].transfer.advance(100)
        scene.clock.advance(EVERY)
        assert scene.sent.pop() == Moving(B, done) and not scene.sent
    scene.fetches[1].succeed()
    assert slow.placed and scene.sent == [Copied([B])]
    scene.clock.advance(10 * EVERY)
    assert scene.sent == [Copied([B])]


def test_nothing_is_reported_after_the_end(scene: Scene) -> None:
    scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.objects.disconnected()
    scene.sent.clear()
    scene.fetches[0].transfer.done = 100
    scene.clock.advance(10 * EVERY)
    assert not scene.sent
    scene.fetches[0].fail()


def test_an_internal_error_in_a_fetch_ends_the_search(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].fail(ZeroDivisionError("oops"))
    assert isinstance(needed.error, KernelError) and "oops" in str(needed.error)
    assert scene.quiet() and scene.store.info(A) is None
    assert scene.sent[-1].failed == 2


# ---------------------------------------------------------------- brought


def test_an_object_that_its_owner_brings(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE))
    assert needed.open
    scene.has(A)
    assert needed.placed and scene.sent == [Seek(A), Copied([A])]


def test_an_object_that_was_brought_before_the_answer_came(scene: Scene) -> None:
    needed = scene.require(A)
    scene.has(A)
    assert needed.open
    scene.say(Source(A, SIZE))
    assert needed.placed and scene.sent == [Seek(A), Copied([A])]


def test_an_owner_that_is_cut_off_may_try_again(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE))
    scene.put(A)
    scene.store.abandon(A)
    assert needed.open
    scene.has(A)
    assert needed.placed


def test_an_owner_that_is_gone(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE))
    scene.put(A)
    scene.store.drop("client")
    scene.say(SessionGone(5), Source(A, problem="its owner is gone"))
    assert str(needed.error) == "its owner is gone"
    assert scene.quiet()


def test_an_object_that_does_not_fit_when_it_is_brought(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE))
    refused: list[Any] = []
    scene.store.create(A, 2 * LIMIT, owner=5, writer="client").addErrback(refused.append)
    assert refused and isinstance(needed.error, StoreFull)
    assert scene.quiet()


def test_an_owner_that_gives_up_leaves_it_to_others(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE), Source(A, SIZE))
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].succeed()
    assert needed.placed and scene.sent == [Seek(A), Copied([A])]


def test_one_who_brings_it_while_it_shall_be_fetched(scene: Scene) -> None:
    needed = scene.require(A)
    scene.put(A)
    scene.say(Source(A, SIZE, 2))
    assert not scene.fetches and needed.open
    scene.store.seal(A)
    assert needed.placed and scene.sent == [Seek(A), Copied([A])]
    scene.objects.give_back([one.object for one in needed.placed], "e")
    assert scene.quiet()


def test_one_who_brings_it_and_gives_up_while_it_shall_be_fetched(scene: Scene) -> None:
    needed = scene.require(A)
    scene.put(A)
    scene.say(Source(A, SIZE, 2))
    scene.store.abandon(A)
    assert scene.sent[-1].failed == 2 and needed.open
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].succeed()
    assert needed.placed


# ---------------------------------------------------------------- several, and failures


def test_all_or_nothing(scene: Scene) -> None:
    scene.has(A)
    needed = scene.require(A, B)
    assert scene.leases(A) == 1
    scene.say(Source(B, problem="lost"))
    assert isinstance(needed.error, ObjectLost)
    assert scene.quiet()


def test_the_first_failure_is_told_at_once(scene: Scene) -> None:
    needed = scene.require(A, B, oid(3))
    scene.say(Source(A, SIZE, 2), Source(B, problem="lost"), Source(oid(3), problem="lost too"))
    assert str(needed.error) == "lost"
    scene.fetches[0].succeed()  # the controller counts on it
    assert scene.sent[-1] == Copied([A])
    assert scene.quiet() and scene.store.info(A) is not None


def test_cancelling_gives_back_what_was_leased(scene: Scene) -> None:
    scene.has(A)
    needed = scene.require(A, B)
    needed.deferred.cancel()
    assert isinstance(needed.error, CancelledError)
    assert scene.leases(A) == 0
    scene.say(Source(B, SIZE, 2))
    scene.fetches[0].succeed()
    assert scene.quiet() and scene.sent[-1] == Copied([B])


def test_a_second_task_takes_over_the_search_of_a_cancelled_one(scene: Scene) -> None:
    scene.require(A).deferred.cancel()
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.fetches[0].succeed()
    assert needed.placed and scene.sent == [Seek(A), Copied([A])]


# ---------------------------------------------------------------- freed, lost


def test_freed_objects_are_forgotten(scene: Scene) -> None:
    scene.has(A)
    needed = scene.require(A)
    scene.say(Free([A, B]))
    assert scene.store.info(A) is None
    assert scene.store.stats().leased > 0  # until the engine lets go of it
    scene.objects.give_back([one.object for one in needed.placed or ()], "e")
    assert scene.quiet()


def test_freeing_ends_a_search_and_its_fetch(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2), Free([A]))
    assert isinstance(needed.error, ObjectLost) and "freed" in str(needed.error)
    assert scene.fetches[0].transfer.cancelled
    scene.fetches[0].fail(TransferCancelled("cancelled"))
    assert scene.sent == [Seek(A)] and scene.quiet() and scene.store.info(A) is None


def test_a_fetch_that_ends_well_though_it_was_cancelled(scene: Scene) -> None:
    scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.objects.disconnected()
    scene.fetches[0].succeed()
    assert scene.sent == [Seek(A)] and scene.store.info(A) is None and scene.quiet()


def test_a_new_search_waits_until_the_old_fetch_has_let_go(scene: Scene) -> None:
    scene.require(A)
    scene.say(Source(A, SIZE, 2))
    scene.objects.disconnected()
    scene.say(HostAccess(2, "n2", "tub", "pin"))
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    assert len(scene.fetches) == 1
    scene.fetches[0].fail(TransferCancelled("cancelled"))
    scene.say(Source(A, SIZE, 2))
    scene.fetches[1].succeed()
    assert needed.placed


def test_a_lost_host_is_forgotten_and_its_fetches_fail(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2), HostGone(2, "killed"))
    assert scene.forgotten == [2]
    scene.fetches[0].fail(TransferError("the connection was cut"))
    assert scene.sent[-1] == Seek(A, 2, "the connection was cut")
    scene.say(Source(A, SIZE, 2))
    assert scene.sent[-1] == Seek(A, 2, "its address is not known here")
    assert needed.open


def test_a_lost_controller_ends_all_searches(scene: Scene) -> None:
    asked, fetched, brought = scene.require(A), scene.require(B), scene.require(oid(3))
    scene.say(Source(B, SIZE, 2), Source(oid(3), SIZE))
    scene.objects.disconnected()
    assert all("was lost" in str(one.error) for one in (asked, fetched, brought))
    assert scene.fetches[0].transfer.cancelled
    scene.fetches[0].fail(TransferCancelled("cancelled"))
    assert scene.quiet() and scene.forgotten == [2, 3]


def test_sessions_that_are_gone_bring_nothing(scene: Scene) -> None:
    failures: list[Any] = []
    scene.store.lease(A, "e", bringer=5).addErrback(failures.append)
    scene.say(SessionGone(4))
    assert not failures
    scene.say(SessionGone(5))
    assert failures


def test_ids_are_not_shown_in_full(scene: Scene) -> None:
    needed = scene.require(A)
    scene.say(Source(A, SIZE, 2))
    assert A.hex() not in scene.fetches[0].transfer.what
    scene.say(Free([A]))
    assert A.hex() not in str(needed.error)


# ------------------------------------------------------- a controller that was started again


def test_what_is_looked_for_is_asked_for_again(scene: Scene) -> None:
    scene.require(A)
    scene.require(B)
    scene.say(Source(B, SIZE, 2))  # which is on its way
    scene.sent.clear()
    scene.objects.searches.ask_again()
    assert scene.sent == [Seek(A)]


def test_what_is_complete_is_told(scene: Scene) -> None:
    assert scene.objects.restarted() == []
    scene.has(A)
    scene.require(B)
    scene.say(Source(B, SIZE, 2))  # of which a part may be here
    assert scene.objects.restarted() == [(A, SIZE)]
