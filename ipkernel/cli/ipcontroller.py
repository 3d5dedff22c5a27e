"""``ipcontroller``: run the controller of a cluster in the foreground."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ipkernel.arguments import port, span_or_zero
from ipkernel.cli.common import level, said
from ipkernel.cli.journal import add_journal_options, make_retained, open_journal
from ipkernel.cli.parser import Parser, add_version
from ipkernel.cli.process import (
    Lifeline,
    emit,
    set_title,
    start_logging,
    stop_logging,
)
from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory, find_directory
from ipkernel.cluster.pidfile import AlreadyRunning, PidFile
from ipkernel.controller.defaults import HOST_GRACE, RESTART_GRACE, SCHEMES, WATCHDOG
from ipkernel.errors import ConnectError, IPythonError
from ipkernel.host.options import add_log_options, add_restarts_option

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ipkernel.controller.nearby import NearDoor
    from ipkernel.controller.service import Controller
    from ipkernel.controller.state import Kept
    from ipkernel.wire.tub import SecureTub


def parser() -> Parser:
    """Return the parser of the command line."""
    p = Parser(
        prog="ipcontroller",
        description="Run the controller of a cluster. Clients and engines find it by the FURL\n"
        "files that it writes to the cluster directory.",
    )
    p.add_argument(
        "--cluster-dir",
        metavar="DIR",
        help="the cluster's directory (default: $IPYTHONDIR/cluster_NAME)",
    )
    p.add_argument(
        "--cluster",
        metavar="NAME",
        default="",
        help="the cluster's name (default: that of the directory, or default)",
    )
    p.add_argument(
        "--interface",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1)",
    )
    p.add_argument(
        "--port", type=port, default=0, help="port to listen on (default: the last one, or any)"
    )
    p.add_argument(
        "--location",
        metavar="HINTS",
        default="",
        help="where others reach this host, such as 'node1' or 'tcp:10.0.0.1:4711,tcp:node1:4711' "
        "(default: the addresses on which it listens)",
    )
    p.add_argument(
        "--tls-only",
        action="store_true",
        help="use TLS also with processes of this machine and user (default: a local socket)",
    )
    add_journal_options(p)
    p.add_argument(
        "--scheme",
        choices=SCHEMES,
        default=SCHEMES[0],
        help="which engine gets the next load-balanced task (default: leastload)",
    )
    p.add_argument(
        "--watchdog",
        type=span_or_zero,
        default=WATCHDOG,
        metavar="TIME",
        help="when work on which nobody makes progress is stuck; 0: never (default: 60s)",
    )
    p.add_argument(
        "--host-grace",
        type=span_or_zero,
        default=HOST_GRACE,
        metavar="TIME",
        help="how long a host whose connection is lost may take to come back (default: 2s)",
    )
    p.add_argument(
        "--restart-grace",
        type=span_or_zero,
        default=RESTART_GRACE,
        metavar="TIME",
        help="the same after the controller was started again (default: 10s)",
    )
    p.add_argument("--lifeline", action="store_true", help="stop when the standard input is closed")
    p.add_argument(
        "--log-level",
        type=level,
        default="INFO",
        metavar="LEVEL",
        help="what to log: debug, info (default), warning, error or critical",
    )
    add_log_options(p)
    add_restarts_option(p)
    p.add_argument(
        "--no-log-file", action="store_true", help="log to the standard error, not to a file"
    )
    add_version(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the controller until it is told to stop; return the exit status."""
    options = parser().parse(argv)
    gc.disable()  # nothing becomes garbage while modules are imported; see _calm_collector
    try:
        if options.cluster_dir:
            directory = ClusterDirectory(options.cluster_dir)
        else:
            directory = find_directory(options.cluster or None)
        directory.create()
        options.cluster = options.cluster or directory.name
        pid_file = PidFile(directory.pid / "ipcontroller.json")
        pid_file.claim(options.cluster, "ipcontroller")
    except (IPythonError, AlreadyRunning, OSError) as error:
        return _fail(said(error))
    try:
        start_logging(
            "ipcontroller",
            None if options.no_log_file else directory.log,
            options.log_level,
            size=options.log_size,
            backups=options.log_backups,
        )
        set_title(f"ipcontroller [{options.cluster}]")
        status = _Run(options, directory).run()
        if status == 0:
            restarting.forbid(directory)
        return status
    except (OSError, ValueError) as error:
        return _fail(said(error))
    finally:
        pid_file.remove()
        stop_logging()


def _fail(message: str) -> int:
    emit("error", message=message)
    try:
        print(f"ipcontroller: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass
    return 1


class _Run:
    """One life of the controller."""

    def __init__(self, options: argparse.Namespace, directory: ClusterDirectory) -> None:
        self._options = options
        self._directory = directory
        self._kept_path = directory.security / "ipcontroller.json"
        self._controller: Controller | None = None
        self._near: NearDoor | None = None
        self._problem = ""
        self._reactor: Any = None

    def run(self) -> int:
        """Run the reactor; return the exit status."""
        from twisted.internet import reactor

        from ipkernel.wire.lean import lighten

        self._reactor = reactor
        lighten(reactor)
        _quieten_twisted()
        self._reactor.callWhenRunning(self._start)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        if self._options.lifeline:
            Lifeline(lambda: self._reactor.callFromThread(self._end)).start()
        self._reactor.run()
        if self._problem:
            return _fail(self._problem)
        return 0

    def _start(self) -> None:
        from twisted.internet.defer import Deferred

        Deferred.fromCoroutine(self._begin()).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        if failure.check(IPythonError, OSError):
            self._problem = said(failure.value)
        else:
            import logging

            logging.getLogger(__name__).error("cannot start\n%s", failure.getTraceback())
            self._problem = f"cannot start: {failure.type.__name__}: {failure.getErrorMessage()}"
        self._end()

    def _end(self, reason: str = "") -> None:
        from twisted.internet.error import ReactorNotRunning

        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # it is stopping already

    async def _begin(self) -> None:
        from ipkernel.controller.doors import monitor_methods
        from ipkernel.controller.nearby import NearDoor
        from ipkernel.controller.reviving import HostReviver
        from ipkernel.controller.scheduler import Scheduler
        from ipkernel.controller.service import Controller
        from ipkernel.controller.state import Kept
        from ipkernel.wire.furl import hints, write_furl
        from ipkernel.wire.identity import Identity
        from ipkernel.wire.tub import make_tub

        options = self._options
        security = self._directory.security
        kept = Kept.load(self._kept_path)
        tub = make_tub(Identity.load_or_create(security / "ipcontroller.pem"), self._reactor)
        journal = open_journal(options, self._directory.state, self._reactor)
        self._controller = controller = Controller(
            tub,
            cluster=options.cluster,
            journal=journal,
            scheduler=Scheduler(scheme=options.scheme, retained=make_retained(options, journal)),
            on_shutdown=self._end,
            restarts=options.restarts,
            host_grace=options.host_grace,
            restart_grace=options.restart_grace,
            watchdog=options.watchdog,
            reviver=HostReviver(self._reactor, self._directory.path),
        )
        if journal is not None and journal.notice:
            emit("warning", message=journal.notice)
        port = await self._listen(tub, kept)
        if not options.tls_only:
            tub.listen_locally()
        if options.location:
            tub.setLocation(*hints(options.location, port))
        Kept(port, kept.swissnums).save(self._kept_path)
        for role, furl in controller.open_doors(kept.swissnums).items():
            write_furl(self._directory.furl_file(role), furl)
        self._near = NearDoor(self._reactor, monitor_methods(controller))
        self._near.listen(self._directory.question_socket)
        _calm_collector()
        emit("ready", pid=os.getpid(), location=",".join(tub.locationHints))

    async def _listen(self, tub: SecureTub, kept: Kept) -> int:
        options = self._options
        port: int = options.port or kept.port
        try:
            return await tub.listen(options.interface, port)
        except ConnectError as error:
            if options.port or not kept.port or "in use" not in str(error):
                raise
            raise ConnectError(
                f"{error}{_who_listens(port)}. The FURLs of this cluster name that port: stop "
                f"that process, or remove {self._kept_path} and distribute the new FURL files"
            ) from None

    def _stop(self) -> Deferred[None] | None:
        if self._near is not None:
            self._near.close()
        if self._controller is None:
            return None
        return self._controller.stop()


def _who_listens(port: int) -> str:
    """Return " (pid ..., name)" for the process that listens on ``port``, if it can be seen."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            address: Any = connection.laddr
            listens = connection.status == psutil.CONN_LISTEN and address.port == port
            if listens and connection.pid is not None:
                name = psutil.Process(connection.pid).name()
                return f" (pid {connection.pid}, {name})"
    except (psutil.Error, OSError):
        pass
    return ""


def _quieten_twisted() -> None:
    """Send Twisted's log to ours, without its chatter."""
    import logging

    from twisted.logger import STDLibLogObserver, globalLogBeginner

    logging.getLogger("twisted").setLevel(logging.WARNING)
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False)


def _calm_collector() -> None:
    """Let the garbage collector pass over what stays, and look at the rest less often.

    Tasks and messages never form cycles; looking for some among a million of them takes long.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000, 20, 100)


if __name__ == "__main__":
    sys.exit(main())
