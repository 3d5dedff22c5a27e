"""Large values between machines, each with a network of its own: what goes where, and what it costs."""

from __future__ import annotations

import pytest

from tests.integration import hosts_jobs as jobs
from tests.integration.hosts_support import (
    link_bytes,
    peak,
    received_by,
    sent_by,
    site,
    sizes_that_fit,
)
from tests.support.netns import needs_namespaces

pytest.importorskip("numpy")

MB = 1_000_000
#: Bytes on a link that are no object: calls, heartbeats, acknowledgements.
LITTLE = 2 * MB


@needs_namespaces
@pytest.mark.timeout(300)
@pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])
def test_an_array_to_another_machine_and_back(tmp_path, relayed):
    size = sizes_that_fit(1000 * MB if relayed else 3000 * MB, 4) // 8 * 8
    with site(tmp_path, ["h1"], "--store-memory", "60%", relayed=relayed) as it:
        client = it.client()
        client.do(jobs.work)
        digest = client.do(jobs.make, size)
        before = peak(client), peak(it.controller)
        client.do(jobs.push)
        client.do(jobs.drop, "array")
        assert client.do(jobs.pull) == digest
        assert peak(it.controller) - before[1] < 20 * MB, "the controller keeps no bytes"
        assert peak(client) - before[0] < 64 * MB, "a client needs memory for the object only"
        controller = sum(link_bytes(it.controller))
        assert (controller > 4 * size) if relayed else (controller < LITTLE)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four hosts with an engine each."""
    names = ["h1", "h2", "h3", "h4"]
    with site(tmp_path_factory.mktemp("four"), names, "--store-memory", "4GB") as it:
        it.client(engines=4).leave()
        yield it


@pytest.fixture
def client(four):
    """A client for one test."""
    client = four.client(engines=4)
    yield client
    client.leave()


@needs_namespaces
def test_what_all_need_is_sent_on_by_those_that_have_it(four, client):
    size = 200 * MB
    digest = client.do(jobs.make, size)
    before = sent_by(client)
    client.do(jobs.push, client.do(jobs.engines))
    sent = sent_by(client) - before
    assert size < sent < 2.2 * size, "it sends it once, or twice where the first is slow"
    assert client.do(jobs.digests) == [digest] * 4
    assert sum(link_bytes(four.controller)) < LITTLE * 4
    client.do(jobs.forget)


@needs_namespaces
def test_a_result_goes_from_host_to_host(four, client):
    first, second, *others = client.do(jobs.engines)
    size = 100 * MB
    before = link_bytes(client)
    client.do(jobs.result_of, first, size)
    assert len({client.do(jobs.use, engine) for engine in (first, second)}) == 1
    assert sum(link_bytes(client)) - sum(before) < LITTLE
    client.do(jobs.get)
    assert received_by(client) - before[0] > size


@needs_namespaces
def test_tasks_go_where_their_objects_are(four, client):
    *_, last = client.do(jobs.engines)
    client.do(jobs.result_of, last, 20 * MB)
    assert {where for _, where in client.do(jobs.use_anywhere, 5)} == {last}


@needs_namespaces
@pytest.mark.timeout(300)
def test_small_calls_go_on_while_much_is_moved(four, client):
    first, *_ = client.do(jobs.engines)
    other = four.client(engines=4)
    client.do(jobs.make, sizes_that_fit(2000 * MB, 4) // 8 * 8)
    other.do(jobs.begin_counting)
    before = other.do(jobs.count)
    client.do(jobs.push, first)
    assert other.do(jobs.count) > before + 20
    other.do(jobs.end_counting)
    client.do(jobs.forget_on, first)
    other.leave()
