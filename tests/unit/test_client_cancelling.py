"""What users are told of tasks that they abort, with a pretended controller."""

from __future__ import annotations

import concurrent.futures
import operator
import pickle
import threading

import pytest

from ipkernel import errors
from ipkernel.client.cancelling import WORDS, Cancellation
from ipkernel.wire.messages import MAX_LIST, Cancel, Cancelled, Fate
from tests.support.clients import lv, rc
from tests.support.fakecontroller import FakeController

__all__ = ["lv", "rc"]


@pytest.fixture
def fake():
    return FakeController(engines=3, held=True)


def cancels(fake):
    return [m for m in fake.messages if isinstance(m, Cancel)]


class Silent:
    """A controller that says later what became of tasks."""

    def __init__(self, fake):
        self.fake = fake
        self.asked = []
        fake.cancel = self.asked.append

    def tell(self, fate, tasks=None):
        message = self.asked[-1]
        tasks = message.tasks if tasks is None else tasks
        self.fake.session.received([(Cancelled(message.serial, tasks, [fate] * len(tasks)), b"")])


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("fate", [Fate.DEQUEUED, Fate.INTERRUPTED, Fate.KILLED])
def test_abort_says_what_became_of_each_task(fake, rc, lv, fate):
    fake.fate = fate
    done = lv.apply_async(int)
    fake.release()
    results = [lv.apply_async(operator.neg, n) for n in range(3)]
    answer = rc.abort([done, *results, 12345])
    aborted = {result.msg_ids[0]: WORDS[fate] for result in results}
    assert answer == {**aborted, done.msg_ids[0]: "ended already", 12345: "unknown"}
    assert str(answer) == f"3 {WORDS[fate]}, 1 ended already, 1 unknown"
    assert answer.open == [] and answer.count(WORDS[fate]) == 3
    for result in results:
        assert result.cancelled() and not result.successful()
        with pytest.raises(errors.TaskAborted, match="the task was aborted") as caught:
            result.get()
        assert caught.value.fate == WORDS[fate]
        assert result.fates == {result.msg_ids[0]: WORDS[fate]}
        assert isinstance(result.exception(), concurrent.futures.CancelledError)


def test_abort_of_all_and_of_none(fake, rc, lv):
    assert rc.abort() == {} and not fake.messages
    ids = lv.map_async(operator.neg, range(4), chunksize=1).msg_ids
    assert rc.abort() == dict.fromkeys(ids, "dequeued")
    assert str(rc.abort(ids)) == "4 ended already"
    assert len(cancels(fake)) == 1


def test_abort_takes_whatever_names_tasks(fake, rc, lv):
    first, second, third = (lv.apply_async(int) for _ in range(3))
    assert set(rc.abort(-1)) == {third.msg_ids[0]}
    assert set(rc.abort([first.msg_ids[0], [second]])) == {first.msg_ids[0], second.msg_ids[0]}


def test_abort_for_engines_and_of_views(fake, rc):
    views = [rc[0], rc[1]]
    ours = [view.apply_async(int) for view in views]
    assert set(rc.abort(targets=1)) == set(ours[1].msg_ids)
    assert set(views[0].abort()) == set(ours[0].msg_ids)
    assert views[0].abort() == {}


def test_the_time_that_a_task_has_to_end(fake, rc, lv):
    lv.apply_async(int).abort()
    lv.apply_async(int).abort(grace=0.25)
    rc.grace = 5
    rc.abort(lv.apply_async(int))
    lv.apply_async(int).cancel()
    assert [m.grace for m in cancels(fake)] == [1000, 250, 5000, 5000]
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="grace cannot be"):
            rc.abort(grace=wrong)
        with pytest.raises(ValueError, match="grace cannot be"):
            rc.grace = wrong


def test_many_tasks_are_asked_for_in_pieces(fake, rc):
    controller = Silent(fake)
    answer = rc.abort(range(10, 10 + MAX_LIST + 5), block=False)
    assert [len(m.tasks) for m in controller.asked] == [MAX_LIST, 5]
    assert len({m.serial for m in controller.asked}) == 1
    for message in controller.asked:
        fates = [Fate.UNKNOWN] * len(message.tasks)
        fake.session.received([(Cancelled(message.serial, message.tasks, fates), b"")])
    assert answer.wait(0) and len(answer) == MAX_LIST + 5
    assert not fake.session.aborts.open


# ---------------------------------------------------------------- while it is not known


def test_answers_come_as_they_come(fake, rc, lv):
    controller = Silent(fake)
    tasks = lv.map_async(operator.neg, range(2), chunksize=1).msg_ids
    answer = rc.abort(block=False)
    assert (answer, answer.open, str(answer)) == ({}, tasks, "2 not known yet")
    assert not answer.wait(0) and not answer.wait(0.01)
    controller.tell(Fate.KILLED, tasks[:1])
    assert (answer, answer.open) == ({tasks[0]: "killed"}, tasks[1:])
    timer = threading.Timer(0.05, controller.tell, (Fate.INTERRUPTED, tasks[1:]))
    timer.start()
    assert answer.wait()
    timer.join()
    assert repr(answer) == "<Cancellation: 1 interrupted, 1 killed>"
    controller.tell(Fate.UNKNOWN)  # nobody has asked for more
    assert answer.count("unknown") == 0


def test_the_end_of_a_task_is_an_answer_too(fake, rc, lv):
    """A controller that was started again in between does not know that it was asked."""
    Silent(fake)
    results = [lv.apply_async(operator.neg, n) for n in range(2)]
    answer = rc.abort(block=False)
    fake.release()
    assert answer.wait(30)
    assert str(answer) == "2 ended already"
    assert [result.get() for result in results] == [0, -1]


def test_a_lost_controller_ends_the_wait(fake, rc, lv):
    Silent(fake)
    task = lv.apply_async(int)
    answer = rc.abort(block=False)
    timer = threading.Timer(0.05, fake.session.lost, (lambda: errors.ControllerLost("gone"),))
    timer.start()
    with pytest.raises(errors.ControllerLost, match="gone"):
        answer.wait()
    timer.join()
    for ask in (rc.abort, lambda: rc.abort(task)):
        with pytest.raises(errors.ControllerLost):
            ask()
    assert task.abort() == {task.msg_ids[0]: "ended already"}


def test_an_answer_cannot_be_waited_for_in_the_reactors_thread(fake, rc, lv, monkeypatch):
    Silent(fake)
    result = lv.apply_async(int)
    monkeypatch.setattr("ipkernel.client.waiting.reactor_threads", {threading.get_ident()})
    monkeypatch.setattr("ipkernel.client.cancellable.reactor_threads", {threading.get_ident()})
    with pytest.raises(RuntimeError, match="would block the reactor"):
        result.abort()
    assert result.cancel()
    with pytest.raises(errors.TaskAborted, match="1 not known yet"):
        result.get()


# ---------------------------------------------------------------- cancel


def test_cancel_returns_at_once_and_the_result_says_what_happened(fake, lv):
    controller = Silent(fake)
    result = lv.apply_async(operator.neg, 1)
    assert result.cancel() and result.cancelled() and result.fates == {}
    timer = threading.Timer(0.05, controller.tell, (Fate.INTERRUPTED,))
    timer.start()
    with pytest.raises(concurrent.futures.CancelledError, match="'neg' was cancelled: 1 interr"):
        result.get()
    timer.join()
    with pytest.raises(errors.TaskAborted) as caught:
        result.exception()
    assert caught.value.fate == "interrupted"
    assert result.fates == {result.msg_ids[0]: "interrupted"}


def test_cancel_of_a_map_aborts_what_is_open(fake, lv):
    result = lv.map_async(operator.neg, range(4), chunksize=1)
    fake.release(1)
    assert result.cancel() and result.cancelled()
    assert list(result.fates.values()) == ["ended already", *["dequeued"] * 3]
    with pytest.raises(errors.TaskAborted, match="3 dequeued, 1 ended already"):
        result.get()
    found = iter(result)
    assert next(found) == 0
    with pytest.raises(errors.TaskAborted):
        list(found)


def test_a_map_of_which_a_part_was_aborted_is_no_cancelled_one(fake, rc, lv):
    result = lv.map_async(operator.neg, range(3), chunksize=1)
    rc.abort(result.msg_ids[1:])
    fake.release()
    assert not result.cancelled()
    assert result.fates == dict.fromkeys(result.msg_ids[1:], "dequeued")
    with pytest.raises(errors.CompositeError, match="TaskAborted"):
        result.get()


def test_an_aborted_result_is_cancelled_for_the_standard_library_too(fake, lv):
    result, other = lv.apply_async(int), lv.apply_async(int)
    result.abort()
    done, pending = concurrent.futures.wait([result, other], return_when="FIRST_COMPLETED")
    assert (done, pending) == ({result}, {other})
    assert result.cancel() and result.cancelled() and not result.running()


def test_the_exception_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.TaskAborted("it was", fate="killed")))
    assert (str(error), error.fate) == ("it was", "killed")


def test_what_was_not_asked_for_is_not_told():
    answer = Cancellation([1, 2], {3: Fate.ENDED})
    assert not answer.answer([7, 1], [Fate.KILLED, Fate.DEQUEUED])
    assert answer.answer([2, 1], [Fate.UNKNOWN, Fate.KILLED])
    assert answer == {1: "dequeued", 2: "unknown", 3: "ended already"}
    assert str(Cancellation()) == "no tasks"
