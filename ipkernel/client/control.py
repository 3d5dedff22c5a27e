"""What a client asks the controller to do with engines, and asks it about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipkernel.errors import EngineError, NoEnginesRegistered
from ipkernel.signals import signal_name
from ipkernel.wire.records import EngineAnswer, EngineOrder, pack, unpack

if TYPE_CHECKING:
    from ipkernel.client.client import Client


def _engines(client: Client, targets: Any) -> list[int]:
    engines = client._build_targets(targets)[1]
    if not engines:
        client._check_open()
        raise NoEnginesRegistered("there are no engines")
    return engines


def _check(answer: bytes | None, what: str) -> None:
    problem = unpack(EngineAnswer, answer).problem if answer else ""
    if problem:
        raise EngineError(f"{what}: {problem}")


def send_signal(client: Client, sig: int | str, targets: Any) -> None:
    """Send a signal to engines; see ``Client.send_signal``."""
    order = EngineOrder(engines=_engines(client, targets), signal=signal_name(sig))
    _check(client._call("signal_engines", pack(order)), "the signal was not sent")


def shutdown(client: Client, targets: Any, restart: bool, hub: bool) -> None:
    """End engines or the cluster; see ``Client.shutdown``."""
    if hub:
        client._call_admin("shutdown", b"a client asked for it")
        return
    order = pack(EngineOrder(engines=_engines(client, targets)))
    if restart:
        answer: bytes | None = client._call("restart_engines", order, 30.0)
        _check(answer, "the engines were not restarted")
    else:
        _check(client._call_admin("stop_engines", order), "the engines were not ended")
