"""What a client asks the controller about tasks: its own and those of others, open or ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ipkernel.client.metadata import moment
from ipkernel.errors import KernelError
from ipkernel.wire.messages import Kind
from ipkernel.wire.queries import (
    FIELDS,
    Every,
    Node,
    Page,
    Purge,
    Purged,
    Search,
    Test,
    check_keys,
    parse,
)
from ipkernel.wire.records import pack, unpack

if TYPE_CHECKING:
    from ipkernel.client.questions import Questions
    from ipkernel.client.task import TaskRecord

#: Task ids that one request names.
_IDS: Final = 8192
#: Seconds for one page of an answer: the controller may have a million tasks to look at.
_PATIENCE: Final = 120.0
_OPEN: Final = ("submitted", "waiting", "ready", "assigned", "running")
_TIMES: Final = frozenset(name for name, kind in FIELDS.items() if kind == "time")


def search(client: Questions, where: Node, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield what the controller knows of tasks.

    Args:
        client: Who asks.
        where: Which tasks.
        keys: The fields that are wanted, besides ``msg_id``.

    Raises:
        KernelError: The controller cannot answer; the text says why.
    """
    names = check_keys(keys)
    request = Search(where=where, keys=names)
    while True:
        page = unpack(Page, client._call("search", pack(request), _PATIENCE))
        for row in page.rows:
            yield dict(zip(names, row, strict=True))
        if not page.more:
            return
        request = Search(more=page.more)


def of_tasks(
    client: Questions, tasks: Sequence[int], keys: Iterable[str]
) -> dict[int, dict[str, Any]]:
    """Return what the controller knows of certain tasks, by id; unknown ones are left out."""
    names = list(keys)
    found: dict[int, dict[str, Any]] = {}
    for start in range(0, len(tasks), _IDS):
        chosen = Test(field="msg_id", op="in", value=[*tasks[start : start + _IDS]])
        found.update((row["msg_id"], row) for row in search(client, chosen, names))
    return found


def query(client: Questions, wanted: Mapping[str, Any], keys: Any) -> list[dict[str, Any]]:
    """Return records of tasks, the oldest first; see ``Client.db_query``."""
    where = parse(wanted)
    if keys is None:
        names = list(FIELDS)
    else:
        names = check_keys([keys] if isinstance(keys, str) else keys)
    rows = list(search(client, where, [*names, "submitted"]))
    rows.sort(key=_age)
    return [
        {name: moment(row[name] or 0.0) if name in _TIMES else row[name] for name in names}
        for row in rows
    ]


def history(client: Questions) -> list[int]:
    """Return the ids of all tasks that the controller knows of, the oldest first."""
    rows = sorted(search(client, Every(), ["submitted"]), key=_age)
    return [row["msg_id"] for row in rows]


def _age(row: dict[str, Any]) -> tuple[float, int]:
    return row["submitted"] or 0.0, row["msg_id"]


def labelled(client: Questions, label: str) -> dict[int, TaskRecord | None]:
    """Return the tasks with a label that are open, or whose results can be had, the oldest first.

    With each comes what this client has of it: without that, the result of one that ends now
    might be forgotten here before somebody asks for it.

    Raises:
        KernelError: There are none.
    """
    session = client._session
    known = [*list(session.pending.values()), *session.held().values()]
    mine: dict[int, TaskRecord | None] = {r.id: r for r in known if r.label == label}
    found = {record.id: record.submitted for record in mine.values() if record is not None}
    chosen = Test(field="label", op="eq", value=label)
    for row in search(client, chosen, ["submitted", "state", "kept"]):
        ours = row["msg_id"] >> 40 == session.number
        if row["kept"] or (row["state"] in _OPEN and not ours):
            found.setdefault(row["msg_id"], row["submitted"] or 0.0)
    if not found:
        raise KernelError(
            f"no task with the label {label!r} is open, or has a result that nobody has fetched"
        )
    return {t: mine.get(t) for t in sorted(found, key=lambda task: (found[task], task))}


def about(client: Questions, tasks: Sequence[int]) -> dict[int, tuple[Kind, str, float]]:
    """Return what certain tasks are to do, their labels and when they were submitted, by id."""
    rows = of_tasks(client, tasks, ["method", "label", "submitted"]) if tasks else {}
    return {
        task: (
            Kind[row["method"].upper()] if row["method"] else Kind.APPLY,
            row["label"] or "",
            row["submitted"] or 0.0,
        )
        for task, row in rows.items()
    }


def resubmittable(
    client: Questions, tasks: Sequence[int]
) -> list[tuple[int, Kind, int, str, bool]]:
    """Return what has to be known to run tasks again.

    Returns:
        For each its id, what it is to do, the engine that it is bound to or -1, its label, and
        whether its result is to be a reference.

    Raises:
        KernelError: One of them has not ended, or what it was made of is not kept; nothing is run.
    """
    keys = ["state", "method", "bound_to", "label", "by_reference", "received", "resubmittable"]
    rows = of_tasks(client, tasks, keys)
    found = []
    for task in tasks:
        row = rows.get(task)
        if row is None:
            raise KernelError(
                f"task {task} cannot be run again: the controller does not know it; it never was "
                f"submitted, or ended long ago"
            )
        if row["state"] in _OPEN:
            raise KernelError(
                f"task {task} cannot be run again: it has not ended ({row['state']}); wait for it, "
                f"or abort it"
            )
        if not row["resubmittable"]:
            raise KernelError(f"task {task} cannot be run again: {_why_not(client, row)}")
        bound = -1 if row["bound_to"] is None else row["bound_to"]
        kind = Kind[row["method"].upper()]
        found.append((task, kind, bound, row["label"] or "", bool(row["by_reference"])))
    return found


def _why_not(client: Questions, row: Mapping[str, Any]) -> str:
    """Return why a task cannot be run again that has ended."""
    received = row["received"]
    if received and received < client.status().started:
        return (
            "it ended before the controller was started again, and what tasks were made of is not "
            "kept over that; submit it anew"
        )
    return (
        "what it was made of is kept only of tasks that failed, and of those whose results nobody "
        "has fetched, as far as there is room"
    )


def purge(
    client: Questions,
    tasks: Sequence[int] = (),
    engines: Sequence[int] = (),
    everything: bool = False,
) -> int:
    """Have the controller forget tasks that have ended; return how many it has forgotten.

    Raises:
        KernelError: Some of them have not ended.
    """
    orders = [Purge(tasks=[*tasks[start : start + _IDS]]) for start in range(0, len(tasks), _IDS)]
    if engines or everything:
        orders.append(Purge(engines=[*engines], everything=everything))
    count = 0
    for order in orders:
        answer = unpack(Purged, client._call("purge", pack(order), _PATIENCE))
        if answer.problem:
            raise KernelError(f"nothing was forgotten: {answer.problem}")
        count += answer.count
    return count


def result_status(client: Questions, tasks: list[int], status_only: bool) -> dict[Any, Any]:
    """Return which tasks have ended; see ``Client.result_status``.

    Raises:
        KernelError: One of them is not known.
    """
    session = client._session
    pending: list[int] = []
    completed: list[int] = []
    found: dict[Any, Any] = {"pending": pending, "completed": completed}
    records = {task: session.find(task) for task in tasks}
    strange = [t for t, record in records.items() if record is None and t not in session.history]
    rows = of_tasks(client, strange, ["state", "kept"]) if strange else {}
    kept: list[int] = []
    for task, record in records.items():
        if record is not None:
            (pending if record.cell is None else completed).append(task)
            if record.cell is not None and not status_only:
                found[task] = record.load()[1]
        elif task not in rows and task not in session.history:
            raise KernelError(
                f"task {task} is not known: it never was submitted, or ended long ago"
            )
        elif task in rows and rows[task]["state"] in _OPEN:
            pending.append(task)
        else:
            completed.append(task)
            if task in rows and rows[task]["kept"]:
                kept.append(task)
    if kept and not status_only:
        values = client.get_result(kept, block=False).get(return_exceptions=True)
        found.update(zip(kept, values, strict=True))
    return found


def queue_status(client: Questions, targets: Any, verbose: bool) -> dict[Any, Any]:
    """Return what engines have to do; see ``Client.queue_status``."""
    status = client.status()
    wanted = set(client._build_targets(targets)[1])
    found: dict[Any, Any] = {
        info.engine: {"queue": info.queued, "completed": info.completed, "tasks": info.running}
        for info in status.engines
        if info.engine in wanted
    }
    found["unassigned"] = status.queue.ready + status.queue.waiting
    told = [f"{one.reason}; {one.advice}" for one in status.stuck]
    if verbose:
        for engine, lists in found.items():
            if engine != "unassigned":
                lists.update(queue=[], completed=[], tasks=[])
        chosen = Test(field="engine_id", op="in", value=[*wanted])
        for row in search(client, chosen, ["engine_id", "state"]):
            lists = found.get(row["engine_id"])
            if lists is None:
                continue
            state = row["state"]
            which = "tasks" if state == "running" else "queue" if state in _OPEN else "completed"
            lists[which].append(row["msg_id"])
        free = parse({"engine_id": None, "state": {"$in": ["waiting", "ready"]}})
        found["unassigned"] = [row["msg_id"] for row in search(client, free, ())]
    if told:
        found["stuck"] = told
    return found
