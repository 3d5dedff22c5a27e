"""The sessions of clients."""

from __future__ import annotations

from typing import Final

from msgspec.structs import force_setattr

from ipkernel.controller.queues import Line
from ipkernel.controller.tasks import Payload
from ipkernel.wire.messages import Submit, Terms

#: Functions that one session may keep here, in bytes.
MAX_FUNCTIONS: Final = 256 << 20
#: What a function costs besides its blob; clients stop sending functions well before it matters.
_ENTRY: Final = 128


class Session:
    """One client's session, which outlives its connection.

    Attributes:
        id: Its number.
        client: Who it is, for people.
        since: When it was opened.
        attached: Whether the client is connected.
        inside: The engine in which a task has made the client, or -1.
        held: Whether nothing of it is to be started because its client takes no results.
        open: Tasks that have not ended.
        bytes: Their payload, each byte counted once, and the tasks that they wait for.
        functions: The functions that the client has sent, by digest.
        function_bytes: Their size.
        recent: The line of its latest load-balanced task for which not every engine will do.
        tub_id: The client's TubID.
        taken: How many of its messages were dealt with.
        until: Until when it is kept for its client, which has gone, though nothing of it is left;
            0.0 if that will not come back.
    """

    __slots__ = (
        "_terms",
        "attached",
        "bytes",
        "client",
        "function_bytes",
        "functions",
        "held",
        "id",
        "inside",
        "open",
        "recent",
        "since",
        "taken",
        "tub_id",
        "until",
    )

    def __init__(self, number: int, client: str, now: float, tub_id: str = "") -> None:
        self.id = number
        self.client = client
        self.since = now
        self.attached = True
        self.held = False
        self.inside = -1
        self.open = 0
        self.bytes = 0
        self.functions: dict[bytes, Payload] = {}
        self.function_bytes = 0
        self.recent: Line | None = None
        self._terms: Terms | None = None
        self.tub_id = tub_id
        self.taken = 0
        self.until = 0.0

    def share_terms(self, message: Submit) -> Terms | None:
        """Let a task share its terms with the one before it if they are equal; return them."""
        terms = message.terms
        if terms == self._terms:
            terms = self._terms
            force_setattr(message, "terms", terms)
        self._terms = terms
        return terms

    def keep_function(self, digest: bytes, blob: Payload) -> bool:
        """Keep a function; return False when the session has too many of them."""
        if digest in self.functions:
            return True
        kept = self.function_bytes + _ENTRY * len(self.functions)
        if kept + len(blob) > MAX_FUNCTIONS:
            return False
        self.functions[digest] = blob
        self.function_bytes += len(blob)
        return True
