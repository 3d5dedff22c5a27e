"""Messages and records: what their texts do not show."""

from __future__ import annotations

import msgspec
import pytest

from ipkernel.wire.messages import (
    Done,
    EngineHello,
    EngineJoined,
    EngineSetup,
    Finished,
    HostAccess,
    Measured,
    Outcome,
    Relay,
    Vitals,
)
from ipkernel.wire.records import ClientHello, EngineOrder, HostHello, SessionGrant, StoreAccess


@pytest.mark.parametrize(
    "value",
    [
        HostAccess(1, "n1", "tub", "pin", ticket=b"s3cret"),
        Relay(1, b"s3cret"),
        EngineSetup(0, "n1", ticket=b"s3cret"),
        EngineHello(1, b"s3cret"),
        SessionGrant(session=1, ticket=b"s3cret"),
        StoreAccess(pin="pin", key=b"s3cret" * 6),
    ],
)
def test_no_text_shows_a_secret(value: object) -> None:
    assert "s3cret" not in repr(value)
    assert repr(value).startswith(type(value).__name__ + "(")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, -1.0])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (Measured, lambda seconds: Measured([Vitals(0, started=seconds)])),
        (HostHello, lambda seconds: HostHello(host="a", pid=1, slots=1, left=seconds)),
        (EngineOrder, lambda seconds: EngineOrder(drain=True, limit=seconds)),
        (Done, lambda seconds: Done(1, 0, Outcome.OK, seconds, 1.0, 0)),
        (Finished, lambda seconds: Finished(1, Outcome.OK, 0, 1.0, seconds, 0)),
    ],
)
def test_times_can_be_shown_and_waited_for(kind, make, seconds):
    """Who reads a status computes with them, and the controller sets its timers by them."""
    taken = msgspec.msgpack.Decoder(kind)
    taken.decode(msgspec.msgpack.encode(make(1.0)))
    with pytest.raises(msgspec.ValidationError, match="`float`"):
        taken.decode(msgspec.msgpack.encode(make(seconds)))


@pytest.mark.parametrize("pid", [-1, 1 << 32, 1 << 63])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (HostHello, lambda pid: HostHello(host="a", pid=pid, slots=1)),
        (ClientHello, lambda pid: ClientHello(pid=pid)),
        (EngineJoined, lambda pid: EngineJoined(0, "a", pid)),
        (EngineHello, lambda pid: EngineHello(pid)),
    ],
)
def test_processes_have_numbers_that_can_be_looked_for(kind, make, pid):
    """The system is asked whether they live."""
    taken = msgspec.msgpack.Decoder(kind)
    taken.decode(msgspec.msgpack.encode(make(0)))
    with pytest.raises(msgspec.ValidationError, match="`int`"):
        taken.decode(msgspec.msgpack.encode(make(pid)))
