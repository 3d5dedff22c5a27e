"""Jobs of launchers for batch systems: scripts, files, lives and ends."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError, LauncherError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.batchsystem import Answer
from ipkernel.launchers.interfaces import ILauncher, Share
from ipkernel.launchers.jobfiles import JobFiles
from ipkernel.launchers.jobscript import exit_code
from ipkernel.launchers.slurm import Slurm, SlurmControllerLauncher, SlurmHostLauncher
from tests.support.batchdesk import COMPLETED, PENDING, RUNNING, directory, scene, write_output
from tests.system.test_docs import ROOT, blocks

__all__ = ["directory", "scene"]


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
    assert after == "--time-left  --drain-margin 60 --label slurm job 17 hello\n"


@pytest.mark.parametrize("setup", [["exit 3"], ["set -eu", "(exit 3)"], ["sh -c 'exit 3' || exit"]])
def test_a_script_that_ends_before_its_program_tells_its_exit_code(scene, setup):
    launcher = scene.make(options={"setup": setup})
    launcher.start()
    done = subprocess.run([launcher.files.script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert exit_code(done.stdout.strip().encode()) == 3


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_a_shell_that_is_killed_believes_is_not_told(scene, shell):
    launcher = scene.make(options={"setup": ["kill -TERM $$"]})
    launcher.start()
    done = subprocess.run([shell, launcher.files.script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-15, "")


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
    assert launcher.script().startswith("#!/bin/bash\n#SBATCH -p fat -N 1\nipkernel_code=\n")
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


def test_what_a_job_has_said_are_not_its_events(scene):
    job = scene.make()
    job.start()
    write_output(job, {"event": "registered", "engines": [0]}, {"event": "ready"})
    assert job.output() == []
    write_output(job, rest=b"a word of the site\n")
    write_output(job, *[{"event": "engines"}] * 30)
    assert job.output() == ["a word of the site"]
    job.files.error.write_text("an error\n")
    assert job.output() == ["an error"]


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
