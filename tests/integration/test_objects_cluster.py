"""Large values with a real cluster on this machine: into the store, between engines, and out of it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading

import pytest
from msgspec.structs import replace

from ipkernel.client.client import Client
from ipkernel.client.stores import Stores
from ipkernel.cluster.cluster import Cluster

numpy = pytest.importorskip("numpy")

COUNT = 300_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("objects") / "cluster_objects"
    cluster = Cluster(n=2, cluster_dir=str(directory))
    cluster.start_cluster_sync()
    first = Client(cluster_dir=directory)  # starts the reactor's thread, once for all tests
    first.wait_for_engines(2, timeout=30, interactive=False)
    try:
        yield cluster
    finally:
        first.close()
        cluster.stop_cluster_sync()


@pytest.fixture(params=["near", "far", "relayed"])
def rc(cluster, request, monkeypatch):
    """A client of this machine; one that believes to be on another; one that cannot dial the host."""
    if request.param != "near":
        monkeypatch.setattr(Stores, "is_near", lambda self, access: False)
    if request.param == "relayed":
        far = Stores.far
        monkeypatch.setattr(
            Stores, "far", lambda self, access: far(self, replace(access, hints=[]))
        )
    with Client(cluster_dir=str(cluster.directory)) as client:
        client.wait_for_engines(2, timeout=30, interactive=False)
        client.progress = False
        yield client


@pytest.fixture(autouse=True)
def collected():
    """Have nothing mapped any more at the end of a test: exceptions refer to what raised them."""
    yield
    gc.collect()


@pytest.fixture
def array():
    return numpy.arange(float(COUNT))


def store_of(rc):
    """The store of the only host."""
    objects = rc._session.objects
    (host,) = objects.hosts.named(rc._session.engines.hosts(rc.ids))
    return objects.hosts.store(host)


def double(x):
    x *= 2
    return x


def total(x):
    return float(x.sum())


def fill(value, count=COUNT):
    return numpy.full(count, float(value))


# ---------------------------------------------------------------- tasks


def test_the_way_to_the_store(rc, request):
    kind = "LocalStore" if "near" in request.node.name else "RemoteStore"
    assert type(store_of(rc)).__name__ == kind


def test_apply(rc, array):
    view = rc[:]
    assert view.apply_sync(total, array) == [array.sum()] * 2
    assert rc.load_balanced_view().apply_sync(total, array) == array.sum()
    for result in view.apply_sync(double, array):
        assert (result == array * 2).all()
        assert result.flags.writeable and result.flags.aligned
    assert array[1] == 1, "engines have copies of their own"
    assert (rc[0].apply_sync(double, {"k": [array]}["k"][0]) == array * 2).all()


def test_push_and_pull(rc, array):
    view = rc[:]
    view["a"] = array
    view.execute("a[0] = 7", targets=0, block=True)
    assert [a[0] for a in view["a"]] == [7, 0]
    first = rc[0]["a"]
    first[:] = 0
    assert rc[0]["a"][1] == 1, "what one gets is one's own"
    view.push({"frame": {"x": array, "y": b"z" * COUNT}}, block=True)
    assert view["len(frame['y'])"] == [COUNT] * 2


@pytest.mark.parametrize("dist", ["b", "r"])
def test_scatter_and_gather(rc, array, dist):
    view = rc[:]
    view.scatter("part", array, dist=dist, block=True)
    view.execute("part += 1", block=True)
    whole = view.gather("part", dist=dist, block=True)
    assert (whole == array + 1).all() and whole.flags.writeable


def test_maps(rc, array):
    rows = array.reshape(30, -1)
    for view in (rc[:], rc.load_balanced_view()):
        assert view.map_sync(total, rows) == [row.sum() for row in rows]
        doubled = view.map_sync(double, [row.copy() for row in rows])
        assert all((a == b * 2).all() for a, b in zip(doubled, rows, strict=True))
    assert [x[0] for x in rc.load_balanced_view().imap(fill, range(9))] == list(range(9))


def test_source_text(rc):
    text = "#" * COUNT
    assert rc[0].execute(f"x = 1 {text}", block=True).get().stdout == ""
    assert rc[0]["x"] == 1


def test_large_functions_and_closures(rc, array):
    assert rc[:].apply_sync(lambda: float(array[-1])) == [COUNT - 1.0] * 2


def test_broadcast(rc, array):
    rc.broadcast_view().push({"b": array}, block=True)
    assert rc[:]["float(b.sum())"] == [array.sum()] * 2


def test_errors_with_large_arguments(rc, array):
    with pytest.raises(ZeroDivisionError):
        rc[0].apply_sync(lambda x: len(x) / 0, array)


def test_many_at_once(rc, array):
    view = rc.load_balanced_view()
    results = [view.apply_async(double, array[i : i + 20_000].copy()) for i in range(100)]
    for i, result in enumerate(results):
        assert result.get()[0] == 2 * i


def test_several_threads(rc, array):
    found = []

    def work(number):
        found.append(rc[number % 2].apply_sync(total, array + number))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [(array + i).sum() for i in range(4)]


def test_await(rc, array):
    async def both():
        first, second = (rc[i].apply_async(double, array) for i in range(2))
        return await first, await second

    assert all((result == array * 2).all() for result in asyncio.run(both()))


def test_deferreds(rc, array):
    from twisted.internet import reactor

    from ipkernel.client.reactor_thread import run_in_reactor

    result = run_in_reactor(reactor, rc[0].apply_async(double, array).as_deferred, "x", 60)
    assert (result == array * 2).all()


# ---------------------------------------------------------------- references


def test_put(rc, array):
    ref = rc.put(array)
    assert ref.size > array.nbytes and repr(ref).endswith(f"2.4 MB on {ref.where}>")
    before = array.copy()
    array[:] = 0
    assert rc[:].apply_sync(total, ref) == [before.sum()] * 2
    assert rc[0].apply_sync(lambda deep: float(deep["k"][0].sum()), {"k": [ref]}) == before.sum()
    rc[:].push({"v": ref}, block=True)
    assert rc[:]["float(v.sum())"] == [before.sum()] * 2
    assert rc.load_balanced_view().map_sync(total, [ref] * 5) == [before.sum()] * 5
    got = ref.get()
    got[:] = 1
    assert (ref.get() == before).all()


def test_the_same_reference_twice_is_one_value(rc, array):
    assert rc[0].apply_sync(lambda a, b: a is b, *[rc.put(array)] * 2)


def test_kept_results_go_from_engine_to_engine(rc):
    made = rc[0].apply_ref(fill, 3).get()
    assert rc[1].apply_sync(total, made) == 3 * COUNT
    chained = rc[1].apply_ref(double, made).get()
    assert chained.get()[0] == 6 and made.get()[0] == 3
    parts = rc.load_balanced_view().map_sync(fill, range(6), keep=True)
    sums = rc.load_balanced_view().map_sync(total, parts)
    assert sums == [float(i * COUNT) for i in range(6)]
    assert [value[0] for value in rc.fetch(parts)] == list(range(6))
    small = rc[:].apply_ref(len, "abc").get()
    assert rc.fetch(small) == [3, 3]


def test_references_in_values(rc, array):
    outer = rc.put({"inner": rc.put(array)})
    assert rc[0].apply_sync(lambda v: float(v["inner"].sum()), outer) == array.sum()
    assert (outer.get()["inner"].get() == array).all()


def test_another_client_can_use_a_reference(rc, cluster, array):
    ref = rc.put(array)
    with Client(cluster_dir=str(cluster.directory)) as other:
        stranger = pickle.loads(pickle.dumps(ref))
        assert other[0].apply_sync(total, stranger) == array.sum()
        assert (other.fetch(stranger) == array).all()
