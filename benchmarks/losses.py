"""What the loss of an engine takes: until the client has the error, and until the task was run again."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import metrics, workload
from benchmarks.runner import value


def measure(client: Any, bound: float, quick: bool) -> Iterator[dict[str, object]]:
    """Yield the figures of tasks that kill their own engine.

    Each round begins when all engines are there. Its time is from right before the kill, which the task
    writes down, until the script has the error or the result.

    Args:
        client: Of a cluster of this machine.
        bound: Seconds after which no further round of a kind is begun.
        quick: A few rounds.
    """
    rounds = metrics.QUICK_LOSSES_ROUNDS if quick else metrics.LOSSES_ROUNDS
    plain, again = client.load_balanced_view(), client.load_balanced_view(retries=1)

    def fails(mark: str) -> None:
        if plain.apply_async(workload.die_at_first, mark).exception() is None:
            raise AssertionError("a task has survived its engine")

    def runs_again(mark: str) -> None:
        again.apply_sync(workload.die_at_first, mark)

    for name, call in (("error", fails), ("again", runs_again)):
        taken = list(_rounds(client, call, rounds, bound))
        note = f"rounds: {len(taken)}" if len(taken) < metrics.LOSSES_ROUNDS else ""
        yield value(f"losses_{name}_p50_ms", statistics.median(taken) * 1e3, note)
        yield value(f"losses_{name}_max_ms", max(taken) * 1e3, note)


def _rounds(client: Any, call: Callable[[str], None], rounds: int, bound: float) -> Iterator[float]:
    engines = len(client)
    end = time.perf_counter() + bound
    with tempfile.TemporaryDirectory(prefix="b-") as directory:
        for number in range(rounds):
            if number and time.perf_counter() > end:
                return
            client.wait_for_engines(engines, timeout=10 * bound)
            mark = Path(directory, str(number))
            call(str(mark))
            yield time.monotonic() - float(mark.read_text())
