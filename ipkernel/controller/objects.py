"""Which objects there are, where, and who refers to them: events in, messages out.

An object lives while a session refers to it, a task needs it, or it is a result that waits to be
fetched. What becomes unreferenced, or may be served, is looked at once, in :meth:`Directory.settle`
at the end of a batch of events, so that a reference can move from one to another without a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ipkernel.controller.entries import Entry, Place, short
from ipkernel.controller.sources import Sources
from ipkernel.wire.messages import Free, Message, Source

#: Freed objects of which it is remembered what became of them.
MAX_REMEMBERED: Final = 4096
#: Objects that one message names.
_MANY: Final = 1 << 14


class Directory:
    """All objects of a cluster.

    Attributes:
        entries: The objects by id.
        at_host: What each host has, by number.
        with_client: What each client has and provides, by session.
        references: What sessions, and tasks whose results wait, refer to.
        out: Messages that are to be sent, with the places that they go to.
        missing: Tasks that need an object which is lost, and what to say.
        touched: Objects for which something may have to be done.
        rebuilding: The controller was started again, and not all have said yet what they have and
            use: nothing is freed, and nothing counts as lost.
        sources: Answers those who look for objects.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.at_host: dict[int, dict[bytes, Entry]] = {}
        self.with_client: dict[int, dict[bytes, Entry]] = {}
        self.references: dict[int, dict[bytes, Entry]] = {}
        self.out: list[tuple[Place, Message]] = []
        self.missing: list[tuple[int, str]] = []
        self.touched: dict[bytes, Entry] = {}
        self.rebuilding = False
        self.sources = Sources(self._send, self._touch, self._name)
        self._names: dict[int, str] = {}
        self._freed: dict[bytes, str] = {}
        self._to_free: dict[Place, list[bytes]] = {}

    @property
    def busy(self) -> bool:
        """Whether :meth:`settle` has something to do."""
        return bool(self.touched or self.out or self._to_free)

    def _send(self, place: Place, message: Message) -> None:
        self.out.append((place, message))

    def _touch(self, entry: Entry) -> None:
        self.touched[entry.id] = entry

    def _name(self, place: Place) -> str:
        if place < 0:
            return f"the client of session {-place}"
        return f"host {self._names.get(place) or place}"

    # -------------------------------------------------------------- hosts and clients

    def host_joined(self, host: int, name: str) -> None:
        """A host has come, with an empty store as far as this cluster is concerned."""
        self.at_host[host] = {}
        self._names[host] = name

    def host_lost(self, host: int, reason: str) -> None:
        """A host is gone, with all that it had."""
        name = self._name(host)
        for entry in self.at_host.pop(host, {}).values():
            entry.holders.discard(host)
            entry.last = f"{name}, which had it, is gone ({reason})"
            self._touch(entry)
        self.sources.gone(host)
        self._names.pop(host, None)

    def client_gone(self, session: int) -> None:
        """A client is gone: it provides nothing more. What its session refers to stays."""
        for entry in self.with_client.pop(session, {}).values():
            entry.client = 0
            entry.last = "its client is gone, and no host had got it yet"
            self.sources.withdrawn(entry, -session)
        self.sources.gone(-session)

    # ----------------------------------------------------------------- after a restart

    def expect(self, object_id: bytes, length: int) -> Entry:
        """Note that there should be an object; where it is, somebody is about to say."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, length)
            entry.last = "nobody has it since the controller was started again"
        elif not entry.length:
            entry.length = length
        return entry

    def held(self, host: int, object_ids: list[bytes], lengths: list[int]) -> None:
        """A host says what is in its store."""
        if self.rebuilding:
            for object_id, length in zip(object_ids, lengths, strict=False):
                self._copy_at(self.expect(object_id, length), host)
        else:
            self.copied(host, object_ids)

    def used(self, session: int, object_ids: list[bytes]) -> None:
        """A client says to which objects it has references."""
        for object_id in object_ids:
            if self.rebuilding:
                self.expect(object_id, 0)
            self.refer(session, object_id)

    def rebuilt(self) -> None:
        """All have spoken: what nobody uses is freed, and what nobody has is lost."""
        self.rebuilding = self.sources.patient = False
        self.touched.update(self.entries)

    # --------------------------------------------------------------- objects that come

    def made(self, object_id: bytes, length: int, host: int = 0, client: int = 0) -> bool:
        """There is an object, or another copy of one.

        Args:
            object_id: Its id.
            length: Its bytes; what was said first is believed.
            host: The host that has it, or 0.
            client: Otherwise the session whose client has it, or 0.

        Returns:
            False if it was freed already: then so is this copy.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            if object_id in self._freed:
                self._to_free.setdefault(host or -client, []).append(object_id)
                return False
            entry = self.entries[object_id] = Entry(object_id, length)
        if host:
            self._copy_at(entry, host)
        elif client and not entry.client:
            entry.client = client
            self.with_client.setdefault(client, {})[object_id] = entry
            entry.lost = False
        self._touch(entry)
        return True

    def copied(self, host: int, object_ids: Iterable[bytes]) -> None:
        """A host has got objects; those that nobody wants any more it is to free."""
        for object_id in object_ids:
            entry = self.expect(object_id, 0) if self.rebuilding else self.entries.get(object_id)
            if entry is None:
                self._to_free.setdefault(host, []).append(object_id)
            else:
                self._copy_at(entry, host)

    def stray(self, host: int, object_id: bytes) -> None:
        """A host has made an object for nobody."""
        if self.rebuilding:  # its result may be with a client that is about to say so
            self._copy_at(self.expect(object_id, 0), host)
        elif object_id not in self.entries:
            self._to_free.setdefault(host, []).append(object_id)

    def _copy_at(self, entry: Entry, host: int) -> None:
        self._touch(entry)
        there = self.at_host.get(host)
        if there is None:
            entry.last = "the host that had it is gone"
            return
        there[entry.id] = entry
        entry.holders.add(host)
        entry.lost = False
        self.sources.forget(entry, host)

    # --------------------------------------------------------------------- references

    def refer(self, referrer: int, object_id: bytes) -> None:
        """Note that a session, or a task whose result waits, refers to an object."""
        entry = self.entries.get(object_id)
        if entry is not None:
            entry.references.add(referrer)
            self.references.setdefault(referrer, {})[object_id] = entry

    def release(self, referrer: int, object_ids: Iterable[bytes]) -> None:
        """End references; what is not referred to is passed over."""
        mine = self.references.get(referrer)
        if mine is None:
            return
        for object_id in object_ids:
            entry = mine.pop(object_id, None)
            if entry is not None:
                self._released(referrer, entry)
        if not mine:
            del self.references[referrer]

    def leave(self, referrer: int) -> None:
        """End all references of a session, or of a task's result."""
        for entry in self.references.pop(referrer, {}).values():
            self._released(referrer, entry)

    def _released(self, referrer: int, entry: Entry) -> None:
        entry.references.discard(referrer)
        seeker = entry.seekers.get(-referrer)
        if seeker is not None and not seeker.asked:
            self.sources.forget(entry, -referrer)
        if not entry.wanted:
            self._touch(entry)

    def need(self, task: int, object_ids: Iterable[bytes]) -> None:
        """Note that a task needs objects, all of which are there."""
        for object_id in object_ids:
            self.entries[object_id].tasks.add(task)

    def need_no_more(self, task: int, object_ids: Iterable[bytes]) -> None:
        """Note that a task has ended for good."""
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is not None:
                entry.tasks.discard(task)
                if not entry.wanted:
                    self._touch(entry)

    def problem(self, object_ids: Iterable[bytes]) -> str:
        """Return why a task that needs these objects cannot run, or nothing."""
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if self.rebuilding:
                self.expect(object_id, 0)
            elif entry is None:
                return self._unknown(object_id)
            elif not entry.available:
                return f"{entry} is lost: {entry.last}"
        return ""

    def _unknown(self, object_id: bytes) -> str:
        known = self._freed.get(object_id)
        return known or (
            f"object {short(object_id)} is not known to the controller: "
            f"it was freed long ago, or it never was there"
        )

    # ---------------------------------------------------------------------- searching

    def seek(self, place: Place, object_id: bytes, failed: int = 0, problem: str = "") -> None:
        """A host or a client wants to know where an object is.

        Args:
            place: Who asks.
            object_id: The object.
            failed: The host from which it could not be fetched, or 0.
            problem: Why not.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            self._send(place, Source(object_id, 0, 0, self._unknown(object_id)))
            return
        if place in entry.holders:  # it should know
            entry.holders.discard(place)
            del self.at_host[place][object_id]
            entry.last = f"{self._name(place)} does not have it any more"
        self.sources.seek(entry, place, failed, problem)

    def not_provided(self, session: int, object_id: bytes, host: int, problem: str) -> None:
        """A client could not bring an object to a host."""
        entry = self.entries.get(object_id)
        if entry is not None:
            self.sources.not_provided(entry, -session, host, problem)

    # ----------------------------------------------------------------------- settling

    def settle(self) -> None:
        """Free what nobody refers to, serve those who seek, find out what is lost."""
        while self.touched:
            touched, self.touched = self.touched, {}
            for object_id, entry in touched.items():
                if self.entries.get(object_id) is not entry:
                    continue
                if not entry.wanted and not self.rebuilding:
                    self._free(entry)
                    continue
                self.sources.patient = self.rebuilding
                self.sources.serve(entry)
                if self.rebuilding:
                    continue
                if not entry.lost and not entry.available:
                    entry.lost = True
                    text = f"{entry} is lost: {entry.last}"
                    self.missing += [(task, text) for task in sorted(entry.tasks)]

    def take_out(self) -> list[tuple[Place, Message]]:
        """Return the messages that are to be sent, and forget them."""
        out, self.out = self.out, []
        freeing, self._to_free = self._to_free, {}
        for place, object_ids in freeing.items():
            for start in range(0, len(object_ids), _MANY):
                out.append((place, Free(object_ids[start : start + _MANY])))
        return out

    def _free(self, entry: Entry) -> None:
        text = f"{entry} was freed: nothing referred to it any more"
        if entry.lost:
            text = f"{entry} is lost: {entry.last}"
        for place in self._copies(entry):
            self._to_free.setdefault(place, []).append(entry.id)
        for place, seeker in list(entry.seekers.items()):
            if seeker.asked:
                self.sources.refuse(entry, place, seeker, text)
            else:
                self.sources.forget(entry, place)
        self.sources.serve(entry)  # it stands in no queue any more
        for host in entry.holders:
            del self.at_host[host][entry.id]
        if entry.client:
            self._forget_client(entry)
        del self.entries[entry.id]
        self._remember(entry.id, text)

    def _copies(self, entry: Entry) -> Iterator[Place]:
        """Return where there are copies, whole or in the making."""
        yield from entry.holders
        if entry.client:
            yield -entry.client
        for place, seeker in entry.seekers.items():
            if place > 0 and not seeker.asked:
                yield place

    def _forget_client(self, entry: Entry) -> None:
        there = self.with_client[entry.client]
        del there[entry.id]
        if not there:
            del self.with_client[entry.client]
        entry.client = 0

    def _remember(self, object_id: bytes, text: str) -> None:
        if len(self._freed) >= MAX_REMEMBERED:
            del self._freed[next(iter(self._freed))]
        self._freed[object_id] = text

    # --------------------------------------------------------------------- for people

    def why(self, host: int, object_ids: Iterable[bytes]) -> str:
        """Return what a host lacks of what a task needs, and how it stands, or nothing."""
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is not None and host not in entry.holders:
                return self.sources.why(entry, host)
        return ""

    def usage(self, host: int) -> tuple[int, int]:
        """Return how many objects a host has, and how many bytes they have together."""
        there = self.at_host.get(host, {})
        return len(there), sum(entry.length for entry in there.values())

    def sole(self, host: int) -> int:
        """Return how many objects are wanted that would be lost with a host."""
        there = self.at_host.get(host, {}).values()
        return sum(one.wanted and len(one.holders) == 1 and not one.client for one in there)
