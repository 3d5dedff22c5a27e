"""Slurm: directives, commands, and what its answers mean."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.slurm import Slurm
from tests.support.batchjobs import job_of


def test_the_least_directives():
    assert Slurm({}).directives(job_of(Slurm({}))) == [
        "#SBATCH --job-name=ipdaemon",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=4",
    ]


def test_all_directives():
    system = Slurm(
        {
            "queue": "fat",
            "account": "my project",
            "walltime": "100:00:00",
            "job_name": "mine",
            "cpus_per_engine": 2,
            "nodes": 3,
            "extra": ["--gres=gpu:1", "#SBATCH --mem=4G"],
        }
    )
    assert system.directives(job_of(system, 8, 3)) == [
        "#SBATCH --job-name=mine",
        "#SBATCH --nodes=3",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH --partition=fat",
        "#SBATCH --account='my project'",
        "#SBATCH --time=100:00:00",
        "#SBATCH --exclusive",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --mem=4G",
    ]


def test_a_controller_needs_no_whole_node():
    system = Slurm({"nodes": 3, "cpus_per_engine": 4})
    lines = system.directives(job_of(system, 0))
    assert "#SBATCH --exclusive" not in lines
    assert "#SBATCH --nodes=1" in lines


def test_one_program_on_each_of_several_nodes():
    system = Slurm({"nodes": 3, "srun": "srun --mpi=none"})
    words = shlex.split(system.command(job_of(system, 8, 3), 'run "$X"'))
    assert words[:5] == ["srun", "--mpi=none", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1"]
    assert words[5:] == ["--cpus-per-task=3", "sh", "-c", 'exec run "$X"']
    assert Slurm({}).command(job_of(Slurm({})), "run") == "run"


def test_a_step_is_told_to_stop_and_not_srun():
    assert Slurm({"nodes": 2}).stop(["7"]) == [["scancel", "--signal=TERM", "7"]]
    assert Slurm({"nodes": 1}).stop(["7"]) == [["scancel", "--signal=TERM", "--full", "7"]]
    assert Slurm({}).signal("7", "SIGUSR1") == ["scancel", "--signal=USR1", "--full", "7"]


def test_submission():
    command = Slurm({"submit": "ssh login sbatch"}).submit(Path("/a/50%/jobs/x.sh"))
    assert command[:4] == ["ssh", "login", "sbatch", "--parsable"]
    assert command[4:] == [
        "--output=/a/50%%/log/x.out",
        "--error=/a/50%%/log/x.err",
        "--open-mode=append",
        "/a/50%/jobs/x.sh",
    ]


@pytest.mark.parametrize(("out", "job"), [("17\n", "17"), ("17;east\n", "17"), ("x: y\n17", "17")])
def test_ids_of_jobs(out, job):
    assert Slurm({}).read_job(Answer(0, out)) == job


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("5|PENDING|Priority||0|", JobState("pending", "Priority")),
        ("5|PENDING|None||0|", JobState("pending")),
        ("5|CONFIGURING|None|n1|0|", JobState("pending", "its nodes are being prepared")),
        ("5|REQUEUED|BeginTime||0|", JobState("pending", "BeginTime")),
        ("5|RUNNING|None|n[1-2]|0|", JobState("running", "n[1-2]")),
        ("5|SUSPENDED|None|n1|0|", JobState("running", "n1 (suspended)")),
        ("5|COMPLETING|None|n1|0|", JobState("ending")),
        ("5|COMPLETED|None|n1|0|", JobState("ended", "exited with code 0", 0)),
        ("5|FAILED|NonZeroExitCode|n1|768|", JobState("ended", "exited with code 3", 3)),
        ("5|FAILED|RaisedSignal:9|n1|9|", JobState("ended", "was killed by SIGKILL", -9)),
        ("5|TIMEOUT|TimeLimit|n1|15|", JobState("ended", "ran out of walltime", -15)),
        ("5|TIMEOUT|TimeLimit|n1|0|", JobState("ended", "ran out of walltime")),
        ("5|CANCELLED|None||0|", JobState("ended", "was cancelled")),
        ("5|NODE_FAIL|NodeDown|n1|0|", JobState("ended", "lost a node")),
        ("5|OUT_OF_MEMORY|OutOfMemory|n1|32000|", JobState("ended", "ran out of memory", 125)),
        ("5|PREEMPTED|None|n1|15|", JobState("ended", "was preempted by another job", -15)),
    ],
)
def test_states(line, state):
    assert Slurm({}).read_states(["5"], Answer(0, line + "\n")) == {"5": state}


def test_jobs_that_squeue_does_not_know():
    system = Slurm({})
    gone = Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert system.read_states(["5"], gone) == {}
    assert system.read_states(["5"], Answer(0, "\n")) == {}
    with pytest.raises(QueryFailed, match="Socket timed out"):
        system.read_states(["5"], Answer(1, "", "slurm_load_jobs error: Socket timed out"))


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(0, "COMPLETED|0:0\n"), JobState("ended", "exited with code 0", 0)),
        (Answer(0, "FAILED|2:0\n"), JobState("ended", "exited with code 2", 2)),
        (Answer(0, "CANCELLED by 1000|0:15\n"), JobState("ended", "was cancelled", -15)),
        (Answer(0, "TIMEOUT|0:0\n"), JobState("ended", "ran out of walltime")),
        (Answer(0, "RUNNING|0:0\n"), None),
        (Answer(0, "FAILED|?:?\n"), None),
        (Answer(0, ""), None),
        (Answer(1, "", "Slurm accounting storage is disabled"), None),
    ],
)
def test_accounts_of_jobs_that_left_the_queue(answer, state):
    system = Slurm({})
    assert system.history("5")[-1] == "--jobs=5"
    assert Slurm({"history": ""}).history("5") == []
    assert system.read_history("5", answer) == state


@given(st.text(), st.integers(0, 2))
def test_no_answer_is_too_strange(text, code):
    system = Slurm({})
    answer = Answer(code, text, text)
    system.read_history("5", answer)
    try:
        states = system.read_states(["5"], answer)
    except QueryFailed:
        states = {}
    assert all(state.text for state in states.values())
