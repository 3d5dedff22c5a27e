"""A disk that is full: logs stop, work goes on; what cannot be begun says why."""

from __future__ import annotations

import os

import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import ClusterError, LauncherError
from tests.integration.disk_support import ROOT_ONLY, fill, small_disk
from tests.integration.faults_support import PATIENCE, command, run, wait_for

pytestmark = ROOT_ONLY


def chatter():
    print("x" * 100_000)
    return "done"


def test_logs_on_a_full_disk(tmp_path):
    """The disk becomes full while the cluster works: nobody but the logs suffers."""
    cluster = Cluster(2, cluster_dir=tmp_path / "cluster_full", log_level="DEBUG")
    cluster.directory.create()
    with small_disk(cluster.directory.log) as disk:
        try:
            with cluster.start_and_connect_sync() as rc:
                assert rc[:].apply_async(chatter).get(PATIENCE) == ["done"] * 2
                fill(disk)
                for _ in range(20):
                    result = rc[:].apply_async(chatter)
                    assert result.get(PATIENCE) == ["done"] * 2
                    assert [len(text) for text in result.stdout] == [100_001] * 2
                # engines come and go, as always
                result = rc[0].apply_async(os._exit, 3)
                with pytest.raises(ipkernel.EngineLost, match="exited with code 3"):
                    result.get(PATIENCE)
                rc.wait_for_engines(2, timeout=PATIENCE)
                values = rc.load_balanced_view().map_async(abs, range(50)).get(PATIENCE)
                assert values == list(range(50))
                with cluster.connect_client_sync() as other:
                    assert other[:].apply_async(abs, -1).get(PATIENCE) == [1, 1]
                # and when there is room again, it may be used again
                (disk / "filler").unlink()
                assert rc[:].apply_async(chatter).get(PATIENCE) == ["done"] * 2
        finally:
            cluster.stop_cluster_sync()
    assert cluster.problem() == ""


def test_a_cluster_directory_on_a_full_disk(tmp_path):
    """Without room for its files a cluster does not start, and the error says so."""
    with small_disk(tmp_path / "disk") as disk:
        cluster = Cluster(1, cluster_dir=disk / "cluster_full", engine_timeout=PATIENCE)
        cluster.directory.create()
        fill(disk)
        with pytest.raises((LauncherError, ClusterError), match="No space left on device"):
            cluster.start_cluster_sync()
        cluster.stop_cluster_sync()
        wait_for(lambda: cluster.directory.processes() == [])
        code, _, err = run(*command("ipcontroller", "--cluster-dir", disk / "cluster_other"))
        assert code == 1
        assert err.startswith("ipcontroller: ")
        assert "No space left on device" in err
        assert err.count("\n") == 1
        # With room it starts at once.
        (disk / "filler").unlink()
        with cluster.start_and_connect_sync() as rc:
            assert rc[0].apply_async(abs, -1).get(PATIENCE) == 1
        cluster.stop_cluster_sync()
