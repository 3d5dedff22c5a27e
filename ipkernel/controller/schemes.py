"""Which of the engines with room gets the next load-balanced task: by load, or in other ways.

The names are those that users of this field know. Each scheme is a :class:`Ladder` with another idea of
who is first; how much an engine may hold is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from random import Random
from typing import Final

from ipkernel.controller.defaults import SCHEMES
from ipkernel.controller.slots import Engine, Ladder

#: How often the weighted scheme throws its dice for one engine.
_THROWS: Final = 16


class _OtherOrder(Ladder):
    """A ladder whose first engine need not be the least loaded one."""

    __slots__ = ()

    def step(self) -> int:
        """Return 1, or 0 if there is no other engine: each gets its share of what there is."""
        return 1 if self.open > 1 else 0


class LeastRecentlyUsed(_OtherOrder):
    """The engine that was given something longest ago."""

    __slots__ = ("_count", "_heap", "_pushed", "_stamps")

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._stamps: dict[Engine, int] = {}
        self._pushed = 0
        self._heap: list[tuple[int, int, int, Engine]] = []  # ids may be used anew

    def update(self, engine: Engine) -> None:
        """Put ``engine`` where it belongs now, or take it off."""
        old = engine.rung
        super().update(engine)
        rung = engine.rung
        if rung == old:
            return
        if old >= 0 and (rung > old or rung < 0):
            self._count += 1
            self._stamps[engine] = self._count
        if rung >= 0:
            self._push(engine)
            if len(self._heap) > 4 * self.open + 64:
                self._heap.clear()
                for one in self.all():
                    self._push(one)

    def _push(self, engine: Engine) -> None:
        self._pushed += 1
        entry = (self._stamps.get(engine, 0), engine.id, self._pushed, engine)
        heappush(self._heap, entry)

    def remove(self, engine: Engine) -> None:
        """Take ``engine`` off."""
        super().remove(engine)
        self._stamps.pop(engine, None)

    def first(self) -> Engine | None:
        """Return the engine that was given something longest ago, or None when none has room."""
        heap = self._heap
        while heap:
            stamp, _, _, engine = heap[0]
            if engine.rung >= 0 and self._stamps.get(engine, 0) == stamp:
                return engine
            heappop(heap)
        return None

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return which of some engines with room is first."""
        return min(engines, key=lambda engine: self._stamps.get(engine, 0))


class _AtRandom(_OtherOrder):
    """Chooses by chance.

    Args:
        random: Where chance comes from.
    """

    __slots__ = ("_engines", "_places", "_random")

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._engines: list[Engine] = []
        self._places: dict[Engine, int] = {}

    def update(self, engine: Engine) -> None:
        """Put ``engine`` where it belongs now, or take it off."""
        was = engine.rung >= 0
        super().update(engine)
        if engine.rung >= 0 and not was:
            self._places[engine] = len(self._engines)
            self._engines.append(engine)
        elif was and engine.rung < 0:
            self._drop(engine)

    def remove(self, engine: Engine) -> None:
        """Take ``engine`` off."""
        if engine.rung >= 0:
            self._drop(engine)
        super().remove(engine)

    def _drop(self, engine: Engine) -> None:
        place = self._places.pop(engine)
        last = self._engines.pop()
        if last is not engine:
            self._engines[place] = last
            self._places[last] = place

    def first(self) -> Engine | None:
        """Return the engine that chance has chosen, or None when none has room."""
        return self.pick(self._engines) if self._engines else None

    def _any(self, engines: Sequence[Engine]) -> Engine:
        return engines[self._random.randrange(len(engines))]


class PlainRandom(_AtRandom):
    """Any engine, all with the same chance."""

    __slots__ = ()

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return which of some engines with room is first."""
        return self._any(engines)


class TwoBin(_AtRandom):
    """The less loaded one of two that chance has chosen."""

    __slots__ = ()

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return which of some engines with room is first."""
        one, other = self._any(engines), self._any(engines)
        return other if other.rung < one.rung else one


class Weighted(_AtRandom):
    """The less loaded one of two; chance chooses engines the rarer the more they hold."""

    __slots__ = ()

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return which of some engines with room is first."""
        one, other = self._light(engines), self._light(engines)
        return other if other.rung < one.rung else one

    def _light(self, engines: Sequence[Engine]) -> Engine:
        for _ in range(_THROWS):
            engine = self._any(engines)
            if self._random.random() * (1 + engine.rung) < 1.0:
                break
        return engine


def make_ladder(scheme: str = SCHEMES[0], random: Random | None = None) -> Ladder:
    """Return the ladder for a scheme.

    Args:
        scheme: Its name.
        random: Where chance comes from.

    Raises:
        ValueError: There is no such scheme.
    """
    if scheme == "leastload":
        return Ladder()
    if scheme == "lru":
        return LeastRecentlyUsed()
    kinds = {"plainrandom": PlainRandom, "twobin": TwoBin, "weighted": Weighted}
    if scheme not in kinds:
        raise ValueError(f"there is no scheme {scheme!r}; there are {', '.join(SCHEMES)}")
    return kinds[scheme](random if random is not None else Random())  # noqa: S311 - no secret
