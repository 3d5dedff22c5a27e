"""Tasks that wait for others to end: ``after`` says when they may run, ``follow`` also where.

Each pair of a task and one that it waits for is looked at once, when the latter ends. All that have
ended in a batch of events are dealt with together, also those that end because of others.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ipkernel.controller.core import Core, unable
from ipkernel.controller.nearness import best_host
from ipkernel.controller.tasks import State, Task
from ipkernel.wire.messages import Dependency, EngineId, Outcome, Past, Reason, TaskId

#: Tasks that a text names.
_NAMED: Final = 5


class Need:
    """One dependency of a task that waits.

    Attributes:
        wanted: What its client said.
        where: Whether it matters on which engine the others ran.
        open: The tasks that have not ended, as far as is known.
        count: How many there were.
        engines: Where those ran that count.
        met: Whether nothing more has to be waited for.
        problem: Why it never can be met, or empty.
    """

    __slots__ = ("count", "engines", "met", "open", "problem", "wanted", "where")

    def __init__(self, wanted: Dependency, where: bool) -> None:
        self.wanted = wanted
        self.where = where
        self.open = dict.fromkeys([*wanted.tasks, *(one.task for one in wanted.ended)])
        self.count = len(self.open)
        self.engines: set[EngineId] = set()
        self.met = not self.open
        self.problem = ""

    def counts(self, ok: bool, engine: EngineId) -> bool:
        """Tell whether a task that ended in this way, and there, is one of those that are wanted."""
        wanted = self.wanted.success if ok else self.wanted.failure
        return wanted and not (self.where and engine < 0)

    def ended(self, task: TaskId, ok: bool, engine: EngineId) -> None:
        """Take note of the end of one of the tasks."""
        self.open.pop(task, None)
        if self.met or self.problem:
            return
        wanted = self.wanted
        if not self.counts(ok, engine):
            how = "failed"
            if ok:
                how = "succeeded, and only failures count"
            elif wanted.failure:
                how = "never ran, so no engine can be found that ran it"
            if wanted.all:
                self.problem = f"task {task} {how}"
            elif not self.open:
                others = self.count - 1
                also = f", and of the {others} others none did better" if others else ""
                self.problem = f"task {task} {how}{also}"
            return
        if self.where:
            self.engines.add(engine)
            if len(self.engines) > 1:
                places = " and ".join(map(str, sorted(self.engines)))
                self.problem = f"the tasks that it follows ran on engines {places}, not on the same"
                return
        self.met = not wanted.all or not self.open

    def take_past(self) -> None:
        """Take note of the tasks that the client knows to have ended."""
        for one in self.wanted.ended:
            self.ended(one.task, one.ok, one.engine)


class Wait:
    """A task that waits for others.

    Attributes:
        task: The task.
        needs: Its dependencies.
    """

    __slots__ = ("needs", "task")

    def __init__(self, task: Task, needs: list[Need]) -> None:
        self.task = task
        self.needs = needs

    @property
    def open(self) -> dict[TaskId, None]:
        """The tasks that it may still wait for."""
        return {task: None for need in self.needs if not need.met for task in need.open}


def admit(core: Core, task: Task) -> None:
    """Let a task wait that was taken in, and is to wait; it may go, or end, at once."""
    settle(core)
    terms = task.message.terms
    assert terms is not None
    both = ((terms.after, False), (terms.follow, True))
    wait = Wait(task, [Need(wanted, where) for wanted, where in both if wanted is not None])
    core.waits[task.id] = wait
    unknown: list[int] = []
    known: dict[int, Past] = {}
    for need in wait.needs:
        need.take_past()
        for other in list(need.open):
            if other in core.tasks and other != task.id:
                continue
            past = core.history.find(other) or core.retained.find(other)
            if past is None:
                unknown.append(other)
            else:
                known[other] = Past(other, past.engine, past.outcome is Outcome.OK)
                need.ended(other, known[other].ok, past.engine)
    if unknown:
        text = (
            f"{_named(unknown)} {'is' if len(unknown) == 1 else 'are'} not known to the "
            f"controller: it never was submitted, or ended long ago"
        )
        core.end_queued(task, Outcome.IMPOSSIBLE, Reason("unknown-task", text[:4000]))
        return
    for other in wait.open:
        core.awaited.setdefault(other, {})[task.id] = None
    _go_on(core, wait)
    if known and task.id in core.waits:  # after a restart nobody else may know of them
        core.note_again(task, *known.values())


def settle(core: Core) -> None:
    """Deal with the tasks that wait for those which have ended since the last time."""
    ended = core.ended
    awaited = core.awaited
    while core.settled < len(ended):
        batch = ended[core.settled :] if core.settled else ended
        origins = core.origins[core.settled :] if core.settled else core.origins
        start, core.settled = core.settled, len(ended)
        core.history.add(batch, origins, core.settled - start)
        if core.refused:
            for message, _ in batch:
                core.refused.pop(message.task, None)
        if not awaited:
            continue
        for message, _ in list(batch):
            for child in awaited.pop(message.task, ()):
                wait = core.waits.get(child)
                if wait is None:
                    continue
                past = Past(message.task, message.engine, message.outcome is Outcome.OK)
                for need in wait.needs:
                    if past.task in need.open:
                        need.ended(past.task, past.ok, past.engine)
                _go_on(core, wait)
                if child in core.waits:
                    core.note_again(wait.task, past)


def _go_on(core: Core, wait: Wait) -> None:
    """Let a task run if it need not wait any more; end it if it never can."""
    task = wait.task
    problem = next((need.problem for need in wait.needs if need.problem), "")
    if problem:
        _end(core, task, problem)
        return
    if not all(need.met for need in wait.needs):
        return
    places = [sorted(need.engines) for need in wait.needs if need.engines]
    targets = task.message.targets
    if places and targets and not set(places[0]) <= set(targets):
        allowed = ", ".join(map(str, targets[:20]))
        _end(
            core,
            task,
            f"it follows what ran on engine {places[0][0]}, but may run on engines {allowed} only",
        )
        return
    if places:
        targets = places[0]
        task.message = msgspec.structs.replace(task.message, targets=targets)
    impossible = unable(core, targets, core.demands.of(task.message.terms))
    if impossible is not None:
        core.end_queued(task, Outcome.IMPOSSIBLE, impossible)
        return
    core.stop_waiting(task)
    if task.message.needs:
        task.near = best_host(core, task.message)
    task.state = State.READY
    core.note_again(task)
    core.enqueue(core.line_of(task), task)


def _end(core: Core, task: Task, problem: str) -> None:
    text = f"what this task depends on can never be met: {problem}"
    core.end_queued(task, Outcome.IMPOSSIBLE, Reason("dependency", text[:4000]))


def why(core: Core, task: Task) -> str:
    """Return what a task waits for."""
    wait = core.waits[task.id]
    parts = []
    for need in wait.needs:
        if need.met:
            continue
        which = "all" if need.wanted.all else "one"
        what = f"{which} of {len(need.open)} tasks" if len(need.open) > 1 else "a task"
        state = core.tasks[next(iter(need.open))].state.value
        parts.append(f"{what} to end: {_named(list(need.open))} ({state})")
    return "it waits for " + ", and for ".join(parts)


def _named(tasks: list[int]) -> str:
    names = ", ".join(map(str, tasks[:_NAMED])) + (", ..." if len(tasks) > _NAMED else "")
    return f"task {names}" if len(tasks) == 1 else f"tasks {names}"
