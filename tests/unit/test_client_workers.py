"""Threads that move bytes, questions to the controller, counts of references."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.client.asking import Asking
from ipkernel.client.moving import Mover
from ipkernel.client.references import References
from ipkernel.client.transfers import Transfers
from ipkernel.client.waiting import wait_for
from ipkernel.client.workers import Workers
from ipkernel.errors import ControllerLost, ObjectError, StoreFull
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import Relay


@pytest.fixture
def workers():
    workers = Workers("test-workers", 2)
    yield workers
    workers.close(10)


# ---------------------------------------------------------------- workers


def test_calls_are_made_and_their_outcomes_kept(workers):
    assert workers.submit(lambda: 3).result(10) == 3
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 / 0).result(10)


def test_no_more_threads_than_allowed(workers):
    gate, inside = threading.Event(), threading.Semaphore(0)

    def call():
        inside.release()
        assert gate.wait(10)
        return threading.current_thread().name

    futures = [workers.submit(call) for _ in range(5)]
    for _ in range(2):
        assert inside.acquire(timeout=10)
    assert not inside.acquire(blocking=False)
    assert sum(thread.name == "test-workers" for thread in threading.enumerate()) == 2
    gate.set()
    assert {future.result(10) for future in futures} == {"test-workers"}


def test_threads_without_work_end():
    workers = Workers("test-idle", 2, idle=0.0)
    for i in range(3):
        assert workers.submit(lambda i=i: i).result(10) == i
    for thread in list(workers._threads):
        thread.join(10)
    assert not workers._threads
    assert workers.submit(lambda: "again").result(10) == "again"


def test_a_waiting_thread_is_used_again(workers):
    names = {workers.submit(threading.get_ident).result(10) for _ in range(3)}
    assert len(names) <= 2


def test_outcomes_are_not_kept_by_threads(workers):
    class Large:
        pass

    found = workers.submit(Large).result(10)
    gone = weakref.ref(found)
    assert workers.submit(lambda: None).result(10) is None
    del found
    gc.collect()
    assert gone() is None


def test_closing_ends_threads_and_cancels_what_waits(workers):
    gate, inside = threading.Event(), threading.Semaphore(0)

    def call():
        inside.release()
        return gate.wait(10)

    running = [workers.submit(call) for _ in range(2)]
    waiting = workers.submit(lambda: 1)
    for _ in running:
        assert inside.acquire(timeout=10)
    workers.close(0)
    assert waiting.cancelled()
    assert workers.submit(lambda: 1).cancelled()
    gate.set()
    assert all(future.result(10) for future in running)
    workers.close(10)
    assert not [t for t in threading.enumerate() if t.name == "test-workers"]


def test_without_new_threads_calls_are_made_by_the_caller(workers, monkeypatch):
    def refused(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert workers.submit(threading.get_ident).result(0) == threading.get_ident()
    assert workers.submit(threading.get_ident).result(10) != threading.get_ident()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert workers.submit(lambda: 5).result(10) == 5, "there is one already"


def test_a_worker_may_close_its_own_crew():
    workers = Workers("test-own", 1)
    assert workers.submit(lambda: workers.close(10)).result(10) is None


# ---------------------------------------------------------------- references


def test_references_are_given_back_when_nobody_uses_them():
    references = References()
    references.hold(b"a")
    references.hold(b"a")
    references.hold(b"b")
    references.drop(b"a")
    references.drop(b"b")
    assert references.waiting == 2
    assert references.settle(2) == [b"b"]
    references.drop(b"a")
    assert references.settle(1) == [b"a"]
    assert not len(references) and b"a" not in references
    references.drop(b"a")  # once too often
    assert references.settle(1) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4))), st.integers(0, 30))
def test_every_held_reference_is_given_back_once(held, step):
    references = References()
    drops = []
    for name, count in held:
        for _ in range(count):
            references.hold(name.encode())
            drops.append(name.encode())
    given_back = []
    for object_id in drops:
        references.drop(object_id)
        if references.waiting >= step:
            given_back += references.settle(references.waiting)
    given_back += references.settle(references.waiting)
    assert sorted(given_back) == sorted({name.encode() for name, _ in held})


# ---------------------------------------------------------------- asking


def test_answers_reach_who_asked_first():
    said = []
    asking = Asking(said.append)
    first, second = (asking.ask(("relay", 3), Relay(3)) for _ in range(2))
    other = asking.ask(("relay", 4), Relay(4))
    assert said == [Relay(3), Relay(3), Relay(4)]
    asking.answer(("relay", 3), "one")
    assert first.result(0) == "one" and not second.done() and not other.done()
    asking.answer(("relay", 3), "two")
    asking.answer(("relay", 4), "three")
    assert (second.result(0), other.result(0)) == ("two", "three")
    asking.answer(("relay", 3), "nobody has asked")


def test_questions_end_with_the_connection():
    said = []
    asking = Asking(said.append)
    before = asking.ask(1, Relay(1))
    asking.fail(lambda: ControllerLost("gone"))
    after = asking.ask(1, Relay(1))
    for future in (before, after):
        with pytest.raises(ControllerLost, match="gone"):
            future.result(0)
    assert len(said) == 1


# ---------------------------------------------------------------- waiting


def test_waiting_for_a_future():
    future = concurrent.futures.Future()
    with pytest.raises(TimeoutError, match=r"0\.001"):
        wait_for(future, 0.001)
    future.set_result(5)
    assert wait_for(future) == 5


@pytest.fixture
def mover():
    mover = Mover()
    mover.interactive = False
    yield mover
    mover.close(10)


def test_several_are_moved_at_the_same_time(mover):
    barrier = threading.Barrier(2, timeout=10)
    jobs = [(lambda i=i: (barrier.wait(), i)[1], Transfer(str(i))) for i in range(2)]
    assert mover.run(jobs) == [0, 1]
    assert mover.transfers.now() == []


def test_transfers_are_listed_while_they_last(mover):
    transfer = Transfer("x", 5)
    assert mover.run([(lambda: mover.transfers.now(), transfer)]) == [[transfer]]


def blocked(transfer):
    """Return a call that lasts until its transfer is cancelled."""
    over = threading.Event()
    transfer.on_cancel(over.set)

    def call():
        assert over.wait(10)
        transfer.advance(1)

    return call


def test_the_first_failure_ends_the_others(mover):
    stuck = Transfer("stuck")

    def fail():
        raise StoreFull("full")

    with pytest.raises(StoreFull, match="full"):
        mover.run([(blocked(stuck), stuck), (fail, Transfer("failing"))])
    assert stuck.cancelled


def test_a_time_limit_cancels(mover):
    stuck = Transfer("the move")
    with pytest.raises(TimeoutError, match="the move took longer than 0.001 s"):
        mover.run([(blocked(stuck), stuck)], 0.001)
    assert stuck.cancelled


def test_ctrl_c_cancels(mover, monkeypatch):
    stuck = Transfer("the move")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ipkernel.client.moving.wait_showing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mover.run([(blocked(stuck), stuck)])
    assert stuck.cancelled


def test_cancelling_from_another_thread(mover):
    stuck = Transfer("the move")
    call = blocked(stuck)

    def cancel_and_call():
        (listed,) = mover.transfers.now()
        listed.cancel()
        call()

    with pytest.raises(TransferCancelled, match="the move was cancelled"):
        mover.run([(cancel_and_call, stuck)])


def test_nothing_is_moved_after_the_end(mover):
    mover.close(0)
    with pytest.raises(ObjectError, match="closed"):
        mover.run([(lambda: 1, Transfer())])


def test_cancelling_all():
    transfers = Transfers()
    first, second = Transfer("1"), Transfer("2")
    with transfers.moving(first), transfers.moving(second):
        assert transfers.now() == [first, second]
        transfers.cancel()
    assert first.cancelled and second.cancelled and transfers.now() == []
