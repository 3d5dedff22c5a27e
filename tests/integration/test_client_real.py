"""The client with a real controller, a real host daemon and real engines."""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("client") / "cluster_real"
    cluster = Cluster(n=2, cluster_dir=str(directory))
    cluster.start_cluster_sync()
    first = Client(cluster_dir=directory)  # starts the reactor's thread, once for all tests
    first.wait_for_engines(2, timeout=30, interactive=False)
    try:
        yield cluster
    finally:
        first.close()
        cluster.stop_cluster_sync()


@pytest.fixture
def rc(cluster):
    with Client(cluster_dir=str(cluster.directory)) as client:
        client.wait_for_engines(2, timeout=30, interactive=False)
        yield client


@pytest.fixture
def own(tmp_path):
    """A cluster of one engine for one test, which may break it."""
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_own"))
    cluster.start_cluster_sync()
    try:
        with Client(cluster_dir=str(cluster.directory)) as client:
            client.wait_for_engines(1, timeout=30, interactive=False)
            yield client, cluster
    finally:
        cluster.stop_cluster_sync()


def nap(seconds, started=None):
    import pathlib
    import time as clock

    if started:
        pathlib.Path(started).touch()

    clock.sleep(seconds)
    return seconds


def fail(x):
    raise ValueError(x)


# ---------------------------------------------------------------- work


def test_direct_and_balanced(rc):
    assert len(rc) == 2
    pids = rc[:].apply_sync(os.getpid)
    assert len(set(pids)) == 2 and os.getpid() not in pids
    assert rc.load_balanced_view().apply_sync(os.getpid) in pids
    assert rc[-1].apply_sync(os.getpid) == pids[-1]


def test_namespace(rc):
    view = rc[:]
    view["a"] = 3
    assert view["a"] == [3, 3]
    view.execute("b = a + 1", block=True)
    assert view.pull(["a", "b"], block=True) == [[3, 4], [3, 4]]
    view.push({"f": lambda x: x + 1}, block=True)
    assert rc[0]["f(a)"] == 4
    assert {"a", "b", "f"} <= set(rc[0].keys())
    with view.sync_imports(quiet=True):
        import string as letters
    assert rc[1]["letters.digits"] == letters.digits
    rc.clear(block=True)
    assert rc[0].keys() == []


def test_scatter_and_gather(rc):
    numpy = pytest.importorskip("numpy")
    data = numpy.arange(100_001.0)
    view = rc[:]
    for dist in "br":
        view.scatter("x", data, dist=dist, block=True)
        assert (view.gather("x", dist=dist, block=True) == data).all()


def test_maps(rc):
    for view in (rc[:], rc.load_balanced_view()):
        assert view.map_sync(operator.neg, range(1001)) == [-i for i in range(1001)]
    balanced = rc.load_balanced_view()
    assert sorted(balanced.imap(operator.neg, range(100), ordered=False)) == list(range(-99, 1))
    found = balanced.map_sync(fail, range(2), return_exceptions=True)
    assert [str(e.original) for e in found] == ["0", "1"]
    assert sum(balanced.map_sync(operator.neg, (i for i in range(500)))) == -124750


def test_burst(rc):
    view = rc.load_balanced_view()
    results = [view.apply_async(operator.neg, i) for i in range(3000)]
    assert [r.get(60) for r in results] == [-i for i in range(3000)]


def test_errors_are_of_their_types(rc):
    with pytest.raises(ValueError, match="wrong") as caught:
        rc[1].apply_sync(fail, "wrong")
    assert caught.value.engine_info["engine"] == 1
    with pytest.raises(errors.CompositeError) as composite:
        rc[:].apply_sync(fail, "wrong")
    assert len(composite.value.elist) == 2
    with pytest.raises(ZeroDivisionError):
        rc[0].execute("1/0", block=True)


def test_output(rc, capsys):
    result = rc[:].execute("print('hello'); 6 * 7", silent=False, block=True)
    out = capsys.readouterr().out
    assert sorted(out.splitlines())[2:] == ["[stdout:0] hello", "[stdout:1] hello"]
    assert out.count(": 42") == 2
    assert result.stdout == ["hello\n", "hello\n"]
    printed = rc[0].apply_async(print, "from apply")
    printed.get()
    assert printed.stdout == "from apply\n"
    assert capsys.readouterr().out == ""


def test_await_and_callbacks(rc):
    view = rc.load_balanced_view()

    async def main():
        return await asyncio.gather(*(view.apply_async(operator.neg, i) for i in range(20)))

    assert asyncio.run(main()) == [-i for i in range(20)]


def test_twisted_program(cluster, rc):
    from tests.support.reactor import run_in_reactor

    async def main():
        client = await Client.connect(cluster_dir=str(cluster.directory))
        view = client.load_balanced_view()
        try:
            with pytest.raises(RuntimeError, match="would block the reactor"):
                view.apply_async(nap, 5).get()
            with pytest.raises(ValueError, match="wrong"):
                await view.apply_async(fail, "wrong")
            return await view.apply_async(operator.neg, 1).as_deferred()
        finally:
            client.close()

    assert run_in_reactor(main) == -1


def test_threads_share_a_client(rc):
    view = rc.load_balanced_view()
    found = {}

    def work(number):
        results = [view.apply_async(operator.add, number, i) for i in range(200)]
        found[number] = [r.get(60) for r in results]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: [n + i for i in range(200)] for n in range(5)}


def test_large_values_both_ways(rc):
    numpy = pytest.importorskip("numpy")
    data = numpy.random.default_rng(1).random(2_000_000)
    assert (rc[0].apply_sync(operator.neg, data) == -data).all()
    result = rc[:].push({"big": data})
    assert result.wait_for_send(60)
    result.get(60)


# ---------------------------------------------------------------- control


def test_abort_reaches_what_has_not_started(rc):
    running = rc[0].apply_async(nap, 0.5)
    waiting = [rc[0].apply_async(nap, 30) for _ in range(3)]
    rc.abort(waiting, block=True)
    for result in waiting:
        with pytest.raises(errors.TaskAborted):
            result.get(10)
    assert running.get(30) == 0.5


def test_interrupting_an_engine(rc, tmp_path):
    started = tmp_path / "started"
    result = rc[0].apply_async(nap, 30, str(started))
    deadline = time.monotonic() + 20
    while not started.exists():
        assert time.monotonic() < deadline
    rc.send_signal("SIGINT", targets=0)
    with pytest.raises(errors.RemoteError, match="KeyboardInterrupt"):
        result.get(20)
    assert rc[0].apply_sync(int) == 0


def test_results_of_another_client(cluster, rc):
    with Client(cluster_dir=str(cluster.directory)) as other:
        task = other.load_balanced_view().apply_async(nap, 0.3).msg_ids[0]
    assert rc.get_result(task).get(20) == 0.3


def test_status_and_explain(rc):
    status = rc.status()
    assert status.clients >= 1
    assert [info.state for info in rc.engine_infos().values()] == ["ready", "ready"]
    result = rc[0].apply_async(nap, 0.2)
    (story,) = rc.explain(result)
    assert story.task == result.msg_ids[0] and story.state
    result.get()
    queue = rc.queue_status()
    assert set(queue) == {0, 1, "unassigned"}


def test_killed_engine_is_told_and_comes_back(own, tmp_path):
    rc, _ = own
    pid = rc[0].apply_sync(os.getpid)
    started = tmp_path / "started"
    result = rc[0].apply_async(nap, 30, str(started))
    deadline = time.monotonic() + 20
    while not started.exists():  # what has not begun is not lost with its engine: it is run again
        assert time.monotonic() < deadline
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.EngineLost) as caught:
        result.get(20)
    assert caught.value.signal == signal.SIGKILL and caught.value.pid == pid
    assert rc[0].apply_async(os.getpid).get(30) != pid
    rc.wait_for_engines(1, timeout=30, interactive=False)


def test_missing_engine(rc):
    with pytest.raises(IndexError):
        rc[99]


# ---------------------------------------------------------------- lifetime


def test_what_was_submitted_is_sent_before_the_end(cluster, rc, tmp_path):
    own = Client(cluster_dir=str(cluster.directory))
    view = own.load_balanced_view()
    mark = tmp_path / "last"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # the reactor's thread gets to send nothing meanwhile
    try:
        for _ in range(5000):
            view.apply_async(int)
        last = view.apply_async(os.mkdir, mark).msg_ids[0]
    finally:
        sys.setswitchinterval(interval)
    own.close()
    assert rc.get_result(last).get(timeout=30) is None
    assert mark.is_dir()


def test_closed_client_says_so(cluster):
    rc = Client(cluster_dir=str(cluster.directory))
    view = rc.load_balanced_view()
    pending = view.apply_async(nap, 0.5)
    rc.close()
    rc.close()
    for call in (pending.get, lambda: view.apply_sync(int), rc.status):
        with pytest.raises(errors.ControllerLost, match="closed"):
            call()
    assert repr(rc) == "<Client: closed>"


def test_dropped_client_closes_itself(cluster, rc):
    before = rc.status().clients
    other = Client(cluster_dir=str(cluster.directory))
    assert rc.status().clients == before + 1
    del other
    gc.collect()
    deadline = time.monotonic() + 20
    while rc.status().clients > before:
        assert time.monotonic() < deadline


def test_switch_interval_is_restored(cluster):
    program = textwrap.dedent(
        """
        import sys
        from ipkernel import Client
        before = sys.getswitchinterval()
        first, second = (Client(cluster_dir=sys.argv[1]) for _ in range(2))
        assert sys.getswitchinterval() < before
        first.close()
        assert sys.getswitchinterval() < before
        second.close()
        assert sys.getswitchinterval() == before
        """
    )
    subprocess.run([sys.executable, "-c", program, str(cluster.directory)], check=True, timeout=60)


def test_interrupted_script_goes_on(cluster):
    program = textwrap.dedent(
        """
        import sys, time
        from ipkernel import Client
        rc = Client(cluster_dir=sys.argv[1])
        rc.wait_for_engines(2, timeout=30, interactive=False)
        view = rc.load_balanced_view()
        result = view.apply_async(time.sleep, 1)
        print("waiting", flush=True)
        try:
            result.get()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(result.get(30), view.apply_sync(abs, -5), flush=True)
        """
    )
    script = subprocess.Popen(
        [sys.executable, "-c", program, str(cluster.directory)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert script.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        script.send_signal(signal.SIGINT)
        out, _ = script.communicate(timeout=60)
    finally:
        script.kill()
        script.wait()
    assert out == "interrupted\nNone 5\n"
    assert script.returncode == 0


def test_script_ends_without_closing(cluster):
    program = (
        "import sys; from ipkernel import Client; rc = Client(cluster_dir=sys.argv[1]); "
        "ar = rc.load_balanced_view().apply_async(abs, -1); print(ar.get(60))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cluster.directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


@pytest.fixture
def mortal(tmp_path):
    """A cluster of one engine whose controller is not started again."""
    options = {"restart": False}
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_mortal"), controller_options=options)
    cluster.start_cluster_sync()
    try:
        yield cluster
    finally:
        cluster.stop_cluster_sync()


def test_lost_controller_is_told_with_its_reason(mortal):
    with Client(cluster_dir=str(mortal.directory), reconnect=1.0) as rc:
        pending = rc[0].apply_async(nap, 30)
        os.kill(rc.status().pid, signal.SIGKILL)
        why = "the controller is lost: .*; in 1 s it could not be reached again: nobody listens at"
        with pytest.raises(errors.ControllerLost, match=why):
            pending.get(60)
        for call in (lambda: rc.load_balanced_view().apply_async(int), rc.status):
            with pytest.raises(errors.ControllerLost, match=why):
                call()
        assert not rc.connected
    with pytest.raises(errors.ConnectError):
        Client(cluster_dir=str(mortal.directory), timeout=5)
