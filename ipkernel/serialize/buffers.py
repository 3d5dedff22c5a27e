"""Values with large memory, pickled so that the memory goes out of band, as it is.

Many types can do that themselves, such as numpy's plain arrays, pandas' and pyarrow's types. Here are
those that copy their memory into the pickle, or refuse:

================================ =====================================================================
numpy arrays that are no plain   strided ones, subclasses, structured dtypes, dates and times; memory-
contiguous arrays of numbers     mapped ones, which arrive as plain arrays; masked ones
memoryview, mmap                 arrive as memoryview of the received memory
array.array                      arrives as one
arrays of ctypes' numbers        arrive as such over the received memory
pyarrow arrays                   slices do not take along the memory of the whole; neither do they in
                                 pandas, nor are they copied there
================================ =====================================================================

Only memory that is not in one stretch is copied, once, by the sender.

None of the libraries is imported here: values of their types exist only where that has happened.
"""

from __future__ import annotations

import copyreg
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

__all__ = [
    "rebuild_array",
    "rebuild_ctypes",
    "rebuild_mapped",
    "rebuild_masked",
    "rebuild_typed",
    "rebuild_view",
    "reduce_large",
    "reduce_with_attributes",
    "refresh",
    "set_attributes",
]

Reducer = Callable[[Any], Any]
#: Arrays below this many bytes are left to their own way of pickling.
SMALL = 4096
#: Items of a memoryview that are copied at once.
_STEP = 8192
#: A slice of an arrow array travels alone if it has less than one part in so many of the memory.
_SLICE = 2
#: Numbers and characters, which numpy puts out of band itself, and what it does not.
_PLAIN_KINDS = frozenset("biufcSU")
_OTHER_KINDS = frozenset("mMV")
#: What a memoryview can be cast to, and which of it stands for integers.
_FORMATS = frozenset("bBhHiIlLqQnNfdcP?")
_NATIVE = "<" if sys.byteorder == "little" else ">"
_INTEGERS = ("bhilqn", "BHILQNP")
#: ctypes' numbers and characters, which are no addresses.
_CTYPES = frozenset("cbBhHiIlLqQfdg?u")


# ---------------------------------------------------------------- which types


#: What to do for exactly these types, and for these and what derives from them.
_exact: dict[type, Reducer] = {}
_families: tuple[tuple[type, Reducer], ...] = ()
_bases: tuple[type, ...] = ()
#: Modules that were not imported yet when we last looked, with what to do when they are.
_absent: dict[str, Callable[[Any], None]] = {}


def refresh() -> None:
    """Take note of the libraries that have been imported meanwhile."""
    for name in tuple(_absent):
        if name in sys.modules:
            try:
                _absent[name](sys.modules[name])
            except (AttributeError, KeyError):  # another thread is just importing it, or was faster
                continue
            _absent.pop(name, None)


def _register(kind: type, reducer: Reducer, *, family: bool = False) -> None:
    global _bases, _families
    if family:
        _families += ((kind, reducer),)
        _bases += (kind,)
    else:
        _exact[kind] = reducer


def reduce_large(obj: Any) -> Any:
    """Reduce an object with its memory out of band, if it is of a type that needs help with that.

    Args:
        obj: any object.

    Returns:
        What a pickler's ``reducer_override`` returns; NotImplemented for all that can do it itself.
    """
    reducer = _exact.get(type(obj))
    if reducer is not None:
        return NotImplemented if type(obj) in copyreg.dispatch_table else reducer(obj)
    if isinstance(obj, _bases):
        for base, reducer in _families:
            if isinstance(obj, base):
                return reducer(obj)
    return NotImplemented


def reduce_with_attributes(obj: Any) -> Any:
    """Do as :func:`reduce_large`; what subclasses of numpy's arrays keep in attributes goes along."""
    reduced = reduce_large(obj)
    if reduced is NotImplemented or reduced[0] is not rebuild_array:
        return reduced
    attributes = {k: v for k, v in getattr(obj, "__dict__", {}).items() if k != "_mmap"}
    return (*reduced, attributes, None, None, set_attributes) if attributes else reduced


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Give an object its attributes; called by pickle."""
    obj.__dict__.update(attributes)


# ---------------------------------------------------------------- numpy


def _reduce_plain_array(array: Any) -> Any:
    if array.nbytes >= SMALL:
        flags = array.flags
        if array.dtype.kind not in _PLAIN_KINDS or not (flags.c_contiguous or flags.f_contiguous):
            return _reduce_array(array, type(array))
    return array.__reduce_ex__(5)


def _reduce_memmap(array: Any) -> Any:
    # The file is known here only, and whether that may be written to means nothing elsewhere.
    reduced = _reduce_array(array, sys.modules["numpy"].ndarray)
    return (rebuild_mapped, reduced[1]) if reduced[0] is rebuild_array else reduced


def _reduce_subclass(array: Any) -> Any:
    cls = type(array)
    base = sys.modules["numpy"].ndarray
    names = ("__reduce__", "__reduce_ex__", "__setstate__")
    if cls in copyreg.dispatch_table or any(
        getattr(cls, name) is not getattr(base, name) for name in names
    ):
        return NotImplemented
    return _reduce_array(array, cls)


def _reduce_array(array: Any, cls: type) -> Any:
    """Reduce an array to one that is of type ``cls`` where it arrives."""
    base = sys.modules["numpy"].ndarray
    plain = base.view(array, base)  # the methods of subclasses do other things
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize or dtype.kind not in _PLAIN_KINDS | _OTHER_KINDS:
        return plain.__reduce_ex__(5) if cls is base is not type(array) else NotImplemented
    strides = None
    flat = plain
    if not plain.flags.c_contiguous:
        order = sorted(range(plain.ndim), key=lambda axis: -plain.strides[axis])
        flat = plain.transpose(order)
        if flat.flags.c_contiguous:
            strides = plain.strides
        else:
            flat = plain.copy("C")
    buffer = pickle.PickleBuffer(flat.reshape(-1).view("u1"))
    return rebuild_array, (cls, array.shape, dtype, strides, buffer)


def rebuild_array(
    cls: type, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, buffer: Any
) -> Any:
    """Make an array over received memory; called by pickle.

    Args:
        cls: its type: numpy's array or a subclass.
        shape: its shape.
        dtype: its dtype.
        strides: as in numpy; None if the last index runs fastest.
        buffer: its memory.

    Raises:
        ValueError: these do not fit together.
    """
    import numpy

    if dtype.hasobject:  # numpy would take the bytes for pointers
        raise ValueError(f"an array of {dtype} cannot be made of bytes")
    return numpy.ndarray.__new__(cls, shape, dtype, buffer, 0, strides)


def rebuild_mapped(
    cls: type, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, buffer: Any
) -> Any:
    """Make an array that can be written to, even if its memory was read-only at the sender.

    Called by pickle; the arguments are those of :func:`rebuild_array`.
    """
    return rebuild_array(cls, shape, dtype, strides, _writable(buffer))


def _writable(buffer: Any) -> Any:
    """Return the same memory as writable if whoever received it may write to it, else a copy."""
    import numpy

    view = memoryview(buffer)
    if not view.readonly:
        return view
    # pickle hides behind a read-only view that the memory, which is ours, is not.
    whole = memoryview(view.obj)
    if whole.readonly or not whole.c_contiguous or not view.nbytes:
        return bytearray(view)
    part, memory = numpy.frombuffer(view, "u1"), numpy.frombuffer(whole, "u1")
    start = part.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
    return memory[start : start + part.nbytes]


def _reduce_masked(array: Any) -> Any:
    if array.dtype.hasobject:
        return NotImplemented
    nomask = sys.modules["numpy.ma"].nomask
    mask = None if array.mask is nomask else array.mask
    fill = None if array._fill_value is None else array.fill_value
    return rebuild_masked, (array.data, mask, fill, array.hardmask)


def rebuild_masked(data: Any, mask: Any, fill_value: Any, hard: bool) -> Any:
    """Make a masked array of its parts; called by pickle."""
    from numpy import ma

    mask = ma.nomask if mask is None else mask
    return ma.MaskedArray(data, mask=mask, fill_value=fill_value, hard_mask=hard)


# ---------------------------------------------------------------- the standard library


def _reduce_mmap(memory: Any) -> Any:
    return rebuild_view, (pickle.PickleBuffer(memory), "B", 1, (len(memory),))


def _reduce_view(view: memoryview) -> Any:
    code = _code(view.format, view.itemsize)
    data: Any = view
    if not view.c_contiguous:
        data = bytes(view) if view.readonly else _gathered(view, code)
    return rebuild_view, (pickle.PickleBuffer(data), code, view.itemsize, view.shape)


def _gathered(view: memoryview, code: str) -> bytearray:
    """Copy a view with gaps, piece by piece: bytearray(view) makes two copies of the whole."""
    if view.format != code or view.ndim != 1:
        return bytearray(view)
    data = bytearray(view.nbytes)
    items: Any = memoryview(data).cast(code)  # type: ignore[call-overload]
    for start in range(0, len(view), _STEP):
        items[start : start + _STEP] = view[start : start + _STEP]
    return data


def _code(code: str, size: int) -> str:
    """Return this platform's format character for items like those of ``code``, of ``size`` bytes."""
    plain = code[1:] if code[:1] in ("@", "=", _NATIVE) else code
    if plain in _FORMATS:
        alike = next((chars for chars in _INTEGERS if plain in chars), "")
        for char in plain + alike:
            if struct.calcsize(char) == size:
                return char
    raise TypeError(f"a memoryview with format {code!r} cannot be sent; cast it to bytes first")


def rebuild_view(buffer: Any, code: str, itemsize: int, shape: tuple[int, ...]) -> memoryview[Any]:
    """Make a memoryview over received memory; called by pickle.

    Args:
        buffer: the memory.
        code: the format character of an item.
        itemsize: bytes of an item where it is from; ``long`` is not the same everywhere.
        shape: the shape; a view without items has one dimension here.
    """
    view: Any = memoryview(buffer)
    code = _code(code, itemsize)
    if not view.nbytes or len(shape) == 1:
        return view.cast(code)  # type: ignore[no-any-return]
    return view.cast(code, shape=list(shape))  # type: ignore[no-any-return]


def _reduce_typed(items: Any) -> Any:
    # What the standard library calls the machine's format is the same for all arrays of a type code.
    machine = type(items)(items.typecode).__reduce_ex__(5)[1][2]
    return rebuild_typed, (items.typecode, machine, pickle.PickleBuffer(items))


def rebuild_typed(code: str, machine: int, buffer: Any) -> Any:
    """Make an ``array.array`` of received memory; called by pickle.

    Args:
        code: its type code.
        machine: the format of its items where it is from, as the standard library numbers them.
        buffer: its memory.
    """
    import array

    items: Any = array.array(code)
    if items.__reduce_ex__(5)[1][2] == machine:
        items.frombytes(buffer)
        return items
    return array._array_reconstructor(array.array, code, machine, bytes(buffer))  # type: ignore[attr-defined]


def _reduce_ctypes(items: Any) -> Any:
    """Reduce an array of numbers; its class is made as needed and has no name to be found by."""
    cls, lengths = type(items), []
    array = sys.modules["ctypes"].Array
    while issubclass(cls, array):
        lengths.append(cls._length_)
        cls = cls._type_
    if getattr(cls, "_type_", None) not in _CTYPES or _array_type(cls, lengths) is not type(items):
        return NotImplemented
    return rebuild_ctypes, (cls, lengths, pickle.PickleBuffer(items))


def _array_type(cls: Any, lengths: list[int]) -> Any:
    for length in reversed(lengths):
        cls *= length
    return cls


def rebuild_ctypes(cls: Any, lengths: list[int], buffer: Any) -> Any:
    """Make an array of ctypes' over received memory; called by pickle.

    Args:
        cls: the type of its numbers.
        lengths: its length, and those of the arrays in it.
        buffer: its memory.
    """
    return _array_type(cls, lengths).from_buffer(buffer)


# ---------------------------------------------------------------- pyarrow


def _reduce_arrow(items: Any) -> Any:
    """Reduce a slice of an array to itself; by default all the memory of the whole goes with it."""
    arrow = sys.modules["pyarrow"]
    try:
        if items.get_total_buffer_size() <= _SLICE * items.nbytes + SMALL:
            return NotImplemented
        return arrow.concat_arrays([items]).__reduce_ex__(5)
    except arrow.ArrowException:  # not every type can do everything in every release
        return NotImplemented


def _reduce_arrow_column(column: Any) -> Any:
    """Reduce pandas' arrays on top of pyarrow's, which join their chunks, that is copy, first."""
    state = dict(vars(column))
    chunks = getattr(state.get("_pa_array"), "chunks", None)
    if not chunks:
        return NotImplemented
    state["_pa_array"] = chunks
    if "_cache" in state:
        state["_cache"] = {}
    return copyreg.__newobj__, (type(column),), state  # type: ignore[attr-defined]


# ---------------------------------------------------------------- what is there


def _register_numpy(numpy: Any) -> None:
    _register(numpy.ndarray, _reduce_plain_array)
    _register(numpy.memmap, _reduce_memmap)
    _register(numpy.ndarray, _reduce_subclass, family=True)
    for kind in vars(numpy.dtypes).values():
        # The common ones; this is quicker than the way to find it out. Strings of any length have their own.
        if isinstance(kind, type) and "__reduce__" not in vars(kind):
            _register(kind, numpy.dtype.__reduce__)


def _register_pandas(arrays: Any) -> None:
    _register(arrays.ArrowExtensionArray, _reduce_arrow_column)
    _register(arrays.ArrowStringArray, _reduce_arrow_column)


_register(memoryview, _reduce_view)
_absent.update(
    {
        "ctypes": lambda ctypes: _register(ctypes.Array, _reduce_ctypes, family=True),
        "array": lambda array: _register(array.array, _reduce_typed),
        "mmap": lambda mmap: _register(mmap.mmap, _reduce_mmap),
        "numpy": _register_numpy,
        "numpy.ma": lambda masked: _register(masked.MaskedArray, _reduce_masked),
        "pandas.arrays": _register_pandas,
        "pyarrow": lambda arrow: _register(arrow.Array, _reduce_arrow, family=True),
    }
)
