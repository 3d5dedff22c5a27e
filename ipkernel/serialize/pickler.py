"""The picklers behind :mod:`ipkernel.serialize.payload`.

Apart from :mod:`ipkernel.serialize.payload` because importing cloudpickle takes time that a process which
only sends numbers and strings need not spend.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle

from ipkernel.serialize import rebuild
from ipkernel.serialize.buffers import reduce_large, reduce_with_attributes, refresh
from ipkernel.serialize.classes import adapt_class_reduction
from ipkernel.serialize.namespace import adapt_reduction
from ipkernel.serialize.reference import Reference

if TYPE_CHECKING:  # cloudpickle and dill have no annotations
    from pickle import Pickler as CloudPickler
    from pickle import _Pickler as PythonPickler
else:
    CloudPickler = cloudpickle.Pickler

__all__ = ["ErrorPickler", "PlainPickler", "ValuePickler", "dill_pickler"]


class ValuePickler(CloudPickler):
    """cloudpickle's pickler; functions of ``__main__`` are rebuilt in the engine's namespace."""

    def __init__(
        self,
        file: Any,
        protocol: int | None = None,
        buffer_callback: Callable[[Any], Any] | None = None,
    ) -> None:
        if copyreg.dispatch_table != _registered:
            _flatten_table()
        refresh()
        super().__init__(file, protocol=protocol, buffer_callback=buffer_callback)
        #: Whether a Reference was met.
        self.references = False

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for everything but the builtin types."""
        if type(obj) is Reference:
            self.references = True
            return NotImplemented
        if isinstance(obj, FunctionType):
            return obj.__qualname__ if _found_by_name(obj) else self._reduce_function(obj)
        if not isinstance(obj, type):
            return reduce_large(obj)
        if _found_by_name(obj):
            return obj.__qualname__
        return adapt_class_reduction(obj, super().reducer_override(obj))

    def _reduce_function(self, func: FunctionType) -> Any:
        reduced = super().reducer_override(func)
        return reduced if reduced is NotImplemented else adapt_reduction(func, reduced)


#: What was registered with copyreg when the table was flattened.
_registered: dict[Any, Any] = {}


def _flatten_table() -> None:
    """Make one dictionary of all reducers by type: cloudpickle's chain of two is slow to miss."""
    _registered.clear()
    _registered.update(copyreg.dispatch_table)
    ValuePickler.dispatch_table = dict(CloudPickler.dispatch_table)


def _found_by_name(obj: Any) -> bool:
    """Whether a function or class is at the top level of a module: a quick answer to the common case.

    cloudpickle finds out about the others, and takes ten times as long.
    """
    try:
        name = obj.__module__
        found: bool = sys.modules[name].__dict__[obj.__qualname__] is obj
    except (AttributeError, KeyError, TypeError):
        return False
    return found and name != "__main__" and not cloudpickle.list_registry_pickle_by_value()


class ErrorPickler(ValuePickler):
    """Rebuilds exceptions from their state, since many cannot be made by calling their type."""

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for everything but the builtin types."""
        if isinstance(obj, BaseException) and rebuild.reduces_by_default(type(obj)):
            return rebuild.rebuild, (type(obj), *rebuild.state_of(obj))
        return super().reducer_override(obj)


class PlainPickler(pickle.Pickler):
    """Python's own pickler, which goes easy on memory and notes whether there is a Reference."""

    def __init__(
        self,
        file: Any,
        protocol: int | None = None,
        buffer_callback: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, protocol, buffer_callback=buffer_callback)
        self.references = False
        refresh()

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for everything but the builtin types."""
        if type(obj) is Reference:
            self.references = True
            return NotImplemented
        return reduce_large(obj)


def dill_pickler() -> Callable[..., Any]:
    """Return the class of a dill pickler.

    Raises:
        ImportError: dill is not installed.
    """
    try:
        import dill
    except ImportError as exc:
        raise ImportError("use_dill() needs the package dill: pip install dill") from exc

    base: type[PythonPickler] = dill.Pickler

    class DillPickler(base):  # type: ignore[misc,valid-type]
        def __init__(self, file: Any, *args: Any, **options: Any) -> None:
            super().__init__(file, *args, **options)
            self.references = False
            refresh()

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Reference:
                self.references = True
            # As ever with dill, subclasses of arrays keep their attributes.
            return reduce_with_attributes(obj)

    return DillPickler
