"""Files with a real cluster: there and back, larger than the store, given up and killed in the midst."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from ipkernel import errors
from ipkernel.cluster.cluster import Cluster
from ipkernel.objects.filetree import Source
from ipkernel.objects.filewriter import TreeWriter
from ipkernel.objects.transfer import TransferCancelled
from tests.integration.faults_support import wait_for
from tests.integration.flow_support import (
    Peaks,
    Script,
    assert_nothing_left,
    be_far,
    connected,
    host_processes,
    note_flows,
)

#: Bytes of a file that is larger than the store.
LARGE = 300 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files") / "cluster_files"
    cluster = Cluster(n=2, cluster_dir=str(directory), store_memory="64MB")
    cluster.start_cluster_sync()
    try:
        with connected(directory):  # starts the reactor's thread, once for all tests
            yield cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture
def keys(monkeypatch):
    return note_flows(monkeypatch)


@pytest.fixture
def rc(cluster, keys, there):
    with connected(cluster.directory) as client:
        client[:].apply_sync(os.chdir, str(there))
        yield client
        if keys:
            assert_nothing_left(client, keys)


@pytest.fixture(params=["near", "far", "relayed"])
def any_rc(cluster, request, monkeypatch):
    """A client of this machine; one that believes to be on another; one that cannot dial the host."""
    be_far(monkeypatch, request.param)
    return request.getfixturevalue("rc")


@pytest.fixture
def own(tmp_path, keys):
    """A cluster of one engine for one test, which may break it."""
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_own"))
    cluster.start_cluster_sync()
    try:
        with connected(cluster.directory, 1) as client:
            yield client, cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture
def there(tmp_path):
    """The engines' current directory."""
    directory = tmp_path / "there"
    directory.mkdir()
    return directory


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Ours."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def tree(here):
    """A directory with what one finds in directories."""
    top = here / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    for number in range(200):
        (top / f"{number:03}.txt").write_bytes(b"x" * number)
    (top / "sub" / "big.bin").write_bytes(os.urandom(9 << 20))
    (top / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (top / "sub" / "run.sh").chmod(0o755)
    (top / "link").symlink_to("sub/big.bin")
    os.utime(top / "000.txt", ns=(10**18, 10**18 + 7))
    return top


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file that is larger than the store."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for number in range(LARGE >> 20):
            file.write(number.to_bytes(8, "little") + block[8:])
    yield path
    path.unlink()


def snapshot(top: Path):
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content = os.readlink(path) if stat.S_ISLNK(kind) else None
        if stat.S_ISREG(kind):
            content = path.read_bytes()
        mode = 0 if stat.S_ISLNK(kind) else stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(top))] = (kind, mode, status.st_mtime_ns, content)
    return found


def left_in(directory: Path) -> list[str]:
    """Return what is in a directory, when it is not that of a process that was killed.

    Where files cannot be written without a name, nobody removes what such a process has begun.
    """
    portable = os.environ.get("IPKERNEL_PORTABLE") == "1"
    names = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    return [name for name in names if not (portable and name.endswith(".part"))]


def same(one: Path, other: Path) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            blocks = first.read(1 << 20), second.read(1 << 20)
            if blocks[0] != blocks[1]:
                return False
            if not blocks[0]:
                return True


@pytest.fixture
def gate(monkeypatch):
    """Files are sent from here, and written here, no further than the first chunks until it is set."""
    opened = threading.Event()
    opened.reached = threading.Event()
    payloads, feed = Source.payloads, TreeWriter.feed

    def stop(number):
        if number == 2:
            opened.reached.set()
            assert opened.wait(60)

    def gated_payloads(self, transfer):
        for number, payload in enumerate(payloads(self, transfer, 1 << 20)):
            stop(number)
            yield payload

    def gated_feed(self, payload):
        self.count = getattr(self, "count", -1) + 1
        stop(self.count)
        feed(self, payload)

    monkeypatch.setattr(Source, "payloads", gated_payloads)
    monkeypatch.setattr(TreeWriter, "feed", gated_feed)
    yield opened
    opened.set()


# ---------------------------------------------------------------- there and back


def test_a_tree_there_and_back(any_rc, tree, there, here):
    path = any_rc[0].send_file("tree", "copy", block=True)
    assert path == str(there / "copy")
    assert snapshot(there / "copy") == snapshot(tree)
    path = any_rc[1].receive_file("copy", "back", block=True)
    assert path == str(here / "back")
    assert snapshot(here / "back") == snapshot(tree)
    assert os.listdir(there) == ["copy"]
    assert sorted(os.listdir(here)) == ["back", "tree"]


def test_all_engines_and_progress(rc, here, there):
    (here / "f").write_bytes(bytes(5 << 20))
    result = rc[:].send_file("f", "new/")
    assert result.get(30) == [str(there / "new" / "f")] * 2
    assert [(t.done, t.size) for t in result.transfers] == [(5 << 20, 5 << 20)] * 2
    result = rc[:].receive_file("new/f", "from {engine}")
    assert result.get(30) == [str(here / "from 0"), str(here / "from 1")]
    assert {t.done for t in result.transfers} == {5 << 20}


def test_errors_of_the_engine(rc, here, there):
    (here / "f").write_bytes(b"new")
    (there / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError) as caught:
        rc[0].send_file("f", overwrite=False, block=True)
    assert isinstance(caught.value, errors.RemoteError)
    with pytest.raises(NotADirectoryError):
        rc[0].send_file("f", "f/g", block=True)
    with pytest.raises(FileNotFoundError):
        rc[0].receive_file("nothing", block=True)
    assert (there / "f").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is full")
def test_a_limit_of_the_engine(rc, here, there):
    import resource

    (here / "f").write_bytes(bytes(3 << 20))

    def limit(size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    rc[0].apply_sync(limit, 1 << 20)
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            rc[0].send_file("f", "d/f", block=True)
    finally:
        rc[0].apply_sync(limit, resource.RLIM_INFINITY)
    assert isinstance(caught.value, errors.RemoteError)
    assert str(there / "d" / "f") in str(caught.value)
    assert os.listdir(there) == []


# ---------------------------------------------------------------- larger than the store


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_large_file_needs_little_memory(any_rc, large, here, there):
    (here / "small").write_bytes(bytes(9 << 20))
    any_rc[0].send_file("small", block=True)  # what is needed once
    any_rc[0].receive_file("small", block=True)
    peaks = Peaks({"client": os.getpid(), **host_processes(any_rc)})
    any_rc[0].send_file(large, "large", block=True)
    assert same(large, there / "large")
    any_rc[0].receive_file("large", block=True)
    growth = peaks.growth()
    assert same(large, here / "large")
    assert max(growth.values()) < 80, growth
    os.unlink(there / "large")


# ---------------------------------------------------------------- given up, killed


@pytest.mark.parametrize("way", ["send", "receive"])
def test_giving_it_up(any_rc, way, large, here, there, gate):
    if way == "send":
        result = any_rc[0].send_file(large, "d/f")
    else:
        result = any_rc[0].receive_file(large, "d/f")
    assert gate.reached.wait(30)
    assert result.cancel()
    gate.set()
    wait_for(lambda: not any_rc.outstanding, what="the engine goes on")
    wait_for(lambda: os.listdir(there) == os.listdir(here) == [], what="something is left")
    assert any_rc[0].apply_sync(abs, -1) == 1


@pytest.mark.parametrize("way", ["send", "receive"])
def test_giving_up_the_transfer(rc, way, large, here, there, gate):
    result = getattr(rc[0], f"{way}_file")(large, "d/f")
    assert gate.reached.wait(30)
    result.transfers[0].cancel()
    gate.set()
    with pytest.raises(TransferCancelled, match=f"{way}_file .* engine 0 was cancelled"):
        result.get(30)
    wait_for(lambda: os.listdir(there) == os.listdir(here) == [], what="something is left")


@pytest.mark.parametrize("way", ["send", "receive"])
def test_an_engine_that_is_killed(own, keys, way, large, here, there, gate):
    rc, _ = own
    rc[0].apply_sync(os.chdir, str(there))
    pid = rc[0].apply_sync(os.getpid)
    result = getattr(rc[0], f"{way}_file")(large, "d/f")
    assert gate.reached.wait(30)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.EngineError, match="SIGKILL"):
        result.get(30)
    gate.set()
    rc.wait_for_engines(1, timeout=30, interactive=False)
    assert_nothing_left(rc, keys)
    wait_for(lambda: os.listdir(here) == [], what="something is left here")
    assert left_in(there) == []


@pytest.mark.parametrize("way", ["send", "receive"])
def test_a_transfer_is_begun_again_if_it_may_be(own, keys, way, large, here, there, gate):
    rc, _ = own
    pid = rc[0].apply_sync(os.getpid)
    view = rc.direct_view(0, retries=1)
    target = str(there / "f")
    result = getattr(view, f"{way}_file")(large, target)
    assert gate.reached.wait(30)
    os.kill(pid, signal.SIGKILL)
    gate.set()
    assert result.get(60) == target
    assert same(large, there / "f")
    assert left_in(there) == ["f"]
    assert_nothing_left(rc, keys)


def test_when_the_engine_that_writes_is_killed_another_one_does(tmp_path, keys, large, there, gate):
    cluster = Cluster(n=3, cluster_dir=str(tmp_path / "cluster_three"))
    cluster.start_cluster_sync()
    try:
        with connected(cluster.directory, 3) as rc:
            rc[:].apply_sync(os.chdir, str(there))
            pids = rc[:].apply_async(os.getpid).get_dict()
            result = rc[:].send_file(large, "f")
            assert gate.reached.wait(30)
            writing = next(n for n, t in enumerate(result.transfers) if t.done)
            os.kill(pids[writing], signal.SIGKILL)
            gate.set()
            assert result.wait(60)
            outcomes = result.get(return_exceptions=True)
            assert isinstance(outcomes.pop(writing), errors.EngineError)
            assert outcomes == [str(there / "f")] * 2
            assert same(large, there / "f")
            assert left_in(there) == ["f"]
            assert_nothing_left(rc, keys)
    finally:
        cluster.stop_cluster_sync()


@pytest.mark.parametrize("way", ["send", "receive"])
def test_a_host_that_is_killed(own, way, large, here, there, gate):
    rc, _ = own
    rc[0].apply_sync(os.chdir, str(there))
    daemon = host_processes(rc)["daemon"]
    result = getattr(rc[0], f"{way}_file")(large, "f")
    assert gate.reached.wait(30)
    os.kill(daemon, signal.SIGKILL)
    with pytest.raises(errors.EngineError):
        result.get(30)
    gate.set()
    wait_for(lambda: os.listdir(here) == [], what="something is left here")
    wait_for(lambda: left_in(there) == [], what="something is left there")


SCRIPT = """
way, directory, large, there = sys.argv[1:]
from ipkernel.objects.filetree import Source
from ipkernel.objects.filewriter import TreeWriter
payloads, feed = Source.payloads, TreeWriter.feed
def stop(number):
    if number == 2:
        say("begun")
        wait()
def gated_payloads(self, transfer):
    for number, payload in enumerate(payloads(self, transfer, 1 << 20)):
        stop(number)
        yield payload
def gated_feed(self, payload):
    self.count = getattr(self, "count", -1) + 1
    stop(self.count)
    feed(self, payload)
Source.payloads, TreeWriter.feed = gated_payloads, gated_feed
with connected(directory, 1) as rc:
    getattr(rc[0], way + "_file")(large, os.path.join(there, "f"), block=True)
"""


@pytest.mark.parametrize("way", ["send", "receive"])
def test_a_client_that_is_killed(own, way, large, there):
    rc, cluster = own
    with Script(SCRIPT, way, cluster.directory, large, there) as script:
        assert script.hear() == "begun"
        keys = script.keys
    assert rc[0].apply_async(abs, -1).get(30) == 1
    assert_nothing_left(rc, keys)
    assert left_in(there) == []


@pytest.mark.parametrize("way", ["send", "receive"])
def test_ctrl_c(rc, way, large, here, there, gate):
    timer = threading.Thread(
        target=lambda: (gate.reached.wait(30), os.kill(os.getpid(), signal.SIGINT))
    )
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        getattr(rc[0], f"{way}_file")(large, "d/f", block=True)
    gate.set()
    timer.join()
    wait_for(lambda: not rc.outstanding, what="the engine goes on")
    # Whoever writes the file removes what he has made, which may be a thread that nobody waits for.
    wait_for(lambda: os.listdir(there) == os.listdir(here) == [])
