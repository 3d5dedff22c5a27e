"""Large values between machines that fail: links, daemons, engines, clients, and room for objects."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.integration import hosts_jobs as jobs
from tests.integration.faults_support import wait_for
from tests.integration.hosts_support import received_by, sent_by, site
from tests.support.netns import needs_namespaces

MB = 1_000_000
SIZE = 300 * MB
#: Seconds of a fault that passes.
BRIEFLY = 1.5

pytest.importorskip("numpy")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two hosts with an engine each, with room for one object."""
    options = ["--store-memory", "400MB", "--spill-limit", "0"]
    with site(tmp_path_factory.mktemp("two"), ["h1", "h2"], *options) as it:
        it.client(engines=2).leave()
        yield it


@pytest.fixture
def client(two):
    """A client for one test of hosts that recover."""
    client = two.client(engines=2)
    yield client
    client.leave()


@pytest.fixture
def own(tmp_path):
    """Two hosts for one test, which may break them, and a client."""
    with site(tmp_path, ["h1", "h2"], "--store-memory", "1GB") as it:
        yield it, it.client(engines=2)


def engines_of(client):
    """The engine on host h1 and the one on h2."""
    where = client.do(jobs.hosts)
    return where["h1"], where["h2"]


# ---------------------------------------------------------------- links


@needs_namespaces
def test_a_link_that_was_down_for_a_while(two, client):
    h1, _ = engines_of(client)
    client.do(jobs.result_of, h1, SIZE)
    before = received_by(client)
    client.start(jobs.get)
    wait_for(lambda: received_by(client) - before > SIZE // 10)
    two.net.unplug("h1")
    time.sleep(BRIEFLY)
    two.net.plug("h1")
    assert client.answer() == jobs.digest(jobs.fill(SIZE, 3))


@needs_namespaces
def test_a_link_that_stays_down(own):
    it, client = own
    h1, h2 = engines_of(client)
    other = it.client(engines=2)
    for each in (client, other):
        each.do(jobs.result_of, h1, SIZE)
    receivers = [client, it.daemons["h2"]]
    before = [received_by(receiver) for receiver in receivers]
    client.start(jobs.get)
    other.start(jobs.use, h2)
    wait_for(
        lambda: any(received_by(r) - b > SIZE // 10 for r, b in zip(receivers, before, strict=True))
    )
    it.net.unplug("h1")
    for each in (client, other):
        refusal = each.refusal()
        assert refusal.kind == "ObjectLost", refusal
        assert "h1" in refusal.text
        assert each.do(jobs.work, h2) == 1


# ---------------------------------------------------------------- daemons


@needs_namespaces
def test_a_holder_that_is_killed(own):
    it, client = own
    h1, h2 = engines_of(client)
    client.do(jobs.result_of, h1, 20 * MB)
    it.daemons["h1"].process.kill()
    for job in ([jobs.get], [jobs.use, h2]):
        client.start(*job)
        refusal = client.refusal()
        assert refusal.kind == "ObjectLost", refusal
        assert "h1" in refusal.text
    assert client.do(jobs.work, h2) == 1


@needs_namespaces
def test_a_receiver_that_is_frozen_for_a_while(two, client):
    h1, _ = engines_of(client)
    digest = client.do(jobs.make, SIZE)
    before = sent_by(client)
    client.start(jobs.push, h1)
    wait_for(lambda: sent_by(client) - before > SIZE // 10)
    two.daemons["h1"].process.send_signal(signal.SIGSTOP)
    time.sleep(BRIEFLY)
    two.daemons["h1"].process.send_signal(signal.SIGCONT)
    client.answer()
    assert client.do(jobs.digests, [h1]) == [digest]
    client.do(jobs.forget_on, h1)


@needs_namespaces
def test_a_receiver_that_is_frozen_and_killed(own):
    it, client = own
    h1, h2 = engines_of(client)
    client.do(jobs.make, SIZE)
    before = sent_by(client)
    client.start(jobs.push, h1)
    wait_for(lambda: sent_by(client) - before > SIZE // 10)
    it.daemons["h1"].process.send_signal(signal.SIGSTOP)
    time.sleep(BRIEFLY)
    it.daemons["h1"].process.kill()
    refusal = client.refusal()
    assert "h1" in refusal.text, refusal
    assert client.do(jobs.work, h2) == 1
    client.do(jobs.push, h2)


# ---------------------------------------------------------------- room


@needs_namespaces
def test_an_object_larger_than_the_store(two, client):
    h1, _ = engines_of(client)
    client.do(jobs.make, 500 * MB)
    for job in ([jobs.put, h1, 500 * MB], [jobs.push, h1]):
        client.start(*job)
        refusal = client.refusal()
        assert refusal.kind == "StoreFull", refusal
        assert "476.8 MiB does not fit into this host's store of 381.5 MiB" in refusal.text
    assert client.do(jobs.work) == 1


@needs_namespaces
def test_a_disk_that_is_full(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    options = ["--store-memory", "60MB", "--spill-limit", "1GB", "--spill-dir", small]
    # A program on a machine has mounts of its own, which go with it.
    with site(tmp_path, ["h1"], *options, before=f"mount -t tmpfs -o size=16m x {small}") as it:
        client = it.client()
        client.do(jobs.put, 0, 40 * MB, "first")
        client.start(jobs.put, 0, 40 * MB, "second")
        refusal = client.refusal()
        assert refusal.kind == "StoreFull", refusal
        assert "No space left" in refusal.text
        client.do(jobs.drop, "first")
        client.do(jobs.put_when_possible, 0, 40 * MB, 20)
        client.leave()


# ---------------------------------------------------------------- clients and engines


@needs_namespaces
def test_an_object_that_does_not_exist(two, client):
    for job in (jobs.fetch_unknown, jobs.use_unknown):
        client.start(job)
        refusal = client.refusal()
        assert refusal.kind in ("ObjectError", "ObjectLost", "UnknownObject"), refusal
    assert client.do(jobs.work) == 1


@needs_namespaces
def test_a_client_that_is_killed_leaves_nothing(two, client):
    h1, _ = engines_of(client)
    other = two.client(engines=2)
    other.do(jobs.make, SIZE)
    before = sent_by(other)
    other.start(jobs.push, h1)
    wait_for(lambda: sent_by(other) - before > SIZE // 10)
    other.process.kill()
    assert other.end()[0] == -signal.SIGKILL
    client.do(jobs.put_when_possible, h1, SIZE, 20)


@needs_namespaces
def test_an_engine_that_is_killed_leaves_nothing(two, client):
    h1, _ = engines_of(client)
    pid = client.do(jobs.seize, h1, SIZE)
    client.start(jobs.put_when_possible, h1, SIZE, 0)
    assert client.refusal().kind == "StoreFull", "the engine holds the object"
    os.kill(pid, signal.SIGKILL)
    client.do(jobs.put_when_possible, h1, SIZE, 20)
    client.do(jobs.await_engines, 2)
