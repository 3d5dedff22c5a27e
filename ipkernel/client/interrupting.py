"""Ctrl-C while somebody waits for results: what becomes of their tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from ipkernel import errors
from ipkernel.client.progress import interactive

if TYPE_CHECKING:
    from ipkernel.client.cancelling import Cancellation
    from ipkernel.client.client import Client
    from ipkernel.client.result import AsyncResult

#: What a client may do with the tasks that somebody has stopped waiting for.
CHOICES: Final = ("ask", "cancel", "leave")
#: Seconds in which a second Ctrl-C cancels them.
LINGER: Final = 2.0
#: Seconds beyond their grace in which tasks are seen to end.
_PATIENCE: Final = 2.0
#: Tasks that are named.
_NAMED: Final = 3


def check_choice(choice: object) -> str:
    """Return what users have set ``Client.interrupt`` to.

    Raises:
        ValueError: It is none of :data:`CHOICES`.
    """
    if choice not in CHOICES:
        raise ValueError(f"interrupt cannot be {choice!r}: it is 'ask', 'cancel' or 'leave'")
    return str(choice)


@contextmanager
def interruptible(client: Client | None, results: Iterable[AsyncResult]) -> Iterator[None]:
    """Return a context for waiting, in which Ctrl-C leads to what the client is set to.

    Args:
        client: Whose setting; None leaves the tasks alone.
        results: What is waited for.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        # One wait may be made of others, and the innermost has dealt with it.
        if client is not None and not hasattr(stop, "_ipkernel_seen"):
            stop._ipkernel_seen = True  # type: ignore[attr-defined]
            _interrupted(client, results)
        raise


def _interrupted(client: Client, results: Iterable[AsyncResult]) -> None:
    results = list(results)
    tasks = list(dict.fromkeys(r.id for one in results for r in one._records if r.cell is None))
    if not tasks or client.interrupt == "leave":
        return
    if client.interrupt == "cancel":
        _cancel(client, tasks)
    elif interactive():
        _ask(client, tasks)


def _ask(client: Client, tasks: list[int]) -> None:
    """Tell how to cancel the tasks, and do it if Ctrl-C comes once more."""
    several = len(tasks) > 1
    if len(tasks) <= _NAMED:
        how = f"abort({tasks if several else tasks[0]}) does so"
    else:
        how = "abort() does so, for all of its tasks"
    hint = (
        f"{_count(tasks)} {'go' if several else 'goes'} on; press Ctrl-C again within "
        f"{LINGER:g} s to cancel {'them' if several else 'it'}. Later, the client's {how}."
    )
    try:
        _say(hint)
        _linger(client, tasks)
    except KeyboardInterrupt:
        _cancel(client, tasks)


def _linger(client: Client, tasks: list[int]) -> None:
    """Wait for tasks for a while, or until Ctrl-C is pressed."""
    from ipkernel.client.result import AsyncResult

    session = client._session
    result = AsyncResult(session, False)
    session.watch([record for record in map(session.find, tasks) if record is not None], result)
    try:
        result.wait(LINGER)
    finally:
        session.unwatch(result)


def _cancel(client: Client, tasks: list[int]) -> None:
    """Cancel the tasks and tell what became of them; one more Ctrl-C ends the wait for that."""
    with suppress(errors.KernelError):  # the controller is lost, as whoever waited will hear
        answer: Cancellation = client.abort(tasks, block=False)
        try:
            answer.wait(client.grace + _PATIENCE)
        except KeyboardInterrupt:
            pass
        _say(f"cancelled: {answer}")


def _count(tasks: list[int]) -> str:
    return "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"


def _say(text: str, stream: Any = None) -> None:
    with suppress(OSError, ValueError, AttributeError):  # there is nowhere to say it
        print(f"\nipkernel: {text}", file=stream or sys.stderr, flush=True)
