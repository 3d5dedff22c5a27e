"""Launchers with small programs in place of the real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError, LauncherError
from ipkernel.launchers import find_launcher
from ipkernel.launchers.base import tail
from ipkernel.launchers.interfaces import ILauncher
from ipkernel.launchers.local import (
    LocalControllerLauncher,
    LocalHostLauncher,
    child_environment,
    script_path,
)
from tests.integration.faults_support import wait_for
from tests.integration.standins import CONTROLLER, standin


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_x").create()


@pytest.fixture
def launch(directory):
    launched = []

    def go(code, *arguments, **options):
        launcher = standin("ipcontroller", code)(directory, arguments, **options)
        launched.append(launcher)
        launcher.start()
        return launcher

    yield go
    for launcher in launched:
        launcher.kill()
        launcher.wait(5)
        launcher.close()


def test_is_a_launcher(directory):
    from zope.interface.verify import verifyObject

    assert verifyObject(ILauncher, LocalControllerLauncher(directory))


def test_find_launcher():
    assert find_launcher("controller", "local") is LocalControllerLauncher
    assert find_launcher("engines", "Local") is LocalHostLauncher
    assert find_launcher("engines", Path) is Path
    with pytest.raises(ConfigurationError, match="did you mean 'local'"):
        find_launcher("engines", "locl")
    with pytest.raises(ConfigurationError, match="there is no launcher 'pigeon' for the engines"):
        find_launcher("engines", "pigeon")


def test_command_line(directory):
    launcher = LocalHostLauncher(directory, ["-n", "2"])
    command = launcher.command()
    assert command[:4] == [sys.executable, "-P", "-m", "ipkernel.cli.ipdaemon"]
    assert command[4:] == ["-n", "2", "--lifeline"]
    assert "--lifeline" not in LocalHostLauncher(directory, lifeline=False).command()
    assert not launcher.running
    assert launcher.exit_code is None
    assert launcher.pid == 0
    assert "was not started" in launcher.problem()


def test_events_and_orderly_stop(directory, launch):
    seen, ended = [], []
    launcher = launch(
        "print('not json'); print('[]'); print('{}', flush=True)\n"
        "emit('ready', number=3)\nuntil_told()\n",
        on_event=seen.append,
        on_stop=ended.append,
    )
    assert launcher.wait_event("ready", 10) == {"event": "ready", "number": 3}
    assert launcher.wait_event("ready", 0)["number"] == 3  # it can be asked for again
    assert launcher.running
    assert launcher.problem() == ""
    launcher.request_stop()
    assert launcher.wait(10)
    launcher.close()
    assert launcher.exit_code == 0
    assert seen == [{"event": "ready", "number": 3}]
    assert ended == [launcher]


def test_no_event_in_time(launch):
    launcher = launch("until_told()")
    with pytest.raises(TimeoutError, match="ipcontroller was not ready within"):
        launcher.wait_event("ready", 0.05)
    assert launcher.running


def test_error_event(launch):
    launcher = launch("emit('error', message='port 99 is busy'); sys.exit(1)")
    with pytest.raises(LauncherError, match=r"^ipcontroller failed: port 99 is busy$"):
        launcher.wait_event("ready", 10)


def test_death_shows_the_log(directory, launch):
    directory.log.joinpath("ipcontroller.err").write_text("of an earlier one\n")
    launcher = launch("sys.stderr.write('first\\n'); raise SystemExit('the reason')")
    with pytest.raises(LauncherError, match="exited with code 1") as caught:
        launcher.wait_event("ready", 10)
    assert "the reason" in str(caught.value)
    assert "first" in str(caught.value)
    assert "earlier" not in str(caught.value)
    assert "of an earlier one" in launcher.error_file.read_text()


def test_death_without_a_word(launch):
    launcher = launch("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(LauncherError, match="was killed by SIGKILL; it left nothing in"):
        launcher.wait_event("ready", 10)


def test_death_is_noticed_though_somebody_keeps_the_output(launch):
    launcher = launch(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'])\n"
        "emit('child', pid=child.pid); os._exit(3)"
    )
    child = launcher.wait_event("child", 10)["pid"]
    try:
        with pytest.raises(LauncherError, match="exited with code 3"):
            launcher.wait_event("ready", 10)
    finally:
        os.kill(child, signal.SIGKILL)


def test_log_of_the_program_is_shown_too(directory, launch):
    launcher = launch(
        "path = os.path.join(argument('--cluster-dir'), 'log', 'ipcontroller.log')\n"
        "open(path, 'w').write('one\\ntwo\\n'); sys.exit(4)",
        "--cluster-dir",
        str(directory),
    )
    launcher.wait(10)
    assert launcher.output(1) == ["two"]
    assert "two" in launcher.problem()


def test_cannot_start(directory, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    launcher = LocalControllerLauncher(directory)
    with pytest.raises(LauncherError, match="cannot start ipcontroller"):
        launcher.start()
    assert not launcher.running


def test_started_once(launch):
    launcher = launch("until_told()")
    with pytest.raises(LauncherError, match="was started already"):
        launcher.start()


def test_without_lifeline(launch):
    launcher = launch("emit('ready'); until_told()", lifeline=False)
    launcher.wait_event("ready", 10)
    launcher.close()
    assert launcher.running
    launcher.request_stop()
    assert launcher.wait(10)
    assert launcher.exit_code == 0


def test_kill_ends_the_group(launch):
    launcher = launch(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "emit('ready', child=child.pid)\ntime.sleep(60)\n"
    )
    child = psutil.Process(launcher.wait_event("ready", 10)["child"])
    launcher.terminate()
    assert not launcher.wait(0.1)
    launcher.kill()
    assert launcher.wait(10)
    assert launcher.exit_code == -signal.SIGKILL
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_signal(launch):
    launcher = launch(
        "signal.signal(signal.SIGUSR1, lambda *_: emit('hit'))\nemit('ready'); until_told()"
    )
    launcher.wait_event("ready", 10)
    launcher.signal("SIGUSR1")
    launcher.wait_event("hit", 10)


def test_own_session(launch):
    launcher = launch("emit('ready'); until_told()")
    launcher.wait_event("ready", 10)
    assert os.getsid(launcher.pid) == launcher.pid


def test_environment(directory, launch):
    launcher = launch(
        "emit('ready', path=sys.path, cookie=os.environ['IPKERNEL_CLUSTER'], x=os.environ['X'])\n"
        "until_told()",
        environment={"X": "y"},
    )
    told = launcher.wait_event("ready", 10)
    assert told["cookie"] == str(directory.path)
    assert told["x"] == "y"
    assert set(script_path()) <= set(told["path"])


def test_script_path(monkeypatch, tmp_path):
    usual = [p for p in sys.path if p in set(sys.path) - set(script_path())]
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    gone = str(tmp_path / "gone")
    monkeypatch.setattr(sys, "path", ["", str(other), str(other), gone, "a" + os.pathsep, *usual])
    assert script_path() == [str(tmp_path), str(other)]


def test_pythonpath_is_kept(directory, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", "/one" + os.pathsep + "/two")
    found = child_environment(directory, {})["PYTHONPATH"].split(os.pathsep)
    assert found == [str(tmp_path), "/one", "/two"]


def test_error_file_is_private_and_rotated(directory, launch, monkeypatch):
    monkeypatch.setattr("ipkernel.launchers.local._LOG_LIMIT", 10)
    old = directory.log / "ipcontroller.err"
    old.write_text("x" * 11)
    launcher = launch("sys.exit(0)")
    launcher.wait(10)
    assert (directory.log / "ipcontroller.err.1").read_text() == "x" * 11
    assert launcher.error_file.stat().st_mode & 0o777 == 0o600


def test_tail(tmp_path):
    path = tmp_path / "log"
    assert tail(path, 3) == []
    path.write_text("".join(f"{i}\n" for i in range(30000)))
    assert tail(path, 3) == ["29997", "29998", "29999"]
    assert tail(path, 0) == []
    size = path.stat().st_size
    assert tail(path, 3, size) == []
    assert tail(path, 3, size - 6) == ["29999"]
    assert tail(path, 1, size + 100) == ["29999"]  # it is a new file
    path.write_bytes(b"\xff\n")
    assert tail(path, 1) == ["\ufffd"]


OWNER = """
import sys, time
from ipkernel.cluster.directory import ClusterDirectory
from tests.integration.faults_support import wait_for
from tests.integration.standins import Controller, Host
directory = ClusterDirectory(sys.argv[1]).create()
launcher = Controller(directory, ["--cluster-dir", str(directory)])
launcher.start()
launcher.wait_event("ready", 20)
{more}
print(launcher.pid, flush=True)
time.sleep(60)
"""


def start_owner(tmp_path, more=""):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(more=more), str(tmp_path / "c")],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(owner.stdout.readline())
    return owner, psutil.Process(pid)


def test_owner_killed(tmp_path):
    owner, program = start_owner(tmp_path)
    with owner.stdout:
        assert program.is_running()
        owner.kill()
        owner.wait()
        wait_for(lambda: not program.is_running())


def test_owner_killed_while_a_forked_child_of_it_lives(tmp_path):
    owner, program = start_owner(
        tmp_path, "import os\nchild = os.fork()\nif child == 0: time.sleep(60)\nprint(child)"
    )
    with owner.stdout:
        child, program = psutil.Process(program.pid), psutil.Process(int(owner.stdout.readline()))
        try:
            owner.kill()
            owner.wait()
            wait_for(lambda: not program.is_running())
            assert child.is_running()
        finally:
            child.kill()
            wait_for(lambda: not child.is_running())


def test_stop_directory(directory, launch):
    from ipkernel.cluster.stopping import stop_directory

    launcher = launch(CONTROLLER, "--cluster-dir", str(directory), lifeline=False)
    launcher.wait_event("ready", 10)
    result = stop_directory(directory)
    assert [p.pid for p in result.found] == [launcher.pid]
    assert result.clean
    assert directory.pid_files() == []
    assert stop_directory(directory).found == ()


def test_stop_directory_by_force_and_strays(directory, launch):
    from ipkernel.cluster.stopping import stop_directory

    launcher = launch(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\npid_file('ipdaemon-h')\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "emit('ready', child=child.pid)\ntime.sleep(60)\n",
        "--cluster-dir",
        str(directory),
        lifeline=False,
    )
    child = psutil.Process(launcher.wait_event("ready", 10)["child"])
    said = []
    result = stop_directory(directory, timeout=0.5, say=said.append)
    assert [p.pid for p in result.killed] == [launcher.pid]
    assert [p.pid for p in result.strays] == [child.pid]
    assert not result.clean
    assert len(said) == 2
    assert "did not end when asked to" in said[0]
    assert directory.pid_files() == []


def test_only_our_processes_are_signalled(directory):
    """A pid file with a number that another process has now must not harm that one."""
    from ipkernel.cluster.stopping import stop_directory

    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        process = psutil.Process(bystander.pid)
        content = {"pid": process.pid, "started": process.create_time() - 100, "host": ""}
        (directory.pid / "ipcontroller.json").write_text(json.dumps(content))
        assert stop_directory(directory, timeout=0.5).found == ()
        stale = processes.Process("x", process.pid, process.create_time() - 100, "")
        assert not stale.terminate()
        assert not stale.kill()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_wait_process():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    assert not processes.wait_process(child, 0.0)
    child.stdin.close()
    assert processes.wait_process(child, 10)
    assert processes.wait_process(child, 0)
    assert child.returncode == 0


def test_wait_process_while_another_thread_collects_it():
    """The other one holds the lock of Popen while it waits, and a moment longer."""
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=-1, stderr=-3)
        other = threading.Thread(target=child.wait)
        other.start()
        child.stdin.close()
        assert processes.wait_process(child, 10)
        assert child.returncode == 1
        other.join()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "is still running"),
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "was killed by SIGKILL"),
        (-250, "was killed by signal 250"),
    ],
)
def test_describe_exit(code, text):
    assert processes.describe_exit(code) == text


def test_a_callback_that_fails_does_not_stop_the_events(launch):
    def fail(_):
        raise RuntimeError("a fault of the caller")

    code = "import sys, time; [print(json.dumps({'event': e}), flush=True) for e in ('a', 'b')]"
    launcher = launch(f"import json\n{code}\nsys.stdin.read()", on_event=fail)
    assert launcher.wait_event("b", 10) == {"event": "b"}
    launcher.request_stop()
    assert launcher.wait(10)
    assert launcher.exit_code == 0
