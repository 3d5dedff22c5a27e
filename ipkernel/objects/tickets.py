"""The right to use a host's store: a message authentication code, checked without any state.

A host daemon makes a random key and tells the controller. The controller makes a ticket for each
peer that may use the store, and nobody else can. A ticket is as good as the key: until the daemon
ends.
"""

from __future__ import annotations

import hmac
import os

__all__ = ["is_ticket", "make_key", "make_ticket"]


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
