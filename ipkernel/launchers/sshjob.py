"""A program on a host to which nobody has a connection: look at it, and give it orders."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshboot, sshtext
from ipkernel.launchers.sshoptions import HostEntry

logger = logging.getLogger(__name__)

#: Seconds that a program may take to end after an order, there.
_PATIENCE: Final = 30.0
#: Seconds between two looks while somebody waits who has given no order.
_LOOK: Final = 2.0


def frame(order: dict[str, Any]) -> bytes:
    """Return an order as it goes over the connection."""
    text = json.dumps(order).encode()
    return b"%d\n%s" % (len(text), text)


class RemoteJob:
    """A program that runs on a host in a directory of its own.

    Args:
        entry: The host.
        python: The Python that is known to do there.
        directory: The program's directory there.

    Attributes:
        directory: As given.
        python: As given.
        over: Whether it is known to have ended.
    """

    def __init__(self, entry: HostEntry, python: str, directory: str) -> None:
        self.directory = directory
        self.python = python
        self.over = False
        self._entry = entry
        self._changed = threading.Condition()
        self._orders: list[threading.Thread] = []
        self._running: set[subprocess.Popen[bytes]] = set()
        self._failed = False

    def look(self) -> bool:
        """Ask whether it is still there.

        Raises:
            LauncherError: The host cannot be asked.
        """
        there = self._tell(None, 0.0)
        if not there:
            self._gone()
        return there

    def order(self, order: dict[str, Any], ended: Callable[[], object]) -> None:
        """Give it an order without waiting.

        Args:
            order: What it is to do.
            ended: Called, in another thread, if it has ended then.
        """
        thread = threading.Thread(
            target=self._order, args=(order, ended), name=f"ssh-{self._entry.host}", daemon=True
        )
        self._orders.append(thread)
        thread.start()

    def _order(self, order: dict[str, Any], ended: Callable[[], object]) -> None:
        try:
            there = self._tell(order, _PATIENCE)
        except LauncherError as error:
            logger.warning("%s could not be told to end: %s", self._entry.label, error)
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            return
        if not there and self._gone():
            ended()

    def _gone(self) -> bool:
        """Note its end; return whether that is news."""
        with self._changed:
            news, self.over = not self.over, True
            self._changed.notify_all()
        return news

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds; return whether it has.

        It is not waited for any longer when the host could not be reached with an order.
        """
        deadline = time.monotonic() + timeout
        while not self.over:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left, _LOOK))
                if self._failed:
                    self._failed = False
                    return False
            if not self.over and not any(thread.is_alive() for thread in self._orders):
                with contextlib.suppress(LauncherError):  # perhaps it can be asked later
                    self.look()
        return True

    def _tell(self, order: dict[str, Any] | None, wait: float) -> bool:
        words = {"act": "tell", "directory": self.directory, "order": order, "wait": wait}
        try:
            process = subprocess.Popen(
                [*self._entry.command(), sshboot.COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise LauncherError(f"cannot run {self._entry.ssh}: {error.strerror}") from None
        self._running.add(process)
        try:
            data = sshboot.first_words(self.python, (), self._entry.shell) + frame(words)
            patience = wait + self._entry.connect_timeout + self._entry.start_timeout
            out, err = process.communicate(data, patience)
        except subprocess.TimeoutExpired:
            raise LauncherError(f"it did not answer within {patience:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            self._running.discard(process)
        for line in out.splitlines():
            if line.startswith(b'{"event": "@told"'):
                return bool(json.loads(line)["there"])
        said = err.decode("utf-8", "replace").splitlines()
        raise LauncherError(sshtext.explain(said, self._entry, process.returncode))

    def close(self) -> None:
        """End connections for orders that are not needed any more."""
        for process in list(self._running):
            process.kill()
        for thread in self._orders:
            thread.join(1.0)
