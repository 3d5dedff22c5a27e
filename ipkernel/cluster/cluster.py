"""The class that starts, changes and stops a cluster."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ipkernel.cluster import options, stopping
from ipkernel.cluster.directory import (
    ClusterDirectory,
    find_directory,
    forget_old,
    private_name,
)
from ipkernel.cluster.either import either, running_loop
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.options import signal_name
from ipkernel.cluster.processes import Process, cpu_count
from ipkernel.cluster.programs import Programs, Settings
from ipkernel.errors import ClusterError, ConfigurationError, ConnectError, KernelError
from ipkernel.launchers import find_launcher

if TYPE_CHECKING:
    from ipkernel.client.client import Client
    from ipkernel.wire.records import Status

#: Seconds within which the end of a process is known after its connections have ended.
_NOTICE = 0.5

_running: set[Cluster] = set()
_owner = os.getpid()


class Cluster:
    """A controller and its engines: start them, connect, change them, stop them.

    ::

        with Cluster(n=4) as rc:
            print(rc[:].apply_sync(os.getpid))

    Every method is there twice: ``m_sync`` blocks; ``m`` blocks as well in a plain script, but
    called where an asyncio event loop runs (a notebook, ``async def``) it returns a future.
    ``with`` always blocks; ``async with`` does not.

    A cluster without a name gets a private directory, which is removed when the cluster has
    stopped in good order (its logs are kept if something failed). A named cluster keeps its
    directory, its address and its FURLs.

    Args:
        n: Number of engines; by default one for each core that this process may use.
        cluster: Name of the cluster.
        cluster_id: An older word for the name.
        profile: Another one; with ``cluster_id`` the name is ``<profile>-<cluster_id>``.
        cluster_dir: The cluster directory, instead of a name.
        cluster_file: A ``cluster.json``, instead of its directory.
        controller: How to launch the controller: a launcher's name or class.
        engines: How to launch the host daemon with the engines.
        controller_ip: Interface on which the controller listens; default loopback only.
        controller_port: Its port; by default what it had before, or any.
        controller_location: Address under which others reach it, if that is another one.
        controller_args: Further arguments for ``ipcontroller``.
        engine_args: Further arguments for ``ipdaemon``.
        engine_timeout: Seconds to wait for engines.
        stop_timeout: Seconds after which a stop becomes forcible, about.
        environment: Further environment variables for everything that is started.
        log_level: Of the cluster's processes: a name or a number of :mod:`logging`.
        shutdown_atexit: Stop the cluster when this process exits.
        daemonize: Let it outlive this process; implies ``shutdown_atexit=False``.
        on_event: Called, in some thread, with the name of the program and each event it reports.

    Raises:
        ConfigurationError: A value is not acceptable.
        TypeError: There is no such argument.

    Attributes:
        engines: Engine sets by id.
        n: Number of engines that :meth:`start_cluster` starts.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        cluster: str | None = None,
        cluster_id: str = "",
        profile: str = "",
        cluster_dir: str | os.PathLike[str] | None = None,
        cluster_file: str | os.PathLike[str] | None = None,
        controller: Any = "local",
        engines: Any = "local",
        controller_launcher_class: Any = None,
        engine_launcher_class: Any = None,
        controller_ip: str = "",
        controller_port: int = 0,
        controller_location: str = "",
        controller_args: Sequence[str] = (),
        engine_args: Sequence[str] = (),
        engine_timeout: float = 60,
        stop_timeout: float = 5,
        environment: Mapping[str, str] | None = None,
        log_level: int | str = "INFO",
        shutdown_atexit: bool = True,
        daemonize: bool = False,
        on_event: Callable[[str, dict[str, Any]], object] | None = None,
        **legacy: Any,
    ) -> None:
        if legacy:
            options.refuse_unknown(legacy, _arguments())
        self.n = cpu_count() if n is None else options.check_count(n)
        where = cluster_dir or cluster_file
        named = bool(where or cluster or cluster_id or profile)
        if named:
            directory = find_directory(
                cluster, cluster_dir=where, cluster_id=cluster_id, profile=profile
            )
        else:
            directory = ClusterDirectory.named(private_name())
        self._private = not named
        self.engine_timeout = options.check_seconds("engine_timeout", engine_timeout)
        self.stop_timeout = options.check_seconds("stop_timeout", stop_timeout)
        self.daemonize = daemonize
        self.shutdown_atexit = shutdown_atexit and not daemonize
        settings = Settings(
            controller=find_launcher("controller", controller_launcher_class or controller),
            engines=find_launcher("engines", engine_launcher_class or engines),
            interface=controller_ip,
            port=controller_port,
            location=controller_location,
            controller_args=tuple(controller_args),
            engine_args=tuple(engine_args),
            environment=dict(environment or {}),
            log_level=options.check_level(log_level),
            lifeline=not daemonize,
            stop_timeout=self.stop_timeout,
            on_event=self._event,
        )
        self.on_event = on_event
        self._programs = Programs(directory, self._private, settings)
        self.engines: dict[str, EngineSet] = {}
        self._attached = False
        self._client: Client | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = "running" if self.running else "not running"
        return f"<Cluster {self.cluster_id!r} {state} engines={list(self.engines.values())}>"

    @property
    def directory(self) -> ClusterDirectory:
        """The cluster directory, with what is in it."""
        return self._programs.directory

    @property
    def controller(self) -> Any:
        """The controller's launcher; None before the start and if somebody else started it."""
        return self._programs.controller

    @property
    def cluster_id(self) -> str:
        """Name of the cluster."""
        return self.directory.name

    name = cluster_id

    @property
    def cluster_dir(self) -> Path:
        """The cluster directory."""
        return self.directory.path

    @property
    def cluster_file(self) -> Path:
        """The file that :meth:`from_file` reads."""
        return self.directory.record_file

    @property
    def engine_set(self) -> EngineSet | None:
        """The first engine set, or None."""
        return next(iter(self.engines.values()), None)

    @property
    def running(self) -> bool:
        """Whether the controller runs, as far as can be told from this host."""
        if self.controller is not None:
            return bool(self.controller.running)
        return self._attached and self.directory.alive()

    # -- start ----------------------------------------------------------------------------

    def start_controller_sync(self) -> None:
        """Start the controller, and wait until it is ready. If it runs, do nothing.

        Raises:
            LauncherError: It did not start; the text says why.
            ClusterError: The directory cannot be used, or somebody else runs this cluster.
        """
        with self._lock, _StopOnFailure(self):
            self._spawn_controller()
            self._wait_controller(self._deadline())
            self._note()

    def start_engines_sync(self, n: int | None = None, engine_set_id: str | None = None) -> str:
        """Start engines and wait until they are ready.

        The first ones come with a host daemon on this host; later ones are started by the host
        daemons that the cluster has.

        Args:
            n: How many; by default as many as the cluster was made for.
            engine_set_id: Name for them, by default one that is free.

        Returns:
            The id of the engine set.

        Raises:
            LauncherError: They did not start; the text says why.
            ClusterError: The cluster does not run, or the id is taken.
            TimeoutError: They were not ready within ``engine_timeout``.
        """
        count = self.n if n is None else options.check_count(n, least=1)
        with self._lock:
            self._check_running()
            if self._has_hosts():
                engine_set = self._start_more(count, engine_set_id)
            else:
                engine_set = self._spawn_host(count, engine_set_id)
                self._wait_engines(self._deadline())
            self._note()
            return engine_set.engine_set_id

    def start_cluster_sync(self, n: int | None = None) -> Self:
        """Start the controller and the engines, and wait until they are ready.

        What runs already is left as it is, so this also replaces a controller that was lost.

        Args:
            n: How many engines; by default as many as the cluster was made for.

        Returns:
            The cluster itself.

        Raises:
            LauncherError: Something did not start; the text says why.
            ClusterError: The directory cannot be used, or somebody else runs this cluster.
            TimeoutError: Engines were not ready within ``engine_timeout``.
        """
        with self._lock, _StopOnFailure(self):
            self._launch(n)
            deadline = self._deadline()
            self._wait_controller(deadline)
            self._wait_engines(deadline)
            self._note()
        return self

    def start_and_connect_sync(
        self, n: int | None = None, activate: bool = False, **client_args: Any
    ) -> Client:
        """Start the cluster and return a client that is connected to all its engines.

        Args:
            n: How many engines; by default as many as the cluster was made for.
            activate: Make the magics ``%px`` etc. available (IPython).
            client_args: Further arguments for :class:`~ipkernel.client.client.Client`.

        Raises:
            LauncherError: Something did not start; the text says why.
            ClusterError: The directory cannot be used, or somebody else runs this cluster.
            ConnectError: The controller cannot be reached.
            TimeoutError: Engines were not ready within ``engine_timeout``.
        """
        with self._lock, _StopOnFailure(self):
            self._launch(n)
            deadline = self._deadline()
            load_client()  # while the processes start
            self._wait_controller(deadline)
            client = self._connect(client_args)
            try:
                self._wait_engines(deadline)
                self._wait_known(client, deadline)
                self._note()
                if activate:
                    client.activate()
            except BaseException:
                client.close()
                raise
        return client

    def connect_client_sync(self, **client_args: Any) -> Client:
        """Return a new client of this cluster.

        Args:
            client_args: Arguments for :class:`~ipkernel.client.client.Client`.

        Raises:
            ClusterError: The cluster does not run.
            ConnectError: The controller cannot be reached.
        """
        with self._lock:
            self._check_running()
        return self._connect(client_args)

    # -- stop -----------------------------------------------------------------------------

    def stop_cluster_sync(self) -> None:
        """Stop the engines and the controller, all at once. If nothing runs, do nothing.

        What does not end in good order within ``stop_timeout`` is killed, and said so on the
        standard error.

        Raises:
            ClusterError: Something cannot be ended.
        """
        with self._lock:
            _running.discard(self)
            if self._attached:
                self._stop_attached()
                return
            if not self._programs.all:
                return
            try:
                self._programs.end(self._programs.all)
            finally:
                self.engines = {}
            self._tidy()

    def stop_controller_sync(self) -> None:
        """Stop the controller, and with it the host daemons. If it does not run, do nothing."""
        with self._lock:
            if self._attached:
                self._stop_attached()
            elif self.controller is not None:
                self._programs.end([self.controller])

    def stop_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop an engine set, or all engines.

        Args:
            engine_set_id: Which; None for all of them.

        Raises:
            ClusterError: There is no such engine set, or the cluster does not run.
        """
        with self._lock:
            chosen = self._chosen(engine_set_id)
            left = [s for s in self.engines.values() if s not in chosen]
            if left or any(s.launcher is None for s in chosen):
                self._check_running()
                ids = [e for s in chosen for e in s.engines]
                if engine_set_id is None:
                    ids = []
                self._order("stop_engines", ids)
            if not left:
                self._programs.end(self._programs.hosts)
            for engine_set in chosen:
                self.engines.pop(engine_set.engine_set_id, None)
            self._note()

    # -- restart, signal ------------------------------------------------------------------

    def restart_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Restart an engine set, or all engines; they keep their ids.

        Raises:
            ClusterError: There is no such engine set, or the cluster does not run.
        """
        self._order_set("restart_engines", engine_set_id)

    def signal_engines_sync(self, signum: int | str, engine_set_id: str | None = None) -> None:
        """Send a signal to an engine set, or to all engines.

        Args:
            signum: Number or name of the signal.
            engine_set_id: Which; None for all of them.

        Raises:
            ClusterError: There is no such engine set, or the cluster does not run.
            ValueError: There is no such signal.
        """
        self._order_set("signal_engines", engine_set_id, signal_name(signum))

    def stop_engine_sync(self, engine_id: int) -> None:
        """Stop one engine for good.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
        """
        with self._lock:
            self._check_running()
            self._order("stop_engines", [engine_id])
            for engine_set in self.engines.values():
                engine_set.engines = tuple(e for e in engine_set.engines if e != engine_id)

    def restart_engine_sync(self, engine_id: int) -> None:
        """Restart one engine; it keeps its id.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
        """
        with self._lock:
            self._check_running()
            self._order("restart_engines", [engine_id])

    def signal_engine_sync(self, signum: int | str, engine_id: int) -> None:
        """Send a signal to one engine.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
            ValueError: There is no such signal.
        """
        with self._lock:
            self._check_running()
            self._order("signal_engines", [engine_id], signal_name(signum))

    def status_sync(self) -> Status:
        """Return the state of the controller, the hosts, the engines and the queue.

        Raises:
            ClusterError: The cluster does not run; the text says since when and why, if known.
            ConnectError: The controller cannot be reached.
        """
        with self._lock:
            self._check_running()
        return self._status()

    def wait_stopped(self, timeout: float) -> bool:
        """Wait until the controller or a host daemon that was started here has ended.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether one has.
        """
        return self._programs.wait_ended(timeout)

    def problem(self) -> str:
        """Say which program has failed since the start, and how; empty if none has."""
        return self._programs.problem()

    start_controller = either(start_controller_sync)
    start_engines = either(start_engines_sync)
    start_cluster = either(start_cluster_sync)
    start_and_connect = either(start_and_connect_sync)
    connect_client = either(connect_client_sync)
    stop_cluster = either(stop_cluster_sync)
    stop_controller = either(stop_controller_sync)
    stop_engines = either(stop_engines_sync)
    restart_engines = either(restart_engines_sync)
    signal_engines = either(signal_engines_sync)
    stop_engine = either(stop_engine_sync)
    restart_engine = either(restart_engine_sync)
    signal_engine = either(signal_engine_sync)
    status = either(status_sync)

    # -- context managers -----------------------------------------------------------------

    def __enter__(self) -> Client:
        self._client = self.start_and_connect_sync()
        return self._client

    def __exit__(self, *exc: object) -> None:
        client, self._client = self._client, None
        try:
            if client is not None:
                client.close()
        finally:
            self.stop_cluster_sync()

    async def __aenter__(self) -> Client:
        loop = running_loop()
        assert loop is not None
        return await loop.run_in_executor(None, self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        loop = running_loop()
        assert loop is not None
        await loop.run_in_executor(None, self.__exit__, *exc)

    # -- persistence ----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` needs, as plain data."""
        return {
            "cluster": self.cluster_id,
            "cluster_dir": str(self.directory.path),
            "n": self.n,
            "private": self._private,
            "daemonize": self.daemonize,
            "controller": {"pid": self.controller.pid if self.controller is not None else 0},
            "engines": {name: s.to_dict() for name, s in self.engines.items()},
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any], **arguments: Any) -> Self:
        """Return the cluster that :meth:`to_dict` described.

        If it runs, the new object is attached to it: it can be connected to, changed and
        stopped, but does not end with this process.

        Args:
            description: What :meth:`to_dict` returned.
            arguments: Further arguments for the class.

        Raises:
            ConfigurationError: The description is not one.
        """
        where = description.get("cluster_dir")
        if not isinstance(where, str):
            raise ConfigurationError("a cluster's description needs its 'cluster_dir'")
        arguments.setdefault("n", description.get("n"))
        cluster = cls(cluster_dir=where, **arguments)
        cluster._private = bool(description.get("private"))
        sets = description.get("engines")
        for name, content in sets.items() if isinstance(sets, Mapping) else ():
            ids = content.get("engines", ())
            cluster.engines[name] = EngineSet(name, content.get("n", len(ids)), ids)
        cluster._attached = cluster.directory.alive()
        if not cluster._attached:
            cluster.engines = {}
        return cluster

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str], **arguments: Any) -> Self:
        """Return the cluster of a cluster directory; see :meth:`from_dict`.

        Raises:
            ClusterError: There is no such directory.
            SecurityError: It belongs to somebody else, or others can get at its secrets.
        """
        directory = ClusterDirectory(path)
        directory.check()
        record = {**directory.read_record(), "cluster_dir": str(directory.path)}
        return cls.from_dict(record, **arguments)

    @classmethod
    def from_file(
        cls,
        cluster_file: str | os.PathLike[str] | None = None,
        *,
        cluster: str | None = None,
        cluster_id: str = "",
        profile: str = "",
        **arguments: Any,
    ) -> Self:
        """Return the cluster of a ``cluster.json``, or of a name; see :meth:`from_dict`.

        Raises:
            ClusterError: There is no such cluster.
            SecurityError: Its directory belongs to somebody else, or is not private.
        """
        directory = find_directory(
            cluster, cluster_dir=cluster_file, cluster_id=cluster_id, profile=profile
        )
        return cls.from_directory(directory.path, **arguments)

    def _event(self, program: str, event: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(program, event)

    # -- underneath -----------------------------------------------------------------------

    def _launch(self, n: int | None) -> None:
        """Start both programs without waiting for either."""
        if n is not None:
            self.n = options.check_count(n)
        self._spawn_controller()
        for name, engine_set in list(self.engines.items()):
            if not engine_set.running:
                del self.engines[name]
        if self.n and not self.engines:
            self._spawn_host(self.n, None)
        forget_old()

    def _spawn_controller(self) -> None:
        if self._programs.controller is not None and self._programs.controller.running:
            return
        self._attached = False
        self._programs.start_controller()
        _remember(self)

    def _spawn_host(self, n: int, engine_set_id: str | None) -> EngineSet:
        name = self._new_id(engine_set_id)
        launcher = self._programs.start_host(n, self.engine_timeout, lifeline=not self._attached)
        self.engines[name] = EngineSet(name, n, (), launcher)
        return self.engines[name]

    def _new_id(self, engine_set_id: str | None) -> str:
        if engine_set_id is None:
            number = len(self.engines)
            while f"engines-{number}" in self.engines:
                number += 1
            return f"engines-{number}"
        if engine_set_id in self.engines:
            raise ClusterError(f"there is an engine set {engine_set_id!r} already")
        return engine_set_id

    def _has_hosts(self) -> bool:
        if any(launcher.running for launcher in self._programs.hosts):
            return True
        return any(host.connected for host in self._status().hosts)

    def _status(self) -> Status:
        from ipkernel.cluster import doors

        with self._explained():
            return doors.status(self.directory)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Within it, a controller that cannot be reached because it is gone is told as such."""
        try:
            yield
        except ConnectError:
            if self.controller is not None:
                self.controller.wait(_NOTICE)
            self._check_running()
            raise

    def _start_more(self, n: int, engine_set_id: str | None) -> EngineSet:
        from ipkernel.cluster import doors

        name = self._new_id(engine_set_id)
        with self._explained():
            ids = doors.start_engines(self.directory, n, self.engine_timeout)
        self.engines[name] = EngineSet(name, n, ids)
        return self.engines[name]

    def _deadline(self) -> float:
        return time.monotonic() + self.engine_timeout

    def _wait_controller(self, deadline: float) -> None:
        self._programs.wait_ready(self._programs.controller, deadline)

    def _wait_engines(self, deadline: float) -> None:
        for engine_set in self.engines.values():
            if engine_set.launcher is not None:
                event = self._programs.wait_ready(engine_set.launcher, deadline)
                engine_set.engines = engine_set.engines or tuple(event.get("engines", ()))

    def _wait_known(self, client: Client, deadline: float) -> None:
        count = sum(len(s.engines) for s in self.engines.values())
        if count:
            left = max(1.0, deadline - time.monotonic())
            client.wait_for_engines(count, timeout=left, interactive=False)

    def _connect(self, client_args: dict[str, Any]) -> Client:
        from ipkernel.client.client import Client

        client_args.setdefault("timeout", self.engine_timeout)
        return Client(cluster=self, **client_args)

    def _check_running(self) -> None:
        if self._attached:
            if not self.directory.alive():
                raise ClusterError(f"cluster {self.cluster_id} is not running any more")
        else:
            self._programs.check_controller()

    def _chosen(self, engine_set_id: str | None) -> list[EngineSet]:
        if engine_set_id is None:
            return list(self.engines.values())
        if engine_set_id not in self.engines:
            known = ", ".join(self.engines) or "none"
            raise ClusterError(f"there is no engine set {engine_set_id!r}; there are: {known}")
        return [self.engines[engine_set_id]]

    def _order_set(self, method: str, engine_set_id: str | None, name: str = "") -> None:
        with self._lock:
            self._check_running()
            ids = [e for s in self._chosen(engine_set_id) for e in s.engines]
            self._order(method, ids if engine_set_id is not None else [], name)

    def _order(self, method: str, engines: Sequence[int], name: str = "") -> None:
        from ipkernel.cluster import doors

        with self._explained():
            doors.order(self.directory, method, engines, name)

    def _stop_attached(self) -> None:
        stopping.stop_directory(
            self.directory,
            timeout=self.stop_timeout,
            say=lambda text: sys.stderr.write(f"ipkernel: {text}\n"),
        )
        self._attached = False
        self.engines = {}

    def _tidy(self) -> None:
        """After the end of everything: what a private cluster wrote is of no more use."""
        spoiled = self._programs.spoiled
        if self.directory.processes():  # left by a program that was killed
            stopping.stop_directory(self.directory, timeout=self.stop_timeout)
        if not self._private:
            self._note()
        elif spoiled:
            sys.stderr.write(f"ipkernel: {spoiled}; the logs are kept in {self.directory.log}\n")
        else:
            self.directory.remove()

    def _note(self) -> None:
        """Keep :attr:`cluster_file` up to date; a cluster works without it as well."""
        record = self.to_dict()
        if self._attached:
            record = {**self.directory.read_record(), "engines": record["engines"]}
        elif not self.daemonize:
            record["owner"] = Process.this("owner").to_dict()
        try:
            self.directory.write_record(record)
        except OSError:
            pass


class _StopOnFailure:
    """Within it, an error stops the whole cluster before it goes on to the caller."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._was_running = cluster.running

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        cluster = self._cluster
        if kind is None or self._was_running or cluster._attached:
            return
        if cluster.controller is not None or cluster.engines:
            try:
                cluster.stop_cluster_sync()
            except KernelError as second:
                sys.stderr.write(f"ipkernel: {second}\n")


def load_client() -> None:
    """Import what a client needs and start its reactor: most of the time that a client takes."""
    collecting = gc.isenabled()
    gc.disable()  # importing makes no garbage, and looking for it takes a tenth of the time
    try:
        import ipkernel.client.client
        import ipkernel.client.connection
        import ipkernel.client.view  # noqa: F401
        from ipkernel.client.reactor_thread import start_reactor

        start_reactor()
    finally:
        if collecting:
            gc.enable()


def _arguments() -> list[str]:
    import inspect

    return [name for name in inspect.signature(Cluster).parameters if name != "legacy"]


def _remember(cluster: Cluster) -> None:
    """Have a cluster stopped when this process exits."""
    if not cluster.shutdown_atexit:
        return
    if not _running:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
    _running.add(cluster)


def _stop_all() -> None:
    if os.getpid() != _owner:  # a forked child: the clusters are its parent's
        return
    for cluster in list(_running):
        try:
            cluster.stop_cluster_sync()
        except KernelError as error:
            sys.stderr.write(f"ipkernel: {error}\n")
