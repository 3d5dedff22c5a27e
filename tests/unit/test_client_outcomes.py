"""Parts of results, waits for some of several, and what is known of tasks that did not end well."""

from __future__ import annotations

import concurrent.futures
import operator
import threading

import pytest

from ipkernel import errors
from ipkernel.wire.messages import EngineJoined, Finished, Outcome, Reason, encode_reason
from tests.support.clients import lv, rc
from tests.support.fakecontroller import FakeController

__all__ = ["lv", "rc"]


@pytest.fixture
def fake():
    return FakeController(engines=3, held=True)


def odd(number):
    if number % 2:
        raise ValueError(number)
    return number


# ---------------------------------------------------------------- parts


def test_what_is_there_of_a_result(fake, rc, lv):
    one, several = lv.apply_async(odd, 2), rc[:].apply_async(odd, 4)
    assert (one.partial(), one.partial("-"), several.partial(0)) == (None, "-", [0, 0, 0])
    fake.release(2)
    assert (one.partial(), several.partial()) == (2, [4, None, None])
    with pytest.raises(TimeoutError):
        several.get(0)
    assert several.partial() == [4, None, None]  # also after that
    fake.release()
    assert several.partial() == several.get()


def test_parts_that_failed(fake, rc):
    result = rc[:].apply_async(odd, 3)
    fake.release(2)
    one, two, three = result.partial()
    assert isinstance(one, ValueError) and isinstance(two, ValueError) and three is None
    assert result.partial("-", return_exceptions=False) == ["-"] * 3
    assert len(result.errors) == 2


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_there_of_a_map(fake, lv, chunksize, ordered):
    result = lv.map_async(operator.neg, range(6), chunksize=chunksize, ordered=ordered)
    fake.release(2)
    there = 2 * chunksize
    assert result.partial("?") == [*[-n for n in range(there)], *["?"] * (6 - there)]
    fake.release()
    assert result.partial() == result.get()


def test_items_of_a_map_that_failed(fake, lv):
    result = lv.map_async(odd, range(6), chunksize=2, return_exceptions=True)
    parts = lv.map_async(odd, range(4), chunksize=2)
    fake.release(2)
    found = result.partial()
    assert [found[n] for n in (0, 2, 4, 5)] == [0, 2, None, None]
    assert isinstance(found[1], ValueError) and isinstance(found[3], ValueError)
    assert result.partial("-", return_exceptions=False) == [0, "-", 2, "-", "-", "-"]
    fake.release(2)
    assert [isinstance(item, ValueError) for item in parts.partial()] == [True, True, False, False]
    assert parts.partial("-", return_exceptions=False) == ["-"] * 4


def test_gather_may_return_exceptions(fake, rc):
    fake.held = False
    rc[:].scatter("parts", range(6), block=True)
    rc[1].execute("del parts", block=True)
    found = rc[:].gather("parts", return_exceptions=True, block=True)
    assert (found[:2], found[3:]) == ([0, 1], [4, 5])
    assert isinstance(found[2], NameError)
    with pytest.raises(errors.CompositeError):
        rc[:].gather("parts", block=True)


# ---------------------------------------------------------------- waits for some


def test_wait_of_a_client_for_the_first(fake, rc, lv):
    results = [lv.apply_async(odd, 2 * n) for n in range(3)]
    assert rc.wait(results, 0, return_when="FIRST_COMPLETED") == (set(), set(results))
    fake.release(1)
    done, pending = rc.wait(results, return_when="FIRST_COMPLETED")
    assert (done, pending) == ({results[0]}, set(results[1:]))
    timer = threading.Timer(0.05, fake.release)
    timer.start()
    assert rc.wait(results, return_when="ALL_COMPLETED") == (set(results), set())
    timer.join()
    assert rc.wait(results) is True


def test_wait_of_a_client_for_the_first_failure(fake, rc, lv):
    results = [lv.apply_async(odd, n) for n in (0, 2, 3, 4)]
    timer = threading.Timer(0.05, fake.release, (3,))
    timer.start()
    done, pending = rc.wait(results, 30, return_when="FIRST_EXCEPTION")
    timer.join()
    assert (done, pending) == (set(results[:3]), {results[3]})
    assert rc.wait(results, 0.01, return_when="FIRST_EXCEPTION")[1] == pending


def test_the_standard_library_sees_failures_too(fake, lv):
    results = [lv.apply_async(odd, n) for n in (0, 3, 4)]
    timer = threading.Timer(0.05, fake.release, (2,))
    timer.start()
    found = concurrent.futures.wait(results, 30, return_when="FIRST_EXCEPTION")
    timer.join()
    assert found.not_done == {results[2]}


def test_wait_for_ids_and_other_futures(fake, rc, lv):
    ids = lv.map_async(odd, range(0, 6, 2), chunksize=1).msg_ids
    other: concurrent.futures.Future[int] = concurrent.futures.Future()
    fake.release(1)
    done, pending = rc.wait([*ids, other], 0, return_when="FIRST_COMPLETED")
    assert [result.get() for result in done] == [[0]]  # a chunk of the map
    assert other in pending and len(pending) == 3
    other.set_result(1)
    assert rc.wait([*ids, other], 0) is False
    assert all(not record.watchers[1:] for record in fake.session.pending.values())
    fake.release()
    assert rc.wait([*ids, other]) is True


def test_what_wait_does_not_know(rc, lv):
    with pytest.raises(ValueError, match="return_when cannot be 'SOMETIMES'"):
        lv.wait(lv.apply_async(int), return_when="SOMETIMES")


# ---------------------------------------------------------------- what is known of tasks


@pytest.mark.parametrize(
    ("kind", "outcome", "status"),
    [
        ("engine", Outcome.LOST, "error"),
        ("aborted", Outcome.ABORTED, "aborted"),
        ("timeout", Outcome.TIMEOUT, "error"),
    ],
)
def test_metadata_of_tasks_that_did_not_end_by_themselves(fake, lv, kind, outcome, status):
    result = lv.apply_async(int)
    payload = encode_reason(Reason(kind, "so it was", 2, "h"))
    ended = Finished(result.msg_ids[0], outcome, 2, 5.0, 7.5, len(payload), 3)
    fake.session.received([(ended, payload)])
    found = result.metadata
    assert (found.engine_id, found.host, found.attempts, found.status) == (2, "h", 3, status)
    assert (found.completed - found.started).total_seconds() == 2.5
    assert found.submitted <= found.received
    assert "so it was" in str(found.error)


def test_metadata_name_the_host(fake, rc, lv):
    good, bad = lv.apply_async(odd, 2), lv.apply_async(odd, 1)
    bound = rc[1].apply_async(odd, 2)
    assert (good.host, bound.host) == (None, "h")
    fake.release()
    assert (good.host, bad.host, rc[:].apply_async(int).host) == ("h", "h", ["h"] * 3)


def test_metadata_name_the_process(fake, rc, lv):
    bound, lost = rc[1].apply_async(int), lv.apply_async(int)
    assert (bound.engine_uuid, lost.engine_uuid) == ("h:101", None)
    payload = encode_reason(Reason("engine", "killed", 1, "h", 77))
    ended = Finished(lost.msg_ids[0], Outcome.LOST, 1, 5.0, 7.5, len(payload))
    fake.session.received([(ended, payload)])
    fake.release()
    assert (bound.engine_uuid, lost.engine_uuid) == ("h:101", "h:77")
    began = bound.completed.timestamp() + 1.0
    fake.session.received([(EngineJoined(1, "h", 300, 2, began=began), b"")])
    assert (bound.engine_uuid, lost.engine_uuid) == (None, "h:77"), "it was another process"
    assert rc[1].apply_async(int).engine_uuid == "h:300"
