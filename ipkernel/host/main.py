"""What ``ipdaemon`` and ``ipengine`` have in common: from options to a process that has ended.

The order is chosen for speed: the zygote is started before anything heavy is imported here, and
engines are asked for before the controller is reached, so that all of it overlaps.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ipkernel.host.storeoptions import DEFAULTS, StoreOptions

__all__ = ["Options", "run"]

logger = logging.getLogger(__name__)


class Options:
    """How a host daemon is to run.

    Attributes:
        furl_file: The file with the engine FURL.
        engines: How many engines.
        cluster: Name of the cluster, for titles.
        cluster_dir: Its directory, or None for a daemon that leaves no files.
        wait: Seconds in which the controller must be reached.
        grace: Seconds for which a lost controller is looked for.
        lifeline: Whether the end of the standard input is the end of the daemon.
        log_level: A level by name.
        title: The process's title, without the cluster.
        store: How its store is to be.
    """

    def __init__(
        self,
        furl_file: str,
        *,
        engines: int = 1,
        cluster: str = "",
        cluster_dir: Path | None = None,
        wait: float = 60.0,
        grace: float = 10.0,
        lifeline: bool = False,
        log_level: str = "info",
        title: str = "ipdaemon",
        store: StoreOptions = DEFAULTS,
    ) -> None:
        self.furl_file = furl_file
        self.engines = engines
        self.cluster = cluster
        self.cluster_dir = cluster_dir
        self.wait = wait
        self.grace = grace
        self.lifeline = lifeline
        self.log_level = log_level
        self.title = title
        self.store = store


Report = Callable[..., None]


def run(options: Options, report: Report) -> int:
    """Be a host daemon until it is over.

    Args:
        options: How.
        report: Is told what happens: the name of an event, and its fields.

    Returns:
        The process's exit code.
    """
    gc.disable()  # nothing becomes garbage while modules are imported
    os.environ["IPKERNEL_CLUSTER"] = str(options.cluster_dir or options.cluster or os.getpid())
    from ipkernel.host.starters import portable

    zygote: Any = None
    if not portable():
        from ipkernel.host.zygotes import spawn_zygote

        zygote = spawn_zygote(options.cluster)
    from ipkernel.host.starters import make_starter

    starter = make_starter(options.cluster, zygote)
    pid_file: Any = None
    try:
        begun = [starter.start(str(number + 1), {}) for number in range(options.engines)]
        pid_file = _settle(options)
        return _serve(options, report, starter, begun)
    except (OSError, ValueError, RuntimeError) as error:
        report("error", message=str(error))
        return 1
    finally:
        starter.close()
        if pid_file is not None:
            pid_file.remove()


def _settle(options: Options) -> Any:
    """Log, title and pid file."""
    from ipkernel.cli.process import PidFile, set_title, start_logging

    directory = options.cluster_dir
    start_logging("ipdaemon", directory / "log" if directory else None, options.log_level)
    set_title(f"{options.title} [{options.cluster}]" if options.cluster else options.title)
    if directory is None:
        return None
    pids = directory / "pid"
    pids.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid_file = PidFile(pids / f"ipdaemon-{socket.gethostname()}-{os.getpid()}.json")
    pid_file.claim(options.cluster, "ipdaemon")
    return pid_file


def _serve(options: Options, report: Report, starter: Any, begun: list[Any]) -> int:
    from twisted.internet import reactor as the_reactor

    from ipkernel.host.daemon import HostDaemon
    from ipkernel.wire.identity import Identity
    from ipkernel.wire.lean import lighten
    from ipkernel.wire.tub import make_tub

    reactor: Any = the_reactor
    lighten(reactor)
    _log_twisted()
    directory = options.cluster_dir
    daemon = HostDaemon(
        reactor,
        make_tub(Identity.create(), reactor),
        options.furl_file,
        starter,
        begun,
        host=socket.gethostname(),
        log_dir=directory / "log" if directory else None,
        store=options.store,
        wait=options.wait,
        grace=options.grace,
        report=report,
    )
    status = 0

    def over(result: Any) -> None:
        nonlocal status
        if result is not None:
            status = 1
            report("error", message=result.getErrorMessage())
        if reactor.running:
            reactor.stop()

    daemon.finished.addBoth(over)
    _stop_on_signals(reactor, daemon)
    if options.lifeline:
        from ipkernel.cli.process import Lifeline

        ended = "its parent process is gone, or wants it"
        Lifeline(lambda: reactor.callFromThread(daemon.stop, ended)).start()
    reactor.callWhenRunning(daemon.start)
    gc.freeze()
    gc.enable()
    reactor.run(installSignalHandlers=False)
    return status


def _stop_on_signals(reactor: Any, daemon: Any) -> None:
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) > 2:  # someone is losing patience, and the engines die with this process
            os._exit(130)
        reactor.callFromThread(daemon.stop, f"received {signal.Signals(number).name}")

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            with suppress(ValueError, OSError):
                signal.signal(number, stop)


def _log_twisted() -> None:
    """Send Twisted's own log, and Foolscap's through it, to :mod:`logging`; warnings only."""
    from twisted.logger import (
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        STDLibLogObserver,
        globalLogBeginner,
    )

    observer = FilteringLogObserver(
        STDLibLogObserver("twisted"), [LogLevelFilterPredicate(LogLevel.warn)]
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    logger.critical("unexpected error", exc_info=(kind, error, traceback))
