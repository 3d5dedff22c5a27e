"""The messages between a host's store and the processes of its machine."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel import errors
from ipkernel.objects import localwire as wire
from ipkernel.objects.localwire import Incoming, WireError, encode
from ipkernel.objects.tickets import make_key, make_ticket
from ipkernel.objects.transfer import TransferCancelled

OBJECT = st.binary(min_size=16, max_size=16)
OBJECTS = st.lists(OBJECT, max_size=20)
SECONDS = st.floats(0, wire.LONGEST)
SESSION = st.integers(0, (1 << 62) - 1)
NUMBER = st.integers(0, (1 << 50) - 1)
CODE = st.binary(min_size=32, max_size=32)

REQUESTS = st.one_of(
    st.builds(wire.Hello, st.text(min_size=1, max_size=64), OBJECT, CODE, st.integers(0, 99)),
    st.builds(wire.Create, OBJECT, NUMBER, SESSION),
    st.builds(wire.Seal, OBJECT),
    st.builds(wire.Abandon, OBJECT),
    st.builds(wire.Get, OBJECT, st.none() | SESSION, st.none() | SECONDS),
    st.builds(wire.Kept, OBJECT),
    st.builds(wire.Attach, NUMBER),
    st.builds(wire.Release, OBJECTS),
    st.builds(wire.Free, OBJECTS),
    st.builds(wire.WaitFreed, OBJECT, SECONDS),
    st.builds(wire.Hold, OBJECTS),
)
REPLIES = st.one_of(
    st.builds(wire.Welcome, CODE),
    st.builds(wire.Region, NUMBER, NUMBER, NUMBER),
    st.builds(wire.Segment, st.text(max_size=64)),
    st.builds(wire.Ok, st.booleans()),
    st.builds(wire.Problem, st.text(max_size=16), st.text(max_size=1000)),
)


def requests() -> Incoming[wire.Request]:
    incoming = wire.requests()
    incoming.limit = wire.LIMIT
    return incoming


def read(incoming: Incoming[Any], data: bytes, cuts: list[int]) -> list[Any]:
    """Feed ``data`` in pieces; return what comes out."""
    found = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in zip(edges, edges[1:], strict=False):
        incoming.feed(data[start:stop])
        while (message := incoming.next()) is not None:
            found.append(message)
    return found


@given(st.lists(REQUESTS, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_requests_arrive_as_sent_wherever_the_stream_is_cut(
    sent: list[wire.Request], cuts: list[int]
) -> None:
    assert read(requests(), b"".join(map(encode, sent)), cuts) == sent


@given(st.lists(REPLIES, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_replies_arrive_as_sent_wherever_the_stream_is_cut(
    sent: list[wire.Reply], cuts: list[int]
) -> None:
    assert read(wire.replies(), b"".join(map(encode, sent)), cuts) == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_an_error_and_nothing_else(data: bytes) -> None:
    incoming = requests()
    try:
        for message in read(incoming, data, []):
            assert isinstance(message, wire.Request)
    except WireError as error:
        assert str(error)


@given(st.binary(max_size=100))
def test_a_body_of_any_bytes_is_a_message_or_an_error(body: bytes) -> None:
    try:
        [message] = read(requests(), struct.pack("<I", len(body)) + body, [])
        assert encode(message)
    except WireError as error:
        assert "not a message" in str(error)


def test_a_stranger_may_send_little() -> None:
    incoming = wire.requests()
    incoming.feed(struct.pack("<I", wire.HELLO_LIMIT))
    assert incoming.next() is None
    incoming = wire.requests()
    incoming.feed(struct.pack("<I", wire.HELLO_LIMIT + 1))
    with pytest.raises(WireError, match="1024 are the most"):
        incoming.next()


def test_the_first_message_fits_for_every_subject() -> None:
    hello = wire.Hello("\N{EURO SIGN}" * 128, bytes(16), bytes(32))
    assert len(encode(hello)) < wire.HELLO_LIMIT
    assert read(wire.requests(), encode(hello), []) == [hello]


def test_the_longest_list_fits() -> None:
    release = wire.Release([bytes(16)] * wire.LIST_LIMIT)
    assert read(requests(), encode(release), []) == [release]
    with pytest.raises(WireError, match="not a message"):
        read(requests(), encode(wire.Release([bytes(16)] * (wire.LIST_LIMIT + 1))), [])


@pytest.mark.parametrize(
    "wrong",
    [
        wire.Seal(b"short"),
        wire.Seal(bytes(17)),
        wire.Create(bytes(16), -1, 0),
        wire.Create(bytes(16), 1 << 50, 0),
        wire.Create(bytes(16), 1, -1),
        wire.Get(bytes(16), timeout=-1.0),
        wire.Get(bytes(16), bringer=-1),
        wire.Get(bytes(16), timeout=float("nan")),
        wire.Get(bytes(16), timeout=float("inf")),
        wire.WaitFreed(bytes(16), -0.5),
        wire.WaitFreed(bytes(16), 1e7),
        wire.Attach(-1),
        wire.Hello("", bytes(16), bytes(32)),
        wire.Hello("x" * 129, bytes(16), bytes(32)),
        wire.Hello("x", bytes(15), bytes(32)),
        wire.Hello("x", bytes(16), bytes(31)),
        wire.Ok(),
    ],
)
def test_values_out_of_bounds_are_refused(wrong: Any) -> None:
    with pytest.raises(WireError, match="not a message"):
        read(requests(), encode(wrong), [])


def test_a_deeply_nested_body_is_an_error() -> None:
    body = b"\x91" * 100_000
    with pytest.raises(WireError, match="not a message"):
        read(requests(), struct.pack("<I", len(body)) + body, [])


def test_more_than_one_message_is_waiting() -> None:
    incoming = wire.requests()
    incoming.feed(bytes(wire.HELLO_LIMIT + 4))
    assert not incoming.full
    incoming.feed(b"x")
    assert incoming.full


# ------------------------------------------------------------------- tickets


def test_both_sides_show_that_they_know_the_ticket_and_not_the_ticket() -> None:
    key, nonce = make_key(), bytes(range(16))
    ticket = make_ticket(key, "engine:1:1")
    client, store = wire.proof(ticket, nonce, "client"), wire.proof(ticket, nonce, "store")
    others = [
        wire.proof(make_ticket(key, "engine:1:2"), nonce, "client"),
        wire.proof(make_ticket(make_key(), "engine:1:1"), nonce, "client"),
        wire.proof(ticket, bytes(16), "client"),
    ]
    assert len({client, store, ticket, *others}) == 6
    assert client == wire.proof(ticket, nonce, "client")


# ------------------------------------------------------------------ problems


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.StoreFull("no room"), errors.StoreFull),
        (errors.UnknownObject("no such"), errors.UnknownObject),
        (errors.ObjectLost("gone"), errors.ObjectLost),
        (errors.TransferError("writer is gone"), errors.TransferError),
        (TransferCancelled("cancelled"), errors.TransferError),
        (wire.AlreadyThere("there"), wire.AlreadyThere),
        (TimeoutError("late"), TimeoutError),
        (errors.ConnectError("no"), errors.ConnectError),
        (errors.ObjectError("what"), errors.ObjectError),
        (KeyError("bug"), errors.ObjectError),
    ],
)
def test_errors_are_of_the_same_kind_on_the_other_side(
    error: Exception, kind: type[Exception]
) -> None:
    [problem] = read(wire.replies(), encode(wire.problem_of(error)), [])
    raised = wire.raised_by(problem)
    assert type(raised) is kind
    assert str(raised) == str(error)


@given(st.text(st.characters(), max_size=1200))
def test_every_text_of_an_error_can_be_sent(text: str) -> None:
    [problem] = read(wire.replies(), encode(wire.problem_of(errors.ObjectError(text))), [])
    assert problem.text
    assert len(problem.text) <= 1000


def test_a_kind_of_problem_from_a_later_release_is_an_object_error() -> None:
    assert type(wire.raised_by(wire.Problem("new", "text"))) is errors.ObjectError


def test_messages_of_one_release_later_with_more_fields_are_understood() -> None:
    body = msgspec.msgpack.encode([3, bytes(16), "more"])
    assert read(requests(), struct.pack("<I", len(body)) + body, []) == [wire.Seal(bytes(16))]
