"""HTCondor: the description that is submitted, the commands, and what their answers mean.

The answers are in the form that the manual of HTCondor 10 shows.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.htcondor import HTCondor
from tests.support import batchjobs

LEAST = [
    "universe = vanilla",
    "should_transfer_files = NO",
    "transfer_executable = False",
    "batch_name = ipdaemon",
    "stream_output = True",
    "stream_error = True",
    "request_cpus = 4",
    'environment = "IPKERNEL_JOB=$(ClusterId)"',
    "kill_sig = SIGTERM",
]


def ads(*jobs):
    return Answer(0, json.dumps(jobs))


def test_it_is_found_by_name():
    assert find_launcher("engines", "htcondor").system_class is HTCondor
    assert find_launcher("controller", "HTCondor").system_class is HTCondor


def test_the_least_description():
    system = HTCondor({})
    assert system.directives(batchjobs.job_of(system)) == [f"#CONDOR {line}" for line in LEAST]


def test_the_whole_description():
    system = HTCondor(
        {
            "account": "group_physics",
            "walltime": "01:00:00",
            "extra": ["requirements = Memory > 4000", "#CONDOR +Mine = True"],
        }
    )
    assert system.directives(batchjobs.job_of(system))[len(LEAST) :] == [
        "#CONDOR accounting_group = group_physics",
        "#CONDOR allowed_execute_duration = 3600",
        "#CONDOR requirements = Memory > 4000",
        "#CONDOR +Mine = True",
    ]


def test_there_are_no_queues():
    with pytest.raises(
        ConfigurationError, match=r"\[htcondor\] is 'night': HTCondor has no queues"
    ):
        HTCondor({"queue": "night"})


def test_a_description_is_submitted_by_standard_input(tmp_path):
    command = batchjobs.fake_command(
        tmp_path, "condor_submit", f"cat > '{tmp_path}/stdin'; echo '4711.0 - 4711.0'"
    )
    system = HTCondor({"submit": f"{command} -name s"})
    script = tmp_path / "jobs" / "a b.sh"
    script.parent.mkdir()
    lines = "\n".join(system.directives(batchjobs.job_of(system)))
    script.write_text(f"#!/bin/sh\n{lines}\necho '#CONDOR no'\n")
    answer = batchjobs.run_here(system.submit(script))
    assert system.read_job(answer) == "4711"
    wanted = [
        *LEAST,
        "executable = /bin/sh",
        f"arguments = \"'{script}'\"",
        f"output = {tmp_path}/log/a b.out",
        f"error = {tmp_path}/log/a b.err",
        "queue",
    ]
    assert (tmp_path / "stdin").read_text() == "".join(f"{line}\n" for line in wanted)
    assert batchjobs.arguments(tmp_path, "condor_submit") == ["-name", "s", "-terse", "-"]


def test_a_submission_that_fails(tmp_path):
    command = batchjobs.fake_command(
        tmp_path, "condor_submit", "cat > /dev/null; echo 'ERROR: no schedd' >&2; exit 1"
    )
    script = tmp_path / "a.sh"
    script.write_text("#!/bin/sh\n")
    answer = batchjobs.run_here(HTCondor({"submit": command}).submit(script))
    assert (answer.code, answer.complaint) == (1, "ERROR: no schedd")


@pytest.mark.parametrize("out", ["", "submitted\n", "a.0 - a.0\n"])
def test_an_answer_without_a_job(out):
    with pytest.raises(ValueError):
        HTCondor({}).read_job(Answer(0, out))


def test_the_queries():
    wanted = [
        "-json",
        "-attributes",
        "ClusterId,JobStatus,ExitBySignal,ExitCode,ExitSignal,RemoteHost,HoldReason,RemoveReason",
    ]
    assert HTCondor({}).query(["1", "2"]) == ["condor_q", "1", "2", *wanted]
    assert HTCondor({}).history("1") == ["condor_history", "1", "-limit", "1", *wanted]
    assert HTCondor({"history": ""}).history("1") == []


STATES = [
    ({"JobStatus": 1}, "pending"),
    ({"JobStatus": 2, "RemoteHost": "slot1@alpha"}, "running on slot1@alpha"),
    ({"JobStatus": 6, "RemoteHost": "slot1@alpha"}, "running on slot1@alpha"),
    ({"JobStatus": 7, "RemoteHost": "slot1@alpha"}, "running on slot1@alpha (suspended)"),
    ({"JobStatus": 5, "HoldReason": "Error from slot1@alpha"}, "pending (held: Error from slot1@alpha)"),
    ({"JobStatus": 5}, "pending (held)"),
    ({"JobStatus": 3, "RemoveReason": "via condor_rm"}, "ended: was cancelled: via condor_rm"),
    ({"JobStatus": 3}, "ended: was cancelled"),
    ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 0}, "ended: exited with code 0"),
    ({"JobStatus": 4, "ExitBySignal": False, "ExitCode": 7}, "ended: exited with code 7"),
    ({"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}, "ended: was killed by SIGKILL"),
    ({"JobStatus": 4}, "ended: exited with code 1"),
    ({"JobStatus": 8}, "pending (in state 8)"),
]  # fmt: skip


@pytest.mark.parametrize(("ad", "text"), STATES)
def test_states(ad, text):
    states = HTCondor({}).read_states(["1"], ads({"ClusterId": 1, **ad}))
    assert list(states) == ["1"]
    assert states["1"].text == text


def test_no_jobs():
    system = HTCondor({})
    assert system.read_states(["1"], Answer(0, "")) == {}
    assert system.read_states(["1"], Answer(0, "[\n]\n")) == {}


def test_history():
    system = HTCondor({})
    done = ads({"ClusterId": 1, "JobStatus": 4, "ExitBySignal": False, "ExitCode": 3})
    assert system.read_history("1", done) == JobState("ended", "exited with code 3", 3)
    assert system.read_history("2", done) is None
    assert system.read_history("1", Answer(0, "")) is None
    assert system.read_history("1", Answer(1, "garbage")) is None
    assert system.read_history("1", ads({"ClusterId": 1, "JobStatus": 2})) is None


@pytest.mark.parametrize(
    "answer", [Answer(1, "", "-- Failed to fetch ads from: <127.0.0.1:9618>\n"), Answer(0, "hm")]
)
def test_a_batch_system_that_does_not_answer(answer):
    with pytest.raises(QueryFailed):
        HTCondor({}).read_states(["1"], answer)


def test_ending():
    system = HTCondor({"cancel": "condor_rm -name s"})
    for way in (system.stop, system.cancel, system.kill):
        assert way(["1", "2"]) == [["condor_rm", "-name", "s", "1", "2"]]
    assert system.signal("1", "SIGINT") == []


@given(st.text(max_size=200), st.integers(0, 255))
def test_no_answer_breaks_it(out, code):
    try:
        HTCondor({}).read_states(["1"], Answer(code, out))
    except QueryFailed as error:
        assert str(error)
    assert HTCondor({}).read_history("1", Answer(code, out)) is None


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\nqueue 1000", "a$(HOME)", "a$$(X)"])
def test_paths_that_a_description_cannot_have(tmp_path, name):
    with pytest.raises(ConfigurationError, match="without quotes, line ends"):
        HTCondor({}).submit(tmp_path / name / "jobs" / "x.sh")


def test_a_path_may_have_blanks_and_dollars(tmp_path):
    script = tmp_path / "a $b%" / "jobs" / "x.sh"
    assert str(script) in HTCondor({}).submit(script)
