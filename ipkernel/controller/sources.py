"""Who fetches which object from where.

An object that many hosts need spreads like a tree: a place serves two hosts at a time, and whoever
has got a copy serves others. Nobody waits without a cause: who looks for an object is answered,
or stands in the queue of a place that is busy, or waits for a copy that is being made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ipkernel.controller.entries import Entry, Place, Seeker
from ipkernel.wire.messages import Message, Moving, Provide, Source

#: So many hosts fetch from one place at a time.
MAX_RECEIVERS: Final = 2
#: So many objects each of them fetches from there at a time.
MAX_EACH: Final = 8
#: After so many places from which an object could not be fetched, the search is given up.
MAX_FAILURES: Final = 8
#: Texts go into messages that bound them.
_TEXT: Final = 2000


class Server:
    """A place from which objects are fetched.

    Attributes:
        receivers: The hosts that fetch from it now, and how many objects each.
        queue: The objects that are to be fetched from it, the one that waits longest first.
    """

    __slots__ = ("queue", "receivers")

    def __init__(self) -> None:
        self.receivers: dict[int, int] = {}
        self.queue: dict[bytes, Entry] = {}

    def turn_of(self, entry: Entry) -> bool:
        """Tell whether an object is first in the queue, or would be."""
        return not self.queue or next(iter(self.queue)) == entry.id


class Sources:
    """Answers those who look for objects.

    Args:
        send: Sends a message to a place.
        touch: Is called with an object for which something may go on.
        name: Returns what people call a place.

    Attributes:
        patient: Whether somebody may still come who has an object that nobody has.
        servers: The places that serve somebody or have a queue.
    """

    def __init__(
        self,
        send: Callable[[Place, Message], None],
        touch: Callable[[Entry], None],
        name: Callable[[Place], str],
    ) -> None:
        self.servers: dict[Place, Server] = {}
        self.patient = False
        self._send = send
        self._touch = touch
        self._name = name
        self._seeking: dict[Place, dict[bytes, Entry]] = {}
        self._fetching: dict[int, set[Place]] = {}

    # --------------------------------------------------------------------- who asks

    def seek(self, entry: Entry, place: Place, failed: Place, problem: str) -> None:
        """Somebody looks for an object, for the first time or after a failure.

        Args:
            entry: The object.
            place: Who asks.
            failed: From where it could not be fetched, or 0.
            problem: Why not.
        """
        seeker = entry.seekers.get(place)
        if seeker is None:
            seeker = entry.seekers[place] = Seeker()
            self._seeking.setdefault(place, {})[entry.id] = entry
        self._stop(place, seeker)
        seeker.asked = seeker.asked + 1 if place < 0 else 1
        if failed:
            seeker.avoid[failed] = problem or "it could not be fetched"
        elif seeker.asked == 1:
            seeker.avoid.clear()  # a new search
        self._touch(entry)

    def not_provided(self, entry: Entry, client: Place, host: int, problem: str) -> None:
        """A client could not bring an object to a host."""
        seeker = entry.seekers.get(host)
        if seeker is not None and seeker.source == client:
            self._stop(host, seeker)
            seeker.asked = 1
            seeker.avoid[client] = problem or "it could not be sent"
            self._touch(entry)

    def moving(self, entry: Entry, host: int, done: int, sessions: Iterable[int]) -> None:
        """A host says how far it is with an object, which interests some sessions."""
        seeker = entry.seekers.get(host)
        if seeker is None or not seeker.source:
            return
        seeker.done = max(0, min(done, entry.length - 1))  # all of it is what is said at the end
        seeker.told.update(sessions)
        for session in seeker.told:
            self._send(-session, Moving(entry.id, seeker.done, entry.length, host))

    def forget(self, entry: Entry, place: Place) -> None:
        """Somebody does not look for an object any more, be it that it is there."""
        seeker = entry.seekers.pop(place, None)
        if seeker is None:
            return
        self._stop(place, seeker)
        for session in seeker.told:
            self._send(-session, Moving(entry.id, entry.length, entry.length, place))
        mine = self._seeking[place]
        del mine[entry.id]
        if not mine:
            del self._seeking[place]
        self._touch(entry)

    def gone(self, place: Place) -> None:
        """A host or a client is gone; the caller sees to the objects that it had."""
        for entry in list(self._seeking.get(place, {}).values()):
            self.forget(entry, place)
        server = self.servers.pop(place, None)
        if server is not None:
            for receiver in server.receivers:
                self._fetched_all(receiver, place)
            for entry in server.queue.values():
                entry.queued.discard(place)
                self._touch(entry)

    def withdrawn(self, entry: Entry, client: Place) -> None:
        """A client provides an object no longer: who waits for it there has to look elsewhere."""
        for place, seeker in entry.seekers.items():
            if seeker.source == client:
                self._stop(place, seeker)
                seeker.asked = 1
        self._touch(entry)

    # ------------------------------------------------------------------- the answers

    def serve(self, entry: Entry) -> None:
        """Answer those who look for an object, as far as places are free."""
        if not entry.seekers:
            self._queue(entry, set())
            return
        free = [host for host in entry.holders if self._has_room(host, entry)]
        queues: set[Place] = set()
        hopeless = []
        for place, seeker in list(entry.seekers.items()):
            if not seeker.asked:
                continue
            if place < 0:
                found = self._answer_client(entry, place, seeker)
            else:
                found = self._answer_host(entry, place, seeker, free, queues)
            if not found:
                hopeless.append((place, seeker))
        for place, seeker in hopeless:  # now it is clear what the others are about to get
            if not entry.coming(place) and not (self.patient and not entry.holders):
                self.refuse(entry, place, seeker)
        self._queue(entry, queues)

    def refuse(self, entry: Entry, place: Place, seeker: Seeker, problem: str = "") -> None:
        """Tell somebody that an object cannot be had, and why."""
        if not problem and seeker.avoid:
            where, why = next(reversed(seeker.avoid.items()))
            problem = f"{entry} could not be fetched from {self._name(where)}: {why}"
        elif not problem and entry.client:
            problem = f"{entry} is with {self._name(-entry.client)} only, and on no host yet"
        elif not problem:
            problem = f"{entry} is lost: {entry.last}"
        for _ in range(seeker.asked):
            self._send(place, Source(entry.id, entry.length, 0, problem[:_TEXT]))
        seeker.asked = 0
        self.forget(entry, place)

    def _answer_client(self, entry: Entry, place: Place, seeker: Seeker) -> bool:
        """Name a host to a client; what clients fetch is not counted, for nobody hears its end."""
        usable = [host for host in entry.holders if host not in seeker.avoid]
        if not usable or len(seeker.avoid) >= MAX_FAILURES:
            return False
        self._begin(entry, place, seeker, min(usable, key=self._load))
        return True

    def _answer_host(
        self, entry: Entry, place: int, seeker: Seeker, free: list[int], queues: set[Place]
    ) -> bool:
        """Name a source to a host, or have it wait; return False if there is nothing to wait for."""
        avoid = seeker.avoid
        holders = entry.holders
        if len(avoid) >= MAX_FAILURES:
            return False
        if holders and not (avoid and holders <= avoid.keys()):
            here = self._fetching.get(place, ())
            usable = [host for host in free if host not in avoid and host not in here]
            usable += [
                p for p in here if p in holders and p not in avoid and self._more(p, place, entry)
            ]
            if usable:
                source = min(usable, key=self._load)
                self._begin(entry, place, seeker, source)
                if source in free and not self._has_room(source, entry):
                    free.remove(source)
            else:
                queues.update(holders - avoid.keys() if avoid else holders)
            return True
        return entry.coming(place) or self._ask_client(entry, place, seeker, queues)

    def _ask_client(self, entry: Entry, place: int, seeker: Seeker, queues: set[Place]) -> bool:
        """Have the client that has an object bring it to a host."""
        client = -entry.client
        if not client or client in seeker.avoid:
            return False
        if any(other.source == client for other in entry.seekers.values()):
            return True  # it provides an object to one host at a time
        more = client in self._fetching.get(place, ())
        if self._more(client, place, entry) if more else self._has_room(client, entry):
            self._begin(entry, place, seeker, client)
            self._send(client, Provide(entry.id, place))
        else:
            queues.add(client)
        return True

    def _begin(self, entry: Entry, place: Place, seeker: Seeker, source: Place) -> None:
        """Tell somebody from where to fetch an object."""
        if place > 0:
            receivers = self._server(source).receivers
            receivers[place] = receivers.get(place, 0) + 1
            self._fetching.setdefault(place, set()).add(source)
        seeker.source = source
        for _ in range(seeker.asked):
            self._send(place, Source(entry.id, entry.length, max(source, 0)))
        seeker.asked = 0

    def _stop(self, place: Place, seeker: Seeker) -> None:
        """Note that somebody does not fetch any more from where it did."""
        source, seeker.source = seeker.source, 0
        seeker.done = 0
        server = self.servers.get(source)
        if place < 0 or server is None:
            return
        left = server.receivers[place] - 1
        if left:
            server.receivers[place] = left
        else:
            del server.receivers[place]
            self._fetched_all(place, source)
        self._wake(source, server)

    def _fetched_all(self, place: int, source: Place) -> None:
        sources = self._fetching[place]
        sources.discard(source)
        if not sources:
            del self._fetching[place]

    def _has_room(self, place: Place, entry: Entry) -> bool:
        """Tell whether one more host may fetch from a place: nobody jumps its queue."""
        server = self.servers.get(place)
        return server is None or (len(server.receivers) < MAX_RECEIVERS and server.turn_of(entry))

    def _more(self, place: Place, receiver: int, entry: Entry) -> bool:
        """Tell whether a host that fetches from a place already may fetch one more object."""
        server = self.servers.get(place)
        return (
            server is not None
            and 0 < server.receivers.get(receiver, 0) < MAX_EACH
            and server.turn_of(entry)
        )

    def _load(self, place: Place) -> int:
        server = self.servers.get(place)
        return len(server.receivers) if server is not None else 0

    # -------------------------------------------------------------------- the queues

    def _queue(self, entry: Entry, places: set[Place]) -> None:
        """Have an object stand in the queues of these places, and in no others."""
        for place in entry.queued - places:
            entry.queued.discard(place)
            server = self.servers.get(place)
            if server is not None:
                server.queue.pop(entry.id, None)
                self._wake(place, server)
        for place in places - entry.queued:
            entry.queued.add(place)
            self._server(place).queue[entry.id] = entry

    def _wake(self, place: Place, server: Server) -> None:
        """Have the first in a queue looked at again."""
        if server.queue:
            self._touch(next(iter(server.queue.values())))
        elif not server.receivers:
            del self.servers[place]

    def _server(self, place: Place) -> Server:
        server = self.servers.get(place)
        if server is None:
            server = self.servers[place] = Server()
        return server

    # ------------------------------------------------------------------- for people

    def why(self, entry: Entry, host: int) -> str:
        """Return how a host that has not got an object yet stands with it."""
        seeker = entry.seekers.get(host)
        if seeker is None:
            return f"{entry} has not been asked for yet"
        if seeker.source > 0:
            share = f", {seeker.done / entry.length:.0%} of it is there" if seeker.done else ""
            return f"{entry} is being fetched from {self._name(seeker.source)}{share}"
        if seeker.source < 0:
            return f"{entry} is being sent by {self._name(seeker.source)}"
        for place in entry.queued:
            others = ", ".join(map(self._name, self.servers[place].receivers))
            return f"{entry} waits for {self._name(place)}, which serves {others} first"
        return f"{entry} waits for the copy that another host is getting"
