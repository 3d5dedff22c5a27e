"""A host whose network goes down: noticed within seconds, by name; its tasks run elsewhere."""

from __future__ import annotations

import time

import pytest

from tests.integration import hosts_jobs as jobs
from tests.integration.faults_support import wait_for
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
        client.leave()
