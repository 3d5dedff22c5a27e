"""The way to the controller: nothing is lost and nothing comes twice, whenever connections end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.host.retelling import AT_ONCE, held_messages, worth_repeating
from ipkernel.host.uplink import KEEP_OUTPUT, Uplink
from ipkernel.wire.messages import (
    Copied,
    Done,
    EngineJoined,
    EngineLeft,
    Measured,
    Message,
    Outcome,
    Output,
    Returned,
    Started,
    Stream,
    encode,
)


class FakeLink:
    acknowledged = 0


class FakeChannel:
    def __init__(self) -> None:
        self.sent: list[tuple[Message, Any]] = []
        self.backlog = (0, 77)
        self.link = FakeLink()

    def send(self, message: Message, payload: Any = b"") -> None:
        self.sent.append((message, payload))

    @property
    def messages(self) -> list[Message]:
        return [message for message, _ in self.sent]


def done(task: int, size: int = 0) -> Done:
    return Done(task, 0, Outcome.OK, 0.0, 0.0, size)


def output(task: int, data: bytes, stream: Stream = Stream.STDOUT, engine: int = 0) -> tuple:
    return Output(task, engine, stream, len(data)), data


def connected(uplink: Uplink, taken: int = 0) -> FakeChannel:
    channel = FakeChannel()
    uplink.connect(channel, taken)  # type: ignore[arg-type]
    return channel


def tasks(channel: FakeChannel) -> list[int]:
    return [message.task for message in channel.messages if isinstance(message, Done)]


def test_messages_go_through_the_channel() -> None:
    uplink = Uplink()
    channel = connected(uplink)
    uplink.send(done(1), b"x")
    assert channel.sent == [(done(1), b"x")]
    assert uplink.backlog == 77


def test_what_is_sent_without_a_connection_waits_for_one() -> None:
    uplink = Uplink()
    sent = [done(1), EngineJoined(0, "h", 1), Copied([b"x" * 16]), Started([5]), done(2)]
    for message in sent:
        uplink.send(message)
    assert connected(uplink).messages == sent


def test_measurements_do_not() -> None:
    uplink = Uplink()
    uplink.send(Measured([]))
    uplink.send(done(1))
    channel = connected(uplink)
    uplink.send(Measured([]))
    assert channel.messages == [done(1), Measured([])]


def test_only_what_was_not_taken_is_sent_again() -> None:
    uplink = Uplink()
    channel = connected(uplink)
    for task in range(5):
        uplink.send(done(task))
    channel.link.acknowledged = 1
    uplink.disconnect()
    uplink.send(done(5))
    assert tasks(connected(uplink, taken=3)) == [3, 4, 5]


def test_acknowledgements_count_from_the_connection() -> None:
    uplink = Uplink()
    first = connected(uplink)
    for task in range(4):
        uplink.send(done(task))
    first.link.acknowledged = 2
    uplink.disconnect()
    second = connected(uplink, taken=3)
    uplink.send(done(4))
    second.link.acknowledged = 2  # of this one: 3 and 4
    uplink.disconnect()
    assert tasks(connected(uplink, taken=5)) == []


@pytest.mark.parametrize("taken", [0, 3])
def test_a_count_that_cannot_be_is_refused(taken: int) -> None:
    uplink = Uplink()
    channel = connected(uplink)
    uplink.send(done(1))
    uplink.send(done(2))
    channel.link.acknowledged = 1
    uplink.disconnect()
    other = FakeChannel()
    with pytest.raises(ValueError, match="cannot have been taken"):
        uplink.connect(other, taken)  # type: ignore[arg-type]
    assert other.sent == []
    assert [message.task for message, _ in uplink.restart()] == [2]  # type: ignore[attr-defined]


def test_what_is_acknowledged_is_not_kept() -> None:
    uplink = Uplink()
    channel = connected(uplink)
    for task in range(100):
        uplink.send(done(task, 1000), b"x" * 1000)
        channel.link.acknowledged = task
    uplink.disconnect()
    assert len(uplink.restart()) == 1


def test_output_is_counted() -> None:
    uplink = Uplink()
    uplink.send(*output(1, b"a"))
    channel = connected(uplink)
    uplink.send(*output(1, b"b"))
    forged = Output(1, 0, Stream.STDOUT, 1, 77)
    uplink.send(forged, b"c")
    uplink.disconnect()
    again = connected(uplink, taken=1)
    assert [m.serial for m in channel.messages] == [1, 2, 3]  # type: ignore[attr-defined]
    assert [m.serial for m in again.messages] == [2, 3]  # type: ignore[attr-defined]


def test_the_oldest_output_is_dropped_and_results_never_are() -> None:
    uplink = Uplink()
    piece = b"x" * 60000
    count = KEEP_OUTPUT // len(piece) * 3
    for number in range(count):
        uplink.send(*output(number % 2 + 1, piece))
        uplink.send(done(100 + number))
    channel = connected(uplink)
    assert tasks(channel) == list(range(100, 100 + count))
    kept = [item for item in channel.sent if isinstance(item[0], Output)]
    assert KEEP_OUTPUT // 2 < sum(len(data) for _, data in kept) <= KEEP_OUTPUT
    marks = [item for item in kept if b"bytes of output were dropped" in item[1]]
    assert len(marks) == 2
    whole = sum(len(data) for item in kept if item not in marks for data in [item[1]])
    dropped = sum(int(data.split()[0].strip(b"[")) for _, data in marks)
    assert whole + dropped == count * len(piece)
    for task in (1, 2):  # or a client would take what follows a mark for old
        serials = [m.serial for m, _ in kept if isinstance(m, Output) and m.task == task]
        assert serials == sorted(set(serials))


def test_what_flows_need_is_not_output() -> None:
    uplink = Uplink()
    count = 2 * KEEP_OUTPUT // 1024
    for _ in range(count):
        uplink.send(*output(1, b"n" * 1024, Stream.FLOW))
    assert uplink.backlog > 2 * KEEP_OUTPUT
    assert len(connected(uplink).sent) == count


def test_what_flows_need_is_never_long() -> None:
    uplink = Uplink()
    for _ in range(8):
        uplink.send(*output(1, b"n" * (KEEP_OUTPUT // 4), Stream.FLOW))
    assert 0 < len(connected(uplink).sent) < 8


def test_displays_are_dropped_without_a_word_in_them() -> None:
    uplink = Uplink()
    for _ in range(8):
        uplink.send(*output(1, b"d" * (KEEP_OUTPUT // 4), Stream.DISPLAY))
    sent = connected(uplink).sent
    assert 0 < len(sent) < 8
    assert all(len(data) == KEEP_OUTPUT // 4 for _, data in sent)


def test_results_that_wait_count_as_backlog() -> None:
    uplink = Uplink()
    assert uplink.backlog == 0
    uplink.send(*output(1, b"x" * 1000))
    assert uplink.backlog == 0
    uplink.send(done(1, 1000), b"x" * 1000)
    assert 1000 < uplink.backlog < 2000
    channel = connected(uplink)
    assert uplink.backlog == 77
    channel.backlog = (1000, 77)
    assert uplink.backlog > 100_000, "messages without payload take memory, too"
    uplink.disconnect()
    assert uplink.backlog == 0


def test_a_restart_gives_back_all_that_may_be_unknown() -> None:
    uplink = Uplink()
    channel = connected(uplink)
    uplink.send(done(1))
    uplink.send(*output(2, b"x"))
    channel.link.acknowledged = 1
    uplink.disconnect()
    uplink.send(*output(2, b"y"))
    kept = uplink.restart()
    assert [(m.task, m.serial) for m, _ in kept] == [(2, 1), (2, 2)]  # type: ignore[attr-defined]
    uplink.send(EngineJoined(0, "h", 1))
    uplink.repeat(kept)
    uplink.send(*output(2, b"z"))
    again = connected(uplink)
    assert [type(m) for m in again.messages] == [EngineJoined, Output, Output, Output]
    assert [m.serial for m in again.messages[1:]] == [1, 2, 3]  # type: ignore[attr-defined]
    assert uplink.restart() == again.sent


# ------------------------------------------------------------------ what is told again


def test_results_and_output_are_told_again() -> None:
    kept = [
        (Started([1]), b""),
        output(1, b"a"),
        output(0, b"of no task"),
        (done(1), b""),
        (Returned(0, [2]), b""),
        (Copied([b"x" * 16]), b""),
        (EngineJoined(0, "h", 1), b""),
        (EngineLeft(3, "idle and gone", restarting=True), b""),
    ]
    assert worth_repeating(kept) == ([kept[1], kept[3]], set())


def test_ends_that_have_cost_something_are_told_again() -> None:
    lost = EngineLeft(1, "killed", restarting=True, started=[7])
    stopped = EngineLeft(2, "stopped on request")
    kept: list[tuple[Message, Any]] = [(lost, b""), (done(8), b""), (stopped, b"")]
    assert worth_repeating(kept) == (kept, {1, 2})


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_held_objects(count: int) -> None:
    objects = [(number.to_bytes(16, "big"), number) for number in range(count)]
    messages = list(held_messages(objects))
    told = [pair for m in messages for pair in zip(m.objects, m.lengths, strict=True)]
    assert told == objects
    assert [m.last for m in messages] == [False] * (len(messages) - 1) + [True]
    assert all(len(encode([m])) < 1 << 18 for m in messages)


# ------------------------------------------------------------------ whatever happens


class UplinkMachine(RuleBasedStateMachine):
    """Messages through connections that end anywhere, and controllers that end anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.uplink = Uplink()
        self.channel: FakeChannel | None = None
        self.arrived = 0  # of the present connection
        self.taken: list[int] = []  # by the present controller, in order
        self.before: list[int] = []  # by those before it
        self.sent = 0

    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            self.uplink.send(done(self.sent))

    @precondition(lambda self: self.channel is None)
    @rule()
    def connect(self) -> None:
        self.channel = connected(self.uplink, len(self.taken))
        self.arrived = 0

    @precondition(lambda self: self.channel is not None)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        assert self.channel is not None
        upto = data.draw(st.integers(self.arrived, len(self.channel.sent)))
        new = self.channel.messages[self.arrived : upto]
        self.taken += [message.task for message in new]  # type: ignore[attr-defined]
        self.arrived = upto

    @precondition(lambda self: self.channel is not None)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        assert self.channel is not None
        link = self.channel.link
        link.acknowledged = data.draw(st.integers(link.acknowledged, self.arrived))

    @precondition(lambda self: self.channel is not None)
    @rule()
    def lose(self) -> None:
        self.uplink.disconnect()
        self.channel = None

    @precondition(lambda self: self.channel is None)
    @rule()
    def begin_again(self) -> None:
        """Another life of the controller: what it had acknowledged is safe, no more."""
        kept = self.uplink.restart()
        numbers = [message.task for message, _ in kept]  # type: ignore[attr-defined]
        assert numbers == list(range(self.sent - len(kept) + 1, self.sent + 1))
        self.before = list(range(1, self.sent - len(kept) + 1))
        self.taken = []
        self.uplink.repeat(kept)

    @invariant()
    def in_order_and_once(self) -> None:
        first = len(self.before) + 1
        assert self.taken == list(range(first, first + len(self.taken)))

    def teardown(self) -> None:
        if self.channel is None:
            self.connect()
        assert self.channel is not None
        rest = self.channel.messages[self.arrived :]
        self.taken += [message.task for message in rest]  # type: ignore[attr-defined]
        self.in_order_and_once()
        assert len(self.before) + len(self.taken) == self.sent


TestUplink = UplinkMachine.TestCase
