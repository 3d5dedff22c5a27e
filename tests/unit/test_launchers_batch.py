"""What launchers for batch systems have in common: options, templates, files, scripts, queues."""

from __future__ import annotations

import json
import os
import shlex
import string
import subprocess
from types import SimpleNamespace

import pytest
from attrs import evolve
from configobj import ConfigObj
from configobj.validate import Validator
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError, LauncherError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.batchoptions import BatchOptions, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, JobState, QueryFailed
from ipkernel.launchers.interfaces import ILauncher, Share
from ipkernel.launchers.jobfiles import JobFiles
from ipkernel.launchers.jobqueue import JobQueue, run_command
from ipkernel.launchers.jobscript import exit_code
from ipkernel.launchers.slurm import Slurm, SlurmControllerLauncher, SlurmHostLauncher
from ipkernel.launchers.template import Template
from tests.system.test_docs import ROOT, blocks

OPTIONS = common_options("sub", "stat", "del", nodes=True)


# -- options ----------------------------------------------------------------------------------


def read(**given):
    return BatchOptions.read("sys", OPTIONS, given)


def test_defaults_of_the_specification_are_those_of_the_code():
    spec = ConfigObj(
        ["[sys]", *specification(OPTIONS).splitlines()],
        _inspec=True,
        list_values=False,
        interpolation=False,
    )
    values = ConfigObj({"sys": {}}, configspec=spec)
    assert values.validate(Validator()) is True
    assert read(**values["sys"]) == read()
    assert all(spec["sys"].comments[option.name] for option in OPTIONS)


def test_values_are_read():
    options = read(
        walltime="01:02:03", submit="ssh login 'my sub'", extra=["-a", "-b\n-c"], setup="x\n\ny\r"
    )
    assert options.walltime == 3723
    assert options.submit == ("ssh", "login", "my sub")
    assert options["extra"] == ("-a", "-b", "-c")
    assert options["setup"] == ("x", "y")
    assert options["python"] == os.sys.executable
    assert read(nodes=2).nodes == 2


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("walltime", "90", "write hours, minutes, seconds such as '01:30:00'"),
        ("walltime", "00:00:00", "write hours, minutes"),
        ("walltime", "1:60:00", "write hours, minutes"),
        ("queue", "a\nb", "write it on one line"),
        ("submit", "'sub", "it is no command line"),
        ("cancel", " ", "write the name of the command"),
    ],
)
def test_bad_values_say_where_they_stand(name, value, why):
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"option {name!r} in section [sys] is {value!r}: {why}")


@given(st.integers(0, 300), st.integers(0, 40))
def test_engines_are_split_over_jobs(n, limit):
    shares = read(engines_per_job=limit).plan(n)
    assert sum(share.n for share in shares) == n
    assert all(0 < share.n <= (limit or n) for share in shares)
    assert len(shares) == (-(-n // limit) if limit else min(n, 1))


def test_somebody_must_say_how_many_engines():
    assert read(engines_per_job=4).plan(None) == [Share(4)]
    with pytest.raises(ConfigurationError, match=r"'engines_per_job = 16' in section \[sys\]"):
        read().plan(None)


# -- templates --------------------------------------------------------------------------------


def test_placeholders_stand_in_braces():
    text = "@{a} $HOME ${HOME} me@example.org @@{a} @{ b } ${x[@]} ${@}"
    assert Template(text, "t").render({"a": "1", "b": "@{a}"}) == (
        "1 $HOME ${HOME} me@example.org @{a} @{a} ${x[@]} ${@}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n\n@{quue}", "t, line 3: unknown placeholder @{quue}; did you mean @{queue}?"),
        ("@{zzz}", "t, line 1: unknown placeholder @{zzz}; there are: n, queue"),
        ("@{queue\n}", "t, line 1: '@{queue' is not closed: write '}' after the name"),
        ("@{n}", "t has no @{queue}: write it on a line of its own where the queue shall be"),
    ],
)
def test_errors_in_templates_are_pointed_at(text, message):
    with pytest.raises(ConfigurationError) as caught:
        Template(text, "t").render({"queue": "q", "n": "2"}, ["queue"])
    assert str(caught.value) == message


@given(st.text(), st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.text()))
def test_a_text_without_placeholders_stays(text, values):
    text = text.replace("@{", "")
    assert Template(text, "t").render(values) == text


@given(st.text())
def test_an_escaped_text_stays(text):
    text = text.replace("@@{", "")
    assert Template(text.replace("@{", "@@{"), "t").render({}) == text


def test_the_users_template_comes_first(tmp_path):
    file = tmp_path / "sys.template"
    assert Template.find(file, "own", "Sys").text == "own"
    file.write_text("theirs @{x}")
    with pytest.raises(ConfigurationError, match=r"sys\.template, line 1: unknown"):
        Template.find(file, "own", "Sys").render({})
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot read the template .*: it is not UTF-8"):
        Template.find(file, "own", "Sys")


# -- launchers in a batch system that is not there --------------------------------------------


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Desk:
    """Stands for a batch system: remembers commands, and gives the answers it is told to."""

    def __init__(self):
        self.commands = []
        self.submitted = Answer(0, "17\n")
        self.states = {}
        self.broken = ""
        self.missing = set()

    def __call__(self, command, environment=None, patience=60.0):
        self.commands.append([*command])
        if command[0] in self.missing:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        if command[0] == "sbatch":
            self.environment = environment
            return self.submitted
        if command[0] == "squeue":
            if self.broken:
                return Answer(1, "", self.broken)
            lines = [f"{job}|{'|'.join(fields)}|" for job, fields in self.states.items()]
            return Answer(0, "\n".join(lines))
        return Answer(1, "", "not here")

    def said(self, name):
        return [command for command in self.commands if command[0] == name]


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_x y").create()


@pytest.fixture
def scene(directory):
    return make_scene(directory)


def make_scene(directory):
    desk, clock = Desk(), Clock()
    queues = {}

    def make(launcher_class=SlurmHostLauncher, *arguments, **keywords):
        launcher = launcher_class(directory, arguments, **keywords)
        key = repr(launcher.options)
        if key not in queues:
            queues[key] = JobQueue(launcher.system, desk, clock, begin=lambda run, name: None)
        launcher.queue = queues[key]
        return launcher

    return SimpleNamespace(desk=desk, clock=clock, make=make)


def write_output(launcher, *events, rest=b""):
    with launcher.files.output.open("ab") as file:
        for event in events:
            file.write(json.dumps(event).encode() + b"\n")
        file.write(rest)


RUNNING = ("RUNNING", "None", "n1", "0")
PENDING = ("PENDING", "Resources", "", "0")
COMPLETED = ("COMPLETED", "None", "n1", "0")


def test_they_are_launchers(scene):
    for kind in ("controller", "engines"):
        launcher = scene.make(find_launcher(kind, "Slurm"))
        assert verifyObject(ILauncher, launcher)
        assert launcher.immediate is False
        assert launcher.pid == 0
        assert (launcher.running, launcher.exit_code) == (False, None)
        assert (launcher.label, launcher.state()) == ("slurm", "not started")
        assert launcher.problem() == f"{launcher.name} was not started"


def test_no_value_of_the_environment_is_in_script_or_command(scene, directory):
    secret = "s3cret 'and' more"
    launcher = scene.make(environment={"TOKEN": secret})
    preview = launcher.preview()
    assert "s3cret" not in preview
    assert "# sets " in preview
    assert "TOKEN" in preview
    assert preview.rstrip().splitlines()[-1].startswith("# submitted by: sbatch --parsable ")
    assert not (directory.path / "jobs").exists()  # a preview leaves nothing
    launcher.start()
    files = launcher.files
    assert "s3cret" not in files.script.read_text() + repr(scene.desk.commands)
    assert oct(files.script.stat().st_mode & 0o777) == "0o700"
    assert oct(files.environment.stat().st_mode & 0o777) == "0o600"
    assert files.script.parent.stat().st_mode & 0o077 == 0
    shell = f'. {shlex.quote(str(files.environment))} && printf %s "$TOKEN"'
    assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True).stdout == secret
    with pytest.raises(LauncherError, match=r"ipdaemon was started already, as slurm job 17"):
        launcher.start()


def test_names_that_a_shell_cannot_set_are_refused(scene):
    with pytest.raises(ConfigurationError, match="'A-B' cannot name an environment variable"):
        scene.make(environment={"A-B": "1"}).start()
    with pytest.raises(ConfigurationError, match="'A' has a null character"):
        scene.make(environment={"A": "\0"}).start()
    assert scene.desk.commands == []


def test_the_script_runs_the_program_and_tells_its_exit_code(scene, tmp_path):
    program = tmp_path / "my python"
    program.write_text('#!/bin/sh\necho "$@" "$GREETING" >&2\nexit 3\n')
    program.chmod(0o700)
    options = {"python": str(program), "setup": ["GREETING=${GREETING}lo"], "walltime": "00:02:00"}
    launcher = scene.make(
        SlurmHostLauncher, "-n", "2", "--x", "a b", options=options, environment={"GREETING": "hel"}
    )
    launcher.start()
    done = subprocess.run(
        [launcher.files.script],
        capture_output=True,
        text=True,
        env={"SLURM_JOB_ID": "17", "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 3
    assert exit_code(done.stdout.strip().encode()) == 3
    before, after = done.stderr.split(" --walltime ")
    assert before == "-P -m ipkernel.cli.ipdaemon -n 2 --x a b"
    left, after = after.split(maxsplit=1)
    assert 0 < int(left) <= 110
    assert after == "--drain-margin 60 --label slurm job 17 hello\n"


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 64), nodes=st.integers(2, 9))
def test_engines_are_shared_out_evenly_over_nodes(n, nodes):
    system = Slurm({"nodes": nodes})
    job = SimpleNamespace(n=n, nodes=min(n, nodes))
    command = f"echo {system.engines_here(job)}"
    ranks = range(job.nodes)
    script = "\n".join(f"SLURM_PROCID={rank}\n{command}" for rank in ranks)
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    counts = [int(count) for count in said.split()]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1
    assert min(counts) > 0


def test_a_controller_listens_where_others_reach_it(scene):
    launcher = scene.make(SlurmControllerLauncher, "--cluster-dir", "/c")
    assert "--cluster-dir /c --interface 0.0.0.0\n" in launcher.script()
    assert "--label" not in launcher.script()
    launcher = scene.make(SlurmControllerLauncher, "--interface", "10.0.0.1")
    assert "0.0.0.0" not in launcher.script()


def test_templates_of_the_user(scene, directory):
    own = directory.path / "slurm.template"
    own.write_text("#!/bin/bash\n#SBATCH -p @{queue} -N @{nodes}\n@{environment}\n@{command}\n")
    launcher = scene.make(options={"queue": "fat"}, share=Share(3))
    assert launcher.script().startswith(
        "#!/bin/bash\n#SBATCH -p fat -N 1\nexport ipkernel_began=$(date +%s)\n# sets "
    )
    assert scene.make(SlurmControllerLauncher).script().startswith("#!/bin/sh")
    own.write_text("@{command}")
    with pytest.raises(ConfigurationError, match=r"slurm\.template has no @{environment}"):
        launcher.script()
    (directory.path / "slurm-controller.template").write_text("@{qeue}")
    with pytest.raises(ConfigurationError, match=r"slurm-controller.* did you mean @{queue}"):
        scene.make(SlurmControllerLauncher).start()


def test_the_life_of_a_job(scene):
    seen, ended = [], []
    job = scene.make(on_event=seen.append, on_stop=ended.append, share=Share(2))
    job.start()
    assert (job.label, job.running) == ("slurm job 17", True)
    scene.desk.states["17"] = PENDING
    assert job.state() == "pending (Resources)"
    scene.desk.states["17"] = RUNNING
    write_output(job, {"event": "registered"}, rest=b'noise\n{"event": "rea')
    job.queue.turn()
    scene.clock.now += 1
    write_output(job, rest=b'dy", "engines": [4]}\n')
    job.queue.turn()
    assert job.wait_event("ready", 0) == {"event": "ready", "engines": [4]}
    assert job.state() == "running on n1"
    write_output(job, {"event": "exited", "code": 0})
    scene.desk.states["17"] = COMPLETED
    job.queue.turn()
    assert job.wait(0)
    assert (job.exit_code, job.state(), ended) == (0, "ended: exited with code 0", [job])
    assert seen == [
        {"event": "submitted", "job": "17"},
        {"event": "state", "text": "pending (Resources)"},
        {"event": "registered"},
        {"event": "state", "text": "running on n1"},
        {"event": "ready", "engines": [4]},
        {"event": "state", "text": "ended: exited with code 0"},
    ]
    assert not job.files.script.exists()
    assert not job.files.environment.exists()
    assert not job.files.output.exists()


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
    assert "No such file" in job.state()
    scene.desk.missing.clear()
    scene.desk.broken = ""
    scene.clock.now += 100
    assert job.state() == "running on n1"


@pytest.mark.parametrize(
    ("state", "ask", "commands"),
    [
        (PENDING, "request_stop", [["scancel", "17"]]),
        (RUNNING, "request_stop", [["scancel", "--signal=TERM", "--full", "17"]]),
        (RUNNING, "terminate", [["scancel", "17"]]),
        (RUNNING, "kill", [["scancel", "17"], ["scancel", "--signal=KILL", "--full", "17"]]),
        (COMPLETED, "kill", []),
    ],
)
def test_ways_to_end_a_job(scene, state, ask, commands):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = state
    job.state()
    getattr(job, ask)()
    job.queue.turn()
    assert scene.desk.said("scancel") == commands
    scene.desk.states["17"] = ("CANCELLED", "None", "n1", "15")
    scene.clock.now += 2
    assert not job.state().startswith("running")
    assert job.exit_code == 0  # we wanted it


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


def test_a_failure_shows_the_last_lines_of_the_errors(scene):
    job = scene.make()
    job.start()
    job.files.error.write_text("".join(f"line {n}\n" for n in range(50)))
    scene.desk.states["17"] = ("FAILED", "NonZeroExitCode", "n1", "256")
    with pytest.raises(LauncherError) as caught:
        job.queue.turn()
        job.wait_event("ready", 0)
    text = str(caught.value)
    assert text.startswith("ipdaemon (slurm job 17) exited with code 1; the last lines of its log")
    assert text.endswith("line 49")
    assert "line 29" not in text
    assert job.files.error.exists()


def test_an_error_event_is_the_reason(scene):
    job = scene.make()
    job.start()
    scene.desk.states["17"] = RUNNING
    write_output(job, {"event": "error", "message": "no controller"})
    job.queue.turn()
    with pytest.raises(LauncherError, match=r"^ipdaemon \(slurm job 17\) failed: no controller$"):
        job.wait_event("ready", 0)


def test_what_cannot_be_submitted(scene, directory):
    scene.desk.submitted = Answer(1, "", "sbatch: error: invalid partition specified: x\n")
    with pytest.raises(
        LauncherError,
        match=r"cannot submit a job with ipdaemon to Slurm: sbatch: error: invalid part",
    ):
        scene.make().start()
    scene.desk.submitted = Answer(0, "")
    with pytest.raises(LauncherError, match="to Slurm: sbatch: it said nothing"):
        scene.make().start()
    scene.desk.missing.add("sbatch")
    with pytest.raises(LauncherError, match=r"option 'submit' in section \[slurm\]"):
        scene.make().start()
    assert os.listdir(directory.path / "jobs") == []


def test_another_process_knows_a_job_by_its_record(scene, directory):
    job = scene.make(share=Share(3))
    job.start()
    record = json.loads(json.dumps(job.record()))
    scene.desk.states["17"] = RUNNING
    other = SlurmHostLauncher.from_record(directory, record, {"poll": 3.0})
    other.queue = scene.make(options={"poll": 3.0}).queue
    other.queue.add(other)
    assert (other.label, other.share.n, other.running) == ("slurm job 17", 3, True)
    assert other.state() == "running on n1"
    other.request_stop()
    other.queue.turn()
    scene.desk.states["17"] = COMPLETED
    scene.clock.now += 2
    assert other.state() == "ended: exited with code 0"
    assert not job.files.script.exists()
    with pytest.raises(LauncherError, match="needs its 'job' and 'stem'"):
        SlurmHostLauncher.from_record(directory, {"job": 17}, {})


def test_a_job_goes_with_the_process_only_if_it_was_meant_to(scene):
    kept = scene.make(lifeline=False)
    kept.start()
    kept.close()
    assert scene.desk.said("scancel") == []
    tied = scene.make()
    tied.start()
    tied.close()
    assert scene.desk.said("scancel") == [["scancel", "17"]]


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


def test_signals(scene):
    job = scene.make()
    job.signal("SIGINT")  # it does not run: nothing happens
    job.start()
    with pytest.raises(LauncherError, match="cannot send SIGINT to slurm job 17: not here"):
        job.signal("SIGINT")
    assert scene.desk.said("scancel") == [["scancel", "--signal=INT", "--full", "17"]]


def test_the_environment_of_a_surrounding_job_is_not_passed_on(scene, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    scene.make().start()
    assert "SLURM_CPUS_PER_TASK" not in scene.desk.environment
    assert scene.desk.environment["SLURM_CONF"] == "/etc/x"


def test_commands_are_run():
    answer = run_command(["sh", "-c", 'echo "$LC_ALL $X"; echo no >&2; exit 3'], {"X": "y"})
    assert answer == Answer(3, "C y\n", "no\n")
    assert answer.complaint == "no"
    assert evolve(answer, err="", out="").complaint == "it exited with code 3"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"event": "exited", "code": 7}', 7),
        (b'{"event": "exited", "code": "7"}', None),
        (b'{"event": "said", "text": "\\"exited\\""}', None),
        (b'"exited"', None),
        (b'{"exited"', None),
        (b"", None),
    ],
)
def test_exit_codes_are_told_by_a_line(line, code):
    assert exit_code(line) == code


def test_a_system_without_its_own_methods_says_little():
    class Plain(BatchSystem):
        section = "plain"
        option_list = OPTIONS

    system = Plain({})
    assert system.stop(["1"]) == system.kill(["1"]) == [["del", "1"]]
    assert system.signal("1", "SIGINT") == system.history("1") == system.probe() == []
    assert system.read_history("1", Answer(0, "x")) is None
    assert system.read_job(Answer(0, "your job is 12\n")) == "12"
    assert str(QueryFailed("x")) == "x"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState("pending"), "pending"),
        (JobState("pending", "Priority"), "pending (Priority)"),
        (JobState("running", "n1"), "running on n1"),
        (JobState("running"), "running"),
        (JobState("ending"), "ending"),
        (JobState.exited(0), "ended: exited with code 0"),
        (JobState.exited(137), "ended: was killed by SIGKILL"),
        (JobState.exited(-9), "ended: was killed by SIGKILL"),
    ],
)
def test_states_in_words(state, text):
    assert state.text == text


@pytest.mark.parametrize(("name", "more"), [("slurm", {}), ("pbs", {"flavour": "pro"})])
def test_the_scripts_that_pages_show_are_those_that_are_made(name, more):
    page = (ROOT / "docs" / "launchers" / f"{name}.rst").read_text()
    (shown,) = (block.text for block in blocks(page) if block.options.get("caption") == "dry run")
    directory = ClusterDirectory("/home/ada/.ipython/cluster_default")
    options = {"python": "/usr/bin/python3", "walltime": "01:00:00", "setup": "module load python"}
    launcher = find_launcher("engines", name)(
        directory, ["-n", "2"], options=options | more, share=Share(2)
    )
    launcher.files = JobFiles(directory, "ipdaemon-5f3a9c01")
    assert launcher.preview() == shown
