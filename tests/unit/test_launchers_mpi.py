"""MPI jobs without MPI: places, command lines, what is said about ends, and the course of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.engine.place import PlaceUnknown, RankPlace, find_place, tasks_of_node
from ipkernel.engine.rank import socket_path
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.mpi import MPILauncher
from ipkernel.launchers.mpicommand import find_command, flavour_of, hosts_of, job_command
from ipkernel.launchers.mpicourse import Begin, Course, EndIt, Finish, Judge, Tell
from ipkernel.launchers.mpiwords import Words, how_it_ended, read_words, the_others

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
SLURM = {
    "SLURM_PROCID": "6",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
}


def test_ranks_are_passed_the_variables_that_there_are(tmp_path, monkeypatch):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text("#!/bin/sh\necho 'mpiexec (OpenRTE) 4.1.4'\n")
    mpiexec.chmod(0o700)
    monkeypatch.delenv("IPKERNEL_SLOTS", raising=False)

    def passed(**environment):
        launcher = MPILauncher(
            ClusterDirectory(tmp_path / "cluster_x"),
            [],
            environment=environment,
            options={"command": str(mpiexec)},
            share=Share(2),
        )
        words = launcher.job()
        return {after for word, after in zip(words, words[1:], strict=False) if word == "-x"}

    assert {"IPKERNEL_CLUSTER", "IPKERNEL_MPI_JOB"} <= passed()
    assert "IPKERNEL_SLOTS" not in passed(), "Open MPI would complain of it"
    assert passed() | {"IPKERNEL_SLOTS", "MINE"} == passed(IPKERNEL_SLOTS="{}", MINE="1")


class TestPlace:
    def test_open_mpi(self):
        assert find_place(OPENMPI) == RankPlace(5, 8, 1, 4)

    def test_hydra(self):
        assert find_place(HYDRA) == RankPlace(2, 3, 0, 1)

    def test_srun(self):
        assert find_place(SLURM) == RankPlace(6, 7, 0, 1)

    def test_srun_with_pmi2(self):
        assert find_place({**SLURM, "PMI_RANK": "6", "PMI_SIZE": "7"}) == RankPlace(6, 7, 0, 1)

    def test_mpiexec_within_a_job_of_slurm(self):
        assert find_place({**SLURM, **OPENMPI}) == RankPlace(5, 8, 1, 4)

    def test_nobody_has_started_it(self):
        with pytest.raises(PlaceUnknown, match="OMPI_COMM_WORLD_RANK.*SLURM_PROCID"):
            find_place({"HOME": "/"})

    @pytest.mark.parametrize("value", ["", "-1", "x", "8", "1.0"])
    def test_nonsense_is_refused(self, value):
        with pytest.raises(PlaceUnknown, match="MPI launcher"):
            find_place({**OPENMPI, "OMPI_COMM_WORLD_RANK": value})

    def test_slurm_that_says_too_little(self):
        little = {name: text for name, text in SLURM.items() if "TASKS_PER_NODE" not in name}
        with pytest.raises(PlaceUnknown, match="none of SLURM_STEP_TASKS_PER_NODE"):
            find_place(little)

    @given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 9)), min_size=1, max_size=6))
    def test_slurms_list_is_read(self, groups):
        text = ",".join(f"{n}(x{times})" if times > 1 else str(n) for n, times in groups)
        nodes = [n for n, times in groups for _ in range(times)]
        assert [tasks_of_node(text, node) for node in range(len(nodes))] == nodes
        with pytest.raises(PlaceUnknown, match=f"nothing of node {len(nodes)}"):
            tasks_of_node(text, len(nodes))

    @given(st.text(alphabet="0123456789(x),", max_size=12), st.integers(0, 3))
    def test_no_list_is_taken_for_another(self, text, node):
        try:
            assert tasks_of_node(text, node) >= 0
        except PlaceUnknown as error:
            assert repr(text) in str(error)


def test_the_socket_is_where_only_those_who_know_the_token_look(tmp_path):
    path = socket_path("secret", "/tmp")
    assert path == socket_path("secret", "/tmp") != socket_path("other", "/tmp")
    assert "secret" not in str(path)
    assert socket_path("secret", "/" + "long" * 40) == path


# What the launchers have written: Open MPI 4.1.4 and MPICH 4.0.2 as recorded, the others as their
# manuals have it.
OPENMPI_SIGNAL = """\
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpiexec.openmpi noticed that process rank 1 with PID 0 on node a exited on signal 9 (Killed).
--------------------------------------------------------------------------
"""
OPENMPI_CODE = """\
mpiexec.openmpi detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[18225,1],1]
  Exit code:    3
--------------------------------------------------------------------------
"""
PRRTE_CODE = """\
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-a-12@1,2]
   Exit code:    4
"""
MPICH = """\

===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 11133 RUNNING AT a
=   EXIT CODE: {0}
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
{1}"""
MPICH_KILLED = MPICH.format(
    9, "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n"
)
INTEL = """\
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 3 PID 411 RUNNING AT node7
=   KILLED BY SIGNAL: 11 (Segmentation fault)
===================================================================================
"""
INTEL_CODE = INTEL.replace("KILLED BY SIGNAL: 11 (Segmentation fault)", "EXIT STATUS: 5")


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (OPENMPI_SIGNAL, Words(1, 9, 0)),
            (OPENMPI_CODE, Words(1, 0, 3)),
            (PRRTE_CODE, Words(2, 0, 4)),
            (MPICH_KILLED, Words(-1, 9, 0)),
            (MPICH.format(3, ""), Words(-1, 0, 3)),
            (INTEL, Words(3, 11, 0)),
            (INTEL_CODE, Words(3, 0, 5)),
            ("srun: error: n1: task 4: Killed\n", Words(4, 9, 0)),
            ("srun: error: n1: task 4: Segmentation fault (core dumped)\n", Words(4, 11, 0)),
            ("srun: error: n1: task 0: Exited with exit code 7\n", Words(0, 0, 7)),
            ("srun: error: n1: task 0: Something else\n", None),
            ("", None),
        ],
    )
    def test_what_was_recorded_is_understood(self, text, words):
        assert read_words(text) == words
        assert read_words(f"warning: of something\n{text}and more\n") == words

    @given(st.text())
    def test_any_text_is_borne(self, text):
        read_words(text)

    def test_sentences(self):
        assert how_it_ended(9, 0) == "was killed by SIGKILL (9)"
        assert how_it_ended(99, 0) == "was killed by signal 99"
        assert how_it_ended(0, 3) == "exited with code 3"
        assert [the_others(size) for size in (1, 2, 3)] == [
            "",
            "MPI then ended the other rank",
            "MPI then ended the other 2 ranks",
        ]


VERSIONS = {
    "openmpi": "mpiexec (OpenRTE) 4.1.4\n",
    "prte": "mpirun (Open MPI) 5.0.3\n",
    "hydra": "HYDRA build details:\n    Version: 4.0.2\n",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230306\n",
    "srun": "slurm 22.05.8\n",
    "srun of Debian": "slurm-wlm 22.05.8\n",
}


def command(options, version="hydra", n=4, there=("mpiexec", "srun")):
    return job_command(
        n,
        ["python", "-m", "m"],
        options,
        ["A", "B"],
        which=lambda name: name if name in there else None,
        version=lambda name: VERSIONS[version],
    )


class TestCommand:
    def test_flavours(self):
        found = [flavour_of("x", text) for text in VERSIONS.values()]
        assert found == ["openmpi", "openmpi", "hydra", "intel", "srun", "srun"]

    def test_another_program(self):
        with pytest.raises(ConfigurationError, match="sh is neither Open MPI.*it says: GNU bash"):
            flavour_of("sh", "GNU bash\nmore")

    def test_open_mpi_is_told_what_to_pass_on_without_its_values(self):
        assert command({"oversubscribe": True}, "openmpi") == [
            *("mpiexec", "-n", "4", "--oversubscribe", "-x", "A", "-x", "B"),
            *("python", "-m", "m"),
        ]

    def test_hosts(self):
        options = {"hosts": ["a:2", "b:2"], "arguments": ["-v"]}
        made = [
            command(options, version)[1:-3] for version in ("openmpi", "hydra", "intel", "srun")
        ]
        assert made == [
            ["-n", "4", "--host", "a:2,b:2", "-x", "A", "-x", "B", "-v"],
            ["-n", "4", "-hosts", "a:2,b:2", "-genvall", "-v"],
            ["-n", "4", "-ppn", "2", "-hosts", "a,b", "-genvall", "-v"],
            [
                *("--ntasks=4", "--export=ALL", "--kill-on-bad-exit=1", "--nodelist=a,b"),
                *("--ntasks-per-node=2", "-v"),
            ],
        ]

    @pytest.mark.parametrize("version", ["intel", "srun"])
    def test_unequal_hosts_where_that_cannot_be_said(self, version):
        with pytest.raises(ConfigurationError, match="the same number of engines"):
            command({"hosts": ["a:2", "b"]}, version)

    def test_hostfiles(self):
        options = {"hostfile": "/h"}
        made = [
            command(options, version)[1:-3] for version in ("openmpi", "hydra", "intel", "srun")
        ]
        assert made == [
            ["-n", "4", "--hostfile", "/h", "-x", "A", "-x", "B"],
            ["-n", "4", "-f", "/h", "-genvall"],
            ["-n", "4", "-machinefile", "/h", "-genvall"],
            ["--ntasks=4", "--export=ALL", "--kill-on-bad-exit=1", "--nodelist=/h"],
        ]

    def test_the_first_that_is_there(self):
        assert find_command({"command": "auto"}, lambda name: name == "srun") == ["srun"]

    def test_none_is_there(self):
        with pytest.raises(ConfigurationError, match="neither mpiexec, mpirun nor srun"):
            find_command({}, lambda name: None)

    def test_a_wrong_name(self):
        with pytest.raises(ConfigurationError, match="there is no program 'mpiexce'"):
            find_command({"command": "mpiexce"}, lambda name: None)

    @pytest.mark.parametrize("entry", ["a b", "a:0", "a:x", "", ":4", "a:4:4", "-f:4", "--mca"])
    def test_no_host(self, entry):
        with pytest.raises(ConfigurationError, match=r"\[mpi\] hosts: .*write 'name'"):
            hosts_of({"hosts": [entry]})


class TestPlan:
    def test_the_cluster_knows_how_many(self):
        assert MPILauncher.plan(5, {"hosts": ["a", "b"], "n": 3}) == [Share(5, "MPI job")]

    def test_the_section_knows(self):
        assert MPILauncher.plan(None, {"n": 3})[0].n == 3

    def test_the_hosts_know(self):
        assert MPILauncher.plan(None, {"hosts": ["a:4", "b"]})[0].n == 5

    def test_a_file_does_not(self):
        with pytest.raises(ConfigurationError, match="say how many"):
            MPILauncher.plan(None, {"hostfile": "/h"})
        assert MPILauncher.plan(2, {"hostfile": "/h"})[0].n == 2

    def test_not_both(self):
        with pytest.raises(ConfigurationError, match="one of them"):
            MPILauncher.plan(2, {"hostfile": "/h", "hosts": ["a"]})

    def test_a_controller_is_no_rank(self, tmp_path):
        with pytest.raises(ConfigurationError, match="MPI can launch engines only"):
            find_launcher("controller", "mpi")(ClusterDirectory(tmp_path))


def died(rank=1, text="rank 1 (pid 7 on host a) ended unexpectedly", known=False):
    return {"event": "died", "rank": rank, "text": text, "known": known}


def ready(course, now=0.0, size=3):
    course.begun()
    return course.heard({"event": "ready", "engines": list(range(size))}, now)


class TestCourse:
    def test_all_hosts_are_ready_before_the_job_is(self):
        course = Course(3, "mpiexec")
        assert course.begun() == []
        assert course.heard({"event": "registered", "engines": [2]}, 0) == [
            Tell({"event": "registered", "engines": [2]})
        ]
        assert course.heard({"event": "ready", "engines": [2]}, 1) == []
        assert course.heard({"event": "ready", "engines": [0, 1]}, 1) == [
            Tell({"event": "ready", "engines": [0, 1, 2]})
        ]

    def test_a_job_that_never_begins_is_not_started_again(self):
        course = Course(3, "mpiexec")
        course.begun()
        course.complained("-----\nThere are not enough slots\n")
        text = (
            "mpiexec, which ran this MPI job, exited with code 1: MPI has no cores for so many "
            "engines; ask for fewer, or write oversubscribe = yes in [mpi]; "
            "it said: There are not enough slots"
        )
        assert course.ended(1, 1.0) == [
            Judge(text),
            Tell({"event": "error", "message": text}),
            Finish(1),
        ]

    def test_of_much_that_was_said_beginning_and_end_are_told(self):
        course = Course(3, "mpiexec")
        course.begun()
        course.complained("\n".join(f"line {number}" for number in range(20)))
        text = course.ended(1, 1.0)[0].text
        assert "line 0 / line 1" in text
        assert "line 5 / ... / line 14" in text
        assert text.endswith("line 19")

    def test_what_a_host_daemon_has_said_comes_first(self):
        course = Course(3, "mpiexec")
        course.begun()
        assert course.heard({"event": "error", "message": "no controller"}, 1.0)[0].seconds > 0
        assert course.ended(1, 2.0)[-2:] == [
            Tell({"event": "error", "message": "no controller"}),
            Finish(1),
        ]

    @pytest.mark.parametrize(
        ("said", "code", "how"),
        [
            (OPENMPI_SIGNAL, 137, "was killed by SIGKILL (9)"),
            (OPENMPI_CODE, 3, "exited with code 3"),
            (MPICH_KILLED, 9, "ended unexpectedly, or was killed by SIGKILL (9)"),
            ("", 3, "exited with code 3"),
            ("something else", 1, "ended unexpectedly"),
            (OPENMPI_SIGNAL.replace("rank 1", "rank 2"), 137, "ended unexpectedly"),
        ],
    )
    def test_a_rank_dies(self, said, code, how):
        course = Course(3, "mpiexec")
        ready(course)
        assert course.heard(died(), 10.0) == [EndIt(2.0)]
        assert course.heard(died(rank=0), 10.0) == []  # as MPI has ended it
        course.complained(said)
        verdict = f"rank 1 (pid 7 on host a) {how}; MPI then ended the other 2 ranks"
        assert course.ended(code, 11.0) == [
            Judge(verdict),
            Tell({"event": "restarting", "message": verdict}),
            Begin(0.0),
        ]

    def test_a_rank_dies_and_its_host_knows_how(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        actions = course.heard(died(text="rank 1 exited with code 3", known=True), 10.0)
        verdict = "rank 1 exited with code 3; MPI then ended the other rank"
        assert actions == [Judge(verdict), EndIt(2.0)]
        assert course.ended(3, 11.0)[0] == Tell({"event": "restarting", "message": verdict})

    def test_how_a_launcher_ends_that_was_told_to_says_nothing(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        course.heard(died(), 10.0)
        course.told_to_end()
        assert "ended unexpectedly;" in course.ended(143, 13.0)[0].text

    def test_the_launcher_itself_dies(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        actions = course.ended(-9, 10.0)
        assert actions[0] == Judge("mpiexec, which ran this MPI job, was killed by SIGKILL")
        assert actions[-1] == Begin(0.0)

    def test_quick_failures_are_counted(self):
        course = Course(1, "mpiexec")
        pauses = []
        for _ in range(6):
            ready(course, now=0.0, size=1)
            course.heard(died(rank=0), 0.5)
            *_, last = course.ended(1, 1.0)
            pauses.append(last.seconds if isinstance(last, Begin) else last)
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, Finish(1)]

    def test_an_order_restarts_it(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        assert course.heard({"event": "restart"}, 1.0)[0] == Judge("restarted on request")
        assert course.heard({"event": "restart"}, 1.0) == []  # of another host
        course.heard({"event": "stopping", "message": "its MPI job is over"}, 1.0)
        assert course.ended(0, 1.2)[-1] == Begin(0.0)

    def test_the_controller_has_stopped(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        assert course.heard({"event": "stopping", "message": "the controller stops"}, 1.0) == [
            EndIt(6.0)
        ]
        assert course.ended(0, 1.2) == [Finish(0)]

    def test_it_is_stopped(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        assert course.stop() == [Judge("the engines of this MPI job are stopped"), EndIt(1.0)]
        assert course.stop() == [EndIt(0.0)]
        assert course.heard(died(), 1.0) == []
        assert course.ended(143, 1.2) == [Finish(0)]

    def test_it_is_stopped_between_two_jobs(self):
        course = Course(2, "mpiexec")
        ready(course, size=2)
        course.ended(-9, 10.0)
        course.stop()
        assert course.begun() == [EndIt(0.0)]

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(["ready", "died", "restart", "stopping", "error", "other"]),
                st.integers(-15, 3),
                st.none(),
            ),
            max_size=30,
        )
    )
    def test_every_end_has_a_consequence(self, steps):
        course, now, running = Course(2, "mpiexec"), 0.0, True
        course.begun()
        for step in steps:
            now += 0.7
            if step is None:
                course.stop()
            elif isinstance(step, str) and running:
                course.heard({"event": step, "engines": [0, 1], "message": step}, now)
            elif isinstance(step, int) and running:
                last = course.ended(step, now)[-1]
                if isinstance(last, Finish):
                    return
                assert isinstance(last, Begin)
                course.begun()
