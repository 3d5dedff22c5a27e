"""Who gets room in a store's memory next, and which objects go to disk for that.

Requests are served one after the other, so that a large one is not overtaken for ever by small
ones. Free memory is taken first, then memory that is kept though nobody uses it, and at last
that of objects which nobody has leased: they are copied to disk, the least recently used first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from attrs import frozen

from ipkernel.objects.allocator import Allocator, Cut
from ipkernel.objects.entries import (
    Answer,
    CloseSegment,
    Discard,
    Entry,
    Instruction,
    MakeSegment,
    ReadIn,
    RemoveFile,
    State,
    WriteOut,
)

__all__ = ["Room", "Want"]

_JOBS: Final = 4
"""Copies to and from disk that run at a time, from which on no more objects are moved out."""

_CANDIDATES: Final = 1024
"""How many objects are looked at, when some are to be moved to disk."""


@frozen(eq=False)
class Want:
    """Room is wanted for an object: to write it (then ``wait`` is told), or to read it back.

    Attributes:
        entry: The object.
        wait: Number of the request, or 0.
    """

    entry: Entry
    wait: int = 0


class Room:
    """Hands out the memory and the disk of a store.

    Args:
        memory: Finds room in memory.
        disk: Finds room in files, or None if there is no disk.
        refuse: Called with a want that cannot be met and with what has gone wrong, if anything
            has; returns what follows from that.

    Attributes:
        memory: As given.
        disk: As given.
    """

    def __init__(
        self,
        memory: Allocator,
        disk: Allocator | None,
        refuse: Callable[[Want, str], list[Instruction]],
    ) -> None:
        self.memory = memory
        self.disk = disk
        self._refuse = refuse
        self._unused: dict[Entry, None] = {}  # may go to disk; the least recently used first
        self._unused_bytes = 0
        self._wants: deque[Want] = deque()
        self._making: dict[int, Want] = {}  # by number of the segment that is made for it
        self._jobs: dict[int, Entry] = {}
        self._last_job = 0

    @property
    def idle(self) -> int:
        """Bytes of memory and disk that are kept for what comes next."""
        return self.memory.idle + (self.disk.idle if self.disk else 0)

    @property
    def wants(self) -> list[Want]:
        """Those who wait for room, in their order."""
        return [*self._making.values(), *self._wants]

    @property
    def unused(self) -> list[Entry]:
        """The objects that may go to disk, in the order in which they are chosen."""
        return list(self._unused)

    # ---------------------------------------------------------------- asking for room

    def want(self, entry: Entry, wait: int = 0) -> None:
        """Ask for memory for an object. :meth:`serve` hands it out."""
        self._wants.append(Want(entry, wait))

    def withdraw(self, entry: Entry) -> list[Want]:
        """Take back the requests for an object; return them."""
        found = [want for want in self.wants if want.entry is entry]
        self._wants = deque(want for want in self._wants if want.entry is not entry)
        for number in [n for n, want in self._making.items() if want.entry is entry]:
            del self._making[number]
            entry.state = State.SEALED  # nobody was told to write or read there
        return found

    def serve(self, problem: str = "") -> list[Instruction]:
        """Give room to those who want it, as far as that is possible now.

        Args:
            problem: What has gone wrong with making room for the first of them.
        """
        out: list[Instruction] = []
        while self._wants and not self._making:
            want = self._wants[0]
            fit = self.memory.allocate(want.entry.size)
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

    def segment_made(self, number: int) -> list[Instruction]:
        """A segment is there."""
        want = self._making.pop(number, None)
        return ([] if want is None else self._placed(want)) + self.serve()

    def segment_failed(self, number: int, text: str) -> list[Instruction]:
        """A segment could not be made."""
        self.memory.lose(number)
        want = self._making.pop(number, None)
        out: list[Instruction] = []
        if want is not None:
            want.entry.region = None
            out = self._refuse(want, f"the system has no more shared memory: {text}")
        return out + self.serve()

    # ---------------------------------------------------------------- giving room back

    def use(self, entry: Entry) -> None:
        """An object must stay where it is from now on."""
        if entry in self._unused:
            assert entry.region is not None
            del self._unused[entry]
            self._unused_bytes -= entry.region.length

    def settle(self, entry: Entry) -> None:
        """An object that is not in use may go to disk from now on."""
        if entry.state is State.SEALED and entry.region is not None and not entry.busy:
            self._unused[entry] = None
            self._unused_bytes += entry.region.length

    def free_memory(self, entry: Entry, out: list[Instruction]) -> None:
        """Take an object's place in memory away, if it has one."""
        if entry.region is not None:
            self.use(entry)
            self.memory.free(entry.region)
            entry.region = None
            out += _given(self.memory.trim())

    def free_disk(self, entry: Entry, out: list[Instruction]) -> None:
        """Take an object's place on disk away, if it has one."""
        if entry.disk is not None and self.disk is not None:
            self.disk.free(entry.disk)
            entry.disk = None
            out += _removed(self.disk.trim())

    def tidy(self) -> list[Instruction]:
        """Give back memory and files that have not been used since the last call."""
        out = _given(self.memory.tidy())
        if self.disk is not None:
            out += _removed(self.disk.tidy())
        return out

    # ---------------------------------------------------------------- copies

    def finished(self, job: int) -> Entry:
        """A copy to or from disk has ended; return its object."""
        entry = self._jobs.pop(job)
        entry.job = 0
        return entry

    def _begun(self, entry: Entry) -> int:
        self._last_job += 1
        entry.job = self._last_job
        self._jobs[entry.job] = entry
        return entry.job

    def _placed(self, want: Want) -> list[Instruction]:
        """There is room for an object."""
        entry = want.entry
        if entry.state is State.WRITING:
            return [Answer(want.wait, entry.placement)]
        assert entry.disk is not None
        return [ReadIn(self._begun(entry), entry.placement, entry.disk)]

    def _make_room(self, entry: Entry, out: list[Instruction]) -> bool:
        """Begin to move objects to disk; return whether there is hope that it suffices."""
        length = self.memory.round(entry.size)
        coming = sum(e.region.length for e in self._jobs.values() if e.region and _leaving(e))
        missing = self.memory.used + length - self.memory.limit - coming
        if length > self.memory.limit or missing > self._unused_bytes:
            return False
        if missing <= 0 and coming:
            return True
        for victim in list(islice(self._unused, _CANDIDATES)):
            if len(self._jobs) >= _JOBS:
                break
            moved = self._move_out(victim, out)
            missing -= moved
            if moved and missing <= 0:
                break
        return bool(self._jobs)

    def _move_out(self, entry: Entry, out: list[Instruction]) -> int:
        """Begin to copy an object to disk; return how many bytes of memory that will free."""
        if self.disk is None or entry.region is None:
            return 0
        fit = self.disk.allocate(entry.size)
        out += _removed(fit.given)
        if fit.region is None:
            return 0
        self.use(entry)
        entry.state = State.SPILLING
        entry.disk = fit.region
        out.append(WriteOut(self._begun(entry), entry.placement, fit.region))
        return entry.region.length


def _leaving(entry: Entry) -> bool:
    """Tell whether an object's memory will be free once the copy that is at work has ended."""
    return not entry.pins and (entry.state is State.SPILLING or entry.freed)


def _given(cuts: Iterable[Cut]) -> list[Instruction]:
    return [CloseSegment(cut.region.segment) if cut.whole else Discard(cut.region) for cut in cuts]


def _removed(cuts: Iterable[Cut]) -> list[Instruction]:
    return [RemoveFile(cut.region.segment) for cut in cuts if cut.whole]
