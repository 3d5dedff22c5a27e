"""Networks that go down: for a moment, which costs nothing, or until a host is lost.

That is noticed within seconds, and told by name; the host's tasks run elsewhere, and it may join anew.
"""

from __future__ import annotations

import time

import pytest

from tests.integration import hosts_jobs as jobs
from tests.integration.faults_support import runs_of, wait_for
from tests.integration.hosts_support import site
from tests.support.netns import needs_namespaces

pytestmark = pytest.mark.timeout(120)
#: Seconds that noticing may take, on a slow machine.
SOON = 40.0


@needs_namespaces
def test_a_host_whose_network_goes_down(tmp_path):
    with site(tmp_path, ["h1", "h2"]) as it:
        client = it.client(engines=2)
        where = client.do(jobs.hosts)
        client.start(jobs.lost_and_run_again, where["h1"], "h1", str(tmp_path / "begun"))
        wait_for((tmp_path / "begun").exists)
        it.net.unplug("h1")
        began = time.monotonic()
        repeated, why = client.answer()
        assert time.monotonic() - began < SOON
        assert repeated == ["h2", "h2"]
        assert f"engine {where['h1']} on h1 was lost" in why and "its host is gone" in why, why
        assert "nothing was heard of it" in why, why
        it.net.plug("h1")
        client.do(jobs.await_engines, 2)
        assert sorted(client.do(jobs.hosts)) == ["h1", "h2"]
        file = tmp_path / "runs"
        assert client.do(jobs.note_all, 0, 20, str(file)) == list(range(20))
        assert runs_of(file) == dict.fromkeys(range(20), 1)
        client.leave()


@needs_namespaces
def test_networks_that_are_down_for_a_moment(tmp_path):
    """Of a host, of the client, of the controller: every task is run once, by the same engines."""
    file = tmp_path / "runs"
    with site(tmp_path, ["h1", "h2"]) as it:
        client = it.client(engines=2)
        pids = client.do(jobs.pids)
        for number, machine in enumerate(("h1", "client", "ctl")):
            client.start(jobs.note_all, 200 * number, 200, str(file))
            wait_for(lambda least=200 * number: file.exists() and len(runs_of(file)) > least)
            it.net.unplug(machine)
            time.sleep(1.0)
            it.net.plug(machine)
            assert client.answer() == list(range(200 * number, 200 * number + 200))
        assert runs_of(file) == dict.fromkeys(range(600), 1)
        assert client.do(jobs.pids) == pids
        client.leave()
