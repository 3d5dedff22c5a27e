"""The bookkeeping of a host's store: which objects there are, where, and who uses them.

It does no input or output: its methods take what has happened and return what is to be done. Requests
are known by numbers that the shell gives them; each is answered by exactly one
:class:`~ipkernel.objects.entries.Answer` or :class:`~ipkernel.objects.entries.Fail`, unless it is
cancelled.

An object is written, sealed, and from then on never changed. It stays where it is while anybody has a
lease on it. When memory is short, objects that nobody has leased go to disk, the least recently used
first, and come back when they are asked for. A freed object is unknown at once, but its bytes
stay until the last lease is released.

Requests for room are served one after the other, so that a large one is not overtaken for ever by
small ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from ipkernel.errors import ObjectError, ObjectLost, TransferError, UnknownObject
from ipkernel.objects.allocator import Allocator, Cut
from ipkernel.objects.entries import (
    Answer,
    CloseSegment,
    Discard,
    Entry,
    Fail,
    Instruction,
    MakeSegment,
    ObjectExists,
    ReadIn,
    RemoveFile,
    State,
    StoreStats,
    Wait,
    Waits,
    WriteOut,
)
from ipkernel.objects.fullness import by_holder, by_owner, store_full
from ipkernel.objects.interfaces import ObjectInfo

__all__ = ["Catalog"]

_JOBS: Final = 4
"""Copies to disk at a time."""


@frozen(eq=False)
class _Want:
    """Room is wanted for an object: to write it (then ``wait`` is told), or to read it back."""

    entry: Entry
    wait: int = 0


class Catalog:
    """The objects of one store.

    Args:
        memory: Finds room in memory.
        disk: Finds room in files, or None if there is no disk.
    """

    def __init__(self, memory: Allocator, disk: Allocator | None = None) -> None:
        self._memory = memory
        self._disk = disk
        self._entries: dict[bytes, Entry] = {}
        self._freed: dict[bytes, list[Entry]] = {}  # but still in use
        self._held: dict[str, Counter[bytes]] = {}  # leases by holder
        self._unused: dict[Entry, None] = {}  # sealed, in memory, not leased; oldest first
        self._unused_bytes = 0
        self._wants: deque[_Want] = deque()
        self._making: dict[int, _Want] = {}  # by number of the segment
        self._waits: dict[int, Wait] = {}
        self._waiting: dict[bytes, dict[int, None]] = {}  # numbers of waits by object
        self._jobs: dict[int, Entry] = {}
        self._last_job = 0

    @property
    def idle(self) -> int:
        """Bytes of memory and disk that are kept for what comes next."""
        return self._memory.idle + (self._disk.idle if self._disk else 0)

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
        entries = list(self._all())
        holders = by_holder(entries)
        leased = (e.region.length for e in entries if e.region is not None and e.busy)
        return StoreStats(
            limit=self._memory.limit,
            used=self._memory.used,
            idle=self._memory.idle,
            disk_limit=self._disk.limit if self._disk else 0,
            disk_used=self._disk.used if self._disk else 0,
            objects=len(self._entries),
            leased=sum(leased),
            owners=by_owner(entries),
            holders=holders,
            waiting=len(self._waits) + len(self._wants) + len(self._making),
        )

    # ---------------------------------------------------------------- writing

    def create(
        self, wait: int, object_id: bytes, size: int, *, owner: int, writer: str
    ) -> list[Instruction]:
        """Make room for a new object; the answer is its Placement."""
        freed = self._freed.get(object_id, [])
        if object_id in self._entries or any(e.state is State.WRITING for e in freed):
            return [Fail(wait, ObjectExists(f"object {object_id.hex()} is there already"))]
        entry = Entry(object_id, size, owner, writer)
        self._entries[object_id] = entry
        self._wants.append(_Want(entry, wait))
        return self._serve()

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
        out = self._available(entry)
        self._settle(entry, out)
        return out + self._serve()

    def abandon(self, object_id: bytes, why: str = "") -> list[Instruction]:
        """The writer of an object has given up. Nothing happens if nobody is writing it."""
        text = why or f"object {object_id.hex()} was not completed: its writer gave up"
        entry = self._written(object_id) or self._entries.get(object_id)
        if entry is None or entry.state is not State.WRITING:
            return []
        return self._unwritten(entry, TransferError(text)) + self._serve()

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
            return [Fail(wait, _unknown(object_id))]
        self._wait(wait, Wait(Waits.LEASE, object_id, holder, bringer))
        if entry is None:
            return []
        if entry.state in (State.SEALED, State.SPILLING):
            return self._available(entry)
        if entry.state is State.SPILLED:
            entry.state = State.RESTORING
            self._wants.append(_Want(entry))
            return self._serve()
        return []

    def release(self, object_id: bytes, holder: str) -> list[Instruction]:
        """End one lease. Nothing happens if there is none."""
        held = self._held.get(holder)
        if not held or not held[object_id]:
            return []
        held[object_id] -= 1
        out: list[Instruction] = []
        if not held[object_id]:
            del held[object_id]
            self._unpin(object_id, holder, out)
        if not held:
            self._held.pop(holder, None)
        return out + self._serve()

    def drop(self, holder: str) -> list[Instruction]:
        """A holder is gone: its leases, what it waits for, and what it was writing."""
        gone = TransferError(f"{holder} is gone")
        waits = [n for n, w in self._waits.items() if w.kind is Waits.LEASE and w.holder == holder]
        out: list[Instruction] = [self._fail(number, gone) for number in waits]
        for object_id in self._held.pop(holder, ()):
            self._unpin(object_id, holder, out)
        for entry in [e for e in self._all() if e.writer == holder and e.state is State.WRITING]:
            text = f"object {entry.object_id.hex()} was not completed: its writer {holder} is gone"
            out += self._unwritten(entry, TransferError(text))
        return out + self._serve()

    def free(self, object_ids: Iterable[bytes]) -> list[Instruction]:
        """Forget objects; those that are in use stay in memory until they are not."""
        out: list[Instruction] = []
        for object_id in object_ids:
            entry = self._entries.get(object_id)
            if entry is not None:
                out += self._forget(entry, UnknownObject(f"object {object_id.hex()} was freed"))
        return out + self._serve()

    # ---------------------------------------------------------------- waiting

    def when_sealed(self, wait: int, object_id: bytes) -> list[Instruction]:
        """Wait until an object is complete, known or not; the answer is its ObjectInfo."""
        entry = self._entries.get(object_id)
        if entry is not None and entry.state is not State.WRITING:
            return [Answer(wait, entry.info)]
        self._wait(wait, Wait(Waits.SEALED, object_id))
        return []

    def wait_freed(self, wait: int, object_id: bytes) -> list[Instruction]:
        """Wait until an object is not known; the answer is True."""
        if object_id not in self._entries:
            return [Answer(wait, True)]
        self._wait(wait, Wait(Waits.FREED, object_id))
        return []

    def session_gone(self, session: int) -> list[Instruction]:
        """Nothing will come from a session any more."""
        waits = {n: w for n, w in self._waits.items() if w.bringer == session}
        return [
            self._fail(
                number,
                UnknownObject(
                    f"object {wait.object_id.hex()} did not come: session {session} is gone"
                ),
            )
            for number, wait in waits.items()
        ]

    def cancel(self, wait: int) -> list[Instruction]:
        """Somebody does not wait any more; he gets no answer."""
        if wait in self._waits:
            self._take_wait(wait)
            return []
        for want in [*self._wants, *self._making.values()]:
            if want.wait == wait:
                gone = TransferError(f"object {want.entry.object_id.hex()} will not be written")
                out = self._unwritten(want.entry, gone)
                return [i for i in out if not (isinstance(i, Fail) and i.wait == wait)] + (
                    self._serve()
                )
        return []

    # ---------------------------------------------------------------- what the shell reports

    def segment_made(self, number: int) -> list[Instruction]:
        """A segment is there."""
        want = self._making.pop(number, None)
        out = [] if want is None else self._placed(want)
        return out + self._serve()

    def segment_failed(self, number: int, text: str) -> list[Instruction]:
        """A segment could not be made."""
        self._memory.lose(number)
        want = self._making.pop(number, None)
        out: list[Instruction] = []
        if want is not None:
            want.entry.region = None
            out = self._refuse(want, f"the system has no more shared memory: {text}")
        return out + self._serve()

    def written(self, job: int) -> list[Instruction]:
        """An object is on disk."""
        entry = self._jobs.pop(job)
        entry.job = 0
        out: list[Instruction] = []
        if entry.freed or entry.pins:
            self._free_disk(entry, out)
            entry.state = State.SEALED
            self._settle(entry, out)
        else:
            entry.state = State.SPILLED
            self._free_memory(entry, out)
        return out + self._serve()

    def write_failed(self, job: int, text: str) -> list[Instruction]:
        """An object could not be written to disk; it stays in memory."""
        entry = self._jobs.pop(job)
        entry.job = 0
        entry.state = State.SEALED
        out: list[Instruction] = []
        self._free_disk(entry, out)
        self._settle(entry, out)
        return out + self._serve(f"what is not in use could not be moved to disk: {text}")

    def read(self, job: int) -> list[Instruction]:
        """An object is in memory again."""
        entry = self._jobs.pop(job)
        entry.job = 0
        entry.state = State.SEALED
        out: list[Instruction] = []
        self._free_disk(entry, out)
        if not entry.freed:
            out += self._available(entry)
        self._settle(entry, out)
        return out + self._serve()

    def read_failed(self, job: int, text: str) -> list[Instruction]:
        """An object could not be read from disk; perhaps the next attempt succeeds."""
        entry = self._jobs.pop(job)
        entry.job = 0
        entry.state = State.SPILLED
        out: list[Instruction] = []
        self._free_memory(entry, out)
        if entry.freed:
            self._settle(entry, out)
        else:
            problem = f"object {entry.object_id.hex()} cannot be read back from disk: {text}"
            out += self._fail_waits(entry.object_id, ObjectLost(problem), [Waits.LEASE])
        return out + self._serve()

    def tidy(self) -> list[Instruction]:
        """Give back memory and files that have not been used since the last call."""
        out = _given(self._memory.tidy())
        if self._disk is not None:
            out += _removed(self._disk.tidy())
        return out

    def close(self) -> list[Instruction]:
        """Fail everybody who waits."""
        error = ObjectError("the store of this host is closed")
        waits = [*self._waits, *(w.wait for w in [*self._wants, *self._making.values()] if w.wait)]
        self._waits.clear()
        self._waiting.clear()
        self._wants.clear()
        self._making.clear()
        return [Fail(wait, error) for wait in waits]

    # ---------------------------------------------------------------- room

    def _serve(self, problem: str = "") -> list[Instruction]:
        """Give room to whoever wants it, in turn, as far as that is possible now.

        Args:
            problem: What has gone wrong with the last attempt to make room for the first of them.
        """
        out: list[Instruction] = []
        while self._wants and not self._making:
            want = self._wants[0]
            fit = self._memory.allocate(want.entry.size)
            out += _given(fit.given)
            if fit.region is not None:
                self._wants.popleft()
                want.entry.region = fit.region
                if fit.new:
                    self._making[fit.region.segment] = want
                    out.append(MakeSegment(fit.region.segment, fit.new))
                else:
                    out += self._placed(want)
            elif problem or not self._make_room(want.entry, out):
                self._wants.popleft()
                out += self._refuse(want, problem)
                problem = ""
            else:
                break
        return out

    def _make_room(self, entry: Entry, out: list[Instruction]) -> bool:
        """Begin to move objects to disk; return whether there is hope that it suffices."""
        coming = sum(e.region.length for e in self._jobs.values() if _leaving(e) and e.region)
        length = self._memory.round(entry.size)
        missing = self._memory.used + length - self._memory.limit - coming
        if length > self._memory.limit or missing > self._unused_bytes:
            return False
        if missing <= 0 and coming:
            return True
        for victim in list(self._unused):
            if len(self._jobs) >= _JOBS:
                break
            freed = self._spill(victim, out)
            missing -= freed
            if freed and missing <= 0:
                break
        return bool(self._jobs)

    def _spill(self, entry: Entry, out: list[Instruction]) -> int:
        """Begin to copy an object to disk; return how many bytes of memory that will free."""
        if self._disk is None or entry.region is None:
            return 0
        fit = self._disk.allocate(entry.size)
        out += _removed(fit.given)
        if fit.region is None:
            return 0
        self._use(entry)
        entry.state = State.SPILLING
        entry.disk = fit.region
        out.append(WriteOut(self._job(entry), entry.placement, fit.region))
        return entry.region.length

    def _placed(self, want: _Want) -> list[Instruction]:
        """There is room for an object."""
        entry = want.entry
        if entry.state is State.WRITING:
            return [Answer(want.wait, entry.placement)]
        assert entry.disk is not None
        return [ReadIn(self._job(entry), entry.placement, entry.disk)]

    def _refuse(self, want: _Want, problem: str) -> list[Instruction]:
        """There is no room for an object."""
        entry = want.entry
        error = store_full(entry.size, self.stats(), problem)
        if entry.state is State.WRITING:
            del self._entries[entry.object_id]
            return [Fail(want.wait, error), *self._lost(entry.object_id, error)]
        entry.state = State.SPILLED
        return self._fail_waits(entry.object_id, error, [Waits.LEASE])

    def _job(self, entry: Entry) -> int:
        self._last_job += 1
        entry.job = self._last_job
        self._jobs[entry.job] = entry
        return entry.job

    # ---------------------------------------------------------------- objects

    def _all(self) -> Iterator[Entry]:
        """Every object that takes room, freed ones included."""
        yield from self._entries.values()
        for entries in self._freed.values():
            yield from entries

    def _written(self, object_id: bytes) -> Entry | None:
        """The object with this id that has a place and is being written, if there is one."""
        for entry in self._incarnations(object_id):
            if entry.state is State.WRITING and entry.region is not None:
                return entry
        return None

    def _incarnations(self, object_id: bytes) -> list[Entry]:
        known = self._entries.get(object_id)
        return [*self._freed.get(object_id, ()), *([known] if known else ())]

    def _available(self, entry: Entry) -> list[Instruction]:
        """An object is complete and in memory: answer those who wait for it."""
        out: list[Instruction] = []
        if entry.freed:
            return out
        for number in self._waiting_for(entry.object_id, [Waits.LEASE, Waits.SEALED]):
            wait = self._take_wait(number)
            if wait.kind is Waits.LEASE:
                self._pin(entry, wait.holder)
                out.append(Answer(number, entry.placement))
            else:
                out.append(Answer(number, entry.info))
        return out

    def _pin(self, entry: Entry, holder: str) -> None:
        self._use(entry)
        entry.pins.add(holder)
        self._held.setdefault(holder, Counter())[entry.object_id] += 1

    def _unpin(self, object_id: bytes, holder: str, out: list[Instruction]) -> None:
        # Leases are counted by id. Should an object have been freed and made again while its
        # holder had a lease, nobody can tell which of the two a release means; so all stay.
        for entry in self._incarnations(object_id):
            if holder in entry.pins:
                entry.pins.discard(holder)
                self._settle(entry, out)

    def _use(self, entry: Entry) -> None:
        """An object must stay where it is from now on."""
        if entry in self._unused:
            assert entry.region is not None
            del self._unused[entry]
            self._unused_bytes -= entry.region.length

    def _settle(self, entry: Entry, out: list[Instruction]) -> None:
        """If nobody uses an object any more, it may go to disk, or goes away if it was freed."""
        if entry.busy:
            return
        if entry.freed:
            self._free_memory(entry, out)
            self._free_disk(entry, out)
            entries = self._freed.get(entry.object_id, [])
            if entry in entries:
                entries.remove(entry)
                if not entries:
                    del self._freed[entry.object_id]
        elif entry.state is State.SEALED and entry.region is not None:
            self._unused[entry] = None
            self._unused_bytes += entry.region.length

    def _unwritten(self, entry: Entry, error: ObjectError) -> list[Instruction]:
        """An object will not be completed."""
        out: list[Instruction] = []
        if not entry.freed:
            out = self._forget(entry, error)
        if entry.region is not None:
            entry.state = State.SEALED  # nobody writes there any more
            self._settle(entry, out)
        return out

    def _forget(self, entry: Entry, error: ObjectError) -> list[Instruction]:
        """An object is unknown from now on; free its room unless somebody uses it."""
        out: list[Instruction] = []
        self._use(entry)
        entry.freed = True
        del self._entries[entry.object_id]
        out += self._withdraw(entry, error)
        if entry.busy:
            self._freed.setdefault(entry.object_id, []).append(entry)
        else:
            self._settle(entry, out)
        return out + self._lost(entry.object_id, error)

    def _withdraw(self, entry: Entry, error: ObjectError) -> list[Instruction]:
        """An object needs no room any more."""
        wants = [want for want in (*self._wants, *self._making.values()) if want.entry is entry]
        out: list[Instruction] = [Fail(want.wait, error) for want in wants if want.wait]
        self._wants = deque(want for want in self._wants if want.entry is not entry)
        for number in [n for n, want in self._making.items() if want.entry is entry]:
            del self._making[number]
            entry.state = State.SEALED  # nobody was told where to write or read
        return out

    def _lost(self, object_id: bytes, error: ObjectError) -> list[Instruction]:
        """Tell all who wait for an object that it is gone."""
        out: list[Instruction] = [
            Answer(number, True) for number in self._waiting_for(object_id, [Waits.FREED])
        ]
        for answer in out:
            assert isinstance(answer, Answer)
            self._take_wait(answer.wait)
        return out + self._fail_waits(object_id, error, [Waits.LEASE, Waits.SEALED])

    def _free_memory(self, entry: Entry, out: list[Instruction]) -> None:
        if entry.region is not None:
            self._memory.free(entry.region)
            entry.region = None
            out += _given(self._memory.trim())

    def _free_disk(self, entry: Entry, out: list[Instruction]) -> None:
        if entry.disk is not None and self._disk is not None:
            self._disk.free(entry.disk)
            entry.disk = None
            out += _removed(self._disk.trim())

    # ---------------------------------------------------------------- waits

    def _wait(self, number: int, wait: Wait) -> None:
        self._waits[number] = wait
        self._waiting.setdefault(wait.object_id, {})[number] = None

    def _take_wait(self, number: int) -> Wait:
        wait = self._waits.pop(number)
        waiting = self._waiting[wait.object_id]
        del waiting[number]
        if not waiting:
            del self._waiting[wait.object_id]
        return wait

    def _waiting_for(self, object_id: bytes, kinds: list[Waits]) -> list[int]:
        numbers = self._waiting.get(object_id, ())
        return [number for number in numbers if self._waits[number].kind in kinds]

    def _fail(self, number: int, error: Exception) -> Instruction:
        self._take_wait(number)
        return Fail(number, error)

    def _fail_waits(
        self, object_id: bytes, error: ObjectError, kinds: list[Waits]
    ) -> list[Instruction]:
        return [self._fail(number, error) for number in self._waiting_for(object_id, kinds)]


def _leaving(entry: Entry) -> bool:
    """Tell whether an object's memory will be free once its copy is on disk."""
    return not entry.pins and (entry.state is State.SPILLING or entry.freed)


def _unknown(object_id: bytes) -> UnknownObject:
    return UnknownObject(
        f"this host's store has no object {object_id.hex()}: it was freed, or lost"
    )


def _given(cuts: Iterable[Cut]) -> list[Instruction]:
    return [CloseSegment(cut.region.segment) if cut.whole else Discard(cut.region) for cut in cuts]


def _removed(cuts: Iterable[Cut]) -> list[Instruction]:
    return [RemoveFile(cut.region.segment) for cut in cuts if cut.whole]
