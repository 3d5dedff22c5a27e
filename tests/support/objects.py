"""Memory, disk and threads for stores under test, which do nothing but what they are told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from ipkernel.objects.allocator import Allocator
from ipkernel.objects.catalog import Catalog
from ipkernel.objects.entries import Answer, Fail, MakeSegment, ReadIn, WriteOut
from ipkernel.objects.interfaces import Placement
from ipkernel.objects.memory import IMemory, ISegment

__all__ = [
    "PAGE",
    "Books",
    "FakeDisk",
    "FakeMemory",
    "FakeSegment",
    "FakeThreads",
    "Outcome",
    "outcome",
]

PAGE = 16


@implementer(ISegment)
class FakeSegment:
    """A segment of ordinary memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self.closed = False
        self.discarded: list[tuple[int, int]] = []

    def describe(self) -> int | str:
        return f"segment of {self.size}"

    def discard(self, offset: int, length: int) -> None:
        assert not self.closed
        self.discarded.append((offset, length))
        self.view[offset : offset + length] = bytes(length)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


@implementer(IMemory)
class FakeMemory:
    """Memory that can be short: then ``problem`` is raised."""

    def __init__(self, *, discards: bool = True) -> None:
        self.discards = discards
        self.segments: list[FakeSegment] = []
        self.problem: Exception | None = None

    def make(self, size: int) -> FakeSegment:
        if self.problem is not None:
            raise self.problem
        self.segments.append(FakeSegment(size))
        return self.segments[-1]

    @property
    def open(self) -> list[FakeSegment]:
        """The segments that have not been closed."""
        return [segment for segment in self.segments if not segment.closed]


class FakeDisk:
    """What takes the place of :class:`ipkernel.objects.spill.Spill`, and can break."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.files: dict[int, bytearray] = {}
        self.closed = False
        self.full = False
        self.broken = False
        self.writes = 0

    def write(self, file: int, offset: int, data: memoryview) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", "/disk")
        content = self.files.setdefault(file, bytearray())
        if len(content) < offset + len(data):
            content.extend(bytes(offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data
        self.writes += 1

    def read(self, file: int, offset: int, target: memoryview) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        target[:] = self.files[file][offset : offset + len(target)]

    def remove(self, file: int) -> None:
        self.files.pop(file, None)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.files.clear()


class FakeThreads:
    """Runs what is to run in threads when it is told to, in any order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self.calls)

    def defer(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.calls.append((deferred, function, args))
        return deferred

    def run(self, index: int = 0) -> None:
        """Run one call and report its result."""
        deferred, function, args = self.calls.pop(index)
        try:
            value = function(*args)
        except Exception:  # noqa: BLE001  (it is the caller's)
            deferred.errback(Failure())
        else:
            deferred.callback(value)

    def run_all(self) -> None:
        """Run all calls, those included that follow from them."""
        while self.calls:
            self.run()


@define
class Outcome:
    """What has become of a Deferred.

    Attributes:
        values: Its result, if it has one.
        errors: Its failure's exception, if it has failed.
    """

    values: list[Any] = field(factory=list)
    errors: list[BaseException] = field(factory=list)

    @property
    def pending(self) -> bool:
        return not self.values and not self.errors

    @property
    def value(self) -> Any:
        if self.errors:
            raise self.errors[0]
        assert self.values, "there is no answer yet"
        return self.values[0]

    @property
    def error(self) -> BaseException:
        assert not self.values, f"no error but {self.values[0]!r}"
        assert self.errors, "there is no answer yet"
        return self.errors[0]


def outcome(deferred: Deferred[Any]) -> Outcome:
    """Follow a Deferred."""
    found = Outcome()

    def fail(failure: Failure) -> None:
        assert failure.value is not None
        found.errors.append(failure.value)

    deferred.addCallbacks(found.values.append, fail)
    return found


class Books:
    """A catalog and a shell that does at once whatever needs no disk."""

    def __init__(self, limit: int = 256, disk: int = 0, **options) -> None:
        memory = Allocator(limit, segment_size=128, page=PAGE, **options)
        files = Allocator(disk, segment_size=1024, page=PAGE, discards=False) if disk else None
        self.catalog = Catalog(memory, files)
        self.numbers = count(1)
        self.answers: dict[int, object] = {}
        self.other: list[object] = []
        self.jobs: list[WriteOut | ReadIn] = []
        self.no_memory = ""

    def do(self, instructions) -> None:
        for instruction in instructions:
            match instruction:
                case Answer(wait, value):
                    assert wait not in self.answers
                    self.answers[wait] = value
                case Fail(wait, error):
                    assert wait not in self.answers
                    self.answers[wait] = error
                case MakeSegment(number):
                    if self.no_memory:
                        self.do(self.catalog.segment_failed(number, self.no_memory))
                    else:
                        self.do(self.catalog.segment_made(number))
                case WriteOut() | ReadIn():
                    self.jobs.append(instruction)
                case _:
                    self.other.append(instruction)

    def ask(self, method, *args, **kwargs) -> int:
        number = next(self.numbers)
        self.do(method(number, *args, **kwargs))
        return number

    def create(self, object_id: bytes, size: int = PAGE, owner: int = 1, writer: str = "w") -> int:
        return self.ask(self.catalog.create, object_id, size, owner=owner, writer=writer)

    def put(self, object_id: bytes, size: int = PAGE, owner: int = 1) -> Placement:
        wait = self.create(object_id, size, owner)
        self.do(self.catalog.seal(object_id))
        return self.answers[wait]

    def lease(self, object_id: bytes, holder: str = "h", **kwargs) -> int:
        return self.ask(self.catalog.lease, object_id, holder, **kwargs)

    def release(self, object_id: bytes, holder: str = "h") -> None:
        self.do(self.catalog.release(object_id, holder))

    def free(self, *object_ids: bytes) -> None:
        self.do(self.catalog.free(object_ids))

    def finish(self, index: int = 0, problem: str = "") -> WriteOut | ReadIn:
        job = self.jobs.pop(index)
        report = {
            (WriteOut, False): lambda: self.catalog.written(job.job),
            (WriteOut, True): lambda: self.catalog.write_failed(job.job, problem),
            (ReadIn, False): lambda: self.catalog.read(job.job),
            (ReadIn, True): lambda: self.catalog.read_failed(job.job, problem),
        }[type(job), bool(problem)]
        self.do(report())
        return job

    def used(self) -> int:
        return self.catalog.stats().used

    def error(self, wait: int, kind: type[Exception]) -> str:
        error = self.answers[wait]
        assert type(error) is kind
        return str(error)
