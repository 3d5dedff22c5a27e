"""Looking for tasks among those that the scheduler knows, and what it keeps of them."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.controller import querying
from ipkernel.controller.archive import Archive, Labels
from ipkernel.controller.events import SessionDetached, SessionOpened, TasksPurged
from ipkernel.controller.journal import Ended, Forgotten
from ipkernel.controller.querying import compile_test
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.tasks import Task
from ipkernel.errors import QueryError
from ipkernel.wire.messages import (
    Cancel,
    Dependency,
    Done,
    Fetch,
    Finished,
    Function,
    Kind,
    Outcome,
    Recovery,
    Resubmit,
    Started,
    Submit,
    Terms,
    decode_reason,
)
from ipkernel.wire.queries import FIELDS, Every, Page, Search, Test, parse
from ipkernel.wire.records import pack, unpack
from tests.support.scheduling import Cluster


def search(c: Cluster, query: dict[str, Any], *keys: str) -> list[Any]:
    """All rows of a query, a step of 3 tasks at a time."""
    searching = c.scheduler.search(Search(where=parse(query), keys=list(keys)))
    rows: list[Any] = []
    while not searching.done:
        searching.step(3)
        rows += searching.take()
    return [row[0] for row in rows] if not keys else [tuple(row) for row in rows]


def run(c: Cluster, tid: int, outcome: Outcome = Outcome.OK, payload: bytes = b"r") -> None:
    """Let the engine that has a task end it."""
    engine = c.scheduler.tasks[tid].engine
    c.from_host((Done(tid, engine, outcome, c.now - 0.5, c.now, len(payload)), payload))


def test_what_peers_say_of_themselves_fits_into_an_answer() -> None:
    c = Cluster(engines=1)
    c.handle(SessionOpened(2, c.now, "x" * 4000))
    c.scheduler.engines[0].host.name = "h" * 4000
    [tid] = c.submit(session=2)
    c.from_host((Started([tid]), b""), host=1)
    searching = c.scheduler.search(Search(keys=["client", "engine_uuid"]))
    searching.step(9)
    [row] = unpack(Page, pack(Page(rows=searching.take()))).rows
    assert row[1] == "x" * 256
    assert str(row[2]).endswith("h:5000")


def test_an_open_task_and_an_ended_one() -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2, label="fit", retries=3, payload=b"12345")
    begun = c.now
    c.from_host((Started([first]), b""), host=1)
    keys = ("state", "status", "label", "method", "engine_id", "attempts", "retries", "size")
    assert search(c, {"msg_id": {"$in": [first, second, 77]}}, *keys) == [
        (first, "running", None, "fit", "apply", 0, 1, 3, 5),
        (second, "ready", None, "fit", "apply", None, 0, 3, 5),
    ]
    run(c, first, Outcome.ERROR)
    assert search(c, {"msg_id": first}, *keys, "resubmittable", "kept") == [
        (first, "failed", "error", "fit", "apply", 0, 1, 3, 5, True, False),
    ]
    run(c, second)
    ((_, submitted, completed, received, size, session, client),) = search(
        c, {"msg_id": second}, "submitted", "completed", "received", "result_size", "session",
        "client",
    )  # fmt: skip
    assert abs(submitted - begun) < 1 and completed == received
    assert (size, session, client) == (1, 1, "client 1")
    keys = ("status", "label", "method", "size", "resubmittable")
    assert search(c, {"msg_id": second}, *keys) == [(second, "ok", "fit", "apply", None, False)]


def test_every_field_can_be_read() -> None:
    c = Cluster(engines=1)
    (first,) = c.submit(1)
    terms = Terms(priority=2, after=Dependency([first]))
    (second,) = c.submit(1, terms=terms)
    (bound,) = c.submit(1, targets=[0], spread=False)
    names = [name for name in FIELDS if name != "msg_id"]
    rows = {row[0]: dict(zip(names, row[1:], strict=True)) for row in search(c, {}, *names)}
    assert rows[second]["after"] == [first] and rows[second]["follow"] is None
    assert rows[second]["priority"] == 2 and rows[second]["state"] == "waiting"
    assert rows[bound]["bound_to"] == 0 == rows[bound]["engine_id"]
    assert (
        rows[first]["engine_uuid"]
        == f"{c.scheduler.engines[0].host.name}:{c.scheduler.engines[0].pid}"
    )
    run(c, first)
    run(c, second if second in {a.task for a in c.assigned} else bound)
    assert len(search(c, {}, *names)) == 3


def test_ended_tasks_of_clients_that_have_gone() -> None:
    c = Cluster(engines=1)
    (tid,) = c.submit(1, label="left")
    c.handle(SessionDetached(1, [], c.now))
    run(c, tid)
    assert search(c, {"label": "left"}, "kept", "resubmittable", "client", "state") == [
        (tid, True, True, None, "finished")
    ]
    c.handle(SessionOpened(2, c.now, "client 2"))
    c.from_client((Fetch([tid]), b""), session=2)
    assert search(c, {"label": "left"}, "kept", "resubmittable") == [(tid, False, False)]


def test_searches_look_at_as_few_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    c = Cluster(engines=2)
    bound = c.submit(2, targets=[1], spread=False)
    label = c.submit(2, label="fit")
    c.submit(50)
    looked: list[int] = []
    find = querying.find_row
    monkeypatch.setattr(querying, "find_row", lambda core, t: looked.append(t) or find(core, t))
    assert search(c, {"label": "fit"}) == label == looked
    looked.clear()
    assert set(search(c, {"engine_id": 1})) >= set(bound)
    assert len(looked) < 10
    looked.clear()
    assert search(c, {"msg_id": label[0], "state": {"$ne": "failed"}}) == [label[0]] == looked
    looked.clear()
    assert search(c, {"$or": [{"label": "fit"}, {"msg_id": bound[0]}]}) == [bound[0], *label]
    assert len(looked) == 54
    assert search(c, {"state": "nonsense"}) == search(c, {"msg_id": None}) == []


def test_searches_of_open_tasks_pass_over_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2)
    run(c, first)
    looked: list[int] = []
    find = querying.find_row
    monkeypatch.setattr(querying, "find_row", lambda core, t: looked.append(t) or find(core, t))
    assert search(c, {"state": {"$in": ["ready", "assigned", "running"]}}) == [second] == looked


def test_a_task_that_ends_during_a_search_is_found_once() -> None:
    c = Cluster(engines=1)
    first, second = c.submit(2)
    searching = c.scheduler.search(Search(keys=["state"]))
    run(c, first)
    run(c, second)
    searching.step(10)
    assert searching.take() == [[first, "finished"], [second, "finished"]]


def test_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    c = Cluster()
    tids = c.submit(10, label="x" * 100)
    monkeypatch.setattr(querying, "MAX_ROWS", 4)
    searching = c.scheduler.search(Search(keys=["label"]))
    pages = []
    while not searching.done:
        searching.step(100)
        pages.append([row[0] for row in searching.take()])
    assert pages == [tids[:4], tids[4:8], tids[8:]]
    monkeypatch.setattr(querying, "_PAGE_BYTES", 1000)
    searching = c.scheduler.search(Search(keys=["label"]))
    searching.step(100)
    assert searching.full and len(searching.rows) == 3


def test_wrong_queries_are_refused() -> None:
    c = Cluster()
    with pytest.raises(QueryError, match="no field 'lable'"):
        c.scheduler.search(Search(where=Test(field="lable", op="eq", value="x")))
    with pytest.raises(QueryError, match="takes a number"):
        c.scheduler.search(Search(where=Test(field="msg_id", op="lt", value="x")))
    with pytest.raises(QueryError, match="no field 'x'"):
        c.scheduler.search(Search(keys=["x"]))


# ------------------------------------------------------------------------ the evaluator

RECORDS = [
    {"msg_id": n, "label": label, "engine_id": engine, "after": after, "kept": bool(n % 2)}
    for n, (label, engine, after) in enumerate(
        (label, engine, after)
        for label in (None, "a", "ab", "b")
        for engine in (None, 0, 1, 5)
        for after in (None, [], [1, 2], [2])
    )
]


def naive(query: dict[str, Any], record: dict[str, Any]) -> bool:
    """What a query means, without any thought of speed."""
    for name, wanted in query.items():
        if name == "$and":
            if not all(naive(part, record) for part in wanted):
                return False
        elif name == "$or":
            if not any(naive(part, record) for part in wanted):
                return False
        else:
            tests = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            if not all(one(op, record[name], value) for op, value in tests.items()):
                return False
    return True


def one(op: str, have: Any, value: Any) -> bool:
    if op in ("$eq", "$ne"):
        return (have == value) == (op == "$eq")
    if op == "$exists":
        return (have is not None) == value
    if op in ("$in", "$nin"):
        some = any(h in value for h in (have if isinstance(have, list) else [have]))
        return some == (op == "$in")
    if op == "$all":
        return all(v in (have if isinstance(have, list) else [have]) for v in value)
    if have is None:
        return False
    if op == "$mod":
        return have % value[0] == value[1]
    if op == "$glob":
        return fnmatch.fnmatchcase(have, value)
    return {"$lt": have < value, "$lte": have <= value, "$gt": have > value, "$gte": have >= value}[
        op
    ]


TEXTS = st.sampled_from(["a", "ab", "b", "c", ""])
NUMBERS = st.integers(-2, 70)


def conditions_on(values: st.SearchStrategy[Any], *ops: str) -> st.SearchStrategy[dict[str, Any]]:
    listed = st.lists(st.none() | values, max_size=4)
    ways = {
        "$exists": st.booleans(),
        "$in": listed,
        "$nin": listed,
        "$all": listed,
        "$mod": st.tuples(st.integers(1, 5), st.integers(0, 5)).map(list),
        "$glob": st.sampled_from(["*", "a*", "?b", "[!a]*", "b"]),
    }
    return st.fixed_dictionaries({}, optional={op: ways.get(op, values) for op in ops}).filter(bool)


COMMON = ("$ne", "$in", "$nin", "$all", "$exists")
ORDER = ("$lt", "$lte", "$gt", "$gte")
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "msg_id": NUMBERS | conditions_on(NUMBERS, *COMMON, *ORDER, "$mod"),
        "engine_id": st.none() | NUMBERS | conditions_on(NUMBERS, *COMMON, *ORDER, "$mod"),
        "label": st.none() | TEXTS | conditions_on(TEXTS, *COMMON, *ORDER, "$glob"),
        "after": st.none() | st.lists(NUMBERS, max_size=2) | conditions_on(NUMBERS, *COMMON[1:]),
        "kept": st.booleans() | conditions_on(st.booleans(), *COMMON),
    },
)
QUERIES = st.recursive(
    CONDITIONS,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "$and": st.lists(inner, min_size=1, max_size=3),
            "$or": st.lists(inner, min_size=1, max_size=3),
            "msg_id": NUMBERS,
        },
    ),
    max_leaves=6,
)


def holds(node: Any, record: dict[str, Any]) -> bool:
    if isinstance(node, Test):
        return bool(compile_test(node)(record[node.field]))
    parts = [holds(part, record) for part in node.parts]
    return all(parts) if isinstance(node, Every) else any(parts)


@given(QUERIES)
@settings(deadline=None, max_examples=300)
def test_queries_mean_what_they_say(query: dict[str, Any]) -> None:
    tree = parse(query)
    for record in RECORDS:
        assert holds(tree, record) == naive(query, record), record


@given(QUERIES)
@settings(deadline=None)
def test_searches_find_what_they_are_to_find(query: dict[str, Any]) -> None:
    """The plan of a search leaves nothing out: with it are found the same as without it."""
    c = SCENE
    keys = ("engine_id", "label", "after", "kept")
    every = search(c, {}, *keys)
    records = [dict(zip(("msg_id", *keys), row, strict=True)) for row in every]
    wanted = [r["msg_id"] for r in records if naive(query, r)]
    assert sorted(search(c, query)) == sorted(wanted)


def scene() -> Cluster:
    """Tasks of each sort, with ids from 0, so that queries name some of them."""
    c = Cluster(engines=2, clients=0)
    c.handle(SessionOpened(0, c.now, "client 0"))
    for label in ("", "a", "b"):
        c.submit(3, label=label, session=0)
        c.submit(2, label=label, targets=[1], spread=False, session=0)
    for _ in range(6):
        tid = c.assigned[0].task
        run(c, tid, Outcome.ERROR if tid % 2 else Outcome.OK)
    return c


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=300))
def test_labels_know_the_open_tasks(steps: list[tuple[str, bool]]) -> None:
    tasks: dict[int, str] = {}
    labels = Labels(tasks)
    for number, (label, comes) in enumerate(steps):
        mine = [task for task, other in tasks.items() if other == label]
        if comes or not mine:
            tasks[number] = label
            labels.add(label, number)
        else:
            del tasks[mine[0]]
            labels.ended(label)
        for each in "abc":
            assert labels.find(each) == [t for t, other in tasks.items() if other == each]
    assert len(labels) == len(set(tasks.values()))


def test_many_ends_leave_no_trace_in_a_label() -> None:
    tasks: dict[int, None] = {}
    labels = Labels(tasks)
    for number in range(10_000):
        tasks[number] = None
        labels.add("x", number)
        if number > 10:
            del tasks[number - 10]
            labels.ended("x")
    assert len(labels._labelled["x"].tasks) < 100


# ------------------------------------------------------------------------- the archive


def task(number: int, payload: Any = b"p", digest: bytes = b"") -> Task:
    message = Submit(number, Kind.APPLY, len(payload), [], True, digest)
    return Task(number, message, payload, 1.0)


def test_the_archive_is_bounded() -> None:
    a = Archive(10_000)
    for number in range(100):
        a.file(task(number, bytes(100)), Outcome.ERROR, None)
    assert 0 < a.bytes <= 10_000
    assert list(a) == list(range(100 - len(a), 100))
    a.file(task(500, bytes(9_000)), Outcome.ERROR, None)  # it would drive out all others
    assert 500 not in a
    for number in list(a):
        a.drop(number)
    assert a.bytes == 0


def test_functions_are_kept_as_long_as_they_are_named() -> None:
    a = Archive()
    blob = memoryview(b"function")
    a.file(task(1, digest=b"d"), Outcome.ERROR, blob)
    a.file(task(2, digest=b"d"), Outcome.ERROR, blob)
    a.file(task(2, digest=b"d"), Outcome.ERROR, blob)
    a.file(task(3, digest=b"e"), Outcome.ERROR, None)
    assert 3 not in a
    a.drop(1)
    assert a.function(b"d") == b"function" and type(a.function(b"d")) is bytes
    a.drop(2)
    a.drop(2)
    assert a.function(b"d") is None and a.bytes == 0


def test_what_was_fetched_is_kept_only_if_it_failed() -> None:
    a = Archive()
    a.file(task(1), Outcome.OK, None)
    a.file(task(2), Outcome.LOST, None)
    a.fetched(1)
    a.fetched(2)
    assert list(a) == [2]


# --------------------------------------------------------------------------- run again


def again(c: Cluster, of: int, session: int = 1, number: int = 999) -> int:
    tid = (session << 40) + number
    c.from_client((Resubmit(tid, of), b""), session=session)
    return tid


def test_a_failed_task_runs_again_for_whoever_asks() -> None:
    c = Cluster(engines=1, clients=2)
    c.from_client((Function(b"digest", 4), b"blob"))
    (tid,) = c.submit(1, digest=b"digest", payload=b"call", label="fit", retries=2)
    run(c, tid, Outcome.ERROR)
    new = again(c, tid, session=2)
    message = c.scheduler.tasks[new].message
    assert (message.digest, message.label, message.retries) == (b"digest", "fit", 2)
    assert c.scheduler.tasks[new].payload == b"call"
    assert c.scheduler.sessions[2].functions == {b"digest": b"blob"}
    records = c.last[0].records  # type: ignore[union-attr]
    kinds = [type(m) for r in records if type(r).__name__ == "Submitted" for m, _ in r.items]
    assert kinds == [Resubmit, Function, Submit]
    run(c, new)
    assert [m.outcome for m, _ in c.to_client(2) if isinstance(m, Finished)] == [Outcome.OK]


def test_a_direct_task_runs_again_on_its_engine() -> None:
    c = Cluster(engines=2)
    tids = c.submit(1, targets=[0, 1], spread=False)
    run(c, tids[1], Outcome.ERROR)
    new = again(c, tids[1])
    assert c.scheduler.tasks[new].target == 1
    assert c.scheduler.tasks[new].message.targets == [1]


def test_what_a_task_waited_for_is_not_waited_for_again_if_it_came() -> None:
    c = Cluster(engines=1)
    (first,) = c.submit(1)
    (tid,) = c.submit(1, terms=Terms(priority=3, after=Dependency([first])))
    run(c, first)
    run(c, tid, Outcome.ERROR)
    new = again(c, tid)
    assert c.scheduler.tasks[new].message.terms == Terms(priority=3)


def test_a_task_with_a_recovery_task_runs_again_itself() -> None:
    c = Cluster(engines=1, clients=2)
    c.from_client((Function(b"mend", 4), b"blob"))
    (tid,) = c.submit(1, payload=b"original", terms=Terms(recovery=Recovery(b"mend", b"mended")))
    run(c, tid, Outcome.ERROR)
    assert c.scheduler.tasks[tid].payload == b"mended"
    run(c, tid)
    assert search(c, {"msg_id": tid}, "state", "resubmittable") == [(tid, "finished", True)]
    new = again(c, tid)
    assert c.scheduler.tasks[new].payload == b"original"
    assert c.scheduler.tasks[new].message.terms.recovery is not None
    other = again(c, tid, session=2)
    assert c.scheduler.tasks[other].payload == b"original"
    assert c.scheduler.tasks[other].message.terms.recovery is None


def test_what_never_could_run_waits_again() -> None:
    c = Cluster(engines=1)
    (first,) = c.submit(1)
    (tid,) = c.submit(1, terms=Terms(after=Dependency([first])))
    run(c, first, Outcome.ERROR)
    assert tid not in c.scheduler.tasks
    new = again(c, tid)
    (end,) = [(m, p) for m, p in c.to_client(1) if isinstance(m, Finished) and m.task == new]
    assert end[0].outcome is Outcome.IMPOSSIBLE and "never be met" in decode_reason(end[1]).text


def test_the_function_of_a_session_that_is_gone() -> None:
    c = Cluster(engines=1)
    c.from_client((Function(b"digest", 4), b"blob"))
    (tid,) = c.submit(1, digest=b"digest")
    c.handle(SessionDetached(1, [], c.now))
    run(c, tid, Outcome.ERROR)
    assert 1 not in c.scheduler.sessions
    c.handle(SessionOpened(2, c.now, "client 2"))
    new = again(c, tid, session=2)
    assert c.scheduler.sessions[2].functions == {b"digest": b"blob"}
    run(c, new)


def test_what_cannot_run_again_is_told() -> None:
    c = Cluster(engines=1)
    running, done, cancelled = c.submit(3)
    c.from_client((Cancel([cancelled]), b""))
    texts = []
    for number, of in enumerate((running, 12345, cancelled)):
        new = again(c, of, number=500 + number)
        found = [p for m, p in c.to_client(1) if isinstance(m, Finished) and m.task == new]
        texts += [decode_reason(p).text for p in found]
    assert "has not ended" in texts[0] and "never was submitted" in texts[1] and len(texts) == 2
    run(c, running)
    new = again(c, running, number=600)
    (payload,) = [p for m, p in c.to_client(1) if isinstance(m, Finished) and m.task == new]
    assert "is not kept any more" in decode_reason(payload).text


def test_what_ended_before_a_restart_cannot_run_again_and_that_is_told() -> None:
    c = Cluster(engines=1)
    fetched, kept = (1 << 40) + 8, (1 << 40) + 9
    c.handle(SessionDetached(1, [], c.now))
    ends = [Finished(task, Outcome.ERROR, 0, 1.0, 2.0, 0) for task in (fetched, kept)]
    records = [Ended(c.now - 5.0, [(end, b"") for end in ends]), Forgotten(c.now, [fetched])]
    c.scheduler = Scheduler(checked=True)
    c.scheduler.restore(records, c.now, grace=1.0, keep=1.0)
    c.handle(SessionOpened(2, c.now, "client 2"))
    for number, task in enumerate((fetched, kept)):
        again(c, task, number=500 + number, session=2)
    found = [p for m, p in c.to_client(2) if isinstance(m, Finished)]
    assert len(found) == 2
    assert all("before the controller was started again" in decode_reason(p).text for p in found)


def test_ids_of_resubmitted_tasks_follow_the_rules() -> None:
    c = Cluster(engines=1, clients=2)
    (tid,) = c.submit(1)
    run(c, tid, Outcome.ERROR)
    (other,) = c.submit(1)
    for wrong in ((2 << 40) + 5, other):
        c.from_client((Resubmit(wrong, tid), b""))
        assert any(type(i).__name__ == "DropClient" for i in c.last)


# ------------------------------------------------------------------------------- purging


def test_purged_tasks_are_not_found_any_more() -> None:
    c = Cluster(engines=1)
    failed, done, running = c.submit(3)
    run(c, failed, Outcome.ERROR)
    run(c, done)
    c.handle(SessionDetached(1, [], c.now))
    c.handle(SessionOpened(2, c.now, "client 2"))
    run(c, running)
    (fourth,) = c.submit(1, session=2)
    c.handle(TasksPurged([failed, done, running, fourth, 12345], c.now))
    assert c.scheduler.purged == 3
    assert search(c, {}) == [fourth]
    assert not c.scheduler.retained and c.scheduler.retained.bytes == 0
    assert "is not known" in decode_reason(refusal(c, running)).text
    c.handle(TasksPurged([failed], c.now))
    assert c.scheduler.purged == 3


def refusal(c: Cluster, tid: int) -> bytes:
    c.from_client((Fetch([tid]), b""), session=2)
    return next(p for m, p in c.to_client(2) if isinstance(m, Finished) and m.task == tid)


def test_what_was_purged_stays_so_when_more_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.history.MEMORY", 4)
    c = Cluster(engines=1)
    for _ in range(30):
        (tid,) = c.submit(1)
        run(c, tid)
        c.handle(TasksPurged([tid], c.now))
        assert search(c, {}) == []
    assert len(c.scheduler._core.history._gone) <= 8


SCENE = scene()
