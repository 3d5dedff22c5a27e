"""A child process that is none: it ends when a test says so."""

from __future__ import annotations

__all__ = ["Child"]


class Child:
    """What :class:`subprocess.Popen` is to who starts a program again.

    Args:
        pid: Its process id.

    Attributes:
        pid: The same.
        returncode: As of a child; None as long as it runs.
        asked: How often it was asked to end.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.asked = 0

    def poll(self) -> int | None:
        """Return its exit code; None as long as it runs."""
        return self.returncode

    def terminate(self) -> None:
        """Have it end in good order."""
        self.asked += 1
        self.returncode = 0

    def wait(self, timeout: float) -> int:
        """Return its exit code; it must have ended."""
        assert self.returncode is not None
        return self.returncode
