"""The user namespace of an engine: a fresh ``__main__`` module."""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from ipkernel.serialize.namespace import set_namespace

__all__ = ["UserNamespace"]

#: IPython's history of inputs and outputs: ``_``, ``__``, ``_i``, ``_i3``, ``_3``, ...
_HISTORY = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_exit_code")


class UserNamespace:
    """What user code sees as its globals.

    Attributes:
        module: The module; ``sys.modules["__main__"]`` once :meth:`install` was called.
        names: Its dictionary.
    """

    def __init__(self) -> None:
        self.module = ModuleType("__main__", "The namespace of an engine.")
        self.names: dict[str, Any] = self.module.__dict__
        self.names["__builtins__"] = builtins
        self._hidden: dict[str, Any] = dict(self.names)
        self._weak = set_namespace(self.names)

    def install(self) -> None:
        """Make it this process's ``__main__``."""
        sys.modules["__main__"] = self.module

    def hide(self, names: Iterable[str]) -> None:
        """Keep names that the machinery has put there out of :meth:`keys` and :meth:`clear`."""
        for name in names:
            if name in self.names:
                self._hidden[name] = self.names[name]

    def keys(self) -> list[str]:
        """Return the names that user code has put there, sorted."""
        names = self.names if self._weak is None else self._weak.user_keys()
        return sorted(name for name in names if isinstance(name, str) and not self._is_hidden(name))

    def _is_hidden(self, name: str) -> bool:
        if _HISTORY.fullmatch(name):
            return True
        return name in self._hidden and self.names.get(name) is self._hidden[name]

    def clear(self) -> None:
        """Remove everything that user code has put there and bring back what was seeded."""
        self.names.clear()
        self.names.update(self._hidden)
        if self._weak is not None:
            self._weak.weak.clear()

    def push(self, values: Mapping[str, Any]) -> None:
        """Store values; a dotted name sets an attribute of what is there.

        Args:
            values: By name.

        Raises:
            ValueError: A name is not one that Python accepts.
            Exception: Whatever assigning to a dotted name raises.
        """
        plain = {}
        for name, value in values.items():
            if not isinstance(name, str) or not all(p.isidentifier() for p in name.split(".")):
                raise ValueError(f"cannot push {name!r}: it is not a name")
            if "." in name:
                owner, _, attribute = name.rpartition(".")
                setattr(self.evaluate(owner), attribute, value)
            else:
                plain[name] = value
        if self._weak is not None:
            self._weak.update(plain)
        else:
            self.names.update(plain)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a name or expression; raises what evaluating it raises."""
        try:
            return self.names[expression]
        except KeyError:
            pass  # and out of here, so that it is not told as the context of what follows
        return eval(expression, self.names)

    def pull(self, names: Iterable[str]) -> list[Any]:
        """Return the values of names or expressions, in order."""
        return [self.evaluate(name) for name in names]
