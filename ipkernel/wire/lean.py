"""A reactor with less in between: for processes that run the reactor themselves.

Twisted has a place in its log for each thing that it calls, so that old-style log messages say
where they come from. Nothing here writes such messages, and making that place takes longer than to
read a small message.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.python import log

__all__ = ["lighten"]

_NEEDED = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable")
#: The event that a descriptor can be read, as epoll says it.
_READABLE: Final = 1


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

    def iterate(delay: float | None) -> None:
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

    reactor.doIteration = iterate


def read(selectable: Any) -> Any:
    """Have something read; return why it is over, if it is."""
    try:
        return selectable.doRead()
    except Exception as fault:  # noqa: BLE001 - a fault ends it
        log.err()
        return fault
