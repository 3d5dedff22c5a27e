"""The controller's ends of channels, with a pretended network and clock."""

from __future__ import annotations

from typing import Any

import pytest

from ipkernel.wire.messages import Assign, EngineJoined, Fetch, Function, Kind, Outcome, Submit
from tests.support.links import World, assigns, done, results, submit, tid

# ----------------------------------------------------------------------------------------- the way


def test_a_task_goes_from_channel_to_channel_and_back() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    [(assign, payload)] = [(m, p) for m, p in host.inbox if isinstance(m, Assign)]
    assert (assign.task, payload) == (tid(0), b"p")
    host.send(*done(assign))
    w.pump()
    assert [(m.task, p) for m, p in results(client)] == [(tid(0), b"r")]


def test_what_is_decided_before_a_channel_is_open_waits_for_it() -> None:
    w = World()
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    client = w.connect(w.clients[1])
    w.pump()
    assert [type(m) for m, _ in client.inbox] == [EngineJoined]


def test_all_messages_of_a_turn_leave_in_one_event() -> None:
    w = World()
    client, host = w.connect_all()
    commits = w.journal.commits
    for i in range(50):
        client.send(*submit(i))
    w.pump()
    assert w.journal.commits == commits + 1
    assert len(w.scheduler.tasks) == 50


def test_a_peer_that_does_not_open_its_channel_is_given_up() -> None:
    w = World()
    w.clock.advance(29)
    assert not w.ended
    w.clock.advance(2)
    w.clock.advance(0)
    assert set(w.ended) == {w.host, w.clients[1]}
    assert not w.scheduler.sessions
    assert not w.scheduler.hosts


def test_a_second_channel_is_refused() -> None:
    w = World()
    w.connect_all()
    other = w.connect(w.clients[1])
    w.pump()
    assert other.losses


def test_losing_a_peer_twice_is_losing_it_once() -> None:
    w = World()
    client, _ = w.connect_all()
    w.clients[1].lost("one", final=True)
    w.clients[1].lost("two", final=True)
    w.pump()
    assert w.ended == [w.clients[1]]
    assert len(client.losses) == 1


def test_a_lost_channel_is_a_lost_host() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    host.abort("gone")
    w.pump()
    w.clock.advance(0)
    assert not w.scheduler.hosts
    w.pump()
    assert [m.outcome for m, _ in results(client)] == [Outcome.LOST]


def test_functions_reach_hosts_through_links() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(Function(b"d" * 16, 4), b"code")
    client.send(Submit(tid(0), Kind.APPLY, 0, digest=b"d" * 16))
    w.pump()
    assert [type(m) for m, _ in host.inbox] == [Function, Assign]


def test_a_host_may_report_absurd_times() -> None:
    for seconds in (-1.0, 1e10, 0.0):
        w = World()
        client, host = w.connect_all()
        for count in range(3):
            client.send(*submit(count))
            w.pump()
            for assign in [a for a in assigns(host) if a.task in w.scheduler.tasks]:
                host.send(*done(assign, seconds=seconds))
            w.pump()
        assert [m.task for m, _ in results(client)] == [tid(i) for i in range(3)]
        assert w.scheduler.engines[0].mean < float("inf")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
def test_times_that_are_none_cost_a_host_its_connection(seconds: float) -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    [assign] = assigns(host)
    host.send(*done(assign, seconds=seconds))
    w.pump()
    assert w.ended == [w.host]
    assert [m.outcome for m, _ in results(client)] in ([], [Outcome.LOST])


def test_a_fault_of_the_scheduler_costs_only_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipkernel.controller import scheduler
    from ipkernel.controller.events import FromClient

    deal = scheduler._PARTS[FromClient]

    def fragile(core: Any, event: Any) -> None:
        if event.session == 1:
            raise RuntimeError("a fault")
        deal(core, event)

    monkeypatch.setitem(scheduler._PARTS, FromClient, fragile)
    w = World(clients=2)
    first, second = w.connect(w.clients[1]), w.connect(w.clients[2])
    host = w.connect(w.host)
    host.send(EngineJoined(0, "h", 7))
    w.pump()
    first.send(*submit(0))
    second.send(*submit(0, session=2))
    w.pump()
    assert [a.task for a in assigns(host)] == [tid(0, 2)]
    assert w.ended == [w.clients[1]]
    assert first.losses
    assert not second.losses


def test_a_link_that_ends_leaves_nothing_with_its_connection() -> None:
    class Reference:
        def __init__(self) -> None:
            self.watchers: list[Any] = []

        def notifyOnDisconnect(self, *watcher: Any) -> Any:
            self.watchers.append(watcher)
            return watcher

        def dontNotifyOnDisconnect(self, watcher: Any) -> None:
            self.watchers.remove(watcher)

    w = World()
    reference = Reference()
    w.clients[1].watch(reference)
    assert len(reference.watchers) == 1
    w.clients[1].lost("over")
    assert reference.watchers == []


# --------------------------------------------------------------------------------- clients that go


def test_results_that_were_not_acknowledged_wait_for_whoever_fetches_them() -> None:
    w = World(clients=2)
    client, host = w.connect_all()
    other = w.connect(w.clients[2])
    for i in range(5):
        client.send(*submit(i))
    w.pump()
    while len(results(client)) < 5:
        for assign in assigns(host):
            if assign.task in w.scheduler.tasks:
                host.send(*done(assign))
        w.pump()
    client.abort("gone")
    w.pump()
    other.send(Fetch([tid(i) for i in range(5)]))
    w.pump()
    assert [(m.task, m.outcome) for m, _ in results(other)] == [
        (tid(i), Outcome.OK) for i in range(5)
    ]


def test_results_decided_while_the_client_was_going_are_kept() -> None:
    w = World()
    client, host = w.connect_all()
    client.send(*submit(0))
    w.pump()
    [assign] = assigns(host)
    host.send(*done(assign))
    host.flush_now()
    link = w.clients[1]
    link.gone = True  # as if it was lost after the decision and before the release
    w.pump()
    assert tid(0) in w.scheduler.retained
    link.gone = False
    link.lost("gone", final=True)
