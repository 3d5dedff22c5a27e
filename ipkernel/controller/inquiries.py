"""Long questions about tasks: looked for a part at a time, so that nothing else has to wait."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ipkernel.controller.events import TasksPurged
from ipkernel.controller.querying import Searching
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.tasks import ENDS
from ipkernel.controller.turn import Turn
from ipkernel.errors import KernelError
from ipkernel.wire.queries import Every, Node, Page, Purge, Purged, Search, Test

#: Tasks that are looked at, and that are forgotten, in one turn of the reactor.
CHUNK: Final = 512
#: Searches that may run at a time, and whose other pages may wait to be asked for.
MAX_RUNNING: Final = 16
MAX_PAUSED: Final = 16


class Inquiries:
    """Answers searches, and forgets what was found.

    Args:
        clock: Twisted's reactor, or a Clock.
        scheduler: Knows the tasks.
        turn: Takes events.
    """

    def __init__(self, clock: Any, scheduler: Scheduler, turn: Turn) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._turn = turn
        self._paused: OrderedDict[int, Searching] = OrderedDict()
        self._running: set[Deferred[Any]] = set()

    def search(self, request: Search) -> Deferred[Page]:
        """Return tasks that a query wants, at most a page of them.

        Returns:
            Fires with the page; fails with KernelError if the query is wrong, was forgotten, or
            too many others run.
        """
        return self._begin(self._search(request))

    def purge(self, request: Purge) -> Deferred[Purged]:
        """Forget tasks that have ended, with their results and submissions.

        Returns:
            Fires with how many were forgotten, when that is safe.
        """
        return self._begin(self._purge(request))

    def close(self) -> None:
        """Answer nothing more: the controller ends."""
        self._paused.clear()
        for running in list(self._running):
            running.cancel()

    def _begin(self, coroutine: Any) -> Deferred[Any]:
        if len(self._running) >= MAX_RUNNING:
            coroutine.close()
            coroutine = _refuse(f"{MAX_RUNNING} other searches run just now: ask again")
        running: Deferred[Any] = Deferred.fromCoroutine(coroutine)
        self._running.add(running)

        def over(outcome: Any) -> Any:
            self._running.discard(running)
            return outcome

        return running.addBoth(over)

    async def _search(self, request: Search) -> Page:
        if request.more:
            searching = self._paused.pop(request.more, None)
            if searching is None:
                raise KernelError("this search was given up for later ones: begin it again")
        else:
            searching = self._scheduler.search(request)
        await self._fill(searching)
        more = 0
        if not searching.done:
            more = secrets.randbelow((1 << 62) - 1) + 1
            self._paused[more] = searching
            if len(self._paused) > MAX_PAUSED:
                self._paused.popitem(last=False)
        return Page(rows=searching.take(), more=more)

    async def _fill(self, searching: Searching) -> None:
        """Look until a page is full, or all was looked at."""
        searching.step(CHUNK)
        while not searching.done and not searching.full:
            await deferLater(self._clock, 0)
            searching.step(CHUNK)

    async def _purge(self, request: Purge) -> Purged:
        known = self._scheduler.tasks
        still = [task for task in request.tasks if task in known]
        if still and not request.everything:
            text = f"task {still[0]} has not ended"
            text += f", nor have {len(still) - 1} others" if len(still) > 1 else ""
            return Purged(problem=f"{text}: abort what is not needed, or wait for it")
        tasks = dict.fromkeys(request.tasks)
        if request.everything or request.engines:
            parts: list[Node] = [_OVER]
            if not request.everything:
                parts.append(Test(field="engine_id", op="in", value=list(request.engines)))
            searching = self._scheduler.search(Search(where=Every(parts=parts)))
            while True:
                await self._fill(searching)
                tasks.update((row[0], None) for row in searching.take())
                if searching.done:
                    break
        before = self._scheduler.purged
        wanted = list(tasks)
        for start in range(0, len(wanted), CHUNK):
            self._turn.add(TasksPurged(wanted[start : start + CHUNK], self._turn.now()))
            await self._turn.settled()
        return Purged(count=self._scheduler.purged - before)


_OVER: Final = Test(
    field="state", op="in", value=[*sorted({state.value for state in ENDS.values()})]
)


async def _refuse(why: str) -> Any:
    raise KernelError(why)
