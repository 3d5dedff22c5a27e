"""Real ``ipdaemon`` processes and their stores, with a small controller in this process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from ipkernel.errors import ConnectError
from ipkernel.serialize.payload import loads
from ipkernel.wire.addresses import machine_id
from ipkernel.wire.messages import Copied, Free, Outcome, Seek, Source, decode_reason
from tests.support.hostcontroller import HostController
from tests.support.reactor import inreactor, reactor
from tests.support.storehost import fetch

both = pytest.mark.parametrize("how", ["native", "portable"])
MB = 1 << 20


class Daemon:
    """An ``ipdaemon`` of ours."""

    def __init__(self, how: str, *arguments: str) -> None:
        environment = {**os.environ, "IPKERNEL_PORTABLE": "1" if how == "portable" else "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipkernel.cli.ipdaemon", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    async def output(self) -> tuple[str, str, int]:
        out, err = await deferToThread(self.process.communicate, timeout=30)
        return out.decode(), err.decode(), self.process.returncode

    async def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        await self.output()


def with_daemon(*more: str, count: int = 1) -> Any:
    """Run a test with a controller and a daemon that has joined it."""

    def decorate(test: Callable[..., Any]) -> Any:
        async def wrapped(how: str, tmp_path: Path) -> None:
            directory = tmp_path / "security"
            directory.mkdir(mode=0o700)
            controller = HostController(reactor(), directory)
            await controller.listen()
            daemon = Daemon(
                how, "--furl-file", str(controller.furl_file), "-n", str(count),
                "--grace", "20", *more,
            )  # fmt: skip
            try:
                await controller.engines(count)
                await test(controller, daemon)
            finally:
                await daemon.close()
                await controller.close()
                gc.collect()  # the frames of errors refer to what was mapped

        wrapped.__name__ = test.__name__
        test_in_reactor = inreactor(wrapped)

        def portable_too(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
            if how == "portable":
                monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
            test_in_reactor(how, tmp_path)

        portable_too.__name__ = test.__name__
        return both(portable_too)

    return decorate


def reverse(data: bytearray) -> bytearray:
    data.reverse()
    return data


@with_daemon()
async def test_there_and_back(controller: HostController, daemon: Daemon) -> None:
    access = controller.hellos[0].store
    assert access is not None and access.machine == machine_id()
    assert access.hints[0].startswith("tcp:127.0.0.1:") and len(access.key) == 32
    store = controller.local_store()
    blob = os.urandom(16)
    data = bytearray(os.urandom(3 * MB))
    task, payload = controller.submit_stored(reverse, [blob], data)
    await controller.until(lambda: any(isinstance(m, Seek) for m, _ in controller.messages))
    assert controller.channel is not None
    controller.channel.send(Source(blob, len(payload)))
    await deferToThread(store.put, blob, [payload], len(payload), owner=1)
    done, body = await controller.outcome(task)
    assert (done.outcome, done.size, bytes(body)) == (Outcome.OK, 0, b"")
    assert (Copied([blob]), b"") in controller.messages
    result = loads(await fetch(store, done.object))
    assert result == data[::-1] and done.length > 3 * MB
    controller.channel.send(Free([blob, done.object]))
    assert await deferToThread(store.wait_freed, done.object, 10)
    store.close()


@with_daemon()
async def test_an_object_that_is_lost(controller: HostController, daemon: Daemon) -> None:
    task, _ = controller.submit_stored(reverse, [os.urandom(16)], b"")
    await controller.until(lambda: any(isinstance(m, Seek) for m, _ in controller.messages))
    seek = next(m for m, _ in controller.messages if isinstance(m, Seek))
    assert controller.channel is not None
    controller.channel.send(Source(seek.object, problem="host n7 is gone"))
    done, body = await controller.outcome(task)
    assert done.outcome is Outcome.LOST
    reason = decode_reason(body)
    assert (reason.kind, reason.text) == ("object", "host n7 is gone")
    assert await controller.result(controller.submit(abs, -1)) == 1


@with_daemon("--store-memory", "0")
async def test_a_daemon_without_a_store(controller: HostController, daemon: Daemon) -> None:
    assert controller.hellos[0].store is None
    assert len(await controller.result(controller.submit(bytes, MB))) == MB


@with_daemon("--data-interface", "192.0.2.1")
async def test_a_data_port_that_cannot_listen(controller: HostController, daemon: Daemon) -> None:
    access = controller.hellos[0].store
    assert access is not None and access.hints == [] and access.local
    done, _ = await controller.outcome(controller.submit(bytes, MB))
    store = controller.local_store()
    assert len(loads(await fetch(store, done.object))) == MB
    store.close()
    daemon.process.terminate()
    _, err, status = await daemon.output()
    assert status == 0 and "192.0.2.1 is not an address of this machine" in err


@with_daemon()
async def test_a_controller_that_comes_back(controller: HostController, daemon: Daemon) -> None:
    """What was in the store is of no use to anybody any more."""
    done, _ = await controller.outcome(controller.submit(bytes, MB))
    store = controller.local_store()
    kept = await fetch(store, done.object)
    key = controller.hellos[0].store.key  # type: ignore[union-attr]
    await controller.close()
    controller.joined.clear()
    await controller.listen()
    await controller.engines(1)
    assert await deferToThread(store.wait_freed, done.object, 10)
    assert len(loads(kept)) == MB
    access = controller.hellos[-1].store
    assert access is not None and access.key == key
    again, _ = await controller.outcome(controller.submit(bytes, MB))
    assert len(loads(await fetch(store, again.object))) == MB
    store.close()


@with_daemon()
async def test_a_daemon_that_is_killed(controller: HostController, daemon: Daemon) -> None:
    done, _ = await controller.outcome(controller.submit(bytes, MB))
    store = controller.local_store()
    kept = await fetch(store, done.object)
    daemon.process.send_signal(signal.SIGKILL)
    await controller.until(lambda: controller.lost)
    assert len(loads(kept)) == MB  # what is mapped stays
    with pytest.raises(ConnectError):
        await fetch(store, done.object)
    store.close()
    await deferLater(reactor(), 0)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ipkernel.cli.ipdaemon", "--furl-file", str(tmp_path / "f"), "-n",
         "1", "--spill-dir", str(tmp_path / "missing")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert "missing: it is not a directory to write to" in found.stdout
