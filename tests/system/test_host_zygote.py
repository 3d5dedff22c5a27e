"""The zygote by itself: its protocol, its start, its end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from ipkernel.engine.zygote import command, receive_message, send_message
from ipkernel.host import zygotes
from ipkernel.host.interfaces import Place
from ipkernel.host.zygotes import ZygoteStarter, available, shared_counter
from ipkernel.wire.link import Link
from ipkernel.wire.messages import EngineHello

pytestmark = pytest.mark.skipif(not available(), reason="needs fork and UNIX sockets")


class Zygote:
    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*command(), str(theirs.fileno()), "test"], pass_fds=[theirs.fileno()]
            )
        self.socket.settimeout(20)

    def fork(self, key: str) -> tuple[socket.socket, int, int]:
        """Ask for an engine; its link, and the reading ends of its output."""
        link, theirs = socket.socketpair()
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        counter, _ = shared_counter()
        ends = (theirs.fileno(), out_end, err_end, counter)
        send_message(self.socket, {"fork": key, "env": {"COLOUR": "green"}}, ends)
        theirs.close()
        for end in (out_end, err_end, counter):
            os.close(end)
        link.settimeout(20)
        return link, out, err

    def hear(self, wanted: str) -> dict[str, Any]:
        received = receive_message(self.socket)
        assert received is not None
        assert wanted in received[0], received
        return received[0]

    def close(self) -> None:
        self.socket.close()
        self.process.wait(20)


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    assert made.hear("ready") == {"ready": made.process.pid}
    yield made
    made.close()


def test_an_engine_from_its_fork_to_its_end(zygote: Zygote) -> None:
    link, out, err = zygote.fork("a")
    pid = zygote.hear("forked")["pid"]
    [(hello, _)] = Link().receive(link.recv(65536))
    assert hello == EngineHello(pid)
    engine = psutil.Process(pid)
    assert (engine.ppid(), os.getpgid(pid), os.getsid(pid)) == (zygote.process.pid, pid, pid)
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    link.close()
    exited = zygote.hear("exited")
    assert (exited["exited"], exited["status"]) == ("a", 0)
    assert exited["memory"] > 1_000_000
    assert (os.read(out, 1), os.read(err, 1)) == (b"", b"")
    os.close(out)
    os.close(err)


def test_signals_go_through_the_zygote(zygote: Zygote) -> None:
    link, out, err = zygote.fork("a")
    zygote.hear("forked")
    send_message(zygote.socket, {"kill": "nobody", "signal": signal.SIGKILL, "group": True})
    send_message(zygote.socket, {"kill": "a", "signal": signal.SIGKILL, "group": False})
    assert zygote.hear("exited")["status"] == signal.SIGKILL
    link.close()
    os.close(out)
    os.close(err)


def test_engines_hold_nothing_of_the_zygotes_or_each_others(zygote: Zygote) -> None:
    parts = []
    pids = []
    for key in ("a", "b"):
        parts.append(zygote.fork(key))
        pids.append(zygote.hear("forked")["pid"])
        Link().receive(parts[-1][0].recv(65536))
    for pid in pids:
        sockets = [fd for fd in os.listdir(f"/proc/{pid}/fd") if _is_socket(pid, fd)]
        assert len(sockets) == 1
    for link, out, err in parts:
        link.close()
        zygote.hear("exited")
        os.close(out)
        os.close(err)


def _is_socket(pid: int, descriptor: str) -> bool:
    return os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith("socket:")


def test_too_few_descriptors_fail_one_start_only(zygote: Zygote) -> None:
    before = psutil.Process(zygote.process.pid).num_fds()
    read, write = os.pipe()
    send_message(zygote.socket, {"fork": "a", "env": {}}, (write, write, write))
    os.close(write)
    failed = zygote.hear("failed")
    assert (failed["failed"], failed["error"]) == ("a", "Too many open files")
    assert os.read(read, 1) == b""  # what did arrive is closed
    os.close(read)
    assert psutil.Process(zygote.process.pid).num_fds() == before
    link, out, err = zygote.fork("b")
    assert zygote.hear("forked")["forked"] == "b"
    link.close()
    assert zygote.hear("exited")["exited"] == "b"
    os.close(out)
    os.close(err)


@pytest.mark.parametrize("failing", ["second pipe", "shared memory", "mapping"])
def test_a_start_that_fails_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*arguments: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours, theirs = socket.socketpair()
    starter = ZygoteStarter("test", (subprocess.Popen([sys.executable, "-c", ""]), ours))
    pipe, calls = os.pipe, iter([False, True])
    before = psutil.Process().num_fds()
    with monkeypatch.context() as patch:
        if failing == "second pipe":
            patch.setattr(os, "pipe", lambda: fail() if next(calls) else pipe())
        elif failing == "shared memory":
            patch.setattr(zygotes, "shared_counter", fail)
        else:
            patch.setattr(zygotes.mmap, "mmap", fail)
        with pytest.raises(OSError, match="Too many open files"):
            starter.start("1", Place())
    assert psutil.Process().num_fds() == before
    starter.close()
    theirs.close()


def test_the_end_of_the_daemon_is_the_end_of_all(zygote: Zygote) -> None:
    link, out, err = zygote.fork("a")
    engine = psutil.Process(zygote.hear("forked")["pid"])
    zygote.socket.close()
    assert zygote.process.wait(20) == 0
    engine.wait(20)
    assert not engine.is_running()
    link.close()
    os.close(out)
    os.close(err)


def test_no_reactor_and_no_ipython_is_imported() -> None:
    code = (
        "import sys, ipkernel.engine.zygote as z; z.preload();"
        "print([m for m in ('twisted', 'foolscap', 'IPython', 'asyncio', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert out.stdout == "[]\n", out.stderr


def test_a_worker_started_by_hand_says_so() -> None:
    out = subprocess.run(
        [sys.executable, "-P", "-m", "ipkernel.engine.worker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 1
    assert out.stderr.count("\n") == 1 and "ipdaemon" in out.stderr
