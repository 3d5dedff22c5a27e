"""Orders to engines: passed on to their hosts, and the hosts' answers put together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from attrs import frozen
from msgspec import MsgspecError
from twisted.internet.defer import Deferred, maybeDeferred

from ipkernel.controller.events import EnginesAdded, EnginesDraining, EnginesEnding, EnginesGone
from ipkernel.controller.jobs import comrades, without_parts_of_jobs
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.errors import KernelError
from ipkernel.wire.records import EngineAnswer, EngineOrder, pack, unpack

logger = logging.getLogger(__name__)


@frozen
class _Part:
    """What one host answered."""

    host: int
    name: str
    asked: list[int]
    answer: EngineAnswer


class _Drain:
    """An order that waits for engines to drain.

    Attributes:
        left: Those that were not told to end yet.
        done: Those that had nothing to do any more.
        parts: The answers to the stops of the others.
        over: Fires when none is left.
        timer: Ends the patience, or None.
    """

    def __init__(self, engines: set[int]) -> None:
        self.left = engines
        self.done: set[int] = set()
        self.parts: list[Deferred[EngineAnswer]] = []
        self.over: Deferred[None] = Deferred()
        self.timer: Any = None

    def stop(self) -> None:
        """Wait no longer than now."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Orders:
    """Carries out orders from the doors.

    Args:
        clock: Twisted's reactor, or a Clock.
        scheduler: Knows engines and hosts.
        turn: Takes events.
        call: Calls a method of a host, by number, with a request; fails if it is gone.
    """

    def __init__(
        self,
        clock: Any,
        scheduler: Scheduler,
        turn: Turn,
        call: Callable[[int, str, bytes], Deferred[bytes]],
    ) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._turn = turn
        self._call = call
        self._drains: list[_Drain] = []

    def signal(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        """Send the order's signal to its engines, or to all.

        Returns:
            Fires with the engines that got it, and what did not work.
        """
        return self._to_hosts("signal_engines", order)

    def restart(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        """Restart the order's engines, or all, under their ids.

        Returns:
            Fires with the engines that are new processes, and what did not work.
        """
        return self._to_hosts("restart_engines", order, whole=True)

    def stop(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        """End the order's engines, or all, for good; at once, or when they have drained.

        Returns:
            Fires with the engines that are gone, and what did not work.
        """
        return self._drain(order) if order.drain else self._stop(order)

    def _stop(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        by_host, _ = self._by_host(order, whole=True)
        ending = [number for numbers in by_host.values() for number in numbers]
        if ending:
            self._turn.add(EnginesEnding(ending, self._turn.now()))

        def gone(answer: EngineAnswer) -> EngineAnswer:
            engines = self._scheduler.engines
            left = [n for n in ending if (e := engines.get(n)) is not None and e.ending]
            stopped = [n for n in left if n in answer.engines]
            alive = [n for n in left if n not in answer.engines]
            now = self._turn.now()
            if stopped:
                self._turn.add(EnginesGone(stopped, "stopped on request", now))
            if alive:
                self._turn.add(EnginesEnding(alive, now, ending=False))
            return answer

        return self._to_hosts("stop_engines", order, whole=True).addCallback(gone)

    def _drain(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        by_host, problems = self._by_host(order, whole=True)
        engines = [number for numbers in by_host.values() for number in numbers]
        drain = _Drain(set(engines))
        if engines:
            self._drains.append(drain)
            reason = "it is to be stopped when it has finished"
            self._turn.add(EnginesDraining(engines, reason, self._turn.now()))
            if order.limit:
                drain.timer = self._clock.callLater(order.limit, self._too_long, drain)
        else:
            drain.over.callback(None)

        async def gather() -> EngineAnswer:
            await drain.over
            answers = [await part for part in drain.parts]
            gone = sorted({number for answer in answers for number in answer.engines})
            told = [*problems, *(answer.problem for answer in answers if answer.problem)]
            return EngineAnswer(engines=gone, problem="; ".join(told)[:4000])

        return Deferred.fromCoroutine(gather())

    def drained(self, engines: list[int]) -> None:
        """Engines that were to drain have nothing to do any more, or are gone: end them."""
        for drain in list(self._drains):
            self._end_drained(drain, [number for number in engines if number in drain.left])

    def _too_long(self, drain: _Drain) -> None:
        drain.timer = None
        logger.info("engines %s did not drain in time", sorted(drain.left))
        self._end_drained(drain, sorted(drain.left))

    def _end_drained(self, drain: _Drain, engines: list[int]) -> None:
        known = self._scheduler.engines
        drain.done.update(engines)
        waiting = drain.left - drain.done
        engines = [  # of an MPI job all together
            number
            for number in sorted(drain.done & drain.left)
            if number not in known
            or waiting.isdisjoint(comrades(self._scheduler.hosts, known[number]))
        ]
        if not engines:
            return
        drain.left.difference_update(engines)
        there = [number for number in engines if number in known]
        gone = [number for number in engines if number not in known]
        if there:
            drain.parts.append(self._stop(EngineOrder(engines=there)))
        if gone:
            drain.parts.append(_answer(EngineAnswer(engines=gone)))
        if not drain.left:
            self._drains.remove(drain)
            drain.stop()
            drain.over.callback(None)

    def close(self) -> None:
        """Wait for nothing more: the controller ends."""
        drains, self._drains = self._drains, []
        for drain in drains:
            drain.stop()
            text = f"the controller stopped while engines {sorted(drain.left)} were draining"
            drain.parts.append(_answer(EngineAnswer(problem=text)))
            drain.over.callback(None)

    def start(self, order: EngineOrder) -> Deferred[EngineAnswer]:
        """Start ``count`` new engines, on the order's host or on those with the fewest engines.

        Returns:
            Fires with the new ids, and what did not work.
        """
        hosts = {
            number: len(host.engines)
            for number, host in self._scheduler.hosts.items()
            if (not order.host or host.name == order.host)
            and not host.draining
            and not host.facts.job
        }
        if not hosts:
            where = f"no host {order.host!r}" if order.host else "no host"
            problem = f"there is {where} to start engines on"
            if any(host.draining for host in self._scheduler.hosts.values()):
                problem += ": hosts that are about to go take no more"
            elif any(host.facts.job for host in self._scheduler.hosts.values()):
                problem += ": an MPI job has the engines that it began with, and no others"
            return _answer(EngineAnswer(problem=problem))
        shares = share(order.count, hosts)
        now = self._turn.now()
        parts: list[tuple[int, list[int]]] = []
        for host, count in shares.items():
            ids = self._scheduler.take_ids(count)
            self._turn.add(EnginesAdded(host, ids, now))
            parts.append((host, ids))

        def started(answers: list[_Part]) -> list[_Part]:
            for part in answers:
                missing = sorted(set(part.asked) - set(part.answer.engines))
                if missing:
                    why = part.answer.problem or "its host did not start it"
                    self._turn.add(EnginesGone(missing, why, self._turn.now()))
            return answers

        asked = [self._ask(host, "start_engines", order, ids) for host, ids in parts]
        return _gather(asked).addCallback(started).addCallback(_merge, [])

    # ------------------------------------------------------------------------- inside

    def _by_host(
        self, order: EngineOrder, *, whole: bool = False
    ) -> tuple[dict[int, list[int]], list[str]]:
        engines = self._scheduler.engines
        by_host: dict[int, list[int]] = {}
        wanted, problems = list(dict.fromkeys(order.engines or sorted(engines))), list[str]()
        if whole:
            wanted, problems = without_parts_of_jobs(self._scheduler.hosts, engines, wanted)
        for number in wanted:
            engine = engines.get(number)
            if engine is None:
                problems.append(f"there is no engine {number}")
            else:
                by_host.setdefault(engine.host.id, []).append(number)
        return by_host, problems

    def _to_hosts(
        self, method: str, order: EngineOrder, *, whole: bool = False
    ) -> Deferred[EngineAnswer]:
        by_host, problems = self._by_host(order, whole=whole)
        asked = [self._ask(host, method, order, numbers) for host, numbers in by_host.items()]
        return _gather(asked).addCallback(_merge, problems)

    def _ask(
        self, host: int, method: str, order: EngineOrder, engines: list[int]
    ) -> Deferred[_Part]:
        known = self._scheduler.hosts.get(host)
        name = known.name if known is not None else f"host {host}"
        asked = set(engines)
        request = EngineOrder(
            engines=engines, count=len(engines), signal=order.signal, host=order.host
        )

        def answered(data: bytes) -> _Part:
            answer = unpack(EngineAnswer, data)
            mine = [number for number in answer.engines if number in asked]  # no other host's
            return _Part(host, name, engines, EngineAnswer(engines=mine, problem=answer.problem))

        def failed(failure: Any) -> _Part:
            # whatever it is: what depends on the answer, such as ids, must be put right
            if not failure.check(KernelError, MsgspecError):
                logger.error("%s of host %s failed", method, name, exc_info=_exc_info(failure))
            problem = failure.getErrorMessage() or failure.type.__name__
            return _Part(host, name, engines, EngineAnswer(problem=problem))

        answer: Deferred[Any] = maybeDeferred(lambda: self._call(host, method, pack(request)))
        return answer.addCallback(answered).addErrback(failed)


def share(count: int, hosts: dict[int, int]) -> dict[int, int]:
    """Divide ``count`` new engines among hosts, those with the fewest engines first.

    Args:
        count: How many.
        hosts: How many engines each host has.

    Returns:
        How many each host gets; hosts that get none are left out.
    """
    have = dict(hosts)
    out: dict[int, int] = {}
    for _ in range(count):
        host = min(have, key=lambda h: (have[h], h))
        have[host] += 1
        out[host] = out.get(host, 0) + 1
    return out


def _exc_info(failure: Any) -> tuple[Any, Any, Any]:
    return failure.type, failure.value, failure.getTracebackObject()


def _answer(answer: EngineAnswer) -> Deferred[EngineAnswer]:
    done: Deferred[EngineAnswer] = Deferred()
    done.callback(answer)
    return done


def _gather(parts: list[Deferred[_Part]]) -> Deferred[list[_Part]]:
    async def gather() -> list[_Part]:
        return [await part for part in parts]

    return Deferred.fromCoroutine(gather())


def _merge(parts: list[_Part], problems: list[str]) -> EngineAnswer:
    engines = sorted({number for part in parts for number in part.answer.engines})
    several = len(parts) > 1
    for part in parts:
        if part.answer.problem:
            where = f"{part.name}: " if several else ""
            problems = [*problems, f"{where}{part.answer.problem}"]
    return EngineAnswer(engines=engines, problem="; ".join(problems)[:4000])
