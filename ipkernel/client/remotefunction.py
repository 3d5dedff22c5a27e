"""Functions that run on a view when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipkernel.client.mapping import MapCalls
from ipkernel.client.partition import dist_of, has_length, indexable

if TYPE_CHECKING:
    from ipkernel.client.baseview import View


class RemoteFunction:
    """A function that is called on a view.

    Args:
        view: Where it is called.
        f: The function.
        block: Whether calls wait for the result; by default as the view does.
        flags: Flags of the view that hold for these calls.
    """

    def __init__(
        self, view: View, f: Callable[..., Any], block: bool | None = None, **flags: Any
    ) -> None:
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        self.__doc__ = getattr(f, "__doc__", None)
        self.__wrapped__ = f
        try:
            self.__signature__ = inspect.signature(f)
        except (TypeError, ValueError):  # some builtins have none
            pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function on the view."""
        with self.view.temp_flags(**self.flags):
            result = self.view._submit_call(self.func, args, kwargs)
        return self.view._finish(result, self.block)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__name__} on {self.view!r}>"


class ParallelFunction(RemoteFunction):
    """A function that is called with parts of its arguments, on all engines of a view.

    Calling it calls the function with a part of each sequence; its :meth:`map` calls it with items.

    Args:
        view: Where it is called.
        f: The function.
        dist: ``"b"`` for contiguous parts, ``"r"`` for round robin.
        block: Whether calls wait for the result; by default as the view does.
        chunksize: Items of a part on a load-balanced view; None chooses.
        ordered: Whether iteration over results keeps the order of the input.
        return_exceptions: Whether exceptions become items of the result.
        flags: Flags of the view that hold for these calls.
    """

    def __init__(
        self,
        view: View,
        f: Callable[..., Any],
        dist: str = "b",
        block: bool | None = None,
        chunksize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        **flags: Any,
    ) -> None:
        super().__init__(view, f, block, **flags)
        self.dist = dist_of(dist)
        self.chunksize = chunksize
        self.ordered = ordered
        self.return_exceptions = return_exceptions

    def _options(self, elementwise: bool) -> MapCalls:
        options = {
            "dist": self.dist,
            "chunksize": self.chunksize,
            "ordered": self.ordered,
            "return_exceptions": self.return_exceptions,
        }
        return MapCalls.of(self.view, options, elementwise=elementwise)

    def __call__(self, *sequences: Any) -> Any:
        """Call the function with a part of each sequence on each engine.

        Returns:
            An :class:`~ipkernel.client.asyncresult.AsyncMapResult`, or what the calls returned, put
            together.

        Raises:
            ValueError: The sequences differ in length.
            TypeError: There is none.
        """
        if not sequences:
            raise TypeError(f"{self.__name__}() needs at least one sequence")
        if not has_length(sequences):
            sequences = tuple(indexable(sequence) for sequence in sequences)
        lengths = {len(sequence) for sequence in sequences}
        if len(lengths) > 1:
            raise ValueError(f"the sequences differ in length: {sorted(lengths)}")
        return self._run(sequences, False)

    def map(self, *sequences: Any) -> Any:
        """Call the function with each item of the sequences; the shortest one ends it."""
        if not sequences:
            raise TypeError("map() needs at least one sequence")
        return self._run(sequences, True)

    def _run(self, sequences: tuple[Any, ...], elementwise: bool) -> Any:
        with self.view.temp_flags(**self.flags):
            result = self.view._submit_map(self.func, sequences, self._options(elementwise))
        return self.view._finish(result, self.block)


def remote(
    view: View, block: bool | None = None, **flags: Any
) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """Return a decorator that makes a function run on a view.

    Args:
        view: Where it is called.
        block: Whether calls wait for the result; by default as the view does.
        flags: Flags of the view that hold for these calls.
    """

    def decorate(f: Callable[..., Any]) -> RemoteFunction:
        return RemoteFunction(view, f, block, **flags)

    return decorate


def parallel(
    view: View, dist: str = "b", block: bool | None = None, ordered: bool = True, **flags: Any
) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """Return a decorator that makes a function run on parts of its arguments, on all engines.

    Args:
        view: Where it is called.
        dist: ``"b"`` for contiguous parts, ``"r"`` for round robin.
        block: Whether calls wait for the result; by default as the view does.
        ordered: Whether iteration over results keeps the order of the input.
        flags: Flags of the view that hold for these calls; also ``chunksize``, ``return_exceptions``.
    """

    def decorate(f: Callable[..., Any]) -> ParallelFunction:
        return ParallelFunction(view, f, dist, block, ordered=ordered, **flags)

    return decorate
