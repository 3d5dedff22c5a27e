"""Large values: one store of immutable objects per host, and ways to move them between hosts.

Values of 64 KB and more do not travel through the controller. They become *objects* in the store
of a host, in shared memory that all its engines map; other hosts and clients fetch them from
there. Nothing in this package knows what is in an object, and nothing is ever unpickled here.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["INLINE_LIMIT", "new_object_id"]

#: Payloads from this size on, in bytes, become objects; smaller ones travel with their task.
INLINE_LIMIT: Final = 1 << 16


def new_object_id() -> bytes:
    """Return a new id: 128 random bits, so that nobody can guess one that was not given to him."""
    return os.urandom(16)
