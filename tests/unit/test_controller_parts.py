"""The small parts of the controller: ids, retention, shares, kept state, journal, requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from ipkernel.controller import doors
from ipkernel.controller.doors import MonitorDoor, read_request
from ipkernel.controller.events import HostJoined
from ipkernel.controller.journal import Forgotten, IJournal, MemoryJournal
from ipkernel.controller.orders import Orders, share
from ipkernel.controller.picture import Picture
from ipkernel.controller.registry import Ids
from ipkernel.controller.retention import OutputTail, Retained
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import MAX_WINDOW, Engine, Ladder
from ipkernel.controller.state import ROLES, Kept
from ipkernel.controller.turn import Turn
from ipkernel.errors import ConfigurationError, KernelError, SecurityError
from ipkernel.vitals import Reading
from ipkernel.wire.messages import Finished, Outcome, Output, Stream
from ipkernel.wire.records import (
    EngineAnswer,
    EngineOrder,
    EngineStory,
    TaskQuery,
    TaskStories,
    TaskStory,
    pack,
    unpack,
)

# ---------------------------------------------------------------------------- engine ids


def test_the_lowest_free_ids_are_taken() -> None:
    ids = Ids()
    assert ids.take(3) == [0, 1, 2]
    ids.free(1)
    assert ids.take(2) == [1, 3]
    ids.free(0)
    ids.free(2)
    assert ids.take(3) == [0, 2, 4]


def test_wanted_ids_are_given_when_they_are_free() -> None:
    ids = Ids()
    assert ids.take(3, [7, 1]) == [7, 1, 0]
    assert ids.take(3, [1, 7, 9]) == [2, 3, 9]
    assert ids.take(2, [-1, -1]) == [4, 5]
    ids.free(7)
    assert ids.take(3) == [6, 7, 8]


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(-1, 12), max_size=4))))
def test_no_id_is_given_twice(steps: list[tuple[int, list[int]]]) -> None:
    ids = Ids()
    taken: set[int] = set()
    for count, wanted in steps:
        got = ids.take(count, wanted)
        assert len(got) == count
        assert not taken & set(got)
        assert len(set(got)) == count
        assert all(number >= 0 for number in got)
        taken |= set(got)
        for number in got[:2]:
            taken.discard(number)
            ids.free(number)
            ids.free(number)  # twice does no harm


# ------------------------------------------------------------------------------- engines


def engine(number: int = 0) -> Engine:
    made = Engine(number, None, 0.0)  # type: ignore[arg-type]
    made.state = "ready"
    return made


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 100)), min_size=1, max_size=50))
def test_a_window_keeps_to_its_limits(measurements: list[tuple[int, float]]) -> None:
    one = engine()
    for count, seconds in measurements:
        before = one.window
        one.measured(count, seconds)
        assert 1 <= one.window <= min(MAX_WINDOW, 2 * before)


def test_a_window_follows_the_duration_of_tasks() -> None:
    for seconds, window in [(1.0, 1), (0.02, 1), (0.015, 2), (0.001, 4), (0.0001, 22), (0.0, 1024)]:
        one = engine()
        for _ in range(60):
            one.measured(1, seconds)
        assert one.window == window, seconds


def test_clocks_that_go_backwards_do_no_harm() -> None:
    one = engine()
    one.measured(1, -5.0)
    assert one.mean > 0
    assert one.window == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.booleans()), max_size=60))
def test_the_ladder_knows_the_least_loaded_engine(steps: list[tuple[int, int, bool]]) -> None:
    ladder = Ladder()
    engines = [engine(n) for n in range(6)]
    for number, load, is_open in steps:
        one = engines[number]
        one.window = MAX_WINDOW if is_open else 1
        one.assigned = dict.fromkeys(range(load if is_open else load + 1))  # type: ignore[arg-type]
        ladder.update(one)
        room = [e for e in engines if e.rung >= 0]
        assert ladder.open == len(room)
        first = ladder.first()
        if not room:
            assert first is None
            continue
        assert first is not None
        least = min(len(e.assigned) for e in room)
        assert len(first.assigned) == least
        others = sorted(len(e.assigned) for e in room if e is not first)
        assert ladder.step() == (0 if not others else max(1, others[0] - least))
        assert ladder.any_idle == (least == 0)


# ----------------------------------------------------------------------------- retention


def finished(task: int, size: int = 10) -> tuple[Finished, bytes]:
    return Finished(task, Outcome.OK, 0, 1.0, 2.0, size), bytes(size)


def test_retained_results_are_taken_once() -> None:
    kept = Retained()
    assert kept.keep(*finished(1), 5.0) == []
    assert 1 in kept
    assert kept.since(1) == 5.0
    assert kept.take([1]) == {1: ([], finished(1))}
    assert kept.take([1]) == {}
    assert kept.bytes == 0


def test_the_same_result_is_kept_once() -> None:
    kept = Retained()
    kept.keep(*finished(1), 5.0)
    size = kept.bytes
    kept.keep(*finished(1), 6.0)
    assert (len(kept), kept.bytes) == (1, size)


def test_retained_results_expire_in_order() -> None:
    kept = Retained(seconds=10)
    for task in range(5):
        kept.keep(*finished(task), float(task))
    assert kept.expire(10.0) == [0]
    assert kept.expire(12.5) == [1, 2]
    assert list(kept) == [3, 4]


def test_retention_is_limited_by_size() -> None:
    kept = Retained(size=4000)
    gone = [task for t in range(10) for task in kept.keep(*finished(t, 1000), 0.0)]
    assert gone == list(range(8))
    assert list(kept) == [8, 9]


def test_a_result_that_is_too_large_is_not_kept() -> None:
    kept = Retained(size=4000)
    assert kept.keep(*finished(1, 5000), 0.0) == [1]
    assert kept.bytes == 0


def test_output_alone_makes_room_as_well() -> None:
    kept = Retained(size=4000)
    for task in range(10):
        kept.keep_output(Output(task, 0, Stream.STDOUT, 1000), bytes(1000))
    assert kept.bytes <= 4000
    assert kept.take_output(0) == []
    assert len(kept.take_output(9)) == 1


def test_a_tail_of_output_keeps_the_last_part() -> None:
    tail = OutputTail()
    grown = sum(tail.add(Output(1, 0, Stream.STDOUT, 1000), bytes(1000)) for _ in range(200))
    assert grown == tail.bytes <= 64 << 10
    huge = bytes(1 << 20)
    tail.add(Output(1, 0, Stream.STDOUT, len(huge)), huge)
    assert len(tail.items) == 1


def test_functions_are_kept_once() -> None:
    session = Session(1, "me", 0.0)
    assert session.keep_function(b"a", b"12345")
    assert session.keep_function(b"a", b"12345")
    assert session.function_bytes == 5


# ------------------------------------------------------------------------- new engines


def test_new_engines_go_where_the_fewest_are() -> None:
    assert share(3, {1: 4, 2: 1, 3: 2}) == {2: 2, 3: 1}
    assert share(4, {1: 0, 2: 0}) == {1: 2, 2: 2}
    assert share(0, {1: 0}) == {}


@given(st.integers(0, 40), st.dictionaries(st.integers(0, 9), st.integers(0, 9), min_size=1))
def test_shares_add_up_and_level(count: int, hosts: dict[int, int]) -> None:
    shares = share(count, hosts)
    assert sum(shares.values()) == count
    after = {host: have + shares.get(host, 0) for host, have in hosts.items()}
    for host in shares:
        assert after[host] <= min(after.values()) + 1


# ---------------------------------------------------------------------------- kept state


@pytest.fixture
def secure(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "ipcontroller.json"


def test_what_is_kept_comes_back(secure: Path) -> None:
    new = Kept.load(secure)
    assert new.port == 0
    assert set(new.swissnums) == set(ROLES)
    assert len(set(new.swissnums.values())) == len(ROLES)
    Kept(4711, new.swissnums).save(secure)
    assert secure.stat().st_mode & 0o777 == 0o600
    again = Kept.load(secure)
    assert (again.port, again.swissnums) == (4711, new.swissnums)


def test_swissnums_are_not_shown() -> None:
    kept = Kept.new()
    assert all(secret not in repr(kept) for secret in kept.swissnums.values())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        json.dumps({"port": 99999, "swissnums": dict.fromkeys(ROLES, "x" * 32)}).encode(),
        json.dumps({"port": "1", "swissnums": dict.fromkeys(ROLES, "x" * 32)}).encode(),
        json.dumps({"port": 1, "swissnums": dict.fromkeys(ROLES, "short")}).encode(),
        json.dumps({"port": 1, "swissnums": {"client": "x" * 32}}).encode(),
    ],
)
def test_a_garbled_file_is_named(secure: Path, content: bytes) -> None:
    secure.write_bytes(content)
    secure.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"ipcontroller.json is garbled: remove it"):
        Kept.load(secure)


def test_a_file_that_others_can_read_is_refused(secure: Path) -> None:
    Kept.new().save(secure)
    secure.chmod(0o644)
    with pytest.raises(SecurityError, match="chmod 600"):
        Kept.load(secure)


# ------------------------------------------------------------------------------- the rest


def test_the_journal_in_memory_is_a_journal_that_need_not_be_waited_for() -> None:
    journal = MemoryJournal()
    assert verifyObject(IJournal, journal)
    assert journal.commit([Forgotten(0.0, [1]), Forgotten(0.0, [2])]) is None
    assert (journal.commits, journal.records) == (1, 2)


def test_a_request_is_read() -> None:
    order = EngineOrder(engines=[1, 2], signal="SIGINT")
    assert read_request(EngineOrder, pack(order)) == order


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x93\x01", b"hello", b"\x81\xa5count\xff", b"\x91" * 5000]
)
def test_a_bad_request_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(KernelError, match="this is not a EngineOrder"):
        read_request(EngineOrder, data)


def test_a_request_that_is_too_long_is_refused() -> None:
    data = pack(TaskQuery(tasks=list(range(5000))))
    with pytest.raises(KernelError, match="this is not a TaskQuery"):
        read_request(TaskQuery, data)


def test_the_controller_can_not_unpickle() -> None:
    """Nothing that reads pickles is in its import graph, so nothing can be tricked into it."""
    script = (
        "import sys\n"
        "import ipkernel.controller.service, ipkernel.controller.state, ipkernel.cli.ipcontroller\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('cloudpickle', 'dill')\n"
        "       or m.startswith(('ipkernel.serialize', 'ipkernel.client', 'ipkernel.engine'))]\n"
        "print(bad)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.strip() == "[]"


def test_no_module_of_the_controller_names_pickle() -> None:
    import ipkernel.controller

    for path in Path(ipkernel.controller.__file__).parent.glob("*.py"):
        imports = [
            line
            for line in path.read_text().splitlines()
            if line.lstrip().startswith(("import ", "from ")) and "pickle" in line
        ]
        assert not imports, path


def test_the_scheduler_needs_no_reactor() -> None:
    script = (
        "import sys\n"
        "import ipkernel.controller.scheduler\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('twisted', 'foolscap')])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- orders


def _broken_call(*args: object) -> Deferred[bytes]:
    raise RuntimeError("huh")


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda *args: fail(KernelError("no")), "no"),
        (lambda *args: fail(ZeroDivisionError("odd")), "odd"),
        (lambda *args: fail(ValueError()), "ValueError"),
        (lambda *args: succeed(b"garbage"), ""),
        (lambda *args: succeed(None), ""),
        (_broken_call, "huh"),
    ],
)
def test_engines_that_a_host_failed_to_start_leave_no_ids_behind(call: Any, problem: str) -> None:
    clock = Clock()
    scheduler = Scheduler(checked=True)
    turn = Turn(clock, scheduler, MemoryJournal(), lambda instructions: None)
    turn.add(HostJoined(1, "h", 1, scheduler.take_ids(1), turn.now()))
    clock.advance(1)
    answers: list[EngineAnswer] = []
    Orders(clock, scheduler, turn, call).start(EngineOrder(count=2)).addCallback(answers.append)
    clock.advance(1)
    clock.advance(1)
    assert answers[0].engines == []
    assert problem in answers[0].problem
    assert answers[0].problem
    assert sorted(scheduler.engines) == [0]
    assert scheduler.take_ids(1) == [1]


class Storyteller:
    """A controller that knows long stories only."""

    asked: list[int]

    def __init__(self) -> None:
        self.asked = []

    def explain(self, task: int) -> TaskStory:
        self.asked.append(task)
        return TaskStory(task=task, state="ready", story=["x" * 4000] * 100)

    def explain_engine(self, engine: int) -> EngineStory:
        return EngineStory(engine=engine, state="ready", story=["x" * 4000] * 100)


def test_an_answer_has_room_for_so_many_stories() -> None:
    teller: Any = Storyteller()
    many = [*range(1000), 5, 5]
    query = pack(TaskQuery(tasks=many, engines=many))
    answer = MonitorDoor(teller).remote_explain(query)
    assert len(answer) < 1 << 22
    found = unpack(TaskStories, answer)
    assert teller.asked == [one.task for one in found.stories] == list(range(1000))
    told: Any
    for told in (found.stories, found.engines):
        assert [len(one.story) for one in told[:3]] == [100, 100, 1]
        assert told[-1].story == [doors._NO_ROOM]


def test_what_a_controller_used_to_start_is_not_used_in_its_first_moments() -> None:
    readings = [Reading(700.0), Reading(3.0)]

    class Measure:
        def __init__(self, pid: int, started: float, now: object) -> None:
            pass

        def read(self) -> Reading:
            return readings.pop(0)

    picture = Picture(Scheduler(), lambda: 1000.0, gauge=Measure)
    status = picture.status(
        cluster="c",
        location="",
        clients=0,
        connected=(),
        stuck=[],
        journal=MemoryJournal(),
        trouble="",
    )
    assert status.cpu == 3.0
