"""How long large values live in a real cluster, and what becomes of them when parts of it die."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading

import pytest

import ipkernel as ipp
from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.client.stored import Stored
from ipkernel.client.stores import Stores
from ipkernel.cluster.cluster import Cluster
from ipkernel.objects.transfer import Transfer
from tests.integration.faults_support import wait_for

numpy = pytest.importorskip("numpy")

COUNT = 300_000
#: Seconds in which an object is gone that nobody refers to.
SOON = 20


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


@pytest.fixture
def rc(cluster):
    with Client(cluster_dir=str(cluster.directory)) as client:
        client.wait_for_engines(2, timeout=30, interactive=False)
        client.progress = False
        yield client


@pytest.fixture
def own(tmp_path):
    """A cluster for one test, which may break it."""
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_own"))
    cluster.start_cluster_sync()
    try:
        with Client(cluster_dir=str(cluster.directory)) as client:
            client.wait_for_engines(1, timeout=30, interactive=False)
            yield client, cluster
    finally:
        cluster.stop_cluster_sync()


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


def is_freed(rc, object_id):
    gc.collect()
    return store_of(rc).wait_freed(object_id, SOON)


def ids_of(result):
    """The objects that a result has not read yet."""
    cells = [record.cell[1] for record in result._records]
    assert all(isinstance(cell, Stored) for cell in cells)
    return [cell.id for cell in cells]


def total(x):
    return float(x.sum())


def fill(value, count=COUNT):
    return numpy.full(count, float(value))


# ---------------------------------------------------------------- the store is emptied


def test_references_that_are_dropped_free_their_objects(rc, array):
    ref = rc.put(array)
    object_id = ref.id
    assert not store_of(rc).wait_freed(object_id, 0.01)
    del ref
    assert is_freed(rc, object_id)


def test_results_that_are_dropped_unread_free_their_objects(rc):
    result = rc[:].apply_async(fill, 1)
    assert result.wait(30)
    ids = ids_of(result)
    assert not store_of(rc).wait_freed(ids[0], 0.01)
    del result
    assert all(is_freed(rc, object_id) for object_id in ids)


def test_results_that_were_read_are_forgotten_and_stay_readable(rc):
    result = rc[0].apply_async(fill, 1)
    assert result.wait(30)
    (object_id,) = ids_of(result)
    view = result.get()[10:]
    del result
    assert is_freed(rc, object_id), "the store knows nothing of it any more"
    for value in range(20):  # its memory is not given to anybody else
        rc[0].apply_sync(total, fill(value))
        assert rc[0].apply_sync(fill, value)[0] == value
    assert (view == 1).all()


def test_arguments_free_their_objects(rc, array):
    made = []
    stash = rc._session.objects.stash

    def noting(*args):
        made.append(stash(*args)[0])
        return made[-1], None

    rc._session.objects.stash = noting
    assert rc[:].apply_sync(total, array) == [array.sum()] * 2
    (message,) = made
    assert message.host and is_freed(rc, message.object)


def test_what_a_client_leaves_is_freed(rc, cluster, array):
    with Client(cluster_dir=str(cluster.directory)) as other:
        object_id = other.put(array).id
        ref = other.put(array)
        assert is_freed(rc, object_id)
    assert ref.bound


def test_a_reference_that_was_freed_cannot_be_used(rc, array):
    ref = rc.put(array)
    copy = pickle.loads(pickle.dumps(ref))
    ref.free()
    assert is_freed(rc, ref.id)
    with pytest.raises(errors.UnknownObject, match="freed"):
        ref.get()
    with pytest.raises(errors.ObjectError, match="freed"):
        rc.fetch(copy)
    with pytest.raises(errors.ObjectError, match="freed"):
        rc[0].apply_sync(total, copy)


def test_a_task_keeps_what_it_needs(rc, array):
    ref = rc.put(array)
    rc[0].apply_async(lambda: __import__("time").sleep(0.3))
    result = rc[0].apply_async(total, ref)
    ref.free()
    assert result.get(30) == array.sum()
    assert is_freed(rc, ref.id)


# ---------------------------------------------------------------- Ctrl-C


@pytest.fixture
def ctrl_c(monkeypatch):
    """Have Ctrl-C pressed when the first bytes of a transfer have been moved."""
    advance = Transfer.advance

    def pressed(self, count):
        advance(self, count)
        monkeypatch.setattr(Transfer, "advance", advance)
        over = threading.Event()
        self.on_cancel(over.set)
        os.kill(os.getpid(), signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            assert over.wait(20), "nobody has cancelled it"

    monkeypatch.setattr(Transfer, "advance", pressed)


@pytest.fixture(params=["near", "far"])
def either(cluster, request, monkeypatch):
    if request.param == "far":
        monkeypatch.setattr(Stores, "is_near", lambda self, access: False)
    return request.getfixturevalue("rc")


def test_an_interrupted_put_leaves_nothing(either, array, ctrl_c, monkeypatch):
    monkeypatch.setattr("ipkernel.client.sending.new_object_id", lambda: b"interrupted put!")
    with pytest.raises(KeyboardInterrupt):
        either.put(array)
    assert is_freed(either, b"interrupted put!")
    wait_for(lambda: not either.transfers())  # the thread that sent it has heard of it, too
    assert not either._session.objects.references
    monkeypatch.undo()
    assert (either.put(array).get() == array).all()


def test_an_interrupted_get_can_be_repeated(either, array, request):
    ref = either.put(array)
    request.getfixturevalue("ctrl_c")
    with pytest.raises(KeyboardInterrupt):
        ref.get()
    assert (ref.get() == array).all()


def test_an_interrupted_submission_leaves_nothing(rc, array, ctrl_c, monkeypatch):
    monkeypatch.setattr("ipkernel.client.sending.new_object_id", lambda: b"interrupted task")
    with pytest.raises(KeyboardInterrupt):
        rc[0].apply_async(total, array)
    assert is_freed(rc, b"interrupted task") and not rc.outstanding
    monkeypatch.undo()
    assert rc[0].apply_sync(total, array) == array.sum()


# ---------------------------------------------------------------- faults and ends


def test_results_stay_when_the_cluster_is_gone(tmp_path):
    with ipp.Cluster(n=1, cluster_dir=str(tmp_path / "cluster_gone")) as rc:
        unread = rc[0].apply_async(fill, 5)
        unread.wait(30)
        ref = rc.put(fill(1))
    assert unread.get()[0] == 5
    with pytest.raises(errors.KernelError, match="closed"):
        ref.get()


def test_an_engine_that_dies_loses_no_object_of_others(own, array):
    rc, _ = own
    ref = rc.put(array)
    kept = rc[0].apply_ref(fill, 2).get()
    with pytest.raises(errors.EngineError):
        rc[0].apply_sync(os.kill, rc[0].apply_sync(os.getpid), signal.SIGKILL)
    rc.wait_for_engines(1, timeout=30, interactive=False)
    assert rc[0].apply_sync(total, ref) == array.sum()
    assert rc[0].apply_sync(total, kept) == 2 * COUNT and kept.get()[0] == 2


def test_a_host_that_dies_takes_its_objects_along(own, array):
    rc, _ = own
    ref = rc.put(array)
    unread = rc[0].apply_async(fill, 2)
    assert unread.wait(30)
    read = rc[0].apply_sync(fill, 3)
    (host,) = rc.status().hosts
    os.kill(host.pid, signal.SIGKILL)
    with pytest.raises(errors.KernelError):
        rc[0].apply_sync(total, array)
    for use in (ref.get, unread.get):
        with pytest.raises(errors.ObjectLost, match="cannot be had"):
            use()
    assert read[0] == 3
