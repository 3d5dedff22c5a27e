"""Functions sent once and named by hash, and calls to them: all of it in one place.

========== ===================================================================================
client     :class:`FunctionCache`, :func:`dump_call`, :func:`interactive`
engine     :func:`set_namespace`, :class:`Namespace`, :class:`FunctionStore`, :func:`load_call`
========== ===================================================================================
"""

from __future__ import annotations

from types import FunctionType
from typing import TypeVar

from ipkernel.serialize.cache import FunctionCache
from ipkernel.serialize.calls import CallPayload, dump_call, load_call
from ipkernel.serialize.namespace import (
    Namespace,
    current_namespace,
    make_function,
    set_function_state,
    set_namespace,
)
from ipkernel.serialize.store import (
    FunctionStore,
    LoadedFunction,
    UnknownFunction,
    load_function,
)

__all__ = [
    "CallPayload",
    "FunctionCache",
    "FunctionStore",
    "LoadedFunction",
    "Namespace",
    "UnknownFunction",
    "current_namespace",
    "dump_call",
    "interactive",
    "load_call",
    "load_function",
    "make_function",
    "set_function_state",
    "set_namespace",
]

_T = TypeVar("_T")


def interactive(f: _T) -> _T:
    """Decorate a function or class of a module to be treated as if it were defined in ``__main__``.

    It is then sent by value, and on an engine the function has the engine's namespace as its globals.

    Args:
        f: a function or class; anything else is returned as it is.

    Returns:
        ``f`` itself.
    """
    if isinstance(f, (FunctionType, type)):
        f.__module__ = "__main__"
    return f
