"""Waiting until host daemons are ready, and telling of all that are not, each with its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ipkernel.cluster.hosted import Hosted, state_of, why_ended
from ipkernel.errors import LauncherError

#: How long the wait for one of them may keep from looking at the others, in seconds.
_SLICE: Final = 0.2
#: Seconds for which others are waited for after one has failed: what is wrong with one host is
#: often wrong with all of them, and a user wants to know it at once.
_TOGETHER: Final = 5.0


class Failure(NamedTuple):
    """A host daemon that is not there.

    Attributes:
        hosted: Which.
        text: Why, with the end of its log; empty if it was only not ready in time.
    """

    hosted: Hosted
    text: str

    def __str__(self) -> str:
        text = self.text or f"not ready in time ({state_of(self.hosted.launcher)})"
        return f"{self.hosted.title}: {text}"


def gather(
    hosts: Sequence[Hosted],
    deadline: float,
    check: Callable[[], object],
    *,
    patient: bool = False,
) -> list[Failure]:
    """Wait until each of some host daemons is ready, or its batch job accepted, or has failed.

    Args:
        hosts: Whom to wait for.
        deadline: By the monotonic clock.
        check: Called now and then; what it raises ends the wait.
        patient: Wait for the others up to the deadline even if one has failed.

    Returns:
        Those that have failed, then those that were not ready in time.
    """
    failed = []
    pending = list(hosts)
    while pending:
        begun = time.monotonic()
        left: list[Hosted] = []
        for hosted in pending:
            # Only one of them is waited for; the others are looked at.
            wait = 0.0 if left else max(0.0, min(_SLICE, deadline - begun))
            why = _look(hosted, wait)
            if why is None:
                left.append(hosted)
            elif why:
                failed.append(Failure(hosted, why))
        pending = left
        if failed and not patient:
            deadline = min(deadline, begun + _TOGETHER)
            patient = True
        check()
        if time.monotonic() >= deadline:
            break
    return [*failed, *(Failure(hosted, "") for hosted in pending)]


def _look(hosted: Hosted, timeout: float) -> str | None:
    """Return why it has failed; empty if it is ready, None if it is neither."""
    if hosted.failure:
        return hosted.failure
    event = "ready" if hosted.entry.immediate else "submitted"
    launcher = hosted.launcher
    try:
        said: dict[str, Any] = launcher.wait_event(event, timeout)
    except LauncherError as error:
        return str(error)
    except TimeoutError:
        return None if launcher.running else why_ended(launcher)
    hosted.heard(said)
    return ""


def report(failures: Sequence[Failure], count: int) -> str:
    """Return what to tell of failures: of several host daemons, one after the other.

    Args:
        failures: What is wrong.
        count: How many host daemons there should be.
    """
    if count == 1 and failures[0].text:
        text, title = failures[0].text, failures[0].hosted.title
        return text if title == failures[0].hosted.entry.name else f"{title}: {text}"
    head = f"{len(failures)} of {count} host daemons did not start:"
    return "\n".join(
        [head, *(f"  {str(one).replace(chr(10), chr(10) + '  ')}" for one in failures)]
    )
