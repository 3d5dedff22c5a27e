"""Host daemons whose connections are cut, frozen and slow, by a proxy before a real controller."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter

import pytest

from ipkernel import Client
from tests.integration.faults_support import (
    PATIENCE,
    Controller,
    Program,
    command,
    noted,
    runs_of,
    wait_for,
)
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

#: Tasks of each test.
MANY = 80

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here"),
]


class Site:
    """A controller, a host daemon behind a proxy, and a client that needs no proxy."""

    def __init__(self, controller, proxy, daemon, rc):
        self.controller = controller
        self.proxy = proxy
        self.daemon = daemon
        self.rc = rc
        self.pids = self.engines()

    def engines(self):
        return self.rc[:].apply_async(os.getpid).get(PATIENCE)

    def reconnected(self, before):
        """Wait until there is a new connection, and behind it the host."""
        wait_for(lambda: self.proxy.connections > before)

    def cut(self):
        before = self.proxy.connections
        self.proxy.cut()
        self.reconnected(before)


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    """A controller that waits for hosts for as long as a test takes."""
    where = tmp_path_factory.mktemp("cuts") / "cluster_cuts"
    with Controller(where, "--tls-only", "--host-grace", str(PATIENCE)) as controller:
        yield controller
        controller.stop()


@pytest.fixture
def site(controller, tmp_path):
    file = tmp_path / "there" / "ipcontroller-engine.furl"
    with FaultProxy(controller.port, life=2 * PATIENCE) as proxy:
        furl_through(proxy, controller.furl_file("engine"), file)
        words = command("ipengine", "--furl-file", file, "-n", 2, "--wait", PATIENCE)
        with (
            Program(*words) as daemon,
            Client(str(controller.furl_file("client"))) as rc,
        ):
            rc.wait_for_engines(2, timeout=PATIENCE, interactive=False)
            yield Site(controller, proxy, daemon, rc)
            daemon.process.terminate()
            assert daemon.end()[0] == 0
            wait_for(lambda: not rc.status().hosts)


@pytest.fixture
def work(site, tmp_path):
    """Make tasks, and see at the end that each of them was run once, by the engines of before."""
    file = tmp_path / "runs"
    results = []

    def go(count=MANY):
        view = site.rc.load_balanced_view()
        first = len(results)
        results.extend(
            view.apply_async(noted, number, str(file), 0.002)
            for number in range(first, first + count)
        )
        return results[first:]

    yield go
    site.proxy.clear()
    site.proxy.cut()  # of a kind that would stay as bad as it is
    assert [result.get(PATIENCE) for result in results] == list(range(len(results)))
    assert runs_of(file) == Counter(range(len(results)))
    assert site.engines() == site.pids
    assert len(site.rc.status().hosts) == 1


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_cut_anywhere(site, work, direction):
    """In the handshake, in the grant, behind it, and in the midst of tasks and results."""
    chance = random.Random(direction)
    places = [chance.randrange(12_000) for _ in range(12)]
    site.proxy.plan(*[Cut(after, direction) for after in places])
    for _ in range(4):
        work(MANY // 4)
        site.cut()


def test_a_connection_that_only_the_controller_believes_in(site, work):
    for _ in range(3):
        work(MANY // 3)
        before = site.proxy.connections
        site.proxy.desert()
        site.reconnected(before)


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_silence_in_one_direction(site, work, direction):
    """What is said is lost without a word, until the connection is."""
    site.proxy.plan(Silence(), Silence(4000, direction), Silence(6000, direction))
    work()
    for _ in range(3):
        site.cut()
        work(MANY // 8)


@pytest.mark.timeout(4 * PATIENCE)
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_silence_of_the_channel_alone_is_noticed(site, work, direction):
    """The door beside it answers as ever."""
    before = site.proxy.connections
    site.proxy.plan(Fault(), Silence(5000, direction))
    site.proxy.cut()
    wait_for(lambda: site.proxy.connections == before + 2)
    assert [result.get(2 * PATIENCE) for result in work(2 * MANY)] == list(range(2 * MANY))
    assert site.proxy.connections > before + 2


def test_a_connection_that_stands_still(site, work):
    site.proxy.plan(Freeze(300, UP), Freeze(5000, DOWN), Freeze(5000, UP))
    work()
    for _ in range(3):
        site.cut()
        work(MANY // 8)


def test_a_slow_network_that_is_cut(site, work):
    site.proxy.plan(always=Slow(rate=1e6, delay=0.002, jitter=0.005))
    for _ in range(2):
        site.cut()
        work(MANY // 2)
    data = os.urandom(50_000)
    echo = site.rc[0].apply_async(bytes, data)
    site.cut()
    assert echo.get(PATIENCE) == data


def test_large_arguments_and_output_while_it_is_cut(site, work):
    """Objects go beside the connection that is cut; output goes over it, once and in order."""
    data = os.urandom(1_000_000)
    echo = [site.rc[number % 2].apply_async(bytes, data) for number in range(6)]
    printed = site.rc[0].execute(
        "import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.01)",
        block=False,
    )
    for _ in range(3):
        work(MANY // 8)
        site.cut()
    assert [one.get(PATIENCE) == data for one in echo] == [True] * 6
    printed.get(PATIENCE)
    assert printed.stdout.split() == [str(i) for i in range(40)]


def test_it_is_refused_for_a_while(site, work):
    work(MANY // 2)
    site.proxy.plan(always=Refuse())
    site.proxy.cut()
    wait_for(lambda: not all(host.connected for host in site.rc.status().hosts))
    late = work(MANY // 2)
    assert len(site.rc.ids) == 2
    site.proxy.clear()
    assert late[-1].get(PATIENCE) == MANY - 1


@pytest.mark.parametrize("who", ["daemon", "controller"])
def test_one_side_is_stopped_for_a_while(site, work, who):
    pid = getattr(site, who).pid
    work(MANY // 2)
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(2.0, os.kill, [pid, signal.SIGCONT])
    timer.start()
    try:
        work(MANY // 2)[-1].get(PATIENCE)
    finally:
        timer.join()
