"""Processes: how they ended in words, and how to end them."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

from ipkernel.signals import code_text, signal_here

__all__ = [
    "GROUP_SIGNALS",
    "Exit",
    "await_end",
    "bind_to_cpus",
    "kill_children",
    "kill_group",
    "signal_number",
    "signal_process",
]

#: Signals that a terminal, or someone who wants an end, sends to a whole group.
GROUP_SIGNALS: Final = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGBREAK")
    if hasattr(signal, name)
)


@frozen
class Exit:
    """How a process ended.

    Attributes:
        code: Its exit status, or None when a signal ended it.
        signal: The signal, or None.
        memory: The most bytes that it had in memory, 0 if that is not known.
    """

    code: int | None
    signal: int | None
    memory: int = 0

    @classmethod
    def of_status(cls, status: int, memory: int = 0) -> Exit:
        """Take apart what ``os.wait()`` returned."""
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), memory)
        return cls(os.WEXITSTATUS(status), None, memory)

    @classmethod
    def of_returncode(cls, returncode: int, memory: int = 0) -> Exit:
        """Take apart what :mod:`subprocess` returned."""
        if returncode < 0:
            return cls(None, -returncode, memory)
        return cls(returncode, None, memory)

    @property
    def text(self) -> str:
        """How it ended, such as ``"killed by SIGKILL (9)"``."""
        if self.signal is None:
            return f"exited with {code_text(self.code or 0)}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            return f"killed by signal {self.signal}"
        text = f"killed by {name} ({self.signal})"
        return f"segmentation fault: {text}" if name == "SIGSEGV" else text


def signal_number(name: str) -> int:
    """Return the number of a signal.

    Args:
        name: Such as ``"SIGINT"``, ``"int"`` or ``"2"``.

    Raises:
        ValueError: This system has no such signal.
    """
    text = name.strip().upper()
    if text.isdecimal():
        try:
            return int(signal.Signals(int(text)))
        except ValueError:
            raise ValueError(f"there is no signal {name} on {sys.platform}") from None
    try:
        return int(signal_here(text if text.startswith("SIG") else f"SIG{text}"))
    except ValueError:
        raise ValueError(f"there is no signal {name!r} on {sys.platform}") from None


def kill_group(pid: int) -> None:
    """Kill a process and all that it started, whether it lives or not."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        return
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                one.kill()


def await_end(pid: int) -> bool:
    """Wait until a child has ended, and leave it a zombie: until it is waited for its number is its own.

    Returns:
        Whether this could be waited for; where it cannot, as on Windows, nothing was done.
    """
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return True
    if not hasattr(select, "kqueue"):
        return False
    kernel: Any = select  # macOS before Python 3.13
    queue = kernel.kqueue()
    try:
        end = kernel.kevent(
            pid,
            filter=kernel.KQ_FILTER_PROC,
            flags=kernel.KQ_EV_ADD | kernel.KQ_EV_ONESHOT,
            fflags=kernel.KQ_NOTE_EXIT,
        )
        with suppress(ProcessLookupError):  # it has ended already
            queue.control([end], 1)
    finally:
        queue.close()
    return True


def kill_children(pid: int, since: float) -> None:
    """Kill what a process has started that has ended, on Windows, where its children still name it.

    Args:
        pid: Its number, which no other process may have got meanwhile.
        since: When it was started, or a little before, in seconds since the epoch; what is older
            was started by another one of that number.
    """
    import psutil

    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.ppid() == pid and one.create_time() >= since:
                kill_group(one.pid)


def signal_process(pid: int, number: int, *, group: bool) -> None:
    """Send a signal to a process or to its group.

    On Windows an interrupt is a Ctrl-Break, and all other signals end a process at once; there the
    group is what the process has started.

    Raises:
        OSError: There is no such process.
    """
    if group and hasattr(os, "killpg"):
        os.killpg(pid, number)
    elif os.name == "nt" and number == signal.SIGINT:
        os.kill(pid, signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined,unused-ignore]
    elif group:
        kill_group(pid)
    else:
        os.kill(pid, number)


def bind_to_cpus(pid: int, cpus: Sequence[int]) -> None:
    """Let a process run on some cores only; nothing happens if it has ended, or without cores."""
    if not cpus:
        return
    if hasattr(os, "sched_setaffinity"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cpus)
        return
    import psutil

    with suppress(psutil.NoSuchProcess):
        process: Any = psutil.Process(pid)
        process.cpu_affinity(list(cpus))
