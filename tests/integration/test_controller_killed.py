"""What goes on while the controller of a cluster is killed and started again, and what is there afterwards."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest

import ipkernel
from ipkernel import Client, Cluster, errors
from tests.integration.faults_support import PATIENCE, noted, runs_of, wait_for

numpy = pytest.importorskip("numpy")

pytestmark = pytest.mark.timeout(120)


class Site:
    """A cluster with two engines and a client, whose controller can be killed."""

    def __init__(self, cluster, rc):
        self.cluster = cluster
        self.rc = rc
        self.pids = self.engines()

    def engines(self):
        self.rc.wait_for_engines(2, timeout=PATIENCE, interactive=False)
        return self.rc[:].apply_async(os.getpid).get(PATIENCE)

    def kill(self):
        """Kill the controller; return its process."""
        process = self.cluster.directory.controller()
        assert process.signal(signal.SIGKILL)
        return process

    def another(self, old):
        """Wait until this client has another controller."""

        def look():
            process = self.cluster.directory.controller()
            return process is not None and process.pid != old.pid and self.rc.connected

        wait_for(look)

    def back(self, old):
        """Wait until another controller has this client and the engines of before."""
        self.another(old)
        assert self.engines() == self.pids

    def stored(self):
        """Return how many objects there are on the hosts."""
        gc.collect()
        return sum(host.objects for host in self.rc.status().hosts)

    def nothing_stored(self):
        wait_for(lambda: not self.stored(), PATIENCE, "objects are left")


@pytest.fixture
def site(tmp_path):
    cluster = Cluster(
        2, cluster_dir=str(tmp_path / "cluster_k"), controller_options={"restart_grace": PATIENCE}
    )
    cluster.start_cluster_sync()
    try:
        with cluster.connect_client_sync(timeout=PATIENCE) as rc:
            rc.progress = False
            rc.wait_for_engines(2, timeout=PATIENCE, interactive=False)
            yield Site(cluster, rc)
    finally:
        cluster.stop_cluster_sync()


def until_there(path: str, begun: str) -> int:
    """Say so twice, with a file between: one that this makes, and one that it waits for."""
    import os
    import time

    print("begun", flush=True)
    open(begun, "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
    print("over", flush=True)
    return os.getpid()


def total(array) -> float:
    """Return a sum."""
    return float(array.sum())


def pushed() -> float:
    """Return the sum of what was pushed."""
    import __main__

    return float(__main__.pushed.sum())


def array_of(value):
    """Return 20 MB."""
    import numpy

    return numpy.full(2_500_000, float(value))


def test_what_runs_goes_on_and_what_it_prints_arrives_once(site, tmp_path):
    go, begun, runs = (tmp_path / name for name in ("go", "begun", "runs"))
    running = site.rc[0].apply_async(until_there, str(go), str(begun))
    bound = [site.rc[0].apply_async(noted, number, str(runs)) for number in range(5)]
    view = site.rc.load_balanced_view()
    free = [view.apply_async(noted, number, str(runs)) for number in range(5, 40)]
    wait_for(begun.exists)
    old = site.kill()
    go.touch()  # it prints and ends while there is no controller, or not yet
    late = [view.apply_async(noted, number, str(runs)) for number in range(40, 50)]
    assert running.get(PATIENCE) == site.pids[0]
    assert [one.get(PATIENCE) for one in [*bound, *free, *late]] == list(range(50))
    assert running.stdout == "begun\nover\n"
    assert runs_of(runs) == dict.fromkeys(range(50), 1)
    site.back(old)


def test_how_tasks_ended_is_known_though_their_results_were_fetched(site):
    view = site.rc.load_balanced_view()
    with view.temp_flags(label="before"):
        results = [view.apply_async(divmod, 7, divisor) for divisor in (1, 2, 0)]
    site.rc.wait(results, PATIENCE)
    keys = ["submitted", "started", "completed", "received", "status", "engine_uuid", "label"]
    before = site.rc.db_query({"label": "before"}, keys)
    assert [row["engine_uuid"] for row in before] == [result.engine_uuid for result in results]
    assert {int(result.engine_uuid.split(":")[1]) for result in results} <= set(site.pids)
    assert [row["status"] for row in before] == ["ok", "ok", "error"]
    for _ in range(2):
        site.back(site.kill())
        assert site.rc.db_query({"label": "before"}, keys) == before
        assert [row["engine_uuid"] for row in before] == [result.engine_uuid for result in results]
    ids = [row["msg_id"] for row in before]
    assert set(ids) <= set(site.rc.hub_history())
    with pytest.raises(errors.KernelError, match="ended before the controller was started again"):
        site.rc.resubmit(results[2])
    site.rc.purge_results(results)
    site.back(site.kill())
    assert site.rc.db_query({"label": "before"}) == []


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_cancel_holds_though_its_client_has_gone_when_the_host_hears_of_it(site, tmp_path):
    begun = tmp_path / "begun"
    daemon = site.cluster.engine_set.launcher.pid
    with Client(cluster_dir=str(site.cluster.directory.path), timeout=PATIENCE) as other:
        view = other.load_balanced_view(retries=3)
        (task,) = view.apply_async(until_there, str(tmp_path / "never"), str(begun)).msg_ids
        wait_for(begun.exists)
        os.kill(daemon, signal.SIGSTOP)
        try:
            site.another(site.kill())
            wait_for(lambda: other.connected)
            other.abort(task, block=False)
            wait_for(lambda: "cancelled" in str(site.rc.explain(task)[0].story))
            other.close()
            site.another(site.kill())
        finally:
            os.kill(daemon, signal.SIGCONT)
    wait_for(lambda: site.rc.db_query({"msg_id": task, "status": "aborted"}))
    assert site.engines() == site.pids


def test_killed_twice_while_a_task_runs(site, tmp_path):
    go, begun = tmp_path / "go", tmp_path / "begun"
    running = site.rc[1].apply_async(until_there, str(go), str(begun))
    wait_for(begun.exists)
    site.rc[0].apply_sync(abs, -1)
    for _ in range(2):
        site.another(site.kill())
        assert site.rc[0].apply_async(abs, -1).get(PATIENCE) == 1
    go.touch()
    assert running.get(PATIENCE) == site.pids[1]
    assert running.stdout == "begun\nover\n"
    assert site.rc.status().restarts == 2


def test_killed_together_with_the_host_daemon(site, tmp_path):
    """Nobody waits for a daemon of this machine that is seen to be gone; another one is started."""
    begun, runs = tmp_path / "begun", tmp_path / "runs"
    lost = site.rc[0].apply_async(until_there, str(tmp_path / "never"), str(begun))
    view = site.rc.load_balanced_view(retries=1)
    again = [view.apply_async(noted, number, str(runs), 0.01) for number in range(20)]
    wait_for(begun.exists)
    daemon = site.cluster.engine_set.launcher.pid
    old = site.kill()
    os.kill(daemon, signal.SIGKILL)
    with pytest.raises(errors.HostLost, match="its host is gone"):
        lost.get(PATIENCE / 2)
    assert [one.get(PATIENCE) for one in again] == list(range(20))
    assert set(runs_of(runs)) == set(range(20))
    site.another(old)
    wait_for(lambda: site.rc.ids == [0, 1])
    assert not set(site.engines()) & set(site.pids)


def test_objects_outlive_it_and_are_freed_in_the_end(site):
    rc = site.rc
    data = array_of(3)
    put = rc.put(data)
    kept = rc[0].apply_ref(array_of, 2).get(PATIENCE)
    rc[1].push({"pushed": data}, block=True)
    result = rc[1].apply_async(array_of, 5)
    wait_for(result.ready)
    again = rc[0].apply_async(total, put)
    site.back(site.kill())
    assert again.get(PATIENCE) == data.sum()
    sums = [one.apply_async(total, ref) for one in (rc[0], rc[1]) for ref in (put, kept)]
    assert [one.get(PATIENCE) for one in sums] == [data.sum(), data.sum() / 3 * 2] * 2
    assert rc[1].apply_async(pushed).get(PATIENCE) == data.sum()
    assert (kept.get(PATIENCE) == 2.0).all()
    assert (result.get(PATIENCE) == 5.0).all()
    assert site.stored() > 0
    rc[1].execute("del pushed", block=True)
    del put, kept, result, sums, again
    rc.purge_everything()
    site.nothing_stored()


def test_objects_that_are_let_go_while_it_is_away(site):
    rc = site.rc
    refs = [rc.put(array_of(number)) for number in range(2)]
    refs += [rc[number].apply_ref(array_of, number).get(PATIENCE) for number in range(2)]
    assert site.stored() == 4
    old = site.kill()
    del refs
    gc.collect()
    site.back(old)
    site.nothing_stored()


def test_results_that_come_after_a_restart_are_for_any_client(site, tmp_path):
    go, begun = tmp_path / "go", tmp_path / "begun"
    small = site.rc[0].apply_async(until_there, str(go), str(begun))
    large = site.rc[1].apply_async(array_of, 7)
    wait_for(begun.exists)
    wait_for(large.ready)
    site.another(site.kill())
    with Client(cluster_dir=str(site.cluster.directory.path), timeout=PATIENCE) as other:
        found = other.get_result(small.msg_ids[0])
        go.touch()
        assert found.get(PATIENCE) == site.pids[0]
    assert small.get(PATIENCE) == site.pids[0]
    assert (large.get(PATIENCE) == 7.0).all()


def test_a_file_that_is_being_sent(site, tmp_path):
    """It arrives, or it is said why not; then another one does."""
    source = tmp_path / "large"
    source.write_bytes(os.urandom(1 << 20) * 64)
    there = tmp_path / "there"
    sent = site.rc[0].send_file(str(source), str(there / "large"))
    wait_for(lambda: there.exists() and any(there.iterdir()))
    old = site.kill()
    try:
        sent.get(PATIENCE)
    except (errors.TransferError, errors.KernelError) as error:
        assert "controller" in str(error)
        assert not (there / "large").exists()
    else:
        assert (there / "large").read_bytes() == source.read_bytes()
    site.back(old)
    site.rc[1].send_file(str(source), str(there / "again")).get(PATIENCE)
    assert (there / "again").read_bytes() == source.read_bytes()
    site.nothing_stored()


def test_streams_that_are_under_way(site):
    """Items come in order, each once, to the end, or it is said why not."""

    def endless(items):
        for item in items:
            yield item, bytes(1000)

    seen = []
    killed = None
    try:
        with site.rc[0].stream(endless, ipkernel.stream(iter(range(20_000)))) as found:
            for item, _ in found:
                seen.append(item)
                if item == 2000:
                    killed = site.kill()
    except errors.KernelError as error:
        assert "controller" in str(error)
        assert seen == list(range(len(seen))) and len(seen) > 2000
    else:
        assert seen == list(range(20_000))
    site.back(killed)
    site.nothing_stored()


def test_interactive_work_of_threads(site, tmp_path):
    """Many that wait, each in a thread of its own, get what they wait for."""
    file = tmp_path / "runs"
    problems = []

    def work(number):
        try:
            for index in range(number, number + 25):
                assert (
                    site.rc[index % 2].apply_async(noted, index, str(file)).get(PATIENCE) == index
                )
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: file.exists() and len(runs_of(file)) > 10)
    old = site.kill()
    for thread in threads:
        thread.join(PATIENCE)
    assert problems == []
    assert runs_of(file) == {100 * n + index: 1 for n in range(4) for index in range(25)}
    site.back(old)


def test_what_was_not_fetched_outlives_a_stop(tmp_path):
    directory = str(tmp_path / "cluster_s")
    cluster = Cluster(1, cluster_dir=directory)
    cluster.start_cluster_sync()
    try:
        with cluster.connect_client_sync(timeout=PATIENCE) as rc:
            rc.wait_for_engines(1, timeout=PATIENCE, interactive=False)
            [ended] = rc[0].apply_async(until_there, "/", str(tmp_path / "begun")).msg_ids
        with cluster.connect_client_sync(timeout=PATIENCE) as rc:
            wait_for(lambda: rc.result_status(ended)["completed"] == [ended])
    finally:
        cluster.stop_cluster_sync()
    cluster = Cluster(1, cluster_dir=directory)
    cluster.start_cluster_sync()
    try:
        with cluster.connect_client_sync(timeout=PATIENCE) as rc:
            found = rc.get_result(ended)
            assert found.get(PATIENCE) > 0
            assert found.stdout == "begun\nover\n"
    finally:
        cluster.stop_cluster_sync()
    assert not Path(directory, "pid").exists() or not list(Path(directory, "pid").iterdir())
