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
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ipkernel.host.options import Options, take_slots

if TYPE_CHECKING:
    from ipkernel.host.slots import Slots

__all__ = ["run"]

logger = logging.getLogger(__name__)


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
    began = time.time()
    slots_text = take_slots(os.environ)
    os.environ["IPKERNEL_CLUSTER"] = str(options.cluster_dir or options.cluster or os.getpid())
    from ipkernel.host.starters import needs_zygote

    zygote: Any = None
    if needs_zygote():
        from ipkernel.host.zygotes import spawn_zygote

        zygote = spawn_zygote(options.cluster)
    from ipkernel.host.slots import make_slots
    from ipkernel.host.starters import make_starter

    starter = make_starter(options.cluster, zygote)
    pid_file: Any = None
    try:
        slots = make_slots(slots_text, options.engines)
        begun = [starter.start(str(n + 1), slots.place(n)) for n in range(options.engines)]
        pid_file = _settle(options)
        status = _serve(options, report, starter, begun, slots, began)
        if status == 0:
            _say_over(options)
        return status
    except (OSError, ValueError, RuntimeError) as error:
        report("error", message=str(error))
        return 1
    finally:
        starter.close()
        if pid_file is not None:
            pid_file.remove()


def _say_over(options: Options) -> None:
    """This daemon ends in good order, and is not to be started again."""
    if options.cluster_dir is not None:
        from ipkernel.cluster import daemonnotes
        from ipkernel.cluster.directory import ClusterDirectory

        daemonnotes.forbid(ClusterDirectory(options.cluster_dir), os.getpid())


def _settle(options: Options) -> Any:
    """Log, title and pid file."""
    from ipkernel.cli.process import set_title, start_logging
    from ipkernel.cluster.pidfile import PidFile

    directory = options.cluster_dir
    start_logging(
        "ipdaemon",
        directory / "log" if directory else None,
        options.log_level,
        size=options.log_size,
        backups=options.log_backups,
    )
    set_title(f"{options.title} [{options.cluster}]" if options.cluster else options.title)
    if directory is None:
        return None
    pids = directory / "pid"
    pids.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid_file = PidFile(pids / f"ipdaemon-{socket.gethostname()}-{os.getpid()}.json")
    pid_file.claim(options.cluster, "ipdaemon")
    return pid_file


def _serve(
    options: Options, report: Report, starter: Any, begun: list[Any], slots: Slots, began: float
) -> int:
    from twisted.internet import reactor as the_reactor

    from ipkernel.host.daemon import HostDaemon
    from ipkernel.wire.identity import Identity
    from ipkernel.wire.lean import lighten
    from ipkernel.wire.tub import make_tub

    reactor: Any = the_reactor
    lighten(reactor)
    _log_twisted()
    daemon = HostDaemon(
        reactor,
        make_tub(Identity.create(), reactor),
        options,
        starter,
        begun,
        slots=slots,
        host=socket.gethostname(),
        began=began,
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
