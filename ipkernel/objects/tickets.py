"""The right to use a host's store: a message authentication code, checked without any state.

A host daemon makes a random key and tells the controller. The controller makes a ticket for each
peer that may use the store, and nobody else can. A ticket is as good as the key: until the daemon
ends.
"""

from __future__ import annotations

import hmac
import os

__all__ = ["is_ticket", "make_key", "make_ticket", "result_id"]


def make_key() -> bytes:
    """Return a new key of 32 bytes."""
    return os.urandom(32)


def make_ticket(key: bytes, subject: str) -> bytes:
    """Return the ticket of a subject.

    Args:
        key: The store's.
        subject: Who may use it: a TubID for peers, any other name for engines.
    """
    return hmac.digest(key, b"ipkernel store\0" + subject.encode(), "sha256")


def is_ticket(key: bytes, subject: str, ticket: bytes) -> bool:
    """Tell whether this is the ticket of ``subject``."""
    return hmac.compare_digest(make_ticket(key, subject), ticket)


def result_id(ticket: bytes, task: int) -> bytes:
    """Return the id of the object that an engine makes of the result of a task.

    Nobody can guess it who does not know the ticket; but the daemon does, and can forget the result
    of an engine that has died before it could report it.

    Args:
        ticket: The engine's.
        task: The task's id.
    """
    return hmac.digest(ticket, b"ipkernel result\0" + task.to_bytes(8, "big"), "sha256")[:16]
