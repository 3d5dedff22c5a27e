"""What happens to connections to the store when user code forks.

The child has all memory of its parent, what is mapped of the store's included; and the store must not
use that again before the child, too, has ended. So the parent opens one more connection, which it
leaves to the child, and the leases that were got on it last until the child has ended and has been closed by the
kernel. All other connections are the parent's alone: two processes that ask on one would
get each other's answers.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forked", "register"]


class Forked(Protocol):
    """Something that has connections."""

    def before_fork(self) -> None:
        """A child is about to be made, by this thread."""

    def after_fork_in_parent(self) -> None:
        """This is the parent."""

    def after_fork_in_child(self) -> object:
        """This is the child; what is returned is kept until it ends."""


#: A dictionary, because those can be looked through while another thread changes them.
_known: dict[int, weakref.ref[Forked]] = {}
_lifelines: list[object] = []


def register(forked: Forked) -> None:
    """Tell ``forked`` of forks as long as it exists."""
    key = id(forked)
    _known[key] = weakref.ref(forked, lambda _: _known.pop(key, None))


def _all() -> list[Forked]:
    found = (reference() for reference in list(_known.values()))
    return [forked for forked in found if forked is not None]


def _before() -> None:
    for forked in _all():
        forked.before_fork()


def _in_parent() -> None:
    for forked in _all():
        forked.after_fork_in_parent()


def _in_child() -> None:
    _lifelines.extend(forked.after_fork_in_child() for forked in _all())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
