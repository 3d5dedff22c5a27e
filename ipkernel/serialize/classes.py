"""Classes of ``__main__``, which travel by value, coming back to where they are from.

cloudpickle recognizes a class that comes back, so that instances are of the class that the user wrote. But
it also gives that class the attributes it had when it left, and methods with globals of their own. Here a
class is left alone in the process that it is from, and updated in all others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["adapt_class_reduction", "set_class_state"]

#: Classes that were pickled by value here without having been received before.
_originals: weakref.WeakSet[type] = weakref.WeakSet()
_received: weakref.WeakSet[type] = weakref.WeakSet()


def adapt_class_reduction(cls: type, reduced: Any) -> Any:
    """Make a by-value reduction of cloudpickle set the state of the class through this module.

    Args:
        cls: the class.
        reduced: what cloudpickle's pickler wants to write for it.

    Returns:
        The same with our state setter, or ``reduced`` if it has not the form known to us.
    """
    if type(reduced) is not tuple or len(reduced) != 6 or reduced[5] is None:
        return reduced
    if cls not in _received:
        _originals.add(cls)
    return (*reduced[:2], (reduced[5], reduced[2]), *reduced[3:5], set_class_state)


def set_class_state(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> type:
    """Fill in a class that was received, unless it is from here; called by pickle."""
    if cls not in _originals:
        _received.add(cls)
        setter, attributes = state
        setter(cls, attributes)
    return cls
