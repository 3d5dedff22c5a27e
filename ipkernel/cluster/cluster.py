"""The class that starts, changes and stops a cluster."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from ipkernel.cluster import ending, options
from ipkernel.cluster.arguments import recorded_keywords
from ipkernel.cluster.base import ClusterBase
from ipkernel.cluster.directory import ClusterDirectory, find_directory
from ipkernel.cluster.either import either, running_loop
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.recorded import controller_elsewhere, recorded_programs
from ipkernel.cluster.running import RunningCluster
from ipkernel.errors import ConfigurationError

if TYPE_CHECKING:
    from ipkernel.client.client import Client
    from ipkernel.wire.records import Status


class Cluster(RunningCluster):
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
        engines: How to launch host daemons with engines: a launcher's name or class, a text with
            several such as ``"local:2, ssh, slurm:8"``, or a list of them.
        hosts: Hosts for the ``ssh`` launcher, such as ``["a:4", "b"]``, which is then the default
            for ``engines``.
        minimum: With how many engines the start is a success, though some host daemons have
            failed; by default with all of them.
        controller_ip: Interface on which the controller listens; default loopback only.
        controller_port: Its port; by default what it had before, or any.
        controller_location: Address under which others reach it, if that is another one.
        controller_args: Further arguments for ``ipcontroller``.
        controller_options: Options of the section ``[controller]`` of the configuration, such as
            ``{"restart": False}``.
        engine_args: Further arguments for ``ipdaemon``.
        store_memory: Memory of each host for large objects: bytes, ``"4GB"`` or ``"50%"``; by
            default 30 % of the machine's. 0 sends everything by way of the controller.
        spill_dir: Where objects go for which there is no memory; by default where temporary
            files go.
        spill_limit: How many bytes may go there; by default four times the memory, 0 for none.
        data_interface: Address on which other hosts and clients fetch objects; by default that
            of the interface that leads to the controller.
        engine_timeout: Seconds to wait for engines.
        stop_timeout: Seconds after which a stop becomes forcible, about.
        environment: Further environment variables for everything that is started.
        slots: What each engine has: options of the section ``[slots]`` of the configuration.
        log_level: Of the cluster's processes: a name or a number of :mod:`logging`.
        shutdown_atexit: Stop the cluster when this process exits.
        daemonize: Let it outlive this process; implies ``shutdown_atexit=False``.
        on_event: Called, in some thread, with the name of the program and each event it reports.
        sections: Options of launchers by their names, such as ``slurm={"queue": "long"}``.

    What is not given comes from the environment and from configuration files.

    Raises:
        ConfigurationError: A value is not acceptable.
        TypeError: There is no such argument.

    Attributes:
        engines: Engine sets by id.
        n: Number of engines that :meth:`start_cluster` starts.
    """

    # -- start ----------------------------------------------------------------------------

    def start_controller_sync(self) -> None:
        """Start the controller, and wait until it is ready. If it runs, do nothing.

        Raises:
            LauncherError: It did not start; the text says why.
            ClusterError: The directory cannot be used, or somebody else runs this cluster.
        """
        with self._lock, ending.StopOnFailure(self):
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
                self._forget_ended()  # or a host daemon that failed would be waited for again
                sets = self._spawn_hosts(self._entries_for(count), engine_set_id)
                self._wait_sets(sets, self._deadline())
                engine_set = sets[0]
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
        with self._lock, ending.StopOnFailure(self):
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
        with self._lock, ending.StopOnFailure(self):
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

    def preview(self, n: int | None = None) -> str:
        """Return what a start would run, without running it: command lines and batch scripts.

        Args:
            n: How many engines; by default as many as the cluster was made for.

        Raises:
            ConfigurationError: An option of a launcher is not acceptable.
        """
        entries = self._entries if n is None else self._arguments.entries(options.check_count(n))
        return self._programs.preview(entries, self.engine_timeout)

    # -- stop -----------------------------------------------------------------------------

    def stop_controller_sync(self) -> None:
        """Stop the controller, and with it the host daemons. If it does not run, do nothing."""
        with self._lock:
            if self._attached:
                self._stop_attached()
            elif self.controller is not None:
                self._programs.end([], controller=True)

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

    start_controller = either(start_controller_sync, starts=True)
    start_engines = either(start_engines_sync)
    start_cluster = either(start_cluster_sync, starts=True)
    start_and_connect = either(start_and_connect_sync, starts=True)
    connect_client = either(connect_client_sync)
    stop_cluster = either(ClusterBase.stop_cluster_sync)
    stop_controller = either(stop_controller_sync)
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
        from asyncio import CancelledError

        from ipkernel.cluster.awaited import awaited_start

        loop = running_loop()
        assert loop is not None
        future = awaited_start(loop, self, self.__enter__)
        try:
            return await future
        except CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # cancelled between the end of the start and its getting here
                loop.run_in_executor(None, self.__exit__, None, None, None)
            raise

    async def __aexit__(self, *exc: object) -> None:
        loop = running_loop()
        assert loop is not None
        await loop.run_in_executor(None, self.__exit__, *exc)

    # -- persistence ----------------------------------------------------------------------

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
        arguments |= recorded_keywords(description.get("launchers"), arguments)
        cluster = cls(cluster_dir=where, **arguments)
        cluster._private = bool(description.get("private"))
        sets = description.get("engines")
        for name, content in sets.items() if isinstance(sets, Mapping) else ():
            ids = content.get("engines", ())
            cluster.engines[name] = EngineSet(
                name, content.get("n", len(ids)), ids, recorded=recorded_programs(content)
            )
        cluster._away = not cluster.directory.alive() and bool(
            controller_elsewhere(cluster.directory)
        )
        cluster._attached = cluster._away or cluster.directory.alive()
        if not cluster._attached:
            cluster.engines = {}
        cluster._noted = set(cluster.engines)
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
