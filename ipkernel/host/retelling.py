"""What a host tells a controller that was started again; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ipkernel.wire.messages import Done, EngineLeft, Held, Message, Output

__all__ = ["Item", "held_messages", "worth_repeating"]

#: Objects in one message.
AT_ONCE: Final = 4096

Item = tuple[Message, Any]


def worth_repeating(kept: Iterable[Item]) -> tuple[list[Item], set[int]]:
    """Choose from what the controller before may not have got.

    That is what cannot be told from the present state: results, output of tasks, and ends of
    engines that have cost tasks or that are for good. All else is told anew.

    Args:
        kept: Messages and payloads, in order.

    Returns:
        What is to be told again, in order, and the engines whose ends are among it: what these
        are now is to be told after that, as it came after that.
    """
    repeated: list[Item] = []
    left: set[int] = set()
    for item in kept:
        message = item[0]
        if isinstance(message, EngineLeft):
            if message.started or not message.restarting:
                repeated.append(item)
                left.add(message.engine)
        elif isinstance(message, Done) or (isinstance(message, Output) and message.task):
            repeated.append(item)
    return repeated, left


def held_messages(objects: Sequence[tuple[bytes, int]]) -> Iterator[Held]:
    """Yield the messages that tell which objects a host has: at least one.

    Args:
        objects: Ids and lengths.
    """
    for start in range(0, max(1, len(objects)), AT_ONCE):
        part = objects[start : start + AT_ONCE]
        yield Held(
            [one for one, _ in part],
            [length for _, length in part],
            start + AT_ONCE >= len(objects),
        )
