"""Who fetches which object from where: the tree, what clients bring, and failures."""

from __future__ import annotations

from ipkernel.controller.sources import MAX_EACH, MAX_FAILURES
from tests.support.directory import ALICE, BOB, Places, X, Y, Z, oid

# --------------------------------------------------------------------------- the tree


def test_a_host_serves_two_others_and_these_serve_the_rest() -> None:
    w = Places(8)
    w.at(1, X)
    w.seek(X, 2, 3, 4, 5, 6, 7, 8)
    assert w.sources() == {2: 1, 3: 1}
    w.copied(2, X)
    assert sorted(w.sources()) == [4, 5, 6]
    assert sorted(w.sources().values()) == [1, 2, 2]
    w.copied(3, X)
    assert set(w.sources()) == {7, 8}
    for host in (4, 5, 6, 7, 8):
        w.copied(host, X)
        assert not w.problems()
    assert w.d.entries[X].holders == set(range(1, 9))
    assert not w.d.sources.servers


def test_an_object_reaches_hundreds_of_hosts_in_few_rounds() -> None:
    w = Places(300)
    w.at(1, X)
    w.seek(X, *range(2, 301))
    rounds = 0
    while going := w.sources():
        rounds += 1
        for host in going:
            w.d.copied(host, [X])
        w.settle()
    assert len(w.d.entries[X].holders) == 300
    assert rounds <= 8


def test_a_host_fetches_a_few_objects_from_one_place_at_a_time() -> None:
    w = Places()
    ids = [oid(n) for n in range(20)]
    w.at(1, *ids)
    for object_id in ids:
        w.d.seek(2, object_id)
    w.settle()
    told = [m.object for p, m in w.sent if p == 2]
    assert told == ids[:MAX_EACH]
    w.copied(2, ids[0])
    assert [m.object for p, m in w.sent if p == 2] == [ids[MAX_EACH]]


def test_nobody_jumps_a_queue() -> None:
    w = Places(5)
    w.at(1, X, Y, Z)
    w.seek(X, 2, 3, 4)  # 4 waits
    w.seek(Y, 5)
    w.seek(Z, 2)  # it is being served, but others were there before
    assert not w.sources()
    w.copied(2, X)
    assert set(w.sources()) == {4, 5}


def test_why_a_host_waits() -> None:
    w = Places(5)
    w.at(1, X)
    w.kept_by(BOB, Y)
    assert w.d.why(1, [X]) == ""
    assert w.d.why(2, [X]) == "object aaaaaaaa (1.0 KB) has not been asked for yet"
    w.seek(X, 2, 3, 4)
    w.seek(Y, 2, 3)
    assert w.d.why(2, [X]) == "object aaaaaaaa (1.0 KB) is being fetched from host n1"
    assert w.d.why(4, [X]) == (
        "object aaaaaaaa (1.0 KB) waits for host n1, which serves host n2, host n3 first"
    )
    assert w.d.why(2, [Y]) == (
        "object bbbbbbbb (1.0 KB) is being sent by the client of session 200"
    )
    assert w.d.why(3, [Y]) == (
        "object bbbbbbbb (1.0 KB) waits for the copy that another host is getting"
    )


# ---------------------------------------------------------------------------- clients


def test_a_client_brings_an_object_to_one_host_and_the_others_get_it_there() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.seek(X, 1, 2, 3)
    assert w.provides() == [(-ALICE, X, 1)]
    assert w.sources() == {1: 0}
    w.copied(1, X)
    assert w.sources() == {2: 1, 3: 1}
    assert not w.provides()


def test_a_client_serves_two_hosts_with_different_objects() -> None:
    w = Places()
    w.kept_by(ALICE, X, Y, Z)
    for host, object_id in ((1, X), (2, Y), (3, Z)):
        w.d.seek(host, object_id)
    w.settle()
    assert {(o, h) for _, o, h in w.provides()} == {(X, 1), (Y, 2)}
    w.copied(1, X)
    assert w.provides() == [(-ALICE, Z, 3)]


def test_a_client_that_cannot_reach_a_host_brings_it_to_another() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.seek(X, 1, 2)
    w.d.not_provided(ALICE, X, 1, "no route")
    w.settle()
    assert w.provides() == [(-ALICE, X, 2)]
    assert not w.problems()  # host 1 waits for the copy of host 2
    w.copied(2, X)
    assert w.sources() == {1: 2}


def test_a_client_that_can_reach_no_host_is_not_asked_again_and_again() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.seek(X, 1)
    w.d.not_provided(ALICE, X, 1, "no route")
    w.settle()
    assert not w.provides()
    assert w.problems() == {
        1: "object aaaaaaaa (1.0 KB) could not be fetched from the client of session 100: no route"
    }


def test_a_late_answer_of_a_client_is_ignored() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.at(1, Y)
    w.d.not_provided(ALICE, X, 1, "?")
    w.d.not_provided(ALICE, oid(9), 1, "?")
    assert not w.settle()
    w.seek(Y, 2)
    w.d.not_provided(ALICE, Y, 2, "?")
    assert not w.settle()
    assert w.d.entries[Y].seekers[2].source == 1


def test_a_client_is_not_asked_to_bring_an_object_to_two_hosts_though_one_avoids_the_other() -> (
    None
):
    w = Places()
    w.at(2, X)
    w.d.made(X, 1000, 0, ALICE)
    w.d.host_joined(7, "n7")
    w.d.sources.seek(w.d.entries[X], 1, 2, "no route to 2")
    w.settle()
    assert w.provides() == [(-ALICE, X, 1)]
    w.d.sources.seek(w.d.entries[X], 3, 2, "no route to 2")
    w.settle()
    assert not w.sent  # it waits for the copy of host 1
    w.d.sources.seek(w.d.entries[X], 3, 1, "no route to 1")
    w.settle()
    assert not w.sent  # the client is busy with host 1
    w.copied(1, X)
    assert w.provides() == [(-ALICE, X, 3)]


def test_those_whom_a_client_was_to_serve_are_told_when_it_goes() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.d.refer(BOB, X)
    w.seek(X, 1, 2)
    w.d.client_gone(ALICE)
    w.settle()
    assert set(w.problems()) == {1, 2}
    assert "its client is gone" in w.problems()[1]


def test_a_copy_outlives_its_client() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.d.refer(BOB, X)
    w.seek(X, 1)
    w.copied(1, X)
    w.d.client_gone(ALICE)
    w.d.leave(ALICE)
    w.seek(X, 2)
    assert w.sources() == {2: 1}


def test_a_client_that_still_has_an_object_brings_it_again() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.seek(X, 1)
    w.copied(1, X)
    w.d.host_lost(1, "crashed")
    w.settle()
    assert not w.d.entries[X].lost
    w.seek(X, 2)
    assert w.provides() == [(-ALICE, X, 2)]


def test_a_client_asks() -> None:
    w = Places()
    w.at(1, X)
    w.copied(2, X)
    w.d.seek(-BOB, X)
    w.d.seek(-BOB, X)
    w.settle()
    assert [m.host for p, m in w.sent if p == -BOB] == [1, 1]  # an answer for each question
    w.seek(X, -BOB, failed=1, problem="no route")
    assert w.sources() == {-BOB: 2}
    w.seek(X, -BOB, failed=2, problem="no route either")
    assert w.problems() == {
        -BOB: "object aaaaaaaa (1.0 KB) could not be fetched from host n2: no route either"
    }
    w.seek(X, -BOB)  # a new search
    assert w.sources() == {-BOB: 1}


def test_what_clients_fetch_does_not_count() -> None:
    w = Places()
    w.at(1, X)
    for session in range(500, 510):
        w.seek(X, -session)
        assert w.sources() == {-session: 1}
    assert not w.d.sources.servers


def test_a_client_waits_for_a_copy_that_is_being_made() -> None:
    w = Places()
    w.kept_by(ALICE, X)
    w.seek(X, -BOB)
    assert w.problems() == {
        -BOB: "object aaaaaaaa (1.0 KB) is with the client of session 100 only, and on no host yet"
    }
    w.seek(X, 1)
    w.seek(X, -BOB)
    assert not w.sent
    w.copied(1, X)
    assert w.sources() == {-BOB: 1}


def test_nothing_is_kept_of_a_client_that_has_released_an_object_or_is_gone() -> None:
    w = Places()
    w.at(1, X)
    w.at(1, X, session=BOB)
    w.seek(X, -BOB, failed=1, problem="no route")
    w.seek(X, -BOB)
    w.d.release(BOB, [X])
    w.settle()
    assert not w.d.entries[X].seekers
    w.seek(X, -BOB)
    w.d.client_gone(BOB)
    w.settle()
    assert not w.d.entries[X].seekers


# --------------------------------------------------------------------------- failures


def test_another_holder_is_tried_and_then_the_client() -> None:
    w = Places(4)
    w.at(1, X)
    w.copied(2, X)
    w.d.made(X, 1000, 0, ALICE)
    w.seek(X, 3)
    assert w.sources() == {3: 1}
    w.seek(X, 3, failed=1, problem="timed out")
    assert w.sources() == {3: 2}
    w.seek(X, 3, failed=2, problem="refused")
    assert w.provides() == [(-ALICE, X, 3)]
    w.d.not_provided(ALICE, X, 3, "told already")
    w.settle()
    assert "told already" in w.problems()[3]
    w.seek(X, 3)  # somebody needs it again: everything is tried anew
    assert w.sources() == {3: 1}


def test_who_failed_waits_for_a_copy_that_another_host_is_getting() -> None:
    w = Places(4)
    w.at(1, X)
    w.seek(X, 2, 3)
    w.seek(X, 2, failed=1, problem="no route")
    assert not w.sent
    w.copied(3, X)
    assert w.sources() == {2: 3}


def test_a_search_ends_after_so_many_failures() -> None:
    w = Places(20)
    w.at(1, X)
    for host in range(2, 19):
        w.copied(host, X)
    w.seek(X, 20)
    for _ in range(MAX_FAILURES - 1):
        [(_, source)] = w.sources().items()
        w.seek(X, 20, failed=source, problem="refused")
        assert not w.problems()
    [(_, source)] = w.sources().items()
    w.seek(X, 20, failed=source, problem="refused")
    assert f"host n{source}: refused" in w.problems()[20]


def test_a_source_that_is_lost_is_reported_by_who_fetches_from_it() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 2, 3, 4)
    w.d.host_lost(1, "gone")
    assert not w.settle()  # 2 and 3 may have got all of it
    w.seek(X, 2, failed=1, problem="cut")
    assert not w.sent
    w.copied(3, X)
    assert set(w.sources()) == {2, 4}
    assert not w.problems()


def test_everybody_is_told_when_the_last_hope_is_gone() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 2, 3, 4, -BOB)
    w.d.host_lost(1, "gone")
    w.settle()
    w.seek(X, 2, failed=1, problem="cut")
    assert not w.problems()
    w.seek(X, 3, failed=1, problem="cut")
    assert set(w.problems()) == {2, 3, 4}
    assert w.d.entries[X].lost


def test_a_host_that_is_lost_makes_room_for_others() -> None:
    w = Places(5)
    w.at(1, X)
    w.seek(X, 2, 3, 4)
    w.d.host_lost(2, "gone")
    w.settle()
    assert w.sources() == {4: 1}


def test_who_waits_is_told_that_an_object_is_freed() -> None:
    w = Places()
    w.at(1, X)
    w.seek(X, 2, 3, 4, -BOB)
    w.d.release(ALICE, [X])
    w.settle()
    assert set(w.problems()) == {4}
    assert "was freed" in w.problems()[4]
    assert w.freed() == {(1, X), (2, X), (3, X)}  # what 2 and 3 have so far, too
    w.seek(X, 2, -BOB)
    assert set(w.problems()) == {2, -BOB}
