"""How a move goes on when connections break: pretended connections, no network, no waiting."""

from __future__ import annotations

import errno
import gc
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from ipkernel.errors import ConnectError, StoreFull, TransferError
from ipkernel.objects.lines import HostLine, LinesClosed
from ipkernel.objects.moves import Move
from ipkernel.objects.ranges import PIECE, Piece, Share
from ipkernel.objects.remote import default_streams, private_memory
from ipkernel.objects.tlsstream import StreamBroken
from ipkernel.objects.transfer import Transfer, TransferCancelled


class Stream:
    def cut(self) -> None:
        """There is nothing to cut."""


class Line:
    """A connection that breaks after so many pieces."""

    def __init__(self, pieces: float = float("inf"), used: bool = False) -> None:
        self.left = pieces
        self.used = used
        self.route = "direct"
        self.stream = Stream()


class Lines:
    """Hands out what it is given: connections, or errors instead."""

    def __init__(self, *lines: Any) -> None:
        self.plan = deque(lines)
        self.given_back: list[Any] = []
        self.dropped: list[Any] = []
        self.opened = 0
        self.idle_dropped = 0
        self._lock = threading.Lock()

        class Access:
            name = "n1"

        self.access = Access()

    def open(self, guard: Any) -> Any:
        with self._lock:
            self.opened += 1
            line = self.plan.popleft() if self.plan else ConnectError("nobody is there")
        if isinstance(line, Exception):
            raise line
        return line

    def give_back(self, line: Any, guard: Any) -> None:
        self.given_back.append(line)

    def drop(self, line: Any, guard: Any) -> None:
        self.dropped.append(line)

    def drop_idle(self) -> None:
        self.idle_dropped += 1


class Walk(Move):
    """Moves nothing, piece by piece.

    Args:
        meet: Is called before each piece.
    """

    def __init__(
        self,
        lines: Lines,
        pieces: int = 4,
        *,
        streams: int = 1,
        pauses: tuple[float, ...] = (0.0, 0.0),
        transfer: Transfer | None = None,
        meet: Callable[[Piece], None] = lambda piece: None,
    ) -> None:
        transfer = transfer or Transfer("the walk")
        super().__init__(lines, bytes(16), transfer, streams=streams, pauses=pauses)
        self._share = Share(pieces * PIECE)
        self.transfer = transfer
        self.meet = meet
        self.says_so = True

    @property
    def _complete(self) -> bool:
        return self.says_so and self._share.complete

    def _use(self, line: HostLine) -> None:
        self._staff()
        while (piece := self._share.take()) is not None:
            try:
                self.meet(piece)
                self._counter(piece)(PIECE // 2)
                if not line.left:
                    raise StreamBroken("it broke")
                line.left -= 1
                self._counter(piece)(PIECE - PIECE // 2)
            except BaseException:
                self._uncount(piece)
                self._share.give_back(piece)
                raise
            self._arrived(self._share, piece)


def test_all_goes_well() -> None:
    lines = Lines(Line())
    walk = Walk(lines)
    walk.run()
    assert walk.transfer.done == 4 * PIECE
    assert walk.transfer.route == "direct"
    assert len(lines.given_back) == 1


def test_what_was_half_done_is_not_counted_twice() -> None:
    lines = Lines(Line(1), Line(0), Line())
    walk = Walk(lines)
    walk.run()
    assert walk.transfer.done == 4 * PIECE
    assert len(lines.dropped) == 2


def test_each_piece_that_arrives_gives_new_patience() -> None:
    lines = Lines(*[Line(1) for _ in range(20)], Line())
    Walk(lines, 20).run()
    assert lines.opened == 20


def test_patience_has_an_end() -> None:
    lines = Lines(Line(1), Line(0), Line(0), Line(0), Line(0))
    walk = Walk(lines)
    with pytest.raises(
        TransferError,
        match=rf"the walk: {PIECE} of {4 * PIECE} bytes have arrived; the connection to host n1 was "
        "lost, and could not be kept up in 2 further attempts: it broke",
    ):
        walk.run()
    assert lines.opened == 3
    assert walk.was_begun


def test_a_host_that_was_never_reached() -> None:
    walk = Walk(Lines(ConnectError("host n1 cannot be reached: no")))
    with pytest.raises(ConnectError, match="host n1 cannot be reached: no"):
        walk.run()
    assert not walk.was_begun


def test_a_host_that_cannot_be_reached_any_more() -> None:
    lines = Lines(Line(1), ConnectError("for a moment"), Line())
    Walk(lines).run()
    lines = Lines(Line(1), *[ConnectError("for ever")] * 5)
    with pytest.raises(TransferError, match="in 2 further attempts: for ever"):
        Walk(lines).run()
    assert lines.opened == 3


def test_a_host_that_is_gone_is_not_tried_again() -> None:
    lines = Lines(Line(1), LinesClosed("the connections to host n1 are closed"), Line())
    with pytest.raises(TransferError, match="^the walk: the connections to host n1 are closed"):
        Walk(lines, pauses=(0.0,) * 5).run()
    assert lines.opened == 2
    with pytest.raises(LinesClosed):
        Walk(Lines(LinesClosed("closed"))).run()


def test_a_connection_that_died_while_nobody_used_it_costs_no_patience() -> None:
    lines = Lines(*[Line(0, used=True) for _ in range(5)], Line())
    Walk(lines).run()
    assert lines.idle_dropped == 5


def test_a_used_connection_that_breaks_later_does() -> None:
    lines = Lines(Line(1, used=True), Line(0), Line(0))
    with pytest.raises(TransferError, match="it broke"):
        Walk(lines).run()
    assert not lines.idle_dropped


def test_what_the_host_says_is_final() -> None:
    def full(piece: Piece) -> None:
        raise StoreFull("no room")

    lines = Lines(Line(), Line())
    with pytest.raises(StoreFull, match="no room") as caught:
        Walk(lines, meet=full).run()
    assert lines.opened == 1
    assert "full" in [entry.name for entry in caught.traceback]


def test_a_move_that_has_failed_keeps_nothing() -> None:
    def full(piece: Piece) -> None:
        raise StoreFull("no room")

    gc.collect()
    gc.disable()
    try:
        walk = Walk(Lines(Line()), meet=full)
        gone = weakref.ref(walk)
        try:
            walk.run()
        except StoreFull:
            del walk
        assert gone() is None
    finally:
        gc.enable()


def test_a_host_that_has_everything_and_does_not_say_so() -> None:
    lines = Lines(*[Line() for _ in range(10)])
    walk = Walk(lines)
    walk.says_so = False
    with pytest.raises(TransferError, match="it has all bytes, but does not say so"):
        walk.run()
    assert lines.opened == 3


# ---------------------------------------------------------------- several threads


def test_large_objects_have_several_threads() -> None:
    together = threading.Barrier(3)
    first = threading.local()

    def meet(piece: Piece) -> None:
        if not hasattr(first, "was"):
            first.was = True
            together.wait(20)

    lines = Lines(Line(), Line(), Line(), Line())
    walk = Walk(lines, 24, streams=4, meet=meet)
    walk.run()
    assert len(lines.given_back) == 3
    assert walk.transfer.done == 24 * PIECE


def test_small_ones_do_not() -> None:
    lines = Lines(Line(), Line())
    Walk(lines, 15, streams=4).run()
    assert lines.opened == 1


def test_threads_that_break_together_have_one_misfortune() -> None:
    for _ in range(20):
        together = threading.Barrier(3)
        lines = Lines(*[Line(0) for _ in range(3)], Line(), Line(), Line())

        def meet(piece: Piece, lines: Lines = lines, barrier: threading.Barrier = together) -> None:
            if lines.opened <= 3 and len(lines.dropped) == 0:
                barrier.wait(20)

        walk = Walk(lines, 24, streams=3, pauses=(0.0,), meet=meet)
        walk.run()
        assert walk.transfer.done == 24 * PIECE


def test_helpers_that_get_no_connection_are_not_needed() -> None:
    lines = Lines(Line(), *[ConnectError("the host is full")] * 3)
    walk = Walk(lines, 32, streams=4)
    walk.run()
    assert walk.transfer.done == 32 * PIECE


def test_what_a_helper_leaves_is_done_by_the_first_thread() -> None:
    taken = threading.Event()
    helped = threading.Event()

    def meet(piece: Piece) -> None:
        if threading.current_thread().name.startswith("ipkernel-stream"):
            taken.set()
        elif not helped.is_set():
            helped.set()
            assert taken.wait(20)

    lines = Lines(Line(), Line(0))
    walk = Walk(lines, 16, streams=2, meet=meet)
    lines.plan.extend([ConnectError("gone"), Line()])
    walk.run()
    assert walk.transfer.done == 16 * PIECE


def test_a_fault_in_a_helper_is_the_callers() -> None:
    begun = threading.Event()

    def meet(piece: Piece) -> None:
        if threading.current_thread().name.startswith("ipkernel-stream"):
            begun.set()
            raise ZeroDivisionError("in a helper")
        assert begun.wait(20)

    with pytest.raises(ZeroDivisionError, match="in a helper"):
        Walk(Lines(Line(), Line()), 16, streams=2, meet=meet).run()
    assert not [t for t in threading.enumerate() if t.name.startswith("ipkernel-stream")]


def test_an_interrupt_ends_the_helpers_too() -> None:
    def meet(piece: Piece) -> None:
        if not threading.current_thread().name.startswith("ipkernel-stream"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Walk(Lines(Line(), Line()), 1000, streams=2, meet=meet).run()
    assert not [t for t in threading.enumerate() if t.name.startswith("ipkernel-stream")]


# ---------------------------------------------------------------- cancelling


def test_cancelling_while_it_waits_to_try_again() -> None:
    transfer = Transfer("the walk")

    class Cancelling(Lines):
        def drop(self, line: Any, guard: Any) -> None:
            super().drop(line, guard)
            transfer.cancel()

    lines = Cancelling(Line(1), Line())
    with pytest.raises(TransferCancelled, match="the walk was cancelled"):
        Walk(lines, transfer=transfer, pauses=(3600.0,)).run()
    assert lines.opened == 1


def test_cancelling_before() -> None:
    transfer = Transfer("the walk")
    transfer.cancel()
    lines = Lines(Line())
    with pytest.raises(TransferCancelled):
        Walk(lines, transfer=transfer).run()
    assert not lines.opened


def test_a_transfer_does_not_keep_what_was_moved() -> None:
    walk = Walk(Lines(Line()))
    walk.run()
    transfer, gone = walk.transfer, weakref.ref(walk)
    del walk
    assert gone() is None
    transfer.cancel()


# ---------------------------------------------------------------- small things


def test_there_is_always_one_stream() -> None:
    assert 1 <= default_streams() <= 4


def test_private_memory() -> None:
    memory = private_memory(5000)
    assert len(memory) == 5000
    assert memory[4999] == 0
    memory[0] = 1
    assert len(private_memory(0)) == 0
    with pytest.raises(MemoryError, match="no memory for an object of"):
        private_memory(1 << 62)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux has huge pages")
def test_private_memory_asks_for_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(mmap.mmap):
        advice: ClassVar[list[int]] = []
        error: ClassVar[OSError | None] = None

        def madvise(self, option: int, *stretch: int) -> None:
            self.advice.append(option)
            if self.error is not None:
                raise self.error

    monkeypatch.setattr(mmap, "mmap", Memory)
    assert not any(private_memory(1 << 21))
    assert Memory.advice == [mmap.MADV_HUGEPAGE]
    Memory.error = OSError(errno.EINVAL, "a kernel without them")
    assert len(private_memory(5000)) == 5000
