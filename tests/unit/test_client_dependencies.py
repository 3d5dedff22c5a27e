"""What a client says of the calls that another one waits for."""

from __future__ import annotations

import pytest

from ipkernel import Dependency, errors
from ipkernel.client.task import failure_of
from ipkernel.wire.messages import Past, Reason, Submit
from tests.support.clients import fake

__all__ = ["fake"]


def last(fake):
    return [m for m in fake.messages if isinstance(m, Submit)][-1].terms


@pytest.fixture
def view(fake):
    return fake.client().load_balanced_view()


def fail():
    raise ValueError("no")


def test_calls_that_are_under_way_are_named(fake, view):
    fake.held = True
    first, second = view.apply_async(int), view.apply_async(int)
    with view.temp_flags(after=[first, second.msg_ids[0]]):
        third = view.apply_async(int)
    with view.temp_flags(follow=third):
        view.apply_async(int)
    assert last(fake).follow.tasks == third.msg_ids
    assert last(fake).after is None
    third_terms = [m for m in fake.messages if isinstance(m, Submit)][-2].terms
    assert third_terms.after.tasks == [*first.msg_ids, *second.msg_ids]
    assert (third_terms.after.all, third_terms.after.success, third_terms.after.failure) == (
        True,
        True,
        False,
    )
    fake.held = False
    fake.release()


def test_of_calls_that_have_ended_the_end_is_said(fake, view):
    good, bad = view.apply_async(int), view.apply_async(fail)
    good.wait(), bad.wait()
    view.after = Dependency([good, bad], all=False, failure=True)
    view.apply_async(int)
    after = last(fake).after
    assert after.tasks == []
    assert [(p.task, p.ok) for p in after.ended] == [
        (good.msg_ids[0], True),
        (bad.msg_ids[0], False),
    ]
    assert after.ended[0] == Past(good.msg_ids[0], good.engine_id, True)
    assert (after.all, after.success, after.failure) == (False, True, True)


def test_all_calls_of_a_map_can_be_waited_for(fake, view):
    fake.held = True
    parts = view.map_async(abs, range(4), chunksize=1)
    view.after = parts
    view.map_async(abs, range(2), chunksize=1)
    assert last(fake).after.tasks == parts.msg_ids
    fake.held = False
    fake.release()


def test_a_flag_goes_with_the_other_ones(fake, view):
    view.set_flags(priority=2, timeout=3, after=17)
    view.apply_async(int)
    terms = last(fake)
    assert (terms.priority, terms.timeout, terms.after.tasks) == (2, 3.0, [17])


@pytest.mark.parametrize("nothing", [None, [], Dependency([])])
def test_no_calls_are_no_dependency(fake, view, nothing):
    view.after = nothing
    assert view.after is None
    view.apply_async(int)
    assert last(fake) is None


def test_flags_are_restored(view):
    view.after = 5
    with view.temp_flags(after=None, follow=6):
        assert view.after is None and list(view.follow) == [6]
    assert list(view.after) == [5] and view.follow is None


@pytest.mark.parametrize("wrong", ["a task", 1.5, True, [object()], b"id"])
def test_what_cannot_be_waited_for_is_refused(view, wrong):
    with pytest.raises(TypeError, match="can wait for an AsyncResult or a task's id, not for"):
        view.after = wrong


def test_impossible_dependencies_are_refused():
    with pytest.raises(ValueError, match="needs success=True or failure=True"):
        Dependency([1], success=False)
    with pytest.raises(ValueError, match="-3 is not the id of a task"):
        Dependency(-3)
    with pytest.raises(ValueError, match="65536 tasks at most, not on 65537"):
        Dependency(range(65537))


def test_a_dependency_can_be_looked_at():
    both = Dependency([3, Dependency(4), 3], all=False)
    assert list(both) == [3, 4] and len(both) == 2
    assert repr(both) == "Dependency([3, 4], all=False, success=True, failure=False)"


def test_a_direct_view_has_no_dependencies(fake):
    with pytest.raises(TypeError, match="no flag 'after'"):
        fake.client()[:].set_flags(after=1)


def test_what_cannot_be_met_raises_what_it_is():
    with pytest.raises(errors.ImpossibleDependency, match="task 5 failed"):
        raise failure_of(Reason("dependency", "task 5 failed"))
    with pytest.raises(errors.InvalidDependency, match="not known"):
        raise failure_of(Reason("unknown-task", "task 5 is not known"))
