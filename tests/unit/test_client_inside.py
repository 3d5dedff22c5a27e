"""Clients inside of tasks must not wait for what their own engine is to run."""

from __future__ import annotations

import threading

import pytest

from ipkernel.client.inside import check_wait, here
from ipkernel.client.task import TaskRecord
from ipkernel.controller.events import SessionOpened
from ipkernel.engine.current import state
from ipkernel.wire.messages import Kind, Outcome
from tests.support.scheduling import Cluster


@pytest.fixture
def engine(monkeypatch):
    """This process as engine 2 of the cluster 'mine'."""
    monkeypatch.setattr(state, "loop", object())
    monkeypatch.setattr(state, "engine", 2)
    monkeypatch.setattr(state, "cluster", "mine")


def record(target=-1, done=False):
    made = TaskRecord(7, Kind.APPLY, target, "", 0.0)
    if done:
        made.cell = (Outcome.OK, b"")
    return made


def test_elsewhere_nothing_is_refused():
    assert here() == (-1, "")
    check_wait("mine", [2], [record(2)])


def test_an_engine_knows_what_it_is(engine, monkeypatch):
    assert here() == (2, "mine")
    monkeypatch.setattr(state, "forked", True)
    assert here() == (-1, "")


@pytest.mark.parametrize(
    ("engines", "target", "text"),
    [
        ([2], -1, "there is no other than engine 2"),
        ([2], 2, "there is no other than engine 2"),
        ([1, 2], 2, "it is for engine 2"),
    ],
)
def test_what_only_this_engine_could_run_is_not_waited_for(engine, engines, target, text):
    with pytest.raises(RuntimeError, match=f"task 7 cannot begin .* waits for it: {text}"):
        check_wait("mine", engines, [record(done=True), record(target)])


@pytest.mark.parametrize(
    ("cluster", "engines", "waited"),
    [
        ("other", [2], record()),
        ("mine", [1, 2], record()),
        ("mine", [1, 2], record(1)),
        ("mine", [], record()),
        ("mine", [2], record(done=True)),
    ],
)
def test_what_others_run_is_waited_for(engine, cluster, engines, waited):
    check_wait(cluster, engines, [waited])


def test_another_thread_may_wait(engine):
    raised = []

    def wait():
        try:
            check_wait("mine", [2], [record()])
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert not raised


def test_explain_names_the_engines_whose_tasks_have_submitted_others():
    c = Cluster(engines=2)
    parents = c.submit(2)
    for number, parent in enumerate(parents, 10):
        c.handle(SessionOpened(number, c.now, "inner", "", c.engine_of(parent)))
    [child] = c.submit(session=10)
    reason = c.scheduler.explain(child).reason
    assert "engine 0 runs a task that has submitted tasks itself, and may wait for them" in reason
    assert "add engines" not in reason
    c.submit(session=11)
    reason = c.scheduler.explain(child).reason
    assert "engines 0, 1 run tasks that have submitted tasks themselves" in reason
    assert reason.endswith("may wait for them: add engines, or abort one")
    c.done(parents[1], seconds=1.0)
    assert c.engine_of(child) == 1
