"""PBS: directives, commands, and what the answers of PBS Pro and Torque mean.

The answers are in the forms that the manuals of PBS Professional and of Torque show.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError, LauncherError
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.pbs import PBS, PBSHostLauncher, number, parse_jobs
from tests.support.batchjobs import fake_command, job_of

PRO = """\
Job Id: 4711.pbsserver
    Job_Name = ipdaemon
    Job_Owner = ada@login.example.org
    job_state = Q
    queue = workq
    server = pbsserver
    Checkpoint = u
    Error_Path = login.example.org:/home/ada/.ipython/cluster_default/log/ipdae
\tmon-3f2a.job
    Resource_List.ncpus = 8
    Resource_List.select = 1:ncpus=8
    Resource_List.walltime = 01:00:00
    comment = Not Running: Insufficient amount of resource: ncpus (R: 8 A: 4 T:
\t 64)
    Variable_List = PBS_O_HOME=/home/ada,PBS_O_LANG=C.UTF-8,A = B,
\tPBS_O_WORKDIR=/home/ada

Job Id: 4712.pbsserver
    Job_Name = ipdaemon
    resources_used.walltime = 00:00:12
    job_state = R
    exec_host = node7/0*4+node8/1*4
    exec_vnode = (node7:ncpus=4)+(node8:ncpus=4)
    Resource_List.walltime = 01:00:00
    comment = Job run at Sat Nov 21 at 08:59 on (node7:ncpus=4)+(node8:ncpus=4)

"""

TORQUE = """\
Job Id: 179.host
    Job_Name = ipdaemon
    Job_Owner = ada@login
    resources_used.walltime = 00:00:00
    job_state = C
    queue = batch
    server = host
    exec_host = node1/0+node1/1+node2/0
    Resource_List.nodes = 2:ppn=2
    Resource_List.walltime = 01:00:00
    Variable_List = PBS_O_HOME=/home/ada,PBS_O_LOGNAME=ada,
\tPBS_O_PATH=/usr/bin:/bin,PBS_O_SHELL=/bin/bash
    etime = Sat Nov 21 08:55:55 2026
    exit_status = 3

"""


def pbs(variant, **given):
    return PBS({"flavour": variant, **given})


# -- which PBS it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "variant"),
    [
        (Answer(0, "pbs_version = 19.1.3\n"), "pro"),
        (Answer(0, "pbs_version = 23.06.06\n"), "pro"),
        (Answer(0, "", "Version: 6.1.3\nCommit: 3e9e01a\n"), "torque"),
        (Answer(0, "Version: 2.5.13\n"), "torque"),
        (Answer(2, "Usage:\n    qstat [-f] [-a|-i|-r] [-n [-1]] [-G|-M]\n"), "torque"),
    ],
)
def test_the_flavour_is_found_out(answer, variant):
    system = PBS({})
    assert system.probe() == ["qstat", "--version"]
    system.learn(answer)
    assert system.variant == variant
    assert system.probe() == []


def test_a_flavour_that_is_given_is_not_asked_for():
    assert pbs("pro").probe() == []
    assert pbs("pro").variant == "pro"


def test_something_else_that_is_called_qstat():
    with pytest.raises(ConfigurationError) as caught:
        PBS({}).learn(Answer(1, "", "qstat: unknown option --version"))
    assert str(caught.value) == (
        "option 'flavour' in section [pbs] is 'auto': 'qstat --version' does not tell PBS Pro from "
        "Torque; write pro or torque (it said: qstat: unknown option --version)"
    )


def test_a_launcher_asks_once(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_p").create()
    qstat = fake_command(tmp_path, "qstat", "echo pbs_version = 20.0.1")
    launchers = [PBSHostLauncher(directory, options={"query": qstat}) for _ in range(2)]
    for launcher in launchers:
        assert "#PBS -l select=1:ncpus=1\n" in launcher.preview()
        assert launcher.record()["variant"] == "pro"
    assert (tmp_path / "qstat.args").read_text() == "--version\n"
    missing = PBSHostLauncher(directory, options={"query": str(tmp_path / "nothing")})
    with pytest.raises(LauncherError, match="cannot ask PBS: there is no command '.*nothing' on"):
        missing.preview()


def test_a_record_tells_the_flavour(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_p").create()
    record = {"job": "17.s", "stem": "ipdaemon-1", "n": 2, "variant": "torque", "submitted": 1e9}
    launcher = PBSHostLauncher.from_record(directory, record, {})
    assert launcher.system.variant == "torque"
    assert launcher.record() == record


# -- scripts and commands ---------------------------------------------------------------------


def test_directives_of_pbs_pro():
    system = pbs("pro", queue="workq", account="p", walltime="01:00:00", extra=["-l place=excl"])
    assert system.directives(job_of(system)) == [
        "#PBS -S /bin/sh",
        "#PBS -N ipdaemon",
        "#PBS -l select=1:ncpus=4",
        "#PBS -l walltime=01:00:00",
        "#PBS -q workq",
        "#PBS -A p",
        "#PBS -l place=excl",
    ]


def test_directives_of_torque():
    system = pbs("torque", cpus_per_engine=2, extra="#PBS -m n")
    assert system.directives(job_of(system)) == [
        "#PBS -S /bin/sh",
        "#PBS -N ipdaemon",
        "#PBS -l nodes=1:ppn=8",
        "#PBS -m n",
    ]


def test_a_host_without_its_commands_says_so(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_p").create()
    launcher = PBSHostLauncher(directory, options={"query": "no-qstat"})
    with pytest.raises(LauncherError) as caught:
        launcher.preview()
    assert str(caught.value) == (
        "cannot ask PBS: there is no command 'no-qstat' on this host; start from one that submits "
        "jobs, or name the command by option 'query' in section [pbs]"
    )


def test_the_script_writes_its_output_itself(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_p q").create()
    launcher = PBSHostLauncher(directory, options={"flavour": "torque"})
    files = launcher.files
    assert f"\nexec >>'{files.output}' 2>>'{files.error}'\n" in launcher.script()
    command = launcher.system.submit(files.script)
    assert command == ["qsub", "-j", "oe", "-o", str(files.spooled), str(files.script)]
    files.spooled.write_text("=>> PBS: job killed: walltime 61 exceeded limit 60\n")
    assert launcher.output() == ["=>> PBS: job killed: walltime 61 exceeded limit 60"]


def test_commands():
    pro, torque = pbs("pro"), pbs("torque")
    assert pro.query(["1.s", "2.s"]) == ["qstat", "-f", "1.s", "2.s"]
    assert pro.history("1.s") == ["qstat", "-x", "-f", "1.s"]
    assert torque.history("1.s") == []
    assert pro.stop(["1.s"]) == [["qdel", "1.s"]]
    assert pro.kill(["1.s"]) == [["qdel", "1.s"], ["qdel", "-W", "force", "1.s"]]
    assert torque.kill(["1.s"]) == [["qdel", "1.s"], ["qdel", "-W", "0", "1.s"]]
    assert torque.signal("1.s", "SIGINT") == ["qsig", "-s", "SIGINT", "1.s"]
    assert torque.read_job(Answer(0, "179.host\n")) == "179.host"


# -- states -----------------------------------------------------------------------------------


def test_states_of_pbs_pro():
    states = pbs("pro").read_states(["4711.pbsserver", "4712.pbsserver"], Answer(0, PRO))
    assert states == {
        "4711.pbsserver": JobState(
            "pending", "Insufficient amount of resource: ncpus (R: 8 A: 4 T:64)"
        ),
        "4712.pbsserver": JobState("running", "node7, node8"),
    }


def test_states_of_torque():
    states = pbs("torque").read_states(["179.host.example.org"], Answer(0, TORQUE))
    assert states == {"179.host.example.org": JobState("ended", "exited with code 3", 3)}


@pytest.mark.parametrize(
    ("variant", "attributes", "state"),
    [
        ("pro", {"job_state": "H"}, JobState("pending", "held")),
        ("pro", {"job_state": "W"}, JobState("pending", "waits for its time")),
        ("pro", {"job_state": "Q"}, JobState("pending")),
        ("pro", {"job_state": "E"}, JobState("ending")),
        ("pro", {"job_state": "S", "exec_host": "a/0"}, JobState("running", "a (suspended)")),
        ("pro", {"job_state": "F", "exit_status": "0"}, JobState.exited(0)),
        ("pro", {"job_state": "F", "exit_status": "271"}, JobState.exited(-15)),
        ("pro", {"job_state": "F", "exit_status": "143"}, JobState.exited(-15)),
        ("pro", {"job_state": "F"}, JobState("ended")),
        (
            "pro",
            {
                "job_state": "F",
                "exit_status": "271",
                "resources_used.walltime": "00:01:02",
                "resource_list.walltime": "00:01:00",
            },
            JobState("ended", "ran out of walltime", -15),
        ),
        (
            "pro",
            {"job_state": "F", "exit_status": "-27"},
            JobState("ended", "ran out of memory", 1),
        ),
        (
            "pro",
            {"job_state": "F", "exit_status": "-11"},
            JobState("ended", "could not be run by PBS (code -11)", 1),
        ),
        (
            "torque",
            {"job_state": "C", "exit_status": "-11"},
            JobState("ended", "ran out of walltime", 1),
        ),
        (
            "torque",
            {"job_state": "C", "exit_status": "-10"},
            JobState("ended", "ran out of memory", 1),
        ),
        (
            "torque",
            {"job_state": "C", "exit_status": "-1"},
            JobState("ended", "could not be run by PBS (code -1)", 1),
        ),
    ],
)
def test_states(variant, attributes, state):
    assert pbs(variant).state(attributes) == state


@pytest.mark.parametrize(
    "complaint",
    [
        "qstat: Unknown Job Id 4711.pbsserver",
        "qstat: Unknown Job Id Error 4711.pbsserver",
        "qstat: 4711.pbsserver Job has finished, use -x or -H to obtain historical job information",
    ],
)
def test_jobs_that_have_left_the_queue(complaint):
    system = pbs("pro")
    answer = Answer(153, PRO.partition("\n\n")[2], complaint + "\n")
    states = system.read_states(["4711.pbsserver", "4712.pbsserver"], answer)
    assert list(states) == ["4712.pbsserver"]
    with pytest.raises(QueryFailed, match="cannot connect to server"):
        system.read_states(["4711.x"], Answer(255, "", "qstat: cannot connect to server pbsserver"))


def test_history():
    system = pbs("pro")
    ended = PRO.replace("job_state = Q", "job_state = F\n    Exit_status = 1")
    assert system.read_history("4711.s", Answer(0, ended)) == JobState.exited(1)
    assert system.read_history("4711.s", Answer(0, PRO)) is None
    refused = Answer(1, "", "qstat: PBS is not configured to maintain job history\n")
    assert system.read_history("4711.s", refused) is None


def test_long_values_go_on_in_the_next_line():
    jobs = parse_jobs(PRO)
    assert jobs["4711.pbsserver"]["error_path"].endswith("/log/ipdaemon-3f2a.job")
    assert jobs["4711.pbsserver"]["job_state"] == "Q"
    assert number("4711[].pbsserver") == "4711[]"


@given(st.text())
def test_no_answer_is_too_strange(text):
    for jobs in (parse_jobs(text), parse_jobs("Job Id: 1\n" + text)):
        for attributes in jobs.values():
            assert pbs("torque").state(attributes).text
