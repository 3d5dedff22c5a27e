"""What becomes of sessions in the child of a fork: the connection and its threads are the parent's."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from ipkernel.client.future import renew_lock
from ipkernel.client.waiting import reactor_threads

if TYPE_CHECKING:
    from ipkernel.client.session import Session

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def add(session: Session) -> None:
    """Have a session told when this process is the child of a fork."""
    _sessions.add(session)


def _failure() -> RuntimeError:
    return RuntimeError(
        "this client was made before os.fork() and belongs to the parent process; start child "
        "processes that need a client with multiprocessing's 'spawn' method or with subprocess"
    )


def after_fork() -> None:
    """End all sessions in a child process."""
    renew_lock()
    reactor_threads.clear()
    for session in list(_sessions):
        session.forked(_failure)
