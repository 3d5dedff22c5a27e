"""Ask a running controller what anybody with the monitor role may ask, the shortest way there is.

On the controller's own machine that is a local socket, which needs neither Twisted nor Foolscap: to load
them takes longer than all the rest of a command. From elsewhere it is the monitor door.
"""

from __future__ import annotations

import time
from typing import Final, TypeVar

from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConnectError
from ipkernel.wire import nearby
from ipkernel.wire.records import Record, Status, pack, unpack

__all__ = ["ask", "status"]

R = TypeVar("R", bound=Record)

#: Seconds for which a controller is asked again that is started again and does not listen yet.
_BACK: Final = 10.0
_PAUSE: Final = 0.1


def ask(
    directory: ClusterDirectory, what: str, method: str, request: Record | None, answer: type[R]
) -> R:
    """Ask the controller of a cluster something; wait for one that is being started again.

    Args:
        directory: The cluster's directory.
        what: What this is about, for messages.
        method: Of the monitor door.
        request: Its argument, or None.
        answer: The kind of answer.

    Raises:
        ConnectError: The controller cannot be reached.
        KernelError: It cannot answer; the text says why.
        SecurityError: The FURL file is not private.
        TimeoutError: There was no answer.
    """
    deadline = time.monotonic() + _BACK
    while True:
        try:
            return _ask(directory, what, method, request, answer)
        except ConnectError:
            if not restarting.expected(directory) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def _ask(
    directory: ClusterDirectory, what: str, method: str, request: Record | None, answer: type[R]
) -> R:
    data = b"" if request is None else pack(request)
    try:
        return unpack(answer, nearby.ask(directory.question_socket, method, data))
    except TimeoutError as error:
        raise TimeoutError(f"{what}: {error}") from None
    except nearby.NotNearby:
        from ipkernel.cluster.doors import ask_monitor

        return ask_monitor(directory, what, method, request, answer)


def status(directory: ClusterDirectory) -> Status:
    """Return the state of a cluster; see :func:`ask` for what may go wrong."""
    what = f"asking cluster {directory.name} for its state"
    return ask(directory, what, "status", None, Status)
