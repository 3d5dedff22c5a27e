"""A name or expression that is evaluated on the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Reference", "resolve"]


class Reference:
    """Stands for a value that lives on the engine.

    As an argument of a call, or one level inside a list, tuple or dict argument, it is replaced on the
    engine by the value of the expression in the engine's namespace; as the function, it is called.

    Args:
        name: a name such as ``"a"`` or an expression such as ``"a.b[0]"``.

    Raises:
        TypeError: ``name`` is not a str.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a Reference needs an expression as str, not {type(name).__name__}")
        self.name = name

    def evaluate(self, namespace: dict[str, Any]) -> Any:
        """Return the value of the expression in ``namespace``; raises what evaluating it raises."""
        # A plain name is the common case, and eval() costs 20 times as much. Builtins need eval().
        try:
            return namespace[self.name]
        except KeyError:
            pass  # and out of here, so that it is not told as the context of what follows
        return eval(self.name, namespace)

    def __repr__(self) -> str:
        return f"Reference({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash((Reference, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.name,)


def _items(values: Iterable[Any], namespace: dict[str, Any]) -> list[Any]:
    return [v.evaluate(namespace) if isinstance(v, Reference) else v for v in values]


def _resolve_one(value: Any, namespace: dict[str, Any]) -> Any:
    if isinstance(value, Reference):
        return value.evaluate(namespace)
    if type(value) is list:
        return _items(value, namespace)
    if type(value) is tuple:
        return tuple(_items(value, namespace))
    if type(value) is dict:
        return dict(zip(value, _items(value.values(), namespace), strict=True))
    return value


def resolve(
    args: Iterable[Any], kwargs: Mapping[str, Any], namespace: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the references in the arguments of a call.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        namespace: where the expressions are evaluated.

    Returns:
        The arguments with each reference, also one level inside lists, tuples and dicts, replaced.

    Raises:
        Exception: whatever evaluating an expression raises, such as NameError.
    """
    return (
        tuple(_resolve_one(value, namespace) for value in args),
        {key: _resolve_one(value, namespace) for key, value in kwargs.items()},
    )
