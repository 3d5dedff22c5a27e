"""How a cluster's programs are to be started and stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ipkernel.cluster.entries import Entry


class Settings(NamedTuple):
    """How a cluster's programs are to be started and stopped.

    Attributes:
        controller: With which launcher the controller is started.
        interface: On which the controller listens; empty for its default.
        port: Of the controller; 0 for its default.
        location: Address that it announces; empty for its default.
        controller_args: Further arguments for it.
        engine_args: Further arguments for host daemons.
        environment: Further environment variables for both.
        log_level: Of both.
        lifeline: Whether they end with this process.
        restart: Whether a controller that was killed is started again.
        stop_timeout: Seconds that a stop may take, about.
        on_event: Called with the name of a program and each event that it reports.
        on_host_lost: Called, in another thread, with a sentence when the last host daemon has
            ended by itself, and is not started again.
        on_controller_lost: Called, in another thread, with a sentence when the controller has
            ended, and is not started again.
        on_change: Called, in another thread, when a host daemon was started again, or given up, and
            when it is known where a program is that was launched elsewhere.
    """

    controller: Entry
    interface: str = ""
    port: int = 0
    location: str = ""
    controller_args: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    log_level: str = "INFO"
    lifeline: bool = True
    restart: bool = True
    stop_timeout: float = 5.0
    on_event: Callable[[str, dict[str, Any]], object] | None = None
    on_host_lost: Callable[[str], object] | None = None
    on_controller_lost: Callable[[str], object] | None = None
    on_change: Callable[[], object] | None = None
