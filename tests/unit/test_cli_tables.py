"""Tables, spans, sizes; and the text of a status."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cli.common import fail
from ipkernel.cli.looking import describe
from ipkernel.cli.tables import harmless, number, size, span, table
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.processes import host_name
from ipkernel.wire.records import EngineInfo, HostInfo, QueueCounts, Status, Stuck


def test_table():
    text = table(("NAME", "N"), [("a", 1), ("long name", 100)], right="N")
    assert text.splitlines() == ["NAME         N", "a            1", "long name  100"]


def test_table_without_rows():
    assert table(("A", "B"), [], indent="  ").split() == ["A", "B"]


def test_no_blanks_at_the_end():
    lines = table(("A", "LONG"), [("x", "y")], indent="  ").splitlines()
    assert [line.split() for line in lines] == [["A", "LONG"], ["x", "y"]]
    assert all(line == line.rstrip() and line.startswith("  ") for line in lines)


def test_wrong_number_of_values():
    with pytest.raises(ValueError, match="1 values for 2 columns"):
        table(("A", "B"), [("x",)])


@given(st.lists(st.tuples(st.text("ab", max_size=9), st.integers())))
def test_columns_line_up(rows):
    lines = table(("HEAD", "NUMBER"), rows, right="NUMBER").splitlines()
    assert len(lines) == len(rows) + 1
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0, "0.0 s"),
        (3.14, "3.1 s"),
        (10, "10 s"),
        (59.9, "59 s"),
        (60, "1 m"),
        (200, "3 m 20 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (3660, "1 h 1 m"),
        (5 * 86400 + 2 * 3600 + 59, "5 d 2 h"),
    ],
)
def test_span(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (150 * 1024, "150 KB"),
        (3.4 * 1024**2, "3.4 MB"),
        (2 * 1024**3, "2.0 GB"),
        (3 * 1024**4, "3.0 TB"),
    ],
)
def test_size(count, text):
    assert size(count) == text


def test_number():
    assert number(1, "engine") == "1 engine"
    assert number(0, "engine") == "0 engines"
    assert number(2, "directory", "directories") == "2 directories"


def test_describe(tmp_path):
    here = host_name()
    status = Status(
        cluster="big",
        pid=77,
        host=here,
        location="127.0.0.1:4711",
        uptime=90061,
        version="1.0",
        hosts=[
            HostInfo(
                host_id=1, host=here, pid=88, engines=[0, 1], label="slurm job 17",
                draining="its time is nearly over", ends=1059.5, restarts=1,
                cpu=2.4, memory=20 << 20, files=12, started=1000.0 - 3600.0,
            ),
            HostInfo(host_id=2, host="other", pid=89, launcher="ssh"),
        ],
        engines=[
            EngineInfo(
                engine=0, host=here, pid=99, running=1, completed=9, uptime=61, cpu=99.6,
                memory=30 << 20, files=7, last_loss="08:00:00.000: killed by SIGSEGV (11)",
            ),
            EngineInfo(
                engine=1, host="other", state="dead", reason="killed by SIGKILL", restarts=3
            ),
        ],
        queue=QueueCounts(waiting=1, ready=2, running=3, finished=4),
        clients=1,
        memory=50 << 20,
        cpu=12.3,
        files=17,
        restarts=1,
    )  # fmt: skip
    text = describe(status, ClusterDirectory(tmp_path), now=1000.0)
    assert "cluster big: up 1 d 1 h, 2 engines on 2 hosts, 1 client" in text
    uses = "CPU 12 %, 50.0 MB, 17 open files, started again 1 time"
    assert f"pid 77 on {here}, 127.0.0.1:4711, {uses}, ipkernel 1.0" in text
    assert "3 waiting, 0 assigned, 3 running, 4 finished, 0 failed, 0 aborted" in text
    lines = text.splitlines()
    heads = "HOST PID LAUNCHER STATE ENGINES UPTIME CPU MEMORY FILES"
    assert heads.split() in [line.split() for line in lines]
    (host,) = [line for line in lines if line.split()[:2] == [here, "88"]]
    rest = "slurm job 17 draining (1 restart) 0-1 1 h 2 % 20.0 MB 12"
    assert " ".join(host.split()[2:]) == rest
    assert f"host {here}: its time is nearly over (ends in 59 s)" in lines
    (other,) = [line for line in lines if line.split()[:2] == ["other", "89"]]
    assert other.split()[2:] == ["ssh", "connected", "-", "-", "-", "-", "-"]
    (first,) = [line for line in lines if line.split()[:3] == ["0", here, "99"]]
    assert " ".join(first.split()[3:]) == "ready 1 0 9 1 m 1 s 100 % 30.0 MB 7"
    assert any("dead (3 restarts)" in line for line in lines)
    assert lines[-2] == "engine 1: killed by SIGKILL"
    assert lines[-1] == "engine 0 was lost at 08:00:00.000: killed by SIGSEGV (11)"


def test_describe_an_empty_cluster(tmp_path):
    status = Status(cluster="", pid=1, host="h", location="l", uptime=0, version="v")
    text = describe(status, ClusterDirectory(tmp_path / "cluster_x"))
    assert text.startswith("cluster x: up 0.0 s, 0 engines on 0 hosts, 0 clients")
    assert "ENGINE" not in text


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b1A\r\u202e"


def test_what_others_say_cannot_command_a_terminal(tmp_path):
    status = Status(
        cluster="x", pid=1, host=HOSTILE, location="l", uptime=0, version="v",
        hosts=[HostInfo(host_id=1, host=f"n{HOSTILE}", pid=2, label=HOSTILE, draining=HOSTILE)],
        engines=[
            EngineInfo(engine=0, host=HOSTILE, state="dead", reason=f"one\n{HOSTILE}"),
            EngineInfo(engine=1, host=HOSTILE, last_loss=HOSTILE),
        ],
    )  # fmt: skip
    text = describe(status, ClusterDirectory(tmp_path))
    assert all(line.isprintable() for line in text.split("\n"))
    assert "engine 0: one\n?]0;owned" in text


@given(st.text())
def test_what_is_harmless(text):
    shown = harmless(text)
    assert all(line.isprintable() for line in shown.replace("\t", "\n").split("\n"))
    assert len(shown) == len(text)
    assert all(after in (before, "?") for before, after in zip(text, shown, strict=True))
    assert harmless(shown) == shown


def test_an_error_cannot_command_a_terminal(capsys):
    assert fail("ipcluster", f"host a: {HOSTILE}\n\tline 2", 1) == 1
    said = capsys.readouterr().err
    assert said.startswith("ipcluster: host a: ?]0;owned")
    assert said.endswith("\n\tline 2\n")
    assert "\x1b" not in said


def test_what_is_stuck_is_shown_with_what_to_do(tmp_path):
    status = Status(
        cluster="c", pid=1, host="h", location="l", uptime=1.0, version="1",
        stuck=[
            Stuck(cause="a", severity="fault", reason="it hangs", advice="pull", since=900.0),
            Stuck(cause="b", severity="information", reason="it lasts", since=990.0),
        ],
    )  # fmt: skip
    lines = describe(status, ClusterDirectory(tmp_path), now=1000.0).splitlines()
    assert lines[-4:] == [
        "stuck (fault), for 1 m 40 s: it hangs",
        "  -> pull",
        "",
        "for information, for 10 s: it lasts",
    ]
