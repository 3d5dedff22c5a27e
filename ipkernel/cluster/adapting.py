"""How many engines a cluster should have: a policy that knows nothing of clusters or clocks.

It is told now and then what there is (:class:`Load`), and answers with what is to be done
(:class:`Grow`, :class:`Shrink` or None).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from attrs import field, frozen

from ipkernel.errors import ConfigurationError

__all__ = ["Grow", "Load", "Policy", "Rules", "Seen", "Shrink"]


def _positive(instance: object, attribute: object, value: float) -> None:
    name = getattr(attribute, "name", "")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"{name} must be a number above 0, not {value!r}")


def _duration(instance: object, attribute: object, value: float) -> None:
    name = getattr(attribute, "name", "")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigurationError(f"{name} must be a number of seconds from 0, not {value!r}")


@frozen
class Rules:
    """The bounds of a policy, and how hasty it is.

    Attributes:
        minimum: As many engines there are at least.
        maximum: As many there are at most.
        tasks_per_engine: For so many tasks that can run now there should be an engine.
        grow_after: Seconds for which there must have been too few engines before there are more.
        idle_after: Seconds for which an engine must have had nothing to do before it may go.

    Raises:
        ConfigurationError: A value is not acceptable.
    """

    minimum: int
    maximum: int
    tasks_per_engine: float = field(default=1.0, validator=_positive)
    grow_after: float = field(default=2.0, validator=_duration)
    idle_after: float = field(default=60.0, validator=_duration)

    def __attrs_post_init__(self) -> None:
        from ipkernel.cluster.options import check_count

        if check_count(self.minimum) > check_count(self.maximum, least=1):
            raise ConfigurationError(
                f"the minimum of engines ({self.minimum}) is more than the maximum ({self.maximum})"
            )


@frozen
class Seen:
    """An engine at one moment.

    Attributes:
        engine: Its id.
        host: Number of its host.
        load: How many tasks it runs or has been assigned.
        completed: How many it has finished in its life.
        ready: Whether it can work now.
    """

    engine: int
    host: int = 0
    load: int = 0
    completed: int = 0
    ready: bool = True


@frozen
class Load:
    """What there is at one moment.

    Attributes:
        engines: Those that are not being ended.
        coming: How many more were asked for and are not there, such as those of queued jobs.
        tasks: How many tasks could run now, or do.
    """

    engines: tuple[Seen, ...]
    coming: int = 0
    tasks: int = 0

    @property
    def total(self) -> int:
        """How many engines there are or will be."""
        return len(self.engines) + self.coming


@frozen
class Grow:
    """Start so many engines."""

    count: int


@frozen
class Shrink:
    """Have fewer engines.

    Attributes:
        coming: So many of those that are not there yet are not wanted any more.
        engines: These are to be ended, as soon as they have finished what they have begun.
    """

    coming: int = 0
    engines: tuple[int, ...] = ()


class Policy:
    """Decides; remembers for how long engines were idle, or too few.

    Args:
        rules: Its bounds.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._short_since: float | None = None
        self._idle: dict[int, tuple[float, int]] = {}

    def decide(self, now: float, load: Load) -> Grow | Shrink | None:
        """Return what is to be done.

        Args:
            now: The time, in seconds of a clock that only goes forward.
            load: What there is.
        """
        self._note_idle(now, load)
        rules, total = self.rules, load.total
        wanted = self.wanted(load.tasks)
        if total < rules.minimum:
            return Grow(rules.minimum - total)
        if total > rules.maximum:
            return self._shrink(load, total - rules.maximum, load.engines)
        if wanted > total:
            if self._short_since is None:
                self._short_since = now
            if now - self._short_since >= rules.grow_after:
                self._short_since = None
                return Grow(wanted - total)
            return None
        self._short_since = None
        if wanted < total:
            return self._shrink(load, total - wanted, self._long_idle(now, load))
        return None

    def wanted(self, tasks: int) -> int:
        """Return how many engines there should be for so many tasks."""
        rules = self.rules
        return max(rules.minimum, min(rules.maximum, ceil(tasks / rules.tasks_per_engine)))

    def _note_idle(self, now: float, load: Load) -> None:
        """Remember since when each engine has had nothing to do, and had finished so much."""
        before, self._idle = self._idle, {}
        for one in load.engines:
            if one.load == 0 and one.ready:
                since, completed = before.get(one.engine, (now, one.completed))
                self._idle[one.engine] = (
                    (since, completed) if completed == one.completed else (now, one.completed)
                )

    def _long_idle(self, now: float, load: Load) -> list[Seen]:
        patience = self.rules.idle_after
        idle = {one for one, (since, _) in self._idle.items() if now - since >= patience}
        return [one for one in load.engines if one.engine in idle]

    def _shrink(self, load: Load, surplus: int, allowed: Sequence[Seen]) -> Shrink | None:
        """Choose what goes: first what is not there, then idle engines of hosts that are idle.

        Args:
            load: What there is.
            surplus: How many are too many.
            allowed: The engines that may go.
        """
        coming = min(load.coming, surplus)
        busy = Counter(one.host for one in load.engines if one.engine not in self._idle)

        def cost(one: Seen) -> tuple[float, ...]:
            since, _ = self._idle.get(one.engine, (0.0, 0))
            return one.engine not in self._idle, one.load, busy[one.host], since, -one.engine

        chosen = sorted(allowed, key=cost)[: surplus - coming]
        if not coming and not chosen:
            return None
        return Shrink(coming, tuple(sorted(one.engine for one in chosen)))
