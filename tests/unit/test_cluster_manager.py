"""ClusterManager: finds clusters by their directories, makes and removes them."""

from __future__ import annotations

import json

import pytest

import ipkernel
from ipkernel.cluster import ClusterDirectory, ClusterManager
from ipkernel.cluster.making import create_cluster
from ipkernel.cluster.processes import Process
from ipkernel.errors import ClusterError, ConfigurationError, SecurityError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "ipython"


@pytest.fixture
def manager():
    return ClusterManager()


def made(*names):
    for name in names:
        create_cluster(ClusterDirectory.named(name))


def test_public_name():
    assert ipkernel.ClusterManager is ClusterManager


def test_list(manager):
    assert manager.list() == []
    made("b", "a")
    assert manager.list() == ["a", "b"]
    assert manager.clusters == {}
    assert repr(manager) == "<ClusterManager no clusters>"


def test_load_all(manager):
    made("a", "b")
    found = manager.load_clusters()
    assert found is manager.clusters
    assert sorted(found) == ["a", "b"]
    assert found["a"].cluster_id == "a"
    assert not found["a"].running
    assert repr(manager) == "<ClusterManager a, b>"


def test_loaded_clusters_are_configured_by_their_files(manager):
    create_cluster(ClusterDirectory.named("a"), {"n": 3})
    assert manager.load_clusters()["a"].n == 3


def test_load_some(manager, tmp_path):
    made("a", "b", "c")
    other = ClusterDirectory(tmp_path / "other")
    create_cluster(other)
    assert sorted(manager.load_clusters(profile="a")) == ["a"]
    assert sorted(manager.load_clusters(profiles=["b"])) == ["a", "b"]
    assert sorted(manager.load_clusters(profile_dir=other.path)) == ["a", "b", "other"]
    assert manager.get_cluster("other").cluster_dir == other.path
    assert sorted(ClusterManager().load_clusters(profile_dirs=[other.path])) == ["other"]


def test_default_cluster(manager):
    assert list(manager.load_clusters(init_default_clusters=True)) == ["default"]
    assert not manager.get_cluster("default").directory.exists


def test_what_cannot_be_used_is_left_out(manager):
    made("a", "b")
    ClusterDirectory.named("a").security.chmod(0o777)
    with pytest.warns(UserWarning, match="cluster a is left out: .*accessible by others"):
        found = manager.load_clusters()
    assert list(found) == ["b"]


def test_new_cluster(manager):
    key, cluster = manager.new_cluster(cluster="big", n=4)
    assert key == "big"
    assert cluster.n == 4
    assert manager.get_cluster("big") is cluster
    assert (cluster.cluster_dir / "ipcluster.ini").exists()
    assert manager.list() == ["big"]
    with pytest.raises(ClusterError, match="already"):
        manager.new_cluster(cluster="big")
    with pytest.raises(ClusterError, match="already"):
        ClusterManager().new_cluster(cluster="big")


def test_new_cluster_with_the_older_names(manager):
    key, cluster = manager.new_cluster(profile="mpi", cluster_id="x", n=1)
    assert key == "mpi-x"
    assert manager.get_cluster("mpi:x") is cluster
    manager.remove_cluster("mpi:x")
    assert manager.list() == []


def test_new_cluster_without_a_name(manager):
    key, cluster = manager.new_cluster(n=1)
    assert manager.get_cluster(key) is cluster
    assert not cluster.directory.exists
    manager.remove_cluster(key)
    assert manager.clusters == {}


def test_wrong_argument_makes_nothing(manager):
    with pytest.raises(ConfigurationError):
        manager.new_cluster(cluster="big", n=-1)
    assert manager.list() == []


def test_get_unknown(manager):
    made("a")
    manager.load_clusters()
    with pytest.raises(KeyError, match="there is no cluster 'x'; there are: a"):
        manager.get_cluster("x")
    with pytest.raises(ConfigurationError, match="cannot name a cluster"):
        manager.get_cluster("a b")


def test_remove(manager):
    made("a", "b")
    manager.load_clusters(profile="a")
    manager.remove_cluster("a")
    manager.remove_cluster("b")  # which was not loaded
    assert manager.list() == []
    assert manager.clusters == {}
    with pytest.raises(ClusterError, match="there is no cluster 'c'"):
        manager.remove_cluster("c")


def test_cluster_that_runs_is_not_removed(manager):
    made("a")
    directory = ClusterDirectory.named("a")
    content = {**Process.this("x").to_dict(), "host": "far.invalid"}
    (directory.pid / "ipcontroller.json").write_text(json.dumps(content))
    manager.load_clusters()
    with pytest.raises(ClusterError, match="is running: .* on host far.invalid"):
        manager.remove_cluster("a")
    assert manager.list() == ["a"]
    assert list(manager.clusters) == ["a"]


def test_directory_of_somebody_else(manager):
    made("a")
    ClusterDirectory.named("a").security.chmod(0o755)
    with pytest.raises(SecurityError):
        manager.remove_cluster("a")
