"""Saying why there is no room, and what can be done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ipkernel.errors import StoreFull
from ipkernel.objects.entries import Entry, State, StoreStats
from ipkernel.objects.interfaces import TRANSIENT

__all__ = ["by_holder", "by_owner", "room", "store_full"]

_ADVICE = (
    "free references and let go of received values that are no longer needed, or start the hosts "
    "with a larger store (option store_memory)"
)
_SHOWN = 3
_SHORT = 8


def room(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{int(count)} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


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
    what = f"an object of {room(size)} does not fit into this host's store of {room(stats.limit)}"
    if size > stats.limit:
        return StoreFull(
            f"{what}, even when nothing else is there: start the hosts with a larger store "
            "(option store_memory), or send the data in parts"
        )
    parts = [
        f"{room(stats.used)} are in use{_list({f'session {n}': size for n, size in stats.owners.items()})}"
    ]
    if stats.leased:
        parts.append(
            f"{room(stats.leased)} of it being read or written{_list({_who(name): size for name, size in stats.holders.items()})}"
        )
    if stats.disk_limit:
        parts.append(f"{room(stats.disk_used)} of {room(stats.disk_limit)} on disk")
    if problem:
        parts.append(problem)
    return StoreFull(f"{what}: {', '.join(parts)}; {_ADVICE}")


def _who(holder: str) -> str:
    """Return what people call a reader or writer: a client has no name but that of its Tub."""
    return holder if ":" in holder or len(holder) <= _SHORT else f"client {holder[:_SHORT]}"


def _list(sizes: Mapping[str, int]) -> str:
    if not sizes:
        return ""
    shown = [f"{room(size)} by {who}" for who, size in sizes.items()]
    more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return f" ({', '.join(shown[:_SHOWN] + more)})"
