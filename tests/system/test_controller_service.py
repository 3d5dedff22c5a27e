"""The controller with real Tubs, doors and channels, in one process."""

from __future__ import annotations

import logging
import pickle

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ipkernel.controller import clientele
from ipkernel.errors import ConnectError, KernelError
from ipkernel.serialize import failure
from ipkernel.wire.messages import (
    Assign,
    Closing,
    Dependency,
    Done,
    EngineJoined,
    EngineLeft,
    Fetch,
    Finished,
    Function,
    Kind,
    Outcome,
    Started,
    Submit,
    Terms,
    decode_reason,
)
from ipkernel.wire.records import (
    ClientHello,
    EngineAnswer,
    EngineOrder,
    HostHello,
    TaskQuery,
    TaskStories,
    pack,
)
from ipkernel.wire.tub import call, connect
from tests.support.reactor import inreactor
from tests.system.controller_support import FakeClient, FakeHost, world


def results(client):
    return {m.task: bytes(p) for m, p in client.inbox if isinstance(m, Finished)}


def submit(client, count, payload=b"abc", **options):
    message = Submit(client.tid(count), Kind.APPLY, len(payload), **options)
    client.channel.send(message, payload)
    return message.task


# --------------------------------------------------------------------------------- work


@inreactor
async def test_tasks_flow_from_clients_to_hosts_and_back():
    async with world() as w:
        await w.host(2)
        client = await w.client()
        tasks = [submit(client, i, b"task %d" % i) for i in range(2000)]
        await client.until(lambda: len(client.of(Finished)) == 2000)
        assert results(client) == {t: b"TASK %d" % i for i, t in enumerate(tasks)}
        assert not w.controller.scheduler.tasks


@inreactor
async def test_one_process_may_have_so_many_sessions(monkeypatch):
    monkeypatch.setattr(clientele, "MAX_SESSIONS", 2)
    async with world() as w:
        tub = w.tub()
        first = await FakeClient(tub).open(w.furls["client"])
        second = FakeClient(tub)
        second.door = first.door
        hello = pack(ClientHello(user="me\nroot", host="\x1b[2Jhere", pid=1))
        await call(first.door, "open", second, hello)
        assert len(w.controller.tub.tickets) == 1
        with pytest.raises(KernelError, match="has 2 sessions open already"):
            await call(first.door, "open", FakeClient(tub), hello)
        await w.client()
        await tub.stopService()
        gone = Deferred()

        def look():
            if w.controller._clients.connected == 1:
                gone.callback(None)
            else:
                reactor.callLater(0.01, look)

        look()
        await gone
        assert len(w.controller.tub.tickets) == 0  # that of the session without a channel


@inreactor
async def test_what_peers_call_themselves_cannot_forge_log_lines(caplog):
    caplog.set_level(logging.INFO, "ipkernel.controller")
    async with world() as w:
        client, host = FakeClient(w.tub()), FakeHost(w.tub())
        host.name = "h\n\x1b[2J"
        await host.join(w.furls["engine"], 1)
        client.door = await connect(client.tub, w.furls["client"])
        hello = ClientHello(user="me\nINFO all is well", host="\x9b2Jhere", pid=1)
        await call(client.door, "open", client, pack(hello))
        said = [r.getMessage() for r in caplog.records]
        assert all(line.isprintable() for line in said)
        assert any("me?INFO all is well on ?2Jhere (pid 1)" in line for line in said)
        assert [h.host for h in w.controller.status().hosts] == ["h??[2J"]


@inreactor
async def test_nothing_is_unpickled_while_tasks_flow(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the controller unpickles")

    async with world() as w:
        host = await w.host(1)
        client = await w.client()
        payload = pickle.dumps(("a", "call"))
        monkeypatch.setattr(pickle, "loads", refuse)
        monkeypatch.setattr(pickle, "load", refuse)
        monkeypatch.setattr(pickle, "Unpickler", refuse)
        monkeypatch.setattr(pickle, "_Unpickler", refuse)
        client.channel.send(Function(b"d" * 16, len(payload)), payload)
        submit(client, 0, payload, digest=b"d" * 16)
        await client.until(lambda: client.of(Finished))
        assert host.inbox[0] == (Function(b"d" * 16, len(payload)), payload)
        assert list(results(client).values()) == [payload.upper()]


@inreactor
async def test_large_payloads_pass():
    async with world() as w:
        await w.host(1)
        client = await w.client()
        payload = b"x" * (5 << 20)
        task = submit(client, 0, payload)
        await client.until(lambda: client.of(Finished))
        assert results(client)[task] == payload.upper()


@inreactor
async def test_clients_are_told_of_engines():
    async with world() as w:
        first = await w.client()
        assert first.grant.engines == []
        assert first.grant.cluster == "test"
        host = await w.host(2)
        await first.until(lambda: len(first.of(EngineJoined)) == 2)
        second = await w.client()
        assert [(e.engine, e.state, e.host) for e in second.grant.engines] == [
            (0, "ready", "fake"),
            (1, "ready", "fake"),
        ]
        assert second.session == first.session + 1
        host.channel.send(EngineLeft(1, "killed", False, []))
        await first.until(lambda: first.of(EngineLeft))
        await host.tub.stopService()
        await second.until(lambda: {m.engine for m in second.of(EngineLeft)} == {0, 1})


@inreactor
async def test_a_lost_host_fails_what_it_had_begun_and_keeps_the_rest():
    async with world() as w:
        host = FakeHost(w.tub())
        host.working = False
        await host.join(w.furls["engine"], 1)
        client = await w.client()
        first, second = submit(client, 0), submit(client, 1)
        await host.until(lambda: host.of(Assign))
        await host.tub.stopService()
        await client.until(lambda: client.of(Finished))
        [finished] = client.of(Finished)
        assert (finished.task, finished.outcome) == (first, Outcome.LOST)
        assert decode_reason(results(client)[first]).kind == "host"
        await w.host(1)
        await client.until(lambda: len(client.of(Finished)) == 2)
        assert results(client)[second] == b"ABC"


@inreactor
async def test_results_of_a_client_that_went_are_fetched_by_another():
    async with world() as w:
        host = FakeHost(w.tub())
        host.working = False
        await host.join(w.furls["engine"], 1)
        first = await w.client()
        task = submit(first, 0)
        await host.until(lambda: host.of(Assign))
        await first.tub.stopService()
        second = await w.client()
        host.done(host.of(Assign)[0], b"late")
        second.channel.send(Fetch([task]))
        await second.until(lambda: second.of(Finished))
        assert results(second) == {task: b"late"}
        assert len(w.controller.scheduler.retained) == 0


@inreactor
async def test_a_client_that_breaks_the_rules_is_dropped_and_nobody_else():
    async with world() as w:
        await w.host(1)
        good, bad = await w.client(), await w.client()
        bad.channel.send(Submit(good.tid(0), Kind.APPLY, 0))
        await bad.until(lambda: bad.losses)
        submit(good, 0)
        await good.until(lambda: good.of(Finished))
        assert not good.losses


@inreactor
async def test_a_host_that_registers_anew_takes_the_place_of_the_old():
    async with world() as w:
        host = await w.host(2)
        client = await w.client()
        await host.join(w.furls["engine"], 2, engines=[1, 0])
        assert host.grant.engines == [1, 0]
        await client.until(lambda: len(client.of(EngineJoined)) >= 2)
        assert len(w.controller.scheduler.hosts) == 1
        submit(client, 0)
        await client.until(lambda: client.of(Finished))


# -------------------------------------------------------------------------------- doors


@inreactor
async def test_status_shows_everything():
    async with world() as w:
        host = FakeHost(w.tub())
        host.working = False
        await host.join(w.furls["engine"], 2)
        client = await w.client()
        for i in range(5):
            submit(client, i)
        await host.until(lambda: len(host.of(Assign)) == 2)
        monitor = await w.door("monitor")
        status = await monitor.status()
        assert status.cluster == "test"
        assert [(h.host, h.engines, h.connected) for h in status.hosts] == [("fake", [0, 1], True)]
        assert [(e.engine, e.state, e.running, e.queued) for e in status.engines] == [
            (0, "ready", 1, 0),
            (1, "ready", 1, 0),
        ]
        assert (status.queue.ready, status.queue.assigned) == (3, 2)
        assert status.clients == 1
        assert status.memory > 1 << 20
        assert status.location.startswith("tcp:127.0.0.1:")


@inreactor
async def test_explain_tells_stories():
    async with world() as w:
        client = await w.client()
        task = submit(client, 0)
        unknown = client.tid(99)
        stories = []
        while not stories or stories[0].state == "unknown":
            answer = await client.ask("explain", TaskQuery(tasks=[task, unknown]), TaskStories)
            stories = answer.stories
        assert stories[0].state == "ready"
        assert "no engines" in stories[0].reason
        assert stories[1].state == "unknown"


@inreactor
async def test_tasks_are_found_by_their_label():
    async with world() as w:
        client, other = await w.client(), await w.client()
        mine = [submit(client, n, label="fit") for n in range(3)]
        submit(client, 3, label="another")
        yours = submit(other, 0, label="fit")
        while len(w.controller.scheduler.tasks) < 5:
            await deferLater(reactor, 0.01)
        query = TaskQuery(tasks=[mine[0]], label="fit")
        answer = await client.ask("explain", query, TaskStories)
        assert sorted(story.task for story in answer.stories) == sorted([*mine, yours])
        full = TaskQuery(tasks=list(range(1023)), label="fit")
        answer = await client.ask("explain", full, TaskStories)
        assert len(answer.stories) == 1024


@inreactor
async def test_orders_go_to_the_right_hosts_and_answers_are_merged():
    async with world() as w:
        one, two = await w.host(2), await w.host(1)
        client = await w.client()
        await client.until(lambda: len(client.grant.engines) + len(client.of(EngineJoined)) >= 3)
        answer = await client.ask(
            "signal_engines", EngineOrder(engines=[2, 1, 9], signal="SIGINT"), EngineAnswer
        )
        assert answer.engines == [1, 2]
        assert answer.problem == "there is no engine 9"
        assert [(what, o.engines, o.signal) for what, o in one.orders] == [
            ("signal", [1], "SIGINT")
        ]
        assert [(what, o.engines, o.signal) for what, o in two.orders] == [
            ("signal", [2], "SIGINT")
        ]
        two.problem = "no"
        answer = await client.ask("restart_engines", EngineOrder(), EngineAnswer)
        assert answer.engines == [0, 1]
        assert answer.problem == "fake: no"


@inreactor
async def test_engines_are_started_where_the_fewest_are_and_stopped():
    async with world() as w:
        one, two = await w.host(2), await w.host(1)
        client = await w.client()
        admin = await w.door("admin")
        answer = await admin.ask("start_engines", EngineOrder(count=2), EngineAnswer)
        assert answer == EngineAnswer(engines=[3, 4])
        assert [(what, len(o.engines)) for what, o in two.orders] == [("start", 1)]
        assert [(what, len(o.engines)) for what, o in one.orders] == [("start", 1)]
        await client.until(lambda: {3, 4} <= {m.engine for m in client.of(EngineJoined)})
        answer = await admin.ask("stop_engines", EngineOrder(engines=[3, 0]), EngineAnswer)
        assert answer == EngineAnswer(engines=[0, 3])
        await client.until(lambda: {m.engine for m in client.of(EngineLeft)} == {0, 3})
        assert sorted(w.controller.scheduler.engines) == [1, 2, 4]
        answer = await admin.ask("start_engines", EngineOrder(count=1), EngineAnswer)
        assert answer.engines == [0]


@inreactor
async def test_engines_that_could_not_be_started_or_stopped_are_as_before():
    async with world() as w:
        host = await w.host(1)
        admin = await w.door("admin")
        host.problem = "out of memory"
        answer = await admin.ask("start_engines", EngineOrder(count=2), EngineAnswer)
        assert answer == EngineAnswer(problem="out of memory")
        await w.controller._turn.settled()
        assert sorted(w.controller.scheduler.engines) == [0]
        answer = await admin.ask("stop_engines", EngineOrder(), EngineAnswer)
        assert answer == EngineAnswer(problem="out of memory")
        client = await w.client()
        submit(client, 0)
        await client.until(lambda: client.of(Finished))


@inreactor
async def test_engines_cannot_be_started_without_a_host():
    async with world() as w:
        admin = await w.door("admin")
        answer = await admin.ask("start_engines", EngineOrder(count=1), EngineAnswer)
        assert answer.problem == "there is no host to start engines on"
        await w.host(1)
        answer = await admin.ask("start_engines", EngineOrder(count=1, host="x"), EngineAnswer)
        assert answer.problem == "there is no host 'x' to start engines on"


@inreactor
async def test_a_bad_request_is_answered_in_words_and_leaves_no_traceback(caplog):
    caplog.set_level(logging.DEBUG)
    async with world() as w:
        client = await w.client()
        with pytest.raises(KernelError, match="this is not a TaskQuery"):
            await call(client.door, "explain", b"\xc1garbage")
        with pytest.raises(KernelError, match="cannot be called like this"):
            await call(client.door, "explain", b"x" * (1 << 19))
        host = FakeHost(w.tub())
        host.door = (await w.door("engine")).door
        with pytest.raises(KernelError):
            await call(host.door, "register", host, b"\x00")
        assert (await client.status()).clients == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("role", "method"),
    [
        ("engine", "open"),
        ("engine", "status"),
        ("engine", "shutdown"),
        ("monitor", "start_engines"),
        ("monitor", "signal_engines"),
        ("client", "start_engines"),
        ("client", "shutdown"),
        ("client", "register"),
        ("admin", "open"),
    ],
)
@inreactor
async def test_a_role_can_do_only_what_is_its_own(role, method):
    async with world() as w:
        peer = await w.door(role)
        with pytest.raises(KernelError):
            await call(peer.door, method, b"")


@inreactor
async def test_another_protocol_is_refused_in_words():
    async with world() as w:
        client, host = await w.client(), FakeHost(w.tub())
        with pytest.raises(ConnectError, match="install the same release on both sides"):
            await call(client.door, "open", client, pack(ClientHello(protocol=99, version="9.9")))
        host.door = (await w.door("engine")).door
        hello = pack(HostHello(host="h", pid=1, slots=1, protocol=99))
        peer = await w.door("engine")
        with pytest.raises(ConnectError, match="protocol 99"):
            await call(peer.door, "register", FakeHost(peer.tub), hello)


# ----------------------------------------------------------------------------- stopping


@inreactor
async def test_stopping_tells_everybody_and_waits_for_hosts():
    async with world() as w:
        host = await w.host(1)
        client = await w.client()
        await w.stop()
        assert host.stopped == "the controller was stopped"
        await client.until(lambda: client.losses)
        assert [m.reason for m in client.of(Closing)] == ["the controller was stopped"]
        assert not w.controller.scheduler.hosts


@inreactor
async def test_stopping_does_not_wait_long_for_a_host_that_stays(monkeypatch):
    monkeypatch.setattr("ipkernel.controller.service.STOP_TIME", 0.1)

    class Stubborn(FakeHost):
        def leave(self):
            pass

    async with world() as w:
        host = await w.host(1, Stubborn)
        await w.stop()
        assert host.stopped
        await host.until(lambda: host.losses)


@inreactor
async def test_nobody_is_let_in_while_it_stops(monkeypatch):
    monkeypatch.setattr("ipkernel.controller.service.STOP_TIME", 0.3)

    class Stubborn(FakeHost):
        def leave(self):
            pass

    async with world() as w:
        await w.host(1, Stubborn)
        client = await w.client()
        stopping = w.stop()
        stopping = Deferred.fromCoroutine(stopping)
        with pytest.raises(ConnectError, match="is stopping"):
            await call(client.door, "open", client, pack(ClientHello()))
        await stopping


@inreactor
async def test_an_admin_can_shut_the_controller_down():
    asked = Deferred()
    async with world(on_shutdown=asked.callback) as w:
        admin = await w.door("admin")
        assert await call(admin.door, "shutdown", b"enough") is None
        assert await asked == "enough"


@inreactor
async def test_a_running_task_is_shown_as_running():
    async with world() as w:
        host = FakeHost(w.tub())
        host.working = False
        await host.join(w.furls["engine"], 1)
        client = await w.client()
        task = submit(client, 0)
        await host.until(lambda: host.of(Assign))
        host.channel.send(Started([task]))
        monitor = await w.door("monitor")
        status = await monitor.status()
        while not status.queue.running:
            await deferLater(reactor, 0, lambda: None)
            status = await monitor.status()
        assert status.engines[0].running == 1


# --------------------------------------------------------------------- what tasks ask for


@inreactor
async def test_a_host_gets_tasks_in_the_order_of_their_priorities():
    async with world() as w:
        host = await w.host(1)
        host.working = False
        client = await w.client()
        first = submit(client, 0)
        await host.until(lambda: host.of(Assign))
        for count, priority in enumerate([0, -5, 5], 1):
            submit(client, count, terms=Terms(priority) if priority else None)
        while len(w.controller.scheduler.tasks) < 4:
            await deferLater(reactor, 0.01)
        for index in range(4):
            await host.until(lambda n=index: len(host.of(Assign)) > n)
            host.done(host.of(Assign)[index])
        assert [m.task for m in host.of(Assign)] == [first, *map(client.tid, (3, 1, 2))]
        await client.until(lambda: len(client.of(Finished)) == 4)


@inreactor
async def test_a_task_waits_for_one_of_another_session_and_follows_it():
    async with world() as w:
        host = await w.host(2)
        host.working = False
        mine, yours = await w.client(), await w.client()
        first = submit(mine, 1)
        await host.until(lambda: host.of(Assign))
        child = submit(yours, 1, terms=Terms(follow=Dependency([first])))
        never = submit(
            yours, 2, terms=Terms(after=Dependency([first], success=False, failure=True))
        )
        while len(w.controller.scheduler.tasks) < 3:
            await deferLater(reactor, 0.01)
        host.done(host.of(Assign)[0])
        await host.until(lambda: len(host.of(Assign)) == 2)
        assert [m.task for m in host.of(Assign)] == [first, child]
        assert host.of(Assign)[0].engine == host.of(Assign)[1].engine
        host.done(host.of(Assign)[1])
        await yours.until(lambda: len(yours.of(Finished)) == 2)
        assert decode_reason(results(yours)[never]).kind == "dependency"


@inreactor
async def test_a_task_that_a_host_s_engine_rejects_goes_to_another():
    async with world() as w:
        host = await w.host(2)
        host.working = False
        client = await w.client()
        task = submit(client, 1)
        told = failure.encode(failure.describe(LookupError("not here")))
        for count in (1, 2):
            await host.until(lambda n=count: len(host.of(Assign)) == n)
            message = host.of(Assign)[-1]
            host.channel.send(
                Done(task, message.engine, Outcome.REJECTED, 1.0, 2.0, len(told)), told
            )
        await client.until(lambda: client.of(Finished))
        assert {m.engine for m in host.of(Assign)} == set(host.grant.engines)
        assert decode_reason(results(client)[task]).text.count("LookupError: not here") == 2
