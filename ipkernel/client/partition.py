"""Dividing sequences for engines, putting the parts together again, and sizes of chunks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise, zip_longest
from typing import Any, Final

from ipkernel.client.wholes import Rows, is_memory, is_pandas, is_table, whole_of

#: How many chunks an engine gets on average: so many that one slow chunk at the end costs little.
CHUNKS_PER_ENGINE: Final = 8
#: The most items of a chunk.
MAX_CHUNK: Final = 1 << 16

_MISSING = object()


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def indexable(sequence: Any) -> Any:
    """Return ``sequence`` if it has a length and can be sliced, else a list of its items."""
    if isinstance(sequence, (list, tuple, range, str, bytes)) or _is_array(sequence):
        return sequence
    if is_pandas(sequence):
        return Rows(sequence)
    if hasattr(sequence, "__len__") and hasattr(sequence, "__getitem__"):
        try:
            sequence[0:0]
        except Exception:  # noqa: BLE001 - whatever it raises, it cannot be sliced
            return list(sequence)
        return sequence
    return list(sequence)


def _are_arrays(parts: Sequence[Any]) -> bool:
    """Return whether these are arrays with items, so that they are put together to an array."""
    return bool(parts) and all(_is_array(part) and part.ndim for part in parts)


def _were_dealt(parts: Sequence[Any]) -> bool:
    """Return whether arrays have the lengths and shapes that dealing one out results in."""
    lengths = [len(part) for part in parts]
    return (
        lengths == sorted(lengths, reverse=True)
        and lengths[0] - lengths[-1] <= 1
        and len({part.shape[1:] for part in parts}) == 1
    )


def _library(parts: Sequence[Any]) -> Any:
    """Return the module that puts these arrays together: numpy itself leaves their masks out."""
    import numpy

    masked = sys.modules.get("numpy.ma")
    if masked is not None and any(isinstance(part, masked.MaskedArray) for part in parts):
        return masked
    return numpy


def _weave(parts: Sequence[Any]) -> Any:
    """Put every n-th item of an array from each of n parts."""
    import numpy

    whole = _library(parts).empty(
        (sum(map(len, parts)), *parts[0].shape[1:]), dtype=numpy.result_type(*parts)
    )
    for index, part in enumerate(parts):
        whole[index :: len(parts)] = part
    return whole


class Dist:
    """Contiguous parts, as equal in size as can be (``dist="b"``)."""

    name = "b"
    contiguous = True
    apart = False

    def part(self, sequence: Any, index: int, count: int) -> Any:
        """Return part ``index`` of ``count`` of a sequence that can be sliced."""
        size, rest = divmod(len(sequence), count)
        start = index * size + min(index, rest)
        return sequence[start : start + size + (index < rest)]

    def parts(self, sequence: Any, count: int) -> list[Any]:
        """Return all parts of a sequence."""
        sequence = indexable(sequence)
        return [self.part(sequence, index, count) for index in range(count)]

    def join(self, parts: Sequence[Any]) -> Any:
        """Put parts together: arrays, tables, columns and memory to one, anything else to a list.

        A part that is no sequence (an exception, a flattened item) is an item itself.
        """
        whole = self._join_arrays(parts)
        if whole is None and parts:
            whole = whole_of(parts, dealt=False)
        return list(chain.from_iterable(map(items_of, parts))) if whole is None else whole

    def _join_arrays(self, parts: Sequence[Any]) -> Any:
        if not _are_arrays(parts):
            return None
        if len(parts) == 1:
            return parts[0]
        return _library(parts).concatenate(parts)


class Apart(Dist):
    """One item for each part; what comes of it is an item too, be it a sequence or not."""

    apart = True


class RoundRobin(Dist):
    """Every n-th item (``dist="r"``)."""

    name = "r"
    contiguous = False

    def part(self, sequence: Any, index: int, count: int) -> Any:
        """Return part ``index`` of ``count`` of a sequence that can be sliced."""
        return sequence[index::count]

    def join(self, parts: Sequence[Any]) -> Any:
        """Put parts together again, item by item."""
        if _are_arrays(parts) and _were_dealt(parts):
            return _weave(parts)
        whole = whole_of(parts, dealt=True) if parts else None
        if whole is not None:
            return whole
        woven = [
            item
            for items in zip_longest(*map(items_of, parts), fillvalue=_MISSING)
            for item in items
            if item is not _MISSING
        ]
        if not _are_arrays(parts):
            return woven
        import numpy

        if _library(parts) is not numpy:  # it has no type for single items that are masked
            starts = accumulate(map(len, parts), initial=0)
            places = [range(begin, end) for begin, end in pairwise(starts)]
            return BLOCK.join(parts)[self.join(places)]
        return numpy.array(woven, dtype=numpy.result_type(*parts)) if woven else parts[0]


def items_of(part: Any) -> Iterable[Any]:
    """Return the items of a part; one that is no sequence, or is a table, is an item itself."""
    if isinstance(part, str) or is_memory(part) or is_table(part) or not hasattr(part, "__iter__"):
        return (part,)
    if _is_array(part) and not part.ndim:
        return (part,)
    items: Iterable[Any] = part
    return items


BLOCK: Final = Dist()
APART: Final = Apart()
ROUND_ROBIN: Final = RoundRobin()
_DISTS = {"b": BLOCK, "block": BLOCK, "r": ROUND_ROBIN, "round_robin": ROUND_ROBIN}


def dist_of(name: str | Dist) -> Dist:
    """Return what ``dist="b"`` or ``dist="r"`` means.

    Raises:
        ValueError: It means nothing.
    """
    if isinstance(name, Dist):
        return name
    try:
        return _DISTS[name]
    except KeyError:
        raise ValueError(
            f"dist={name!r} is not known: use 'b' (contiguous parts) or 'r' (round robin)"
        ) from None


def chunk_size(items: int, engines: int) -> int:
    """Return how many items to put into a chunk, for a function of which nothing is known.

    Args:
        items: How many there are in all.
        engines: How many engines share them.
    """
    wanted = -(-items // (max(engines, 1) * CHUNKS_PER_ENGINE))
    return max(1, min(wanted, MAX_CHUNK))


def has_length(sequences: Sequence[Any]) -> bool:
    """Return whether the lengths of all are known."""
    return all(hasattr(sequence, "__len__") for sequence in sequences)


def chunks(
    sequences: Sequence[Any], engines: int, size: int | None = None
) -> Iterator[tuple[Any, ...]]:
    """Cut sequences into chunks; the shortest one ends it, as with :func:`zip`.

    What has a length is sliced (a slice of a range or of an array is small); anything else is
    consumed chunk by chunk, in chunks that begin small and grow.

    Args:
        sequences: One for each argument of the function.
        engines: How many engines share the chunks.
        size: Items of a chunk; None chooses.

    Yields:
        One slice of each sequence.
    """
    if has_length(sequences):
        items = min(map(len, sequences))
        step = size or chunk_size(items, engines)
        sliceable = [indexable(sequence) for sequence in sequences]
        for start in range(0, items, step):
            end = min(start + step, items)
            yield tuple(sequence[start:end] for sequence in sliceable)
        return
    yield from _chunks_of_unknown(sequences, engines, size)


def _chunks_of_unknown(
    sequences: Sequence[Any], engines: int, size: int | None
) -> Iterator[tuple[Any, ...]]:
    rows = zip(*sequences, strict=False)
    step, left = size or 1, max(engines, 1) * CHUNKS_PER_ENGINE
    while chunk := list(islice(rows, step)):
        yield tuple(map(list, zip(*chunk, strict=True)))
        left -= 1
        if not size and left <= 0:
            step, left = min(step * 2, 1024), max(engines, 1) * CHUNKS_PER_ENGINE
