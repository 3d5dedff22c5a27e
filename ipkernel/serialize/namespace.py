"""Functions of ``__main__`` in the namespace of an engine.

A function that a user wrote in a script, notebook or prompt is pickled by value, with the globals that it
uses. On an engine it must see the engine's own namespace as its globals: what was pushed there, what other
code stored there. So it is rebuilt there with that namespace, and the globals that came along are put into
it *weakly*: a name that the user put on the engine wins over one that came along, and one that came along
replaces an earlier one that came along.

Where no namespace is set, as on a client, functions are rebuilt as cloudpickle does it.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Iterable, Mapping
from typing import Any

from ipkernel.serialize import sources

__all__ = [
    "Namespace",
    "adapt_reduction",
    "collect_shipped",
    "current_namespace",
    "make_function",
    "set_function_state",
    "set_namespace",
]

_MISSING = object()


class Namespace:
    """The namespace of an engine, which knows what in it came along with functions.

    Args:
        ns: the dictionary to use; it stays the user's.

    Attributes:
        ns: that dictionary.
        weak: what came along and was put there: name to value.
    """

    __slots__ = ("ns", "weak")

    def __init__(self, ns: dict[str, Any]) -> None:
        self.ns = ns
        self.weak: dict[str, Any] = {}
        ns.setdefault("__builtins__", builtins)

    def inject(self, shipped: Mapping[str, Any]) -> None:
        """Put globals that came along with a function into the namespace, where no user's name is."""
        ns, weak = self.ns, self.weak
        for name, value in shipped.items():
            present = ns.get(name, _MISSING)
            if present is _MISSING or (name in weak and present is weak[name]):
                ns[name] = weak[name] = value

    def update(self, values: Mapping[str, Any]) -> None:
        """Put values into the namespace as the user's own."""
        self.ns.update(values)
        self.own(values)

    def own(self, names: Iterable[str]) -> None:
        """Note that these names are the user's now, even if the values are the ones that came along."""
        for name in names:
            self.weak.pop(name, None)

    def is_weak(self, name: str) -> bool:
        """Whether the value of a name came along with a function and was not replaced since."""
        return name in self.weak and self.ns.get(name, _MISSING) is self.weak[name]

    def user_keys(self) -> list[str]:
        """Return the names that were not put there by functions that came along."""
        return [name for name in self.ns if not self.is_weak(name)]


_namespace: Namespace | None = None
#: While a function is being loaded whose globals are to be kept: where they go.
_shipped: dict[str, Any] | None = None


def set_namespace(ns: dict[str, Any] | None) -> Namespace | None:
    """Choose the namespace for functions of ``__main__`` that are loaded from now on.

    Args:
        ns: the engine's user namespace; None to rebuild functions as cloudpickle does.

    Returns:
        The new current namespace, or None.
    """
    global _namespace
    _namespace = None if ns is None else Namespace(ns)
    return _namespace


def current_namespace() -> Namespace | None:
    """Return the namespace in use, None if none is set."""
    return _namespace


class collect_shipped:  # noqa: N801 - reads as a verb where it is used
    """Context in which the globals of loaded functions are collected, not put into the namespace.

    ``with collect_shipped() as shipped:`` gives the dictionary that they are collected in.
    """

    def __enter__(self) -> dict[str, Any]:
        global _shipped
        self._outer = _shipped
        _shipped = {}
        return _shipped

    def __exit__(self, *exc_info: object) -> None:
        global _shipped
        _shipped = self._outer


def adapt_reduction(func: types.FunctionType, reduced: Any) -> Any:
    """Make a by-value reduction of cloudpickle rebuild the function through this module.

    Args:
        func: the function.
        reduced: what cloudpickle's pickler wants to write for it.

    Returns:
        The same with our constructor and state setter, if the function belongs to ``__main__`` and the
        reduction has the form known to us; else ``reduced``.
    """
    if func.__module__ != "__main__" or type(reduced) is not tuple or len(reduced) != 6:
        return reduced
    if getattr(reduced[0], "__name__", "") != "_make_function":
        return reduced
    code, scope, _, _, closure = reduced[1]
    arguments = (code, scope, closure, sources.source_of(code))
    return make_function, arguments, reduced[2], None, None, set_function_state


def make_function(
    code: types.CodeType,
    scope: dict[str, Any],
    closure: tuple[types.CellType, ...] | None,
    source: sources.Source | None,
) -> types.FunctionType:
    """Rebuild a function of ``__main__``; called by pickle.

    Args:
        code: its code.
        scope: globals that it shares with the functions it came with, where no namespace is set.
        closure: its cells, still empty.
        source: its source text, if known.
    """
    if source is not None:
        sources.register(source)
    space = _namespace
    if space is not None:
        scope = space.ns
    scope.setdefault("__builtins__", builtins)
    return types.FunctionType(code, scope, None, None, closure)


def set_function_state(
    func: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Fill in a function that :func:`make_function` made; called by pickle."""
    attributes, slots = state
    func.__dict__.update(attributes)
    shipped = slots.pop("__globals__")
    # Having been unpickled, these are imported, which is all they are for.
    slots.pop("_cloudpickle_submodules", None)
    for cell, filled in zip(func.__closure__ or (), slots.pop("__closure__") or (), strict=False):
        try:
            cell.cell_contents = filled.cell_contents
        except ValueError:  # an empty cell stays empty
            continue
    for name, value in slots.items():
        setattr(func, name, value)
    if _namespace is None:
        func.__globals__.update(shipped)
    elif _shipped is not None:
        _shipped.update(shipped)
    else:
        _namespace.inject(shipped)
