"""Connections by way of the controller, as a host asks for them and serves them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ipkernel.errors import ConnectError
from ipkernel.host.relays import PATIENCE, Relays
from ipkernel.wire.messages import Relay

TOKEN, OTHER = b"t" * 32, b"u" * 32


class Scene:
    """Relays, what they have sent, and whom they serve."""

    backlog = 0

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent: list[Any] = []
        self.served: list[bytes] = []
        self.relays = Relays(self.clock, self, self.served.append)
        self.relays.connected = True

    def send(self, message: Any, payload: Any = b"") -> None:
        self.sent.append(message)

    def ask(self, host: int) -> list[Any]:
        """Ask; the list becomes the token, or the error's text."""
        out: list[Any] = []
        answer: Deferred[bytes] = self.relays.ask(host)

        def failed(failure: Any) -> None:
            failure.trap(ConnectError)
            out.append(str(failure.value))

        answer.addCallbacks(out.append, failed)
        return out


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_answer_goes_to_who_has_asked(scene: Scene) -> None:
    seven, eight = scene.ask(7), scene.ask(8)
    assert scene.sent == [Relay(7), Relay(8)]
    scene.relays.handle(Relay(8, TOKEN))
    assert (seven, eight) == ([], [TOKEN])
    scene.relays.handle(Relay(7, OTHER))
    assert seven == [OTHER]
    assert not scene.clock.getDelayedCalls()


def test_two_who_ask_for_one_host_get_tokens_of_their_own(scene: Scene) -> None:
    first, second = scene.ask(7), scene.ask(7)
    scene.relays.handle(Relay(7, TOKEN))
    scene.relays.handle(Relay(7, OTHER))
    assert (first, second) == ([TOKEN], [OTHER])


@pytest.mark.parametrize(
    ("problem", "text"), [("host n2 is gone", "n2 is gone"), ("", "no reason")]
)
def test_a_refusal_says_why(scene: Scene, problem: str, text: str) -> None:
    answer = scene.ask(7)
    scene.relays.handle(Relay(7, b"", problem))
    assert text in answer[0]


def test_an_answer_that_does_not_come(scene: Scene) -> None:
    answer = scene.ask(7)
    scene.clock.advance(PATIENCE + 1)
    assert "within 10 s" in answer[0]
    again = scene.ask(7)
    scene.relays.handle(Relay(7, TOKEN))  # the late one, to the first question
    assert again == []
    scene.relays.handle(Relay(7, OTHER))
    assert again == [OTHER]


def test_an_answer_that_nobody_waits_for(scene: Scene) -> None:
    scene.relays.handle(Relay(7, TOKEN))
    assert scene.served == []


def test_a_call_to_serve(scene: Scene) -> None:
    scene.relays.handle(Relay(0, TOKEN))
    scene.relays.handle(Relay(0, b""))
    assert scene.served == [TOKEN]


def test_a_lost_controller_answers_nobody(scene: Scene) -> None:
    late, waiting = scene.ask(7), scene.ask(8)
    scene.clock.advance(PATIENCE + 1)
    waiting = scene.ask(8)
    scene.relays.disconnected()
    assert "was lost" in waiting[0] and "within" in late[0]
    assert not scene.clock.getDelayedCalls()
    scene.relays.handle(Relay(8, TOKEN))
    assert "no controller" in scene.ask(8)[0]
