"""Text streams of an engine: tagged, flushed, hard to break."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ipkernel.engine import streams as module
from ipkernel.engine.current import state
from ipkernel.engine.streams import END, Streams


class Pipes:
    """Streams on two pipes."""

    def __init__(self, synchronised: bool = False) -> None:
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.ends = (out, err)
        self.streams = Streams(synchronised=synchronised, descriptors=self.ends)

    def read(self, descriptor: int) -> bytes:
        os.set_blocking(descriptor, False)
        try:
            return os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.streams.close()
        for descriptor in (self.out, self.err, *self.ends):
            try:
                os.close(descriptor)
            except OSError:
                pass


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    state.task = 0
    made.close()


def test_the_first_text_of_a_task_is_marked(pipes: Pipes) -> None:
    state.task = 0x2A
    print("one", file=pipes.streams.out)
    print("two", file=pipes.streams.out)
    assert pipes.read(pipes.out) == b"\x1b]ipk;2a\x07one\ntwo\n"
    assert pipes.streams.dirty
    pipes.streams.finish()
    assert pipes.read(pipes.out) == END.encode()
    assert pipes.read(pipes.err) == b""
    assert not pipes.streams.dirty


def test_each_line_is_flushed_and_the_rest_at_the_end(pipes: Pipes) -> None:
    state.task = 1
    pipes.streams.err.write("line\npartial")
    assert pipes.read(pipes.err) == b"\x1b]ipk;1\x07line\npartial"
    pipes.streams.err.write("more")
    assert pipes.read(pipes.err) == b""
    pipes.streams.finish()
    assert pipes.read(pipes.err) == b"more" + END.encode()


def test_the_next_task_has_its_own_marker(pipes: Pipes) -> None:
    for task in (1, 2):
        state.task = task
        print(task, file=pipes.streams.out)
        pipes.streams.finish()
    assert pipes.read(pipes.out) == b"\x1b]ipk;1\x071\n\x1b]ipk;\x07\x1b]ipk;2\x072\n\x1b]ipk;\x07"


def test_text_between_tasks_is_neither_marked_nor_held_back(pipes: Pipes) -> None:
    state.task = 0
    pipes.streams.out.write("from a thread")
    assert pipes.read(pipes.out) == b"from a thread"


def test_any_text_can_be_written(pipes: Pipes) -> None:
    state.task = 0
    pipes.streams.out.write("\u20ac \ud800\n")
    assert pipes.read(pipes.out) == "\u20ac ".encode() + b"\\ud800\n"


def test_bytes_are_refused_as_by_any_text_stream(pipes: Pipes) -> None:
    state.task = 1
    with pytest.raises(TypeError):
        pipes.streams.out.write(b"bytes")  # type: ignore[arg-type]


def test_closing_the_stream_does_not_end_it(pipes: Pipes) -> None:
    state.task = 1
    pipes.streams.out.close()
    print("still", file=pipes.streams.out)
    assert b"still" in pipes.read(pipes.out)
    assert pipes.streams.out.name == "<stdout>"
    assert pipes.streams.out.encoding == "utf-8"
    assert not pipes.streams.out.isatty()
    assert pipes.streams.out.fileno() == pipes.ends[0]


def test_a_closed_descriptor_does_not_break_the_end_of_a_task(pipes: Pipes) -> None:
    state.task = 1
    os.close(pipes.ends[0])
    with pytest.raises(OSError):
        print("lost", file=pipes.streams.out)
    pipes.streams.finish()
    assert not pipes.streams.dirty


def test_synchronised_streams_mark_the_end_of_every_task() -> None:
    pipes = Pipes(synchronised=True)
    try:
        state.task = 5
        pipes.streams.finish()
        assert pipes.read(pipes.out) == pipes.read(pipes.err) == END.encode()
        print("text", file=pipes.streams.out)
        pipes.streams.finish()
        assert pipes.read(pipes.out) == b"\x1b]ipk;5\x07text\n" + END.encode()
        # Not even a redirection of the descriptors keeps the marks back.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, pipes.ends[0])
        os.close(null)
        pipes.streams.finish()
        assert pipes.read(pipes.out) == END.encode()
    finally:
        state.task = 0
        pipes.close()


def test_flush_survives_whatever_user_code_put_in_place(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.sys, "stdout", object())
    pipes.streams.flush()
