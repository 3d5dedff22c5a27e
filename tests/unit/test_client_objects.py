"""Large values with a fake store: out with tasks, back as results, references in between."""

from __future__ import annotations

import threading

import pytest

from ipkernel import errors
from ipkernel.client import sending
from ipkernel.objects import INLINE_LIMIT
from ipkernel.wire.messages import (
    Finished,
    ObjectMade,
    Outcome,
    Release,
    Seek,
    Submit,
)
from tests.support.clients import far, near
from tests.support.fakecontroller import HOST, FakeController, is_empty, sent

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


# ---------------------------------------------------------------- tasks


def test_large_arguments_and_results(fake, rc):
    data = bytes(range(256)) * (BIG // 256)
    assert rc[0].apply_sync(bytes.__add__, data, b"!") == data + b"!"
    assert rc.load_balanced_view().apply_sync(len, data) == BIG
    assert all(message.size < INLINE_LIMIT for message in fake.messages)
    assert is_empty(fake)


def test_one_object_for_all_targets(fake, rc):
    rc[:].push({"x": b"a" * BIG}, block=True)
    assert rc[:]["len(x)"] == [BIG, BIG]
    assert len(sent(fake, ObjectMade)) == 1 and len(fake.host_store.puts) == 1
    assert is_empty(fake)


def test_what_small_tasks_send(near):
    fake, rc = near
    rc[0].apply_sync(len, b"x" * (INLINE_LIMIT - 1000))
    (message,) = sent(fake, Submit)
    assert message.size > INLINE_LIMIT - 1000
    assert (message.needs, message.stored, message.keep) == ([], False, False)
    assert not rc._session.objects.active


def test_the_order_of_messages(near):
    fake, rc = near
    rc[0].apply_sync(len, b"x" * BIG)
    kinds = [type(m) for m in fake.messages if type(m) in (ObjectMade, Submit, Release)]
    assert kinds == [ObjectMade, Submit, Release]
    made, submit, release = fake.messages[-3:]
    assert submit.needs == [made.object] and submit.stored and submit.size == 0
    assert (made.host, made.owner) == (HOST, 7)
    assert release.objects == [made.object]


def test_large_payloads_of_every_kind(fake, rc):
    view = rc[:]
    view.execute("x = '" + "y" * BIG + "'", block=True)
    assert view.pull("len(x)", block=True) == [BIG] * 2
    view.scatter("part", b"z" * BIG, block=True)
    assert view["len(part)"] == [BIG // 2] * 2
    assert view.gather("part[:4]", block=True) == [b"zzzz"] * 2
    items = [bytes([i]) * INLINE_LIMIT for i in range(6)]
    for any_view in (view, rc.load_balanced_view()):
        assert any_view.map_sync(lambda item: item + item, items) == [i + i for i in items]
    assert [len(x) for x in rc.load_balanced_view().imap(bytes.upper, items)] == [INLINE_LIMIT] * 6
    large = b"q" * BIG
    assert rc[0].apply_sync(lambda: len(large)) == BIG
    assert is_empty(fake)


def test_arrays(fake, rc):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(200_001.0)
    view = rc[:]
    view["a"] = array
    array2 = rc[0]["a"]
    assert (array2 == array).all() and array2.flags.writeable
    array2[:] = 0
    assert (rc[1]["a"] == array).all()
    for dist in "br":
        view.scatter("p", array, dist=dist, block=True)
        whole = view.gather("p", dist=dist, block=True)
        assert (whole == array).all() and whole.dtype == array.dtype
    del array2, whole
    view.clear(block=True)
    assert is_empty(fake)


def test_the_caller_may_change_what_was_copied(near):
    fake, rc = near
    data = bytearray(b"a" * BIG)
    fake.held = True
    result = rc[0].apply_async(bytes, data)
    data[:] = b"b" * BIG
    assert result.sent
    fake.release()
    assert result.get() == b"a" * BIG


def test_a_far_argument_is_read_when_it_is_needed(far):
    fake, rc = far
    numpy = pytest.importorskip("numpy")
    fake.held = True
    array = numpy.ones(BIG)
    result = rc[0].apply_async(numpy.sum, array)
    (outgoing,) = result._outgoing
    assert any(piece.obj is array for piece in outgoing.pieces if type(piece) is memoryview)
    assert not result.sent and not result.wait_for_send(0)
    part = result.split()[0]
    assert not part.wait_for_send(0)
    fake.release()
    assert result.get() == BIG
    assert result.sent and outgoing.pieces == ()
    assert is_empty(fake)


def test_medium_arguments_are_copied_in_any_case(far):
    fake, rc = far
    fake.held = True
    data = bytearray(b"a" * (INLINE_LIMIT * 2))
    result = rc[0].apply_async(bytes, data)
    data[:] = b"b" * len(data)
    fake.release()
    assert result.get() == b"a" * (INLINE_LIMIT * 2)


def test_wait_for_send_waits_for_the_first_copy(far):
    fake, rc = far
    fake.host_store.gate.clear()
    fake.held = True
    result = rc[0].apply_async(len, b"x" * BIG)
    thread = threading.Thread(target=fake.release)
    thread.start()
    assert fake.host_store.entered.wait(10)
    assert not result.sent
    (transfer,) = rc.transfers()
    assert transfer is result.transfer and transfer.what == "apply to host h"
    fake.host_store.gate.set()
    assert result.wait_for_send(20)
    thread.join(20)
    assert result.get(10) == BIG and result.transfer is None and rc.transfers() == []


def test_a_client_that_ends_hands_over_what_tasks_will_need(far):
    fake, rc = far
    fake.held = True
    results = [rc[i].apply_async(len, bytes([i]) * BIG) for i in range(2)]
    fake.session.objects.hand_over()
    assert all(result.sent for result in results)
    assert len(fake.host_store.objects) == 2 and not fake.session.objects.outbox.unsent
    fake.session.objects.hand_over()
    assert [message.host for message in sent(fake, ObjectMade)] == [0, 0, HOST, HOST]
    fake.session.objects.outbox.clear()
    fake.release()
    assert [result.get() for result in results] == [BIG] * 2
    assert is_empty(fake)


def test_what_cannot_be_handed_over_is_left(far):
    fake, rc = far
    fake.held = True
    rc[0].apply_async(len, b"x" * BIG)
    fake.host_store.failure = errors.TransferError("cut")
    fake.session.objects.hand_over()
    assert fake.session.objects.outbox.unsent > BIG


def test_too_much_in_the_outbox_is_sent_at_once(far, monkeypatch):
    fake, rc = far
    monkeypatch.setattr(sending, "OUTBOX", 2 * BIG)
    fake.held = True
    results = [rc[0].apply_async(len, bytes([i]) * BIG) for i in range(4)]
    assert [bool(r._outgoing) for r in results] == [True, False, False, False]
    assert [message.host for message in sent(fake, ObjectMade)] == [0, HOST, HOST, HOST]
    fake.release()
    assert [r.get() for r in results] == [BIG] * 4
    assert is_empty(fake)


def test_what_cannot_be_sent_at_once_stays_in_the_outbox(far, monkeypatch):
    fake, rc = far
    monkeypatch.setattr(sending, "OUTBOX", BIG)
    fake.held = True
    fake.host_store.failure = errors.TransferError("cut")
    results = [rc[0].apply_async(len, bytes([i]) * BIG) for i in range(2)]
    fake.host_store.failure = None
    fake.release()
    assert [r.get() for r in results] == [BIG] * 2


def test_without_known_hosts_everything_goes_into_the_outbox(monkeypatch):
    fake = FakeController(0)
    client = fake.client()
    fake.held = True
    result = client.load_balanced_view().apply_async(len, b"x" * BIG)
    assert sent(fake, ObjectMade)[0].host == 0
    fake.join(0)
    fake.release()
    assert result.get() == BIG
    client.close()


def test_where_no_host_has_a_store_everything_goes_with_its_task(monkeypatch):
    monkeypatch.setattr("ipkernel.client.hosts.PATIENCE", 0.001)
    fake = FakeController(2)
    fake.session.objects.hosts._known.clear()
    client = fake.client()
    assert client[0].apply_sync(len, b"x" * BIG) == BIG
    assert client[:].apply_sync(len, b"x" * BIG) == [BIG] * 2
    assert all(message.size > BIG and not message.needs for message in sent(fake, Submit))
    with pytest.raises(errors.ObjectError, match="no host of these engines has a store"):
        client.put(1)
    client.close()


def test_a_full_store_is_said_at_once(near):
    fake, rc = near
    fake.host_store.limit = 1000
    with pytest.raises(errors.StoreFull, match="no room"):
        rc[0].apply_async(len, b"x" * BIG)
    assert not rc.outstanding
    fake.host_store.limit = 1 << 40
    assert is_empty(fake)


def test_a_neighbour_that_fails_is_reached_by_the_network(near):
    fake, rc = near
    store = fake.host_store
    store.failure = errors.ConnectError("the socket is gone")
    fake.held = True
    result = rc[0].apply_async(len, b"x" * BIG)
    store.failure = None
    fake.release()
    assert result.get() == BIG
    assert fake.connector.opened == [(HOST, True), (HOST, False)]


def test_a_client_that_cannot_provide_fails_the_task_with_the_reason(far):
    fake, rc = far
    fake.host_store.failure = errors.TransferError("the cable was cut")
    with pytest.raises(errors.ObjectLost, match="the cable was cut"):
        rc[0].apply_sync(len, b"x" * BIG)


def test_interrupted_puts_leave_nothing(near, monkeypatch):
    fake, rc = near
    store = fake.host_store
    put = store.put

    def interrupted(*args, **kwargs):
        put(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put", interrupted)
    for attempt in (lambda: rc[0].apply_async(len, b"x" * BIG), lambda: rc.put(b"x" * BIG)):
        with pytest.raises(KeyboardInterrupt):
            attempt()
    rc._session.objects.mover.providers.submit(int).result(10)
    assert store.freed == store.puts
    assert not rc.outstanding and is_empty(fake)


def test_an_interrupt_while_queueing_gives_the_object_back(near, monkeypatch):
    fake, rc = near
    session = rc._session

    def wake():
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_wake", wake)
    with pytest.raises(KeyboardInterrupt):
        rc[0].apply_async(len, b"x" * BIG)
    monkeypatch.undo()
    assert is_empty(fake)


def test_no_lock_is_held_while_copying(near):
    fake, rc = near
    store = fake.host_store
    store.gate.clear()
    results = []
    thread = threading.Thread(
        target=lambda: results.append(rc[0].apply_async(len, b"x" * BIG)), daemon=True
    )
    thread.start()
    assert store.entered.wait(10)
    assert rc[1].apply_sync(len, "abc") == 3, "others need not wait for the copy"
    store.gate.set()
    thread.join(20)
    assert results[0].get(10) == BIG


# ---------------------------------------------------------------- results


def make(size):
    return b"r" * size


def test_near_results_are_mapped_when_they_are_read(near):
    fake, rc = near
    result = rc[0].apply_async(make, BIG)
    assert result.ready() and result.successful() and not fake.host_store.gets
    assert result.get() == b"r" * BIG and result.get() is result.get()
    assert len(fake.host_store.gets) == 1
    assert is_empty(fake), "nothing refers to the object any more, though the result is held"


def test_a_result_that_is_dropped_unread_is_given_back(near):
    fake, rc = near
    result = rc[0].apply_async(make, BIG)
    assert len(fake.host_store.objects) == 1
    del result
    assert is_empty(fake) and not fake.host_store.gets


def test_several_threads_read_one_result(near):
    fake, rc = near
    result = rc[0].apply_async(make, BIG)
    threads = [threading.Thread(target=result.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert result.get() == b"r" * BIG and len(fake.host_store.gets) == 1


def test_what_the_reactor_reads_is_mapped_before(near):
    fake, rc = near
    result = rc[:].apply_async(make, BIG)
    readable = threading.Event()
    result._when_readable(readable.set)
    assert readable.wait(10) and len(fake.host_store.gets) == 2
    readable.clear()
    result._when_readable(readable.set)
    assert readable.is_set(), "now nothing has to be waited for"
    late = rc[0].apply_async(make, BIG)
    rc._session.objects.mover.close(0)
    readable.clear()
    late._when_readable(readable.set)
    assert readable.is_set()


def test_far_results_are_done_when_they_are_here(far):
    fake, rc = far
    fake.host_store.gate.clear()
    result = rc[0].apply_async(make, BIG)
    assert fake.host_store.entered.wait(10)
    assert not result.ready() and result.msg_ids[0] in rc.outstanding
    assert result.transfer.what == "result from host h"
    fake.host_store.gate.set()
    assert result.get(10) == b"r" * BIG
    assert result.metadata.status == "ok" and result.engine_id == 0
    assert is_empty(fake)


def test_several_far_results_arrive_together(far):
    _, rc = far
    results = rc[:].apply_async(make, BIG)
    assert results.get(20) == [b"r" * BIG] * 2


def test_cancelling_a_far_result_ends_its_transfer(far):
    fake, rc = far
    fake.host_store.gate.clear()
    result = rc[0].apply_async(make, BIG)
    assert fake.host_store.entered.wait(10)
    assert result.cancel()
    rc._session.objects.mover.fetchers.close(10)
    assert rc.transfers() == [] and not rc.outstanding
    assert is_empty(fake)


def test_a_lost_result_says_so(fake, rc, request):
    near = "near" in request.node.name
    if near:
        result = rc[0].apply_async(make, BIG)
        fake.host_store.objects.clear()
    else:
        fake.host_store.gate.clear()
        result = rc[0].apply_async(make, BIG)
        assert fake.host_store.entered.wait(10)
        fake.host_store.failure = errors.TransferError("cut again and again")
        fake.host_store.gate.set()
        fake.host_store.failure = None
        result.get(10)
        fake.host_store.failure = errors.TransferError("cut again and again")
        result = rc[0].apply_async(make, BIG)
    with pytest.raises(errors.ObjectLost, match=r"the result cannot be had: host h has lost it"):
        result.get(10)
    assert result.metadata.status == "error" and not result.successful()
    assert len(sent(fake, Seek)) >= 1
    fake.host_store.failure = None
    assert is_empty(fake)


def test_another_host_is_tried(far):
    fake, rc = far
    fake.held = True
    result = rc[0].apply_async(make, BIG)
    fake.connector.stores[2] = type(fake.host_store)()
    rc._session.received([(fake.connector.access(2), b"")])
    run = rc._session.received

    def elsewhere(items):
        """Say that it is on host 2, which does not have it."""
        (message, payload), *rest = items
        if type(message) is Finished:
            from msgspec.structs import replace

            message = replace(message, host=2)
        run([(message, payload), *rest])

    rc._session.received = elsewhere
    fake.release()
    assert result.get(10) == b"r" * BIG
    (seek,) = sent(fake, Seek)
    assert seek.failed == 2 and "does not have it" in seek.problem


def test_an_unknown_result_is_given_back(near):
    fake, rc = near
    fake.finish((7 << 40) + 999, Outcome.OK, 0, b"x" * BIG, 0.0, True)
    assert len(fake.host_store.objects) == 1
    assert is_empty(fake)


def test_held_results_survive_the_client(near):
    fake, rc = near
    read, unread = rc[0].apply_async(make, BIG), rc[1].apply_async(make, BIG)
    assert len(read.get()) == BIG
    rc.close()
    assert fake.host_store.closed
    assert read.get() == unread.get() == b"r" * BIG


def test_the_end_reaches_who_waits_for_bytes(far):
    fake, rc = far
    fake.host_store.gate.clear()
    result = rc[0].apply_async(make, BIG)
    assert fake.host_store.entered.wait(10)
    rc.close()
    with pytest.raises(errors.ControllerLost):
        result.get(10)


def test_errors_are_not_objects(fake, rc):
    with pytest.raises(ZeroDivisionError):
        rc[0].apply_sync(lambda data: len(data) / 0, b"x" * BIG)
    assert is_empty(fake)
