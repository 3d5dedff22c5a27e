"""Questions over a local socket: what is said, its bounds, and the side of the controller."""

from __future__ import annotations

import logging
import os
import struct
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from ipkernel.controller import nearby as near_door
from ipkernel.controller.nearby import CONNECTIONS, PATIENCE, Inquirer, NearDoor
from ipkernel.errors import KernelError
from ipkernel.wire import nearby
from ipkernel.wire.nearby import QUESTION_LIMIT, Answer, NotNearby, Question, ask, framed


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)


class Transport(StringTransport):
    """A transport that can be cut."""

    aborted = False

    def getHandle(self):
        return None

    def abortConnection(self):
        self.aborted = True
        self.connected = False


@pytest.fixture
def ours(monkeypatch):
    monkeypatch.setattr(near_door, "peer_user", lambda sock: os.geteuid())


def connect(door, clock):
    inquirer, transport = Inquirer(door, clock), Transport()
    inquirer.makeConnection(transport)
    return inquirer, transport


def answered(transport):
    data = transport.value()
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return msgspec.msgpack.decode(data[4:], type=Answer)


# ------------------------------------------------------------------------------ what is said


def test_a_message_is_behind_its_length():
    data = framed(Question("status"))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert msgspec.msgpack.decode(data[4:], type=Question) == Question("status", b"")


@pytest.mark.parametrize(
    "message",
    [["x" * 65], ["status", b"x" * ((1 << 18) + 1)], ["status", "text"], [1], [], "status", {}],
)
def test_a_question_has_bounds(message):
    with pytest.raises(msgspec.MsgspecError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Question)


def test_the_longest_question_fits(ours):
    asked = []
    door = NearDoor(Clock(), {"explain": lambda data: asked.append(data) or b""})
    inquirer, transport = connect(door, Clock())
    data = framed(Question("explain", b"x" * (1 << 18)))
    assert len(data) - 4 <= QUESTION_LIMIT
    inquirer.dataReceived(data)
    assert [len(one) for one in asked] == [1 << 18]
    assert answered(transport) == Answer("", b"")


# ------------------------------------------------------------------------------- the controller


def test_a_question_is_answered_and_the_connection_ends(ours):
    clock = Clock()
    door = NearDoor(clock, {"status": lambda data: b"the state of " + data})
    inquirer, transport = connect(door, clock)
    for byte in framed(Question("status", b"x")):
        inquirer.dataReceived(bytes([byte]))
    assert answered(transport) == Answer("", b"the state of x")
    assert transport.disconnecting
    inquirer.connectionLost()
    assert clock.getDelayedCalls() == []


def test_an_answer_may_come_later(ours):
    later: Deferred[bytes] = Deferred()
    inquirer, transport = connect(NearDoor(Clock(), {"explain": lambda _: later}), Clock())
    inquirer.dataReceived(framed(Question("explain")))
    assert transport.value() == b"" and not transport.disconnecting
    later.callback(b"so")
    assert answered(transport) == Answer("", b"so")


def test_an_answer_that_comes_too_late_goes_nowhere(ours):
    clock, later = Clock(), Deferred()
    inquirer, transport = connect(NearDoor(clock, {"explain": lambda _: later}), clock)
    inquirer.dataReceived(framed(Question("explain")))
    clock.advance(PATIENCE)
    assert transport.aborted
    inquirer.connectionLost()
    later.callback(b"so")
    assert transport.value() == b""


def test_what_is_not_known_is_said(ours):
    inquirer, transport = connect(NearDoor(Clock(), {}), Clock())
    inquirer.dataReceived(framed(Question("shutdown")))
    assert answered(transport).problem == "the controller does not know the question 'shutdown'"


def test_a_refusal_is_passed_on(ours):
    def refuse(request):
        raise KernelError("no such task")

    inquirer, transport = connect(NearDoor(Clock(), {"explain": refuse}), Clock())
    inquirer.dataReceived(framed(Question("explain")))
    assert answered(transport) == Answer("no such task")


def test_a_fault_is_logged_and_said(ours, caplog):
    def fail(request):
        raise ZeroDivisionError

    inquirer, transport = connect(NearDoor(Clock(), {"explain": fail}), Clock())
    with caplog.at_level(logging.ERROR):
        inquirer.dataReceived(framed(Question("explain")))
    assert answered(transport) == Answer("ZeroDivisionError")
    assert "a question cannot be answered" in caplog.text


@given(st.binary(max_size=200))
@example(b"\x91\xa1\xff")  # a method that is not UTF-8
def test_anything_may_arrive(data):
    """Whatever is said, it is answered with a problem, waited for, or cut; nothing raises."""
    clock = Clock()
    door = NearDoor(clock, {})
    inquirer, transport = Inquirer(door, clock), Transport()
    inquirer.transport = transport
    inquirer.dataReceived(struct.pack(">I", len(data)) + data)
    assert answered(transport).problem
    assert transport.disconnecting


def test_more_than_fits_is_cut_before_it_is_there(ours):
    inquirer, transport = connect(NearDoor(Clock(), {}), Clock())
    inquirer.dataReceived(struct.pack(">I", QUESTION_LIMIT + 1))
    assert transport.aborted


def test_there_is_one_question_for_a_connection(ours):
    later: Deferred[bytes] = Deferred()
    inquirer, transport = connect(NearDoor(Clock(), {"explain": lambda _: later}), Clock())
    inquirer.dataReceived(framed(Question("explain")) * 2)
    assert transport.aborted
    later.callback(b"so")
    assert transport.value() == b""


def test_another_user_is_cut(monkeypatch, caplog):
    monkeypatch.setattr(near_door, "peer_user", lambda sock: os.geteuid() + 1)
    asked = []
    inquirer, transport = connect(NearDoor(Clock(), {"status": asked.append}), Clock())
    assert transport.aborted
    assert f"user {os.geteuid() + 1} may not ask" in caplog.text


def test_another_user_is_not_answered_either(monkeypatch):
    monkeypatch.setattr(near_door, "peer_user", lambda sock: os.geteuid() + 1)
    asked = []
    inquirer, transport = connect(NearDoor(Clock(), {"status": asked.append}), Clock())
    inquirer.dataReceived(framed(Question("status")))
    assert asked == [] and transport.value() == b""


def test_the_oldest_connection_gives_way(ours):
    clock = Clock()
    door = NearDoor(clock, {"status": lambda data: b"fine"})
    made = [connect(door, clock) for _ in range(CONNECTIONS)]
    assert not any(transport.aborted for _, transport in made)
    inquirer, transport = connect(door, clock)
    assert [t.aborted for _, t in made] == [True] + [False] * (CONNECTIONS - 1)
    inquirer.dataReceived(framed(Question("status")))
    assert answered(transport) == Answer("", b"fine")


def test_of_many_that_come_at_once_each_costs_another_one(ours):
    clock = Clock()
    door = NearDoor(clock, {})
    made = [connect(door, clock) for _ in range(2 * CONNECTIONS)]
    assert [t.aborted for _, t in made] == [True] * CONNECTIONS + [False] * CONNECTIONS


def test_the_end_cuts_all_connections(ours):
    clock = Clock()
    door = NearDoor(clock, {})
    made = [connect(door, clock) for _ in range(3)]
    assert door.close() is None
    assert all(transport.aborted for _, transport in made)
    for inquirer, _ in made:
        inquirer.connectionLost()
    assert clock.getDelayedCalls() == []


# --------------------------------------------------------------------------------- who asks


def test_there_is_none_where_nobody_listens(tmp_path):
    with pytest.raises(NotNearby, match="nobody answers at .*No such file"):
        ask(tmp_path / "socket", "status")


def test_a_file_is_no_socket(tmp_path):
    (tmp_path / "socket").write_text("text")
    with pytest.raises(NotNearby, match="nobody answers at"):
        ask(tmp_path / "socket", "status")


def test_the_portable_way_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert not nearby.supported()
    assert not NearDoor(Clock(), {}).listen(tmp_path / "socket")
    with pytest.raises(NotNearby, match="do not listen on local sockets"):
        ask(tmp_path / "socket", "status")
    assert list(tmp_path.iterdir()) == []


def test_a_short_path_is_itself(tmp_path):
    with nearby.short_path(Path("/run/x/socket")) as name:
        assert name == "/run/x/socket"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no other name elsewhere")
def test_a_long_path_has_a_short_name(tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    (directory / "file").write_text("here")
    before = os.listdir("/proc/self/fd")
    with nearby.short_path(directory / "file") as name:
        assert len(name) <= nearby.LONGEST_PATH
        assert Path(name).read_text() == "here"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_long_path_is_refused_where_it_has_no_other_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    path = tmp_path / ("x" * 120) / "socket"
    with pytest.raises(NotNearby, match="too long"):
        ask(path, "status")
    assert not NearDoor(Clock(), {}).listen(path)
