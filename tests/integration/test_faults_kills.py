"""Any single process is killed in the midst of work: a clear message or a finished job, always.

Each test runs a script as users write them, in a process of its own, and sees what its user sees.
"""

from __future__ import annotations

import email
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.faults_support import PATIENCE, Program, wait_for

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "stdlib_metrics.py"

#: Prints who is who, then works; most of it waits until it may go on, so that each engine is at work for sure.
SCRIPT = """
import os, sys, time
import psutil
import ipkernel

at = sys.argv[2]

def slowly(number):
    if number >= 20:
        open(os.path.join(at, f"at-work-{os.getpid()}"), "w").close()
        while not os.path.exists(os.path.join(at, "go")):
            time.sleep(0.005)
    time.sleep(0.01)
    return number

with ipkernel.Cluster(2) as rc:
    daemon = psutil.Process(rc.cluster.engine_set.launcher.pid)
    (zygote,) = daemon.children()
    engines = rc[:].apply_sync(os.getpid)
    print(rc.cluster.controller.pid, daemon.pid, zygote.pid, *engines, flush=True)
    view = rc.load_balanced_view()
    view.retries = int(sys.argv[1])
    result = view.map_async(slowly, range(120), chunksize=1)
    while result.progress < 20 or sum("at-work" in name for name in os.listdir(at)) < 2:
        time.sleep(0.005)
    print("under way", flush=True)
    print("complete", result.get() == list(range(120)), flush=True)
"""

WHO = ["controller", "daemon", "zygote", "engine", "script"]


class Job:
    """A script that is at work, and the processes of its cluster by what they are."""

    def __init__(self, program, home, names):
        self.program = program
        self.home = home
        self.processes = {name: psutil.Process(pid) for name, pid in names.items()}
        self.processes["script"] = psutil.Process(program.pid)

    def end(self):
        """Let the work go on and wait for the script; then nothing of its cluster may run any more."""
        (self.home / "go").touch()
        code, out, err = self.program.end()
        others = [process for name, process in self.processes.items() if name != "script"]
        assert psutil.wait_procs(others, 10)[1] == []
        assert "Unhandled" not in err
        return code, out, err

    def kept(self):
        """Return the cluster directories that are left: only those that somebody has to read."""
        return list(self.home.glob("ipython/cluster_*"))


@pytest.fixture
def start(tmp_path):
    programs = []

    def go(*arguments):
        home = tmp_path / "ipython"
        program = Program(
            sys.executable, "-c", SCRIPT, *arguments, str(tmp_path), IPYTHONDIR=str(home)
        )
        programs.append(program)
        pids = map(int, program.line().split())
        job = Job(program, tmp_path, dict(zip([*WHO[:4], "other engine"], pids, strict=True)))
        assert program.line() == "under way"
        return job

    yield go
    for program in programs:
        program.__exit__()


def last_line(err):
    """Return the last line of the traceback, which is what a user reads first."""
    return [line for line in err.splitlines() if not line.startswith("ipkernel: ")][-1]


def killed_before_its_end(name, kept, err):
    """Whether the cluster says so at its end; before or while stopping, whichever saw it first."""
    pattern = (
        rf"ipkernel: {name}( \(pid \d+\))? was killed by SIGKILL(, and was started again)?; "
        rf"the logs are kept for a day, in {re.escape(str(kept))}/log\n"
    )
    return re.search(pattern, err)


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("who", WHO)
def test_kill(start, who, retries):
    job = start(str(retries))
    job.processes[who].kill()
    code, out, err = job.end()
    if who == "script":
        assert code == -signal.SIGKILL
        assert len(job.kept()) == 1  # with the logs; the next cluster removes it after a day
    elif who == "controller":
        assert (code, out) == (0, "complete True\n"), (
            err
        )  # it is started again, and knows everything
        (kept,) = job.kept()
        assert killed_before_its_end("ipcontroller", kept, err)
    elif who == "daemon":  # it is started again
        if retries:
            assert (code, out) == (0, "complete True\n")
        else:
            assert code == 1
            assert "its host is gone" in last_line(err)
        (kept,) = job.kept()
        assert killed_before_its_end("ipdaemon", kept, err)
    elif retries:
        assert (code, out, err) == (0, "complete True\n", "")
        assert job.kept() == []
    else:
        assert code == 1
        assert "ipkernel.errors.CompositeError: one or more exceptions raised in: slowly\n" in err
        assert re.search(
            r"EngineLost: engine \d on \S+ was lost while it ran this task: killed by SIGKILL \(9\)",
            last_line(err),
        )
        assert job.kept() == []


@pytest.mark.parametrize("who", WHO)
def test_terminate(start, who):
    """SIGTERM asks for an orderly end; the zygote leaves that to its daemon."""
    job = start("3")
    job.processes[who].terminate()
    code, out, err = job.end()
    if who in ("zygote", "engine"):
        assert (code, out, err) == (0, "complete True\n", "")
    elif who == "script":
        assert (code, err) == (-signal.SIGTERM, "")
    elif who == "controller":
        assert code == 1
        assert last_line(err) == (
            "ipkernel.errors.ControllerLost: the controller is lost: the controller was stopped"
        )
    else:
        assert code == 1
        assert "HostLost: ipdaemon (pid" in err
        assert "exited with code 0 by itself, and with it all engines" in err


def test_a_stopped_engine_is_killed(start):
    """One that was stopped has its tasks run elsewhere as soon as it is gone."""
    job = start("3")
    job.processes["engine"].suspend()
    time.sleep(0.2)
    job.processes["engine"].kill()
    assert job.end() == (0, "complete True\n", "")


def test_new_engines_after_the_daemon_was_ended(tmp_path):
    """What the error text says works."""
    code = """
import os, signal
import ipkernel
with ipkernel.Cluster(1) as rc:
    view = rc.load_balanced_view()
    os.kill(rc.cluster.engine_set.launcher.pid, signal.SIGTERM)
    try:
        view.apply_async(__import__("time").sleep, 60).get()
    except ipkernel.HostLost as error:
        print("lost")
    for attempt in range(2):
        try:
            view.apply_async(abs, -1).get(20)
        except ipkernel.HostLost:
            print("none")
    try:
        rc.wait_for_engines(1)
    except ipkernel.EngineError:
        print("none to wait for")
    rc.cluster.start_engines(2)
    rc.wait_for_engines(2, timeout=20)
    print(view.apply_async(abs, -7).get(20), rc[:].apply_sync(abs, -8))
"""
    with Program(sys.executable, "-c", code, IPYTHONDIR=str(tmp_path)) as program:
        status, out, err = program.end()
    assert (status, out) == (0, "lost\nnone\nnone\nnone to wait for\n7 [8, 8]\n"), err


# --------------------------------------------------------------------------------------- the demo

#: The demo on a small package in place of the whole library, with who is who.
DEMO = f"""
import os, runpy, sys
import psutil
import ipkernel
os.__file__ = {email.__file__!r}
enter = ipkernel.Cluster.__enter__

def told(cluster):
    client = enter(cluster)
    daemon = psutil.Process(cluster.engine_set.launcher.pid)
    (zygote,) = daemon.children()
    pids = client[:].apply_sync(os.getpid)
    print("who", cluster.controller.pid, daemon.pid, zygote.pid, *pids[:2], flush=True)
    sys.stdin.readline()
    return client

ipkernel.Cluster.__enter__ = told
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


@pytest.mark.parametrize("who", WHO)
def test_the_demo_is_disturbed(tmp_path, who):
    """Whoever is killed before or while it maps: it finishes, or says why not."""
    (tmp_path / "work").mkdir()
    with Program(
        sys.executable, "-c", DEMO, cwd=tmp_path / "work", IPYTHONDIR=str(tmp_path / "ipython"),
        PYTHONPATH=f"{ROOT}{os.pathsep}{EXAMPLE.parent}",
    ) as program:  # fmt: skip
        word, *pids = program.line().split()
        assert word == "who"
        names = dict(zip([*WHO[:4], "other engine"], map(int, pids), strict=False))
        job = Job(program, tmp_path, names)
        program.process.stdin.write(b"\n")
        if who != "daemon":
            program.line()  # "... files, ... engines, ready after ..."
        job.processes[who].kill()
        code, out, err = job.end()
    text = out + err
    if who == "script":
        assert code == -signal.SIGKILL
    elif code == 0:
        assert "Serial and parallel run agree on all" in out
    else:
        assert re.search(r"(ControllerLost|HostLost|EngineLost|NoEnginesRegistered)\b.*", text)
        assert code == 1


# ----------------------------------------------------------------------------------------- Ctrl-C

WAITS = {
    "result": "rc[0].apply_async(time.sleep, 600).get()",
    "sync": "rc[:].apply_sync(time.sleep, 600)",
    "map": "rc.load_balanced_view().map_sync(time.sleep, [600] * 4)",
    "engines": "rc.wait_for_engines(99)",
    "interactive": "rc[:].apply_async(time.sleep, 600).wait_interactive()",
    "lazily": "list(rc.load_balanced_view().imap(time.sleep, [600] * 4))",
    "executor": "list(rc.executor().map(time.sleep, [600] * 4))",
    "own": "time.sleep(600)",
}

#: What a wait says that was interrupted; see tests/integration/test_ctrl_c.py.
HINT = r"ipkernel: \d+ tasks? go(es)? on; press Ctrl-C again within 2 s to cancel "

WAITING = """
import os, sys, time
import ipkernel
with ipkernel.Cluster(1) as rc:
    pids = rc[:].apply_sync(os.getpid)
    print("pids", rc.cluster.controller.pid, rc.cluster.engine_set.launcher.pid, *pids, flush=True)
    print("waiting", flush=True)
    {wait}
"""


class Terminal:
    """A script in a terminal of its own, in the foreground."""

    def __init__(self, path, home):
        self.pid, self.descriptor = pty.fork()
        if not self.pid:
            os.environ["IPYTHONDIR"] = str(home)
            try:
                os.execv(sys.executable, [sys.executable, str(path)])
            finally:
                os._exit(99)
        self.text = ""
        self.code = None

    def read(self, until, seconds=PATIENCE):
        """Read until the text has come, or the end."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.text:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.descriptor], [], [], left)[0], self.text
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:  # nobody has the terminal open any more
                return
            if not data:
                return
            self.text += data.decode().replace("\r\n", "\n")

    def press(self, key):
        """Type."""
        os.write(self.descriptor, key)

    def end(self):
        """Wait for the end of the script; return its exit code."""
        self.read(None)
        done = wait_for(lambda: os.waitpid(self.pid, os.WNOHANG)[1:] if self._over() else None)
        self.code = os.waitstatus_to_exitcode(done[0])
        return self.code

    def _over(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self):
        """Leave nothing."""
        os.close(self.descriptor)
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c(tmp_path, wait):
    """One KeyboardInterrupt of the script, from whatever it waits for, and everything is gone."""
    script = tmp_path / "script.py"
    script.write_text(WAITING.format(wait=wait))
    terminal = Terminal(script, tmp_path / "ipython")
    try:
        terminal.read("waiting\n")
        pids = re.search(r"pids (.*)\n", terminal.text).group(1).split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        time.sleep(0.3)  # let it wait
        terminal.press(b"\x03")
        code = terminal.end()
    finally:
        terminal.close()
    shown = terminal.text.partition("waiting\n")[2]
    assert code == -signal.SIGINT
    assert shown.count("Traceback (most recent call last)") == 1, shown
    assert shown.rstrip().endswith("KeyboardInterrupt")
    assert f'File "{script}", line 8' in shown
    told = [line for line in shown.splitlines() if line.startswith("ipkernel: ")]
    hints = [line for line in told if re.match(HINT, line)]
    assert told == hints and len(hints) <= 1, shown  # nothing had to be killed
    assert psutil.wait_procs(processes, 5)[1] == []
    assert list((tmp_path / "ipython").iterdir()) == []


@pytest.mark.parametrize("tool", ["ipcontroller", "ipengine"])
def test_ctrl_c_of_programs(tmp_path, tool):
    """In a terminal they end at once, without a traceback."""
    from tests.integration.faults_support import Controller

    directory = tmp_path / "cluster_x"
    if tool == "ipcontroller":
        with Controller(directory) as controller:
            controller.process.send_signal(signal.SIGINT)
            assert controller.end() == (0, "", "")
        return
    with Controller(directory) as controller:
        script = tmp_path / "run.py"
        script.write_text(
            "import sys\nfrom ipkernel.cli.ipengine import main\n"
            f"sys.exit(main(['--furl-file', {str(controller.furl_file('engine'))!r}]))\n"
        )
        terminal = Terminal(script, tmp_path / "ipython")
        try:
            terminal.read("ready\n")
            terminal.press(b"\x03")
            assert terminal.end() == 0
        finally:
            terminal.close()
        assert terminal.text.endswith("stopping: received SIGINT\n")
        assert "Traceback" not in terminal.text
        controller.stop()
