"""Optional compression of objects that go over a network, block by block.

The codecs are optional packages, ``pip install "ipkernel[compression]"``: lz4, which costs little, and
zstd (zstandard), which makes less of the data. Each is imported when it is first used. Peers tell
each other what is :func:`available`; whether it pays is decided for each object by trying (:func:`choose`).

Whoever receives has to be told the size of each block. Nothing that a peer sends makes more memory
be used than that, and no block has more than :data:`MAX_BLOCK` bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

from attrs import frozen

from ipkernel.errors import TransferError
from ipkernel.objects.interfaces import Buffer

__all__ = [
    "MAX_BLOCK",
    "Compressor",
    "Decompressor",
    "available",
    "choose",
    "compressor",
    "decompressor",
]

#: The most bytes that are compressed at once.
MAX_BLOCK: Final = 1 << 20
#: Bytes of each of the samples that decide whether it pays, and their number.
SAMPLE: Final = 1 << 16
SAMPLES: Final = 3
#: It pays if the samples become smaller than this part of them.
PAYS: Final = 0.6
#: Objects below this many bytes are not worth the trouble.
SMALLEST: Final = 1 << 14

#: zstd's quickest level but for those that hardly compress.
_LEVEL: Final = 1

Compressor: TypeAlias = Callable[[Buffer], bytes]
"""Compresses a block of at most MAX_BLOCK bytes; for one thread at a time.

If the result is not shorter than the block, the block is to be sent as it is. Raises ValueError if the
block is too large.
"""

Decompressor: TypeAlias = Callable[[Buffer, int], bytes]
"""Makes a block of its compressed form and its size in bytes; for one thread at a time.

Raises TransferError unless that gives exactly so many bytes.
"""


@frozen
class _Codec:
    """One way to compress."""

    #: What to import, and what to install for that.
    module: str
    package: str
    #: Make functions that compress, and that decompress to so many bytes at most.
    pack: Callable[[Any], Callable[[Buffer], bytes]]
    unpack: Callable[[Any], Callable[[Buffer, int], bytes]]


def _lz4_pack(block: Any) -> Callable[[Buffer], bytes]:
    return lambda data: block.compress(data, store_size=False)


def _lz4_unpack(block: Any) -> Callable[[Buffer, int], bytes]:
    return lambda data, size: block.decompress(data, uncompressed_size=size)


def _zstd_pack(zstandard: Any) -> Callable[[Buffer], bytes]:
    # Without the size in it: zstandard believes a size that it finds there, whatever limit it is given.
    made = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=False)
    return made.compress  # type: ignore[no-any-return]


def _zstd_unpack(zstandard: Any) -> Callable[[Buffer, int], bytes]:
    made = zstandard.ZstdDecompressor(max_window_size=MAX_BLOCK)

    def unpack(data: Buffer, size: int) -> bytes:
        if zstandard.frame_content_size(data) != -1:
            raise ValueError("it has a size in it, which it must not have")
        plain: bytes = made.decompress(data, max_output_size=size, allow_extra_data=False)
        return plain

    return unpack


_CODECS: Final = {
    "lz4": _Codec("lz4.block", "lz4", _lz4_pack, _lz4_unpack),
    "zstd": _Codec("zstandard", "zstandard", _zstd_pack, _zstd_unpack),
}


def _is_installed(codec: _Codec) -> bool:
    try:
        return find_spec(codec.module) is not None
    except (ImportError, ValueError):
        return False


def available() -> tuple[str, ...]:
    """Return the names of the codecs that are installed here; nothing is imported for that."""
    return tuple(name for name, codec in _CODECS.items() if _is_installed(codec))


def _load(name: str) -> tuple[_Codec, Any]:
    codec = _CODECS.get(name)
    if codec is None:
        raise TransferError(f"there is no codec {name!r} here, only {', '.join(_CODECS)}")
    try:
        return codec, import_module(codec.module)
    except ImportError as exc:
        raise TransferError(
            f"the codec {name!r} needs the package {codec.package}, which cannot be used here"
            f" ({exc}): pip install {codec.package}, on both sides of the transfer"
        ) from exc


def compressor(name: str) -> Compressor:
    """Return a function that compresses blocks.

    Args:
        name: One of :func:`available`.

    Raises:
        TransferError: There is no such codec, or its package is not installed.
    """
    codec, module = _load(name)
    pack = codec.pack(module)

    def compress(block: Buffer) -> bytes:
        size = memoryview(block).nbytes
        if size > MAX_BLOCK:
            raise ValueError(f"a block of {size} bytes is more than {MAX_BLOCK}")
        return pack(block)

    return compress


def decompressor(name: str) -> Decompressor:
    """Return a function that undoes what :func:`compressor` does.

    Args:
        name: The codec that was used.

    Raises:
        TransferError: There is no such codec, or its package is not installed.
    """
    codec, module = _load(name)
    unpack = codec.unpack(module)

    def decompress(data: Buffer, size: int) -> bytes:
        # What does not become shorter is not sent compressed.
        if not len(data) < size <= MAX_BLOCK:
            raise TransferError(
                f"a block of {size} bytes arrived as {len(data)}, compressed: refused"
            )
        try:
            block = unpack(data, size)
        except MemoryError:
            raise
        except Exception as exc:
            raise TransferError(f"a block compressed with {name} is damaged: {exc}") from exc
        if len(block) != size:
            raise TransferError(f"a block of {size} bytes became {len(block)}: it is damaged")
        return block

    return decompress


# ---------------------------------------------------------------- whether it pays


def choose(pieces: Sequence[Buffer], size: int, allowed: Iterable[str]) -> str:
    """Choose a codec by compressing some samples of the data.

    Args:
        pieces: The data, in order.
        size: Bytes of them.
        allowed: What the other side has, the best first.

    Returns:
        The first that pays and is installed here, or empty if none does.
    """
    if size < SMALLEST:
        return ""
    samples: list[bytes] | None = None
    for name in allowed:
        codec = _CODECS.get(name)
        if codec is None or not _is_installed(codec):
            continue
        if samples is None:
            samples = _samples(pieces, size)
        pack = compressor(name)
        if sum(len(pack(sample)) for sample in samples) < PAYS * sum(map(len, samples)):
            return name
    return ""


def _samples(pieces: Sequence[Buffer], size: int) -> list[bytes]:
    """Return pieces of the data from its beginning to its end, or all of it if there is little."""
    if size <= SAMPLES * SAMPLE:
        return [_cut(pieces, 0, size)]
    step = (size - SAMPLE) // (SAMPLES - 1)
    return [_cut(pieces, index * step, SAMPLE) for index in range(SAMPLES)]


def _cut(pieces: Sequence[Buffer], start: int, length: int) -> bytes:
    found = []
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if start < view.nbytes:
            part = view[start : start + length]
            found.append(part)
            length -= part.nbytes
            if not length:
                break
        start = max(0, start - view.nbytes)
    return b"".join(found)
