"""How large a store becomes, where it listens, and that nothing is made before it is needed."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipkernel.errors import ConnectError, ObjectError
from ipkernel.host.listening import Trigger, listen_tcp
from ipkernel.host.objectplane import store_limits
from ipkernel.host.storage import Storage, make_storage
from ipkernel.host.storeoptions import DEFAULTS, StoreOptions
from ipkernel.objects.tickets import is_ticket
from ipkernel.wire.addresses import machine_id
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import Copied, Free, HostAccess, HostGone, Relay, SessionGone

MACHINE = psutil.virtual_memory().total


class Readers:
    """A reactor that only knows who wants to read."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class Silent:
    backlog = 0

    def send(self, message: Any, payload: Any = b"") -> None:
        raise AssertionError(f"nothing is to be sent, but {message}")


@pytest.fixture
def readers() -> Readers:
    return Readers()


@pytest.fixture
def storage(readers: Readers) -> Iterator[Storage]:
    made = make_storage(readers, Identity.create(), Silent(), DEFAULTS)
    assert made is not None
    yield made
    with pytest.raises(StopIteration):
        made.close().send(None)
    assert not readers.readers


# ---------------------------------------------------------------- how large


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (StoreOptions(memory="50%", spill_limit=0), (MACHINE // 2, 0)),
        (StoreOptions(memory=100, spill_limit="1K"), (100, 1024)),
        (StoreOptions(memory="1GB", spill_limit="2GB"), (10**9, 2 * 10**9)),
    ],
)
def test_chosen_limits(options: StoreOptions, limits: tuple[int, int]) -> None:
    assert store_limits(options) == limits


def test_default_limits(tmp_path: Path) -> None:
    memory, disk = store_limits(StoreOptions(spill_dir=str(tmp_path)))
    assert memory == max(64 << 20, MACHINE * 3 // 10)
    assert 0 < disk <= 4 * memory
    assert store_limits(StoreOptions(memory=1000))[1] <= 4000


def test_no_store_at_all(readers: Readers) -> None:
    for memory in (0, "0", "0%"):
        assert make_storage(readers, Identity.create(), Silent(), StoreOptions(memory)) is None
    assert not readers.readers


def test_a_directory_that_cannot_be_used(readers: Readers, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        options = StoreOptions(spill_dir=str(tmp_path / name))
        with pytest.raises(ValueError, match=f"{name}: it is not a directory to write to"):
            make_storage(readers, Identity.create(), Silent(), options)


# ---------------------------------------------------------------- lazy


def test_a_storage_is_sockets_and_a_secret(storage: Storage, readers: Readers) -> None:
    access = storage.access("127.0.0.1")
    address, ticket = storage.admit("engine:1:1")
    assert (access.local, access.machine) == (address, machine_id())
    assert is_ticket(access.key, "engine:1:1", ticket)
    assert not is_ticket(access.key, "engine:1:2", ticket)
    assert len(access.hints) == 1 and access.hints[0].startswith("tcp:127.0.0.1:")
    assert access.key.hex() not in repr(access)
    assert storage._plane is None and len(readers.readers) == 2


def test_what_does_not_need_a_store_makes_none(storage: Storage) -> None:
    storage.joined(1, "127.0.0.1", 7)
    for message in (
        HostAccess(2, "n2", "tub", "pin"),
        HostGone(3),
        HostGone(2),
        Free([b"x" * 16]),
        SessionGone(5),
        Copied([]),
    ):
        storage.handle(message)
    storage.give_back([], "engine:1:1")
    storage.drop("engine:1:1", [1 << 40])
    storage.disconnected()
    assert storage._plane is None


def test_a_store_that_cannot_be_made(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Say so to those who need it, and go on without."""
    import ipkernel.host.objectplane as module

    def fails() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "make_memory", fails)
    hint = storage.access("127.0.0.1").hints[0]
    problems: list[Any] = []
    storage.require([b"x" * 16], "engine:1:1", 5).addErrback(problems.append)
    assert problems[0].check(ObjectError) and "No space left" in problems[0].getErrorMessage()
    storage.require([b"x" * 16], "engine:1:1", 5).addErrback(problems.append)
    assert len(problems) == 2 and caplog.text.count("there is no store on this host") == 1
    assert storage.admit("engine:1:1") == ("", b"")
    storage.handle(Relay(0, b"t" * 32))
    with socket.create_connection(("127.0.0.1", int(hint.rpartition(":")[2]))) as far:
        storage._port.doRead()  # type: ignore[union-attr]
        assert far.recv(1) == b""


def test_a_daemon_loads_no_modules_of_the_store() -> None:
    """Until something needs them: most clusters never move a large object."""
    code = (
        "import sys, ipkernel.host.daemon, ipkernel.host.main\n"
        "print([m for m in sys.modules if m.startswith('ipkernel.objects.')])"
    )
    environment = {**os.environ, "COVERAGE_PROCESS_START": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.rpartition(".")[2] for name in eval(found)}
    assert loaded <= {"addresses", "tickets", "ref"}


def test_the_data_port_stays_where_it_is_unless_the_network_changes(storage: Storage) -> None:
    first = storage.access("127.0.0.1").hints
    assert storage.access("127.0.0.1").hints == first
    other = storage.access("127.0.0.2").hints
    assert other != first and other[0].startswith("tcp:127.0.0.2:")


def test_an_address_that_is_none_of_ours(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert storage.access("192.0.2.1").hints == []
    assert "192.0.2.1 is not an address of this machine" in caplog.text
    assert storage.access("127.0.0.1").hints


def test_a_chosen_interface_and_port(readers: Readers) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    options = StoreOptions(interface="127.0.0.1", port=port)
    made = make_storage(readers, Identity.create(), Silent(), options)
    assert made is not None
    assert made.access("127.0.0.2").hints == []
    taken.close()
    assert made.access("127.0.0.2").hints == [f"tcp:127.0.0.1:{port}"]
    with pytest.raises(StopIteration):
        made.close().send(None)


# ---------------------------------------------------------------- sockets


@pytest.mark.parametrize(
    ("interface", "port", "text"),
    [
        ("192.0.2.1", 0, "not an address of this machine"),
        ("no.such.name.invalid", 0, "not an address of this machine"),
        ("x" * 300, 0, "not an address of this machine"),
    ],
)
def test_where_nobody_can_listen(interface: str, port: int, text: str) -> None:
    with pytest.raises(ConnectError, match=text):
        listen_tcp(interface, port)


def test_a_port_that_is_in_use() -> None:
    with listen_tcp("127.0.0.1", 0) as taken:
        with pytest.raises(ConnectError, match="is in use"):
            listen_tcp("127.0.0.1", taken.getsockname()[1])


def test_a_trigger_leaves_the_connection_alone(readers: Readers) -> None:
    calls: list[int] = []
    with listen_tcp("127.0.0.1", 0) as sock:
        trigger = Trigger(readers, sock, lambda: calls.append(1))
        assert trigger.fileno() == sock.fileno() and trigger.logPrefix()
        with socket.create_connection(sock.getsockname()):
            trigger.doRead()
            trigger.stop()
            trigger.stop()
            accepted, _ = sock.accept()
            accepted.close()
    assert calls == [1] and not readers.readers
