"""Values as bytes and back: pickle protocol 5, large buffers out of band.

Layout of a payload (little endian)::

    plain         u8 flags = 0x01 | pickle
    out of band   u8 flags = 0x02 | 3 zero bytes | u32 n | u64 length of the pickle | n x u64 lengths
                  | pickle | for each buffer: zeros up to a multiple of 64, buffer

Bit 0x04 is set when the pickle was made by dill and needs it to be read. The bits 0x10 and above belong
to :mod:`ipkernel.serialize.calls`. Offsets count from the start of the payload, so buffers are aligned to
64 bytes in memory if the payload is.

Buffers of 4 KiB and more go out of band: :func:`dumps` returns them as they are, not copied, and
:func:`loads` makes views of the received bytes. What is received belongs to the receiver: if the data can
be written to, so can arrays that refer to them, and data that cannot are copied first. As ever with pickle,
an array that was read-only where it comes from is read-only where it arrives.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ipkernel.errors import ObjectError, SerializationError
from ipkernel.objects.ref import MAX_NEEDS, ObjectRef, collecting, note

__all__ = [
    "Pieces",
    "PrePickled",
    "dumps",
    "dumps_bytes",
    "dumps_with_needs",
    "join",
    "loads",
    "size_of",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
    "use_pickler",
]

#: What a payload is made of: bytes-like objects to be written one after the other.
Data = bytes | bytearray | memoryview
Pieces = list[bytes | bytearray | memoryview]

PLAIN = 0x01
OUT_OF_BAND = 0x02
DILL = 0x04
#: Set by :func:`dump_value`: there is a Reference among the arguments.
REFERENCES = 0x10
#: Buffers below this many bytes are copied into the pickle.
BUFFER_THRESHOLD = 4096
ALIGNMENT = 64
#: A first buffer of so many bytes begins in the middle of a page. Arrays of that size begin, as a rule, close
#: to the beginning of one, and a copy to a place that lies a little further on in its page takes
#: processors up to four times as long: they take what is read for what was just written.
LARGE_BUFFER = 32 << 20
_PAGE = 4096

_HEADER = struct.Struct("<BxxxI")
_PLAIN_BYTE = bytes([PLAIN])
_PROTOCOL = 5
#: Containers with more items than this do not take the fast path: looking at them costs as much.
_SMALL = 64
#: Types that any pickler treats alike.
ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
_fast_dumps = pickle.dumps
_fast_loads = pickle.loads

PicklerFactory = Callable[..., Any]
#: Name of the pickler in use: "cloudpickle", "pickle", "dill" or "custom".
_mode = "cloudpickle"
_factory: PicklerFactory | None = None


def use_cloudpickle() -> None:
    """Pickle with cloudpickle from now on, in the whole process (the default)."""
    _use("cloudpickle", None)


def use_pickle() -> None:
    """Pickle with the plain pickle of Python from now on: functions go by name only."""
    from ipkernel.serialize.pickler import PlainPickler

    _use("pickle", PlainPickler)


def use_dill() -> None:
    """Pickle with dill from now on, in the whole process.

    Raises:
        ImportError: dill is not installed.
    """
    from ipkernel.serialize.pickler import dill_pickler

    _use("dill", dill_pickler())


def use_pickler(pickler: PicklerFactory | str) -> None:
    """Pickle with a pickler of one's own from now on, in the whole process.

    Args:
        pickler: a class, or its name as in ``"package.module:Class"``. It is called like
            :class:`pickle.Pickler`, with ``protocol`` and ``buffer_callback`` by keyword, and
            ``pickle.loads`` must be able to read what it writes. Derive from
            :class:`ipkernel.serialize.pickler.ValuePickler` to add to the default.

    Raises:
        ImportError: there is no such module.
        AttributeError: there is no such class in the module.
        TypeError: it is no class, nor the name of one.
    """
    if isinstance(pickler, str):
        module, colon, name = pickler.partition(":")
        if not colon:
            raise TypeError(f"a pickler is named as in 'package.module:Class', not {pickler!r}")
        pickler = getattr(import_module(module), name)
    if not callable(pickler):
        raise TypeError(f"a pickler is a class like pickle.Pickler, not {pickler!r}")
    _use("custom", pickler)


def _use(mode: str, factory: PicklerFactory | None) -> None:
    global _mode, _factory
    _mode, _factory = mode, factory


def new_pickler(file: Any, buffer_callback: Callable[[Any], Any] | None = None) -> Any:
    """Make a pickler of the kind in use, writing to ``file``."""
    global _factory
    if _factory is None:
        from ipkernel.serialize.pickler import ValuePickler

        _factory = ValuePickler
    return _factory(file, protocol=_PROTOCOL, buffer_callback=buffer_callback)


class _Collector:
    """A file for a pickler: keeps the pieces that are written.

    Large ones are written as the objects they are in, so none is copied. A bytearray among them is
    kept as a view: it cannot become longer or shorter while the payload waits to be sent.
    """

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[Any] = []

    def write(self, data: Any) -> None:
        """Keep a piece."""
        self.pieces.append(memoryview(data) if type(data) is bytearray else data)


def is_simple(obj: Any, depth: int = 3) -> bool:
    """Whether an object is a plain value, or a small container of such, that any pickler treats alike."""
    kind = type(obj)
    if kind in ATOMS:
        return True
    if kind is tuple or kind is list:
        items = obj
    elif kind is dict:
        if not obj:
            return True
        if not ATOMS.issuperset(map(type, obj)):
            return False
        items = obj.values()
    else:
        return False
    if len(obj) > _SMALL:
        return False
    for item in items:
        # Not all(): this runs for every task.
        if type(item) not in ATOMS and (not depth or not is_simple(item, depth - 1)):
            return False
    return True


def dumps(obj: Any, what: str = "the value") -> Pieces:
    """Turn a value into a payload.

    Args:
        obj: any value that can be pickled. Functions and classes of ``__main__`` go by value.
        what: what it is to the user, for the error.

    Returns:
        The pieces of the payload, to be written one after the other. They may be views of the memory of
        ``obj``, which must not change until they are written.

    Raises:
        SerializationError: the value cannot be pickled; the text names the object that is to blame.
    """
    if is_simple(obj):
        return plain(_fast_dumps(obj, _PROTOCOL))
    try:
        if type(obj) is PrePickled:
            note(obj.refs)
            return [obj.payload]
        return dump_value(obj)
    except Exception as exc:
        raise blame(obj, exc, what) from exc


def dumps_with_needs(obj: Any) -> tuple[Pieces, tuple[bytes, ...]]:
    """Turn a value into a payload that is loaded inside :class:`~ipkernel.objects.ref.resolving`.

    Args:
        obj: as for :func:`dumps`.

    Returns:
        The pieces, and the ids of the objects that :class:`~ipkernel.objects.ref.ObjectRef` in the
        value stand for, each once.

    Raises:
        SerializationError: the value cannot be pickled, or needs too many objects.
    """
    if is_simple(obj):
        return plain(_fast_dumps(obj, _PROTOCOL)), ()
    with collecting() as refs:
        pieces = dumps(obj)
    return pieces, needs_of(refs)


def needs_of(refs: dict[bytes, ObjectRef]) -> tuple[bytes, ...]:
    """Return the ids of what :class:`~ipkernel.objects.ref.collecting` has found.

    Raises:
        SerializationError: there are too many for one call.
    """
    if len(refs) > MAX_NEEDS:
        raise SerializationError(
            f"cannot send the value: it refers to {len(refs)} objects, and one call may need"
            f" {MAX_NEEDS}; send it in smaller parts, or put the objects into one"
        )
    return tuple(refs)


def plain(data: bytes) -> Pieces:
    """Make the payload of a pickle without buffers."""
    if len(data) < BUFFER_THRESHOLD:
        return [_PLAIN_BYTE + data]
    return [_PLAIN_BYTE, data]


def dump_value(obj: Any, *, mark_references: bool = False) -> Pieces:
    """Pickle a value with the pickler in use; errors pass through as they are.

    Args:
        obj: the value.
        mark_references: whether to set the bit ``REFERENCES`` if there is a
            :class:`~ipkernel.serialize.reference.Reference` in the value.
    """
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if shortest <= raw.nbytes < BUFFER_THRESHOLD:
            return True
        buffers.append(raw)
        return False

    file = _Collector()
    pickler = new_pickler(file, keep_in_band)
    # Picklers in Python, such as dill's, take a buffer for the bytes that it contains; and of bytes of
    # length 0 or 1 there is one object each, which may be in the pickle already.
    shortest = 2 if isinstance(pickler, pickle._Pickler) else 0
    pickler.dump(obj)
    flags = DILL if _mode == "dill" else 0
    # Of a pickler that does not say so we do not know.
    if mark_references and getattr(pickler, "references", True):
        flags |= REFERENCES
    return _frame(file.pieces, buffers, flags)


def _frame(pickled: list[Any], buffers: list[memoryview], flags: int) -> Pieces:
    if not buffers:
        flag = bytes([PLAIN | flags])
        if len(pickled[0]) < BUFFER_THRESHOLD:
            return [flag + pickled[0], *pickled[1:]]
        return [flag, *pickled]
    length = sum(map(len, pickled))
    offset = _HEADER.size + 8 * (len(buffers) + 1) + length
    if buffers[0].nbytes >= LARGE_BUFFER:
        filling = (_PAGE // 2 - offset) % _PAGE
        pickled = [*pickled, bytes(filling)]  # what follows the end of a pickle is not read
        length += filling
        offset += filling
    header = _HEADER.pack(OUT_OF_BAND | flags, len(buffers))
    lengths = struct.pack(f"<{len(buffers) + 1}Q", length, *(b.nbytes for b in buffers))
    pieces: Pieces = [header + lengths, *pickled]
    for buffer in buffers:
        padding = -offset % ALIGNMENT
        if padding:
            pieces.append(bytes(padding))
        pieces.append(buffer)
        offset += padding + buffer.nbytes
    return pieces


def dumps_bytes(obj: Any) -> bytes:
    """Turn a value into a payload of one piece.

    Raises:
        SerializationError: the value cannot be pickled.
    """
    return join(dumps(obj))


def join(pieces: Pieces) -> bytes:
    """Join the pieces of a payload; a single ``bytes`` is returned as it is."""
    if len(pieces) == 1 and type(pieces[0]) is bytes:
        return pieces[0]
    return b"".join(pieces)


def size_of(pieces: Pieces) -> int:
    """Return the number of bytes of a payload in pieces."""
    return sum(piece.nbytes if type(piece) is memoryview else len(piece) for piece in pieces)


def loads(data: Data) -> Any:
    """Turn a payload into the value.

    Args:
        data: the payload, which becomes part of the value: buffers in it are not copied, unless it is
            read-only.

    Raises:
        SerializationError: the payload is damaged, or what it needs cannot be imported here.
    """
    try:
        flags = data[0]
        if flags == PLAIN:
            return _fast_loads(memoryview(data)[1:])
        return load_flagged(flags, memoryview(data))
    except SerializationError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise SerializationError(f"cannot load the value: {reason}", reason=reason) from exc


def load_flagged(flags: int, view: memoryview) -> Any:
    """Load a payload whose flags are given apart; errors pass through as they are."""
    load = _dill_loads if flags & DILL else _fast_loads
    kind = flags & ~DILL
    if kind == PLAIN:
        return load(view[1:])
    if kind != OUT_OF_BAND:
        raise SerializationError(f"cannot load the value: unknown format 0x{flags:02x}")
    if view.readonly:
        view = memoryview(bytearray(view))
    pickled, buffers = _split(view)
    return load(pickled, buffers=buffers)


def _split(view: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Find the pickle and the buffers, checking every length against what is there."""
    total = view.nbytes
    _, count = _HEADER.unpack_from(view)
    offset = _HEADER.size + 8 * (count + 1)
    if offset > total:
        raise SerializationError(
            f"cannot load the value: {count} buffers announced, {total} bytes received"
        )
    length, *lengths = struct.unpack_from(f"<{count + 1}Q", view, _HEADER.size)
    pickled = view[offset : offset + length]
    offset += length
    buffers = []
    for size in lengths:
        offset += -offset % ALIGNMENT
        buffers.append(view[offset : offset + size])
        offset += size
    if offset != total:
        raise SerializationError(
            f"cannot load the value: {offset} bytes announced, {total} received"
        )
    return pickled, buffers


def _dill_loads(data: memoryview, *, buffers: list[memoryview] | None = None) -> Any:
    try:
        import dill
    except ImportError as exc:
        raise SerializationError(
            "cannot load the value: it was pickled with dill, which is not installed here"
        ) from exc
    return dill.loads(data, buffers=buffers)


def blame(obj: Any, exc: BaseException, what: str) -> SerializationError:
    """Make the error for a value that could not be pickled, naming the object inside it that is to blame.

    Args:
        obj: the value.
        exc: what pickling it raised.
        what: what the value is to the user, such as ``argument 1``.
    """
    if isinstance(exc, SerializationError):
        return exc
    from ipkernel.serialize.explain import locate

    path, reason = locate(obj, exc, what)
    if isinstance(exc, ObjectError):  # a reference says by itself what is wrong
        reason = str(exc)
    return SerializationError(f"cannot send {path}: {reason}", path=path, reason=reason)


class PrePickled:
    """A value that is pickled once and can be sent many times; it arrives as the value itself.

    Args:
        obj: the value. Later changes to it are not sent.

    Raises:
        SerializationError: the value cannot be pickled.
    """

    __slots__ = ("payload", "refs")

    def __init__(self, obj: Any) -> None:
        #: The references in the value, which live as long as this.
        self.refs: tuple[ObjectRef, ...]
        #: Never written to, but as a bytearray it arrives as memory that the receiver may write to.
        self.payload: bytearray
        if type(obj) is PrePickled:
            self.payload, self.refs = obj.payload, obj.refs
            return
        with collecting() as refs:
            self.payload = bytearray().join(dumps(obj))
        self.refs = tuple(refs.values())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        note(self.refs)
        if int(protocol) >= _PROTOCOL:
            return loads, (pickle.PickleBuffer(self.payload),)
        return loads, (bytes(self.payload),)

    def load(self) -> Any:
        """Return a fresh copy of the value."""
        return loads(memoryview(self.payload).toreadonly())

    def __repr__(self) -> str:
        return f"<PrePickled: {len(self.payload)} bytes>"
