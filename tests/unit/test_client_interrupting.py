"""Ctrl-C while results are waited for, with a pretended controller and a pretended keyboard."""

from __future__ import annotations

import operator

import pytest

from ipkernel.client import interrupting, waiting
from ipkernel.wire.messages import Cancel, Fate
from tests.support.clients import lv, rc
from tests.support.fakecontroller import FakeController

__all__ = ["lv", "rc"]


@pytest.fixture
def fake():
    made = FakeController(engines=2, held=True)
    made.fate = Fate.INTERRUPTED
    return made


@pytest.fixture(params=[True])
def watched(request, monkeypatch):
    """Somebody looks at what is printed, or nobody does."""
    monkeypatch.setattr(interrupting, "interactive", lambda: request.param)


@pytest.fixture
def keyboard(monkeypatch):
    """Ctrl-C is pressed in each of the next waits for which this list says so."""
    presses = []
    wait = waiting.wait_until

    def pressed(condition, ready, timeout=None):
        if not ready() and presses and presses.pop(0):
            raise KeyboardInterrupt
        return wait(condition, ready, 0 if timeout == interrupting.LINGER else timeout)

    for module in ("cancelling", "future", "result", "mapresult", "progress"):
        monkeypatch.setattr(f"ipkernel.client.{module}.wait_until", pressed)
    return presses


def aborted(fake):
    return [m.tasks for m in fake.messages if isinstance(m, Cancel)]


WAYS = {
    "get": lambda rc, results: results[0].get(),
    "result": lambda rc, results: results[0].result(),
    "wait": lambda rc, results: results[0].wait(),
    "first": lambda rc, results: rc[:].apply_async(int).wait(return_when="FIRST_COMPLETED"),
    "client": lambda rc, results: rc.wait(results),
    "bar": lambda rc, results: results[0].wait_interactive(),
    "item": lambda rc, results: rc[:].apply_async(int)[1],
    "iterate": lambda rc, results: list(rc[:].map_async(abs, range(4))),
    "come": lambda rc, results: list(
        rc.load_balanced_view().map_async(abs, range(4), ordered=False, chunksize=1)
    ),
    "blocking": lambda rc, results: rc.load_balanced_view().apply_sync(int),
}


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("way", WAYS)
def test_one_press_ends_the_wait_and_tells_how_to_cancel(fake, rc, lv, keyboard, capsys, way):
    result = lv.apply_async(operator.neg, 1)
    keyboard += [True, False]
    with pytest.raises(KeyboardInterrupt):
        WAYS[way](rc, [result])
    told = capsys.readouterr().err
    assert told.count("press Ctrl-C again within 2 s to cancel") == 1
    assert "Later, the client's abort(" in told
    assert aborted(fake) == []
    fake.release()
    assert result.get() == -1


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("way", WAYS)
def test_a_second_press_cancels_what_was_waited_for(fake, rc, lv, keyboard, capsys, way):
    results = [lv.apply_async(operator.neg, n) for n in range(2)]
    other = lv.apply_async(operator.neg, 7)
    keyboard += [True, True]
    with pytest.raises(KeyboardInterrupt):
        WAYS[way](rc, results)
    assert "interrupted\n" in capsys.readouterr().err
    [tasks] = aborted(fake)
    assert tasks and other.msg_ids[0] not in tasks
    fake.release()
    assert other.get() == -7


@pytest.mark.usefixtures("watched")
def test_what_is_told(fake, rc, lv, keyboard, capsys):
    one, few = lv.apply_async(int), rc[:].apply_async(int)
    many = lv.map_async(abs, range(40), chunksize=1)
    for result in (one, few, many):
        keyboard += [True, False]
        with pytest.raises(KeyboardInterrupt):
            result.get()
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    again = "press Ctrl-C again within 2 s to cancel"
    later = "Later, the client's abort"
    assert lines == [
        f"ipkernel: 1 task goes on; {again} it. {later}({one.msg_ids[0]}) does so.",
        f"ipkernel: 2 tasks go on; {again} them. {later}({few.msg_ids}) does so.",
        f"ipkernel: 40 tasks go on; {again} them. {later}() does so, for all of its tasks.",
    ]


@pytest.mark.parametrize("watched", [False], indirect=True)
@pytest.mark.usefixtures("watched")
def test_where_nobody_looks_the_wait_just_ends(fake, lv, keyboard, capsys):
    result = lv.apply_async(int)
    keyboard += [True, True]
    with pytest.raises(KeyboardInterrupt):
        result.get()
    assert keyboard == [True]
    assert (aborted(fake), capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize("watched", [False, True], indirect=True)
@pytest.mark.usefixtures("watched")
def test_a_client_may_be_set_to_cancel_at_once_or_never(fake, rc, lv, keyboard, capsys):
    assert rc.interrupt == "ask"
    rc.interrupt = "leave"
    result = lv.apply_async(int)
    for _ in range(2):
        keyboard.append(True)
        with pytest.raises(KeyboardInterrupt):
            result.get()
    assert (aborted(fake), capsys.readouterr().err) == ([], "")
    rc.interrupt = "cancel"
    keyboard.append(True)
    with pytest.raises(KeyboardInterrupt):
        result.get()
    assert aborted(fake) == [result.msg_ids]
    assert capsys.readouterr().err == "\nipkernel: cancelled: 1 interrupted\n"
    with pytest.raises(ValueError, match="interrupt cannot be 'maybe': it is 'ask', 'cancel' or"):
        rc.interrupt = "maybe"


@pytest.mark.usefixtures("watched")
def test_a_third_press_ends_the_wait_for_what_becomes_of_them(fake, lv, keyboard, capsys):
    fake.cancel = lambda message: None
    keyboard += [True, True, True]
    with pytest.raises(KeyboardInterrupt):
        lv.apply_async(int).get()
    assert "cancelled: 1 not known yet" in capsys.readouterr().err
    assert keyboard == []


@pytest.mark.usefixtures("watched")
def test_nothing_is_kept_of_who_has_waited(fake, lv, keyboard):
    result = lv.apply_async(int)
    keyboard += [True, False]
    with pytest.raises(KeyboardInterrupt):
        result.get()
    [record] = fake.session.pending.values()
    assert record.watchers == (result,)
