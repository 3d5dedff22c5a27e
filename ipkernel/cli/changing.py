"""``ipcluster scale``, ``adapt``, ``signal`` and ``restart``: change a cluster that runs."""

from __future__ import annotations

import argparse
import sys

from ipkernel.cli import common
from ipkernel.cli.tables import number
from ipkernel.cluster.cluster import Cluster
from ipkernel.ranges import ranges_text


def _attached(options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options mean.

    Raises:
        NotRunning: It does not run.
    """
    directory = common.running_directory(options)
    given = {"log_level": options.log_level} if options.log_level else {}
    return Cluster.from_directory(directory.path, **given)


def scale_command(options: argparse.Namespace) -> int:
    """Have so many engines."""
    cluster = _attached(options)
    cluster.scale_sync(options.n, drain=not options.now, limit=options.limit)
    if not options.quiet:
        print(f"scaled cluster {cluster.cluster_id} to {number(options.n, 'engine')}")
    return common.OK


def adapt_command(options: argparse.Namespace) -> int:
    """Have as many engines as there are tasks, until Ctrl-C or the end of the cluster."""
    cluster = _attached(options)

    def told(text: str) -> None:
        if not options.quiet:
            print(text, flush=True)

    with (
        common.end_like_ctrl_c(),
        cluster.adapt(
            options.minimum,
            options.maximum,
            options.interval,
            tasks_per_engine=options.tasks_per_engine,
            grow_after=options.grow_after,
            idle_after=options.idle_after,
            told=told,
        ) as adapting,
    ):
        told(
            f"cluster {cluster.cluster_id} has {options.minimum} to "
            f"{number(options.maximum, 'engine')} now; Ctrl-C ends that"
        )
        try:
            while not adapting.wait(3600.0):
                pass
        except KeyboardInterrupt:
            return common.OK
    sys.stderr.write(f"ipcluster: {adapting.problem}\n")
    return common.NOT_RUNNING


def signal_command(options: argparse.Namespace) -> int:
    """Send a signal to engines, or to the controller."""
    cluster = _attached(options)
    signal = int(options.signal) if options.signal.isdecimal() else options.signal
    if options.controller:
        cluster.signal_controller_sync(signal)
    else:
        cluster.signal_engines_sync(signal, engines=options.engine)
    return common.OK


def restart_command(options: argparse.Namespace) -> int:
    """Restart engines."""
    cluster = _attached(options)
    cluster.restart_engines_sync(engines=options.engine)
    if not options.quiet:
        which = "all engines"
        if options.engine:
            some = "engine" if len(options.engine) == 1 else "engines"
            which = f"{some} {ranges_text(options.engine)}"
        print(f"restarted {which} of cluster {cluster.cluster_id}")
    return common.OK
