"""Functions that are sent to a host once and named from then on."""

from __future__ import annotations

import pytest

from ipkernel.wire.messages import Assign, ForgetFunctions, Function, Outcome, decode_reason
from tests.support.scheduling import Cluster


def test_a_function_goes_to_a_host_once_and_ahead_of_the_tasks_that_name_it() -> None:
    c = Cluster(engines=2)
    digest = b"d" * 16
    c.from_client((Function(digest, 4), b"code"))
    assert not c.to_host(1)
    c.submit(2, digest=digest)
    sent = c.to_host(1)
    assert [type(m) for m, _ in sent] == [Function, Assign, Assign]
    assert sent[0] == (Function(digest, 4), b"code")
    c.done(*[a.task for a in c.assigned])
    c.submit(2, digest=digest)
    assert [type(m) for m, _ in c.to_host(1)] == [Function, Assign, Assign, Assign, Assign]


def test_every_host_gets_the_function() -> None:
    c = Cluster(engines=1)
    c.add_host(1)
    digest = b"d" * 16
    c.from_client((Function(digest, 4), b"code"))
    c.submit(2, digest=digest)
    for host in (1, 2):
        assert [type(m) for m, _ in c.to_host(host)] == [Function, Assign]


@pytest.mark.parametrize("targets", [[], [0], [0, 1]])
@pytest.mark.parametrize("spread", [True, False])
def test_a_task_with_an_unknown_function_is_impossible(targets: list[int], spread: bool) -> None:
    c = Cluster(engines=2)
    tids = c.submit(digest=b"?" * 16, targets=targets, spread=spread)
    assert {f.task: f.outcome for f, _ in c.results()} == dict.fromkeys(tids, Outcome.IMPOSSIBLE)
    assert "never sent" in decode_reason(c.results()[0][1]).text
    assert not c.scheduler.tasks


def test_functions_of_a_session_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.sessions.MAX_FUNCTIONS", 10)
    c = Cluster(engines=1)
    c.from_client((Function(b"a" * 16, 8), bytes(8)), (Function(b"b" * 16, 8), bytes(8)))
    [good] = c.submit(digest=b"a" * 16)
    [bad] = c.submit(digest=b"b" * 16)
    assert c.engine_of(good) == 0
    assert c.finished(bad).outcome is Outcome.IMPOSSIBLE


def test_functions_are_forgotten_with_the_last_session_that_has_them() -> None:
    c = Cluster(engines=1, clients=2)
    shared, own = b"s" * 16, b"o" * 16
    first, second = c.clients
    for session in c.clients:
        c.from_client((Function(shared, 1), b"s"), session=session)
    c.from_client((Function(own, 1), b"o"), session=first)
    tids = c.submit(session=first, digest=own) + c.submit(session=first, digest=shared)
    while c.assigned:
        c.done(c.assigned[0].task)
    assert {f.task for f, _ in c.results(first)} == set(tids)
    c.detach(first)
    forgotten = [m.digests for m, _ in c.to_host(1) if isinstance(m, ForgetFunctions)]
    assert forgotten == [[own]]
    c.submit(session=second, digest=shared)
    assert len([m for m, _ in c.to_host(1) if isinstance(m, Function)]) == 2


def test_empty_functions_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.sessions.MAX_FUNCTIONS", 10_000)
    c = Cluster(engines=1)
    session = c.scheduler.sessions[c.session]
    kept = [session.keep_function(b"%016d" % i, b"") for i in range(1000)]
    assert 0 < sum(kept) < 100
