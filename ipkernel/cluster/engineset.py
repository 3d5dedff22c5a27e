"""Engines that were started together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EngineSet:
    """Engines that were started together.

    Attributes:
        engine_set_id: Its name within the cluster.
        n: How many engines were asked for.
        engines: Their ids, as soon as they are known.
    """

    def __init__(
        self, engine_set_id: str, n: int, engines: Sequence[int] = (), launcher: Any = None
    ) -> None:
        self.engine_set_id = engine_set_id
        self.n = n
        self.engines = tuple(engines)
        self.launcher = launcher

    def __repr__(self) -> str:
        return f"<EngineSet {self.engine_set_id} n={self.n} engines={list(self.engines)}>"

    @property
    def running(self) -> bool:
        """Whether the host daemon that it was started with runs (if that was done from here)."""
        return self.launcher is None or bool(self.launcher.running)

    def output(self, lines: int = 20) -> list[str]:
        """Return the last lines of the log of its host daemon."""
        return list(self.launcher.output(lines)) if self.launcher is not None else []

    get_output = output

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"n": self.n, "engines": list(self.engines)}
