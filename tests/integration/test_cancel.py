"""Tasks that run are aborted: by real engines, on request of real clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import psutil
import pytest

from ipkernel import errors
from ipkernel.client.client import Client
from tests.integration.faults_support import PATIENCE, shared_cluster, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with shared_cluster(tmp_path_factory.mktemp("cancel"), n=2) as made:
        yield made


@pytest.fixture
def rc(shared):
    yield shared.rc
    shared.check()


def begin(path, seconds=600.0):
    import pathlib
    import time

    pathlib.Path(path).touch()
    time.sleep(seconds)


def deaf(path):
    import pathlib
    import time

    begun = False
    while True:
        try:
            if not begun:
                begun = True
                pathlib.Path(path).touch()
            time.sleep(600)
        except KeyboardInterrupt:
            pass


def unmoved(path):
    import pathlib
    import time

    try:
        pathlib.Path(path).touch()
        time.sleep(600)
    except KeyboardInterrupt:
        return "all the same"


@pytest.mark.parametrize("how", ["load-balanced", "direct"])
def test_a_running_call_is_interrupted(rc, tmp_path, how):
    view = rc.load_balanced_view() if how == "load-balanced" else rc[1]
    pids = rc[:].apply_sync(os.getpid)
    result = view.apply_async(begin, tmp_path / "begun")
    wait_for((tmp_path / "begun").exists)
    since = time.monotonic()
    assert rc.abort(result) == {result.msg_ids[0]: "interrupted"}
    assert time.monotonic() - since < PATIENCE
    with pytest.raises(errors.TaskAborted, match=r"cancelled while it ran on engine \d.*interrupt"):
        result.get(PATIENCE)
    assert result.cancelled() and result.status == "aborted"
    assert rc[:].apply_sync(os.getpid) == pids


def test_what_does_not_react_is_killed_and_what_waits_for_it_runs(rc, tmp_path):
    view = rc[0]
    pid = view.apply_sync(os.getpid)
    result, after = view.apply_async(deaf, tmp_path / "begun"), view.apply_async(abs, -5)
    wait_for((tmp_path / "begun").exists)
    assert result.abort(grace=0.2) == {result.msg_ids[0]: "killed"}
    with pytest.raises(errors.TaskAborted, match="went on for 0.2 s more, its engine was killed"):
        result.get(PATIENCE)
    assert after.get(PATIENCE) == 5
    assert view.apply_async(os.getpid).get(PATIENCE) != pid


def test_who_returns_a_value_all_the_same_has_ended(rc, tmp_path):
    result = rc[0].apply_async(unmoved, tmp_path / "begun")
    wait_for((tmp_path / "begun").exists)
    assert result.abort() == {result.msg_ids[0]: "ended already"}
    assert result.get(PATIENCE) == "all the same" and not result.cancelled()


def test_what_a_call_has_started_ends_with_it(rc, tmp_path):
    def starts(path):
        import subprocess
        import sys

        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        path.write_text(str(child.pid))
        child.wait()

    path = tmp_path / "pid"
    result = rc[0].apply_async(starts, path)
    wait_for(lambda: path.exists() and path.read_text())
    assert set(result.abort().values()) == {"interrupted"}
    pid = int(path.read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_a_map_is_cancelled_in_all_its_parts(rc, tmp_path):
    view = rc.load_balanced_view()
    result = view.map_async(begin, [tmp_path / f"{n}" for n in range(20)], chunksize=1)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    assert result.cancel() and result.cancelled()
    with pytest.raises(errors.TaskAborted, match="18 dequeued, 2 interrupted"):
        result.get(PATIENCE)
    assert rc.wait(timeout=PATIENCE)
    assert len(list(tmp_path.iterdir())) == 2


def test_quick_calls_behind_a_long_one_are_not_hit(rc, tmp_path):
    """They were in its engine's pipe already, because their like is known to be quick."""

    def sometimes(seconds, path):
        if seconds:
            path.touch()
            import time

            time.sleep(seconds)
        return seconds

    view = rc[0]
    for _ in range(20):
        view.apply_sync(sometimes, 0, tmp_path)
    calls = [view.apply_async(sometimes, 0, tmp_path) for _ in range(5)]
    long = view.apply_async(sometimes, 600, tmp_path / "begun")
    calls += [view.apply_async(sometimes, 0, tmp_path) for _ in range(50)]
    wait_for((tmp_path / "begun").exists)
    assert set(rc.abort(long).values()) == {"interrupted"}
    assert [call.get(PATIENCE) for call in calls] == [0] * 55


def test_cells_too(rc):
    cell = rc[:].execute("import time; print('begun', flush=True); time.sleep(600)", block=False)
    wait_for(lambda: [text.strip() for text in cell.stdout] == ["begun"] * 2)
    assert sorted(cell.abort().values()) == ["interrupted"] * 2
    with pytest.raises(errors.CompositeError, match="TaskAborted"):
        cell.get(PATIENCE)


def test_of_another_client_and_all_at_once(shared, rc, tmp_path):
    view = rc.load_balanced_view()
    results = [view.apply_async(begin, tmp_path / f"{n}") for n in range(2)]
    results += [view.apply_async(begin, tmp_path / "never") for _ in range(20_000)]
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    ids = [task for result in results for task in result.msg_ids]
    with Client(cluster_dir=shared.rc.cluster.directory.path, timeout=PATIENCE) as other:
        answer = other.abort([*ids, 4711])
    assert str(answer) == "20000 dequeued, 2 interrupted, 1 unknown"
    assert rc.wait(results, PATIENCE)
    assert all(result.cancelled() for result in results)
    assert str(rc.abort(ids)) == "20002 ended already"


def test_calls_that_wait_for_an_aborted_one(rc, tmp_path):
    view = rc.load_balanced_view()
    first = view.apply_async(begin, tmp_path / "begun")
    with view.temp_flags(after=first):
        after = view.apply_async(abs, -1)
    wait_for((tmp_path / "begun").exists)
    first.abort()
    with pytest.raises(errors.ImpossibleDependency, match=f"{first.msg_ids[0]} failed"):
        after.get(PATIENCE)


def test_a_loop_that_stops_waiting_and_one_that_cancels(rc, tmp_path):
    result = rc[0].apply_async(begin, tmp_path / "one", 0.5)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(result, 0.01)
        assert await result is None  # it has gone on
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(rc.executor(0), begin, tmp_path / "two")
        while not (tmp_path / "two").exists():
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    assert rc.wait(timeout=PATIENCE)  # it was interrupted


def test_a_task_that_is_aborted_is_not_run_again(rc, tmp_path):
    view = rc.load_balanced_view(retries=5)
    path = tmp_path / "begun"
    result = view.apply_async(deaf, path)
    wait_for(path.exists)
    path.unlink()
    assert set(result.abort(grace=0.1).values()) == {"killed"}
    assert result.attempts == 1
    rc[:].apply_async(abs, -1).get(PATIENCE)
    assert not path.exists()


def test_a_script_that_ends_leaves_what_it_has_cancelled(tmp_path):
    code = """
import time, ipkernel
with ipkernel.Cluster(1) as rc:
    result = rc.load_balanced_view().apply_async(time.sleep, 600)
    while not rc.queue_status()[0]["tasks"]:
        time.sleep(0.01)
    print(result.cancel(), result.cancelled())
    try:
        result.get()
    except ipkernel.TaskAborted as error:
        print(error, error.fate)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "True True\nthe result of 'sleep' was cancelled: 1 interrupted interrupted\n"
    )
