"""What tests with real components share: they may be missing, except in CI, and need ports."""

from __future__ import annotations

import os
import socket
from typing import Any


def skip_if(missing: str) -> Any:
    """Return a mark that skips tests for which something is missing; in CI they run, and fail.

    Args:
        missing: What keeps the tests from running on this machine, or nothing.
    """
    import pytest

    why = "" if os.environ.get("CI") else missing
    return pytest.mark.skipif(bool(why), reason=why or "-")


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
