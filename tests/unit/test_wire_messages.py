"""Messages and records: what their texts do not show."""

from __future__ import annotations

import pytest

from ipkernel.wire.messages import EngineHello, EngineSetup, HostAccess, Relay
from ipkernel.wire.records import SessionGrant, StoreAccess


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
