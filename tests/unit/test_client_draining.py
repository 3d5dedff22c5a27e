"""Engines that go because somebody wants it, as clients see them."""

from __future__ import annotations

import pytest

from ipkernel.client.engines import Engines
from ipkernel.client.startup import _raise_if_hopeless
from ipkernel.errors import EngineError
from ipkernel.wire.messages import EngineJoined, EngineLeft
from ipkernel.wire.records import EngineInfo
from tests.support.fakecontroller import FakeController


def test_an_engine_that_drains_is_used_no_more() -> None:
    engines = Engines([EngineInfo(engine=0, host="h"), EngineInfo(engine=1, host="h")])
    engines.left(EngineLeft(1, "time is nearly over", excused=True))
    assert engines.ids == (0,)
    assert str(engines.known[1]) == "engine 1 on h is draining: time is nearly over"
    engines.left(EngineLeft(1, "time is over", excused=True))
    assert str(engines.known[1]) == "engine 1 on h is gone: time is over"
    engines.joined(EngineJoined(1, "h", 7))
    assert engines.ids == (0, 1)


def test_an_engine_that_drains_already_when_a_client_comes() -> None:
    engines = Engines([EngineInfo(engine=0, state="draining", reason="time"), EngineInfo(engine=1)])
    assert engines.ids == (1,)


def test_waiting_goes_on_though_an_engine_drains() -> None:
    """Jobs end while others wait in a queue; an engine that dies is another matter."""
    controller = FakeController(2)
    client = controller.client()
    engines = client._session.engines
    engines.left(EngineLeft(1, "time is over", excused=True))
    with pytest.raises(TimeoutError, match="Currently ready: 1"):
        client.wait_for_engines(2, timeout=0.0, interactive=False)
    engines.left(EngineLeft(0, "killed by SIGKILL (9)"))
    with pytest.raises(EngineError, match="engine 0 on h is dead: killed by SIGKILL"):
        _raise_if_hopeless(client, engines.known, set())
    client.close()
