"""References to large values, with a fake store: made, used, fetched, given back."""

from __future__ import annotations

import copy
import gc
import pickle
import threading

import pytest

from ipkernel import errors
from ipkernel.objects.transfer import TransferCancelled
from ipkernel.wire.messages import EngineJoined, HostGone, ObjectMade, Release, Submit
from tests.support.clients import far, near
from tests.support.fakecontroller import HOST, FakeController, is_empty, sent
from tests.support.fakestore import FakeStore

__all__ = ["far", "near"]

BIG = 3 << 20


@pytest.fixture(params=[True, False], ids=["near", "far"])
def fake(request):
    return FakeController(2, near=request.param)


@pytest.fixture
def rc(fake):
    client = fake.client()
    client.progress = False
    yield client
    client.close()


def make(size):
    return b"r" * size


# ---------------------------------------------------------------- references


def test_put_once_and_use_often(fake, rc):
    ref = rc.put({"a": b"x" * BIG})
    assert ref.size > BIG and ref.where == "h" and "3.1 MB on h" in repr(ref)
    assert rc[:].apply_sync(lambda value: len(value["a"]), ref) == [BIG, BIG]
    assert rc[0].apply_sync(lambda deep: len(deep[0]["k"]["a"]), [{"k": ref}]) == BIG
    rc[:].push({"v": ref}, block=True)
    assert rc[:]["len(v['a'])"] == [BIG, BIG]
    view = rc.load_balanced_view()
    assert view.map_sync(lambda value, i: len(value["a"]) + i, [ref] * 3, range(3)) == [
        BIG,
        BIG + 1,
        BIG + 2,
    ]
    assert len(sent(fake, ObjectMade)) == 1
    assert ref.get()["a"] == b"x" * BIG
    del ref
    rc[:].clear(block=True)
    assert is_empty(fake)


def test_small_values_can_be_put_too(fake, rc):
    ref = rc.put(5)
    assert rc[0].apply_sync(lambda x: x + 1, ref) == 6 and rc.fetch(ref) == 5


def test_put_is_a_copy(fake, rc):
    data = bytearray(b"a" * BIG)
    ref = rc.put(data)
    data[:] = b"b" * BIG
    assert ref.get() == b"a" * BIG


def test_put_without_any_host():
    fake = FakeController(0)
    rc = fake.client()
    data = bytearray(b"a" * BIG)
    ref = rc.put(data)
    data[:] = b"b" * BIG
    assert ref.get() == b"a" * BIG and ref.where == ""
    fake.join(0)
    assert rc[0].apply_sync(bytes, ref) == b"a" * BIG
    del ref
    assert is_empty(fake)
    rc.close()


def test_put_for_an_engine_that_is_not_there(fake, rc):
    with pytest.raises(errors.InvalidEngineID):
        rc.put(1, targets=17)
    assert rc.put(1, targets=[1]).where == "h"


def test_put_fails_clearly(far):
    fake, rc = far
    fake.host_store.failure = errors.TransferError("the cable was cut")
    with pytest.raises(errors.TransferError, match="the cable was cut"):
        rc.put(b"x" * BIG)
    fake.host_store.failure = None
    assert is_empty(fake)


def test_put_tries_another_host():
    fake = FakeController(1, near=False)
    rc = fake.client()
    rc.progress = False
    fake.connector.stores[2] = FakeStore()
    fake.session.received(
        [
            (fake.connector.access(2), b""),
            (EngineJoined(1, "n2", 5, host_id=2), b""),
        ]
    )
    fake.host_store.failure = errors.ConnectError("no way")
    refs = [rc.put(b"x" * BIG) for _ in range(3)]
    assert [ref.where for ref in refs] == ["n2"] * 3
    fake.connector.stores[2].failure = errors.StoreFull("full")
    with pytest.raises(errors.KernelError, match="no way|full"):
        rc.put(b"x" * BIG)
    fake.host_store.failure = fake.connector.stores[2].failure = None
    rc.close()


def test_put_can_be_cancelled(far):
    fake, rc = far
    fake.host_store.gate.clear()
    failures = []

    def put():
        try:
            rc.put(b"x" * BIG)
        except TransferCancelled as cancelled:
            failures.append(cancelled)

    thread = threading.Thread(target=put)
    thread.start()
    assert fake.host_store.entered.wait(10)
    (transfer,) = rc.transfers()
    transfer.cancel()
    thread.join(20)
    assert "put to host h was cancelled" in str(failures[0])


def test_values_that_cannot_be_sent_are_refused(rc):
    with pytest.raises(errors.SerializationError, match="the value"):
        rc.put(threading.Lock())


def test_references_in_values(fake, rc):
    inner = rc.put(b"i" * BIG)
    outer = rc.put(["o", inner])
    assert outer.inner == (inner,)
    del inner
    gc.collect()
    assert rc[0].apply_sync(lambda value: len(value[1]), outer) == BIG
    assert outer.get()[1] is outer.inner[0]
    assert outer.get()[1].get() == b"i" * BIG
    del outer
    assert is_empty(fake)


def test_kept_results(fake, rc):
    result = rc[0].apply_ref(make, BIG)
    ref = result.get()
    assert result.get() is ref and ref.size > BIG
    assert rc.load_balanced_view().apply_sync(len, ref) == BIG
    assert ref.get() == b"r" * BIG
    refs = rc[:].apply_ref(make, 10).get()
    assert [r.get() for r in refs] == [b"r" * 10] * 2
    assert sent(fake, Submit)[0].keep
    del result, ref, refs
    assert is_empty(fake)


def test_kept_results_of_a_view(fake, rc):
    view = rc.load_balanced_view(keep=True)
    ref = view.apply_sync(make, 5)
    assert ref.get() == b"r" * 5
    with view.temp_flags(keep=False):
        assert view.apply_sync(make, 5) == b"r" * 5
    assert next(iter(view.imap(make, [3]))).get() == b"r" * 3
    with pytest.raises(ZeroDivisionError):
        view.apply_sync(lambda: 1 / 0)


def test_keep_is_for_calls_only(rc):
    view = rc[:].set_flags(keep=True)
    assert view.push({"a": 1}, block=True) == [None, None]
    assert view.pull("a", block=True) == [1, 1]
    assert [r.get() for r in view.apply_sync(make, 1)] == [b"r"] * 2


@pytest.mark.parametrize("kind", ["direct", "balanced"])
def test_kept_maps_have_a_reference_for_each_item(fake, rc, kind):
    view = rc[:] if kind == "direct" else rc.load_balanced_view()
    refs = view.map_sync(lambda x, y: x * y, range(7), [3] * 9, keep=True)
    assert rc.fetch(refs) == [0, 3, 6, 9, 12, 15, 18]
    assert list(view.map_async(make, [4], keep=True))[0].get() == b"r" * 4
    assert view.map_sync(make, [], keep=True) == []
    found = view.map_sync(lambda x: 1 // x, [1, 0], keep=True, return_exceptions=True)
    assert found[0].get() == 1 and isinstance(found[1], ZeroDivisionError)
    with pytest.raises(ValueError, match="chunksize=4 is not possible with keep=True"):
        view.map_sync(make, [1], keep=True, chunksize=4)
    refs = view.set_flags(keep=True).map_sync(make, [1, 2])
    assert [len(value) for value in rc.fetch(refs)] == [1, 2]
    del refs, found
    assert is_empty(fake)


@pytest.mark.parametrize("kind", ["direct", "balanced"])
def test_kept_maps_have_a_value_for_each_item_where_no_host_has_a_store(near, monkeypatch, kind):
    fake, rc = near
    finish = fake.finish
    monkeypatch.setattr(fake, "finish", lambda *terms: finish(*terms[:5]))
    view = rc[:] if kind == "direct" else rc.load_balanced_view()
    result = view.map_async(lambda x: [1 // x] * 2, [1, 1, 0], keep=True, return_exceptions=True)
    *found, error = result.get()
    assert found == [[1, 1], [1, 1]] and isinstance(error, ZeroDivisionError)
    assert list(result)[:2] == result.partial()[:2] == found


def test_what_is_no_reference_is_refused(rc):
    for call in (rc.free, rc.fetch):
        for what in ("x", [5]):
            with pytest.raises(TypeError, match="a reference is needed"):
                call(what)


def test_kept_maps_in_round_robin(rc):
    view = rc[:]
    refs = view.map_sync(lambda x: -x, range(5), dist="r", keep=True)
    assert rc.fetch(refs) == [0, -1, -2, -3, -4]


def test_kept_parts_of_parallel_functions(rc):
    refs = rc[:].parallel(block=True, keep=True)(lambda part: list(part))(range(6))
    assert rc.fetch(refs) == [[0, 1, 2], [3, 4, 5]]


def test_free(fake, rc):
    ref = rc.put(b"x" * BIG)
    other = rc.put(b"y" * BIG)
    fake.held = True
    running = rc[0].apply_async(len, ref)
    ref.free()
    rc.free([ref, other])
    fake.pump()
    assert len(fake.host_store.objects) <= 1, "a task needs one of them"
    fake.held = False
    fake.release()
    assert running.get() == BIG
    assert is_empty(fake)
    for use in (ref.get, lambda: rc.fetch(ref), lambda: rc.fetch([ref])):
        with pytest.raises(errors.UnknownObject, match="it was freed"):
            use()
    for use in (lambda: rc[0].apply_async(len, ref), lambda: rc.put([ref])):
        with pytest.raises(errors.KernelError, match="freed"):
            use()
    assert "freed" in repr(ref)


def test_free_needs_no_other_message(near):
    fake, rc = near
    ref = rc.put(b"x" * BIG)
    ref.free()
    assert not fake.host_store.objects


def test_copies_are_the_same_reference(fake, rc):
    ref = rc.put(5)
    assert copy.deepcopy([ref])[0] is ref and ref == ref and {ref: 1}[ref] == 1


def test_a_reference_that_was_pickled_stands_for_the_same(fake, rc):
    ref = rc.put(b"x" * BIG)
    stranger = pickle.loads(pickle.dumps(ref))
    assert stranger == ref
    with pytest.raises(errors.ObjectError, match="no client"):
        stranger.get()
    assert rc[0].apply_sync(len, stranger) == BIG
    assert rc.fetch(stranger) == b"x" * BIG


def test_fetch_of_several(fake, rc):
    refs = [rc.put(bytes([i]) * BIG) for i in range(6)]
    assert rc.fetch(iter(refs)) == [bytes([i]) * BIG for i in range(6)]
    assert rc.fetch([]) == []


def test_fetch_in_time(far):
    fake, rc = far
    ref = rc.put(b"x" * BIG)
    fake.host_store.gate.clear()
    with pytest.raises(TimeoutError):
        ref.get(timeout=0.01)
    assert ref.get() == b"x" * BIG, "cancelling has opened the gate"


def test_lost_references_say_so(fake, rc):
    ref = rc.put(b"x" * BIG)
    fake.host_store.objects.clear()
    with pytest.raises(errors.ObjectLost, match=r"<ObjectRef .* on h> cannot be had: host h has"):
        ref.get()


def test_what_is_on_the_disk_of_a_full_host_is_not_lost(fake, rc):
    ref = rc.put(b"x" * BIG)
    fake.host_store.failure = errors.StoreFull("no room to bring it back")
    with pytest.raises(errors.StoreFull, match="cannot be had now: no room to bring it back$"):
        ref.get()
    fake.host_store.failure = None
    assert ref.get() == b"x" * BIG


def test_references_of_hosts_that_are_gone(near):
    fake, rc = near
    ref = rc.put(b"x" * BIG)
    fake.host_store.objects.clear()
    rc._session.received([(HostGone(HOST, "its power failed"), b"")])
    with pytest.raises(errors.ObjectLost, match="its power failed"):
        ref.get()
    assert fake.host_store.closed or rc._session.objects.mover.providers.submit(int).result(10) == 0


def test_a_reference_keeps_the_client_alive():
    fake = FakeController(1)
    ref = fake.client().put(b"x" * BIG)
    gc.collect()
    assert ref.get() == b"x" * BIG
    del ref
    gc.collect()
    assert fake.session.failure is not None, "now it is closed"
    fake.session.objects.close()


def test_references_after_the_end(fake, rc):
    ref = rc.put(b"x" * BIG)
    rc.close()
    with pytest.raises(errors.KernelError, match="closed"):
        ref.get()
    ref.free()


def test_references_are_given_back_in_batches(near):
    fake, rc = near
    refs = [rc.put(i) for i in range(100)]
    before = len(sent(fake, Release))
    del refs
    gc.collect()
    fake.pump()
    (release,) = sent(fake, Release)[before:]
    assert len(release.objects) == 100 and is_empty(fake)


def test_fetching_in_the_reactor_is_refused(rc, monkeypatch):
    ref = rc.put(1)
    monkeypatch.setattr("ipkernel.client.waiting.reactor_threads", {threading.get_ident()})
    with pytest.raises(RuntimeError, match="block the reactor"):
        rc.fetch(ref)
