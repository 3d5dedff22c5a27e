"""Looking for tasks through real doors: what each role may, and from which client."""

from __future__ import annotations

import pytest

from ipkernel.errors import KernelError
from ipkernel.wire.messages import Assign, Done, Finished, Kind, Outcome, Resubmit, Started, Submit
from ipkernel.wire.queries import Page, Purge, Purged, Search, parse
from ipkernel.wire.records import TaskQuery, TaskStories, pack
from ipkernel.wire.tub import call
from tests.support.reactor import inreactor
from tests.system.controller_support import world


def submit(client, count, payload=b"abc", **options):
    message = Submit(client.tid(count), Kind.APPLY, len(payload), **options)
    client.channel.send(message, payload)
    return message.task


async def rows(peer, query, *keys):
    found, request = [], Search(where=parse(query), keys=list(keys))
    while True:
        page = await peer.ask("search", request, Page)
        found += page.rows
        if not page.more:
            return found
        request = Search(more=page.more)


@inreactor
async def test_tasks_of_a_client_that_has_gone_are_found_fetched_and_run_again():
    async with world() as w:
        await w.host(2)
        first = await w.client()
        other = await w.client()
        tasks = [submit(first, i, b"task %d" % i, label="mine") for i in range(10)]
        await first.until(lambda: len(first.of(Finished)) == 10)
        late = submit(first, 50, b"late", targets=[7], spread=False)  # there is no engine 7
        await first.until(lambda: len(first.of(Finished)) == 11)
        await first.tub.stopService()
        found = await rows(other, {"label": "mine"}, "state", "kept")
        assert found == [[task, "finished", False] for task in tasks]
        found = await rows(other, {"session": first.session, "state": "failed"}, "status")
        assert found == [[late, "error"]]


@inreactor
async def test_a_failed_task_is_run_again_by_another_client():
    async with world() as w:
        host = await w.host(1)
        host.working = False
        first, other = await w.client(), await w.client()
        task = submit(first, 0, b"abc", retries=0)
        await host.until(lambda: host.of(Assign))
        host.channel.send(Done(task, 0, Outcome.ERROR, 1.0, 2.0, 3), b"bad")
        await first.until(lambda: first.of(Finished))
        await first.tub.stopService()
        ((_, can),) = await rows(other, {"msg_id": task}, "resubmittable")
        assert can is True
        host.working = True
        again = other.tid(0)
        other.channel.send(Resubmit(again, task), b"")
        await other.until(lambda: other.of(Finished))
        (message,) = other.of(Finished)
        assert message.task == again and message.outcome is Outcome.OK
        assert bytes(other.inbox[-1][1]) == b"ABC"


@inreactor
async def test_monitors_look_and_do_not_touch():
    async with world() as w:
        await w.host(1)
        client = await w.client()
        submit(client, 0)
        await client.until(lambda: client.of(Finished))
        monitor = await w.door("monitor")
        assert await rows(monitor, {}, "state") == [[client.tid(0), "finished"]]
        with pytest.raises(KernelError):
            await call(monitor.door, "purge", pack(Purge(everything=True)))
        engine = await w.door("engine")
        with pytest.raises(KernelError):
            await call(engine.door, "search", pack(Search()))
        assert (await client.ask("purge", Purge(everything=True), Purged)).count == 1
        assert await rows(monitor, {}) == []


@inreactor
async def test_wrong_questions_are_answered_with_what_is_wrong():
    async with world() as w:
        client = await w.client()
        with pytest.raises(KernelError, match="this is not a Search"):
            await call(client.door, "search", b"\xc1")
        with pytest.raises(KernelError, match="tasks have no field 'lable'"):
            await client.ask("search", Search(keys=["lable"]), Page)
        with pytest.raises(KernelError, match="given up for later ones"):
            await client.ask("search", Search(more=5), Page)
        deep = b"\x82\xa4type\xa5every\xa5parts\x91" * 50_000
        with pytest.raises(KernelError):
            await call(client.door, "search", b"\x81\xa5where" + deep[:200_000])
        assert await rows(client, {}) == []


@inreactor
async def test_many_tasks_come_in_pages():
    async with world() as w:
        client = await w.client()
        tasks = [submit(client, i) for i in range(10_000)]
        while len(w.controller.scheduler.tasks) < 10_000:
            await rows(client, {"msg_id": tasks[0]})
        assert [row[0] for row in await rows(client, {"state": "ready"})] == tasks


@inreactor
async def test_what_is_stuck_is_in_the_status_and_goes_again():
    async with world(watchdog=0.2) as w:
        client = await w.client()
        task = submit(client, 0)
        status = await client.status()
        while not status.stuck:
            status = await client.status()
        (found,) = status.stuck
        assert found.reason == "1 task has not ended, and there is no engine"
        await w.host(1)
        await client.until(lambda: client.of(Finished))
        while "no engines" in [one.cause for one in (await client.status()).stuck]:
            pass
        assert client.of(Finished)[0].task == task


@inreactor
async def test_engines_are_explained_through_the_door():
    async with world() as w:
        host = await w.host(2)
        host.working = False
        client, monitor = await w.client(), await w.door("monitor")
        tasks = [submit(client, n, targets=[1], spread=False) for n in range(2)]
        await host.until(lambda: host.of(Assign))
        host.channel.send(Started([tasks[0]]), b"")
        answer = TaskStories()
        while not (answer.engines and answer.engines[1].running):
            answer = await monitor.ask("explain", TaskQuery(engines=[0, 1, 7]), TaskStories)
        idle, busy, none = answer.engines
        assert idle.reason == "engine 0 has nothing to do" and none.state == "unknown"
        assert busy.running == tasks[:1] and busy.queued == tasks[1:]
