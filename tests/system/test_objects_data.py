"""Objects between a store and its clients on other machines: real sockets, real TLS, real threads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ipkernel.errors import ConnectError, StoreFull, TransferError, UnknownObject
from ipkernel.objects import new_object_id
from ipkernel.objects.dialing import Unreachable
from ipkernel.objects.digests import digest_of
from ipkernel.objects.interfaces import StoreClient
from ipkernel.objects.ranges import PIECE
from ipkernel.objects.transfer import Transfer, TransferCancelled
from tests.support.datascene import DataScene, data_scene

MB = 1 << 20


@pytest.fixture
def scene() -> Iterator[DataScene]:
    with data_scene() as scene:
        yield scene


def noise(size: int) -> bytes:
    return os.urandom(size)


@pytest.mark.parametrize("size", [1, 5000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
def test_what_is_put_is_there_and_comes_back(scene: DataScene, size: int) -> None:
    client: StoreClient = scene.client()
    one, data = new_object_id(), noise(size)
    client.put(one, [data], size, owner=7)
    assert scene.bytes_of(one) == data
    info = scene.info(one)
    assert info is not None and info.sealed and info.digest == digest_of(data)
    assert client.get(one) == data


def test_an_object_without_bytes(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    client.put(one, [b"", b""], 0, owner=7)
    assert len(client.get(one)) == 0
    info = scene.info(one)
    assert info is not None and info.digest == digest_of(b"")


def test_scattered_pieces_arrive_in_order(scene: DataScene) -> None:
    client = scene.client()
    pieces = [noise(n) for n in (1, 0, 70_000, 3, PIECE, 300_000, 12)]
    data = b"".join(pieces)
    one = new_object_id()
    buffers = [pieces[0], bytearray(pieces[1]), *map(memoryview, pieces[2:])]
    client.put(one, buffers, len(data), owner=7)
    assert scene.bytes_of(one) == data


def test_a_size_that_is_not_that_of_the_pieces(scene: DataScene) -> None:
    with pytest.raises(ValueError, match=r"4 bytes with 3 bytes"):
        scene.client().put(new_object_id(), [b"abc"], 4, owner=7)


def test_what_was_got_is_writable_and_ones_own(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(MB)
    client.put(one, [data], MB, owner=7)
    view = client.get(one)
    view[:4] = b"mine"
    assert client.get(one)[:4] == data[:4]
    assert scene.bytes_of(one) == data
    client.close()
    assert view[:4] == b"mine"  # memory outlives the connections


def test_an_object_that_is_there_is_not_sent_again(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(MB)
    scene.keep(one, data)
    transfer = Transfer("put it", MB)
    client.put(one, [b"\0" * MB], MB, owner=7, transfer=transfer)
    assert scene.bytes_of(one) == data
    assert transfer.done == MB


def test_progress_comes_in_small_steps(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(3 * PIECE)
    for move in ("put", "get"):
        steps: list[int] = []
        transfer = Transfer(move)
        advance = transfer.advance
        transfer.advance = lambda n, note=advance, to=steps: (to.append(n), note(n))[1]
        if move == "put":
            client.put(one, [data], len(data), owner=7, transfer=transfer)
        else:
            client.get(one, transfer=transfer)
        assert max(steps) <= MB
        assert transfer.done == transfer.size == len(data)
        assert transfer.route == "direct"


def test_several_connections_share_a_large_object(scene: DataScene) -> None:
    client = scene.client(streams=3)
    one, data = new_object_id(), noise(26 * PIECE + 5)
    client.put(one, [data], len(data), owner=7)
    assert scene.call(lambda: scene.port.connections) == 3
    transfer = Transfer()
    assert client.get(one, transfer=transfer) == data
    assert transfer.done == len(data)
    assert scene.call(lambda: scene.port.connections) == 3  # the same ones
    info = scene.info(one)
    assert info is not None and info.digest == digest_of(data)


def test_many_threads_use_one_store(scene: DataScene) -> None:
    client = scene.client()
    objects = {new_object_id(): noise(200_000 + n) for n in range(12)}

    def there_and_back(one: bytes) -> bool:
        client.put(one, [objects[one]], len(objects[one]), owner=7)
        return client.get(one) == objects[one]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(there_and_back, objects))


def test_two_clients_put_the_same_object(scene: DataScene) -> None:
    one, data = new_object_id(), noise(5 * PIECE)
    clients = [scene.client() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda c: c.put(one, [data], len(data), owner=7), clients))
    assert scene.bytes_of(one) == data


def test_one_client_puts_the_same_object_twice_at_once(scene: DataScene) -> None:
    one, data = new_object_id(), noise(5 * PIECE)
    client = scene.client()
    with ThreadPoolExecutor(2) as pool:
        puts = [pool.submit(client.put, one, [data], len(data), owner=7) for _ in range(2)]
        for put in puts:
            # Each takes over what the other was sending, so patience may end; nothing is wrong.
            error = put.exception(60)
            assert error is None or isinstance(error, TransferError)
    client.put(one, [data], len(data), owner=7)
    assert scene.bytes_of(one) == data


def test_fetching_into_given_memory(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(2 * PIECE)
    scene.keep(one, data)
    target = memoryview(bytearray(len(data)))
    assert client.fetch_into(one, len(data), target) == digest_of(data)
    assert target == data
    with pytest.raises(TransferError, match="has 8388608 bytes in the store of host n1, not 5"):
        client.fetch_into(one, 5, memoryview(bytearray(5)))


# ---------------------------------------------------------------- what is not there


def test_an_unknown_object(scene: DataScene) -> None:
    with pytest.raises(UnknownObject, match="no object"):
        scene.client().get(new_object_id())


def test_waiting_for_an_object_until_it_is_brought(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client.get, one, bringer=7)
        scene.keep(one, b"here it is")
        assert coming.result(20) == b"here it is"


def test_waiting_in_vain(scene: DataScene) -> None:
    client = scene.client()
    with pytest.raises(TimeoutError, match=r"did not come to host n1 within 0\.05 s"):
        client.get(new_object_id(), bringer=7, timeout=0.05)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client.get, new_object_id(), bringer=7)
        while not scene.call(lambda: scene.store.stats().waiting):
            time.sleep(0.005)
        scene.call(scene.store.session_gone, 7)
        with pytest.raises(UnknownObject, match="session 7 is gone"):
            coming.result(20)


def test_a_full_store_says_so_and_keeps_nothing(scene: DataScene) -> None:
    with data_scene(limit=8 * MB) as small:
        with pytest.raises(StoreFull):
            small.client().put(new_object_id(), [bytes(9 * MB)], 9 * MB, owner=7)
        stats = small.call(small.store.stats)
        assert stats.objects == stats.used == 0


# ---------------------------------------------------------------- freeing


def test_freeing_and_waiting_for_it(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    scene.keep(one, b"short-lived")
    assert not client.wait_freed(one, 0.01)
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(client.wait_freed, one, 20.0)
        scene.client().free([one, new_object_id()])
        assert gone.result(20)
    assert scene.info(one) is None


def test_freeing_more_than_fit_into_a_message(scene: DataScene) -> None:
    ids = [new_object_id() for _ in range(5000)]
    scene.keep(ids[-1], b"the last one")
    scene.client().free(ids)
    assert scene.info(ids[-1]) is None


def test_a_lease_ends_with_the_transfer(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    scene.keep(one, b"x" * MB)
    client.get(one)
    client.wait_freed(new_object_id(), 1)  # on the same connection, so after the release
    info = scene.info(one)
    assert info is not None and info.leases == 0


# ---------------------------------------------------------------- digests


def test_the_first_transfer_of_a_local_object_records_its_digest(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(2 * PIECE + 9)
    scene.keep(one, data)
    client.get(one)
    client.wait_freed(new_object_id(), 1)
    info = scene.info(one)
    assert info is not None and info.digest == digest_of(data)


def test_an_object_that_was_damaged_in_the_store(scene: DataScene) -> None:
    client = scene.client()
    one, data = new_object_id(), noise(MB)
    client.put(one, [data], MB, owner=7)

    async def damage() -> None:
        place = await scene.store.lease(one, "test")
        scene.store.view(place)[1000] ^= 1
        scene.store.release(one, "test")

    scene.call(lambda: damage_in_reactor(damage))
    with pytest.raises(TransferError, match="is damaged in the store of host n1: its digest is"):
        client.get(one)


def damage_in_reactor(damage) -> None:
    from twisted.internet.defer import ensureDeferred

    ensureDeferred(damage())


# ---------------------------------------------------------------- who is who


def test_a_wrong_ticket(scene: DataScene) -> None:
    client = scene.client(changes={"ticket": bytes(32)})
    with pytest.raises(ConnectError, match="its ticket is not valid here"):
        client.get(new_object_id())


def test_the_ticket_of_somebody_else(scene: DataScene) -> None:
    other = scene.access(scene.identity)
    client = scene.client(changes={"ticket": other.ticket})
    with pytest.raises(ConnectError, match="its ticket is not valid here"):
        client.put(new_object_id(), [b"x"], 1, owner=7)


@pytest.mark.parametrize("field", ["tub_id", "pin"])
def test_another_host_than_the_one_that_was_meant(scene: DataScene, field: str) -> None:
    with data_scene() as other:
        wrong = getattr(other.identity, field)
        client = scene.client(changes={field: wrong})
        with pytest.raises(ConnectError, match="host n1 cannot be reached: the certificate there"):
            client.get(new_object_id())


def test_a_host_that_is_not_there(scene: DataScene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    client = scene.client(port=port)
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: Connection refused"):
        client.get(new_object_id())


def test_a_loopback_address_of_another_machine_is_not_dialled(scene: DataScene) -> None:
    client = scene.client(changes={"machine": "elsewhere"})
    with pytest.raises(ConnectError, match="no address that could be dialled from here"):
        client.get(new_object_id())
    assert scene.call(lambda: scene.port.connections) == 0


# ---------------------------------------------------------------- relays


def relay_to(scene: DataScene, made: list[int]):
    def relay() -> socket.socket:
        near, far = socket.socketpair()
        made.append(1)
        scene.port.accept_socket(far)
        return near

    return relay


def test_a_host_that_cannot_be_dialled_is_reached_through_the_relay(scene: DataScene) -> None:
    made: list[int] = []
    unreachable = Unreachable()
    client = scene.client(
        changes={"machine": "elsewhere"}, relay=relay_to(scene, made), unreachable=unreachable
    )
    one, data = new_object_id(), noise(2 * PIECE)
    transfer = Transfer()
    client.put(one, [data], len(data), owner=7, transfer=transfer)
    assert transfer.route == "relay"
    assert client.get(one) == data
    assert len(made) == 1
    assert scene.identity.tub_id in unreachable


def test_a_host_that_can_be_dialled_needs_no_relay(scene: DataScene) -> None:
    made: list[int] = []
    scene.client(relay=relay_to(scene, made)).free([new_object_id()])
    assert not made


def test_a_relay_that_does_not_work(scene: DataScene) -> None:
    def relay() -> socket.socket:
        raise ConnectError("the controller offers no connection")

    client = scene.client(changes={"machine": "elsewhere"}, relay=relay)
    with pytest.raises(ConnectError, match="the controller offers no connection"):
        client.get(new_object_id())


def test_a_relay_that_hangs_up(scene: DataScene) -> None:
    def relay() -> socket.socket:
        near, far = socket.socketpair()
        far.close()
        return near

    client = scene.client(changes={"machine": "elsewhere"}, relay=relay)
    with pytest.raises(ConnectError, match="through the controller: the connection was lost"):
        client.get(new_object_id())


# ---------------------------------------------------------------- ends


class CancelledWhen(Transfer):
    """A transfer that somebody cancels when so many bytes have been moved."""

    def __init__(self, count: int) -> None:
        super().__init__("the move")
        self._when = count

    def advance(self, count: int) -> None:
        if self.done + count >= self._when:
            self.cancel()
        super().advance(count)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_cancelled_put_leaves_nothing(scene: DataScene, streams: int) -> None:
    client = scene.client(streams=streams)
    one, data = new_object_id(), noise(18 * PIECE)
    with pytest.raises(TransferCancelled, match="the move was cancelled"):
        client.put(one, [data], len(data), owner=7, transfer=CancelledWhen(10 * MB))
    assert client.wait_freed(one, 20)
    client.put(one, [data], len(data), owner=7)
    assert scene.bytes_of(one) == data


def test_a_cancelled_get_ends_its_lease(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    scene.keep(one, bytes(10 * PIECE))
    with pytest.raises(TransferCancelled):
        client.get(one, transfer=CancelledWhen(5 * MB))
    client.free([one])
    while scene.call(lambda: scene.store.stats().leased):
        time.sleep(0.005)
    assert client.wait_freed(one, 20)


def test_cancelling_who_waits(scene: DataScene) -> None:
    transfer = Transfer("the one that never comes")
    client = scene.client()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client.get, new_object_id(), bringer=7, transfer=transfer)
        while not scene.call(lambda: scene.store.stats().waiting):
            time.sleep(0.005)
        transfer.cancel()
        with pytest.raises(TransferCancelled, match="the one that never comes was cancelled"):
            coming.result(20)
    while scene.call(lambda: scene.store.stats().waiting):
        time.sleep(0.005)


def test_cancelling_before_it_begins_and_after_it_has_ended(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    early = Transfer("early")
    early.cancel()
    with pytest.raises(TransferCancelled):
        client.put(one, [b"abc"], 3, owner=7, transfer=early)
    late = Transfer("late")
    client.put(one, [b"abc"], 3, owner=7, transfer=late)
    late.cancel()  # must not cut the connection, which others use now
    assert client.get(one) == b"abc"


def test_closing_ends_what_goes_on(scene: DataScene) -> None:
    client = scene.client()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client.get, new_object_id(), bringer=7)
        while not scene.call(lambda: scene.store.stats().waiting):
            time.sleep(0.005)
        client.close()
        with pytest.raises(TransferError, match="are closed"):
            coming.result(20)
    with pytest.raises(ConnectError, match="are closed"):
        client.get(new_object_id())


def test_a_host_that_stops(scene: DataScene) -> None:
    client = scene.client()
    one = new_object_id()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(client.get, one, bringer=7)
        while not scene.call(lambda: scene.store.stats().waiting):
            time.sleep(0.005)
        scene.call(scene.port.stop)
        assert not [t for t in threading.enumerate() if t.name.startswith("ipkernel-data")]
        with pytest.raises(TransferError, match="could not be kept up in 5 further attempts"):
            coming.result(20)
