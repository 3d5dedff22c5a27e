"""What is said on data connections: there and back, within bounds, whatever a stranger sends."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel import errors
from ipkernel.objects.datawire import (
    HEADER,
    HELLO_LIMIT,
    LIMIT,
    LIST_LIMIT,
    Abandon,
    DataError,
    Done,
    Exists,
    Free,
    Get,
    Go,
    Hello,
    Ok,
    Problem,
    Put,
    PutRange,
    Release,
    Sending,
    WaitFreed,
    Waiting,
    Welcome,
    body_length,
    decode_reply,
    decode_request,
    encode,
    error_of,
    problem_of,
)
from ipkernel.objects.transfer import TransferCancelled

ONE = bytes(range(16))
BIG = (1 << 50) - 1

REQUESTS = [
    Hello("a" * 32, bytes(32)),
    Hello("a" * 64, bytes(64), 7),
    Put(ONE, BIG, (1 << 62) - 1),
    PutRange(ONE, BIG, BIG, "zstd"),
    Abandon(ONE),
    Get(ONE),
    Get(ONE, BIG, BIG, 5, 1.5, ["lz4", "zstd"]),
    Release(ONE),
    Free([ONE] * LIST_LIMIT),
    WaitFreed(ONE, 1e9),
    Done(bytes(16), True),
]
REPLIES = [
    Welcome(["lz4"]),
    Go(),
    Go([(BIG, BIG)] * LIST_LIMIT),
    Exists(),
    Sending(BIG, BIG, "lz4", bytes(16)),
    Done(b""),
    Ok(False),
    Waiting(),
    Problem("full", "x" * 1000),
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
def test_requests_there_and_back(message) -> None:
    data = encode(message)
    assert body_length(data[:HEADER]) == len(data) - HEADER
    assert decode_request(data[HEADER:]) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda m: type(m).__name__)
def test_replies_there_and_back(message) -> None:
    data = encode(message)
    assert body_length(data[:HEADER]) == len(data) - HEADER
    assert decode_reply(bytearray(data[HEADER:])) == message


def test_a_greeting_does_not_show_its_ticket() -> None:
    assert repr(Hello("me", b"secret")) == "Hello(subject='me', ticket=..., protocol=1)"


def test_a_greeting_fits_into_its_bounds() -> None:
    assert len(encode(Hello("a" * 64, bytes(64), 1 << 60))) < HELLO_LIMIT


@pytest.mark.parametrize(
    "message",
    [
        Hello("", b""),
        Hello("a" * 65, b""),
        Hello("a", bytes(65)),
        Put(ONE[:15], 1, 1),
        Put(ONE, -1, 1),
        Put(ONE, 1 << 50, 1),
        Put(ONE, 1, 1 << 62),
        PutRange(ONE, 0, 1, "x" * 17),
        Get(ONE, 0, -1),
        Get(ONE, 0, 0, None, -1.0),
        Get(ONE, codecs=["x"] * 17),
        Free([ONE] * (LIST_LIMIT + 1)),
        Free([b""]),
        WaitFreed(ONE, -0.5),
        Done(bytes(17)),
    ],
    ids=repr,
)
def test_what_is_out_of_bounds_is_refused(message) -> None:
    with pytest.raises(DataError, match="not a message"):
        decode_request(encode(message)[HEADER:])


def test_answers_are_bounded_too() -> None:
    for reply in (Go([(0, 1)] * (LIST_LIMIT + 1)), Problem("x" * 17), Sending(-1, 0)):
        with pytest.raises(DataError):
            decode_reply(encode(reply)[HEADER:])


def test_one_side_does_not_say_what_belongs_to_the_other() -> None:
    with pytest.raises(DataError):
        decode_request(encode(Exists())[HEADER:])
    with pytest.raises(DataError):
        decode_reply(encode(Free([]))[HEADER:])


def test_long_messages_are_refused_before_they_are_read() -> None:
    assert body_length(LIMIT.to_bytes(4, "little")) == LIMIT
    with pytest.raises(DataError, match=f"{LIMIT + 1} bytes; {LIMIT} are the most"):
        body_length((LIMIT + 1).to_bytes(4, "little"))
    with pytest.raises(DataError, match=f"{HELLO_LIMIT} are the most"):
        body_length((HELLO_LIMIT + 1).to_bytes(4, "little"), HELLO_LIMIT)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            message = decode(data)
        except DataError:
            continue
        assert decode(encode(message)[HEADER:]) == message


@given(st.recursive(st.integers() | st.binary() | st.text() | st.none(), st.lists, max_leaves=20))
def test_any_value_is_a_message_or_an_error(value) -> None:
    try:
        data = msgspec.msgpack.encode(value)
    except OverflowError:
        return
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except DataError:
            continue


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(DataError):
        decode_request(b"\x91" * 100_000)


# ---------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("error", "comes_back_as"),
    [
        (errors.StoreFull("no room"), errors.StoreFull),
        (errors.UnknownObject("no"), errors.UnknownObject),
        (errors.ObjectLost("gone"), errors.ObjectLost),
        (errors.TransferError("cut"), errors.TransferError),
        (TransferCancelled("enough"), errors.TransferError),
        (errors.ConnectError("away"), errors.ConnectError),
        (TimeoutError("late"), TimeoutError),
        (errors.ObjectError("odd"), errors.ObjectError),
        (ValueError("odd"), errors.ObjectError),
    ],
    ids=repr,
)
def test_errors_keep_their_kind_and_text(error: Exception, comes_back_as: type) -> None:
    problem = decode_reply(encode(problem_of(error))[HEADER:])
    assert isinstance(problem, Problem)
    back = error_of(problem)
    assert type(back) is comes_back_as
    assert str(back) == str(error)


def test_problems_always_fit() -> None:
    for text in ("x" * 5000, "\ud800 is half a character", ""):
        problem = problem_of(ValueError(text))
        assert decode_reply(encode(problem)[HEADER:]) == problem
        assert problem.text


def test_a_kind_of_problem_that_is_not_known_here() -> None:
    assert type(error_of(Problem("new", "of a later release"))) is errors.ObjectError
