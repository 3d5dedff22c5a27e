"""``ipcluster status`` and ``ipcluster list``."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ipkernel.cli import common
from ipkernel.cli.processtables import engines_table, hosts_table, usage
from ipkernel.cli.tables import harmless, number, size, span, table
from ipkernel.cluster.diagnosis import engine_lines, indented
from ipkernel.cluster.directory import ClusterDirectory, all_directories
from ipkernel.cluster.processes import Process

if TYPE_CHECKING:
    from ipkernel.cluster.joining import Standing
    from ipkernel.wire.records import Status


def status_command(options: argparse.Namespace) -> int:
    """Show the state of a cluster, as the controller tells it."""
    directory = common.running_directory(options)
    with _importing():  # most of the time that this command takes
        from ipkernel.cluster import monitoring
        from ipkernel.cluster.joining import standings

        status = monitoring.status(directory)
    missing = standings(directory, status.hosts)
    if options.output == "json":
        import msgspec

        content = {**msgspec.to_builtins(status), "directory": str(directory.path)}
        content["missing"] = [
            {
                **one.program.to_dict(),
                "title": one.program.title,
                "state": one.state,
                "lines": one.lines,
            }
            for one in missing
        ]
        print(json.dumps(content, indent=1))
    else:
        print(describe(status, directory, missing))
    return common.OK


@contextmanager
def _importing() -> Iterator[None]:
    """Within it, nobody looks for garbage: importing makes none, and it takes a tenth of it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def describe(
    status: Status,
    directory: ClusterDirectory,
    missing: Sequence[Standing] = (),
    now: float | None = None,
) -> str:
    """Return the state of a cluster as text with tables.

    Args:
        status: What the controller says.
        directory: The cluster's directory.
        missing: Programs that were launched and have not joined.
        now: The time, seconds since the epoch; by default that of the call.
    """
    queue = status.queue
    have = (
        number(len(status.engines), "engine"),
        f"on {number(len(status.hosts), 'host')},",
        number(status.clients, "client"),
    )
    controller = (
        f"pid {status.pid} on {status.host}",
        status.location,
        *usage(status),
        f"ipkernel {status.version}",
    )
    tasks = (
        f"{queue.waiting + queue.ready} waiting",
        f"{queue.assigned} assigned",
        f"{queue.running} running",
        f"{queue.finished} finished",
        f"{queue.failed} failed",
        f"{queue.aborted} aborted",
    )
    parts = [
        f"cluster {status.cluster or directory.name}: up {span(status.uptime)}, {' '.join(have)}",
        f"  directory   {directory.path}",
        f"  controller  {', '.join(controller)}",
        f"  tasks       {', '.join(tasks)}",
    ]
    if status.journal_level and status.journal_level != "off":
        parts.append(f"  journal     {status.journal_level}, {size(status.journal_size)}")
    if status.journal:
        parts.append(f"  journal     {status.journal}")
    when = time.time() if now is None else now
    for cause in status.stuck:
        what = "for information" if cause.severity == "information" else f"stuck ({cause.severity})"
        parts += ["", f"{what}, for {span(when - cause.since)}: {cause.reason}"]
        if cause.advice:
            parts.append(f"  -> {cause.advice}")
    if status.hosts:
        parts += ["", hosts_table(status, when)]
    if missing:
        rows = [(one.program.title, one.program.n, one.state) for one in missing]
        parts += ["", table(("NOT JOINED", "ENGINES", "STATE"), rows, right="ENGINES")]
        for one in missing:
            if one.lines:
                parts += [f"{one.program.title} said last:", *indented(one.lines)]
    if status.engines:
        parts += ["", engines_table(status)]
        for engine in status.engines:
            if lines := engine_lines(directory, engine):
                parts += [f"engine {engine.engine} printed last:", *indented(lines)]
    return harmless("\n".join(parts))


def list_command(options: argparse.Namespace) -> int:
    """List the clusters in ``$IPYTHONDIR``, running or not."""
    found = [_summary(directory) for directory in all_directories()]
    if options.output == "json":
        print(json.dumps(found, indent=1))
        return common.OK
    if not found:
        print("you have no clusters; start one with 'ipcluster start'")
        return common.OK
    rows = [
        (
            one["cluster"],
            "yes" if one["running"] else "no",
            one["engines"] if one["running"] else "-",
            one["hosts"] if one["running"] else "-",
            one["directory"],
        )
        for one in found
    ]
    print(table(("CLUSTER", "RUNNING", "ENGINES", "HOSTS", "DIRECTORY"), rows))
    return common.OK


def _summary(directory: ClusterDirectory) -> dict[str, Any]:
    processes = directory.processes()
    controller = next((p for p in processes if p.role == "ipcontroller"), None)
    daemons = [p for p in processes if p.role != "ipcontroller"]
    away = controller is None and common.runs_elsewhere(directory)
    return {
        "cluster": directory.name,
        "running": controller is not None or away,
        "engines": _noted(directory) if away else count_engines(directory, daemons),
        "hosts": len(_places(directory) if away else {p.host for p in daemons}),
        "directory": str(directory.path),
        "pid": controller.pid if controller is not None else None,
    }


def count_engines(directory: ClusterDirectory, daemons: list[Process]) -> int:
    """Return how many engines the daemons of a cluster have.

    Those of this host are counted; of other hosts, what was noted when they were started.
    """
    if not daemons:
        return 0
    import psutil

    counted = 0
    for daemon in daemons:
        if not daemon.here:
            continue
        try:
            below = psutil.Process(daemon.pid).children(recursive=True)
        except psutil.Error:
            continue
        counted += sum(_is_engine(process) for process in below)
    if counted and all(daemon.here for daemon in daemons):
        return counted
    return max(counted, _noted(directory))


def _noted(directory: ClusterDirectory) -> int:
    """Return how many engines a cluster had when that was noted."""
    sets = directory.read_record().get("engines")
    return sum(int(s.get("n", 0)) for s in sets.values()) if isinstance(sets, dict) else 0


def _places(directory: ClusterDirectory) -> set[str]:
    """Return where a cluster's host daemons were launched."""
    from ipkernel.cluster.recorded import programs_of

    return {one.label for one in programs_of(directory) if one.kind == "engines"}


def _is_engine(process: Any) -> bool:
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return bool(command) and command[0].startswith("ipengine ")
