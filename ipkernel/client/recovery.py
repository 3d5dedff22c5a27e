"""What is run in the place of a call that has failed for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipkernel.client.task import size_of
from ipkernel.serialize.calls import dump_call
from ipkernel.wire.messages import MAX_RECOVERY, Recovery

if TYPE_CHECKING:
    from ipkernel.client.baseview import View


def recovery_of(view: View, function: Callable[[], Any]) -> Recovery:
    """Return what the controller is told about it; the function itself is sent ahead.

    Raises:
        SerializationError: It cannot be sent.
        ValueError: It carries too much data with it, or objects.
    """
    digest, blob, pieces, needs = dump_call(function, (), {}, view.client._functions)
    size = size_of(pieces)
    if needs or size > MAX_RECOVERY:
        what = "references to objects" if needs else f"{size} bytes of data"
        raise ValueError(
            f"a recovery_task may carry {MAX_RECOVERY} bytes with it and no references to objects, "
            f"but {function!r} has {what}"
        )
    if digest:
        view._session.send_function(digest, blob)
    return Recovery(digest, b"".join(pieces))
