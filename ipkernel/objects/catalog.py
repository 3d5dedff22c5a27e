"""The bookkeeping of a host's store: which objects there are, where, and who uses them.

It does no input or output: its methods take what has happened and return what is to be done. Requests
are known by numbers that the shell gives them; each is answered by exactly one
:class:`~ipkernel.objects.entries.Answer` or :class:`~ipkernel.objects.entries.Fail`, unless it is
cancelled.

An object is written, sealed, and from then on never changed. It stays where it is while anybody has a
lease on it. When memory is short, objects that nobody has leased go to disk, and come back when they
are asked for. A freed object is unknown at once, but its bytes stay until the last lease is
released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ipkernel.errors import ObjectError, ObjectLost, TransferError, UnknownObject
from ipkernel.objects.allocator import Allocator
from ipkernel.objects.entries import (
    Answer,
    Entry,
    Fail,
    Instruction,
    ObjectExists,
    State,
    StoreStats,
    Wait,
    Waits,
)
from ipkernel.objects.fullness import by_holder, by_owner, store_full
from ipkernel.objects.interfaces import TRANSIENT, ObjectInfo, Placement
from ipkernel.objects.room import Room, Want
from ipkernel.objects.waiting import Waiting

__all__ = ["Catalog"]

#: How many sessions that are gone are remembered, for those who come late to wait for one.
_REMEMBERED: Final = 1 << 14


class Catalog:
    """The objects of one store.

    Args:
        memory: Finds room in memory.
        disk: Finds room in files, or None if there is no disk.
    """

    def __init__(self, memory: Allocator, disk: Allocator | None = None) -> None:
        self._room = Room(memory, disk, self._refuse)
        self._entries: dict[bytes, Entry] = {}
        self._freed: dict[bytes, list[Entry]] = {}  # but still in use
        self._held: dict[str, Counter[bytes]] = {}  # leases by holder
        self._waiting = Waiting()
        self._gone_sessions: dict[int, None] = {}

    @property
    def idle(self) -> int:
        """Bytes of memory and disk that are kept for what comes next."""
        return self._room.idle

    def info(self, object_id: bytes) -> ObjectInfo | None:
        """Return what is known about an object, or None."""
        entry = self._entries.get(object_id)
        return None if entry is None else entry.info

    def is_written(self, object_id: bytes) -> bool:
        """Tell whether somebody has a place for an object and writes it."""
        return self._written(object_id) is not None

    def is_leased(self, object_id: bytes, holder: str) -> bool:
        """Tell whether a holder has a lease on an object."""
        return holder in self._held and self._held[holder][object_id] > 0

    def stats(self) -> StoreStats:
        """Return how full the store is."""
        memory, disk = self._room.memory, self._room.disk
        entries = list(self._all())
        return StoreStats(
            limit=memory.limit,
            used=memory.used,
            idle=memory.idle,
            disk_limit=disk.limit if disk else 0,
            disk_used=disk.used if disk else 0,
            objects=len(self._entries),
            leased=sum(e.region.length for e in entries if e.region is not None and e.busy),
            owners=by_owner(entries),
            holders=by_holder(entries),
            waiting=len(self._waiting) + len(self._room.wants),
        )

    # ---------------------------------------------------------------- writing

    def create(
        self, wait: int, object_id: bytes, size: int, *, owner: int, writer: str
    ) -> list[Instruction]:
        """Make room for a new object; the answer is its Placement."""
        # Of two that are written under one id, nobody could tell which one is sealed.
        if object_id in self._entries or self.is_written(object_id):
            return [Fail(wait, ObjectExists(f"object {object_id.hex()} is there already"))]
        if owner - TRANSIENT in self._gone_sessions:
            why = f"object {object_id.hex()} is of no use: session {owner - TRANSIENT} is gone"
            return [Fail(wait, UnknownObject(why))]
        entry = Entry(object_id, size, owner, writer)
        self._entries[object_id] = entry
        self._room.want(entry, wait)
        return self._room.serve()

    def seal(self, object_id: bytes, digest: bytes = b"") -> list[Instruction]:
        """An object is complete. Whether it has been freed meanwhile does not matter.

        Raises:
            UnknownObject: Nobody is writing it.
        """
        entry = self._written(object_id)
        if entry is None:
            known = self._entries.get(object_id)
            if known is not None and known.state is not State.WRITING:
                return []
            raise UnknownObject(f"nobody is writing object {object_id.hex()}")
        entry.state = State.SEALED
        entry.digest = digest or entry.digest
        return self._available(entry) + self._room.serve()

    def abandon(self, object_id: bytes) -> list[Instruction]:
        """The writer of an object has given up. Nothing happens if nobody is writing it."""
        entry = self._written(object_id) or self._entries.get(object_id)
        if entry is None or entry.state is not State.WRITING:
            return []
        why = f"object {object_id.hex()} was not completed: its writer gave up"
        return self._unwritten(entry, TransferError(why)) + self._room.serve()

    def set_digest(self, object_id: bytes, digest: bytes) -> None:
        """Note the digest of an object. Nothing happens if it is not known."""
        entry = self._entries.get(object_id)
        if entry is not None:
            entry.digest = digest

    # ---------------------------------------------------------------- reading

    def lease(
        self, wait: int, object_id: bytes, holder: str, *, bringer: int | None = None
    ) -> list[Instruction]:
        """Lease an object; the answer is its Placement."""
        entry = self._entries.get(object_id)
        if entry is None and bringer is None:
            why = f"this host's store has no object {object_id.hex()}: it was freed, or is lost"
            return [Fail(wait, UnknownObject(why))]
        if entry is None and bringer in self._gone_sessions:
            return [Fail(wait, _not_brought(object_id, bringer))]
        self._waiting.add(wait, Wait(Waits.LEASE, object_id, holder, bringer))
        if entry is None:
            return []
        if entry.state in (State.SEALED, State.SPILLING):
            return self._available(entry)
        if entry.state is State.SPILLED:
            entry.state = State.RESTORING
            self._room.want(entry)
            return self._room.serve()
        return []

    def lease_now(self, object_id: bytes, holder: str) -> Placement | None:
        """Lease an object that is complete and in memory; None if it is not."""
        entry = self._entries.get(object_id)
        if entry is None or entry.state is not State.SEALED:
            return None
        self._room.use(entry)
        self._pin(entry, holder)
        return entry.placement

    def share(self, object_ids: Iterable[bytes], holder: str, other: str) -> None:
        """Give ``other`` a lease on each of these objects that ``holder`` has one on."""
        for object_id in object_ids:
            entries = [e for e in self._incarnations(object_id) if holder in e.pins]
            for entry in entries:
                entry.pins.add(other)
            if entries:
                self._held.setdefault(other, Counter())[object_id] += 1

    def release(self, object_id: bytes, holder: str) -> list[Instruction]:
        """End one lease. Nothing happens if there is none."""
        if not self.is_leased(object_id, holder):
            return []
        held = self._held[holder]
        held[object_id] -= 1
        if held[object_id]:
            return []
        del held[object_id]
        if not held:
            del self._held[holder]
        return self._unpin(object_id, holder) + self._room.serve()

    def drop(self, holder: str) -> list[Instruction]:
        """A holder is gone: its leases, what it waits for, and what it was writing."""
        waits = self._waiting.take_where(
            lambda wait: wait.kind is Waits.LEASE and wait.holder == holder
        )
        out = _fail(waits, TransferError(f"{holder} is gone"))
        for object_id in self._held.pop(holder, ()):
            out += self._unpin(object_id, holder)
        for entry in [e for e in self._all() if e.writer == holder and e.state is State.WRITING]:
            why = f"object {entry.object_id.hex()} was not completed: its writer {holder} is gone"
            out += self._unwritten(entry, TransferError(why))
        return out + self._room.serve()

    def free(self, object_ids: Iterable[bytes]) -> list[Instruction]:
        """Forget objects; those that are in use stay in memory until they are not."""
        out: list[Instruction] = []
        for object_id in object_ids:
            entry = self._entries.get(object_id)
            if entry is not None:
                out += self._forget(entry, UnknownObject(f"object {object_id.hex()} was freed"))
        return out + self._room.serve()

    def ids(self) -> list[bytes]:
        """Return the objects that there are."""
        return list(self._entries)

    def sealed(self) -> list[tuple[bytes, int]]:
        """Return the objects that are complete, and their lengths."""
        entries = self._entries.values()
        return [(one.object_id, one.size) for one in entries if one.state is not State.WRITING]

    # ---------------------------------------------------------------- waiting

    def when_sealed(self, wait: int, object_id: bytes) -> list[Instruction]:
        """Wait until an object is complete, known or not; the answer is its ObjectInfo."""
        entry = self._entries.get(object_id)
        if entry is not None and entry.state is not State.WRITING:
            return [Answer(wait, entry.info)]
        self._waiting.add(wait, Wait(Waits.SEALED, object_id))
        return []

    def wait_freed(self, wait: int, object_id: bytes) -> list[Instruction]:
        """Wait until an object is not known; the answer is True."""
        if object_id not in self._entries:
            return [Answer(wait, True)]
        self._waiting.add(wait, Wait(Waits.FREED, object_id))
        return []

    def session_gone(self, session: int) -> list[Instruction]:
        """Nothing will come from a session any more, and what is transient of it goes."""
        self._gone_sessions[session] = None
        if len(self._gone_sessions) > _REMEMBERED:
            del self._gone_sessions[next(iter(self._gone_sessions))]
        waits = self._waiting.take_where(lambda wait: wait.bringer == session)
        out: list[Instruction] = [
            Fail(number, _not_brought(wait.object_id, session)) for number, wait in waits.items()
        ]
        transient = [
            object_id
            for object_id, entry in self._entries.items()
            if entry.owner == session + TRANSIENT
        ]
        return out + self.free(transient)

    def cancel(self, wait: int) -> list[Instruction]:
        """Somebody does not wait any more; he gets no answer."""
        if wait in self._waiting:
            self._waiting.remove(wait)
            return []
        for want in self._room.wants:
            if want.wait == wait:
                entry = want.entry
                why = f"object {entry.object_id.hex()} will not be written"
                out = self._unwritten(entry, TransferError(why)) + self._room.serve()
                return [i for i in out if not (isinstance(i, Fail) and i.wait == wait)]
        return []

    # ---------------------------------------------------------------- what the shell reports

    def segment_made(self, number: int) -> list[Instruction]:
        """A segment is there."""
        return self._room.segment_made(number)

    def segment_failed(self, number: int, text: str) -> list[Instruction]:
        """A segment could not be made."""
        return self._room.segment_failed(number, text)

    def written(self, job: int) -> list[Instruction]:
        """An object is on disk."""
        entry = self._room.finished(job)
        out: list[Instruction] = []
        if entry.freed or entry.pins:
            entry.state = State.SEALED
            self._room.free_disk(entry, out)
            out += self._settle(entry)
        else:
            entry.state = State.SPILLED
            self._room.free_memory(entry, out)
        return out + self._room.serve()

    def write_failed(self, job: int, text: str) -> list[Instruction]:
        """An object could not be written to disk; it stays in memory."""
        entry = self._room.finished(job)
        entry.state = State.SEALED
        out: list[Instruction] = []
        self._room.free_disk(entry, out)
        out += self._settle(entry)
        return out + self._room.serve(f"what is not in use could not be moved to disk: {text}")

    def read(self, job: int) -> list[Instruction]:
        """An object is in memory again."""
        entry = self._room.finished(job)
        entry.state = State.SEALED
        out: list[Instruction] = []
        self._room.free_disk(entry, out)
        return out + self._available(entry) + self._room.serve()

    def read_failed(self, job: int, text: str) -> list[Instruction]:
        """An object could not be read from disk; perhaps the next attempt succeeds."""
        entry = self._room.finished(job)
        entry.state = State.SPILLED
        out: list[Instruction] = []
        self._room.free_memory(entry, out)
        if entry.freed:
            out += self._settle(entry)
        else:
            why = f"object {entry.object_id.hex()} cannot be read back from disk: {text}"
            out += _fail(self._waiting.take(entry.object_id, Waits.LEASE), ObjectLost(why))
        return out + self._room.serve()

    def tidy(self) -> list[Instruction]:
        """Give back memory and files that have not been used since the last call."""
        return self._room.tidy()

    # ---------------------------------------------------------------- objects

    def _all(self) -> Iterator[Entry]:
        """Every object that takes room, freed ones included."""
        yield from self._entries.values()
        for entries in self._freed.values():
            yield from entries

    def _incarnations(self, object_id: bytes) -> list[Entry]:
        """All objects with this id: those that were freed but are in use, and the known one."""
        known = self._entries.get(object_id)
        return [*self._freed.get(object_id, ()), *([known] if known else ())]

    def _written(self, object_id: bytes) -> Entry | None:
        """The object with this id that has a place and is being written, if there is one."""
        for entry in self._incarnations(object_id):
            if entry.state is State.WRITING and entry.region is not None:
                return entry
        return None

    def _available(self, entry: Entry) -> list[Instruction]:
        """An object is complete and in memory: answer those who wait for it."""
        out: list[Instruction] = []
        self._room.use(entry)
        if not entry.freed:
            waits = self._waiting.take(entry.object_id, Waits.LEASE, Waits.SEALED)
            for number, wait in waits.items():
                if wait.kind is Waits.LEASE:
                    self._pin(entry, wait.holder)
                    out.append(Answer(number, entry.placement))
                else:
                    out.append(Answer(number, entry.info))
        return out + self._settle(entry)

    def _pin(self, entry: Entry, holder: str) -> None:
        """Count one more lease of an object."""
        entry.pins.add(holder)
        self._held.setdefault(holder, Counter())[entry.object_id] += 1

    def _unpin(self, object_id: bytes, holder: str) -> list[Instruction]:
        """A holder has no more leases on an object."""
        # Leases are counted by id. Should an object have been freed and made again while its
        # holder had a lease, nobody can tell which of the two a release means; so both stay.
        out: list[Instruction] = []
        for entry in self._incarnations(object_id):
            if holder in entry.pins:
                entry.pins.remove(holder)
                out += self._settle(entry)
        return out

    def _settle(self, entry: Entry) -> list[Instruction]:
        """If nobody uses an object any more, it may go to disk, or goes away if it was freed."""
        out: list[Instruction] = []
        if entry.busy:
            return out
        if not entry.freed:
            self._room.settle(entry)
            return out
        self._room.free_memory(entry, out)
        self._room.free_disk(entry, out)
        entries = self._freed.get(entry.object_id, [])
        if entry in entries:
            entries.remove(entry)
            if not entries:
                del self._freed[entry.object_id]
        return out

    def _unwritten(self, entry: Entry, error: ObjectError) -> list[Instruction]:
        """An object will not be completed, and nobody writes it any more."""
        out = [] if entry.freed else self._forget(entry, error)
        entry.state = State.SEALED
        return out + self._settle(entry)

    def _forget(self, entry: Entry, error: ObjectError) -> list[Instruction]:
        """An object is unknown from now on; free its room unless somebody uses it."""
        entry.freed = True
        del self._entries[entry.object_id]
        wants = self._room.withdraw(entry)
        out: list[Instruction] = [Fail(want.wait, error) for want in wants if want.wait]
        if entry.busy:
            self._freed.setdefault(entry.object_id, []).append(entry)
        return out + self._settle(entry) + self._gone(entry.object_id, error)

    def _refuse(self, want: Want, problem: str) -> list[Instruction]:
        """There is no room for an object."""
        entry = want.entry
        error = store_full(entry.size, self.stats(), problem)
        if entry.state is State.WRITING:
            del self._entries[entry.object_id]
            return [Fail(want.wait, error), *self._gone(entry.object_id, error)]
        entry.state = State.SPILLED
        return _fail(self._waiting.take(entry.object_id, Waits.LEASE), error)

    def _gone(self, object_id: bytes, error: ObjectError) -> list[Instruction]:
        """Tell all who wait for an object that there is none."""
        out: list[Instruction] = [
            Answer(number, True) for number in self._waiting.take(object_id, Waits.FREED)
        ]
        return out + _fail(self._waiting.take(object_id, Waits.LEASE, Waits.SEALED), error)


def _not_brought(object_id: bytes, session: int | None) -> UnknownObject:
    return UnknownObject(f"object {object_id.hex()} did not come: session {session} is gone")


def _fail(waits: Mapping[int, Wait], error: ObjectError) -> list[Instruction]:
    return [Fail(number, error) for number in waits]
