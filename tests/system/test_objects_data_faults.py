"""Objects on a network that fails: cut, frozen, silent, slow, damaged. Nothing is ever wrong or left over."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash

from ipkernel.errors import TransferError
from ipkernel.objects import new_object_id, serving
from ipkernel.objects.datawire import Done, Exists, Go, Put, PutRange
from ipkernel.objects.digests import digest_of
from ipkernel.objects.line import Line
from ipkernel.objects.lines import Guard
from ipkernel.objects.ranges import PIECE
from ipkernel.objects.remote import RemoteStore
from ipkernel.objects.tlsstream import StreamBroken
from ipkernel.objects.transfer import Transfer, TransferCancelled
from tests.support import leaks
from tests.support.datascene import DataScene, data_scene
from tests.support.faultproxy import DOWN, UP, Corrupt, Cut, FaultProxy, Freeze, Silence, Slow

MB = 1 << 20
NOTHING = xxhash.xxh3_128_digest(b"")


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[DataScene]:
    with data_scene(timeout=1.0, **getattr(request, "param", {})) as scene:
        yield scene


@pytest.fixture
def proxy(scene: DataScene) -> Iterator[FaultProxy]:
    with FaultProxy(scene.port.port) as proxy:
        yield proxy


@pytest.fixture
def client(scene: DataScene, proxy: FaultProxy) -> RemoteStore:
    return scene.client(port=proxy.port, timeout=1.0)


def nothing_left(scene: DataScene) -> bool:
    stats = scene.call(scene.store.stats)
    return bool(stats.objects == stats.leased == stats.waiting == 0)


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("streams", [1, 2])
def test_cuts_anywhere_in_a_put(streams: int, seed: int) -> None:
    chance = random.Random(seed)
    size = 9 * PIECE if streams == 1 else 17 * PIECE
    data = os.urandom(size - 1234)
    with data_scene(grace=0.3) as scene, FaultProxy(scene.port.port) as proxy:
        for _ in range(6):
            one = new_object_id()
            cuts = [Cut(chance.randrange(size), UP) for _ in range(chance.randrange(1, 8))]
            proxy.plan(*cuts)
            client = scene.client(port=proxy.port, streams=streams)
            try:
                client.put(one, [data], len(data), owner=7)
            except TransferError as error:
                assert "the connection to host n1 was lost" in str(error)
            else:
                info = scene.info(one)
                assert info is not None and info.digest == digest_of(data)
                assert scene.bytes_of(one) == data
                scene.client().free([one])
            client.close()
            proxy.clear()
            assert scene.client().wait_freed(one, 20)
        assert nothing_left(scene)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("streams", [1, 2])
def test_cuts_anywhere_in_a_get(streams: int, seed: int) -> None:
    chance = random.Random(seed)
    size = 9 * PIECE if streams == 1 else 17 * PIECE
    data = os.urandom(size - 1234)
    one = new_object_id()
    with data_scene() as scene, FaultProxy(scene.port.port) as proxy:
        scene.keep(one, data)
        for _ in range(6):
            cuts = [Cut(chance.randrange(size), DOWN) for _ in range(chance.randrange(1, 8))]
            proxy.plan(*cuts)
            client = scene.client(port=proxy.port, streams=streams)
            try:
                assert client.get(one) == data
            except TransferError as error:
                assert "the connection to host n1 was lost" in str(error)
            client.close()
            proxy.clear()
        scene.client().free([one])
        while not nothing_left(scene):
            time.sleep(0.005)


@pytest.mark.parametrize("after", [0, 500, 2500])
def test_cuts_while_the_connection_is_made(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore, after: int
) -> None:
    one = new_object_id()
    proxy.plan(Cut(after))
    try:
        client.put(one, [b"x" * 100], 100, owner=7)
    except Exception as error:
        assert "host n1 cannot be reached" in str(error)
        client.put(one, [b"x" * 100], 100, owner=7)
    assert scene.bytes_of(one) == b"x" * 100


def test_only_what_is_missing_is_sent_again(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one, data = new_object_id(), os.urandom(10 * PIECE)
    proxy.plan(always=Cut(2 * PIECE + PIECE // 2, UP))
    transfer = Transfer()
    client.put(one, [data], len(data), owner=7, transfer=transfer)
    assert scene.bytes_of(one) == data
    assert transfer.done == len(data)
    assert proxy.connections >= 5  # none of them passes as much as half of it
    assert proxy.passed[UP] < 2 * len(data)


def test_only_what_is_missing_is_fetched_again(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one, data = new_object_id(), os.urandom(10 * PIECE)
    scene.keep(one, data)
    proxy.plan(always=Cut(2 * PIECE + PIECE // 2, DOWN))
    transfer = Transfer()
    assert client.get(one, transfer=transfer) == data
    assert transfer.done == len(data)
    assert proxy.connections >= 5  # none of them passes as much as half of it
    assert proxy.passed[DOWN] < 2 * len(data)


def test_a_connection_that_is_cut_again_and_again(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one = new_object_id()
    scene.keep(one, bytes(5 * PIECE))
    proxy.plan(Cut(2 * PIECE + 9999, DOWN), always=Cut(PIECE // 2, DOWN))
    with pytest.raises(
        TransferError,
        match=rf"\d+ of {5 * PIECE} bytes have arrived; the connection to host n1 was lost, "
        r"and could not be kept up in 5 further attempts: the connection was lost \(",
    ):
        client.get(one)
    assert proxy.connections >= 6


def test_a_host_that_is_gone_for_a_moment(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one, data = new_object_id(), os.urandom(3 * PIECE)
    scene.keep(one, data)
    proxy.plan(Cut(PIECE + 5000, DOWN), Cut(0), Cut(0))  # the next two do not get as far as TLS
    assert client.get(one) == data
    assert proxy.connections == 4


def test_a_connection_that_was_cut_while_nobody_used_it(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    for _ in range(2):
        one = new_object_id()
        client.put(one, [b"x" * MB], MB, owner=7)
        proxy.cut()
        assert client.get(one) == b"x" * MB
        proxy.cut()
        client.free([one])
        proxy.cut()
    assert nothing_left(scene)


def test_an_unfinished_upload_is_given_up_after_a_while(proxy: FaultProxy) -> None:
    with data_scene(grace=0.05) as scene, FaultProxy(scene.port.port) as proxy:
        one = new_object_id()
        proxy.plan(always=Cut(MB, UP))
        with pytest.raises(TransferError):
            scene.client(port=proxy.port).put(one, [bytes(PIECE)], PIECE, owner=7)
        assert scene.client().wait_freed(one, 20)
        assert nothing_left(scene)


# ---------------------------------------------------------------- other faults


@pytest.mark.parametrize("fault", [Freeze(PIECE + 9), Silence(PIECE + 9, UP), Corrupt(MB, UP)])
def test_a_put_survives(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore, fault: object
) -> None:
    one, data = new_object_id(), os.urandom(3 * PIECE)
    proxy.plan(fault)
    client.put(one, [data], len(data), owner=7)
    assert scene.bytes_of(one) == data
    assert proxy.connections == 2


@pytest.mark.parametrize(
    "fault", [Freeze(PIECE + 9), Silence(PIECE + 9, DOWN), Silence(5000, UP), Corrupt(MB, DOWN)]
)
def test_a_get_survives(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore, fault: object
) -> None:
    one, data = new_object_id(), os.urandom(3 * PIECE)
    scene.keep(one, data)
    proxy.plan(fault)
    assert client.get(one) == data


def test_a_host_that_freezes_is_reported(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one = new_object_id()
    scene.keep(one, bytes(PIECE))
    proxy.plan(always=Freeze(MB, DOWN))
    with pytest.raises(TransferError, match=r"frozen: nothing moved for 1 s"):
        client.get(one)


def test_a_slow_network_is_no_fault(
    scene: DataScene, proxy: FaultProxy, client: RemoteStore
) -> None:
    one, data = new_object_id(), os.urandom(MB)
    proxy.plan(Slow(after=0, rate=2e6))
    client.put(one, [data], len(data), owner=7)
    assert client.get(one) == data
    assert proxy.connections == 1


def test_a_frozen_client_is_let_go(
    scene: DataScene, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was asked for may fit into the system's buffers: then the host waits for the next request.
    monkeypatch.setattr(serving, "IDLE", 1.0)
    one = new_object_id()
    scene.keep(one, bytes(20 * PIECE))
    proxy.plan(always=Freeze(MB))
    transfer = Transfer("it")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(scene.client(port=proxy.port).get, one, transfer=transfer)
        while not transfer.done:
            time.sleep(0.005)
        while scene.call(lambda: scene.store.stats().leased):  # a second later
            time.sleep(0.005)
        transfer.cancel()
        with pytest.raises(TransferCancelled):
            coming.result(20)


def test_cancelling_a_frozen_transfer(scene: DataScene, proxy: FaultProxy) -> None:
    one = new_object_id()
    proxy.plan(Freeze(PIECE, UP))
    transfer = Transfer("the frozen one")
    client = scene.client(port=proxy.port, timeout=60.0)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(
            client.put, one, [bytes(5 * PIECE)], 5 * PIECE, owner=7, transfer=transfer
        )
        while transfer.done < PIECE:
            time.sleep(0.005)
        transfer.cancel()
        with pytest.raises(TransferCancelled, match="the frozen one was cancelled"):
            going.result(20)
    assert scene.client().wait_freed(one, 20)


def test_a_session_that_ends_takes_its_uploads_along(scene: DataScene, proxy: FaultProxy) -> None:
    one = new_object_id()
    proxy.plan(Cut(2 * PIECE, UP), always=Freeze(0))
    transfer = Transfer()
    client = scene.client(port=proxy.port, timeout=60.0)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(
            client.put, one, [bytes(5 * PIECE)], 5 * PIECE, owner=7, transfer=transfer
        )
        while proxy.connections < 2:
            time.sleep(0.005)
        assert scene.info(one) is not None
        scene.call(scene.port.session_gone, 8)
        assert scene.info(one) is not None
        scene.call(scene.port.session_gone, 7)
        assert scene.info(one) is None
        transfer.cancel()
        with pytest.raises(TransferError):
            going.result(20)


# ---------------------------------------------------------------- wrong bytes


def lie(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the next so many ranges be sent with a digest that is not theirs."""
    right = Line.send_range
    left = [times]

    def send_range(self, *args):
        digest = right(self, *args)
        if left[0] and digest != NOTHING:
            left[0] -= 1
            return bytes(16)
        return digest

    monkeypatch.setattr(Line, "send_range", send_range)


@pytest.mark.parametrize("times", [1, 2])
def test_a_wrong_digest(scene: DataScene, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    client = scene.client()
    one, two, data = new_object_id(), new_object_id(), os.urandom(PIECE)
    scene.keep(one, data)
    for move in (lambda: client.get(one), lambda: client.put(two, [data], PIECE, owner=7)):
        lie(monkeypatch, times)
        if times == 1:
            move()
        else:
            with pytest.raises(TransferError, match="the digest differs, twice; look for faulty"):
                move()
    if times == 1:
        assert scene.bytes_of(two) == data


# ---------------------------------------------------------------- two that write


def test_whoever_sends_a_piece_again_takes_it_over(scene: DataScene) -> None:
    one, data = new_object_id(), os.urandom(1000)
    lines, guard = scene.client()._lines, Guard()
    old, new = lines.open(guard), lines.open(guard)
    for line in (old, new):
        assert isinstance(line.ask(Put(one, 1000, 7), Go), Go)
    old.tell(PutRange(one, 0, 1000))
    old.stream.send(b"\xff" * 500)  # and there it stays
    while not scene.call(lambda: scene.port._uploads._uploads[one]._claims):
        pass
    new.tell(PutRange(one, 0, 1000))
    digest = new.send_range([memoryview(data)], lambda count: None)
    new.tell(Done(digest))
    assert new.answer(Done) == Done(digest, True)
    with pytest.raises(StreamBroken):
        old.hear()
    assert scene.bytes_of(one) == data
    lines.drop(old, guard)
    assert isinstance(new.ask(Put(one, 1000, 7), Exists), Exists)
    lines.drop(new, guard)


def test_a_piece_that_is_there_is_not_written_again(scene: DataScene) -> None:
    one, data = new_object_id(), os.urandom(PIECE)
    lines, guard = scene.client()._lines, Guard()
    line = lines.open(guard)
    assert line.ask(Put(one, 2 * PIECE, 7), Go).have == []
    for content in (data, bytes(PIECE)):
        line.tell(PutRange(one, 0, PIECE))
        digest = line.send_range([memoryview(content)], lambda count: None)
        line.tell(Done(digest))
        assert line.answer(Done) == Done(digest, False)
    assert line.ask(Put(one, 2 * PIECE, 7), Go).have == [(0, PIECE)]
    upload = scene.port._uploads._uploads[one]
    assert upload._view[:PIECE] == data
    lines.drop(line, guard)


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("scene", [{"limit": 512 * MB}], indirect=True)
def test_stopping_in_the_middle_of_everything(scene: DataScene) -> None:
    clients = [scene.client(streams=2, pauses=(0.01,)) for _ in range(4)]
    one = new_object_id()
    scene.keep(one, bytes(30 * PIECE))
    began = [threading.Event() for _ in clients]

    class Watched(Transfer):
        def __init__(self, event: threading.Event) -> None:
            super().__init__()
            self._event = event

        def advance(self, count: int) -> None:
            self._event.set()
            super().advance(count)

    def move(number: int) -> None:
        transfer = Watched(began[number])
        if number % 2:
            clients[number].get(one, transfer=transfer)
        else:
            data = [bytes(20 * PIECE)]
            clients[number].put(new_object_id(), data, 20 * PIECE, owner=7, transfer=transfer)

    with ThreadPoolExecutor(4) as pool:
        moves = [pool.submit(move, number) for number in range(4)]
        for event in began:
            assert event.wait(20)
        scene.call(scene.port.stop)
        assert scene.call(lambda: scene.port.connections) == 0
        for future in moves:
            error = future.exception(20)
            assert error is None or isinstance(error, TransferError)
    scene.client().close()
    scene.call(scene.store.free, [one])
    stats = scene.call(scene.store.stats)
    assert stats.leased == 0


# ---------------------------------------------------------------- memory


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Find cycles of references that keep memory: without the collector it is not given back."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failures(scene: DataScene, proxy: FaultProxy) -> Iterator[Transfer]:
    """Have transfers fail in several ways."""
    for fault in (Cut(PIECE // 2), Freeze(PIECE // 2), Corrupt(PIECE // 2)):
        proxy.plan(always=fault)
        yield Transfer("it")

    class Cancelled(Transfer):
        def advance(self, count: int) -> None:
            self.cancel()
            super().advance(count)

    proxy.clear()
    yield Cancelled("it")


def test_a_failed_get_lets_go_of_the_memory(
    scene: DataScene, proxy: FaultProxy, no_collector: None
) -> None:
    one, size = new_object_id(), 3 * PIECE
    scene.keep(one, bytes(size))
    client = scene.client(port=proxy.port, timeout=0.3, pauses=(0.01,))
    for transfer in failures(scene, proxy):
        memory = bytearray(size)
        try:
            client.fetch_into(one, size, memoryview(memory), transfer)
        except TransferError as error:
            assert str(error).startswith("it")
        memory.append(0)  # refused as long as anybody has a view of it


def test_a_failed_put_lets_go_of_the_memory(
    scene: DataScene, proxy: FaultProxy, no_collector: None
) -> None:
    client = scene.client(port=proxy.port, timeout=0.3, pauses=(0.01,))
    for transfer in failures(scene, proxy):
        memory = bytearray(3 * PIECE)
        try:
            client.put(new_object_id(), [memory], len(memory), owner=7, transfer=transfer)
        except TransferError as error:
            assert str(error).startswith("it")
        memory.append(0)


def test_what_was_moved_is_let_go(scene: DataScene, no_collector: None) -> None:
    client = scene.client()
    one, memory = new_object_id(), bytearray(3 * PIECE)
    client.put(one, [memory], len(memory), owner=7)
    memory.append(0)
    client.fetch_into(one, len(memory) - 1, memoryview(memory)[:-1])
    memory.append(0)


def test_the_hosts_memory_is_let_go_whatever_happens(
    scene: DataScene, proxy: FaultProxy, no_collector: None
) -> None:
    """Looked at by the fixture of all tests: segments are descriptors, unless nobody sees them."""
    client = scene.client(port=proxy.port, timeout=0.3, pauses=(0.01,))
    one, size = new_object_id(), 3 * PIECE
    scene.keep(one, bytes(size))
    for transfer in failures(scene, proxy):
        with pytest.raises(TransferError):
            client.get(one, transfer=transfer)
    for transfer in failures(scene, proxy):
        with pytest.raises(TransferError):
            client.put(new_object_id(), [bytes(size)], size, owner=7, transfer=transfer)
    scene.close()
    left = [name for name in leaks.descriptors().values() if "memfd:ipkernel" in name]
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [name for name in leaks.descriptors().values() if "memfd:ipkernel" in name]
    assert not left
