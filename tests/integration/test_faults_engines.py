"""Engines that die in the midst of work: whose task it was is told, and nobody else notices."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

import ipkernel
from ipkernel.errors import CompositeError, EngineLost, LauncherError
from tests.integration.faults_support import PATIENCE, Program, shared_cluster, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with shared_cluster(tmp_path_factory.mktemp("deaths")) as cluster:
        yield cluster


@pytest.fixture
def rc(shared):
    yield shared.rc
    shared.check()


def leave():
    os._exit(7)


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def read_nothing():
    ctypes.string_at(0)


def close_everything():
    os.closerange(0, 200)


DEATHS = [
    (leave, r"exited with code 7"),
    (kill_oneself, r"killed by SIGKILL \(9\)"),
    (read_nothing, r"segmentation fault: killed by SIGSEGV \(11\)"),
    (close_everything, r"exited with code \d+|killed by SIG\w+ \(\d+\)"),
]


@pytest.mark.parametrize(("death", "how"), DEATHS, ids=[death.__name__ for death, _ in DEATHS])
def test_a_direct_task_kills_its_engine(rc, death, how):
    before, pid, after = rc[:].apply_sync(os.getpid)
    failing = rc[1].apply_async(death)
    behind = rc[1].apply_async(os.getpid)  # it had not begun, and waits for the new engine
    with pytest.raises(EngineLost) as info:
        failing.get(PATIENCE)
    assert re.fullmatch(
        rf"engine 1 on \S+ was lost while it ran this task: ({how})", str(info.value)
    )
    assert info.value.engine == 1
    assert behind.get(PATIENCE) != pid
    assert rc[1].apply_async(os.getpid).get(PATIENCE) != pid
    # Its siblings, forked from the same zygote, live on.
    assert rc[[0, 2]].apply_async(os.getpid).get(PATIENCE) == [before, after]


def test_one_of_all_engines(rc):
    pids = rc[:].apply_sync(os.getpid)
    result = rc[:].apply_async(lambda pid: os._exit(3) if os.getpid() == pid else "alive", pids[1])
    with pytest.raises(CompositeError) as info:
        result.get(PATIENCE)
    assert len(info.value.elist) == 1
    assert "engine 1 on" in str(info.value)
    values = result.get(PATIENCE, return_exceptions=True)
    assert [values[0], values[2]] == ["alive", "alive"]
    assert isinstance(values[1], EngineLost)


def test_a_balanced_task_without_retries(rc):
    with pytest.raises(EngineLost, match="was lost while it ran this task: exited with code 7"):
        rc.load_balanced_view().apply_async(leave).get(PATIENCE)


def test_a_balanced_task_with_retries(rc, tmp_path):
    def once(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "done"
        os._exit(7)

    view = rc.load_balanced_view()
    with view.temp_flags(retries=1):
        assert view.apply_async(once, str(tmp_path / "once")).get(PATIENCE) == "done"
        failing = view.apply_async(leave)
        with pytest.raises(EngineLost, match="exited with code 7") as info:
            failing.get(PATIENCE)
    assert failing.metadata.attempts == 2
    assert (info.value.engine, info.value.exitcode) == (failing.metadata.engine_id, 7)


@pytest.mark.parametrize("direct", [True, False])
def test_a_chunk_of_a_map(rc, direct):
    def leave_at_five(number):
        if number == 5:
            os._exit(7)
        return number

    view = rc[:] if direct else rc.load_balanced_view()
    result = view.map_async(leave_at_five, range(12))
    with pytest.raises(CompositeError) as info:
        result.get(PATIENCE)
    # The items of one chunk, which are as many as the scheduler found good.
    assert {(error[0], error[1]) for error in info.value.elist} == {
        ("EngineLost", info.value.elist[0][1])
    }
    assert "was lost while it ran this task: exited with code 7" in str(info.value)
    # All other chunks are there.
    values = view.map_async(leave_at_five, range(12), return_exceptions=True).get(PATIENCE)
    lost = [value for value in values if isinstance(value, EngineLost)]
    assert lost
    assert sorted(set(range(12)) - {v for v in values if isinstance(v, int)})[0] <= 5
    assert 5 not in [value for value in values if isinstance(value, int)]


def test_a_stopped_engine_that_is_then_killed(rc):
    """While it is stopped its tasks wait and others' go on; its end is told like any other."""
    pids = rc[:].apply_sync(os.getpid)
    victim = psutil.Process(pids[2])
    victim.suspend()
    try:
        waiting = rc[2].apply_async(os.getpid)
        many = rc.load_balanced_view([0, 1]).map_async(abs, range(50), chunksize=1)
        assert many.get(PATIENCE) == list(range(50))
        assert not waiting.done()
    finally:
        victim.kill()
    try:
        value = waiting.get(PATIENCE)
    except EngineLost as error:  # noqa: PT017 - which of two honest ends it has is a matter of time
        assert re.search(r"engine 2 .*killed by SIGKILL \(9\)", str(error))
    else:
        assert value != pids[2]  # it had not begun, and the new engine ran it


def test_a_balanced_map_while_engines_are_killed(rc):
    """With retries it is complete; without, only what ran on a killed engine is missing."""

    def slowly(number):
        time.sleep(0.01)
        return number

    view = rc.load_balanced_view()
    for retries in (5, 0):
        with view.temp_flags(retries=retries):
            result = view.map_async(slowly, range(150), chunksize=1, return_exceptions=True)
        for engine in (0, 1):
            wait_for(lambda: result.progress > 20 * (engine + 1))
            os.kill(rc._session.engines.known[engine].pid, signal.SIGKILL)
        values = result.get(PATIENCE)
        missing = [i for i, value in enumerate(values) if value != i]
        assert len(missing) <= (0 if retries else 2)
        for i in missing:
            assert isinstance(values[i], EngineLost)
            assert "killed by SIGKILL (9)" in str(values[i])
        rc.wait_for_engines(3, timeout=PATIENCE)


def test_engines_that_can_never_start(tmp_path, capfd):
    """A broken environment is told as soon as it is certain, and everything ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'ipkernel.engine.zygote' in sys.orig_argv:\n"
        "    sys.exit('this environment is broken')\n"
    )
    cluster = ipkernel.Cluster(
        1,
        cluster_dir=tmp_path / "cluster_broken",
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"},
        engine_timeout=PATIENCE,
    )
    with pytest.raises(LauncherError) as info:
        cluster.start_cluster_sync()
    assert str(info.value) == (
        "ipdaemon failed: engine 0 died 6 times in a row right after its start: could not be "
        "started: the zygote, which forks engines, exited with code 1 6 times in a row"
    )
    cluster.stop_cluster_sync()
    assert cluster.directory.processes() == []


SECOND = """
import sys, time
import ipkernel
rc = ipkernel.Client(cluster_dir=sys.argv[1])
view = rc.load_balanced_view()
data = bytes(100_000)
results = [view.apply_async(len, data) for _ in range(50)]
print("streaming", flush=True)
while True:
    results.append(view.apply_async(len, data))
    results = results[-2000:]
"""


def test_a_client_is_killed_in_mid_stream(shared, rc):
    with Program(sys.executable, "-c", SECOND, str(shared.cluster.cluster_dir)) as other:
        assert other.line() == "streaming"
        result = rc.load_balanced_view().map_async(abs, range(100), chunksize=1)
        time.sleep(0.2)
        other.process.kill()
        assert other.end()[0] == -signal.SIGKILL
        assert result.get(PATIENCE) == list(range(100))
    shared.bystander.check()
    # The controller is rid of it: its tasks end, and nothing waits.
    wait_for(lambda: rc.queue_status()["unassigned"] == 0)
    wait_for(lambda: not any(info.queued or info.running for info in rc.engine_infos().values()))


def test_a_task_that_stops_its_own_engine_group(rc):
    """SIGTERM from within: the engine ends as it would for anybody else."""

    def end():
        import signal

        os.killpg(0, signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(EngineLost, match="exited with code|killed by SIGTERM"):
        rc[0].apply_async(end).get(PATIENCE)


def test_programs_of_a_killed_engine(rc):
    def spawn():
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    child = psutil.Process(rc[0].apply_sync(spawn))
    os.kill(rc[0].apply_sync(os.getpid), signal.SIGKILL)
    assert psutil.wait_procs([child], 10)[1] == []


def test_a_program_that_nobody_can_attribute_when_its_engine_ends(rc, tmp_path):
    """The environment of what is just being started is empty; so is this one's, for longer."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def spawn():
        script = f"read go < {gate}; IPKERNEL_ENGINE_PID={os.getpid()} exec sleep 1000"
        return subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, env={}).pid

    child = psutil.Process(rc[0].apply_sync(spawn))
    with pytest.raises(EngineLost):  # is told at once
        rc[0].apply_async(kill_oneself).get(PATIENCE)
    assert child.is_running()
    gate.write_text("go\n")
    assert psutil.wait_procs([child], 60)[1] == []


def test_programs_that_start_as_their_engine_is_killed(rc, tmp_path):
    """And what those have started, in further sessions."""
    marks = {str(tmp_path / str(number)) for number in range(10)}

    def spawn(mark):
        code = (
            "import subprocess, sys, time; subprocess.Popen(['tail', '-f', '/dev/null', sys.argv[1]],"
            " start_new_session=True); time.sleep(1000)"
        )
        subprocess.Popen([sys.executable, "-S", "-c", code, mark], start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)

    for mark in marks:
        with pytest.raises(EngineLost):
            rc[0].apply_async(spawn, mark).get(PATIENCE)

    def words(process):
        try:
            return set(process.cmdline())
        except psutil.Error:
            return set()

    wait_for(lambda: not any(marks & words(process) for process in psutil.process_iter()))
