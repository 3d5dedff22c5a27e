"""The end of a client's connection, from whatever thread."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipkernel.client.connection import Connection


def close(connection: Connection, reactor: Any) -> None:
    """Close a connection without waiting for ever.

    Args:
        connection: The connection.
        reactor: In whose thread it runs.
    """
    from ipkernel.client.reactor_thread import (
        call_in_reactor,
        client_closed,
        in_reactor_thread,
        is_forked,
        run_in_reactor,
    )

    if is_forked():
        return
    client_closed()
    objects = connection.session.objects
    if not reactor.running:
        objects.close()
        return
    if in_reactor_thread():
        from twisted.internet.defer import ensureDeferred

        async def settle_and_close() -> None:
            await connection.settle()
            await connection.close()
            objects.close(0)  # nothing may be waited for here

        call_in_reactor(reactor, lambda: ensureDeferred(settle_and_close()))
        return
    try:
        objects.hand_over()
        run_in_reactor(reactor, connection.settle, "sending what was submitted")
    finally:
        try:
            with contextlib.suppress(TimeoutError):
                run_in_reactor(reactor, connection.close, "closing the connection", 3.0)
        finally:
            objects.close()
