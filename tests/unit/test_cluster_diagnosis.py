"""What is said of programs and engines that are missing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipkernel.cli.looking import describe
from ipkernel.client.locate import Place
from ipkernel.cluster import diagnosis, joining, processes
from ipkernel.cluster.diagnosis import describe_engines, describe_programs
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import Process
from ipkernel.cluster.recorded import Recorded
from ipkernel.launchers.sshoptions import read_host
from ipkernel.wire.records import EngineInfo, HostInfo, Status

HERE = processes.host_name()


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDirectory:
    return ClusterDirectory(tmp_path / "cluster_x").create()


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    found: list[Process] = []
    monkeypatch.setattr(processes, "marked", lambda directory: found)
    return found


def launched(directory: ClusterDirectory, *programs: Recorded) -> None:
    content = [one.to_dict() for one in programs]
    directory.write_record({"engines": {"a": {"programs": content}}})


def local(pid: int = 4711, **more: Any) -> Recorded:
    return Recorded("local", n=2, record={"pid": pid, "n": 2}, **more)


def host(pid: int = 4711, **more: Any) -> HostInfo:
    return HostInfo(1, **{"host": HERE, "pid": pid, "launcher": "local", **more})


def engine(number: int, state: str, **more: Any) -> EngineInfo:
    return EngineInfo(number, **{"host": "h", "state": state, **more})


# -- programs of this host ----------------------------------------------------------------------


def test_a_program_that_has_joined(directory: ClusterDirectory, marked: list[Process]) -> None:
    launched(directory, local())
    assert joining.standings(directory, [host(engines=[0, 1])]) == []


def test_one_that_was_started_again_is_there(
    directory: ClusterDirectory, marked: list[Process]
) -> None:
    launched(directory, local(pid=1))
    assert joining.standings(directory, [host(pid=2, restarts=1)]) == []


def test_a_program_that_is_on_its_way(directory: ClusterDirectory, marked: list[Process]) -> None:
    launched(directory, local())
    marked.append(Process("ipdaemon", 4711, 1.0, ""))
    [found] = joining.standings(directory, [])
    assert found.state == "launched as pid 4711, not connected yet"
    assert found.lines == ()


@pytest.mark.parametrize("there", [[], [host(connected=False)], [host(host="another")]])
def test_a_program_that_has_died(
    directory: ClusterDirectory, marked: list[Process], there: list[HostInfo]
) -> None:
    launched(directory, local())
    (directory.log / "ipdaemon.err").write_text("".join(f"line {n}\n" for n in range(50)))
    [found] = joining.standings(directory, there)
    assert found.state == "died (pid 4711)"
    assert found.lines == tuple(f"line {n}" for n in range(42, 50))


def test_a_program_that_was_given_up(directory: ClusterDirectory, marked: list[Process]) -> None:
    launched(directory, local(failure="ended 6 times in a row: exited with code 1:\nno space"))
    [found] = joining.standings(directory, [])
    assert found.state == "failed: ended 6 times in a row: exited with code 1:"
    assert found.lines == ("no space",)


# -- programs that were started here, and of which nothing is known where they are to be ------------


def by_ssh(pid: int, process: Process) -> Recorded:
    """Return a program whose ssh has not started it yet."""
    entry = read_host("a", {}).record()
    record = {"pid": pid, "process": process.to_dict(), "n": 1, "host": entry, "directory": ""}
    return Recorded("ssh", "host a", 1, record=record)


def test_a_program_that_is_about_to_be_started_on_another_host(directory: ClusterDirectory) -> None:
    launched(directory, by_ssh(os.getpid(), Process.this("ssh")))
    [found] = joining.standings(directory, [])
    assert found.state == f"launched as pid {os.getpid()}, not connected yet"


def test_one_that_is_started_again_and_why(directory: ClusterDirectory) -> None:
    lost = "ended: the connection was lost"
    launched(directory, by_ssh(os.getpid(), Process.this("ssh"))._replace(lost=lost))
    [found] = joining.standings(directory, [])
    state = f"launched as pid {os.getpid()}, not connected yet"
    assert found.state == f"{state}; the one before {lost}"


def test_one_that_was_never_started_there(directory: ClusterDirectory) -> None:
    ended = Process.this("ssh")._replace(started=1.0)
    launched(directory, by_ssh(os.getpid(), ended))
    (directory.log / "ipdaemon-a.err").write_text("Connection reset\n")
    [found] = joining.standings(directory, [])
    assert (found.state, found.lines) == (f"died (pid {os.getpid()})", ("Connection reset",))


def test_an_mpi_job_that_has_no_host_yet(directory: ClusterDirectory) -> None:
    launched(directory, Recorded("mpi", "MPI job", 2, record={"pid": os.getpid(), "n": 2}))
    [found] = joining.standings(directory, [])
    assert found.state == f"died (pid {os.getpid()})"
    pid_file = directory.pid / f"mpi-{HERE}-{os.getpid()}.json"
    pid_file.write_text(json.dumps(Process.this("mpi").to_dict()))
    [found] = joining.standings(directory, [])
    assert found.state == f"launched as pid {os.getpid()}, not connected yet"


@pytest.mark.parametrize("record", [{}, {"pid": None}, {"pid": 0}, {"pid": "x"}])
def test_a_program_of_which_nothing_is_known(
    directory: ClusterDirectory, record: dict[str, Any]
) -> None:
    launched(directory, Recorded("local", n=2, record=record))
    assert joining.standings(directory, []) == []


# -- lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["restarting", "dead"])
def test_engines_that_were_lost_with_what_they_printed(
    directory: ClusterDirectory, state: str
) -> None:
    (directory.log / "ipengine-1.log").write_text("about to fail\n\nout of memory\n")
    lost = engine(1, state, reason="killed by SIGKILL (9)")
    assert list(describe_engines([engine(0, "ready"), lost], directory)) == [
        f"engine 1 on h: {state}: killed by SIGKILL (9)",
        "    about to fail",
        "",
        "    out of memory",
    ]
    assert len(list(describe_engines([lost], None))) == 1


def test_what_an_engine_of_another_host_printed_is_known_to_the_controller(
    directory: ClusterDirectory,
) -> None:
    (directory.log / "ipengine-1.log").write_text("of an earlier engine of this host\n")
    lost = engine(1, "dead", reason="killed by SIGKILL (9)", last_output=["out of memory"])
    told = ["engine 1 on h: dead: killed by SIGKILL (9)", "    out of memory"]
    assert list(describe_engines([lost], directory)) == told
    assert list(describe_engines([lost], None)) == told


def test_engines_on_their_way_have_no_last_words(directory: ClusterDirectory) -> None:
    (directory.log / "ipengine-0.log").write_text("of an earlier one\n")
    assert list(describe_engines([engine(0, "starting", host="")], directory)) == [
        "engine 0 on unknown host: starting"
    ]


def test_hosts_that_bring_nothing() -> None:
    hosts = [host(1), host(2, connected=False, engines=[1]), host(3, engines=[2])]
    assert list(describe_programs(hosts, None)) == [
        f"host {HERE} (daemon pid 1): connected, no engines registered",
        f"host {HERE} (daemon pid 2): not connected any more",
    ]


def test_programs_that_bring_nothing(directory: ClusterDirectory, marked: list[Process]) -> None:
    launched(directory, local(), Recorded("local", n=1, failure="no such file\nat all"))
    (directory.log / "ipdaemon.err").write_text("cannot write the log\n")
    assert list(describe_programs([], directory)) == [
        "local (1 engine): failed: no such file",
        "    at all",
        "local (2 engines): died (pid 4711)",
        "    cannot write the log",
    ]


def test_launchers_that_do_not_answer_are_not_waited_for(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def never(*_: object) -> list[Any]:
        asked.set()
        answer.wait(30)
        return []

    monkeypatch.setattr(diagnosis, "PATIENCE", 0.001)
    monkeypatch.setattr(joining, "standings", never)
    assert list(describe_programs([], directory)) == []
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "ipkernel-diagnosis":
            thread.join(30)
    assert asked.is_set()


def test_a_diagnosis_that_fails_hides_nothing(
    directory: ClusterDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Any]:
        raise RuntimeError("broken")

    monkeypatch.setattr(joining, "standings", fail)
    assert list(describe_programs([], directory)) == []


def test_what_launchers_say() -> None:
    def refuse(lines: int) -> list[str]:
        raise PermissionError

    assert diagnosis.last_lines(SimpleNamespace(output=lambda n: ["x"] * n)) == ("x",) * 8
    assert diagnosis.last_lines(SimpleNamespace(output=refuse)) == ()
    assert diagnosis.last_lines(SimpleNamespace()) == ()


def test_the_directory_of_a_client(directory: ClusterDirectory) -> None:
    furl: Any = None
    place = Place(furl, directory.security)
    assert diagnosis.directory_of(place) is None, "it does not say what was launched"
    launched(directory)
    assert diagnosis.directory_of(place) == directory
    assert diagnosis.directory_of(Place(furl, None)) is None
    assert diagnosis.directory_of(None) is None


def test_status_shows_it(directory: ClusterDirectory) -> None:
    (directory.log / "ipengine-0.log").write_text("Segmentation fault\n")
    status = Status(
        "x", 1, "h", "h:1", 1.0, "1", engines=[engine(0, "dead", reason="5 times in a row")]
    )
    missing = [joining.Standing(local(), "died (pid 4711)", ("no space left",))]
    text = describe(status, directory, missing)
    assert "local said last:\n    no space left\n" in text
    assert text.endswith("engine 0 printed last:\n    Segmentation fault")
