"""The picklers behind :mod:`ipkernel.serialize.payload`.

Apart from :mod:`ipkernel.serialize.payload` because importing cloudpickle takes time that a process which
only sends numbers and strings need not spend.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle

from ipkernel.serialize.reference import Reference

__all__ = ["PlainPickler", "ValuePickler", "dill_pickler"]


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler; functions of ``__main__`` are rebuilt in the engine's namespace."""

    def __init__(
        self, file: Any, protocol: int | None = None, buffer_callback: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(file, protocol=protocol, buffer_callback=buffer_callback)
        #: Whether a Reference was met.
        self.references = False

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for everything but the builtin types."""
        if type(obj) is Reference:
            self.references = True
            return NotImplemented
        reduced = super().reducer_override(obj)
        if isinstance(obj, FunctionType) and reduced is not NotImplemented:
            from ipkernel.serialize.namespace import adapt_reduction

            return adapt_reduction(obj, reduced)
        return reduced


class PlainPickler(pickle.Pickler):
    """Python's own pickler, which only notes whether there is a Reference."""

    references = False

    def reducer_override(self, obj: Any) -> Any:
        """Called by the C pickler for everything but the builtin types."""
        if type(obj) is Reference:
            self.references = True
        return NotImplemented


def dill_pickler() -> Callable[..., Any]:
    """Return the class of a dill pickler.

    Raises:
        ImportError: dill is not installed.
    """
    try:
        import dill
    except ImportError as exc:
        raise ImportError("use_dill() needs the package dill: pip install dill") from exc

    class DillPickler(dill.Pickler):  # type: ignore[misc]
        references = False

        def save(self, obj: Any, save_persistent_id: bool = True) -> None:
            if type(obj) is Reference:
                self.references = True
            super().save(obj, save_persistent_id)

    return DillPickler
