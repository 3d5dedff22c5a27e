"""Import statements that are run on engines as well."""

from __future__ import annotations

import builtins
import dis
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipkernel.client.directview import DirectView

_STORES = frozenset({"STORE_NAME", "STORE_FAST", "STORE_GLOBAL", "STORE_DEREF"})


def statement_at(frame: FrameType, name: str, fromlist: Sequence[str], level: int) -> str | None:
    """Return the source of the import statement that a frame is executing.

    The names behind ``as`` are not told to ``__import__``, so they are read from the frame's code.

    Args:
        frame: The frame; it stands at its import.
        name: The module.
        fromlist: The names behind ``import``, if it begins with ``from``.
        level: How many dots stand before the module.
    """
    instructions = list(dis.get_instructions(frame.f_code))
    here = next((i for i, ins in enumerate(instructions) if ins.offset == frame.f_lasti), None)
    if here is None or instructions[here].opname != "IMPORT_NAME":
        return None
    following = instructions[here + 1 :]
    module = "." * level + name
    if not fromlist:
        alias = _stored(following)
        plain = name.partition(".")[0]
        return f"import {module}" if alias in (None, plain) else f"import {module} as {alias}"
    if "*" in fromlist:
        return f"from {module} import *"
    parts = []
    for index, instruction in enumerate(following):
        if instruction.opname == "IMPORT_FROM":
            alias = _stored(following[index + 1 :])
            item = str(instruction.argval)
            parts.append(item if alias in (None, item) else f"{item} as {alias}")
            if len(parts) == len(fromlist):
                break
    return f"from {module} import {', '.join(parts)}"


def _stored(following: Sequence[dis.Instruction]) -> str | None:
    """The name to which the first thing is stored."""
    for instruction in following[:8]:
        if instruction.opname in _STORES:
            return str(instruction.argval)
        if instruction.opname.startswith("STORE_FAST_"):  # Python 3.13 joins instructions
            return str(instruction.argval[0])
    return None


class _Anything(ModuleType):
    """Stands for a module that is not imported here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(f"{self.__name__}.{name}")


class ImportRecorder:
    """A context in which import statements are also run on the engines of a view.

    Only statements in the body of the ``with`` itself count, not those in the modules that they
    import.

    Args:
        view: Whose engines.
        local: Import here, too; otherwise a placeholder takes the module's name.
        quiet: Do not print what is imported.

    Attributes:
        statements: What was run on the engines.
    """

    def __init__(self, view: DirectView, local: bool = True, quiet: bool = False) -> None:
        self._view = view
        self._local = local
        self._quiet = quiet
        self._frame: FrameType | None = None
        self._thread = 0
        self._before: Callable[..., Any] = builtins.__import__
        self.statements: list[str] = []

    def __enter__(self) -> ImportRecorder:
        self._frame = sys._getframe(1)
        self._thread = threading.get_ident()
        self._before = builtins.__import__
        builtins.__import__ = self._import
        return self

    def __exit__(self, *exc_info: object) -> None:
        builtins.__import__ = self._before
        self._frame = None

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        caller = sys._getframe(1)
        if caller is not self._frame or threading.get_ident() != self._thread:
            return self._before(name, globals, locals, fromlist or (), level)
        statement = statement_at(caller, name, fromlist or (), level)
        module: Any
        if self._local:
            module = self._before(name, globals, locals, fromlist or (), level)
        else:
            module = _Anything(name if fromlist else name.partition(".")[0])
        if statement is not None and statement not in self.statements:
            builtins.__import__ = self._before
            try:
                self._run(statement)
            finally:
                builtins.__import__ = self._import
        return module

    def _run(self, statement: str) -> None:
        if not self._quiet:
            print(f"{statement.replace('import', 'importing', 1)} on engine(s)")
        self._view.execute(statement, silent=True, block=True)
        self.statements.append(statement)
