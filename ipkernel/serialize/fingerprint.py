"""Telling cheaply whether a function would still be pickled to the same bytes.

A function that goes by value takes along what it refers to. :func:`fingerprint` lists, once, what has to be
the same object as before for the pickle to stay the same; :meth:`Fingerprint.holds` goes through that list.
What can change without becoming another object (a list, an array, an instance) cannot be watched this way:
then the fingerprint is not *stable*.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["Fingerprint", "fingerprint", "global_names", "is_importable"]

_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"})
_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis), type(NotImplemented)}
)
_IMMUTABLE_NAMES = frozenset(
    {
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("re", "Pattern"),
        ("uuid", "UUID"),
    }
)
_DESCRIPTORS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_MISSING = object()
_CODE_TYPE = types.CodeType


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that a code object, or code nested in it, refers to."""
    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPS:
            names[instruction.argval] = None
    for const in code.co_consts:
        if isinstance(const, _CODE_TYPE):
            names.update(dict.fromkeys(global_names(const)))
    return tuple(names)


def is_importable(obj: Any) -> bool:
    """Whether a function or class is found in a module under its name, so that the name will do."""
    module_name = getattr(obj, "__module__", None)
    qualname = getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(qualname, str):
        return False
    module = sys.modules.get(module_name)
    if module is None or module_name in ("__main__", "__mp_main__") or _goes_by_value(module_name):
        return False
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, _MISSING)
    return found is obj


def _goes_by_value(module_name: str) -> bool:
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:  # then nobody can have registered anything with it
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(name + ".") for name in registered)


class Fingerprint:
    """What has to be unchanged for the pickle of a function to be the same.

    Attributes:
        stable: whether it says all; if not, only pickling again can tell.
    """

    __slots__ = ("_attributes", "_cells", "_functions", "_names", "stable")

    def __init__(self) -> None:
        self.stable = True
        self._functions: list[tuple[types.FunctionType, types.CodeType, Any, Any]] = []
        self._names: list[tuple[Any, str, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._attributes: list[tuple[type, int]] = []

    def holds(self, func: types.FunctionType) -> bool:
        """Whether nothing that is watched has changed.

        Args:
            func: the function it was made for (it keeps no reference to it).
        """
        for function, code, defaults, kwdefaults in self._functions:
            if function is None:
                function = func
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not kwdefaults
            ):
                return False
        for mapping, name, value in self._names:
            if mapping.get(name, _MISSING) is not value:
                return False
        for cls, count in self._attributes:
            if len(cls.__dict__) != count:
                return False
        try:
            for cell, value in self._cells:
                if cell.cell_contents is not value:
                    return False
        except ValueError:  # emptied since
            return False
        return True


class _Walk:
    """Collects a fingerprint; looks at every function and class once."""

    def __init__(self, root: types.FunctionType) -> None:
        self.result = Fingerprint()
        self.root = root
        self.seen: set[int] = set()

    def function(self, func: types.FunctionType) -> None:
        result = self.result
        kept: Any = None if func is self.root else func
        result._functions.append((kept, func.__code__, func.__defaults__, func.__kwdefaults__))
        for default in func.__defaults__ or ():
            self.value(default)
        for name, default in (func.__kwdefaults__ or {}).items():
            result._names.append((func.__kwdefaults__, name, default))
            self.value(default)
        for name, value in func.__dict__.items():
            result._names.append((func.__dict__, name, value))
            self.value(value)
        for cell in func.__closure__ or ():
            self.cell(cell)
        self.globals(func)

    def cell(self, cell: types.CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            self.result.stable = False
            return
        self.result._cells.append((cell, value))
        self.value(value)

    def globals(self, func: types.FunctionType) -> None:
        namespace = func.__globals__
        for name in global_names(func.__code__):
            value = namespace.get(name, _MISSING)
            if value is _MISSING and hasattr(builtins, name):
                # Someone may define it later; that costs one look-up to notice.
                self.result._names.append((namespace, name, _MISSING))
                continue
            self.result._names.append((namespace, name, value))
            if value is not _MISSING:
                self.value(value)

    def value(self, value: Any) -> None:
        kind = type(value)
        if kind in _ATOMS or kind is types.ModuleType or kind is types.BuiltinFunctionType:
            return
        if kind is tuple or kind is frozenset:
            for item in value:
                self.value(item)
        elif kind is types.FunctionType or isinstance(value, type):
            self.definition(value)
        elif not self.immutable(value):
            self.result.stable = False

    def immutable(self, value: Any) -> bool:
        kind = type(value)
        return (kind.__module__, kind.__qualname__) in _IMMUTABLE_NAMES or (
            isinstance(value, enum.Enum) and is_importable(kind)
        )

    def definition(self, value: Any) -> None:
        if id(value) in self.seen:
            return
        self.seen.add(id(value))
        if value.__module__ == "builtins" or is_importable(value):
            return
        if isinstance(value, types.FunctionType):
            self.function(value)
        else:
            self.klass(value)

    def klass(self, cls: type) -> None:
        self.result._attributes.append((cls, len(cls.__dict__)))
        for base in cls.__bases__:
            self.value(base)
        members = _enum_names(cls)
        if "__dataclass_params__" in cls.__dict__:
            members |= {"__repr__"}  # generated; holds a set of what it is busy with
        for name, value in list(cls.__dict__.items()):
            self.result._names.append((cls.__dict__, name, value))
            if name not in members:
                for part in _attribute_parts(name, value):
                    self.value(part)


def _enum_names(cls: type) -> frozenset[str]:
    if not issubclass(cls, enum.Enum):
        return frozenset()
    private = {"_member_names_", "_member_map_", "_value2member_map_", "_unhashable_values_"}
    private |= {"_hashable_values_", "_unhashable_values_map_"}
    return frozenset(private | set(cls.__members__))


def _attribute_parts(name: str, value: Any) -> Iterator[Any]:
    """What of a class attribute has to be watched further."""
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset, value.fdel)
    elif isinstance(value, types.FunctionType) or not (
        name.startswith("__") or name == "_abc_impl" or isinstance(value, _DESCRIPTORS)
    ):
        yield value


def fingerprint(func: types.FunctionType) -> Fingerprint:
    """Make the fingerprint of a function that goes by value."""
    walk = _Walk(func)
    walk.seen.add(id(func))
    walk.function(func)
    return walk.result
