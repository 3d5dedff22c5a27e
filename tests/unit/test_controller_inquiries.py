"""Long questions: a part at a time, so many of them, and what becomes of the rest."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from ipkernel.controller import inquiries
from ipkernel.controller.inquiries import Inquiries
from ipkernel.controller.journal import MemoryJournal
from ipkernel.controller.turn import Turn
from ipkernel.errors import KernelError
from ipkernel.wire.messages import Done, Outcome
from ipkernel.wire.queries import Purge, Search, parse
from tests.support.scheduling import Cluster


class Scene:
    """Inquiries about a pretended cluster, with a clock."""

    def __init__(self, tasks: int = 0, engines: int = 0) -> None:
        self.cluster = Cluster(engines=engines)
        self.tasks = self.cluster.submit(tasks, label="many") if tasks else []
        self.clock = Clock()
        self.follow: list[object] = []
        scheduler = self.cluster.scheduler
        turn = Turn(self.clock, scheduler, MemoryJournal(), self.follow.append)
        self.inquiries = Inquiries(self.clock, scheduler, turn)

    def ask(self, **request):
        return self.inquiries.search(Search(**request))

    def turn(self):
        """Make the calls that are due now, and none that these bring about."""
        for due in list(self.clock.calls):
            if due.active():
                self.clock.calls.remove(due)
                due.called = 1
                due.func(*due.args, **due.kw)

    def turns(self, answer):
        """Let the reactor turn until there is an answer; return how often it did, and the answer."""
        for count in range(10_000):
            if answer.called:
                return count, answer.result
            self.turn()
        raise AssertionError("no answer")


def failure(answer):
    caught = []
    answer.addErrback(lambda f: caught.append(f))
    return caught[0].value


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(inquiries, "CHUNK", 10)


def test_short_answers_come_at_once():
    scene = Scene(5)
    count, page = scene.turns(scene.ask(where=parse({"msg_id": scene.tasks[2]}), keys=["label"]))
    assert count == 0 and page.rows == [[scene.tasks[2], "many"]] and page.more == 0


def test_long_ones_leave_room_for_others():
    scene = Scene(95)
    count, page = scene.turns(scene.ask(where=parse({"retries": 5})))
    assert count == 9 and page.rows == [] and page.more == 0


def test_large_queries_look_at_fewer_tasks_at_a_time():
    scene = Scene(95)
    many = {"$or": [{"retries": 5}] * 400}
    count, page = scene.turns(scene.ask(where=parse(many)))
    assert count == 94 and page.rows == []


def test_pages(monkeypatch):
    monkeypatch.setattr("ipkernel.controller.querying.MAX_ROWS", 40)
    scene = Scene(100)
    found, more = [], 0
    for _ in range(3):
        _, page = scene.turns(scene.ask(more=more))
        found.append([row[0] for row in page.rows])
        last, more = more, page.more
    assert [len(part) for part in found] == [40, 40, 20] and sum(found, []) == scene.tasks
    assert more == 0
    assert "given up for later ones" in str(failure(scene.ask(more=last)))


def test_what_nobody_comes_for_is_given_up(monkeypatch):
    monkeypatch.setattr("ipkernel.controller.querying.MAX_ROWS", 4)
    monkeypatch.setattr(inquiries, "MAX_PAUSED", 3)
    scene = Scene(20)
    pages = [scene.turns(scene.ask())[1].more for _ in range(4)]
    assert len(set(pages)) == 4 and len(scene.inquiries._paused) == 3
    assert isinstance(failure(scene.ask(more=pages[0])), KernelError)
    assert scene.turns(scene.ask(more=pages[1]))[1].rows


def test_only_so_many_run_at_a_time(monkeypatch):
    monkeypatch.setattr(inquiries, "MAX_RUNNING", 2)
    scene = Scene(50)
    where = parse({"retries": 5})
    running = [scene.ask(where=where) for _ in range(2)]
    assert "2 other searches run" in str(failure(scene.ask(where=where)))
    for answer in running:
        scene.turns(answer)
    scene.turns(scene.ask(where=where))
    assert not scene.inquiries._running


def test_wrong_ones_are_refused():
    scene = Scene()
    assert "no field 'lable'" in str(failure(scene.ask(keys=["lable"])))


def test_the_end_is_told_to_those_who_wait():
    scene = Scene(50)
    answer = scene.ask(where=parse({"retries": 5}))
    scene.inquiries.close()
    assert answer.called and failure(answer)
    assert not scene.clock.getDelayedCalls()


def end(scene, count):
    c = scene.cluster
    for _ in range(count):
        a = c.assigned[0]
        c.from_host((Done(a.task, a.engine, Outcome.OK, 1.0, 2.0, 0), b""))


def test_purging_some_and_all():
    scene = Scene(60, engines=2)
    end(scene, 50)
    gone = scene.tasks[:12]
    count, answer = scene.turns(scene.inquiries.purge(Purge(tasks=gone)))
    assert answer.count == 12 and not answer.problem and count >= 2
    _, page = scene.turns(scene.ask(where=parse({"state": "finished"})))
    assert [row[0] for row in page.rows] == scene.tasks[12:50]
    _, page = scene.turns(scene.ask(where=parse({"state": "finished", "engine_id": 1})))
    theirs = len(page.rows)
    assert 0 < theirs < 38
    assert scene.turns(scene.inquiries.purge(Purge(engines=[1])))[1].count == theirs
    assert scene.turns(scene.inquiries.purge(Purge(everything=True)))[1].count == 38 - theirs
    _, page = scene.turns(scene.ask())
    assert [row[0] for row in page.rows] == scene.tasks[50:]


def test_what_is_open_cannot_be_purged():
    scene = Scene(3, engines=1)
    end(scene, 1)
    _, answer = scene.turns(scene.inquiries.purge(Purge(tasks=scene.tasks)))
    assert answer.count == 0
    assert answer.problem.startswith(f"task {scene.tasks[1]} has not ended, nor have 1 others")
    assert scene.turns(scene.inquiries.purge(Purge(tasks=scene.tasks[:1])))[1].count == 1
