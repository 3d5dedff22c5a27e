"""Names of signals, which mean the same on every host while their numbers may not."""

from __future__ import annotations

import signal

__all__ = ["signal_name", "signal_text"]


def signal_name(signum: int | str) -> str:
    """Return the name of a signal, such as ``"SIGINT"``.

    Args:
        signum: Its number, or its name with or without ``SIG``, in any case.

    Raises:
        ValueError: There is no such signal.
    """
    try:
        if isinstance(signum, int):
            return signal.Signals(signum).name
        name = signum.upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (ValueError, KeyError):
        raise ValueError(f"there is no signal {signum!r}") from None


def signal_text(number: int) -> str:
    """Return a signal for people: ``"signal 9 (SIGKILL)"``; one without a name is its number."""
    try:
        return f"signal {number:d} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
