"""``ipcluster start`` and ``ipcluster engines``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from ipkernel.cli import common
from ipkernel.cli.settings import chosen_settings
from ipkernel.cli.tables import harmless, number, span
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.hosted import Hosted, state_of, why_ended
from ipkernel.errors import KernelError
from ipkernel.ranges import ranges_text

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
            text = harmless(text)[: columns - 1]
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
        self._ready: set[int] = set()
        self._registered = False
        self._doing: dict[str, str] = {}

    def show(self) -> None:
        text = f"starting {number(self._n, 'engine')} ..."
        if not self._controller:
            text += " waiting for the controller"
        elif not self._registered and not self._ready:
            text += " waiting for the host daemon"
        else:
            text += f" {len(self._ready)} ready"
        for where, what in self._doing.items():
            text += f", {where}: {what}"
        self._line.show(text)

    def __call__(self, program: str, event: dict[str, Any]) -> None:
        kind = event.get("event")
        where = str(event.get("where", ""))
        if program == "ipcontroller":
            self._controller = self._controller or kind == "ready"
        elif kind == "registered":
            self._registered = True
            self._doing.pop(where, None)
        elif kind in ("engines", "ready"):
            self._ready.update(event.get("engines", ()))
        elif kind == "state":
            self._doing[where] = str(event.get("text", ""))
        elif kind in ("connecting", "checking", "copying"):
            self._doing[where] = str(kind)
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
    if options.dry_run:
        print(cluster.preview())
        return common.OK
    with common.end_like_ctrl_c():
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
    for failure in cluster.failures:
        sys.stderr.write(f"ipcluster: {failure}\n")
    if not options.quiet:
        _say_ready(cluster, time.monotonic() - began, options)


def _say_ready(cluster: Cluster, seconds: float, options: argparse.Namespace) -> None:
    programs = [one for s in cluster.engines.values() for one in s.programs]
    back = sum(len(s.engines) for s in cluster.engines.values() if not s.programs)
    jobs = _jobs(programs)
    there = back + sum(one.share.n for one in programs) - sum(one.share.n for one in jobs)
    print(
        f"cluster {cluster.cluster_id} is ready: {number(there, 'engine')} "
        f"in {seconds:.1f} s, {cluster.directory.path}"
    )
    _say_jobs(jobs)
    if options.daemonize:
        print(f"stop it with: {cluster.directory.command('stop')}")
    else:
        print("Ctrl-C stops it")
    sys.stdout.flush()


def _jobs(programs: Iterable[Hosted]) -> list[Hosted]:
    return [one for one in programs if not one.ready and not one.entry.immediate]


def _say_jobs(jobs: Iterable[Hosted]) -> None:
    """Tell where batch jobs stand whose engines are not there."""
    for one in jobs:
        count, state = number(one.share.n, "engine"), state_of(one.launcher)
        if one.launcher.running:
            print(f"{count} to come: {one.title}, {state}")
        else:
            why = harmless(why_ended(one.launcher))
            sys.stderr.write(f"ipcluster: {count} will not come: {why}\n")


def _foreground(cluster: Cluster, line: _Line, quiet: bool) -> int:
    """Watch a cluster until Ctrl-C, or until it ends."""
    problem = ""

    def told(program: str, event: dict[str, Any]) -> None:
        """Tell of host daemons that die, and of those that are given up."""
        if event.get("event") in ("ended", "failed") and "message" in event:
            line.end()
            where = f"{event['where']}: " if event["event"] == "failed" and "where" in event else ""
            sys.stderr.write(harmless(f"ipcluster: {where}{event['message']}\n"))

    cluster.on_event = told
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
        added = cluster.engines[name]
        if ids := added.engines:
            count = number(len(ids), "engine")
            print(f"added {count} to cluster {directory.name}: {ranges_text(ids)}")
        _say_jobs(_jobs(added.programs))
    return common.OK
