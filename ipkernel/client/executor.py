"""Views as executors of :mod:`concurrent.futures`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from ipkernel.client.mapping import LazyMapIterator

if TYPE_CHECKING:
    from ipkernel.client.baseview import View
    from ipkernel.client.result import AsyncResult


class ViewExecutor(Executor):
    """Runs calls on a view.

    Args:
        view: A load-balanced view, or a direct one: each call then runs on every engine of it.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._max_workers = max(1, len(view))
        self._closed = False
        self._futures: weakref.WeakSet[AsyncResult] = weakref.WeakSet()

    def __repr__(self) -> str:
        closed = ": shut down" if self._closed else ""
        return f"<{type(self).__name__} on {self.view!r}{closed}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``fn(*args, **kwargs)`` on the view and return its future.

        Raises:
            RuntimeError: The executor was shut down.
        """
        self._check()
        future = self.view.apply_async(fn, *args, **kwargs)
        self._futures.add(future)
        return future

    def map(  # type: ignore[override]
        self,
        func: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Iterate over ``func`` of the items, consuming them as results are.

        Args:
            func: Called with one item of each iterable.
            iterables: Consumed lazily.
            timeout: Seconds from now in which results must be there; None is for ever.
            options: ``ordered``, ``max_outstanding`` and ``return_exceptions`` as for
                ``View.imap``; ``chunksize`` and ``buffersize`` are accepted.

        Raises:
            RuntimeError: The executor was shut down.
            TimeoutError: From the iterator: a result was not there in time.
        """
        self._check()
        options.pop("chunksize", None)
        buffersize = options.pop("buffersize", None)
        if buffersize:
            options.setdefault("max_outstanding", buffersize)
        limit = options.pop("max_outstanding", "auto")
        call = self.view._balanced_call(func)

        def submit(*args: Any) -> AsyncResult:
            future: AsyncResult = call(*args)
            self._futures.add(future)
            return future

        return LazyMapIterator(
            submit,
            zip(*iterables, strict=False),
            max_outstanding=16 * self._max_workers if limit == "auto" else limit,
            timeout=timeout,
            **options,
        )

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("this executor was shut down")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; engines are not touched.

        Args:
            wait: Wait for the calls that are under way.
            cancel_futures: Abort those that have not started.
        """
        self._closed = True
        futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            for future in futures:
                future.wait()
