"""The directory of objects: which there are, who refers to them, and what became of them."""

from __future__ import annotations

import pytest

from ipkernel.controller import objects
from ipkernel.sizes import size_text
from ipkernel.wire.messages import Free, Moving, Source
from tests.support.directory import ALICE, BOB, TASK, Places, X, Y, Z, oid

# ------------------------------------------------------------------------- references


def test_an_object_is_freed_where_it_is_when_its_session_releases_it() -> None:
    w = Places()
    w.at(1, X)
    w.copied(2, X)
    assert not w.freed()
    w.d.release(ALICE, [X])
    w.settle()
    assert w.freed() == {(1, X), (2, X)}
    assert not w.d.entries
    assert w.d.usage(1) == (0, 0)


def test_a_session_refers_to_an_object_once_however_often_it_says_so() -> None:
    w = Places()
    w.at(1, X)
    w.at(1, X)
    w.d.release(ALICE, [X, X, Y])
    w.settle()
    assert w.freed() == {(1, X)}
    w.d.release(ALICE, [X])
    assert not w.settle()


def test_an_object_lives_until_the_last_session_releases_it() -> None:
    w = Places()
    w.at(1, X)
    w.at(1, X, session=BOB)
    w.d.leave(ALICE)
    w.settle()
    assert X in w.d.entries
    w.d.leave(BOB)
    w.settle()
    assert w.freed() == {(1, X)}


def test_a_task_that_needs_an_object_keeps_it() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.d.need(TASK, [X, X])
    w.d.release(ALICE, [X])
    assert not w.settle()
    w.d.need_no_more(TASK, [X, X])
    w.settle()
    assert w.freed() == {(-ALICE, X)}


def test_a_reference_moves_without_a_gap() -> None:
    w = Places()
    w.at(1, X)
    w.d.leave(ALICE)
    w.d.refer(TASK, X)
    assert not w.settle()
    w.d.leave(TASK)
    w.d.refer(BOB, X)
    assert not w.settle()


def test_many_objects_are_freed_in_one_message() -> None:
    w = Places()
    ids = [oid(n) for n in range(500)]
    w.at(1, *ids)
    w.d.release(ALICE, ids)
    [(place, message)] = w.settle()
    assert place == 1
    assert isinstance(message, Free)
    assert sorted(message.objects) == ids


def test_more_objects_than_a_message_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_MANY", 10)
    w = Places()
    ids = [oid(n) for n in range(25)]
    w.at(1, *ids)
    w.d.release(ALICE, ids)
    w.settle()
    assert [len(m.objects) for _, m in w.sent if isinstance(m, Free)] == [10, 10, 5]


def test_what_was_made_for_nobody_is_freed_at_once() -> None:
    w = Places()
    w.d.made(X, 10, 1)
    w.settle()
    assert w.freed() == {(1, X)}
    w.d.stray(2, Y)
    w.settle()
    assert w.freed() == {(2, Y)}


def test_a_stray_copy_of_an_object_that_lives_is_left_alone() -> None:
    w = Places()
    w.at(1, X)
    w.d.stray(1, X)
    assert not w.settle()


def test_a_copy_that_comes_after_the_end_is_freed() -> None:
    w = Places()
    w.at(1, X)
    w.d.release(ALICE, [X])
    w.settle()
    w.copied(3, X)
    assert w.freed() == {(3, X)}


def test_an_object_is_not_made_twice() -> None:
    w = Places()
    w.at(1, X)
    w.d.release(ALICE, [X])
    w.settle()
    assert not w.d.made(X, 10, 2, BOB)
    w.settle()
    assert w.freed() == {(2, X)}
    assert not w.d.made(X, 10, 0, BOB)
    w.settle()
    assert w.freed() == {(-BOB, X)}


# ----------------------------------------------------------------- what cannot be had


def test_why_an_object_cannot_be_had() -> None:
    w = Places()
    w.at(1, X, length=1_234_567)
    w.at(2, Y)
    w.kept_by(BOB, Z)
    assert w.d.problem([X, Y, Z]) == ""
    assert w.d.problem([X, oid(5)]) == (
        "object 00000000 is not known to the controller: it was freed long ago, or it never was there"
    )
    w.d.refer(ALICE, Z)
    w.d.release(ALICE, [X])
    w.d.host_lost(2, "connection lost")
    w.d.client_gone(BOB)
    w.settle()
    assert w.d.problem([X]) == (
        "object aaaaaaaa (1.2 MB) was freed: nothing referred to it any more"
    )
    assert w.d.problem([Y]) == (
        "object bbbbbbbb (1.0 KB) is lost: host n2, which had it, is gone (connection lost)"
    )
    assert w.d.problem([Z]) == (
        "object cccccccc (1.0 KB) is lost: its client is gone, and no host had got it yet"
    )
    lost = w.d.problem([Y])
    w.d.release(ALICE, [Y])
    w.settle()
    assert w.d.problem([Y]) == lost  # what was freed then was lost before


def test_only_so_much_is_remembered_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_REMEMBERED", 2)
    w = Places()
    for object_id in (X, Y, Z):
        w.at(1, object_id)
        w.d.release(ALICE, [object_id])
        w.settle()
    assert "freed long ago" in w.d.problem([X])
    assert "was freed" in w.d.problem([Y])
    assert "was freed" in w.d.problem([Z])


def test_tasks_that_need_a_lost_object_are_named_once() -> None:
    w = Places()
    w.at(1, X)
    w.d.need(TASK, [X])
    w.d.need(TASK + 1, [X])
    w.d.host_lost(1, "gone")
    w.d.settle()
    assert [task for task, _ in w.d.missing] == [TASK, TASK + 1]
    assert all("aaaaaaaa" in text and "n1" in text for _, text in w.d.missing)
    w.settle()
    w.seek(X, 2)
    assert not w.d.missing
    assert "n1" in w.problems()[2]


def test_a_copy_that_turns_up_ends_a_loss() -> None:
    w = Places()
    w.at(1, X)
    w.d.host_lost(1, "gone")
    w.settle()
    assert w.d.entries[X].lost
    w.copied(2, X)
    assert w.d.problem([X]) == ""
    w.seek(X, 3)
    assert w.sources() == {3: 2}


def test_an_object_on_a_host_that_is_gone_already_is_lost() -> None:
    w = Places()
    w.at(9, X)
    assert w.d.entries[X].lost
    assert "the host that had it is gone" in w.d.problem([X])


def test_a_host_that_asks_for_what_it_had_does_not_have_it() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 1)
    assert "host n1 does not have it any more" in w.problems()[1]
    w.at(2, Y)
    w.copied(3, Y)
    w.seek(Y, 2)
    assert w.sources() == {2: 3}


def test_hosts_report_their_usage() -> None:
    w = Places()
    w.at(1, X, Y, length=500)
    w.copied(2, X)
    assert w.d.usage(1) == (2, 1000)
    assert w.d.usage(2) == (1, 500)
    assert w.d.usage(77) == (0, 0)


def test_what_would_be_lost_with_a_host() -> None:
    w = Places()
    w.at(1, X, Y, Z)
    w.copied(2, X)
    w.kept_by(ALICE, Y)
    assert (w.d.sole(1), w.d.sole(2), w.d.sole(77)) == (1, 0, 0)
    w.d.release(ALICE, [Z])
    w.settle()
    assert w.d.sole(1) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (65536, "65.5 KB"), (5e6, "5.0 MB"), (2e13, "20.0 TB")],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert size_text(size) == text


def movements(w: Places) -> dict[int, int]:
    """Who was told that how much of an object is there."""
    return {-p: m.done for p, m in w.sent if isinstance(m, Moving)}


def test_sessions_are_told_how_far_a_host_is_and_of_the_end() -> None:
    w = Places()
    w.at(1, X)
    entry, moving = w.d.entries[X], w.d.sources.moving
    moving(entry, 2, 100, [ALICE])
    assert not movements(w), "it has not asked for it"
    w.seek(X, 2)
    moving(entry, 2, 250, [ALICE])
    w.settle()
    assert movements(w) == {ALICE: 250}
    assert w.d.why(2, [X]).endswith("is being fetched from host n1, 25% of it is there")
    moving(entry, 2, 2000, [BOB])
    w.settle()
    assert movements(w) == {ALICE: 999, BOB: 999}
    w.copied(2, X)
    assert movements(w) == {ALICE: 1000, BOB: 1000}


def test_sessions_are_told_of_an_end_that_is_no_success() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 2)
    w.d.sources.moving(w.d.entries[X], 2, 250, [ALICE])
    w.settle()
    w.seek(X, 2, failed=1)
    assert w.problems()[2] and movements(w) == {ALICE: 1000}


def test_messages_of_a_settled_directory_are_taken_once() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 2)
    assert [type(m) for _, m in w.sent] == [Source]
    assert not w.d.busy
    assert not w.d.take_out()
