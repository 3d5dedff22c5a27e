"""What the ssh launcher runs on hosts, in parts: orders, checks, directories, packages."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel._version import __version__
from ipkernel.launchers import remote
from ipkernel.launchers.sshjob import frame

pytestmark = pytest.mark.skipif(os.name != "posix", reason="hosts are POSIX hosts")

ORDERS = st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text(), max_size=3))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the launcher would hear."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(remote, "say", lambda event, **more: found.append({"event": event, **more}))
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory for programs."""
    return remote.base_directory(str(tmp_path / "base"))


# -------------------------------------------------------------------------- orders


@given(st.lists(ORDERS, min_size=1, max_size=5), st.lists(st.integers(1, 50)), st.binary())
def test_orders_are_whole_however_they_are_cut(
    orders: list[dict[str, Any]], sizes: list[int], rest: bytes
) -> None:
    data = b"".join(map(frame, orders)) + rest
    source = remote.Orders()
    found = []
    while data or not sizes:
        size = sizes.pop() if sizes else len(data)
        source._buffer += data[:size]
        data = data[size:]
        while len(found) < len(orders) and (order := source.whole()) is not None:
            found.append(order)
        if not data:
            break
    assert found == orders
    assert source.take(len(rest)) == rest


def test_orders_wait_for_what_is_missing_and_end_with_their_source() -> None:
    reading, writing = os.pipe()
    source = remote.Orders(reading)
    os.write(writing, frame({"act": "one"}) + frame({"act": "two"})[:-3])
    assert source.next() == {"act": "one"}
    assert source.whole() is None
    os.close(writing)
    with pytest.raises(EOFError):
        source.next()
    with pytest.raises(EOFError):
        source.take(100)
    assert source.ended
    os.close(reading)


def test_what_nobody_reads_is_no_error() -> None:
    reading, writing = os.pipe()
    assert remote.write_all(writing, b"x")
    os.close(reading)
    assert not remote.write_all(writing, b"x")
    os.close(writing)


@pytest.mark.parametrize(
    ("line", "ready"),
    [
        (b'{"event": "ready", "engines": [1]}', True),
        (b'{"event":"ready"}', True),
        (b'{"event": "started"}', False),
        (b'["ready"]', False),
        (b'"event": "ready"', False),
        (b"\xff", False),
    ],
)
def test_only_the_event_itself_says_that_a_program_is_ready(line: bytes, ready: bool) -> None:
    assert remote.is_ready(line) is ready


# -------------------------------------------------------------------------- checks


def test_a_check_tells_all_that_the_launcher_wants_to_know(
    said: list[dict[str, Any]], tmp_path: Path
) -> None:
    remote.check({"base": str(tmp_path / "base"), "needs": ["json", "no_such_module", "no.such"]})
    (answer,) = said
    assert answer["event"] == "@checked"
    assert answer["version"] == __version__
    assert answer["missing"] == ["no_such_module", "no.such"]
    assert answer["machine"] == remote.machine()
    assert json.loads(json.dumps(answer)) == answer
    assert (tmp_path / "base").stat().st_mode & 0o777 == 0o700


def test_another_ipkernel_in_the_path_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: Spec)
    assert remote.installed() == ""
    (tmp_path / "_version.py").write_text("__version__ = '9.9'\n")
    assert remote.installed() == "9.9"
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
    assert remote.installed() == ""


def test_one_place_that_answers_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        open_port = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            closed_port = other.getsockname()[1]
        assert remote.reached([("127.0.0.1", closed_port), ("127.0.0.1", open_port)])
    assert not remote.reached([("127.0.0.1", closed_port)])
    assert not remote.reached([])


# --------------------------------------------------------------------- directories


def test_directories_are_private_and_what_is_written_to_them_too(base: Path) -> None:
    files = {"security/a.furl": "secret\n"}
    directory, ends = remote.new_directory(base, "name", files)
    try:
        assert directory.parent == base
        assert directory.name.startswith("name-")
        assert (directory / "security" / "a.furl").read_text() == "secret\n"
        for path in [directory, *directory.rglob("*")]:
            mode = path.stat().st_mode & 0o777
            assert mode & 0o077 == 0 or path.name == "host", path
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_place_that_others_can_write_to_is_refused(
    said: list[dict[str, Any]], tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(SystemExit):
        remote.base_directory(str(path))
    assert said[0]["event"] == "@problem"
    assert "not only yours" in said[0]["message"]


def test_a_place_that_cannot_be_made_is_told(said: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        remote.base_directory(str(tmp_path / "file" / "base"))
    assert "cannot make the directory" in said[0]["message"]
    base = remote.base_directory(str(tmp_path / "base"))
    base.rmdir()
    with pytest.raises(SystemExit):
        remote.new_directory(base, "name", {})
    assert "cannot make a directory" in said[1]["message"]


def test_the_usual_place_is_in_ipython_s_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "own"))
    assert remote.base_directory("") == tmp_path / "own" / "ssh"
    monkeypatch.delenv("IPYTHONDIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert remote.base_directory("") == tmp_path / ".ipython" / "ssh"


def test_only_what_nobody_uses_is_tidied_up(base: Path) -> None:
    used, ends = remote.new_directory(base, "used", {})
    left, closed = remote.new_directory(base, "left", {})
    elsewhere, others = remote.new_directory(base, "elsewhere", {})
    for end in [*closed, *others]:
        os.close(end)
    (elsewhere / "host").write_text("another host")
    (base / "strange").mkdir()
    (base / "strange" / "host").write_bytes(b"\xff\xfe")
    names = [".new-young", ".new-old", "packages-young", "packages-old", "unknown"]
    for name in names:
        (base / name).mkdir()
    for name in (".new-old", "packages-old", "unknown"):
        os.utime(base / name, (time.time() - 40 * 86400,) * 2)
    remote.tidy(base)
    assert sorted(path.name for path in base.iterdir()) == sorted(
        [used.name, elsewhere.name, ".new-young", "packages-young", "strange", "unknown"]
    )
    for end in ends:
        os.close(end)
    remote.tidy(base)
    assert not used.exists()


# ------------------------------------------------------------------------ packages


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def test_packages_are_unpacked_once_and_whole(base: Path, said: list[dict[str, Any]]) -> None:
    for _ in range(2):
        remote.unpack(base, "digest", archive("ipkernel/a.py", "b/c.py"))
    assert (remote.packages(base, "digest") / "ipkernel" / "a.py").exists()
    assert [path.name for path in base.iterdir()] == ["packages-digest"]


@pytest.mark.parametrize("data", [b"garbage", archive("../out")], ids=["garbage", "outside"])
def test_an_archive_that_is_none_leaves_nothing(
    base: Path, said: list[dict[str, Any]], data: bytes
) -> None:
    with pytest.raises(SystemExit):
        remote.unpack(base, "digest", data)
    assert "cannot unpack ipkernel" in said[0]["message"]
    assert list(base.iterdir()) == []
    assert list(base.parent.iterdir()) == [base]


# -------------------------------------------------------- orders for other programs


@pytest.fixture
def program(base: Path) -> Iterator[tuple[Path, list[int]]]:
    """The directory of a program that seems to run, and what it is told."""
    directory, ends = remote.new_directory(base, "name", {})
    yield directory, ends
    for end in ends:
        os.close(end)


def test_an_order_reaches_a_program_by_its_directory(
    program: tuple[Path, list[int]], said: list[dict[str, Any]]
) -> None:
    directory, ends = program
    remote.tell({"directory": str(directory), "order": {"act": "stop"}, "wait": 0})
    source = remote.Orders(ends[0])
    source.fill()
    assert source.whole() == {"act": "stop"}
    remote.tell({"directory": str(directory), "order": None, "wait": 0})
    source.fill()  # nothing has come, and that is no end
    assert not source.ended
    assert said == [{"event": "@told", "there": True}] * 2


def test_a_program_that_has_ended_is_told_as_such(
    program: tuple[Path, list[int]], said: list[dict[str, Any]]
) -> None:
    directory, ends = program
    while ends:
        os.close(ends.pop())
    for order in (None, {"act": "stop"}):
        remote.tell({"directory": str(directory), "order": order, "wait": 5})
    remote.tell({"directory": str(directory / "missing"), "order": None, "wait": 5})
    assert said == [{"event": "@told", "there": False}] * 3
