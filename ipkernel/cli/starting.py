"""``ipcluster start`` and ``ipcluster engines``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ipkernel.cli import common
from ipkernel.cli.settings import chosen_settings
from ipkernel.cli.tables import number, ranges, span
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import KernelError

#: How often the foreground's line is renewed, in seconds.
_RENEW: Final = 2.0


class _Line:
    """One line on a terminal that is written over again and again; silent elsewhere."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and sys.stdout.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        if self.enabled:
            columns = _columns()
            text = text[: columns - 1]
            sys.stdout.write("\r" + text.ljust(self._width))
            sys.stdout.flush()
            self._width = len(text)

    def end(self) -> None:
        if self.enabled and self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()
            self._width = 0


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _Progress:
    """Turns the events of the programs into a line: ``starting 8 engines ... 3 ready``."""

    def __init__(self, n: int, line: _Line) -> None:
        self._n = n
        self._line = line
        self._controller = False
        self._ready = 0
        self._registered = False

    def show(self) -> None:
        text = f"starting {number(self._n, 'engine')} ..."
        if not self._controller:
            text += " waiting for the controller"
        elif not self._registered and not self._ready:
            text += " waiting for the host daemon"
        else:
            text += f" {self._ready} ready"
        self._line.show(text)

    def __call__(self, program: str, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if program == "ipcontroller":
            self._controller = self._controller or kind == "ready"
        elif kind == "registered":
            self._registered = True
        elif kind == "engines":
            self._ready = min(self._n, self._ready + len(event.get("engines", ())))
        elif kind == "ready":
            self._ready = self._n
        self.show()


def start_command(options: argparse.Namespace) -> int:
    """Start a cluster, in the foreground or in the background."""
    directory = common.directory_of(options)
    line = _Line(not options.quiet)
    cluster = Cluster(
        cluster_dir=directory.path,
        **chosen_settings(options),
        daemonize=options.daemonize,
        shutdown_atexit=False,
    )
    with _end_like_ctrl_c():
        _start(cluster, line, options)
        return common.OK if options.daemonize else _foreground(cluster, line, options.quiet)


def _start(cluster: Cluster, line: _Line, options: argparse.Namespace) -> None:
    cluster.on_event = progress = _Progress(cluster.n, line)
    began = time.monotonic()
    try:
        progress.show()
        cluster.start_cluster_sync()
    finally:
        line.end()
    if not options.quiet:
        _say_ready(cluster, time.monotonic() - began, options)


def _say_ready(cluster: Cluster, seconds: float, options: argparse.Namespace) -> None:
    print(
        f"cluster {cluster.cluster_id} is ready: {number(cluster.n, 'engine')} "
        f"in {seconds:.1f} s, {cluster.directory.path}"
    )
    named = f" {_which(cluster.directory)}"
    if options.daemonize:
        print(f"stop it with: ipcluster stop{named.rstrip()}")
    else:
        print("Ctrl-C stops it")
    sys.stdout.flush()


def _which(directory: ClusterDirectory) -> str:
    """Return the options that mean a directory; empty for the default one."""
    if directory == ClusterDirectory.named():
        return ""
    if directory == ClusterDirectory.named(directory.name):
        return f"--cluster {directory.name}"
    return f"--cluster-dir {directory.path}"


@contextmanager
def _end_like_ctrl_c() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end this program as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _foreground(cluster: Cluster, line: _Line, quiet: bool) -> int:
    """Watch a cluster until Ctrl-C, or until it ends."""
    problem = ""
    try:
        began = time.monotonic()
        while not cluster.wait_stopped(_RENEW if line.enabled else 3600.0):
            if line.enabled:
                line.show(_status_line(cluster, time.monotonic() - began))
        problem = cluster.problem()
    except KeyboardInterrupt:
        pass
    line.end()
    if not quiet and not problem:
        print(f"stopping cluster {cluster.cluster_id}", flush=True)
    cluster.stop_cluster_sync()  # a second Ctrl-C in it kills
    if problem:
        return common.fail("ipcluster", problem, common.FAILURE)
    return common.OK


def _status_line(cluster: Cluster, seconds: float) -> str:
    try:
        status = cluster.status_sync()
    except KernelError as error:
        return str(error).splitlines()[0]
    ready = sum(e.state == "ready" for e in status.engines)
    queue = status.queue
    waiting = queue.waiting + queue.ready + queue.assigned
    return (
        f"{ready} of {number(len(status.engines), 'engine')} ready, "
        f"{number(status.clients, 'client')}, tasks: {queue.running} running, "
        f"{waiting} waiting, {queue.finished} finished, {queue.failed} failed - "
        f"up {span(seconds)}"
    )


def engines_command(options: argparse.Namespace) -> int:
    """Add engines to a running cluster."""
    directory = common.running_directory(options)
    given = {"log_level": options.log_level} if options.log_level else {}
    cluster = Cluster.from_directory(directory.path, **given)
    name = cluster.start_engines_sync(options.n)
    if not options.quiet:
        ids = cluster.engines[name].engines
        print(f"added {number(len(ids), 'engine')} to cluster {directory.name}: {ranges(ids)}")
    return common.OK
