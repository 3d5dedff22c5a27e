"""Host daemons as a scheduler's model has them: what they hold, what they have said and not heard."""

from __future__ import annotations

from ipkernel.wire.messages import (
    Assign,
    Done,
    Fate,
    ForgetFunctions,
    Function,
    Message,
    Outcome,
    Reason,
    Reclaim,
    Returned,
    encode_reason,
)

Said = tuple[Message, bytes]


class EngineModel:
    """An engine: what its host has for it, and which of that it has begun."""

    def __init__(self) -> None:
        self.ready = False
        self.queue: list[int] = []
        self.begun: list[int] = []


class HostModel:
    """A host daemon: its engines, and what it has not said or not heard.

    Attributes:
        engines: By id.
        connected: Whether it is.
        stale: It has not been told that the controller was started again.
        outbox: What it has to say.
        said: The last things that it said; they are safe, but it may not know that.
        inbox: What was sent to it while it was away.
    """

    def __init__(self, engines: list[int]) -> None:
        self.engines = {number: EngineModel() for number in engines}
        self.connected = True
        self.stale = False
        self.outbox: list[Said] = []
        self.said: list[Said] = []
        self.inbox: list[Said] = []
        self.functions: set[bytes] = set()

    def takes(self, message: Message, payload: bytes) -> bool:
        """Do what a message says; False if it is none that this knows."""
        if isinstance(message, Assign):
            assert payload == b"%d" % message.task
            assert not message.digest or message.digest in self.functions
            self.engines[message.engine].queue.append(message.task)
        elif isinstance(message, Function):
            assert message.digest not in self.functions
            self.functions.add(message.digest)
        elif isinstance(message, ForgetFunctions):
            self.functions.difference_update(message.digests)
        elif isinstance(message, Reclaim):
            engine = self.engines[message.engine]
            free = [t for t in message.tasks if t in engine.queue and t not in engine.begun]
            engine.queue = [t for t in engine.queue if t not in free]
            self.outbox.append((Returned(message.engine, free), b""))
        else:
            return False
        return True

    def ends(self, number: int, tid: int, outcome: Outcome) -> None:
        """A task ends on an engine; that is still to be said."""
        engine = self.engines[number]
        engine.queue.remove(tid)
        payload = b"r%d" % tid
        if outcome is Outcome.ABORTED:
            payload = encode_reason(Reason("aborted", "cancelled", fate=Fate.INTERRUPTED))
        if tid in engine.begun:
            engine.begun.remove(tid)
        self.outbox.append((Done(tid, number, outcome, 1.0, 1.001, len(payload)), payload))
