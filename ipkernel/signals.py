"""Names of signals, which mean the same on every host while their numbers may not; how processes ended."""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["code_text", "signal_here", "signal_name", "signal_text"]

#: Signals of other systems that this one, if it is Windows, does not have.
_ELSEWHERE: Final = (
    "SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1",
    "SIGUSR2", "SIGWINCH",
)  # fmt: skip
#: What Windows gives as the exit code of a process that it has ended itself.
_STATUSES: Final = {
    0x40010004: "ended by a debugger",
    0x80000003: "a breakpoint",
    0xC0000005: "access violation",
    0xC0000006: "a page could not be read",
    0xC0000017: "out of memory",
    0xC000001D: "illegal instruction",
    0xC0000094: "integer division by zero",
    0xC00000FD: "stack overflow",
    0xC000012D: "out of memory",
    0xC0000135: "a DLL was not found",
    0xC000013A: "ended by Ctrl-C, or its console was closed",
    0xC0000142: "a DLL could not be initialised",
    0xC0000374: "heap corruption",
    0xC0000409: "aborted",
}


def signal_name(signum: int | str) -> str:
    """Return the name of a signal, such as ``"SIGINT"``.

    Args:
        signum: Its number, or its name with or without ``SIG``, in any case. A name may be that of
            a signal which only other systems have.

    Raises:
        ValueError: There is no such signal.
    """
    try:
        if isinstance(signum, int) and not isinstance(signum, bool):
            return signal.Signals(signum).name
        if not isinstance(signum, str):
            raise ValueError
        name = signum.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        return name if name in _ELSEWHERE else signal.Signals[name].name
    except (ValueError, KeyError):
        raise ValueError(f"there is no signal {signum!r}") from None


def signal_here(name: str) -> signal.Signals:
    """Return the signal of this system that has a name.

    Args:
        name: Such as ``"SIGINT"``. On Windows, where SIGTERM ends a process at once, SIGKILL is that.

    Raises:
        ValueError: This system has no such signal.
    """
    found = getattr(signal, name, None)
    if found is None and name == "SIGKILL":
        return signal.SIGTERM
    if not isinstance(found, signal.Signals):
        raise ValueError(f"there is no signal {name!r} on this system")
    return found


def signal_text(number: int) -> str:
    """Return a signal for people: ``"signal 9 (SIGKILL)"``; one without a name is its number."""
    try:
        return f"signal {number:d} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def code_text(code: int) -> str:
    """Return an exit code for people: ``"code 3"``, or ``"code 0xC0000005 (access violation)"``."""
    if code <= 0xFFFF:
        return f"code {code}"
    meaning = _STATUSES.get(code)
    return f"code 0x{code:08X} ({meaning})" if meaning else f"code 0x{code:08X}"
