"""What a session keeps until the other end has it."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.wire.messages import Cancel, Function
from ipkernel.wire.replay import Replay


def cancel(number):
    return Cancel([number])


def filled(count):
    replay = Replay()
    for number in range(count):
        replay.add(cancel(number))
    return replay


def test_what_is_acknowledged_is_forgotten():
    replay = filled(3)
    assert replay.count == 3
    assert [m.tasks for m, _ in replay.acknowledged(2)] == [[0], [1]]
    assert (replay.taken, len(replay), replay.count) == (2, 1, 3)


def test_bytes_count_what_is_kept():
    replay = Replay()
    replay.add(Function(b"a" * 16, 5), b"12345")
    replay.add(Function(b"b" * 16, 2), b"67")
    assert replay.bytes == 7
    replay.acknowledged(1)
    assert replay.bytes == 2


def test_a_new_connection_gets_what_was_not_taken():
    replay = filled(5)
    replay.acknowledged(1)
    assert [m.tasks[0] for m, _ in replay.resume(3)] == [3, 4]
    replay.add(cancel(5))
    replay.acknowledged(2)  # of this connection
    assert [m.tasks[0] for m, _ in replay] == [5]


def test_to_begin_anew_gives_everything_back():
    replay = filled(3)
    replay.acknowledged(1)
    assert len(replay.restart()) == 2
    assert (replay.taken, replay.bytes, len(replay)) == (0, 0, 0)


@pytest.mark.parametrize("taken", [0, 4, -1])
def test_a_number_that_cannot_be(taken):
    replay = filled(3)
    replay.acknowledged(1)
    with pytest.raises(ValueError, match=f"{taken} messages cannot have been taken"):
        replay.resume(taken)
    assert len(replay) == 2


class Sessions(RuleBasedStateMachine):
    """Two ends and connections that are cut at any message: all arrive, in order, once."""

    def __init__(self):
        super().__init__()
        self.replay = Replay()
        self.sent = 0
        self.wire = []
        self.arrived = []
        self.on_this = 0

    @rule(count=st.integers(1, 5))
    def send(self, count):
        for _ in range(count):
            message = cancel(self.sent)
            self.replay.add(message)
            self.wire.append(message)
            self.sent += 1

    @precondition(lambda self: self.wire)
    @rule()
    def arrive(self):
        self.arrived.append(self.wire.pop(0).tasks[0])
        self.on_this += 1

    @rule()
    def acknowledge(self):
        self.replay.acknowledged(self.on_this)

    @rule()
    def cut(self):
        self.wire = [m for m, _ in self.replay.resume(len(self.arrived))]
        self.on_this = 0

    @invariant()
    def in_order_and_once(self):
        assert self.arrived == list(range(len(self.arrived)))
        assert len(self.arrived) + len(self.wire) == self.sent == self.replay.count


TestSessions = Sessions.TestCase
