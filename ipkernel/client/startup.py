"""Waiting for engines, and saying why they do not come."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ipkernel.client import progress
from ipkernel.client.waiting import seconds
from ipkernel.errors import EngineError, KernelError

if TYPE_CHECKING:
    from ipkernel.client.client import Client
    from ipkernel.client.engines import Engine


def wait_for_engines(
    client: Client,
    n: int,
    timeout: float | None,
    block: bool,
    interactive: bool | None,
    widget: object,
) -> Any:
    """Wait until there are ``n`` engines; see ``Client.wait_for_engines``."""
    if not block:
        return _in_thread(client, n, timeout)
    engines = client._session.engines
    if len(engines.ids) >= n:
        return None
    dead = {e.id for e in engines.known.values() if e.state == "dead"}
    limit = seconds(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    show = progress.interactive() if interactive is None else interactive
    bar = progress.make_bar(n, "engines", "starting", widget) if show else None
    shown = 0
    try:
        while True:
            known = engines.known
            ready = min(n, len(engines.ids))
            if bar is not None:
                bar.update(ready - shown)
                shown = ready
            if ready >= n:
                return None
            _raise_if_hopeless(client, known, dead)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(_too_few(client, n, limit or 0.0))
            engines.wait_for_change(known, left)
    finally:
        if bar is not None:
            bar.close()


def _raise_if_hopeless(client: Client, known: dict[int, Engine], dead: set[int]) -> None:
    client._check_open()
    engines = client._session.engines
    if engines.hopeless and not engines.ids:
        raise EngineError(f"while waiting for engines: {engines.hopeless}")
    for engine in known.values():
        if engine.state == "dead" and engine.id not in dead:
            raise EngineError(f"while waiting for engines: {engine}")


def _too_few(client: Client, n: int, limit: float) -> str:
    """Say how many engines there are, and of each other one what is known."""
    ready = len(client.ids)
    text = f"{n} engines not ready in {limit:g} seconds. Currently ready: {ready}"
    lost = str(client._session.contact)
    if lost:
        return f"{text}; {lost}"
    try:
        infos = client.engine_infos()
        hosts = client.status().hosts
    except (KernelError, TimeoutError) as problem:
        return f"{text} (the controller could not be asked for more: {problem})"
    from ipkernel.cluster import diagnosis

    directory = diagnosis.directory_of(getattr(client, "_place", None))
    lines = [
        *diagnosis.describe_engines(infos.values(), directory),
        *diagnosis.describe_programs(hosts, directory),
    ]
    if not hosts:
        lines.append("no host daemon has connected: see the logs of the launcher and of ipdaemon")
    return "\n".join([text, *lines])


def _in_thread(client: Client, n: int, timeout: float | None) -> Future[None]:
    future: Future[None] = Future()

    def run() -> None:
        try:
            wait_for_engines(client, n, timeout, True, False, None)
        except BaseException as problem:  # noqa: BLE001 - it is the future's to raise
            future.set_exception(problem)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="ipkernel-wait", daemon=True).start()
    return future
