"""The conversation with a host over one ssh connection: orders there, events back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshboot, sshtext
from ipkernel.launchers.sshjob import frame
from ipkernel.launchers.sshoptions import HostEntry

#: Seconds that an order may wait for another one to be written before the connection is stuck.
_STUCK: Final = 1.0
#: Bytes that a line of a host may have.
LONGEST: Final = 1 << 22


class Conversation:
    """What is said over the standard input and output of an ssh.

    Args:
        process: The ssh.
        entry: The host.
        said: Returns the last lines of its standard error.

    Attributes:
        taken: Whether the host takes orders.
        stopped: Whether the owner wants no more of it.
        unreachable: Whether it has ended because there was no way to the host.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        entry: HostEntry,
        said: Callable[[], Sequence[str]],
    ) -> None:
        assert process.stdout is not None
        self.taken = False
        self.stopped = False
        self.unreachable = False
        self._reached = False
        self._process = process
        self._entry = entry
        self._said = said
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._too_late = ""
        self.events = events(process.stdout.read)

    def begin(self) -> None:
        """Have a Python of the host take orders.

        Raises:
            LauncherError: It does not come to that.
        """
        entry = self._entry
        patience = 2 * entry.connect_timeout
        self.watch(patience, f"it did not let anybody log in within {patience:g} s")
        self.write(sshboot.first_words(entry.python, entry.setup, entry.shell))
        self.expect("@shell")
        self._reached = True
        self.watch(
            entry.start_timeout,
            f"'setup', the checks and copying took longer than {entry.start_timeout:g} s: raise "
            f"start_timeout in [ssh]",
        )

    def order(self, answer: str, order: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
        """Give an order and return the event that answers it.

        Args:
            answer: Name of that event.
            order: The order.
            data: What follows it.

        Raises:
            LauncherError: It cannot be followed.
        """
        self.write(frame(order) + data)
        return self.expect(answer)

    def expect(self, wanted: str) -> dict[str, Any]:
        """Return the next event, which must be the one that is wanted.

        Raises:
            LauncherError: It is not; the text says what is wrong with the host.
        """
        for event in self.events:
            name = event["event"]
            if name == wanted:
                return event
            if name == sshboot.SETUP:
                self._hear_out()
                raise LauncherError(sshtext.explain_setup(event, self._entry, self._said()))
            if name == sshboot.NO_PYTHON:
                raise LauncherError(sshtext.no_python(self._entry))
            if name == sshboot.OLD_PYTHON:
                version = str(event["version"])
                raise LauncherError(sshtext.old_python(version, sshboot.OLDEST, self._entry))
            if name == "@problem":
                raise LauncherError(str(event["message"]))
        raise LauncherError(self._why_ended())

    def _hear_out(self) -> None:
        """Wait for the end of the connection: what was said to the standard error may be late."""
        for _ in self.events:
            pass
        self._process.wait()

    def _why_ended(self) -> str:
        if self._too_late:
            self.unreachable = not self._reached
            return self._too_late
        if self.stopped:
            return "it was stopped while it started"
        code = self._process.wait()
        if self.taken:
            return sshtext.explain_loss(self._said(), self._entry)
        said = self._said()
        self.unreachable = not self._reached and sshtext.is_away(said)
        return sshtext.explain(said, self._entry, code)

    def write(self, data: bytes) -> bool:
        """Write something; return False if nobody is there to read it."""
        stream = self._process.stdin
        if stream is None or not self._writing.acquire(timeout=_STUCK):
            return False
        try:
            while data:
                data = data[stream.write(data) :]
            return True
        except (OSError, ValueError):  # why, is told by what the host says, or does not say
            return False
        finally:
            self._writing.release()

    def watch(self, seconds: float, sentence: str = "") -> None:
        """Hang up after so many seconds, because of what the sentence says; 0: no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = threading.Timer(seconds, self._late, [sentence])
            self._timer.daemon = True
            self._timer.start()

    def _late(self, sentence: str) -> None:
        self._too_late = sentence
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection."""
        if self._process.poll() is None:
            self._process.terminate()

    def finish(self) -> None:
        """Say no more."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def events(read: Callable[[int], bytes | None]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream; what is none, such as a login's greeting, is ignored.

    Args:
        read: Returns the next bytes, at most so many; none at the end.

    Raises:
        ValueError: A line is longer than any event.
    """
    pending = b""
    while data := read(65536):
        *lines, pending = (pending + data).split(b"\n")
        if len(pending) > LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes")
        for line in lines:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
