"""Tickets and the doorstep."""

from __future__ import annotations

from twisted.internet.task import Clock

from ipkernel.wire.doorstep import Doorstep
from ipkernel.wire.tickets import TICKET_SIZE, Tickets


def nothing(*args):
    raise AssertionError("must not be called here")


def test_a_ticket_is_good_once_and_for_its_peer():
    tickets = Tickets(Clock())
    ticket = tickets.issue("me", nothing, nothing, 30)
    assert len(ticket) == TICKET_SIZE
    assert tickets.redeem(ticket, "thief") is None
    found = tickets.redeem(ticket, "me")
    assert found is not None and found.tub_id == "me"
    assert tickets.redeem(ticket, "me") is None
    assert len(tickets) == 0


def test_unknown_tickets_are_no_good():
    tickets = Tickets(Clock())
    tickets.issue("me", nothing, nothing, 30)
    assert tickets.redeem(bytes(TICKET_SIZE), "me") is None
    assert tickets.redeem(b"", "me") is None


def test_tickets_differ():
    tickets = Tickets(Clock())
    assert len({tickets.issue("me", nothing, nothing, 30) for _ in range(100)}) == 100


def test_a_revoked_ticket_is_no_good():
    tickets = Tickets(Clock())
    ticket, other = (tickets.issue("me", nothing, nothing, 30) for _ in range(2))
    tickets.revoke(ticket)
    tickets.revoke(ticket)
    assert tickets.redeem(ticket, "me") is None
    assert tickets.redeem(other, "me") is not None
    tickets.revoke(other)


def test_tickets_expire():
    clock = Clock()
    tickets = Tickets(clock)
    early, late = (tickets.issue("me", nothing, nothing, t) for t in (10, 20))
    clock.advance(15)
    assert tickets.redeem(early, "me") is None
    assert tickets.redeem(late, "me") is not None


def test_their_number_is_bounded_and_expired_ones_go_first():
    clock = Clock()
    tickets = Tickets(clock, limit=3)
    lasting = tickets.issue("me", nothing, nothing, 100)
    tickets.issue("me", nothing, nothing, 5)
    newer = tickets.issue("me", nothing, nothing, 100)
    clock.advance(10)
    newest = tickets.issue("me", nothing, nothing, 100)
    assert len(tickets) == 3
    tickets.issue("me", nothing, nothing, 100)
    assert len(tickets) == 3
    assert tickets.redeem(lasting, "me") is None  # the oldest gave way
    assert tickets.redeem(newer, "me") is not None
    assert tickets.redeem(newest, "me") is not None


class Guest:
    def __init__(self):
        self.reasons = []

    def turn_away(self, reason):
        self.reasons.append(reason)


def test_the_oldest_silent_stranger_goes_first():
    doorstep = Doorstep(silent=2, speaking=2)
    guests = [Guest() for _ in range(4)]
    for guest in guests:
        doorstep.arrived(guest)
    assert [bool(g.reasons) for g in guests] == [True, True, False, False]
    assert len(doorstep) == 2


def test_silence_does_not_push_out_those_who_speak():
    doorstep = Doorstep(silent=2, speaking=2)
    speaker = Guest()
    doorstep.arrived(speaker)
    doorstep.spoke(speaker)
    doorstep.spoke(speaker)
    for _ in range(50):
        doorstep.arrived(Guest())
    assert not speaker.reasons
    assert len(doorstep) == 3
    for _ in range(2):
        doorstep.spoke(Guest())
    assert len(speaker.reasons) == 1


def test_those_who_left_do_not_count():
    doorstep = Doorstep(silent=1, speaking=1)
    guest = Guest()
    doorstep.arrived(guest)
    doorstep.left(guest)
    doorstep.left(guest)
    doorstep.arrived(Guest())
    assert not guest.reasons and len(doorstep) == 1
