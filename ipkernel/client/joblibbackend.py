"""What joblib asks of those who run its calls, answered by a view."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipkernel.client.baseview import View
    from ipkernel.client.result import AsyncResult

__all__ = ["OnView", "backend_class"]


@cache
def backend_class() -> type[OnView]:
    """Return :class:`OnView` as the backend of joblib that it is to be.

    Raises:
        ImportError: joblib is not installed.
    """
    from joblib.parallel import ParallelBackendBase

    return type("ViewBackend", (OnView, ParallelBackendBase), {})


class OnView:
    """Runs batches of calls on a view: the methods of a backend, without joblib.

    Args:
        where: Returns the view; is asked when the first batch is to be run.
        options: As joblib gives them to any backend.
    """

    default_n_jobs = -1
    supports_retrieve_callback = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(self, where: Callable[[], View], **options: Any) -> None:
        super().__init__(**options)
        self._where = where
        self._view: View | None = None
        self._results: weakref.WeakSet[AsyncResult] = weakref.WeakSet()
        #: joblib takes the next calls from its input, and waits for results, where it is told of an end. That
        #: must not be the thread that receives results.
        self._teller: ThreadPoolExecutor | None = None

    def _found(self) -> View:
        if self._view is None:
            self._view = self._where()
        return self._view

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches can run at the same time.

        Args:
            n_jobs: How many are wanted; -1 is one for each engine, -2 one less, and so on.

        Raises:
            ValueError: None are wanted.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning: it is a number of engines, or -1 for all")
        engines = max(1, len(self._found()))
        if n_jobs is None:
            return engines
        return min(n_jobs, engines) if n_jobs > 0 else max(1, engines + 1 + n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> AsyncResult:
        """Run a batch on the view, and have ``callback(result)`` called when it has ended."""
        result = self._found().apply_async(func)
        self._results.add(result)
        if callback is not None:
            if self._teller is None:
                self._teller = ThreadPoolExecutor(1, "ipkernel-joblib")
            result.add_done_callback(_telling(self._teller, callback))
        return result

    #: The same, as joblib before 1.5 calls it.
    apply_async = submit

    def retrieve_result_callback(self, out: AsyncResult) -> Any:
        """Return what a batch has returned, or raise what it has raised."""
        return out.get()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Abort what has not ended; there is an error, or nobody waits for it any more."""
        for result in list(self._results):
            if not result.done():
                result.cancel()
        self._results.clear()
        if not ensure_ready:
            self.terminate()

    def terminate(self) -> None:
        """Let go of the thread; engines go on."""
        if self._teller is not None:
            self._teller.shutdown()
            self._teller = None


def _telling(
    teller: ThreadPoolExecutor, callback: Callable[[Any], object]
) -> Callable[[Any], None]:
    def tell(result: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it is over, and nobody wants to know
            teller.submit(callback, result)

    return tell
