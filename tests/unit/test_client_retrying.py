"""Calls that are to be run again after some exceptions, as views say it, against a controller in memory."""

from __future__ import annotations

import pytest

from ipkernel import errors
from ipkernel.serialize.calls import load_call
from ipkernel.serialize.retrying import Retrying
from ipkernel.wire.messages import Submit
from tests.support.fakecontroller import FakeController


@pytest.fixture
def fake():
    return FakeController(engines=2)


@pytest.fixture
def view(fake):
    return fake.client().load_balanced_view()


@pytest.fixture
def sent(fake, monkeypatch):
    """The functions that engines were given to call, by name."""
    found = []
    run = type(fake.engines[0]).run

    def look(engine, kind, payload, digest):
        found.append(load_call(payload, fake.store, digest)[0])
        return run(engine, kind, payload, digest)

    monkeypatch.setattr(type(fake.engines[0]), "run", look)
    return found


def test_calls_carry_what_they_are_run_again_after(view, fake, sent):
    with view.temp_flags(retries=2, retry_on=OSError):
        assert view.apply_async(abs, -3).get() == 3
        assert view.map_async(abs, [-1, -2], chunksize=1).get() == [1, 2]
        assert list(view.imap(abs, [-4])) == [4]
    assert [(type(one), one.f, one.on) for one in sent] == [(Retrying, abs, (OSError,))] * 4
    assert {m.retries for m in fake.messages if isinstance(m, Submit)} == {2}


@pytest.mark.parametrize("flags", [{"retries": 2}, {"retry_on": OSError}], ids=str)
def test_others_carry_nothing(view, sent, flags):
    with view.temp_flags(**flags):
        assert view.apply_async(abs, -3).get() == 3
        assert view.map_async(abs, [-1]).get() == [1]
    assert sent == [abs, abs]


def test_results_have_the_name_of_the_function(view):
    view.set_flags(retries=1, retry_on=OSError)
    assert "(abs)" in repr(view.apply_async(abs, -3))
    assert "(abs)" in repr(view.map_async(abs, [-3]))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, ()),
        (OSError, (OSError,)),
        ([OSError, KeyError], (OSError, KeyError)),
        ((), ()),
    ],
)
def test_what_it_may_be(view, value, found):
    view.retry_on = value
    assert view.retry_on == found


@pytest.mark.parametrize("value", [3, "OSError", OSError(), KeyboardInterrupt, (OSError, int)])
def test_what_it_may_not_be(view, value):
    with pytest.raises(TypeError, match="retry_on must be a class of exceptions, or several"):
        view.retry_on = value


@pytest.mark.parametrize(
    "value", [errors.TaskAborted, errors.TaskTimeout, errors.ImpossibleDependency]
)
def test_ends_that_stand(view, value):
    with pytest.raises(ValueError, match=f"after {value.__name__} no call is run again"):
        view.retry_on = (OSError, value)


def test_direct_views_keep_their_order(fake):
    with pytest.raises(TypeError, match="DirectView has no flag 'retry_on'"):
        fake.client()[:].set_flags(retry_on=OSError)
