"""Work that nobody makes progress on: what is stuck, why, and what to do about it.

The watchdog is asked now and then; what it finds must have been so for a while before it tells of it.
It changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ipkernel.controller import deadlocks
from ipkernel.controller.core import Core
from ipkernel.controller.defaults import WATCHDOG
from ipkernel.controller.slots import READY, RESTARTING, STARTING, Engine
from ipkernel.wire.records import MAX_STUCK, Stuck

#: A task that runs so many times longer than any other is told of, if so many others have ended.
LONGER: Final = 3.0
ENOUGH: Final = 10
#: So many restarts of one engine within the threshold are a loop.
RESTARTS: Final = 3

FAULT: Final = "fault"
WARNING: Final = "warning"
INFORMATION: Final = "information"
#: Engines and tasks that a text or a key names.
_NAMED: Final = 8


class Surroundings(NamedTuple):
    """What the scheduler does not know.

    Attributes:
        heard: For each connected host, when it has last said something.
        journal: Why the journal cannot be written; empty if it can.
        journal_since: When the write that is not done yet was begun; 0.0 if there is none.
    """

    heard: Mapping[int, float] = {}
    journal: str = ""
    journal_since: float = 0.0


class Cause(NamedTuple):
    """Something that may be wrong.

    Attributes:
        key: What it is about: the same key is the same cause.
        severity: :data:`FAULT`, :data:`WARNING` or :data:`INFORMATION`.
        reason: What is the matter.
        advice: What to do.
        since: When it began; None if that is when it was seen first.
    """

    key: tuple[str | int, ...]
    severity: str
    reason: str
    advice: str
    since: float | None = None


class Watchdog:
    """Remembers what it has seen, and tells of what does not change.

    Args:
        core: The scheduler's tables.
        threshold: Seconds after which something is reported.
    """

    def __init__(self, core: Core, threshold: float = WATCHDOG) -> None:
        self._core = core
        self._threshold = threshold
        self._seen: dict[tuple[str | int, ...], float] = {}
        self._restarts: dict[int, tuple[float, int]] = {}

    def look(self, now: float, around: Surroundings | None = None) -> list[Stuck]:
        """Return what is stuck, the most severe first.

        Args:
            now: The time.
            around: What the scheduler does not know.
        """
        seen: dict[tuple[str | int, ...], float] = {}
        found: list[Stuck] = []
        for cause in self._causes(now, around or Surroundings()):
            since = self._seen.get(cause.key, now) if cause.since is None else cause.since
            seen[cause.key] = since
            if now - since >= self._threshold:
                found.append(
                    Stuck(
                        cause=" ".join(map(str, cause.key)),
                        severity=cause.severity,
                        reason=cause.reason[:4000],
                        advice=cause.advice,
                        since=since,
                    )
                )
        self._seen = seen
        found.sort(key=lambda one: (_ORDER.index(one.severity), one.since))
        return found[:MAX_STUCK]

    def _causes(self, now: float, around: Surroundings) -> Iterator[Cause]:
        yield from self._journal(around)
        yield from self._no_engines()
        yield from self._idle_engines()
        yield from self._engines(now)
        yield from self._loops(now)
        yield from self._long_tasks(now)
        yield from self._nested()
        yield from self._sessions()
        yield from self._hosts(around)

    def _journal(self, around: Surroundings) -> Iterator[Cause]:
        if around.journal_since:
            why = f": {around.journal}" if around.journal else ""
            yield Cause(
                ("journal",),
                FAULT,
                f"the journal is not written{why}; nothing leaves the controller meanwhile",
                "make room on the disk of the cluster's directory, or see what is wrong with it",
                around.journal_since,
            )

    def _no_engines(self) -> Iterator[Cause]:
        """Tasks wait, and no engine is ready."""
        core = self._core
        engines = core.engines.values()
        count = len(core.tasks)
        if not count or any(e.state == READY for e in engines):
            return
        some = f"{count} tasks have not ended" if count > 1 else "1 task has not ended"
        if not core.engines:
            yield Cause(
                ("no engines",),
                WARNING,
                f"{some}, and there is no engine",
                "'ipcluster status' shows which programs have not joined; 'ipcluster engines -n N' "
                "starts more",
            )
            return
        states: dict[str, int] = {}
        for engine in engines:
            states[engine.state] = states.get(engine.state, 0) + 1
        told = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        why = next((f"; engine {e.id}: {e.reason}" for e in engines if e.reason), "")
        yield Cause(
            ("no engine is ready",),
            WARNING,
            f"{some}, and no engine is ready ({told}){why}",
            "see why engines end: 'ipcluster status' and 'ipcluster logs engine N'",
        )

    def _idle_engines(self) -> Iterator[Cause]:
        """Plain tasks are ready, and an engine that may run them has nothing to do."""
        core = self._core
        if not core.ladder.any_idle:
            return
        idle = core.ladder.idle()
        for line in core.lines.rotation:
            if line.held or not line.plain or not line.count or not line.queue:
                continue
            free = [e.id for e in idle if not line.choice or e.id in line.choice]
            if free:
                head = line.queue[0].id
                yield Cause(
                    ("idle", line.session, head),
                    FAULT,
                    f"task {head} and {line.count - 1} others are ready, and engine {free[0]} has "
                    f"nothing to do",
                    "this is a fault of the controller: please report it, with its log; to end "
                    f"engine {free[0]} with 'ipcluster restart --engine {free[0]}' may help",
                )

    def _engines(self, now: float) -> Iterator[Cause]:
        for engine in self._core.engines.values():
            name = f"engine {engine.id} on {engine.host.name}"
            if engine.state in (STARTING, RESTARTING):
                verb = "being started" if engine.state == STARTING else "being started again"
                waiting = len(engine.direct) - engine.shelved
                rest = f"; {waiting} tasks wait for it" if waiting else ""
                why = f" ({engine.reason})" if engine.reason else ""
                yield Cause(
                    (engine.state, engine.id),
                    WARNING,
                    f"{name} is {verb} and does not become ready{why}{rest}",
                    f"see 'ipcluster logs engine {engine.id}' and the log of the host daemon",
                    engine.since,
                )
            elif engine.state == READY:
                yield from self._silent_engine(engine, name)

    def _silent_engine(self, engine: Engine, name: str) -> Iterator[Cause]:
        """An engine was given something, and its host does not say that it has begun."""
        if engine.reclaims:
            yield Cause(
                ("reclaims", engine.id),
                FAULT,
                f"{name} was asked to give tasks back, and there is no answer",
                f"see the log of the host daemon; 'ipcluster restart --engine {engine.id}' ends it",
            )
        if engine.running or not engine.assigned:
            return
        task = next(iter(engine.assigned.values()))
        needs = task.message.needs
        lacking = self._core.objects.why(engine.host.id, needs) if needs else ""
        why = f": it waits for {lacking}" if lacking else ""
        yield Cause(
            ("not begun", engine.id, task.id),
            WARNING,
            f"{name} was given task {task.id} and has not begun it{why}",
            "see the log of the host daemon" + ("" if lacking else "; the machine may be too busy"),
            task.assigned,
        )

    def _loops(self, now: float) -> Iterator[Cause]:
        """Engines that are lost again and again."""
        marks: dict[int, tuple[float, int]] = {}
        for number, engine in self._core.engines.items():
            when, count = self._restarts.get(number, (now, engine.restarts))
            lost = engine.restarts - count
            if now - when > 2 * self._threshold or lost < 0:
                when, count = now, engine.restarts
            marks[number] = when, count
            if lost >= RESTARTS:
                yield Cause(
                    ("loop", number),
                    WARNING,
                    f"engine {number} on {engine.host.name} was started again {lost} times within "
                    f"{now - when:.0f} s; last: {engine.last_loss}",
                    f"see what ends it: 'ipcluster logs engine {number}'",
                    now - self._threshold,
                )
        self._restarts = marks

    def _long_tasks(self, now: float) -> Iterator[Cause]:
        late = [
            engine
            for engine in self._core.engines.values()
            if engine.running and now - engine.began >= self._threshold
        ]
        if not late:
            return
        count, longest = self._core.history.longest()
        if count < ENOUGH:
            return
        for engine in late:
            if now - engine.began < LONGER * longest:
                continue
            task = min(engine.running)
            known = self._core.tasks.get(task)
            label = f" ({known.message.label})" if known is not None and known.message.label else ""
            yield Cause(
                ("long", engine.id, task),
                INFORMATION,
                f"engine {engine.id} on {engine.host.name} runs task {task}{label} for "
                f"{now - engine.began:.0f} s; the longest of the last {count} took {longest:.3g} s",
                f"'ipcluster signal INT --engine {engine.id}' interrupts it, if it hangs",
                engine.began,
            )

    def _nested(self) -> Iterator[Cause]:
        """Tasks wait for tasks that none of their engines can begin meanwhile."""
        found = deadlocks.find(self._core)
        if found is None:
            return
        first = found.waiting[0]
        named = ", ".join(map(str, found.engines[:_NAMED])) + ", ..." * (
            len(found.engines) > _NAMED
        )
        some = f"{found.size} of those" if found.size > 1 else "one of those"
        who = (
            f"engine {named} runs a task that has submitted tasks itself, and may wait for them"
            if len(found.engines) == 1
            else f"engines {named} run tasks that have submitted tasks themselves, and may wait for them"
        )
        yield Cause(
            ("nested", first, *found.running[:_NAMED]),
            WARNING,
            f"{who}; {some}, first task {first}, cannot begin before, for no other engine may run it",
            "add engines ('ipcluster engines -n N'), or abort one of the tasks that run "
            f"(such as {found.running[0]}) with Client.abort()",
        )

    def _sessions(self) -> Iterator[Cause]:
        for session in self._core.sessions.values():
            if session.held:
                yield Cause(
                    ("held", session.id),
                    WARNING,
                    f"{session.client or f'client {session.id}'} does not take its results; "
                    f"{session.open} tasks of it wait, nothing more is started for it",
                    "let the client's process go on if it is stopped, or end it",
                )

    def _hosts(self, around: Surroundings) -> Iterator[Cause]:
        for number, host in self._core.hosts.items():
            if host.away is not None:
                yield Cause(
                    ("away", number),
                    WARNING,
                    f"host {host.name}: {host.away}",
                    "see whether the machine and its network are up",
                    host.away.since,
                )
            elif number in around.heard:
                yield Cause(
                    ("silent", number),
                    WARNING,
                    f"nothing is heard of host {host.name} (daemon pid {host.pid})",
                    "its daemon is stopped, or its machine is much too busy: look there",
                    around.heard[number],
                )


_ORDER: Final = (FAULT, WARNING, INFORMATION)
