"""Results that nobody has fetched, where there is a journal: memory has an index and the latest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ipkernel.controller.retention import RETAIN_OUTPUT, Retained
from ipkernel.wire.messages import Outcome, decode_reason
from tests.support.journals import finished, output


class Disk:
    """What a journal has of tasks."""

    def __init__(self) -> None:
        self.tasks: dict[int, Any] = {}
        self.reads: list[list[int]] = []

    def write(self, tid: int, payload: bytes, *printed: bytes) -> tuple[Any, bytes]:
        message = finished(tid, payload)[0]
        self.tasks[tid] = ([output(tid, text) for text in printed], message, payload)
        return message, payload

    def read(self, tids: Collection[int]) -> dict[int, Any]:
        self.reads.append(list(tids))
        return {tid: self.tasks[tid] for tid in tids if tid in self.tasks}


def test_memory_is_bounded_and_nothing_is_lost() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=5000)
    for tid in range(50):
        kept.keep(*disk.write(tid, bytes([tid]) * 1000), float(tid))
        kept.committed()
        assert kept.in_memory <= 5000
    assert len(kept) == 50
    assert kept.bytes > 50_000
    for tid in (0, 10, 49, 25):
        found = kept.take([tid]).get(tid)
        assert found is not None
        assert found[1] == finished(tid, bytes([tid]) * 1000)
        assert kept.take([tid]).get(tid) is None
    assert disk.reads == [[0], [10], [25]]  # the latest was in memory


def test_results_of_many_tasks_are_read_at_once() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=5000)
    for tid in range(50):
        kept.keep(*disk.write(tid, bytes([tid]) * 1000, b"printed"), float(tid))
        kept.committed()
    del disk.tasks[7]
    wanted = [49, 7, 3, 99, 3]
    found = kept.take(wanted)
    assert list(found) == [49, 7, 3]
    assert disk.reads == [[7, 3]]
    assert found[49] == ([], finished(49, bytes([49]) * 1000))
    assert found[3][1] == finished(3, bytes([3]) * 1000)
    assert [payload for _, payload in found[3][0]] == [b"printed"]
    assert found[7][1][0].outcome is Outcome.LOST
    assert not kept.take(wanted)
    assert len(kept) == 47


def test_what_is_not_committed_stays_in_memory() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=5000)
    for tid in range(50):
        kept.keep(*finished(tid, bytes(1000)), 0.0)
    assert kept.in_memory == 50_000
    found = kept.take([0]).get(0)
    assert found is not None
    assert found[1] == finished(0, bytes(1000))
    assert not disk.reads
    kept.committed()
    assert kept.in_memory <= 5000


def test_output_goes_with_its_result() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=5000)
    for tid in range(20):
        kept.keep_output(*output(tid, b"printed"))
        kept.keep(*disk.write(tid, bytes(1000), b"printed"), 0.0)
        kept.committed()
    for tid in (0, 19):
        found = kept.take([tid]).get(tid)
        assert found is not None
        assert [payload for _, payload in found[0]] == [b"printed"]
    assert kept.in_memory <= 5000


def test_output_alone_does_not_fill_the_memory() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=5000)
    for tid in range(20):
        kept.keep_output(*output(tid, bytes(1000)))
        kept.committed()
        assert kept.in_memory <= 5000
    kept.keep(*disk.write(0, b"result", bytes(1000)), 0.0)
    found = kept.take([0]).get(0)
    assert found is not None
    assert [payload for _, payload in found[0]] == [bytes(1000)]


def test_of_much_output_the_last_part_is_read() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=0)
    kept.keep(*disk.write(1, b"r", *[bytes([i]) * 10_000 for i in range(20)]), 0.0)
    kept.committed()
    found = kept.take([1]).get(1)
    assert found is not None
    texts = [payload for _, payload in found[0]]
    assert texts[-1] == bytes([19]) * 10_000
    assert sum(map(len, texts)) <= RETAIN_OUTPUT


def test_what_comes_from_the_journal_need_not_be_in_memory() -> None:
    disk = Disk()
    kept = Retained(read=disk.read)
    kept.keep(*disk.write(1, b"result", b"printed"), 5.0, written=True)
    assert kept.in_memory == 0
    assert kept.since(1) == 5.0
    found = kept.take([1]).get(1)
    assert found is not None
    assert found[1][1] == b"result"
    assert [payload for _, payload in found[0]] == [b"printed"]


def test_a_result_that_cannot_be_read_any_more_is_no_silence() -> None:
    kept = Retained(read=Disk().read, memory=0)
    kept.keep(*finished(1, bytes(100)), 0.0)
    kept.committed()
    found = kept.take([1]).get(1)
    assert found is not None
    message, payload = found[1]
    assert message.outcome is Outcome.LOST
    assert message.size == len(payload)
    assert "journal" in decode_reason(payload).text


def test_size_and_age_count_what_is_on_disk_as_well() -> None:
    disk = Disk()
    kept = Retained(10.0, 20_000, read=disk.read, memory=2000)
    gone: list[int] = []
    for tid in range(30):
        gone += kept.keep(*disk.write(tid, bytes(1000)), float(tid))
        kept.committed()
    assert gone == list(range(len(gone)))
    assert kept.bytes <= 20_000
    assert kept.expire(35.0) == list(range(len(gone), 26))
    assert list(kept) == [26, 27, 28, 29]
    assert kept.expire(100.0) == [26, 27, 28, 29]
    assert (kept.bytes, kept.in_memory) == (0, 0)


def test_the_same_result_kept_again_counts_once() -> None:
    disk = Disk()
    kept = Retained(read=disk.read, memory=2000)
    for _ in range(5):
        kept.keep(*disk.write(1, bytes(1000)), 0.0)
        kept.keep(*disk.write(2, bytes(1000)), 0.0)
        kept.committed()
        assert kept.in_memory <= 2000
    assert len(kept) == 2
    kept.expire(1e9)
    assert (kept.bytes, kept.in_memory) == (0, 0)
