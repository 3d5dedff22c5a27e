"""LSF: the script that is submitted, the commands, and what their answers mean.

The answers are in the form that the command reference of LSF 10.1 shows.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.lsf import LSF
from tests.support import batchjobs


def test_it_is_found_by_name():
    assert find_launcher("engines", "LSF").system_class is LSF
    assert find_launcher("controller", "lsf").system_class is LSF


def test_the_least_directives():
    system = LSF({})
    assert system.directives(batchjobs.job_of(system)) == [
        "#BSUB -J ipdaemon",
        "#BSUB -n 4",
        "#BSUB -R 'span[hosts=1]'",
    ]


def test_all_directives():
    system = LSF(
        {
            "queue": "night",
            "account": "p 17",
            "walltime": "26:30:01",
            "job_name": "mine",
            "cpus_per_engine": 2,
            "extra": ["-M 4GB", "#BSUB -x"],
        }
    )
    assert system.directives(batchjobs.job_of(system, 3))[1:] == [
        "#BSUB -n 6",
        "#BSUB -R 'span[hosts=1]'",
        "#BSUB -q night",
        "#BSUB -P 'p 17'",
        "#BSUB -W 26:31",
        "#BSUB -M 4GB",
        "#BSUB -x",
    ]
    assert system.directives(batchjobs.job_of(system))[0] == "#BSUB -J mine"


@pytest.mark.parametrize(
    ("walltime", "minutes"), [("00:00:01", "0:01"), ("00:59:59", "1:00"), ("100:00:00", "100:00")]
)
def test_walltime_is_in_minutes_and_never_less_than_wished(walltime, minutes):
    system = LSF({"walltime": walltime})
    assert f"#BSUB -W {minutes}" in system.directives(batchjobs.job_of(system))


def test_what_is_not_offered_is_refused():
    with pytest.raises(ConfigurationError, match="walltime"):
        LSF({"walltime": "soon"})


def test_a_script_is_submitted_by_standard_input(tmp_path):
    bsub = batchjobs.fake_command(
        tmp_path, "bsub", f"cat > '{tmp_path}/stdin'; echo 'Job <4711> is submitted to queue <q>.'"
    )
    script = tmp_path / "jobs" / "a b.sh"
    script.parent.mkdir()
    script.write_bytes(b"#!/bin/sh\n#BSUB -n 4\necho '$HOME' \xc3\xa4\n")
    system = LSF({"submit": f"{bsub} -Ep 'sleep 1'"})
    answer = batchjobs.run_here(system.submit(script))
    assert system.read_job(answer) == "4711"
    assert (tmp_path / "stdin").read_bytes() == script.read_bytes()
    where = ["-o", f"{tmp_path}/log/a b.out", "-e", f"{tmp_path}/log/a b.err"]
    assert batchjobs.arguments(tmp_path, "bsub") == ["-Ep", "sleep 1", *where]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0, "", "Request aborted by esub. Job not submitted.\n"),
        Answer(0, "Job is submitted\n"),
        Answer(0, ""),
    ],
)
def test_an_answer_without_a_job(answer):
    with pytest.raises(ValueError, match="did not say which job"):
        LSF({}).read_job(answer)


def test_the_default_queue_is_no_part_of_the_id():
    said = Answer(0, "Job <123> is submitted to default queue <normal>.\n")
    assert LSF({}).read_job(said) == "123"


def test_the_query():
    assert LSF({}).query(["1", "2"]) == [
        "bjobs",
        "-a",
        "-noheader",
        "-o",
        "jobid stat exit_code exec_host exit_reason pend_reason delimiter='|'",
        "1",
        "2",
    ]


STATES = [
    ("1|PEND|-|-|-|New job is waiting for scheduling;", "pending (New job is waiting for scheduling)"),
    ("1|PEND|-|-|-|-", "pending"),
    ("1|PSUSP|-|-|-|-", "pending (held back)"),
    ("1|RUN|-|4*hosta|-|-", "running on 4*hosta"),
    ("1|USUSP|-|hosta|-|-", "running on hosta (suspended by its owner or an administrator)"),
    ("1|UNKWN|-|hosta|-|-", "running on hosta (its host does not answer)"),
    ("1|DONE|-|hosta|-|-", "ended: exited with code 0"),
    ("1|EXIT|3|hosta|-|-", "ended: exited with code 3"),
    ("1|EXIT|-|-|-|-", "ended: exited with code 1"),
    ("1|EXIT|137|hosta|-|-", "ended: was killed by SIGKILL"),
    (
        "1|EXIT|140|hosta|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-",
        "ended: ran out of walltime",
    ),
    (
        "1|EXIT|130|hosta|TERM_MEMLIMIT: job killed after reaching LSF memory usage limit|-",
        "ended: ran out of memory",
    ),
    ("1|EXIT|143|hosta|TERM_OWNER: job killed by owner|-", "ended: was cancelled"),
    ("1|EXIT|2|hosta|TERM_SOMETHING_NEW: whatever|-", "ended: exited with code 2"),
    ("1|PEND|-|-|-|a reason | with a bar", "pending (a reason | with a bar)"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "text"), STATES)
def test_states(line, text):
    states = LSF({}).read_states(["1"], Answer(0, line + "\n"))
    assert list(states) == ["1"]
    assert states["1"].text == text


def test_exit_codes_of_jobs_that_were_ended():
    states = LSF({}).read_states(["1"], Answer(0, "1|EXIT|140|h|TERM_RUNLIMIT: x|-\n"))
    assert states["1"] == JobState("ended", "ran out of walltime", -12)


def test_jobs_that_it_does_not_know_any_more():
    answer = Answer(255, "2|RUN|-|hosta|-|-\n", "Job <1> is not found\n")
    assert LSF({}).read_states(["1", "2"], answer) == {"2": JobState("running", "hosta")}
    assert LSF({}).read_states(["1"], Answer(255, "", "Job <1> is not found\n")) == {}


def test_jobs_of_others_are_not_ours():
    assert LSF({}).read_states(["1"], Answer(0, "7|RUN|-|hosta|-|-\n")) == {}


def test_a_batch_system_that_does_not_answer():
    said = "LSF is down. Please wait ...\n"
    with pytest.raises(QueryFailed, match="LSF is down"):
        LSF({}).read_states(["1"], Answer(255, "", said))


def test_ending():
    system = LSF({"cancel": "bkill -C"})
    assert system.stop(["1", "2"]) == [["bkill", "-C", "-s", "TERM", "1", "2"]]
    assert system.cancel(["1"]) == [["bkill", "-C", "1"]]
    assert system.kill(["1"]) == [["bkill", "-C", "-s", "KILL", "1"], ["bkill", "-C", "1"]]
    assert system.signal("1", "SIGINT") == ["bkill", "-C", "-s", "INT", "1"]


@given(st.text(max_size=200), st.text(max_size=40), st.integers(0, 255))
def test_no_answer_breaks_it(out, err, code):
    answer = Answer(code, out, err)
    try:
        states = LSF({}).read_states(["1"], answer)
    except QueryFailed as error:
        assert str(error)
    else:
        assert set(states) <= {"1"}
