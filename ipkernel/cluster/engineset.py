"""Engines that were started together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipkernel.cluster.hosted import Hosted
    from ipkernel.cluster.recorded import Recorded


class EngineSet:
    """Engines that were started together, by one launcher or by the host daemons that were there.

    Args:
        engine_set_id: Its name within the cluster.
        n: How many engines were asked for.
        engines: Their ids, if they are known and no program of the set tells them.
        programs: The host daemons that were started for it from here.
        recorded: Those that were started for it by another process.

    Attributes:
        engine_set_id: As given.
        n: As given.
        programs: As given.
        recorded: As given.
    """

    def __init__(
        self,
        engine_set_id: str,
        n: int,
        engines: Sequence[int] = (),
        programs: Sequence[Hosted] = (),
        recorded: Sequence[Recorded] = (),
    ) -> None:
        self.engine_set_id = engine_set_id
        self.n = n
        self.programs = tuple(programs)
        self.recorded = tuple(recorded)
        self._engines = tuple(engines)

    def __repr__(self) -> str:
        return f"<EngineSet {self.engine_set_id} n={self.n} engines={list(self.engines)}>"

    @property
    def engines(self) -> tuple[int, ...]:
        """The ids of its engines, as far as they are known."""
        told = {number for one in self.programs for number in one.engines}
        return tuple(sorted(told.union(self._engines)))

    def discard(self, engines: Collection[int]) -> None:
        """Forget engines that were stopped."""
        self._engines = tuple(one for one in self._engines if one not in engines)
        for program in self.programs:
            program.discard(engines)

    def drop(self, programs: Collection[Hosted]) -> None:
        """Forget host daemons that did not start."""
        self.programs = tuple(one for one in self.programs if one not in programs)

    @property
    def launcher(self) -> Any:
        """The launcher of its first host daemon; None if none was started for it from here."""
        return self.programs[0].launcher if self.programs else None

    @property
    def launchers(self) -> list[Any]:
        """The launchers of its host daemons, as far as they were started from here."""
        return [one.launcher for one in self.programs]

    @property
    def running(self) -> bool:
        """Whether a host daemon of it runs, or is started again; True if that is not known here."""
        return not self.programs or not all(one.over for one in self.programs)

    def output(self, lines: int = 20) -> list[str]:
        """Return the last lines of the logs of its host daemons.

        Args:
            lines: How many of each.
        """
        return [line for one in self.launchers for line in one.output(lines)]

    get_output = output

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        found: dict[str, Any] = {"n": self.n, "engines": list(self.engines)}
        programs = [*self.recorded, *(one.to_record() for one in self.programs)]
        if programs:
            found["programs"] = [one.to_dict() for one in programs]
        return found
