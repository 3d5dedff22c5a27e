"""Addresses of data ports: which are worth dialling, and what is remembered of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ipkernel.errors import ConnectError
from ipkernel.objects.dialing import Hint, Unreachable, dial_relay, parse_hint, usable_hints


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp:192.168.1.2:4711", "192.168.1.2", 4711),
        ("tcp:node7.cluster:1", "node7.cluster", 1),
        ("tcp:[fd00::2]:65535", "fd00::2", 65535),
        ("tcp:fd00::2:80", "fd00::2", 80),
        ("tcp:[::1]:80", "::1", 80),
        ("tcp:[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_hints(text: str, host: str, port: int) -> None:
    assert parse_hint(text) == Hint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp:",
        "tcp:host",
        "tcp::80",
        "tcp:host:",
        "tcp:host:0",
        "tcp:host:65536",
        "tcp:host:-1",
        "tcp:host:8 0",
        "tcp:host:٣",
        "tcp:[host]:80",
        "tcp:[1.2.3.4]:80",
        "tcp:a:b:80",
        "tcp:ho st:80",
        "tcp:ho\nst:80",
        "udp:host:80",
        "host:80",
        "unix:@name",
    ],
)
def test_what_is_no_hint(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_hint(text)


@given(st.text(max_size=60))
def test_any_text_is_a_hint_or_an_error(text: str) -> None:
    for whole in (text, f"tcp:{text}", f"tcp:{text}:80"):
        try:
            hint = parse_hint(whole)
        except ValueError:
            continue
        assert parse_hint(f"tcp:{hint}") == hint
        assert hint.is_loopback in (True, False)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("10.0.0.1", False),
        ("::2", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Hint(host, 80).is_loopback is loopback


def test_loopback_addresses_are_for_the_same_machine_only() -> None:
    hints = ["tcp:127.0.0.1:80", "tcp:10.0.0.1:80", "tcp:localhost:80", "nonsense"]
    assert usable_hints(hints, same_machine=False) == [Hint("10.0.0.1", 80)]
    assert [hint.host for hint in usable_hints(hints, same_machine=True)] == [
        "127.0.0.1",
        "10.0.0.1",
        "localhost",
    ]


def test_names_come_last_and_nothing_twice() -> None:
    hints = ["tcp:node7:80", "tcp:10.0.0.2:80", "tcp:10.0.0.1:80", "tcp:10.0.0.2:80"]
    found = usable_hints(hints, same_machine=False)
    assert [str(hint) for hint in found] == ["10.0.0.2:80", "10.0.0.1:80", "node7:80"]
    assert str(Hint("fd00::2", 80)) == "[fd00::2]:80"


# ---------------------------------------------------------------- memory


def test_hosts_are_left_alone_for_a_minute() -> None:
    clock = Clock()
    unreachable = Unreachable(clock.seconds)
    assert "a" not in unreachable
    unreachable.add("a")
    clock.advance(59.0)
    assert "a" in unreachable
    assert "b" not in unreachable
    clock.advance(1.0)
    assert "a" not in unreachable


def test_hosts_that_answer_are_forgotten() -> None:
    unreachable = Unreachable(Clock().seconds)
    unreachable.add("a")
    unreachable.remove("a")
    unreachable.remove("b")
    assert "a" not in unreachable


def test_not_everything_is_remembered() -> None:
    clock = Clock()
    unreachable = Unreachable(clock.seconds)
    for number in range(5000):
        unreachable.add(str(number))
    assert "4999" in unreachable
    assert "0" not in unreachable
    assert len(unreachable._until) <= 1024
    clock.advance(61.0)
    unreachable.add("new")
    assert list(unreachable._until) == ["new"]


# ---------------------------------------------------------------- relays


def test_what_is_no_token_is_not_sent_anywhere() -> None:
    with pytest.raises(ConnectError, match="not a token"):
        dial_relay(["tcp:127.0.0.1:1"], b"short")


def test_a_controller_without_addresses() -> None:
    with pytest.raises(ConnectError, match="it has no address"):
        dial_relay(["nonsense"], bytes(32))
