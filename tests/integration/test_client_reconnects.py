"""Clients whose connections are cut, frozen and refused, by a proxy before a real controller."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from ipkernel import Client, Cluster, errors
from ipkernel.wire.furl import read_furl
from tests.integration.faults_support import PATIENCE, noted, runs_of, wait_for
from tests.support.faultproxy import (
    DOWN,
    UP,
    Cut,
    Fault,
    FaultProxy,
    Freeze,
    Refuse,
    Silence,
    Slow,
    furl_through,
)

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(
        n=2,
        cluster_dir=str(tmp_path_factory.mktemp("reconnects") / "cluster_r"),
        controller_args=["--tls-only"],  # so that channels go through the proxy
    )
    made.start_cluster_sync()
    yield made
    made.stop_cluster_sync()


@pytest.fixture
def proxy(cluster):
    hint = read_furl(cluster.directory.furl_file("client")).hints[0]
    with FaultProxy(int(hint.rpartition(":")[2]), life=4 * PATIENCE) as proxy:
        yield proxy


@pytest.fixture
def rc(cluster, proxy, tmp_path):
    file = furl_through(
        proxy,
        cluster.directory.furl_file("client"),
        tmp_path / "security" / "ipcontroller-client.furl",
    )
    with Client(str(file)) as client:
        client.wait_for_engines(2, timeout=PATIENCE, interactive=False)
        yield client
        proxy.clear()  # so that it can say goodbye


def test_every_task_runs_once_while_connections_are_cut(rc, proxy, tmp_path):
    file = tmp_path / "runs"
    view = rc.load_balanced_view()
    results = []
    for round_number in range(4):
        results += [view.apply_async(noted, 50 * round_number + i, str(file)) for i in range(50)]
        before = proxy.connections
        proxy.cut()
        wait_for(lambda before=before: proxy.connections > before)
    assert [r.get(PATIENCE) for r in results] == list(range(200))
    assert runs_of(file) == Counter(range(200))
    assert rc.connected
    assert all(r.metadata.received >= r.metadata.submitted for r in results)


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_connections_that_are_cut_again_and_again_while_they_are_made(
    rc, proxy, tmp_path, direction
):
    """A door and a channel each time: in the handshake, in the look-up, in the grant, behind it."""
    file = tmp_path / "runs"
    places = [0, 100, 700, 1500, 2500, 4000, 5000, 6000]
    proxy.plan(*[Cut(after, direction) for after in places])
    results = [rc.load_balanced_view().apply_async(noted, i, str(file)) for i in range(20)]
    proxy.cut()
    assert [r.get(PATIENCE) for r in results] == list(range(20))
    assert runs_of(file) == Counter(range(20))


def test_a_connection_that_only_the_controller_believes_in(rc, proxy, tmp_path):
    file = tmp_path / "runs"
    results = [rc[i % 2].apply_async(noted, i, str(file)) for i in range(20)]
    clients = rc.status().clients
    for _ in range(2):
        proxy.desert()
        assert rc.load_balanced_view().apply_sync(abs, -1) == 1
    assert [r.get(PATIENCE) for r in results] == list(range(20))
    assert runs_of(file) == Counter(range(20))
    assert rc.status().clients == clients


def test_what_is_asked_and_submitted_meanwhile_waits(rc, proxy):
    proxy.plan(always=Refuse())
    proxy.cut()
    wait_for(lambda: not rc.connected)
    assert "not connected" in repr(rc)
    result = rc.load_balanced_view().apply_async(abs, -3)
    with pytest.raises(TimeoutError, match=r"the controller is lost since \d+ s .*; trying again"):
        result.get(0.01)
    with pytest.raises(TimeoutError, match="'status' within 0.05 s: the controller is lost since"):
        rc._call("status", timeout=0.05)
    asked = []
    thread = threading.Thread(target=lambda: asked.append(rc._call("status", timeout=PATIENCE)))
    thread.start()
    proxy.clear()
    thread.join(PATIENCE)
    assert len(asked) == 1
    assert result.get(PATIENCE) == 3
    assert rc.connected
    assert rc.get_result(result.msg_ids[0]).get(PATIENCE) == 3


def test_ctrl_c_ends_a_wait_for_a_lost_controller(rc, proxy):
    proxy.plan(always=Refuse())
    proxy.cut()
    wait_for(lambda: not rc.connected)
    result = rc.load_balanced_view().apply_async(abs, -3)
    main = threading.main_thread().ident
    for wait in (lambda: result.get(PATIENCE), rc.status):
        timer = threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            wait()
        timer.join()
    proxy.clear()
    wait_for(lambda: rc.connected)
    assert not result.cancelled()


def test_a_controller_that_is_stopped_for_a_while(rc):
    pid = rc.status().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        result = rc.load_balanced_view().apply_async(abs, -4)
        with pytest.raises(TimeoutError):
            rc._call("status", timeout=0.1)
        assert not result.wait(0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert result.get(PATIENCE) == 4
    assert rc.status().pid == pid


def test_a_slow_network_that_is_cut(rc, proxy, tmp_path):
    file = tmp_path / "runs"
    proxy.plan(always=Slow(rate=2e6, delay=0.002, jitter=0.005))
    proxy.cut()
    data = os.urandom(50_000)
    results = [rc.load_balanced_view().apply_async(noted, i, str(file)) for i in range(30)]
    echo = rc.load_balanced_view().apply_async(bytes, data)
    proxy.cut()
    assert [r.get(PATIENCE) for r in results] == list(range(30))
    assert echo.get(PATIENCE) == data
    assert runs_of(file) == Counter(range(30))


def test_output_comes_once(rc, proxy):
    printed = rc[0].execute(
        "import time\nfor i in range(20):\n    print(i, flush=True)\n    time.sleep(0.02)",
        block=False,
    )
    for _ in range(3):
        before = proxy.connections
        proxy.cut()
        wait_for(lambda before=before: proxy.connections > before)
    printed.get(PATIENCE)
    assert printed.stdout.split() == [str(i) for i in range(20)]


def test_a_client_that_gives_up_says_so(cluster, proxy, tmp_path):
    file = furl_through(
        proxy, cluster.directory.furl_file("client"), tmp_path / "ipcontroller-client.furl"
    )
    with Client(str(file), reconnect=0) as rc:
        result = rc[0].apply_async(time.sleep, 5)
        wait_for(lambda: rc.explain(result)[0].state in ("assigned", "running"))
        proxy.plan(always=Refuse())
        proxy.cut()
        with pytest.raises(errors.ControllerLost, match="the controller is lost: connection lost"):
            result.get(PATIENCE)
        assert not rc.connected
    proxy.clear()
    with Client(str(file)) as again:
        assert again.get_result(result.msg_ids).get(PATIENCE) == [None]


def test_the_furl_file_is_read_again(cluster, proxy, tmp_path):
    original = cluster.directory.furl_file("client")
    file = tmp_path / "ipcontroller-client.furl"
    furl_through(proxy, original, file)
    with Client(str(file)) as rc:
        furl = read_furl(original)
        with FaultProxy(int(furl.hints[0].rpartition(":")[2]), life=4 * PATIENCE) as other:
            furl_through(other, original, file)
            proxy.plan(always=Refuse())
            proxy.cut()
            assert rc.load_balanced_view().apply_async(abs, -5).get(PATIENCE) == 5
            assert other.connections >= 2
            rc.close()


@pytest.mark.timeout(4 * PATIENCE)
def test_connections_on_which_nothing_comes_any_more(cluster, tmp_path):
    """Nobody is told: it is noticed by either side, with others going on beside it. All at once, as it takes a while."""
    furl = cluster.directory.furl_file("client")
    port = int(read_furl(furl).hints[0].rpartition(":")[2])
    faults = [(Silence, UP), (Silence, DOWN), (Freeze, UP)]
    with ExitStack() as stack:
        clients = []
        for number, (fault, direction) in enumerate(faults):
            proxy = stack.enter_context(FaultProxy(port, life=8 * PATIENCE))
            file = furl_through(proxy, furl, tmp_path / str(number) / furl.name)
            rc = stack.enter_context(Client(str(file)))
            # A door that goes dead while it is made; then a good one, with a channel that goes dead.
            proxy.plan(fault(700, direction), Fault(), fault(5000, direction))
            before = proxy.connections
            proxy.cut()
            wait_for(lambda proxy=proxy, before=before: proxy.connections >= before + 3)
            clients.append((rc, proxy.connections, proxy))
        runs = [tmp_path / f"runs-{number}" for number in range(len(clients))]
        results = [
            [rc.load_balanced_view().apply_async(noted, i, str(file)) for i in range(60)]
            for (rc, _, _), file in zip(clients, runs, strict=True)
        ]
        for each in results:
            assert [r.get(2 * PATIENCE) for r in each] == list(range(60))
        assert [runs_of(file) for file in runs] == [Counter(range(60))] * len(runs)
        for _, before, proxy in clients:
            assert proxy.connections > before  # another one was made
