"""Large values between host daemons, each with a store of its own."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys

import pytest

from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.client.stores import Stores
from ipkernel.cluster.cluster import Cluster

numpy = pytest.importorskip("numpy")

COUNT = 300_000


def total(x):
    return float(x.sum())


def fill(value):
    return numpy.full(COUNT, float(value))


@pytest.fixture(autouse=True)
def collected():
    """Have nothing mapped any more at the end of a test: exceptions refer to what raised them."""
    yield
    gc.collect()


@pytest.fixture(params=["near", "far"])
def rc(tmp_path, request, monkeypatch):
    """A client of three hosts with an engine each, on this machine or believed to be elsewhere."""
    if request.param == "far":
        monkeypatch.setattr(Stores, "is_near", lambda self, access: False)
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_hosts"))
    cluster.start_cluster_sync()
    daemons = [join(cluster) for _ in range(2)]
    try:
        with Client(cluster_dir=str(cluster.directory)) as client:
            client.wait_for_engines(3, timeout=30, interactive=False)
            client.progress = False
            yield client
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.communicate(timeout=30)
        cluster.stop_cluster_sync()


def join(cluster):
    """Have another host daemon join, as if it were on another machine."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ipkernel.cli.ipengine"),
            *("--cluster-dir", str(cluster.directory), "--wait", "30"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def host_of(rc, engine):
    (host,) = rc._session.engines.hosts([engine])
    return host


def has(rc, engine, ref):
    """Whether the host of an engine has the object of a reference."""
    return not rc._session.objects.hosts.store(host_of(rc, engine)).wait_freed(ref.id, 0.01)


def test_one_object_for_all_hosts(rc):
    assert len({host_of(rc, engine) for engine in rc.ids}) == 3
    data = numpy.arange(float(COUNT))
    rc[:].push({"x": data}, block=True)
    assert rc[:].pull("float(x.sum())", block=True) == [data.sum()] * 3
    rc[:].scatter("part", data, block=True)
    assert (rc[:].gather("part", block=True) == data).all()
    assert rc[:].apply_sync(total, data) == [data.sum()] * 3


def test_references_travel_from_host_to_host(rc):
    ref = rc.put(fill(2), targets=rc.ids[0])
    first, *others = rc.ids
    assert has(rc, first, ref) and not any(has(rc, engine, ref) for engine in others)
    for engine in others:
        assert rc[engine].apply_sync(total, ref) == 2 * COUNT
        assert has(rc, engine, ref)
    kept = rc[others[0]].apply_ref(fill, 7).get()
    assert not has(rc, first, kept)
    assert rc[first].apply_sync(lambda a, b: float((a + b).sum()), ref, kept) == 9 * COUNT
    assert kept.get()[0] == 7
    stores = [rc._session.objects.hosts.store(host_of(rc, engine)) for engine in rc.ids]
    ref.free()
    assert all(store.wait_freed(ref.id, 20) for store in stores)


def test_work_goes_where_its_objects_are(rc):
    view = rc.load_balanced_view()
    made = [rc[engine].apply_ref(fill, engine).get() for engine in rc.ids]
    for engine, ref in zip(rc.ids, made, strict=True):
        result = view.apply_async(total, ref)
        assert result.get(30) == engine * COUNT and result.engine_id == engine


def test_copies_survive_the_host_that_made_them(rc):
    first, second, third = rc.ids
    copied = rc[first].apply_ref(fill, 4).get()
    alone = rc[first].apply_ref(fill, 5).get()
    assert rc[second].apply_sync(total, copied) == 4 * COUNT
    pids = {info.host_id: info.pid for info in rc.status().hosts}
    os.kill(pids[host_of(rc, first)], signal.SIGKILL)
    assert rc[third].apply_sync(total, copied) == 4 * COUNT
    assert copied.get()[0] == 4
    for use in (alone.get, lambda: rc[second].apply_sync(total, alone)):
        with pytest.raises(errors.ObjectLost, match=r"lost|gone"):
            use()
