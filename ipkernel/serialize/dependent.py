"""Functions that not every engine can run: :func:`depend`, :func:`require`, :class:`dependent`.

Whether an engine can is found out there, when the function is called. One that cannot rejects the
call by an exception, and a load-balanced call then goes to another engine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from ipkernel.errors import ImpossibleDependency, RemoteError, TaskRejectError, UnmetDependency
from ipkernel.serialize.namespace import current_namespace

__all__ = ["depend", "dependent", "rejects", "require"]


class dependent:  # noqa: N801 - a name that users of this field know
    """A function that runs only where another one agrees.

    Args:
        f: The function.
        df: Is called first, on the engine; if it returns False the engine rejects the call.
        dargs: Arguments of ``df``.
        dkwargs: Its keyword arguments.

    Raises:
        TypeError: One of the functions cannot be called.
    """

    def __init__(
        self, f: Callable[..., Any], df: Callable[..., Any], /, *dargs: Any, **dkwargs: Any
    ) -> None:
        for function in (f, df):
            if not callable(function):
                raise TypeError(f"a dependent needs functions, not {function!r}")
        self.f = f
        self.df = df
        self.dargs = dargs
        self.dkwargs = dkwargs
        self.__doc__ = getattr(f, "__doc__", None)

    @property
    def __name__(self) -> str:
        return _name(self.f)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, if that may be done here.

        Raises:
            UnmetDependency: It may not.
        """
        if self.df(*self.dargs, **self.dkwargs) is False:
            raise UnmetDependency(f"{_name(self.df)} said no")
        return self.f(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<dependent {self.__name__} on {_name(self.df)}>"


def depend(
    df: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Callable[[Callable[..., Any]], dependent]:
    """Decorate a function to run only where ``df(*args, **kwargs)`` does not return False.

    Args:
        df: Is called on the engine, ahead of the function.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    return lambda f: dependent(f, df, *args, **kwargs)


def require(*objects: Any, **mapping: Any) -> Callable[[Callable[..., Any]], dependent]:
    """Decorate a function to run only where modules can be imported.

    Args:
        objects: Names of modules, modules, and functions or classes that the function needs under
            their own names.
        mapping: Other objects that it needs, by name.

    Returns:
        A decorator. On an engine, modules are imported there, and all these names are put into its
        namespace unless the user has a value of that name there.

    Raises:
        TypeError: Something has no name to be required by.
    """
    modules: list[str] = []
    for one in objects:
        if isinstance(one, str):
            modules.append(one)
        elif isinstance(one, ModuleType):
            modules.append(one.__name__)
        elif callable(one) and hasattr(one, "__name__"):
            mapping[one.__name__] = one
        else:
            raise TypeError(
                f"require() takes names of modules, modules, functions and classes, not {one!r}; "
                f"give other objects a name: require(name=...)"
            )
    return lambda f: dependent(f, _have, tuple(modules), mapping)


def _have(modules: tuple[str, ...], objects: dict[str, Any]) -> None:
    """Import modules, and put them and other objects into the engine's namespace."""
    found = dict(objects)
    for name in modules:
        try:
            import_module(name)
        except ImportError as error:
            raise UnmetDependency(f"cannot import {name}: {error}") from error
        top = name.partition(".")[0]
        found[top] = import_module(top)
    namespace = current_namespace()
    if namespace is not None:
        namespace.inject(found)


def rejects(error: BaseException) -> bool:
    """Tell whether an exception says that an engine rejects a call: another one may run it."""
    return isinstance(error, UnmetDependency | TaskRejectError) and not isinstance(
        error, ImpossibleDependency | RemoteError
    )


def _name(function: object) -> str:
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__
