"""Tasks are found, explained, run again and forgotten, across clients of a real cluster."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys

import pytest

from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.cluster.cluster import Cluster
from tests.integration.faults_support import PATIENCE, wait_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finding") / "cluster_finding"
    cluster = Cluster(n=2, cluster_dir=str(directory), controller_args=["--watchdog", "0.4"])
    cluster.start_cluster_sync()
    try:
        yield cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture
def connect(cluster):
    clients = []

    def connect():
        client = Client(cluster_dir=str(cluster.directory))
        clients.append(client)
        client.wait_for_engines(2, timeout=PATIENCE, interactive=False)
        return client

    yield connect
    for client in clients:
        client.close()


def nap(seconds):
    import time as clock

    clock.sleep(seconds)
    return seconds


def hold(path):
    """Run until there is a file."""
    import pathlib
    import time as clock

    while not pathlib.Path(path).exists():
        clock.sleep(0.01)


def fails_first(path):
    import os

    try:
        os.mkdir(path)
    except FileExistsError:
        return "better now"
    raise LookupError("not yet")


def ipcluster(cluster, *words):
    command = [sys.executable, "-m", "ipkernel.cli.ipcluster", *words]
    command += ["--cluster-dir", str(cluster.directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_tasks_of_a_client_that_has_gone(connect):
    before = datetime.datetime.now()
    first, other = connect(), connect()
    view = first.load_balanced_view()
    with view.temp_flags(label="left behind"):
        results = [view.apply_async(nap, n / 100) for n in range(30)]
    ids = [result.msg_ids[0] for result in results]
    first.close()
    rows = wait_for(
        lambda: len(r := other.db_query({"label": "left behind", "state": "finished"})) == 30 and r
    )
    assert [row["msg_id"] for row in rows] == ids
    assert all(row["method"] == "apply" and row["status"] == "ok" for row in rows)
    assert all(before <= row["submitted"].replace(tzinfo=None) for row in rows)
    kept = [row["msg_id"] for row in rows if row["kept"]]
    assert kept
    assert other.result_status(ids) == {"pending": [], "completed": ids}
    again = other.resubmit(kept[:3])
    found = other.get_result(label="left behind")
    assert found.msg_ids == [*kept, *again.msg_ids]
    assert found.get(PATIENCE)[: len(kept)] == [ids.index(task) / 100 for task in kept]
    assert found.metadata[0]["label"] == "left behind"
    assert again.get(PATIENCE) == [ids.index(task) / 100 for task in kept[:3]]
    assert set(ids) <= set(other.hub_history())
    other.purge_everything()
    assert other.hub_history() == []


def test_a_failed_task_is_run_again_by_another_client(connect, tmp_path):
    first, other = connect(), connect()
    with pytest.raises(errors.RemoteError, match="not yet"):
        first[1].apply_async(fails_first, str(tmp_path / "made")).get(PATIENCE)
    task = first.history[-1]
    first.close()
    (row,) = other.db_query({"msg_id": task})
    assert row["state"] == "failed" and row["resubmittable"] and row["engine_id"] == 1
    again = other.resubmit(task)
    assert again.get(PATIENCE) == "better now" and again.engine_id == 1
    over = tmp_path / "over"
    running = other[0].apply_async(hold, str(over))
    with pytest.raises(errors.KernelError, match="has not ended"):
        other.resubmit(running)
    with pytest.raises(errors.KernelError, match="has not ended"):
        connect().purge_hub_results(running.msg_ids)
    over.touch()
    running.get(PATIENCE)


def test_queries_say_what_is_wrong_with_them(connect):
    rc = connect()
    with pytest.raises(errors.QueryError, match="did you mean 'engine_id'"):
        rc.db_query({"engineid": 3})
    with pytest.raises(errors.QueryError, match=r"did you mean '\$gte?'"):
        rc.db_query({"engine_id": {"$gtt": 5}})


def test_what_waits_is_explained(connect, cluster, tmp_path):
    rc = connect()
    over = tmp_path / "over"
    view = rc[0]
    with view.temp_flags(label="long one"):
        running = view.apply_async(hold, str(over))
    waits = [view.apply_async(nap, 0) for _ in range(3)]
    wait_for(lambda: rc.explain(running)[0].state == "running")
    (story,) = rc.explain(waits[2])
    assert f"engine 0 runs task {running.msg_ids[0]} (long one) since" in story.reason
    assert "2 tasks are ahead of it" in story.reason
    assert [one.task for one in rc.explain("long one")] == running.msg_ids
    (engine,) = rc.explain(engine=0)
    assert engine.running == running.msg_ids and engine.count == 3
    told = ipcluster(cluster, "explain", str(waits[0].msg_ids[0]), "--json")
    assert told.returncode == 0, told.stderr
    assert "is the next one" in json.loads(told.stdout)[0]["reason"]
    told = ipcluster(cluster, "explain", "engine", "0")
    assert "engine 0 runs task" in told.stdout and "waiting  3 tasks" in told.stdout
    status = rc.queue_status(verbose=True)
    assert status[0]["tasks"] == running.msg_ids and len(status[0]["queue"]) == 3
    over.touch()
    running.get(PATIENCE)
    assert ipcluster(cluster, "explain", "no such label").returncode == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs job control")
def test_a_daemon_that_is_stopped_is_told_of(connect, cluster):
    rc = connect()
    (host,) = rc.status().hosts
    os.kill(host.pid, signal.SIGSTOP)
    try:
        result = rc[0].apply_async(nap, 0)
        stuck = wait_for(lambda: [one for one in rc.stuck() if "nothing is heard" in one.reason])
        assert str(host.pid) in stuck[0].reason
        assert any("nothing is heard" in text for text in rc.queue_status()["stuck"])
        shown = ipcluster(cluster, "status").stdout
        assert "stuck (warning), for" in shown and "  -> its daemon is stopped" in shown
    finally:
        os.kill(host.pid, signal.SIGCONT)
    assert result.get(PATIENCE) == 0
    wait_for(lambda: not [one for one in rc.stuck() if "not begun" in one.cause])


def test_calls_that_wait_for_calls_on_all_engines_are_told(cluster, connect):
    def nest(directory):
        from ipkernel import Client

        with Client(cluster_dir=directory) as inner:
            return inner.load_balanced_view(label="inner").apply_async(pow, 2, 8).get()

    rc = connect()
    view = rc.load_balanced_view()
    calls = [view.apply_async(nest, str(cluster.directory)) for _ in range(2)]
    (stuck,) = wait_for(lambda: [one for one in rc.stuck() if one.cause.startswith("nested")])
    assert stuck.reason.startswith("engines 0, 1 run tasks that have submitted tasks themselves")
    calls[0].cancel()
    assert calls[1].get(PATIENCE) == 256
    wait_for(lambda: not [one for one in rc.stuck() if one.cause.startswith("nested")])
