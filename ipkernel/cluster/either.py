"""Methods that block in a plain script and can be awaited in a running event loop."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ipkernel.cluster.base import ClusterBase

T = TypeVar("T")

_NOTE = """

        Blocks and returns the result, unless an asyncio event loop runs in the calling thread:
        then it returns a future at once, which is already being worked on in another thread
        and is to be awaited. ``{name}_sync`` always blocks.
"""


def running_loop() -> AbstractEventLoop | None:
    """Return the asyncio event loop that runs in this thread, if there is one."""
    asyncio = sys.modules.get("asyncio")  # not loaded, not running; loading it takes its time
    if asyncio is None:
        return None
    try:
        return asyncio.get_running_loop()  # type: ignore[no-any-return]
    except RuntimeError:
        return None


def either(method: Callable[..., T], *, starts: bool = False) -> Callable[..., Any]:
    """Make the form of a blocking method ``m_sync`` that is called ``m``.

    Args:
        method: The blocking method, of a cluster if it ``starts`` one.
        starts: Whether what it started is to be stopped when the future is cancelled.

    Returns:
        A method that does the same where nothing asynchronous goes on; inside a running asyncio
        event loop it returns an :class:`asyncio.Future` of the result.
    """

    @functools.wraps(method)
    def call(self: object, /, *args: Any, **kwargs: Any) -> Any:
        loop = running_loop()
        if loop is None:
            return method(self, *args, **kwargs)
        work = functools.partial(method, self, *args, **kwargs)
        if starts:
            from ipkernel.cluster.awaited import awaited_start

            return awaited_start(loop, cast("ClusterBase", self), work)
        return loop.run_in_executor(None, work)

    call.__name__ = method.__name__.removesuffix("_sync")
    call.__qualname__ = method.__qualname__.removesuffix("_sync")
    call.__doc__ = (method.__doc__ or "").rstrip() + _NOTE.format(name=call.__name__)
    return call
