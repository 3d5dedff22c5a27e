"""Links: frames in any pieces, windows, acknowledgements, big payloads, and garbage."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipkernel.wire import frames
from ipkernel.wire.frames import FRAME_PAYLOAD, MAX_FRAME, ProtocolViolation
from ipkernel.wire.link import LARGE, Link, Window
from ipkernel.wire.messages import (
    Cancel,
    Done,
    EngineLeft,
    Finished,
    Function,
    Kind,
    Outcome,
    Reason,
    Started,
    Submit,
    encode,
)

SMALL = Window(count=8, size=4096)


def submit(task: int, payload: bytes = b"") -> Submit:
    return Submit(task, Kind.APPLY, len(payload), [1, 2], True, b"0123456789abcdef")


def drain(link: Link) -> bytes:
    out = bytearray()
    while pieces := link.data_to_send():
        for piece in pieces:
            out += piece
    return bytes(out)


def exchange(a: Link, b: Link, *, acknowledge: bool = True) -> tuple[list, list]:
    """Let both ends talk until nothing moves; returns what arrived at a and at b."""
    at_a, at_b = [], []
    while True:
        to_b, to_a = drain(a), drain(b)
        if not to_b and not to_a:
            return at_a, at_b
        at_b += b.receive(to_b)
        at_a += a.receive(to_a)
        if acknowledge:
            a.acknowledge()
            b.acknowledge()


payloads = st.binary(max_size=300) | st.integers(0, 200_000).map(lambda n: b"\xa5" * n)
messages = st.lists(
    st.one_of(
        st.tuples(
            st.builds(Cancel, st.lists(st.integers(0, 2**62 - 1), max_size=20)), st.just(b"")
        ),
        payloads.map(lambda p: (submit(len(p), p), p)),
        payloads.map(lambda p: (Function(b"d" * 16, len(p)), p)),
        payloads.map(lambda p: (Finished(3, Outcome.OK, 1, 0.5, 1.5, len(p)), p)),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(messages, st.integers(1, 70_000), st.randoms(use_true_random=False))
def test_any_split_gives_the_same_messages(sent, longest, choose):
    a, b = Link(), Link()
    for message, payload in sent:
        a.send(message, payload)
    stream = drain(a)
    got = []
    offset = 0
    while offset < len(stream):
        step = choose.randint(1, longest)
        got += b.receive(stream[offset : offset + step])
        offset += step
    assert [(m, bytes(p)) for m, p in got] == sent


def test_one_byte_at_a_time():
    a, b = Link(), Link()
    sent = [(submit(i, b"x" * i), b"x" * i) for i in range(5)]
    for message, payload in sent:
        a.send(message, payload)
    got = []
    for byte in drain(a):
        got += b.receive(bytes([byte]))
    assert got == sent


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_is_a_violation_and_nothing_else(chunks):
    link = Link()
    for chunk in chunks:
        try:
            link.receive(chunk)
        except ProtocolViolation:
            with pytest.raises(ProtocolViolation):
                link.receive(b"")
            return


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([frames.DATA, frames.BULK]),
    seq=st.integers(0, 2),
    ack=st.integers(0, 2),
    headers=st.binary(max_size=60)
    | st.lists(st.sampled_from([submit(1), submit(1, b"x"), Cancel([1])]), max_size=3).map(encode),
    tail=st.binary(max_size=10),
)
def test_frames_with_garbage_inside_are_violations_and_nothing_else(kind, seq, ack, headers, tail):
    body = frames.DATA_HEAD.pack(21 + len(headers) + len(tail), kind, seq, ack, len(headers))
    link = Link()
    try:
        for message, payload in link.receive(body + headers + tail):
            assert message.size == len(payload)
    except ProtocolViolation:
        pass


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_never_raises_anything_else(data):
    a, b = Link(), Link()
    for i in range(3):
        a.send(submit(i, b"payload"), b"payload")
    stream = bytearray(drain(a))
    where = data.draw(st.integers(0, len(stream) - 1))
    stream[where] = data.draw(st.integers(0, 255))
    try:
        b.receive(bytes(stream))
    except ProtocolViolation:
        pass


@settings(max_examples=150, deadline=None)
@example([2, 0], 2, 1)
@given(
    st.lists(st.integers(0, 5000) | st.just(0), max_size=60),
    st.integers(1, 20),
    st.integers(1, 8000),
)
def test_windows_are_never_exceeded_and_never_get_stuck(sizes, count, size):
    window = Window(count, size)
    a, b = Link(window), Link(window)
    for i, n in enumerate(sizes):
        a.send(submit(i, bytes(n)), bytes(n))
    arrived: list[int] = []
    processed = 0
    while True:
        arrived += [m.size for m, _ in b.receive(drain(a))]
        waiting = arrived[processed:]
        assert len(waiting) <= count
        assert sum(waiting) <= max(size, max(1, size // 4) + max([*waiting, 0]))
        if not waiting:
            break
        b.acknowledge(1)
        processed += 1
        a.receive(drain(b))
    assert arrived == sizes
    assert a.backlog == (0, 0)


def test_many_messages_share_a_frame():
    a = Link()
    for i in range(100):
        a.send(submit(i, b"abc"), b"abc")
    pieces = a.data_to_send()
    assert len(pieces) == 101
    assert a.data_to_send() == []
    assert a.sent == 100


def test_frames_stop_at_the_limit():
    a, b = Link(), Link()
    chunk = b"z" * 100_000
    for i in range(5):
        a.send(submit(i, chunk), chunk)
    lengths = []
    while pieces := a.data_to_send():
        lengths.append(sum(len(p) for p in pieces[1:]))
        b.receive(b"".join(pieces))
    assert lengths == [200_000, 200_000, 100_000]
    assert b.received == 5


def test_small_payloads_are_bytes_and_large_ones_have_their_own_buffer():
    a, b = Link(), Link()
    for n in (LARGE - 1, LARGE, FRAME_PAYLOAD, FRAME_PAYLOAD + 1):
        a.send(submit(n, bytes(n)), bytes(n))
    got = b.receive(drain(a))
    assert [type(p) for _, p in got] == [bytes, memoryview, memoryview, memoryview]
    got[1][1][0] = 7  # writable, and nobody else's
    assert got[2][1][0] == 0
    assert len({id(p.obj) for _, p in got[1:]}) == 3


def test_a_big_payload_travels_in_slices_and_arrives_whole():
    a, b = Link(), Link()
    payload = random.Random(1).randbytes(3 * FRAME_PAYLOAD + 12345)
    a.send(submit(1, payload), [payload[:100_001], bytearray(), memoryview(payload)[100_001:]])
    a.send(submit(2, b"next"), b"next")
    biggest, got = 0, []
    while pieces := a.data_to_send():
        biggest = max(biggest, sum(map(len, pieces)))
        for piece in pieces:
            got += b.receive(piece)
    assert biggest < FRAME_PAYLOAD + 200
    assert [bytes(p) for _, p in got] == [payload, b"next"]


def test_memory_for_a_big_payload_grows_only_with_what_arrives():
    a, b = Link(), Link()
    b.receive(frames.bulk_frame(0, 0, Submit(1, Kind.APPLY, 4 << 30)))
    assert len(b._bulk_in) == 0
    for _ in range(4):
        b.receive(frames.more_head(1000) + bytes(1000))
    assert len(b._bulk_in) == 4000
    assert a.idle and b.idle


def test_other_messages_cannot_come_between_the_slices():
    b = Link()
    b.receive(frames.bulk_frame(0, 0, Submit(1, Kind.APPLY, 100_000)))
    with pytest.raises(ProtocolViolation, match="in the middle"):
        b.receive(frames.data_frame(1, 0, [Cancel([1])], 0))


def test_acknowledgements_pass_between_the_slices():
    window = Window(8, 1 << 20)
    a, b = Link(window), Link(window)
    b.send(submit(1, bytes(1 << 20)), bytes(1 << 20))
    first = b.data_to_send()
    for i in range(8):
        a.send(submit(i))
    b.receive(drain(a))
    b.acknowledge()
    ack = b.data_to_send()
    assert len(ack) == 1 and len(ack[0]) == 13
    got = a.receive(b"".join(first)) + a.receive(ack[0])
    assert a.acknowledged == 8 and got == []
    assert len(a.receive(drain(b))) == 1


def test_acks_ride_on_data_and_go_alone_only_when_a_quarter_is_open():
    a, b = Link(SMALL), Link(SMALL)
    a.send(submit(0))
    b.receive(drain(a))
    b.acknowledge()
    assert b.idle and drain(b) == b""  # one of eight: not due
    b.send(Cancel([9]))
    a.receive(drain(b))
    assert a.acknowledged == 1  # it rode along
    for i in range(2):
        a.send(submit(i))
    b.receive(drain(a))
    b.acknowledge()
    assert b.ack_due and not b.idle
    assert len(drain(b)) == 13
    assert b.idle


def test_acks_count_bytes_too():
    a, b = Link(SMALL), Link(SMALL)
    a.send(submit(0, bytes(1024)), bytes(1024))
    b.receive(drain(a))
    assert b.idle  # arrived, but not processed
    b.acknowledge()
    assert b.ack_due


def test_one_message_larger_than_the_window_passes():
    a, b = Link(SMALL), Link(SMALL)
    for n in (10_000, 20_000, 30_000):
        a.send(submit(n, bytes(n)), bytes(n))
    _, got = exchange(a, b)
    assert [m.task for m, _ in got] == [10_000, 20_000, 30_000]


def test_nothing_passes_a_closed_window():
    a, b = Link(SMALL), Link(SMALL)
    for i in range(20):
        a.send(submit(i))
    assert len(b.receive(drain(a))) == 8
    assert a.backlog == (12, 0)
    assert drain(a) == b""
    b.acknowledge(2)
    a.receive(drain(b))
    assert len(b.receive(drain(a))) == 2


def test_a_peer_that_ignores_the_window_is_refused():
    eager, b = Link(Window(100, 1 << 30)), Link(SMALL)
    for i in range(9):
        eager.send(submit(i))
    with pytest.raises(ProtocolViolation, match="more messages than the window"):
        b.receive(drain(eager))
    eager, b = Link(Window(100, 1 << 30)), Link(SMALL)
    for i in range(3):
        eager.send(submit(i, bytes(3000)), bytes(3000))
    with pytest.raises(ProtocolViolation, match="more payload than the window"):
        b.receive(drain(eager))


def test_a_gap_is_noticed():
    b = Link()
    b.receive(frames.data_frame(0, 0, [Cancel([1])], 0))
    with pytest.raises(ProtocolViolation, match="message 2 instead of 1"):
        b.receive(frames.data_frame(2, 0, [Cancel([1])], 0))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (frames.HEAD.pack(MAX_FRAME + 1, frames.DATA), "frame of"),
        (frames.HEAD.pack(0, frames.DATA), "frame of 0"),
        (frames.HEAD.pack(1, frames.MORE), "frame of 1"),
        (frames.HEAD.pack(5, 77) + bytes(4), "kind 77"),
        (frames.HEAD.pack(5, frames.ACK) + bytes(4), "ACK frame of 5"),
        (frames.ack_frame(1), "acknowledgement of 1 of 0"),
        (frames.more_head(10) + bytes(10), "than was announced"),
        (frames.HEAD.pack(5, frames.DATA) + bytes(4), "too short"),
        (frames.data_frame(0, 0, [], 0), "do not fill"),
        (frames.data_frame(0, 0, [submit(1, b"abc")], 2) + b"ab", "do not fill"),
        (frames.data_frame(0, 0, [Cancel([1])], 2) + b"ab", "do not fill"),
        (frames.data_frame(0, 0, [submit(1, bytes(LARGE))], 0), "longer than their frame"),
        (frames.bulk_frame(0, 0, Cancel([1])), "payload of 0"),
        (frames.DATA_HEAD.pack(21 + 1, frames.DATA, 0, 0, 2) + b"\xc0", "longer than their frame"),
        (frames.DATA_HEAD.pack(21 + 1, frames.DATA, 0, 0, 1) + b"\xc1", "schema"),
        (frames.DATA_HEAD.pack(21 + 3, frames.DATA, 0, 0, 3) + b"\x91\xa1\xff", "schema"),
    ],
)
def test_violations_say_what_is_wrong(stream, why):
    with pytest.raises(ProtocolViolation, match=why):
        Link().receive(stream)


def test_deeply_nested_headers_are_a_violation():
    nested = b"\x91" * 100_000
    head = frames.DATA_HEAD.pack(21 + len(nested), frames.DATA, 0, 0, len(nested))
    with pytest.raises(ProtocolViolation):
        Link().receive(head + nested)


def test_a_payload_over_the_limit_is_refused():
    link = Link(max_payload=1000)
    with pytest.raises(ProtocolViolation, match="payload of 300000"):
        link.receive(frames.bulk_frame(0, 0, Submit(1, Kind.APPLY, 300_000)))


def test_acknowledging_going_backwards_is_a_violation():
    a = Link()
    for i in range(3):
        a.send(submit(i))
    drain(a)
    a.receive(frames.ack_frame(2))
    with pytest.raises(ProtocolViolation):
        a.receive(frames.ack_frame(1))


def test_payload_and_header_must_agree():
    link = Link()
    with pytest.raises(ValueError, match="Submit says 3 bytes of payload, got 2"):
        link.send(Submit(1, Kind.APPLY, 3), b"ab")
    with pytest.raises(ValueError, match="Cancel says 0"):
        link.send(Cancel([1]), [b"a"])
    assert link.idle


def test_payloads_of_any_buffer():
    import array

    a, b = Link(), Link()
    numbers = array.array("d", [1.0, 2.0])
    a.send(submit(1, bytes(16)), memoryview(numbers))
    a.send(submit(2, bytes(17)), [b"x", memoryview(numbers)])
    a.send(submit(3, bytes(2)), bytearray(b"ab"))
    a.send(Cancel([1]), memoryview(b""))
    got = b.receive(drain(a))
    assert [bytes(p) for _, p in got] == [
        numbers.tobytes(),
        b"x" + numbers.tobytes(),
        b"ab",
        b"",
    ]


def test_acknowledge_counts():
    a, b = Link(), Link()
    for i in range(3):
        a.send(submit(i))
    b.receive(drain(a))
    with pytest.raises(ValueError, match="4 of 3"):
        b.acknowledge(4)
    with pytest.raises(ValueError, match="-1"):
        b.acknowledge(-1)
    b.acknowledge(2)
    b.acknowledge()
    b.acknowledge()
    b.send(Cancel([1]))
    a.receive(drain(b))
    assert a.acknowledged == 3


def test_a_message_that_is_still_arriving_cannot_be_acknowledged():
    a, b = Link(), Link()
    a.send(submit(0))
    a.send(submit(1, bytes(FRAME_PAYLOAD * 2)), bytes(FRAME_PAYLOAD * 2))
    b.receive(b"".join(a.data_to_send()))
    b.receive(b"".join(a.data_to_send()))
    b.acknowledge()
    b.send(Cancel([1]))
    a.receive(drain(b))
    assert a.acknowledged == 1
    with pytest.raises(ValueError):
        b.acknowledge(1)
    assert len(b.receive(drain(a))) == 1
    b.acknowledge(1)


def test_headers_with_long_lists_are_spread_over_frames():
    a, b = Link(), Link()
    tasks = [2**61 + i for i in range(60_000)]
    for _ in range(9):
        a.send(Started(tasks))
    a.send(Done(1, 2, Outcome.OK, 0.0, 0.0, 2), b"ok")
    got = []
    while pieces := a.data_to_send():
        assert sum(map(len, pieces)) < MAX_FRAME
        got += b.receive(b"".join(pieces))
    assert [len(m.tasks) for m, _ in got[:-1]] == [60_000] * 9
    assert got[-1][1] == b"ok"
    assert a.backlog == (0, 0)


def test_reasons_inside_messages_survive():
    a, b = Link(), Link()
    left = EngineLeft(3, "it died", True, [1, 2], Reason("engine", "killed", signal=9))
    a.send(left)
    assert b.receive(drain(a)) == [(left, b"")]


def test_both_directions_at_once():
    a, b = Link(SMALL), Link(SMALL)
    for i in range(50):
        a.send(submit(i, b"a" * 700), b"a" * 700)
        b.send(submit(i, b"b" * 900), b"b" * 900)
    at_a, at_b = exchange(a, b)
    assert [m.task for m, _ in at_a] == list(range(50))
    assert [m.task for m, _ in at_b] == list(range(50))
    assert a.idle and b.idle
