"""Clients of a host's store on the same machine: the real store, real sockets, real memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from ipkernel.errors import (
    ObjectError,
    StoreFull,
    UnknownObject,
)
from ipkernel.objects import local, new_object_id
from ipkernel.objects.mapping import COPY_SLICE
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import Placed
from tests.support.localstores import Served, in_thread, native_sockets
from tests.support.reactor import run_in_reactor

MB = 1 << 20


@pytest.fixture(params=["native", "portable"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "native" and not native_sockets():
        pytest.skip("this system has no such sockets")
    made = Served(native=request.param == "native")
    yield made
    gc.collect()
    made.close()


# ------------------------------------------------------------ there and back


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 65536, 5 * MB, 9 * MB + 1])
def test_an_object_comes_back_as_it_was_put(served: Served, size: int) -> None:
    client = served.client()
    data = os.urandom(size)
    object_id = served.put(client, data)
    info = served.info(object_id)
    assert info is not None and (info.sealed, info.size) == (True, size)
    view = client.get(object_id)
    assert (view.nbytes, view.format, view.readonly) == (size, "B", False)
    assert view == data


def test_pieces_of_all_kinds_are_joined(served: Served) -> None:
    client, object_id = served.client(), new_object_id()
    numbers = memoryview(bytearray(range(24))).cast("I", [2, 3])
    pieces = [b"head", bytearray(b"body"), memoryview(b"xtailx")[1:5], b"", numbers]
    client.put(object_id, pieces, 36, owner=1)
    assert bytes(client.get(object_id)) == b"headbodytail" + bytes(range(24))


def test_a_wrong_size_is_noticed_before_anything_is_sent(served: Served) -> None:
    client, object_id = served.client(), new_object_id()
    with pytest.raises(ValueError, match="pieces of 3 bytes make no object of 4"):
        client.put(object_id, [b"abc"], 4, owner=1)
    assert served.info(object_id) is None
    assert client._anchor is None


def test_what_one_changes_is_not_changed_for_others(served: Served) -> None:
    one, two = served.client("one"), served.client("two")
    object_id = served.put(one, b"hello world")
    mine, again, others = one.get(object_id), one.get(object_id), two.get(object_id)
    mine[:5] = b"HELLO"
    assert (bytes(again), bytes(others)) == (b"hello world", b"hello world")
    assert bytes(two.get(object_id)) == b"hello world"
    assert bytes(mine) == b"HELLO world"


def test_objects_share_segments_and_do_not_disturb_each_other(served: Served) -> None:
    client = served.client()
    all_data = [os.urandom(10_000 + number) for number in range(40)]
    ids = [served.put(client, data) for data in all_data]
    views = [client.get(object_id) for object_id in ids]
    for view in views[::2]:
        view[:] = bytes(len(view))
    assert all(bytes(view) == data for view, data in zip(views[1::2], all_data[1::2], strict=True))


def test_an_object_that_is_there_already_is_not_sent_again(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, b"first")
    transfer = Transfer()
    client.put(object_id, [b"other"], 5, owner=2, transfer=transfer)
    assert transfer.done == 0
    assert bytes(client.get(object_id)) == b"first"


def test_a_transfer_is_told_of_progress(served: Served) -> None:
    class Watched(Transfer):
        steps: tuple[int, ...] = ()

        def advance(self, count: int) -> None:
            self.steps += (count,)
            super().advance(count)

    client, object_id = served.client(), new_object_id()
    size = COPY_SLICE + 10
    put, get = Watched("put", size), Watched("get", size)
    client.put(object_id, [bytes(size), b"x"], size + 1, owner=1, transfer=put)
    assert put.steps == (COPY_SLICE, 10, 1)
    client.get(object_id, transfer=get)
    assert get.done == size + 1
    assert put.route == get.route == "shared memory"


def test_a_put_of_64_kb_asks_two_questions(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client = served.client()
    served.put(client, bytes(100))
    asked: list[str] = []
    exchange = local.Connection._ask

    def counted(self: Any, request: Any, *args: Any) -> Any:
        asked.append(type(request).__name__)
        return exchange(self, request, *args)

    monkeypatch.setattr(local.Connection, "_ask", counted)
    object_id = served.put(client, bytes(65536))
    assert asked == ["Create", "Seal"]
    del asked[:]
    client.get(object_id)
    assert asked == ["Get"]


def test_many_threads_put_and_get(served: Served) -> None:
    client = served.client()

    def work(seed: int) -> int:
        for number in range(10):
            data = bytes([seed, number]) * (20_000 + 1000 * seed)
            object_id = served.put(client, data)
            view = client.get(object_id)
            assert view == data
            client.free([object_id])
            assert view == data
        return seed

    futures = [in_thread(work, seed) for seed in range(6)]
    assert [future.result(30) for future in futures] == list(range(6))


# -------------------------------------------------------------------- leases


def test_the_lease_lasts_as_long_as_the_last_view(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, bytes(100_000))
    view = client.get(object_id)
    part = view[10:20]
    del view
    assert served.leases(object_id) == 1
    del part
    served.idle(object_id)


def test_what_is_freed_stays_as_long_as_somebody_looks_at_it(served: Served) -> None:
    client = served.client()
    data = os.urandom(3 * MB)
    object_id = served.put(client, data)
    view = client.get(object_id)
    client.free([object_id])
    assert served.info(object_id) is None
    others = [served.put(client, bytes(3 * MB)) for _ in range(15)]
    assert view == data
    assert len(others) == 15


def test_a_released_lease_travels_with_the_next_question(served: Served) -> None:
    client = served.client()
    client._leases._pause = 1e6  # the thread has no part in this
    object_id = served.put(client, bytes(40 * MB))
    view = client.get(object_id)
    client.free([object_id])
    with pytest.raises(StoreFull):
        served.put(client, bytes(40 * MB))
    del view
    served.put(client, bytes(40 * MB))


def test_a_process_that_ends_holds_nothing(served: Served) -> None:
    one, two = served.client("one"), served.client("two")
    object_id = served.put(one, bytes(100))
    views = [one.get(object_id), two.get(object_id)]
    assert served.leases(object_id) == 2
    for connection in [two._anchor, *two._idle]:
        assert connection is not None
        connection.cut()
    served.until(lambda: served.store.stats().holders == {"one": served.store.stats().used})
    assert len(views) == 2


def test_what_the_daemon_has_leased_is_mapped_and_released(served: Served) -> None:
    client, engine = served.client(), served.client("engine:1:1")
    data = os.urandom(200_000)
    object_id = served.put(client, data)
    placement = run_in_reactor(lambda: served.store.lease(object_id, "engine:1:1"))
    placed = Placed(object_id, placement.segment, placement.offset, placement.size)
    view = engine.map_placed(placed)
    assert view == data
    view[0] ^= 1
    assert served.leases(object_id) == 1
    del view
    served.idle(object_id)


@pytest.mark.parametrize("size", [100_000, 3 * MB])
def test_an_object_that_is_got_again_is_what_it_was(served: Served, size: int) -> None:
    client, data = served.client(), os.urandom(size)
    object_id = served.put(client, data)
    for _ in range(5):
        one, two = client.get(object_id), client.get(object_id)
        assert one == two == data
        one[0] ^= 1
        two[-1] ^= 1
        assert (one[1:], two[:-1]) == (data[1:], data[:-1])
        assert (one[0], two[-1]) != (data[0], data[-1])
        assert one[-1] == data[-1]
        del one, two
    served.idle(object_id)


@pytest.mark.parametrize("size", [100_000, 3 * MB])
def test_what_was_written_to_one_object_is_not_seen_in_the_next(served: Served, size: int) -> None:
    writer, reader = served.client("writer"), served.client("reader")
    kept = []
    for round_ in range(12):
        data = bytes([round_]) * size
        object_id = served.put(writer, data)
        view = reader.get(object_id)
        assert view == data
        view[:: size // 7] = b"x" * len(view[:: size // 7])
        if round_ % 3 == 0:
            kept.append((object_id, view, bytes(view)))
        del view
        writer.free([object_id])
    assert all(view == was for _, view, was in kept)


def test_an_empty_object_is_mapped_too(served: Served) -> None:
    engine = served.client("engine")
    object_id = served.put(engine, b"")
    placement = run_in_reactor(lambda: served.store.lease(object_id, "engine"))
    placed = Placed(object_id, placement.segment, placement.offset, placement.size)
    assert len(engine.map_placed(placed)) == 0
    served.idle(object_id)


def test_what_cannot_be_mapped_is_released(served: Served) -> None:
    engine = served.client("engine")
    object_id = served.put(engine, bytes(100))
    placement = run_in_reactor(lambda: served.store.lease(object_id, "engine"))
    with pytest.raises(ObjectError, match="no segment 77"):
        engine.map_placed(Placed(object_id, 77, 0, 100))
    served.idle(object_id)
    run_in_reactor(lambda: served.store.lease(object_id, "engine"))
    with pytest.raises(ObjectError, match="cannot be used"):
        engine.map_placed(Placed(object_id, placement.segment, 1 << 40, 100))
    served.idle(object_id)


def test_without_descriptors_objects_are_copied(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "most_mappings", lambda: 2)
    client = served.client()
    data = os.urandom(5 * MB)
    object_id = served.put(client, data)
    views = [client.get(object_id) for _ in range(5)]
    assert client._leases.mappings == 2
    for view in views:
        assert view == data
        view[0] ^= 0xFF
    del views[:2], view
    served.idle(object_id)
    assert all(view[1:] == data[1:] for view in views)


def test_a_mapping_that_fails_becomes_a_copy(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    client = served.client()
    object_id = served.put(client, b"hello")
    monkeypatch.setattr(local.SegmentMemory, "private", fail)
    assert bytes(client.get(object_id)) == b"hello"
    served.idle(object_id)


# ------------------------------------------------------------------- waiting


def test_an_unknown_object_is_not_waited_for(served: Served) -> None:
    client = served.client()
    with pytest.raises(UnknownObject, match="has no object"):
        client.get(new_object_id())
    object_id = served.put(client, b"there")
    assert bytes(client.get(object_id, timeout=0.0)) == b"there"


def test_what_somebody_brings_is_waited_for_while_others_go_on(served: Served) -> None:
    client, object_id = served.client(), new_object_id()
    waits = [in_thread(client.get, object_id, bringer=7) for _ in range(8)]
    served.waiting(8)
    other = served.put(client, b"other")
    assert bytes(client.get(other)) == b"other"
    client.put(object_id, [b"brought"], 7, owner=7)
    assert [bytes(wait.result(10)) for wait in waits] == [b"brought"] * 8
    assert len(client._idle) <= local.IDLE


def test_a_bringer_that_is_gone_brings_nothing(served: Served) -> None:
    wait = in_thread(served.client().get, new_object_id(), bringer=7)
    served.waiting()
    run_in_reactor(lambda: served.store.session_gone(7))
    with pytest.raises(UnknownObject, match="session 7 is gone"):
        wait.result(10)


def test_waiting_ends_after_the_time_given(served: Served) -> None:
    client = served.client()
    with pytest.raises(TimeoutError, match="did not come within"):
        client.get(new_object_id(), bringer=7, timeout=0.05)
    with pytest.raises(TimeoutError, match="did not come within"):
        client.get(new_object_id(), bringer=7, timeout=-1)
    assert bytes(client.get(served.put(client, b"x"), timeout=float("inf"))) == b"x"
    assert len(client._idle) == 1


def test_the_end_of_an_object_can_be_waited_for(served: Served) -> None:
    client = served.client()
    object_id = served.put(client, bytes(1000))
    assert client.wait_freed(object_id, 0.02) is False
    wait = in_thread(client.wait_freed, object_id, 10.0)
    served.waiting()
    client.free([new_object_id(), object_id])
    assert wait.result(10) is True
    client.free([])


def test_two_who_put_the_same_object_are_both_right(served: Served) -> None:
    one, two = served.client("one"), served.client("two")
    object_id, size = new_object_id(), 8 * MB
    data = os.urandom(size)
    futures = [in_thread(client.put, object_id, [data], size, owner=1) for client in (one, two) * 3]
    for future in futures:
        assert future.result(30) is None
        assert one.get(object_id) == data


# ----------------------------------------------------------------- cancelled


def test_a_get_that_waits_can_be_cancelled(served: Served) -> None:
    client, transfer = served.client(), Transfer("pull x")
    held = client.get(served.put(client, b"held"))
    wait = in_thread(client.get, new_object_id(), bringer=7, transfer=transfer)
    served.waiting()
    transfer.cancel()
    with pytest.raises(TransferCancelled, match="pull x was cancelled"):
        wait.result(10)
    served.waiting(0)
    assert served.store.stats().holders
    assert bytes(held) == b"held"


def test_a_put_can_be_cancelled_half_way(served: Served) -> None:
    class Watched(Transfer):
        def advance(self, count: int) -> None:
            if self.done:
                self.cancel()
            super().advance(count)

    client, object_id = served.client(), new_object_id()
    data = [bytes(1000)] * 10
    with pytest.raises(TransferCancelled, match="put y was cancelled"):
        client.put(object_id, data, 10_000, owner=1, transfer=Watched("put y"))
    served.until(lambda: served.store.info(object_id) is None)
    client.put(object_id, data, 10_000, owner=1)


def test_a_put_that_waits_can_be_cancelled(served: Served) -> None:
    client, object_id, transfer = served.client(), new_object_id(), Transfer()
    run_in_reactor(lambda: served.store.create(object_id, 10, owner=1, writer="other"))
    wait = in_thread(client.put, object_id, [b"0123456789"], 10, owner=1, transfer=transfer)
    served.waiting()
    transfer.cancel()
    with pytest.raises(TransferCancelled, match="the transfer was cancelled"):
        wait.result(10)


def test_what_is_cancelled_already_does_not_begin(served: Served) -> None:
    client, transfer = served.client(), Transfer("z")
    object_id = served.put(client, b"x")
    transfer.cancel()
    with pytest.raises(TransferCancelled, match="z was cancelled"):
        client.get(object_id, transfer=transfer)
    with pytest.raises(TransferCancelled):
        client.put(new_object_id(), [b"x"], 1, owner=1, transfer=transfer)
    assert served.leases(object_id) == 0
    assert len(client._idle) == 1


def test_a_cancel_that_comes_late_disturbs_nobody(served: Served) -> None:
    client, transfer = served.client(), Transfer()
    object_id = served.put(client, b"hello")
    view = client.get(object_id, transfer=transfer)
    wait = in_thread(client.get, new_object_id(), bringer=7, timeout=30.0)
    served.waiting()
    transfer.cancel()
    assert bytes(client.get(object_id)) == bytes(view) == b"hello"
    assert not wait.done()
    run_in_reactor(lambda: served.store.session_gone(7))
    with pytest.raises(UnknownObject):
        wait.result(10)


def test_an_error_while_copying_leaves_nothing(served: Served) -> None:
    class Broken(Transfer):
        def advance(self, count: int) -> None:
            raise error("broken")

    client, object_id = served.client(), new_object_id()
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error, match="broken"):
            client.put(object_id, [b"x"], 1, owner=1, transfer=Broken())
        served.until(lambda: served.store.info(object_id) is None)
    client.put(object_id, [b"x"], 1, owner=1)
    assert bytes(client.get(object_id)) == b"x"
