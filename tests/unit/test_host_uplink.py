"""The way to the controller while there is none."""

from __future__ import annotations

from typing import Any

from ipkernel.host.uplink import KEEP, Uplink
from ipkernel.wire.messages import Done, EngineJoined, Message, Outcome


class FakeChannel:
    def __init__(self) -> None:
        self.sent: list[tuple[Message, Any]] = []
        self.backlog = (0, 77)

    def send(self, message: Message, payload: Any = b"") -> None:
        self.sent.append((message, payload))


def done(task: int, size: int = 0) -> Done:
    return Done(task, 0, Outcome.OK, 0.0, 0.0, size)


def connected(uplink: Uplink) -> FakeChannel:
    channel = FakeChannel()
    uplink.connect(channel)  # type: ignore[arg-type]
    return channel


def test_messages_go_through_the_channel() -> None:
    uplink = Uplink()
    channel = connected(uplink)
    uplink.send(done(1), b"x")
    assert channel.sent == [(done(1), b"x")]
    assert uplink.backlog == 77


def test_results_wait_for_a_channel_and_nothing_else_does() -> None:
    uplink = Uplink()
    assert uplink.backlog == 0
    uplink.send(done(1), b"")
    uplink.send(EngineJoined(0, "h", 1))
    uplink.send(done(2), b"")
    assert [message.task for message, _ in connected(uplink).sent] == [1, 2]


def test_what_was_kept_is_sent_once() -> None:
    uplink = Uplink()
    uplink.send(done(1))
    connected(uplink)
    uplink.disconnect()
    assert connected(uplink).sent == []


def test_what_is_kept_is_bounded() -> None:
    uplink = Uplink()
    for task in range(4):
        uplink.send(done(task, KEEP // 2))
    assert [message.task for message, _ in connected(uplink).sent] == [0, 1]
    uplink.disconnect()
    uplink.send(done(9, KEEP))
    assert [message.task for message, _ in connected(uplink).sent] == [9]
