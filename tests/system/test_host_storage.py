"""Large objects on one host: real engines and a real store, with lists in the controller's place."""

from __future__ import annotations

import gc
import inspect
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from ipkernel.objects.ref import ObjectRef
from ipkernel.wire.messages import (
    Done,
    EngineLeft,
    Free,
    Reclaim,
    Returned,
    Seek,
    Source,
)
from tests.support.enginehost import both
from tests.support.reactor import inreactor
from tests.support.storehost import StoreHost, spill_directory

MB = 1 << 20


def host_test(function: Any = None, **options: Any) -> Any:
    """Run a test with a StoreHost that is stopped at the end, native and portable."""
    if function is None:
        return lambda function: host_test(function, **options)
    parameters = inspect.signature(function).parameters

    async def wrapped(how: str, tmp_path: Path) -> None:
        chosen = {
            name: value(tmp_path) if callable(value) else value for name, value in options.items()
        }
        host = StoreHost(how, **chosen)
        try:
            await host.ready(chosen.get("count", 1))
            await function(host, *([tmp_path] if "tmp_path" in parameters else []))
        finally:
            await host.stop()
            gc.collect()  # the frames of errors refer to what was mapped

    wrapped.__name__ = function.__name__
    test = inreactor(wrapped)
    test.__signature__ = inspect.signature(wrapped)

    def portable_too(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if how == "portable":
            monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
        test(how, tmp_path)

    portable_too.__name__ = function.__name__
    return both(portable_too)


async def drained(host: StoreHost) -> None:
    """Wait until nothing is leased any more; engines tell of that a moment later."""
    for _ in range(500):
        if host.plane is None or not host.plane.store.stats().leased:
            return
        await deferLater(host.reactor, 0.01)
    raise AssertionError(f"still leased: {host.plane.store.stats()}")


def double(data: bytearray) -> bytearray:
    data[0] = 1  # it is our own
    return data + data


# ---------------------------------------------------------------- the usual way


@host_test
async def test_small_tasks_need_no_store(host: StoreHost) -> None:
    assert await host.result(host.submit(len, b"x" * 1000)) == 1000
    assert host.plane is None


@host_test
async def test_a_large_argument_and_a_large_result(host: StoreHost) -> None:
    data = bytearray(b"abc") * MB
    task = await host.call(double, data)
    done, payload = await host.done(task)
    assert (done.size, bytes(payload)) == (0, b"") and done.length > 2 * len(data)
    result = await host.result(task)
    assert len(result) == 2 * len(data) and result[:3] == b"\1bc" and result[3:6] == b"abc"
    again = await host.result(await host.call(len, result))
    assert again == len(result)


@host_test
async def test_arguments_by_reference_are_shared_and_private(host: StoreHost) -> None:
    blob = await host.put_value(bytearray(2 * MB))
    ref = ObjectRef(blob, 2 * MB)

    def spoil(data: bytearray) -> int:
        before = data[7]
        data[7] = 99
        return before

    for _ in range(3):
        assert await host.result(host.submit(spoil, ref, refs=[blob])) == 0


@host_test
async def test_a_result_is_an_argument_without_leaving_the_host(host: StoreHost) -> None:
    done, _ = await host.done(host.submit(bytearray, 3 * MB))
    ref = ObjectRef(done.object, done.length)
    assert await host.result(host.submit(len, ref, refs=[done.object])) == 3 * MB


@host_test
async def test_a_small_result_that_is_kept(host: StoreHost) -> None:
    task = host.submit(pow, 2, 10, keep=True)
    done, _ = await host.done(task)
    assert done.object and done.size == 0
    assert await host.result(task) == 1024


@host_test
async def test_nothing_stays_leased_and_freed_memory_is_used_again(host: StoreHost) -> None:
    for _ in range(6):  # ten times the store's memory in all
        task = await host.call(double, bytearray(40 * MB))
        done, _ = await host.done(task)
        needs = host.plane.store._catalog.ids()
        host.engines.handle([(Free(needs), b"")])
        await drained(host)
    assert host.plane.store.stats().used == 0


@host_test
async def test_output_and_objects_go_together(host: StoreHost) -> None:
    def prints(data: bytes) -> bytes:
        print("seen", len(data))
        return data

    task = await host.call(prints, b"x" * MB)
    assert len(await host.result(task)) == MB
    text = b"".join(bytes(p) for m, p in host.messages if type(m).__name__ == "Output")
    assert text == b"seen %d\n" % MB


# ---------------------------------------------------------------- no room, no store


@host_test(memory="8MB", spill_limit=0)
async def test_a_result_that_does_not_fit(host: StoreHost) -> None:
    info = await host.error(host.submit(bytearray, 20 * MB))
    assert info.ename == "StoreFull"
    assert "the result cannot stay on host here: an object of 20.0 MiB does not fit" in info.evalue
    assert "store_memory" in info.evalue
    assert await host.result(host.submit(sum, [1, 2])) == 3


@host_test(memory="64MB", spill_limit="1GB", spill_dir=spill_directory)
async def test_what_does_not_fit_into_memory_goes_to_disk_and_comes_back(host: StoreHost) -> None:
    blobs = [await host.put_value(bytearray(b"%d" % n) * (24 * MB)) for n in range(5)]
    assert host.plane.store.stats().disk_used > 48 * MB
    for number, blob in enumerate(blobs):
        ref = ObjectRef(blob, 24 * MB)
        value = await host.result(host.submit(lambda data: data[:1], ref, refs=[blob]))
        assert value == b"%d" % number


@host_test(memory=0)
async def test_a_host_without_a_store(host: StoreHost) -> None:
    assert host.storage is None
    assert len(await host.result(host.submit(bytearray, MB))) == MB
    task = host.submit(len, b"", refs=[os.urandom(16)])
    assert "no store" in await host.lost(task)
    assert await host.result(host.submit(len, b"x" * MB, keep=True)) == MB


# ---------------------------------------------------------------- waiting


@host_test
async def test_a_task_waits_for_its_object(host: StoreHost) -> None:
    missing = os.urandom(16)
    ref = ObjectRef(missing, MB)
    task = host.submit(len, ref, refs=[missing])
    after = host.submit(pow, 2, 3)
    await host.until(lambda: host.of(Seek))
    assert host.of(Seek) == [Seek(missing)]
    host.engines.handle([(Source(missing, MB), b"")])
    from ipkernel.serialize.payload import dumps

    await host.put(dumps(b"x" * MB), missing)
    assert await host.result(task) == MB
    assert await host.result(after) == 8


@host_test
async def test_an_object_that_cannot_be_had(host: StoreHost) -> None:
    missing = os.urandom(16)
    task = host.submit(len, b"", refs=[missing])
    host.engines.handle([(Source(missing, problem="its only host n2 is gone"), b"")])
    assert await host.lost(task) == "its only host n2 is gone"
    assert await host.result(host.submit(pow, 2, 3)) == 8


@host_test
async def test_a_waiting_task_can_be_taken_back(host: StoreHost) -> None:
    task = host.submit(len, b"", refs=[os.urandom(16)])
    host.engines.handle([(Reclaim(0, [task]), b"")])
    assert host.of(Returned) == [Returned(0, [task])]
    assert await host.result(host.submit(pow, 2, 3)) == 8


# ---------------------------------------------------------------- ends


@host_test
async def test_a_crash_gives_back_leases_and_the_task_itself(host: StoreHost) -> None:
    blob = await host.put_value(b"x" * MB)
    ref = ObjectRef(blob, MB)

    def die(data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    task = host.submit(die, ref, refs=[blob])
    waiting = host.submit(len, ref, refs=[blob])
    await host.until(lambda: host.of(EngineLeft))
    assert host.of(EngineLeft)[0].started == [task]
    await host.ready(2)
    await drained(host)
    again = host.submit(len, ref, refs=[blob])
    assert await host.result(again) == MB
    assert waiting not in [message.task for message in host.of(type(host.messages[-1][0]))[:-1]]


@host_test
async def test_a_result_that_nobody_was_told_of_is_forgotten(host: StoreHost) -> None:
    """The engine dies between putting its result into the store and saying so."""

    def die_later() -> bytes:
        import ctypes
        import threading

        from ipkernel.engine.current import state

        loop: Any = state.loop
        put = loop.objects.put

        def last(*args: Any) -> None:
            put(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        loop.objects.put = last
        assert ctypes and threading
        return b"x" * MB

    host.submit(die_later)
    await host.until(lambda: host.of(EngineLeft))
    stats = host.plane.store.stats()
    assert (stats.objects, stats.used, stats.leased) == (0, 0, 0)


@host_test
async def test_an_interrupt_of_the_copy(host: StoreHost) -> None:
    """The copy of a result is ended by an interrupt, and leaves nothing behind."""

    class Slow(bytearray):
        """Sends an interrupt when its bytes are about to be copied."""

    def interrupts() -> bytearray:
        from ipkernel.engine.current import state

        loop: Any = state.loop
        put = loop.objects.put

        def late(*args: Any) -> Any:
            loop.objects.put = put
            os.kill(os.getpid(), signal.SIGINT)
            return put(*args)

        loop.objects.put = late
        return bytearray(64 * MB)

    assert Slow
    if host.starter.threaded and os.name == "nt":
        pytest.skip("os.kill() cannot interrupt there")
    info = await host.error(host.submit(interrupts))
    assert info.ename == "KeyboardInterrupt"
    assert len(await host.result(host.submit(bytearray, MB))) == MB
    assert host.plane.store.stats().objects == 1


@host_test
async def test_user_code_may_fork(host: StoreHost) -> None:
    blob = await host.put_value(b"x" * MB)

    def forks(data: bytes) -> tuple[int, int, bytes]:
        import multiprocessing

        pid = os.fork()
        if pid == 0:
            os._exit(0 if data[:1] == b"x" else 3)
        status = os.waitpid(pid, 0)[1]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            lengths = pool.map(len, [data, data])
        return status, sum(lengths), data

    ref = ObjectRef(blob, MB)
    for _ in range(2):
        status, total, data = await host.result(host.submit(forks, ref, refs=[blob]))
        assert (status, total, data) == (0, 2 * MB, b"x" * MB)
    await drained(host)


@host_test(count=2)
async def test_engines_know_nothing_of_the_daemons_memory(host: StoreHost) -> None:
    """Neither the descriptors of the store nor its sockets are inherited by later engines."""
    await host.put_value(b"x" * MB)
    assert host.engines.restart([0], "on request") == [0]
    await host.ready(3)

    def look() -> list[str]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
        with open("/proc/self/maps") as file:
            found += [line.split()[-1] for line in file]
        return [one for one in found if "memfd:ipkernel" in one and "progress" not in one]

    if os.path.isdir("/proc/self/fd"):
        assert await host.result(host.submit(look)) == []


@host_test
async def test_connections_that_user_code_ends(host: StoreHost) -> None:
    """The memory of arguments stays what it is, whatever becomes of the connection to the store."""
    blob = await host.put_value(bytearray(b"x" * MB))

    def closes(data: bytearray) -> tuple[bool, int]:
        import __main__
        from ipkernel.engine.current import state

        loop: Any = state.loop
        store = loop.objects.store
        for connection in [store._anchor, *store._idle]:
            connection._socket.shutdown(socket.SHUT_RDWR)
        __main__.kept = data
        return True, len(data)

    ref = ObjectRef(blob, MB)
    assert await host.result(host.submit(closes, ref, refs=[blob])) == (True, MB)
    host.engines.handle([(Free([blob]), b"")])
    assert len(await host.result(host.submit(bytearray, MB))) == MB

    def look() -> int:
        import __main__

        return __main__.kept.count(b"x")

    assert await host.result(host.submit(look)) == MB


# ---------------------------------------------------------------- all together


@host_test(count=2, memory="96MB", spill_dir=spill_directory)
async def test_whatever_happens_nothing_stays_behind(host: StoreHost) -> None:
    """Calls of all sizes, references, kills, interrupts, calls taken back: the store is empty then."""
    chance = random.Random(7)
    blobs = [await host.put_value(bytearray(chance.randrange(MB, 12 * MB))) for _ in range(8)]
    refs = [ObjectRef(blob, MB) for blob in blobs]
    tasks: list[int] = []

    def work(data: bytearray, wanted: int) -> bytearray:
        data[0] = 1
        time.sleep(0.002)
        return bytearray(wanted)

    for number in range(60):
        engine = chance.randrange(2)
        index = chance.randrange(len(blobs))
        wanted = chance.choice([10, 100_000, 2 * MB, 9 * MB])
        tasks.append(host.submit(work, refs[index], wanted, refs=[blobs[index]], engine=engine))
        if number == 20:
            await host.until(lambda: any(message.object for message in host.of(Done)))
        if number in (20, 21, 45):
            host.engines.signal([engine], int(signal.SIGKILL))
        elif number % 9 == 5:
            host.engines.signal([engine], int(signal.SIGINT))
        elif number % 7 == 3:
            host.engines.handle([(Reclaim(engine, tasks[-3:]), b"")])
        await deferLater(host.reactor, chance.choice([0, 0.001, 0.01]))

    def over() -> bool:
        lanes = [engine.lane for engine in host.engines._engines.values()]
        here = {
            task for lane in lanes for task in [*lane.waiting, *(m.task for m, _ in lane.flight)]
        }
        held = {task for lane in lanes for queue in lane.held.values() for task in queue}
        return not (here | held)

    for _ in range(3000):
        if over():
            break
        await deferLater(host.reactor, 0.01)
    assert over()
    results = [message.object for message in host.of(Done) if message.object]
    assert results
    host.engines.handle([(Free([*blobs, *results]), b"")])
    await drained(host)
    stats = host.plane.store.stats()
    assert (stats.objects, stats.used, stats.leased, stats.waiting) == (0, 0, 0, 0)
    assert not host.plane.objects.searches
