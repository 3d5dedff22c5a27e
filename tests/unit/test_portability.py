"""What must work on systems that lack what Linux has; the rest of it is run by ``IPKERNEL_PORTABLE=1``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ipkernel.arguments import command_words
from ipkernel.cluster import processes
from ipkernel.host import processes as host_processes
from ipkernel.host import starters, zygotes
from ipkernel.signals import signal_name

#: Modules that are for Linux, or for systems with UNIX sockets and signals, alone, with who loads
#: them where they can be used. Everywhere else they are not imported.
NATIVE = {
    "ipkernel.controller.nearport": "where there are UNIX sockets",
    "ipkernel.controller.splicing": "where there is os.splice",
    "ipkernel.host.ranks": "for the ranks of MPI jobs",
    "ipkernel.objects.window": "for mappings of descriptors",
}

#: What is taken away before every module is imported, by where it is.
ALIKE = """
import importlib.abc, mmap, os, pkgutil, select, signal, socket, sys

# First what the standard library and others need themselves; they have a Windows of their own.
import asyncio, getpass, multiprocessing.shared_memory, pathlib, shutil, ssl, subprocess, tarfile
import tempfile, IPython, OpenSSL, cryptography.x509, foolscap.api, psutil, setproctitle
import twisted.internet.reactor, twisted.internet.selectreactor, twisted.internet.ssl
import twisted.internet.process, twisted.internet.endpoints, twisted.python.log

GONE = {
    os: "fork forkpty getuid geteuid getgid getegid setsid getpgid setpgid killpg splice uname"
        " sched_getaffinity sched_setaffinity mkfifo memfd_create pidfd_open register_at_fork wait4"
        " waitid WNOHANG WNOWAIT WEXITED P_ALL P_PID statvfs fchmod chown readv writev"
        " O_NONBLOCK O_DIRECTORY O_TMPFILE O_NOFOLLOW O_CLOEXEC MFD_CLOEXEC MFD_ALLOW_SEALING",
    socket: "AF_UNIX SO_PEERCRED send_fds recv_fds SCM_RIGHTS MSG_DONTWAIT MSG_NOSIGNAL"
        " MSG_CMSG_CLOEXEC SO_REUSEPORT TCP_USER_TIMEOUT CMSG_SPACE",
    signal: "SIGKILL SIGHUP SIGQUIT SIGCHLD SIGUSR1 SIGUSR2 SIGTSTP SIGSTOP SIGCONT SIGALRM SIGPIPE"
        " SIGWINCH pthread_kill pthread_sigmask sigwait siginterrupt setitimer alarm"
        " pidfd_send_signal",
    select: "poll epoll POLLIN",
    mmap: " ".join(name for name in dir(mmap) if name.startswith(("MAP_", "PROT_", "MADV_"))),
}
BLOCKED = {"fcntl", "resource", "pwd", "termios", "grp", "_posixshmem", "pty", "tty", "syslog"}
BLOCKED |= {f"twisted.internet.{name}" for name in ("unix", "process", "epollreactor")}


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


for name in BLOCKED:
    sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    if package:
        vars(sys.modules[package]).pop(last, None)
sys.meta_path.insert(0, Blocked())
for module, names in GONE.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.platform, os.name = PLATFORM
for module in (pathlib, sys.modules.get("pathlib._local")):
    if hasattr(module, "PosixPath"):  # the other one cannot be made here
        module.WindowsPath = module.PosixPath

import ipkernel

failed = {}
for found in pkgutil.walk_packages(ipkernel.__path__, "ipkernel."):
    if found.name in NATIVE or found.name.endswith("__main__"):
        continue
    try:
        __import__(found.name)
    except BaseException as error:
        failed[found.name] = repr(error)
print(failed, sorted(NATIVE & sys.modules.keys()), len(sys.modules) > 300)
"""


@pytest.mark.parametrize("platform", [("win32", "nt"), ("darwin", "posix"), ("linux", "posix")])
def test_every_module_can_be_imported_without_what_windows_lacks(platform: tuple[str, str]) -> None:
    code = f"PLATFORM = {platform!r}\nNATIVE = {set(NATIVE)!r}\n{ALIKE}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "{} [] True\n"


def test_the_modules_that_are_left_out_are_there() -> None:
    for name in NATIVE:
        __import__(name)


# -- which implementation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "lacks", "native"),
    [
        ("linux", [], True),
        ("darwin", [], False),
        ("cygwin", [], False),
        ("linux", ["os.fork"], False),
        ("linux", ["os.waitid"], False),
        ("linux", ["socket.send_fds"], False),
    ],
)
def test_who_forks(
    monkeypatch: pytest.MonkeyPatch, platform: str, lacks: list[str], native: bool
) -> None:
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    for name in lacks:
        monkeypatch.delattr(name)
    assert zygotes.available() is native
    assert starters.portable() is not native


def test_the_portable_one_can_be_wished_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert starters.portable()
    assert not starters.needs_zygote()


# -- signals, as Windows has them ---------------------------------------------------------------


class Sent(list[tuple[int, int]]):
    def kill(self, pid: int, number: int) -> None:
        self.append((pid, number))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Make signals be sent as on Windows; what is sent is noted instead."""
    sent = Sent()
    monkeypatch.delattr(os, "killpg")
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.delattr(signal, "SIGKILL")
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    monkeypatch.setattr(os, "kill", sent.kill)
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(processes, "POSIX", False)
    return sent


@pytest.mark.parametrize("group", [True, False])
def test_an_interrupt_of_an_engine_is_a_ctrl_break(windows: Sent, group: bool) -> None:
    host_processes.signal_process(4711, signal.SIGINT, group=group)
    assert windows == [(4711, 1)]


class Family:
    """Stands for psutil.Process: a process with two children."""

    killed: list[str] = []

    def __init__(self, pid: int | str) -> None:
        if pid == 0:
            raise psutil.NoSuchProcess(0)
        self.name = str(pid)

    def children(self, recursive: bool) -> list[Family]:
        assert recursive
        return [Family(f"{self.name}a"), Family(f"{self.name}b")]

    def kill(self) -> None:
        self.killed.append(self.name)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(psutil, "Process", Family)
    monkeypatch.setattr(Family, "killed", [])
    return Family.killed


def test_the_end_of_an_engine_is_that_of_what_it_has_started(
    windows: Sent, family: list[str]
) -> None:
    host_processes.signal_process(4711, signal.SIGTERM, group=True)
    assert sorted(family) == ["4711", "4711a", "4711b"]
    host_processes.kill_group(0)  # it is gone
    processes.kill_group(4712)
    assert sorted(family)[3:] == ["4712", "4712a", "4712b"]
    processes.kill_group(0)
    assert windows == []


class Kernel:
    """Stands for :mod:`select` of macOS."""

    KQ_FILTER_PROC, KQ_EV_ADD, KQ_EV_ONESHOT, KQ_NOTE_EXIT = -5, 1, 16, 1 << 31

    def __init__(self, gone: bool) -> None:
        self.gone = gone
        self.said: list[Any] = []

    def kqueue(self) -> Kernel:
        return self

    def kevent(self, pid: int, **what: int) -> tuple[int, dict[str, int]]:
        return pid, what

    def control(self, changes: list[Any], count: int) -> None:
        self.said.append((changes, count))
        if self.gone:
            raise ProcessLookupError

    def close(self) -> None:
        self.said.append("closed")


@pytest.mark.parametrize("gone", [True, False])
def test_macos_waits_for_the_end_of_an_engine(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    kernel = Kernel(gone)
    monkeypatch.delattr(os, "waitid")
    monkeypatch.setattr(host_processes, "select", kernel)
    assert host_processes.await_end(4711)
    end = (4711, {"filter": -5, "flags": 17, "fflags": 1 << 31})
    assert kernel.said == [([end], 1), "closed"]


def test_windows_cannot_wait_for_a_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    assert not host_processes.await_end(os.getpid())


def test_children_of_an_engine_that_has_ended(
    windows: Sent, family: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> int:
        raise psutil.NoSuchProcess(4)

    there = [
        SimpleNamespace(pid=1, ppid=lambda: 4711, create_time=lambda: 99.0),
        SimpleNamespace(pid=2, ppid=lambda: 4711, create_time=lambda: 100.0),
        SimpleNamespace(pid=3, ppid=lambda: 4712, create_time=lambda: 100.0),
        SimpleNamespace(pid=4, ppid=gone),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(there))
    host_processes.kill_children(4711, 99.5)
    assert sorted(family) == ["2", "2a", "2b"]


def test_in_a_virtual_environment_windows_starts_the_real_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ipkernel.host.spawns import interpreter

    monkeypatch.setattr(sys, "_base_executable", "/base/python", raising=False)
    assert interpreter() == (sys.executable, {})
    monkeypatch.setattr(os, "name", "nt")
    assert interpreter() == ("/base/python", {"__PYVENV_LAUNCHER__": sys.executable})
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    assert interpreter() == (sys.executable, {})


def test_other_signals_are_sent_as_they_are(windows: Sent) -> None:
    host_processes.signal_process(4711, signal.SIGTERM, group=False)
    assert windows == [(4711, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (lambda one: one.terminate(), 1),
        (lambda one: one.signal(signal.SIGINT), 1),
        (lambda one: one.signal(signal.SIGTERM), int(signal.SIGTERM)),
    ],
)
def test_programs_are_asked_to_end_by_a_ctrl_break(windows: Sent, call: Any, sent: int) -> None:
    this = processes.Process.this("ipcontroller")
    assert call(this)
    assert windows == [(os.getpid(), sent)]


def test_groups_are_asked_to_end_by_a_ctrl_break(windows: Sent) -> None:
    processes.terminate_group(4711)
    asked: list[int] = []
    processes.terminate_process(SimpleNamespace(send_signal=asked.append))  # type: ignore[arg-type]
    assert windows == [(4711, 1)]
    assert asked == [1]


def test_children_have_a_group_of_their_own(windows: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x8000000, raising=False)
    assert processes.spawn_options() == {"creationflags": 0x200}
    assert processes.spawn_options(stays=True) == {"creationflags": 0x8000200}


@pytest.mark.usefixtures("windows")
def test_signals_that_windows_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGUSR1")
    with pytest.raises(ValueError, match="there is no signal 'usr1' on"):
        host_processes.signal_number("usr1")
    assert host_processes.signal_number("SIGKILL") == signal.SIGTERM
    assert host_processes.signal_number("int") == signal.SIGINT
    assert signal_name("usr1") == "SIGUSR1"  # other hosts may have it


def test_what_another_console_has_is_not_reached(
    windows: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, number: int) -> None:
        raise OSError(22, "The parameter is incorrect")

    monkeypatch.setattr(os, "kill", refuse)
    this = processes.Process.this("ipcontroller")
    assert not this.terminate()
    assert not this.signal(signal.SIGINT)
    processes.terminate_group(this.pid)
    child: Any = SimpleNamespace(send_signal=lambda number: os.kill(1, number))
    processes.terminate_process(child)


def test_a_child_is_interrupted_by_a_ctrl_break(windows: Sent) -> None:
    asked: list[int] = []
    child: Any = SimpleNamespace(send_signal=asked.append)
    processes.signal_child(child, signal.SIGINT)
    processes.signal_child(child, signal.SIGTERM)
    assert asked == [1, signal.SIGTERM]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3221225477, "exited with code 0xC0000005 (access violation)"),
        (3221225786, "exited with code 0xC000013A (ended by Ctrl-C, or its console was closed)"),
        (3758096385, "exited with code 0xE0000001"),
        (15, "exited with code 15"),
    ],
)
def test_exit_codes_of_windows(code: int, text: str) -> None:
    assert processes.describe_exit(code) == text
    assert host_processes.Exit.of_returncode(code).text == text


def test_paths_of_windows_in_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = r'"C:\Program Files\HPC\job.exe" /scheduler:head D:\x'
    monkeypatch.setattr(os, "name", "nt")
    assert command_words(text) == [r"C:\Program Files\HPC\job.exe", "/scheduler:head", r"D:\x"]
    with pytest.raises(ValueError, match="No closing quotation"):
        command_words('"C:')
    monkeypatch.setattr(os, "name", "posix")
    assert command_words("a 'b c' d\\ e") == ["a", "b c", "d e"]


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert processes.cpu_count() == (os.cpu_count() or 1)


def test_a_store_listens_on_the_loopback_interface_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipkernel.wire.addresses import listen

    monkeypatch.setattr(sys, "platform", "darwin")
    listening, address = listen()
    with listening:
        assert listening.family == socket.AF_INET
        assert listening.getsockname()[0] == "127.0.0.1"
    assert str(address).startswith("tcp:127.0.0.1:")
