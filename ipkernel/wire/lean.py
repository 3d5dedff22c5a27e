"""A reactor with less in between: for processes that run the reactor themselves.

Twisted has a place in its log for each thing that it calls, so that old-style log messages say
where they come from. Nothing here writes such messages, and making that place takes longer than to
read a small message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.python import log

__all__ = ["lighten", "soon"]

_NEEDED = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")
#: The event that a descriptor can be read, as epoll says it.
_READABLE: Final = 1
#: The attribute of a reactor with what it calls before it waits again.
_DUE: Final = "_ipkernel_due"


def lighten(reactor: Any) -> None:
    """Have a reactor that is not running yet call what is ready without a place in the log.

    It only affects a reactor that uses epoll, and not one of a class of somebody else's.

    Args:
        reactor: Twisted's reactor.
    """
    if type(reactor).__name__ != "EPollReactor" or not all(hasattr(reactor, n) for n in _NEEDED):
        return
    poll = reactor._poller.poll
    selectables: dict[int, Any] = reactor._selectables
    read_or_write = reactor._doReadOrWrite
    disconnect = reactor._disconnectSelectable
    due: list[Callable[[], object]] = []

    def iterate(delay: float | None) -> None:
        if due:  # it became so by a timer, or by another of these
            _call_all(due)
            delay = 0
        for fd, event in poll(-1 if delay is None else delay, len(selectables) or 1):
            selectable = selectables.get(fd)
            if selectable is None:
                continue
            try:
                if event == _READABLE and selectable.fileno() == fd:
                    why = read(selectable)
                    if why:
                        disconnect(selectable, why, True)
                else:
                    read_or_write(selectable, fd, event)
            except Exception:  # noqa: BLE001 - as Twisted does: one connection, not the process
                log.err()
        if due:
            _call_all(due)

    reactor.doIteration = iterate
    setattr(reactor, _DUE, due)


def soon(reactor: Any, function: Callable[[], object]) -> None:
    """Have a function called when all that the reactor has found ready is dealt with.

    It does what ``callLater(0, function)`` does, without making a timer where :func:`lighten` has
    made that possible.

    Args:
        reactor: Twisted's reactor, or a Clock.
        function: What is called, once, in the reactor's thread.
    """
    due = getattr(reactor, _DUE, None)
    if due is None:
        reactor.callLater(0, function)
    else:
        due.append(function)


def _call_all(due: list[Callable[[], object]]) -> None:
    """Call what is due; what becomes due by that is left for later."""
    functions = due[:]
    due.clear()
    for function in functions:
        try:
            function()
        except Exception:  # noqa: BLE001 - as Twisted does: one call, not the process
            log.err()


def read(selectable: Any) -> Any:
    """Have something read; return why it is over, if it is."""
    try:
        return selectable.doRead()
    except Exception as fault:  # noqa: BLE001 - a fault ends it
        log.err()
        return fault
