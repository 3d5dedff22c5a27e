"""What ``ipcluster explain`` shows, and what is known of jobs."""

from __future__ import annotations

import argparse
import json

import pytest

from ipkernel.cli import common, explaining
from ipkernel.cli.explaining import describe_engine, describe_job, describe_tasks
from ipkernel.cluster.jobstories import JobStory, job_stories
from ipkernel.cluster.joining import Standing
from ipkernel.cluster.recorded import Recorded
from ipkernel.wire.records import (
    EngineInfo,
    EngineStory,
    HostInfo,
    Status,
    TaskQuery,
    TaskStories,
    TaskStory,
)


def test_a_few_tasks_are_told_in_full():
    story = TaskStory(task=5, state="ready", reason="all busy", story=["12:00 submitted"], engine=3)
    assert describe_tasks([story]) == "task 5: ready, engine 3\n  all busy\n  12:00 submitted"


def test_many_tasks_become_a_table():
    stories = [TaskStory(task=n, state="ready", reason=f"why {n}") for n in range(5)]
    stories.append(TaskStory(task=9, state="running", reason="engine 2 runs it", engine=2))
    lines = describe_tasks(stories).splitlines()
    assert lines[0] == "6 tasks: 5 ready, 1 running"
    assert lines[2].split() == ["TASK", "STATE", "ENGINE", "REASON"]
    assert lines[-1].split(None, 3) == ["9", "running", "2", "engine 2 runs it"]


def test_an_engine_in_words():
    story = EngineStory(
        engine=3, state="ready", host="n1", pid=7, reason="it runs", running=[5],
        queued=[8, 9], count=4, story=["12:00 became ready"],
    )  # fmt: skip
    assert describe_engine(story).splitlines() == [
        "engine 3 on n1 (pid 7): ready",
        "  it runs",
        "  running  5",
        "  waiting  4 tasks: 8-9, and 2 more",
        "  12:00 became ready",
    ]


STATUS = Status(
    cluster="c", pid=1, host="n0", location="x", uptime=1.0, version="1",
    hosts=[
        HostInfo(host_id=1, host="n1.example", pid=5, engines=[0, 1], launcher="slurm", label="slurm job 17"),
        HostInfo(host_id=2, host="n2", pid=6, engines=[2], launcher="local", connected=False, draining="over"),
    ],
    engines=[
        EngineInfo(engine=0, host="n1", host_id=1, running=1),
        EngineInfo(engine=1, host="n1", host_id=1, state="dead", reason="out of memory"),
        EngineInfo(engine=2, host="n2", host_id=2),
    ],
)  # fmt: skip


@pytest.mark.parametrize("name", ["17", "slurm", "slurm job 17", "n1", "n1.example"])
def test_jobs_are_known_by_any_word_of_their_names(name):
    (story,) = job_stories(name, STATUS, None)
    assert story.job == "slurm job 17" and story.state == "joined" and story.engines == (0, 1)
    assert story.reason == (
        "host n1.example (daemon pid 5); 1 engines ready, 1 engines dead; 1 tasks running; "
        "out of memory"
    )


def test_jobs_that_have_not_joined(monkeypatch):
    waits = Recorded("slurm", "slurm job 18", 8)
    standing = Standing(waits, "pending (Resources)", ("last words",))
    monkeypatch.setattr("ipkernel.cluster.joining.standings", lambda directory, hosts: [standing])
    (story,) = job_stories("18", STATUS, object())
    assert story.state == "pending (Resources)" and "was to bring 8 engines" in story.reason
    assert describe_job(story).splitlines()[0] == "slurm job 18: pending (Resources)"
    assert describe_job(story).splitlines()[-1] == "    last words"
    assert len(job_stories("slurm", STATUS, object())) == 2
    assert job_stories("", STATUS, object()) == job_stories("19", STATUS, None) == []


def test_a_host_that_is_about_to_go():
    (story,) = job_stories("n2", STATUS, None)
    assert story.state == "joined, and not connected at present"
    assert "it gets nothing more: over" in story.reason
    assert "  engines  2" in describe_job(story)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    asked = []

    def ask(directory, what, method, query, answer):
        asked.append(query)
        stories = [
            TaskStory(task=n, state="ready" if n == 5 else "unknown", reason="\x1b[2Jbusy")
            for n in query.tasks
        ]
        if query.label in ("fit", "77"):
            stories.append(TaskStory(task=6, state="ready"))
        engines = [EngineStory(engine=n, state="ready") for n in query.engines]
        return TaskStories(stories=stories, engines=engines)

    monkeypatch.setattr(explaining.monitoring, "ask", ask)
    monkeypatch.setattr(explaining.monitoring, "status", lambda directory: STATUS)
    monkeypatch.setattr(common, "running_directory", lambda options: tmp_path)
    monkeypatch.setattr("ipkernel.cluster.joining.standings", lambda directory, hosts: [])

    def run(*words, output="text"):
        code = explaining.explain_command(argparse.Namespace(what=[*words], output=output))
        return code, capsys.readouterr(), asked

    return run


def test_what_is_meant_is_seen_from_the_words(run):
    code, said, asked = run("5")
    assert code == 0 and said.out == "task 5: ready\n  ?[2Jbusy\n"
    assert run("fit")[1].out.startswith("task 6: ready")
    assert run("engine", "0-1,3")[1].out.count("engine ") == 3
    assert run("job", "17")[1].out.startswith("slurm job 17: joined")
    assert asked == [
        TaskQuery(tasks=[5]),
        TaskQuery(label="fit"),
        TaskQuery(engines=[0, 1, 3]),
    ]


def test_a_number_may_be_a_label(run):
    assert run("77")[1].out.startswith("task 6")
    code, said, _ = run("78")
    assert code == common.FAILURE and said.out.startswith("task 78: unknown")


def test_what_is_not_there(run):
    code, said, _ = run("nothing")
    assert code == common.FAILURE and "no task with the label 'nothing' is open" in said.err
    code, said, _ = run("job", "99", output="json")
    assert code == common.FAILURE and json.loads(said.out) == []
    assert run("what", "ever")[0] == run("engine", "x")[0] == common.USAGE


def test_json(run):
    (story,) = json.loads(run("5", output="json")[1].out)
    assert story["task"] == 5 and story["state"] == "ready"
    (story,) = json.loads(run("job", "17", output="json")[1].out)
    assert story["engines"] == [0, 1]
    assert json.loads(run("engine", "3", output="json")[1].out)[0]["engine"] == 3


def test_a_story_of_a_job_is_plain():
    assert JobStory("a", "b")._asdict()["lines"] == ()
