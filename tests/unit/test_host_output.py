"""Markers, last lines and log files of engines' output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.engine.streams import END, MARKER
from ipkernel.host import output
from ipkernel.host.engine import Engine
from ipkernel.host.output import EngineLog, LastLines, Markers
from ipkernel.host.pipes import LAST_READ, NativePipe

TASK = st.integers(1, (1 << 62) - 1)
TEXT = st.binary(min_size=1, max_size=40) | st.sampled_from(
    [
        b"\x1b",
        b"\x1b]",
        b"\x1b]ipk",
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"\x1b]ipk;xyz\x07",
    ]
)


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbours of one task as one piece."""
    out: list[tuple[int, bytes]] = []
    for task, data in pieces:
        if out and out[-1][0] == task:
            out[-1] = (task, out[-1][1] + data)
        else:
            out.append((task, data))
    return out


def feed(data: bytes, cuts: list[int]) -> tuple[list[tuple[int, bytes]], Markers]:
    markers = Markers()
    found = []
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    for start, stop in zip(edges, edges[1:], strict=False):
        found += markers.feed(data[start:stop])
    found += markers.flush()
    return joined(found), markers


def safe(text: bytes) -> bool:
    """No piece of text may complete a marker by accident together with the next."""
    return b"\x1b]ipk;" not in text or text == b"\x1b]ipk;xyz\x07"


@given(
    st.lists(st.tuples(st.none() | TASK, TEXT.filter(safe)), max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_markers_are_found_wherever_the_stream_is_cut(
    parts: list[tuple[int | None, bytes]], cuts: list[int]
) -> None:
    data = b""
    expected: list[tuple[int, bytes]] = []
    ends = 0
    for task, text in parts:
        if task is None:
            data += text
            expected.append((0, text))
        else:
            data += (MARKER % task).encode() + text + END.encode()
            expected.append((task, text))
            ends += 1
    found, markers = feed(data, cuts)
    assert found == joined(expected)
    assert markers.ends == ends
    assert markers.task == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 500), max_size=10))
def test_what_comes_out_does_not_depend_on_the_cuts(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"Q", b"\x1b]ipk;1f\x07").replace(b"R", b"\x1b]ipk;\x07")
    assert feed(data, cuts)[0] == feed(data, [])[0]


def test_text_without_escapes_passes_as_it_is() -> None:
    markers = Markers()
    data = b"plain text"
    assert markers.feed(data) == [(0, data)]
    assert markers.feed(b"") == []


def test_other_escapes_are_not_held_back() -> None:
    assert Markers().feed(b"\x1b[31mred") == [(0, b"\x1b[31mred")]


def test_the_beginning_of_a_marker_waits_for_the_rest() -> None:
    markers = Markers()
    assert markers.feed(b"a\x1b]ip") == [(0, b"a")]
    assert markers.feed(b"k;2a\x07b") == [(42, b"b")]
    assert markers.flush() == []


def test_a_beginning_that_never_ends_is_text() -> None:
    markers = Markers()
    assert markers.feed(b"\x1b]ipk;12") == []
    assert markers.flush() == [(0, b"\x1b]ipk;12")]
    text = b"\x1b]ipk;" + b"1" * 40
    assert joined(markers.feed(text) + markers.flush()) == [(0, text)]


def test_last_lines_are_the_last_ones() -> None:
    last = LastLines(count=3)
    last.add(b"one\ntwo\nthr")
    assert last.lines() == ["one", "two", "thr"]
    last.add(b"ee\nfour\n")
    assert last.lines() == ["two", "three", "four"]
    last.add(b"partial")
    assert last.lines() == ["three", "four", "partial"]


def test_last_lines_are_bounded() -> None:
    last = LastLines(count=2, width=10)
    for _ in range(100):
        last.add(b"x" * 100_000)
    assert [len(line) for line in last.lines()] == [10]
    assert len(last._partial) <= 40
    last.add(b"\xff\xfe\r\n")
    assert last.lines()[-1].endswith("\ufffd\ufffd")


def test_the_log_is_private_and_rotated(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "e.log", size=100, backups=2)
    for number in range(12):
        log.write(b"%03d" % number + b"." * 47)
    log.close()
    names = sorted(os.listdir(tmp_path))
    assert names == ["e.log", "e.log.1", "e.log.2"]
    assert (tmp_path / "e.log").read_bytes().startswith(b"010")
    assert (tmp_path / "e.log.2").read_bytes().startswith(b"006")
    assert (tmp_path / "e.log").stat().st_mode & 0o777 == 0o600


def test_the_log_grows_while_it_cannot_be_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = EngineLog(tmp_path / "e.log", size=100, backups=1, complain=said.append)
    with monkeypatch.context() as patch:

        def refuse(source: object, target: object) -> None:
            raise PermissionError(13, "it is being used by another process")

        patch.setattr(output, "_HELD", True)  # as on Windows
        patch.setattr(os, "replace", refuse)
        for number in range(6):
            log.write(b"%03d" % number + b"." * 47)
    assert said == []
    assert (tmp_path / "e.log").stat().st_size == 300
    for number in range(6, 9):
        log.write(b"%03d" % number + b"." * 47)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["e.log", "e.log.1"]


def test_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = EngineLog(tmp_path / "e.log")
        log.write(text)
        log.close()
    assert (tmp_path / "e.log").read_bytes() == b"one\ntwo\n"


def test_a_log_that_cannot_be_written_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    log = EngineLog(tmp_path / "missing" / "e.log", complain=said.append)
    for _ in range(3):
        log.write(b"text")
    assert len(said) == 1 and "e.log" in said[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_the_log_only(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "e.log").symlink_to("/dev/full")
    log = EngineLog(tmp_path / "e.log", complain=said.append)
    log.write(b"text")
    log.write(b"text")
    assert len(said) == 1 and "No space left" in said[0]
    assert log._file is None


def test_another_log_closes_the_one_before(tmp_path: Path) -> None:
    engine = Engine("1", 0, lambda message, data: None, tmp_path / "old")
    assert engine.log is not None
    engine.log.write(b"one")
    old = engine.log
    engine.write_log_to(tmp_path / "new")
    assert old._file is None
    engine.log.write(b"two")
    engine.write_log_to(None)
    assert engine.log is None
    assert (tmp_path / "old").read_bytes() == b"one"
    assert (tmp_path / "new").read_bytes() == b"two"


@pytest.mark.skipif(os.name != "posix", reason="pipes that do not block are POSIX's")
def test_closing_a_pipe_ends_though_its_writer_does_not() -> None:
    class Reactor:
        def addReader(self, reader: object) -> None:
            pass

        removeReader = addReader

    out, end = os.pipe()
    received = 0

    def take(data: bytes) -> None:
        nonlocal received
        received += len(data)
        assert received < 100 << 20, "it goes on for ever"
        os.write(end, b"x" * len(data))  # a process that writes faster than this one reads

    pipe = NativePipe(Reactor(), out, take)
    os.write(end, b"x" * 4096)
    pipe.close()
    os.close(end)
    assert received == LAST_READ
