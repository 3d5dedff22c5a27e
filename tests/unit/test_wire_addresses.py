"""Addresses of stores on this machine, and which machine it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.objects.local import reachable
from ipkernel.wire import addresses
from ipkernel.wire.addresses import LocalAddress, machine_id, native_sockets, parse_address
from ipkernel.wire.messages import HostAccess

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=106)


@given(NAMES)
def test_names_of_sockets_are_read_as_written(name: str) -> None:
    address = LocalAddress(name=name)
    assert parse_address(str(address)) == address
    assert address.sockaddr == b"\0" + name.encode()
    assert address.family == socket.AF_UNIX


@given(st.integers(1, 65535))
def test_ports_are_read_as_written(port: int) -> None:
    address = LocalAddress(port=port)
    assert parse_address(str(address)) == address
    assert address.sockaddr == ("127.0.0.1", port)
    assert address.family == socket.AF_INET
    assert address.usable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:@",
        "unix:/tmp/socket",
        "unix:@" + "x" * 107,
        "unix:@a\0b",
        "unix:@\N{EURO SIGN}",
        "tcp:",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:",
        "tcp:127.0.0.1:0",
        "tcp:127.0.0.1:65536",
        "tcp:127.0.0.1:-1",
        "tcp:127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}",
        "tcp:10.0.0.1:80",
        "tcp:evil.example:80",
        "tcp:127.0.0.1.evil.example:80",
        "pipe:@x",
    ],
)
def test_whatever_is_not_on_this_machine_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the address of a store on this machine"):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        assert str(parse_address(text)) == text
    except ValueError as error:
        assert "not the address" in str(error)


def test_the_native_way_can_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
    assert native_sockets() is (sys.platform == "linux")
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert not native_sockets()


def test_a_name_needs_a_system_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not LocalAddress(name="x").usable
    assert LocalAddress(port=1).usable


# --------------------------------------------------------------- the machine


def test_all_processes_of_a_machine_agree() -> None:
    code = "from ipkernel.wire.addresses import machine_id; print(machine_id())"
    for environment in ({}, {"IPKERNEL_PORTABLE": "1"}):
        said = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == machine_id()


@pytest.mark.skipif(sys.platform != "linux", reason="has no such files")
def test_another_boot_and_another_network_are_other_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {machine_id()}
    (tmp_path / "boot").write_text("0-1-2\n")
    (tmp_path / "net").write_text("")
    monkeypatch.setattr(addresses, "_NETWORK", str(tmp_path / "net"))
    found.add(machine_id.__wrapped__())
    monkeypatch.setattr(addresses, "_BOOT_ID", str(tmp_path / "boot"))
    found.add(machine_id.__wrapped__())
    assert len(found) == 3
    assert f"0-1-2-{(tmp_path / 'net').stat().st_ino}" in found


def test_without_these_files_host_and_hardware_name_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "_BOOT_ID", "/nowhere/boot_id")
    here = machine_id.__wrapped__()
    assert machine_id.__wrapped__() == here
    monkeypatch.setattr("uuid.getnode", lambda: 12345)
    other = machine_id.__wrapped__()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert len({here, other, machine_id.__wrapped__()}) == 3


def access(**changes: Any) -> HostAccess:
    fields: dict[str, Any] = {
        "host": 1,
        "name": "n1",
        "tub_id": "t",
        "pin": "p",
        "local": "tcp:127.0.0.1:4711",
        "machine": machine_id(),
    }
    return HostAccess(**fields | changes)


def test_a_store_can_be_reached_locally_on_the_same_machine_only() -> None:
    assert reachable(access())
    assert reachable(access(local="unix:@x")) is (sys.platform == "linux")
    assert not reachable(access(local=""))
    assert not reachable(access(machine=""))
    assert not reachable(access(machine="another"))
    assert not reachable(access(local="tcp:10.0.0.1:80"))
    assert not reachable(access(local="nonsense"))
