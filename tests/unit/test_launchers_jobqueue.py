"""What is asked of a queue of jobs, when, and what follows from its answers."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.jobqueue import why_not
from ipkernel.launchers.slurm import SlurmHostLauncher
from tests.support.batchdesk import (
    COMPLETED,
    PENDING,
    RUNNING,
    directory,
    make_scene,
    scene,
    write_output,
)

__all__ = ["directory", "scene"]


def test_one_query_is_for_all_jobs_of_a_cluster(scene):
    jobs = []
    for number in range(3):
        scene.desk.submitted = Answer(0, f"{number}\n")
        jobs.append(scene.make())
        jobs[-1].start()
        scene.desk.states[str(number)] = RUNNING
    assert [job.state() for job in jobs] == ["running on n1"] * 3
    (query,) = scene.desk.said("squeue")
    assert "--jobs=0,1,2" in query
    scene.clock.now += 2
    assert jobs[0].state() == "running on n1"
    assert len(scene.desk.said("squeue")) == 2


def test_the_queue_is_asked_less_and_less_often(scene):
    job = scene.make(options={"poll": 8.0})
    job.start()
    scene.desk.states["17"] = RUNNING
    times = []
    for _ in range(200):
        before = len(scene.desk.commands)
        job.queue.turn()
        times += [scene.clock.now] if len(scene.desk.commands) > before else []
        scene.clock.now += 0.25
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert gaps[0] <= 1
    assert gaps[-1] == 8
    assert gaps == sorted(gaps)


def test_a_job_that_says_something_is_asked_for_at_once(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = PENDING
    job.queue.turn()
    job.queue.refresh()
    scene.desk.states["17"] = RUNNING
    write_output(job, {"event": "registered"})
    job.queue.turn()
    assert job.job_state == JobState("running", "n1")


def test_a_new_job_may_be_missing_for_a_while(scene):
    job = scene.make()
    job.start()
    assert job.state() == "pending"
    scene.clock.now += 5
    assert job.state() == "pending"
    scene.clock.now += 11
    assert job.state() == "ended"
    assert job.exit_code == 1
    assert "has left the queue, and nobody knows why" in job.problem()


def test_a_job_that_has_left_the_queue_has_ended(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    assert job.state() == "running on n1"
    write_output(job, {"event": "exited", "code": 143})
    del scene.desk.states["17"]
    scene.clock.now += 2
    assert job.state() == "ended: was killed by SIGTERM"
    assert job.exit_code == -15


def test_the_accounting_may_be_later_than_the_end(scene):
    ended = []
    job = scene.make(on_stop=ended.append)
    job.start()
    scene.desk.states["17"] = RUNNING
    assert job.state() == "running on n1"
    del scene.desk.states["17"]
    for _ in range(14):
        scene.clock.now += 2
        assert job.state() == "ending (has left the queue; how it ended is not known yet)"
        assert (job.running, ended) == (True, [])
    scene.desk.accounting = "TIMEOUT|0:0\n"
    scene.clock.now += 2
    assert job.state() == "ended: ran out of walltime"
    assert ended == [job]


def test_a_job_is_not_waited_for_that_nobody_will_ever_know_of(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    job.state()
    del scene.desk.states["17"]
    scene.clock.now += 2
    assert job.running
    assert job.state().startswith("ending")
    scene.clock.now += 31
    assert job.state() == "ended"
    assert "has left the queue, and nobody knows why" in job.problem()


def test_a_job_that_is_put_back_meanwhile_is_in_the_queue_again(scene):
    job = scene.make()
    job.start()
    for state in (RUNNING, PENDING):
        scene.desk.states["17"] = state
        scene.clock.now += 20
        job.state()
        del scene.desk.states["17"]
        scene.clock.now += 20
        assert job.state().startswith("ending")


def test_a_script_that_has_told_its_end_needs_no_accounting(scene):
    job = scene.make()
    job.start()
    write_output(job, {"event": "exited", "code": 3})  # before it was ever seen in the queue
    assert job.state() == "ended: exited with code 3"
    assert job.exit_code == 3


def test_without_accounting_nothing_is_waited_for(scene):
    job = scene.make(options={"history": ""})
    job.start()
    scene.desk.states["17"] = RUNNING
    job.state()
    del scene.desk.states["17"]
    scene.clock.now += 2
    assert job.state() == "ended"


def test_a_job_of_another_process_that_is_in_no_queue_has_ended(scene, directory):
    job = scene.make()
    job.start()
    for age, state in ((5.0, "pending"), (20.0, "ended")):
        record = {**job.record(), "submitted": job.submitted_at - age}
        other = SlurmHostLauncher.from_record(directory, record, {"poll": age})
        queue, young = (
            scene.make(options={"poll": age}).queue,
            other.submitted - other.queue.clock(),
        )
        other.queue, other.submitted = queue, queue.clock() + young
        queue.add(other)
        assert other.state() == state


def test_a_batch_system_may_lag_behind(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    write_output(job, {"event": "exited", "code": 4})
    job.queue.turn()
    assert job.running
    scene.clock.now += 4
    job.queue.turn()
    assert job.exit_code == 4


def test_the_end_of_a_script_is_the_end_if_the_system_is_only_tidying_up(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = ("COMPLETING", "None", "n1", "0")
    assert job.state() == "ending"
    write_output(job, {"event": "exited", "code": 0})
    job.queue.turn()
    assert job.exit_code == 0


def test_a_job_that_is_put_back_into_the_queue_goes_on(scene):
    job = scene.make()
    job.start()
    write_output(job, {"event": "exited", "code": 143})
    scene.desk.states["17"] = ("REQUEUED", "BeginTime", "", "0")
    job.queue.turn()
    scene.clock.now += 10
    job.queue.turn()
    assert job.state() == "pending (BeginTime)"
    assert job.files.script.exists()
    scene.desk.states["17"] = RUNNING
    scene.clock.now += 10
    assert job.state() == "running on n1"


def test_trouble_with_the_queue_is_no_end(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    assert job.state() == "running on n1"
    scene.desk.broken = "slurm_load_jobs error: Unable to contact slurm controller"
    scene.clock.now += 100
    assert job.state() == (
        "running on n1; squeue does not answer: slurm_load_jobs error: Unable to contact slurm "
        "controller"
    )
    scene.desk.missing.add("squeue")
    scene.clock.now += 100
    assert job.state() == "running on n1; there is no command 'squeue' on this host"
    scene.desk.missing.clear()
    scene.desk.broken = ""
    scene.clock.now += 100
    assert job.state() == "running on n1"


def test_while_the_queue_cannot_be_asked_what_the_script_tells_must_do(scene):
    job = scene.make()
    job.start()
    scene.desk.broken = "slurm_load_jobs error"
    write_output(job, {"event": "registered"})
    job.queue.turn()
    assert job.state() == "pending; squeue does not answer: slurm_load_jobs error"
    write_output(job, {"event": "exited", "code": 0})
    job.queue.turn()
    assert job.running  # the system may say more about it
    scene.clock.now += 4
    job.queue.turn()
    assert job.state() == "ended: exited with code 0"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file"), "there is no command 'x' on this host"),
        (PermissionError(13, "Permission denied"), "x cannot be run: Permission denied"),
        (subprocess.TimeoutExpired(["x", "-y"], 60.0), "x has not answered within 60 s"),
        (QueryFailed("no server"), "x does not answer: no server"),
    ],
)
def test_why_a_command_has_no_answer(error, text):
    assert why_not("x", error) == text


def test_jobs_that_are_ended_together_need_one_command(scene):
    jobs = []
    for number in range(3):
        scene.desk.submitted = Answer(0, f"{number}\n")
        jobs.append(scene.make())
        jobs[-1].start()
        scene.desk.states[str(number)] = RUNNING if number else PENDING
    for job in jobs:
        job.request_stop()
    jobs[0].queue.turn()
    assert scene.desk.said("scancel") == [
        ["scancel", "0"],
        ["scancel", "--signal=TERM", "--full", "1", "2"],
    ]


STEPS = st.sampled_from(
    [
        PENDING,
        RUNNING,
        ("COMPLETING", "None", "n1", "0"),
        COMPLETED,
        ("CANCELLED", "None", "", "0"),
        ("REQUEUED", "None", "", "0"),
        "gone",
        "broken",
        "mended",
        "event",
        "exited",
        "time",
        "request_stop",
        "kill",
    ]
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_whatever_happens_a_job_ends_once_and_for_good(tmp_path_factory, steps):
    directory = ClusterDirectory(tmp_path_factory.mktemp("jobs") / "cluster_x").create()
    scene, ended = make_scene(directory), []
    job = scene.make(on_stop=ended.append)
    job.start()
    over = None
    for step in steps:
        if isinstance(step, tuple):
            scene.desk.states["17"] = step
        elif step == "gone":
            scene.desk.states.clear()
        elif step in ("broken", "mended"):
            scene.desk.broken = "no answer" if step == "broken" else ""
        elif step in ("event", "exited"):
            write_output(job, {"event": step, "code": 1})
        elif step == "time":
            scene.clock.now += 20
        else:
            getattr(job, step)()
        scene.clock.now += 0.6
        job.queue.turn()
        assert (job.exit_code is None) == job.running == (not job.wait(0))
        assert ended == ([] if job.running else [job])
        assert job.files.script.exists() == job.running
        assert over in (None, job.state())
        over = over if job.running else job.state()
    texts = [event["text"] for event in job.events if event["event"] == "state"]
    assert all(one != other for one, other in zip(texts, texts[1:], strict=False))


def test_two_launchers_of_one_job_both_know_its_state(scene, directory):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    assert job.state() == "running on n1"
    other = SlurmHostLauncher.from_record(directory, job.record(), {})
    other.queue = job.queue
    other.queue.add(other)
    assert other.state() == "running on n1"
