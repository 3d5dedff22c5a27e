"""Ranks as a host daemon sees them: coming, going in order, and failing; no MPI, no reactor."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess

import pytest
from twisted.internet.task import Clock

from ipkernel.engine.rank import socket_path
from ipkernel.engine.zygote import receive_message, send_message
from ipkernel.host import ranks as module
from ipkernel.host.interfaces import Place
from ipkernel.host.processes import Exit
from ipkernel.host.rankplace import Ranks, exit_of, read_verdict, take_ranks
from ipkernel.host.ranks import RankStarter
from ipkernel.host.starters import RANKS

TOKEN = secrets.token_hex(32)


class Reactor(Clock):
    """Looks at descriptors when it is told to."""

    def __init__(self):
        super().__init__()
        self.readers = []

    def addReader(self, reader):
        self.readers.append(reader)

    def removeReader(self, reader):
        self.readers.remove(reader)

    def look(self):
        for reader in list(self.readers):
            while reader in self.readers and select.select([reader], [], [], 0)[0]:
                if reader.doRead() is not None:
                    self.readers.remove(reader)
                    reader.connectionLost(None)


class Events:
    def __init__(self):
        self.all = []

    def spawned(self, key, pid):
        self.all.append(("spawned", key, pid))

    def over(self, reason):
        self.all.append(("over", reason))

    def exited(self, key, ending):
        self.all.append(("exited", key, ending))

    def take(self):
        taken, self.all = self.all, []
        return taken


class Scene:
    """A starter with ranks 3 and 1 of 4, whose processes do nothing."""

    def __init__(self, tmp_path, monkeypatch, here=2, size=4):
        self.told = []
        monkeypatch.setattr(
            module, "emit", lambda event, **fields: self.told.append((event, fields))
        )
        monkeypatch.setattr(module, "_let_go", lambda: None)
        self.path = socket_path(TOKEN, str(tmp_path))
        self.verdict = tmp_path / "verdict.json"
        self.starter = RankStarter(Ranks(str(self.path), TOKEN, str(self.verdict), here, size))
        self.reactor, self.events = Reactor(), Events()
        self.processes, self.controls, self.begun = {}, {}, []
        self.descriptors = []

    def come(self, *numbers):
        """Have ranks come; they wait for their answers in threads, as the first start blocks."""
        for number in numbers:
            self.processes[number] = subprocess.Popen(["sleep", "100"], start_new_session=True)
            self.controls[number] = self.connect(number, self.processes[number].pid, TOKEN)
        for key in range(len(numbers)):
            self.begun.append(self.starter.start(str(key + 1), Place({"A": "b"}, "/", ())))
        for number in numbers:
            message, descriptors = receive_message(self.controls[number])
            assert message == {"environment": {"A": "b"}, "cwd": "/", "cpus": []}
            assert len(descriptors) == 4
            self.descriptors += descriptors

    def connect(self, number, pid, token):
        control = socket.socket(socket.AF_UNIX)
        control.connect(str(self.path))
        send_message(control, {"rank": number, "pid": pid, "token": token})
        return control

    def attach(self):
        self.starter.attach(self.reactor, self.events)
        self.events.take()

    def die(self, number, how=signal.SIGKILL):
        """End a rank: its parent, this process, takes notice later."""
        process = self.processes[number]
        process.send_signal(how)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self.controls[number].close()

    def close(self):
        self.starter.close()
        for one in self.begun:
            one.link.close()
            os.close(one.out)
            os.close(one.err)
            one.progress = None  # the memory goes with it
        for descriptor in self.descriptors:
            os.close(descriptor)
        for control in self.controls.values():
            control.close()
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def scene(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    yield scene
    scene.close()


def test_ranks_come_and_are_sorted(scene):
    scene.come(3, 1)
    assert scene.starter.job.ranks == [1, 3]
    assert scene.starter.job.size == 4
    assert [one.pid for one in scene.begun] == [scene.processes[n].pid for n in (1, 3)]
    assert scene.told == [
        ("ranks", {"ranks": [1, 3], "host": socket.gethostname(), "pid": os.getpid()})
    ]
    assert not scene.path.parent.exists()  # nobody else can come


def test_the_place_is_private(scene):
    assert scene.path.parent.stat().st_mode & 0o777 == 0o700


def test_the_place_is_taken(scene, tmp_path):
    with pytest.raises(FileExistsError):
        RankStarter(Ranks(str(scene.path), TOKEN, "", 1, 1))


@pytest.mark.parametrize(
    "hello", [{"rank": 1, "pid": 1, "token": "x"}, {"rank": 9, "pid": 1, "token": TOKEN}, {}]
)
def test_strangers_are_sent_away(scene, hello):
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(str(scene.path))
    send_message(stranger, hello)
    scene.come(0, 1)
    assert stranger.recv(1) == b""
    stranger.close()
    assert scene.starter.job.ranks == [0, 1]


def test_not_all_come(scene, monkeypatch):
    monkeypatch.setattr(module, "COME", 0.2)
    control = scene.connect(2, 1, TOKEN)
    with pytest.raises(OSError, match="of the 2 MPI ranks .* only these have come within 0.2 s: 2"):
        scene.starter.start("1", Place())
    control.close()


def test_the_rank_that_has_started_the_daemon_goes(scene, monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(module.os, "getppid", lambda: next(parents))
    with pytest.raises(OSError, match="ended before its engines were ready"):
        scene.starter.start("1", Place())


def test_no_more_than_there_are(scene):
    scene.come(0, 1)
    with pytest.raises(OSError, match="and no others"):
        scene.starter.start("3", Place())


def test_a_rank_of_several_hosts_fails_and_the_verdict_tells_why(scene):
    scene.come(1, 3)
    scene.attach()
    scene.die(3)
    scene.reactor.look()
    assert scene.events.take() == []
    scene.reactor.advance(0.1)
    pid, host = scene.processes[3].pid, socket.gethostname()
    text = f"rank 3 (pid {pid} on host {host}) was killed by SIGKILL (9)"
    assert scene.told[-1] == ("died", {"rank": 3, "text": text, "known": True})
    assert scene.events.take() == []  # on another host one may have failed before
    scene.verdict.write_text(json.dumps({"text": "rank 0 exited with code 3"}))
    scene.reactor.advance(0.1)
    assert scene.events.take() == [
        ("over", "rank 0 exited with code 3"),
        ("exited", "2", Exit(None, 9)),
    ]
    scene.die(1, signal.SIGTERM)
    scene.reactor.look()
    assert scene.events.take() == [("exited", "1", Exit(None, 15))]


def test_no_verdict_comes(scene):
    scene.come(1, 3)
    scene.attach()
    scene.die(3)
    scene.reactor.look()
    scene.reactor.pump([0.1] * 140)
    assert scene.events.take() == []
    scene.reactor.pump([0.1] * 20)
    (over, text), exited = scene.events.take()
    assert over == "over"
    assert text.endswith("was killed by SIGKILL (9); MPI then ended the other 3 ranks")
    assert exited == ("exited", "2", Exit(None, 9))


def test_the_job_is_on_this_host_only(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, size=2)
    scene.come(0, 1)
    scene.attach()
    scene.processes[1].kill()
    scene.processes[1].wait()  # its parent has taken notice: nobody can tell any more
    scene.controls[1].close()
    scene.reactor.look()
    scene.reactor.advance(0.1)
    assert scene.told[-1][1]["known"] is False
    assert scene.events.take() == []
    scene.die(0)  # by MPI
    scene.reactor.look()
    scene.reactor.pump([0.1] * 60)
    (_, text), *exits = scene.events.take()
    assert text.endswith("ended unexpectedly; MPI then ended the other rank")
    assert exits == [("exited", "1", Exit(None, 9)), ("exited", "2", Exit(None, None))]
    scene.close()


def test_who_failed_first_is_not_who_was_killed_for_it(scene):
    scene.come(1, 3)
    scene.attach()
    scene.die(1)
    scene.reactor.look()
    scene.die(3, signal.SIGSEGV)  # was slower in closing its connection
    scene.reactor.look()
    scene.reactor.advance(0.1)
    assert scene.told[-1][1]["text"].startswith("rank 3 ")
    assert scene.told[-1][1]["text"].endswith("was killed by SIGSEGV (11)")


def test_a_rank_says_that_it_leaves_before_another_is_killed_for_it(scene):
    scene.come(1, 3)
    scene.attach()
    send_message(scene.controls[3], {"leaving": int(signal.SIGTERM)})
    scene.reactor.look()
    scene.die(1)
    scene.die(3)
    scene.reactor.look()
    scene.reactor.advance(0.1)
    assert scene.told[-1][1]["text"].startswith("rank 3 ")
    assert scene.told[-1][1]["text"].endswith("was killed by SIGTERM (15)")


def test_an_end_that_is_expected_is_told_at_once(scene):
    scene.come(1, 3)
    scene.attach()
    scene.starter.expect_end()
    send_message(scene.controls[1], {"leaving": 0})
    scene.controls[1].close()
    scene.reactor.look()
    assert scene.events.take() == [("exited", "1", Exit(0, None))]


def test_an_end_is_asked_for_while_a_verdict_is_waited_for(scene):
    scene.come(1, 3)
    scene.attach()
    scene.die(3)
    scene.reactor.look()
    scene.reactor.advance(0.1)
    scene.starter.expect_end()
    assert [event[0] for event in scene.events.take()] == ["over", "exited"]


def test_a_rank_that_leaves_has_time_to_leave_mpi(scene):
    scene.come(1, 3)
    scene.attach()
    scene.starter.expect_end()
    send_message(scene.controls[1], {"leaving": 0})
    scene.reactor.look()
    scene.starter.signal("1", signal.SIGTERM, True)
    scene.starter.signal("1", signal.SIGKILL, True)
    assert scene.processes[1].poll() is None
    scene.reactor.advance(5.1)
    assert scene.processes[1].wait(30) == -signal.SIGKILL


def test_signals_arrive(scene):
    scene.come(1, 3)
    scene.attach()
    scene.starter.signal("2", signal.SIGTERM, True)
    assert scene.processes[3].wait(30) == -signal.SIGTERM
    assert scene.processes[1].poll() is None
    scene.starter.signal("9", signal.SIGTERM, True)  # there is none


def test_what_a_rank_has_started_goes_with_it(scene):
    scene.come(1, 3)
    scene.attach()
    reading, writing = os.pipe()
    both = subprocess.Popen(
        ["sh", "-c", "sleep 100 & echo; wait"], start_new_session=True, stdout=writing
    )
    os.close(writing)
    assert os.read(reading, 1) == b"\n"
    scene.starter._members["2"].pid = both.pid
    both.kill()
    scene.controls[3].close()
    scene.reactor.look()
    assert os.read(reading, 1) == b""  # nobody has it open any more
    os.close(reading)
    both.wait()


def test_what_the_first_rank_tells_is_taken_out_of_the_environment():
    ranks = Ranks("/s", TOKEN, "/v", 1, 2)
    told = {"socket": "/s", "token": TOKEN, "verdict": "/v", "here": 1, "size": 2}
    environment = {RANKS: json.dumps(told)}
    assert take_ranks(environment) == ranks
    assert environment == {}
    with pytest.raises(ValueError, match="size"):
        take_ranks({RANKS: '{"socket": "/s", "token": "", "verdict": "", "here": 1}'})


@pytest.mark.parametrize("text", ["", "{}", '{"text": 3}', "[]", "null"])
def test_a_verdict_that_is_none(tmp_path, text):
    path = tmp_path / "verdict"
    assert read_verdict(path) == ""
    path.write_text(text)
    assert read_verdict(path) == ""


def test_how_a_process_has_ended_can_be_told_until_its_parent_notices():
    process = subprocess.Popen(["sh", "-c", "exit 3"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert exit_of(process.pid) == Exit(3, None)
    process.wait()
    assert exit_of(process.pid) is None
    assert exit_of(os.getpid()) is None
