"""Clients inside of tasks: calls that submit calls, and must not wait for what their engine is to run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipkernel.client.task import TaskRecord


def here() -> tuple[int, str]:
    """Return the engine that this process is, and the name of its cluster; -1 if it is none."""
    current = sys.modules.get("ipkernel.engine.current")
    state = getattr(current, "state", None)
    if state is None or state.loop is None or state.forked:
        return -1, ""
    return state.engine, state.cluster


def check_wait(cluster: str, engines: Iterable[int], records: Iterable[TaskRecord]) -> None:
    """Refuse to wait for ever, in a task, for a task that only the engine of this one could run.

    Args:
        cluster: Name of the cluster that has the tasks.
        engines: Its engines.
        records: The tasks that are to be waited for.

    Raises:
        RuntimeError: One of them would never begin.
    """
    own, name = here()
    if own < 0 or name != cluster or threading.current_thread() is not threading.main_thread():
        return
    alone = list(engines) == [own]
    for record in records:
        if record.cell is None and (record.target == own or (record.target < 0 and alone)):
            why = f"there is no other than engine {own}" if alone else f"it is for engine {own}"
            raise RuntimeError(
                f"task {record.id} cannot begin while this call waits for it: {why}, which runs "
                "this call; return first, or wait with a timeout until there are more engines"
            )
