"""Saying why there is no room, and what can be done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ipkernel.errors import StoreFull
from ipkernel.objects.entries import Entry, State, StoreStats
from ipkernel.objects.interfaces import TRANSIENT
from ipkernel.sizes import memory_text

__all__ = ["by_holder", "by_owner", "store_full"]

_ADVICE = (
    "free references and let go of received values that are no longer needed, or start the hosts "
    "with a larger store (option store_memory)"
)
_SHOWN = 3
_SHORT = 8


def by_owner(entries: Iterable[Entry]) -> dict[int, int]:
    """Return how many bytes of memory each session has, the largest first."""
    found: Counter[int] = Counter()
    for entry in entries:
        if entry.region is not None:
            found[entry.owner & ~TRANSIENT] += entry.region.length
    return dict(found.most_common())


def by_holder(entries: Iterable[Entry]) -> dict[str, int]:
    """Return how many bytes of memory each reader and writer keeps, the largest first."""
    found: Counter[str] = Counter()
    for entry in entries:
        if entry.region is not None:
            writers = {entry.writer} if entry.state is State.WRITING else set()
            for name in entry.pins | writers:
                found[name] += entry.region.length
    return dict(found.most_common())


def store_full(size: int, stats: StoreStats, problem: str = "") -> StoreFull:
    """Return the error for an object that does not fit.

    Args:
        size: Its length in bytes.
        stats: How full the store is.
        problem: What the system said when more room was asked for, if it did.
    """
    what = f"an object of {memory_text(size)} does not fit into this host's store of {memory_text(stats.limit)}"
    if size > stats.limit:
        return StoreFull(
            f"{what}, even when nothing else is there: start the hosts with a larger store "
            "(option store_memory), or send the data in parts"
        )
    parts = [
        f"{memory_text(stats.used)} are in use{_list({f'session {n}': size for n, size in stats.owners.items()})}"
    ]
    if stats.leased:
        parts.append(
            f"{memory_text(stats.leased)} of it being read or written{_list({_who(name): size for name, size in stats.holders.items()})}"
        )
    if stats.disk_limit:
        parts.append(f"{memory_text(stats.disk_used)} of {memory_text(stats.disk_limit)} on disk")
    if problem:
        parts.append(problem)
    return StoreFull(f"{what}: {', '.join(parts)}; {_ADVICE}")


def _who(holder: str) -> str:
    """Return what people call a reader or writer: a client has no name but that of its Tub."""
    return holder if ":" in holder or len(holder) <= _SHORT else f"client {holder[:_SHORT]}"


def _list(sizes: Mapping[str, int]) -> str:
    if not sizes:
        return ""
    shown = [f"{memory_text(size)} by {who}" for who, size in sizes.items()]
    more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return f" ({', '.join(shown[:_SHOWN] + more)})"
