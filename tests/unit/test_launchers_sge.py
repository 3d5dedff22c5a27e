"""Grid Engine: the script that is submitted, the commands, and what their answers mean."""

from __future__ import annotations

import getpass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.launchers import find_launcher
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.sge import GridEngine
from tests.support import batchjobs


def listing(*jobs):
    """Return what ``qstat -xml`` prints for running and for pending jobs."""
    shown = {"running": "", "pending": ""}
    for number, state, queue in jobs:
        part = "running" if queue else "pending"
        shown[part] += (
            f'    <job_list state="{part}">\n'
            f"      <JB_job_number>{number}</JB_job_number>\n"
            "      <JAT_prio>0.55500</JAT_prio>\n"
            "      <JB_name>ipdaemon</JB_name>\n"
            "      <JB_owner>somebody</JB_owner>\n"
            f"      <state>{state}</state>\n"
            f"      <queue_name>{queue}</queue_name>\n"
            "      <slots>1</slots>\n"
            "    </job_list>\n"
        )
    return Answer(
        0,
        "<?xml version='1.0'?>\n"
        '<job_info  xmlns:xsd="http://www.w3.org/2001/XMLSchema">\n'
        f"  <queue_info>\n{shown['running']}  </queue_info>\n"
        f"  <job_info>\n{shown['pending']}  </job_info>\n"
        "</job_info>\n",
    )


def test_it_is_found_by_name():
    assert find_launcher("engines", "SGE").system_class is GridEngine
    assert find_launcher("controller", "sge").system_class is GridEngine


def test_the_least_directives():
    system = GridEngine({})
    assert system.directives(batchjobs.job_of(system, 1)) == [
        "#$ -N ipdaemon",
        "#$ -S /bin/sh",
        "#$ -r n",
    ]


def test_all_directives():
    system = GridEngine(
        {
            "queue": "all.q",
            "account": "my project",
            "walltime": "01:30:00",
            "job_name": "mine",
            "cpus_per_engine": 2,
            "parallel_environment": "threads",
            "extra": ["-l mem_free=4G", "#$ -m n"],
        }
    )
    lines = system.directives(batchjobs.job_of(system, 3))
    assert lines[0] == "#$ -N mine"
    assert lines[3:] == [
        "#$ -pe threads 6",
        "#$ -q all.q",
        "#$ -P 'my project'",
        "#$ -l h_rt=01:30:00",
        "#$ -l mem_free=4G",
        "#$ -m n",
    ]


def test_without_a_parallel_environment_a_job_has_one_slot():
    system = GridEngine({"parallel_environment": ""})
    assert not any("-pe" in line for line in system.directives(batchjobs.job_of(system, 4)))


def test_submission(tmp_path):
    qsub = batchjobs.fake_command(tmp_path, "qsub", "echo 'warning: no mail'; echo 4711")
    script = tmp_path / "jobs" / "a b.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    system = GridEngine({"submit": f"{qsub} -clear"})
    assert system.read_job(batchjobs.run_here(system.submit(script))) == "4711"
    where = ["-o", f"{tmp_path}/log/a b.out", "-e", f"{tmp_path}/log/a b.err"]
    assert batchjobs.arguments(tmp_path, "qsub") == ["-clear", "-terse", *where, str(script)]


@pytest.mark.parametrize(("out", "job"), [("17\n", "17"), ("17.1-4:1\n", "17")])
def test_ids(out, job):
    assert GridEngine({}).read_job(Answer(0, out)) == job


@pytest.mark.parametrize("out", ["", "Unable to run job: denied.\n"])
def test_an_answer_without_a_job(out):
    with pytest.raises(ValueError):
        GridEngine({}).read_job(Answer(0, out))


def test_the_query():
    user = getpass.getuser()
    assert GridEngine({}).query(["1", "2"]) == ["qstat", "-u", user, "-xml"]


@pytest.mark.parametrize(
    ("letters", "queue", "text"),
    [
        ("qw", "", "pending"),
        ("hqw", "", "pending (held back)"),
        ("Eqw", "", "pending (in error: 'qstat -j' says why; 'qmod -cj' lets it try again)"),
        ("r", "all.q@alpha", "running on all.q@alpha"),
        ("t", "all.q@alpha", "running on all.q@alpha"),
        ("Rr", "all.q@alpha", "running on all.q@alpha"),
        ("dr", "all.q@alpha", "running on all.q@alpha"),
        ("S", "all.q@alpha", "running on all.q@alpha (suspended)"),
        ("T", "all.q@alpha", "running on all.q@alpha (suspended)"),
        ("d", "all.q@alpha", "running on all.q@alpha (being deleted)"),
    ],
)
def test_states(letters, queue, text):
    states = GridEngine({}).read_states(["7"], listing((7, letters, queue), (8, "qw", "")))
    assert list(states) == ["7"]
    assert states["7"].text == text


def test_no_jobs():
    assert GridEngine({}).read_states(["7"], listing()) == {}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(1, "", "error: commlib error: got select error (Connection refused)\n"),
        Answer(0, ""),
        Answer(0, "<job_info>"),
    ],
)
def test_a_batch_system_that_does_not_answer(answer):
    with pytest.raises(QueryFailed):
        GridEngine({}).read_states(["7"], answer)


ACCOUNT = """\
==============================================================
qname        all.q
hostname     alpha
jobnumber    7
failed       {failed}
exit_status  {status}
ru_wallclock {used}
category     -l h_rt={asked}
"""


@pytest.mark.parametrize(
    ("failed", "status", "state"),
    [
        ("0", "0", JobState("ended", "exited with code 0", 0)),
        ("0", "3                   ", JobState("ended", "exited with code 3", 3)),
        ("100 : assumedly after job", "137", JobState("ended", "was killed by SIGKILL", -9)),
        ("26  : opening input/output file", "0", JobState("ended", "failed: opening input/output file", 1)),
        ("37 : qmaster enforced h_rt, h_cpu, or h_vmem limit", "137", JobState("ended", "failed: qmaster enforced h_rt, h_cpu, or h_vmem limit", -9)),
    ],
)  # fmt: skip
def test_history(failed, status, state):
    said = Answer(0, ACCOUNT.format(failed=failed, status=status, used="1.000s", asked=2))
    assert GridEngine({}).read_history("7", said) == state


@pytest.mark.parametrize("failed", ["100 : assumedly after job", "37  : qmaster enforced h_rt"])
def test_a_job_that_ran_out_of_walltime(failed):
    system = GridEngine({"walltime": "01:00:00"})
    own = ACCOUNT.format(failed=failed, status="137  (Killed)", used="3s", asked=2)
    assert system.read_history("7", Answer(0, own)) == JobState("ended", "ran out of walltime", -9)
    for used, over in (("3600", True), ("3599.9", False)):
        text = ACCOUNT.format(failed=failed, status="137", used=used, asked="").replace("h_rt=", "")
        state = system.read_history("7", Answer(0, text))
        assert state is not None
        assert (state.detail == "ran out of walltime") == over


def test_no_history():
    system = GridEngine({})
    assert system.history("7") == ["qacct", "-j", "7"]
    assert system.read_history("7", Answer(1, "", "error: job id 7 not found\n")) is None
    assert GridEngine({"history": ""}).history("7") == []


def test_ending():
    system = GridEngine({})
    assert system.cancel(["1", "2"]) == [["qdel", "1", "2"]]
    assert system.signal("1", "SIGINT") == []


@given(st.text(max_size=200), st.integers(0, 255))
def test_no_answer_breaks_it(out, code):
    try:
        GridEngine({}).read_states(["1"], Answer(code, out))
    except QueryFailed as error:
        assert str(error)
    assert GridEngine({}).read_history("1", Answer(code, out)) is None
