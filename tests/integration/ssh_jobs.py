"""What is done on the machine ``here`` of a site: ``python -m tests.integration.ssh_jobs JOB JSON``.

A job gets keyword arguments as JSON and prints what it finds, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

import psutil

from ipkernel import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers.local import LocalControllerLauncher
from ipkernel.launchers.ssh import SSHHostLauncher


def say(**fields: Any) -> None:
    """Print a line of JSON, whole: events come in threads of their own."""
    os.write(1, json.dumps(fields, default=str).encode() + b"\n")


def place() -> tuple[str, str | None]:
    """Return where an engine is, and a variable that it was given."""
    return socket.gethostname(), os.environ.get("SSH_TEST_SECRET")


def slow(seconds: float) -> tuple[str, float]:
    """Take a while; return the host."""
    time.sleep(seconds)
    return socket.gethostname(), seconds


def block(size: int) -> bytes:
    """Return data that is too large for a message."""
    return os.urandom(size)


def seen(words: list[str]) -> list[str]:
    """Return the command lines of this machine's processes in which any of some words is."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        found += [line for word in words if word in line and process.pid != os.getpid()]
    return found


def statement(secret: str, **arguments: Any) -> None:
    """Start a cluster with one statement, and look whether secrets are seen."""
    events: list[Any] = []
    with Cluster(
        environment={"SSH_TEST_SECRET": secret},
        on_event=lambda program, event: events.append(event),
        **arguments,
    ) as rc:
        path = next(p for p in ClusterDirectory(arguments["cluster_dir"]).security.glob("*engine*"))
        furl = path.read_text().strip()
        say(
            places=rc[:].apply_sync(place),
            seen=seen([secret, furl.rpartition("/")[2]]),
            ssh=seen(["ssh -T"]),
        )
    say(events=events)


def data(size: int, **arguments: Any) -> None:
    """Move something large between two hosts, and to here."""
    events: list[Any] = []
    with Cluster(on_event=lambda program, event: events.append(event), **arguments) as rc:
        made = rc[0].apply_sync(block, size)
        there = rc[1].apply_sync(lambda value: (socket.gethostname(), len(value)), made)
        say(size=len(made), there=there, events=events)


def lose(**arguments: Any) -> None:
    """Have tasks on two hosts while one of them is lost; then say how all of that went."""
    with Cluster(
        on_event=lambda program, event: say(event=event), stop_timeout=3, **arguments
    ) as rc:
        view = rc.load_balanced_view()
        view.retries = 3
        results = view.map_async(slow, [0.4] * 24, chunksize=1)
        say(running=rc[:].apply_sync(socket.gethostname))
        say(results=results.get(120))


def hold(**arguments: Any) -> None:
    """Start a cluster, say so, and stay until somebody kills us."""
    with Cluster(**arguments) as rc:
        say(places=rc[:].apply_sync(place))
        time.sleep(600)


def leave(options: dict[str, Any], cluster_dir: str, tunnels: list[str]) -> None:
    """Start host daemons that outlive this process; say how to find them."""
    directory = ClusterDirectory(cluster_dir).create()
    controller = LocalControllerLauncher(
        directory, ["--cluster-dir", cluster_dir, "--interface", "0.0.0.0"], lifeline=False
    )
    controller.start()
    controller.wait_event("ready", 30)
    furl_file = str(directory.furl_file("engine"))
    launchers = []
    for tunnel in tunnels:
        (share,) = SSHHostLauncher.plan(None, {**options, "tunnel": tunnel})
        launcher = SSHHostLauncher(
            directory,
            ["--cluster-dir", cluster_dir, "--furl-file", furl_file, "-n", "1"],
            lifeline=False,
            options=options,
            share=share,
        )
        launcher.start()
        launchers.append(launcher)
    for launcher in launchers:
        launcher.wait_event("ready", 30)
    say(
        records=[launcher.record() for launcher in launchers],
        running=[launcher.running for launcher in launchers],
        controller=controller.pid,
    )
    for launcher in [*launchers, controller]:
        launcher.release()


def end(cluster_dir: str, orders: list[tuple[dict[str, Any], str]]) -> None:
    """End what :func:`leave` has started, from the records, each in its own way."""
    directory = ClusterDirectory(cluster_dir)
    launchers = [SSHHostLauncher.from_record(directory, record, {}) for record, _ in orders]
    before = [launcher.state() for launcher in launchers]
    for launcher, (_, how) in zip(launchers, orders, strict=True):
        getattr(launcher, how)()
    ended = [launcher.wait(30) for launcher in launchers]
    say(before=before, ended=ended, after=[launcher.state() for launcher in launchers])
    for launcher in launchers:
        launcher.close()


if __name__ == "__main__":
    {job.__name__: job for job in (statement, data, lose, hold, leave, end)}[sys.argv[1]](
        **json.loads(sys.argv[2])
    )
