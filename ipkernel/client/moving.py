"""Moving bytes in other threads while somebody waits, sees how far it is, and may interrupt it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from ipkernel.client.progress import interactive, wait_showing
from ipkernel.client.transfers import Transfers
from ipkernel.client.workers import Workers
from ipkernel.errors import ObjectError
from ipkernel.objects.transfer import Transfer

T = TypeVar("T")
Job = tuple[Callable[[], T], Transfer]

#: Objects that are fetched, and provided, at the same time.
FETCHES: Final = 4
PROVIDES: Final = 2


class Mover:
    """The threads that move a client's large values.

    Attributes:
        interactive: Whether long transfers are shown while somebody waits; None if somebody looks.
        transfers: What is going on.
        fetchers: For what somebody here waits for.
        providers: For what hosts ask for.
    """

    def __init__(self) -> None:
        self.interactive: bool | None = None
        self.transfers = Transfers()
        self.fetchers = Workers("ipkernel-fetch", FETCHES)
        self.providers = Workers("ipkernel-provide", PROVIDES)

    @property
    def visible(self) -> bool:
        """Whether transfers that take long are shown."""
        return interactive() if self.interactive is None else self.interactive

    def start(self, call: Callable[[], T], transfer: Transfer) -> Future[T]:
        """Have bytes moved by one of the fetchers."""

        def move() -> T:
            with self.transfers.moving(transfer):
                return call()

        return self.fetchers.submit(move)

    def run(self, jobs: Sequence[Job[T]], timeout: float | None = None) -> list[T]:
        """Have bytes moved by other threads, and wait for it.

        Args:
            jobs: What to call, each with its transfer.
            timeout: Seconds for all of it; None or negative is for ever.

        Returns:
            What the calls have returned.

        Raises:
            TimeoutError: It took longer; what was still going on is cancelled.
            KeyboardInterrupt: Ctrl-C was pressed; the same.
            Exception: The first that a call has raised; the same.
        """
        changed = threading.Condition()
        futures = [self.start(call, transfer) for call, transfer in jobs]

        def wake(_: Future[Any]) -> None:
            with changed:
                changed.notify_all()

        def over() -> bool:
            return _failed(futures) is not None or all(future.done() for future in futures)

        try:
            for future in futures:
                future.add_done_callback(wake)
            with changed:
                ended = wait_showing(
                    changed, over, timeout, lambda: [t for _, t in jobs], self.visible
                )
            if not ended:
                raise TimeoutError(f"{jobs[0][1].what} took longer than {timeout:g} s")
            failed = _failed(futures)
            if failed is not None:
                raise (
                    ObjectError("this client is closed")
                    if failed.cancelled()
                    else (failed.exception(0) or ObjectError("this client is closed"))
                )
        except BaseException:
            for future, (_, transfer) in zip(futures, jobs, strict=True):
                if not future.done():
                    transfer.cancel()
                    future.cancel()
            raise
        return [future.result(0) for future in futures]

    def forked(self) -> None:
        """Begin afresh in the child of a fork: the threads are the parent's."""
        self.transfers.forked()
        self.fetchers.forked()
        self.providers.forked()

    def close(self, timeout: float) -> None:
        """Cancel what is going on and end the threads.

        Args:
            timeout: Seconds to wait for them.
        """
        self.transfers.cancel()
        self.providers.close(timeout)
        self.fetchers.close(timeout)


def _failed(futures: Sequence[Future[Any]]) -> Future[Any] | None:
    for future in futures:
        if future.cancelled() or (future.done() and future.exception(0) is not None):
            return future
    return None
