"""What a cluster object knows, and does underneath its public methods."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipkernel.cluster import ending, options, restarting, stopping
from ipkernel.cluster.arguments import Arguments, split_keywords
from ipkernel.cluster.directory import (
    ClusterDirectory,
    find_directory,
    forget_old,
    private_name,
)
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.gathering import Failure
from ipkernel.cluster.processes import Process
from ipkernel.cluster.programs import Programs
from ipkernel.cluster.survivors import missing
from ipkernel.errors import ClusterError, ConfigurationError, ConnectError

if TYPE_CHECKING:
    from ipkernel.client.client import Client
    from ipkernel.cluster.scaling import Adapting
    from ipkernel.wire.records import Status

#: Seconds within which the end of a process is known after its connections have ended.
_NOTICE = 0.5
#: Seconds for which a controller that is started again, and hosts that come back, are waited for,
#: and between two looks.
_RETURN = 10.0
_POLL = 0.05


class ClusterBase:
    """A cluster's arguments, state and inner workings; see :class:`~ipkernel.cluster.Cluster`."""

    def __init__(
        self,
        n: int | None = None,
        *,
        cluster: str | None = None,
        cluster_id: str = "",
        profile: str = "",
        cluster_dir: str | os.PathLike[str] | None = None,
        cluster_file: str | os.PathLike[str] | None = None,
        controller: Any = None,
        engines: Any = None,
        hosts: Sequence[str] | str | None = None,
        minimum: int | None = None,
        controller_launcher_class: Any = None,
        engine_launcher_class: Any = None,
        controller_ip: str | None = None,
        controller_port: int | None = None,
        controller_location: str | None = None,
        controller_args: Sequence[str] | None = None,
        controller_options: Mapping[str, Any] | None = None,
        engine_args: Sequence[str] | None = None,
        store_memory: int | str | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        spill_limit: int | str | None = None,
        data_interface: str | None = None,
        data_port: int | None = None,
        engine_timeout: float | None = None,
        stop_timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        slots: Mapping[str, Any] | None = None,
        log_level: int | str | None = None,
        shutdown_atexit: bool = True,
        daemonize: bool = False,
        on_event: Callable[[str, dict[str, Any]], object] | None = None,
        **sections: Any,
    ) -> None:
        known = {**locals(), "controller": controller_launcher_class or controller}
        known["engines"] = engine_launcher_class or engines
        given = split_keywords(known, sections, _arguments() if sections else [])
        given |= {"environment": environment, "slots": slots}
        given["controller_options"] = controller_options
        where = cluster_dir or cluster_file
        named = bool(where or cluster or cluster_id or profile)
        if named:
            directory = find_directory(
                cluster, cluster_dir=where, cluster_id=cluster_id, profile=profile
            )
        else:
            directory = ClusterDirectory.named(private_name())
        self._private = not named
        self._arguments = Arguments(directory, given)
        self._entries = self._arguments.entries(self._arguments.n)
        self.n = sum(share.n for entry in self._entries for share in entry.plan())
        self.minimum = self._arguments.minimum
        if self.minimum is not None and self.minimum > self.n:
            raise ConfigurationError(
                f"minimum ({self.minimum}) must not be more than the number of engines ({self.n})"
            )
        self.engine_timeout: float = self._arguments.value("engine_timeout")
        self.stop_timeout: float = self._arguments.value("stop_timeout")
        self.daemonize = daemonize
        self.shutdown_atexit = shutdown_atexit and not daemonize
        settings = self._arguments.settings(
            self._entries,
            on_event=self._event,
            on_host_lost=self._host_lost,
            on_controller_lost=self._controller_lost,
            on_change=self._note,
        )
        self.on_event = on_event
        self._failures: list[Failure] = []
        settings = settings._replace(lifeline=not daemonize)
        self._programs = Programs(directory, self._private, settings)
        self.engines: dict[str, EngineSet] = {}
        self._attached = False
        self._away = False  # attached to a controller that was launched on another host
        self._client: Client | None = None
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._noting = threading.Lock()
        self._noted: set[str] = set()
        self._adapting: Adapting | None = None

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
    def failures(self) -> list[str]:
        """What did not start though ``minimum`` let the start succeed, and why: sentences."""
        return [str(failure) for failure in self._failures]

    @property
    def running(self) -> bool:
        """Whether the controller runs, as far as can be told from this host."""
        if self.controller is not None:
            return self._programs.alive()
        return self._attached and (self._away or self.directory.alive())

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` needs, as plain data."""
        return {
            "cluster": self.cluster_id,
            "cluster_dir": str(self.directory.path),
            "n": self.n,
            "private": self._private,
            "daemonize": self.daemonize,
            "launchers": [entry.to_dict() for entry in self._entries],
            "controller": self._programs.recorded_controller(),
            "engines": {name: s.to_dict() for name, s in dict(self.engines).items()},
        }

    def _event(self, program: str, event: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(program, event)

    def _host_lost(self, what: str) -> None:
        """Tell the clients made here that nobody will start engines by himself any more."""
        why = f"{what}, and with it all engines; Cluster.start_engines() starts new ones"
        for client in list(self._clients):
            client._session.abandon(why)

    def _controller_lost(self, what: str) -> None:
        """Tell the clients made here that the controller will not come back."""
        for client in list(self._clients):
            client._abandon(what)

    # -- underneath -----------------------------------------------------------------------

    def _launch(self, n: int | None) -> None:
        """Start all programs without waiting for any of them."""
        if n is not None:
            self.n = options.check_count(n)
            self._entries = self._arguments.entries(n)
        self._spawn_controller()
        self._forget_ended()
        lived_on, self._programs.survivors = self._programs.survivors, []
        self.engines.update((one.engine_set_id, one) for one in lived_on)
        if self.n and (lived_on or not self.engines):
            self._spawn_hosts(missing(self._entries, lived_on))
        self._note(starting=True)  # so that others see what is not there yet
        forget_old()

    def _forget_ended(self) -> None:
        for name, engine_set in list(self.engines.items()):
            if not engine_set.running:
                del self.engines[name]

    def _spawn_controller(self) -> None:
        if self.controller is not None and self._programs.alive():
            return
        self._attached = False
        self._programs.start_controller()
        ending.remember(self)

    def _spawn_hosts(
        self, entries: Sequence[Entry], engine_set_id: str | None = None
    ) -> list[EngineSet]:
        """Start host daemons, with an engine set for each of the launchers."""
        lifeline = not self._attached
        started = self._programs.start_hosts(entries, self.engine_timeout, lifeline=lifeline)
        sets: list[EngineSet] = []
        for hosts in started:
            if hosts:
                name = self._new_id(engine_set_id if not sets else None)
                self.engines[name] = EngineSet(name, sum(one.share.n for one in hosts), (), hosts)
                sets.append(self.engines[name])
        for client in list(self._clients):
            client._session.engines.hope()
        return sets

    def _new_id(self, engine_set_id: str | None) -> str:
        if engine_set_id is None:
            taken = {*self.engines, *self._noted}
            if self._attached:
                taken.update(self.directory.read_record().get("engines") or ())
            number = len(self.engines)
            while f"engines-{number}" in taken:
                number += 1
            return f"engines-{number}"
        if not isinstance(engine_set_id, str) or not engine_set_id:
            raise ConfigurationError(f"an engine set is named by a text, not {engine_set_id!r}")
        if engine_set_id in self.engines:
            raise ClusterError(f"there is an engine set {engine_set_id!r} already")
        return engine_set_id

    def _has_hosts(self) -> bool:
        if any(host.running for host in self._programs.hosts):
            return True
        return any(host.connected for host in self._status().hosts)

    def _status(self) -> Status:
        from ipkernel.cluster import monitoring

        with self._explained():
            return monitoring.status(self.directory)

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

        with self._explained():
            ids = doors.start_engines(self.directory, n, self.engine_timeout)
        with self._lock:
            name = self._new_id(engine_set_id)
            self.engines[name] = EngineSet(name, n, ids)
            return self.engines[name]

    def _entries_for(self, n: int) -> list[Entry]:
        """Return launchers for new engines where there is no host to start them."""
        return self._entries if n == self.n else [self._entries[0]._replace(n=n)]

    def _deadline(self) -> float:
        return time.monotonic() + self.engine_timeout

    def _wait_controller(self, deadline: float) -> None:
        if not self._programs.wait_controller(deadline):
            self._wait_engines(deadline)  # which says why there are none, if that is a failure
            self._programs.wait_controller(deadline, alone=True)

    def _wait_engines(self, deadline: float) -> None:
        """Wait until the host daemons are ready; those in a queue, until they are accepted."""
        self._wait_sets(list(self.engines.values()), deadline, self.minimum)
        self._wait_back(deadline)

    def _wait_back(self, deadline: float) -> None:
        """Wait until engines that have lived on are back; not for long, for they may have ended."""
        sets = self.engines.values()
        ids = {one for s in sets if s.recorded and not s.programs for one in s.engines}
        end = min(deadline, time.monotonic() + _RETURN)
        while ids and time.monotonic() < end:
            try:
                ids -= {one.engine for one in self._status().engines if one.state == "ready"}
            except ConnectError:
                return
            if ids:
                time.sleep(_POLL)

    def _wait_sets(
        self, sets: Sequence[EngineSet], deadline: float, minimum: int | None = None
    ) -> None:
        hosts = [one for s in sets for one in s.programs]
        failures = self._programs.wait_hosts(hosts, deadline, minimum)
        self._failures += failures
        failed = [one.hosted for one in failures if one.text]
        for engine_set in sets:
            engine_set.drop(failed)

    def _wait_known(self, client: Client, deadline: float) -> None:
        """Wait until a client sees the engines, also those whose jobs were only accepted."""
        programs = [one for s in self.engines.values() for one in s.programs]
        jobs = [one for one in programs if not one.entry.immediate]
        count = sum(len(one.engines) for one in programs if one.entry.immediate)
        if jobs:
            from ipkernel.cluster.queued import wait_for_jobs

            all_of_them = count + sum(one.share.n for one in jobs)
            wanted = all_of_them if self.minimum is None else max(count, self.minimum)
            wait_for_jobs(client, jobs, wanted, deadline)
        elif count:
            left = max(1.0, deadline - time.monotonic())
            client.wait_for_engines(count, timeout=left, interactive=False)

    def _connect(self, client_args: dict[str, Any]) -> Client:
        from ipkernel.client.client import Client

        client_args.setdefault("timeout", self.engine_timeout)
        client = Client(cluster=self, **client_args)
        self._clients.add(client)
        return client

    def _check_running(self) -> None:
        if self._attached:
            if not self._away and not restarting.wait_back(self.directory, _RETURN):
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

    def _order(
        self,
        method: str,
        engines: Sequence[int],
        name: str = "",
        *,
        drain: bool = False,
        limit: float = 0.0,
    ) -> tuple[int, ...]:
        engines, limit = options.check_ids(engines), options.check_limit(limit)
        from ipkernel.cluster import doors

        with self._explained():
            return doors.order(self.directory, method, engines, name, drain=drain, limit=limit)

    def _end_adapting(self, timeout: float = 5.0) -> None:
        adapting, self._adapting = self._adapting, None
        if adapting is not None:
            adapting.stop(timeout)

    def stop_cluster_sync(self) -> None:
        """Stop the engines and the controller, all at once. If nothing runs, do nothing.

        What does not end in good order within ``stop_timeout`` is killed, and said so on the
        standard error.

        Raises:
            ClusterError: Something cannot be ended.
        """
        adapting = self._adapting
        self._end_adapting(0.0)  # it may wait for what ends now
        with self._lock:
            ending.forget(self)
            if self._attached:
                self._stop_attached()
            elif self._programs.all:
                recorded = [one for s in self.engines.values() for one in s.recorded]
                try:
                    self._programs.end(controller=True)
                finally:
                    self.engines = {}
                self._tidy(elsewhere=any(not one.here for one in recorded))
        self._controller_lost("the cluster was stopped")
        if adapting is not None:
            adapting.stop()

    def _stop_attached(self) -> None:
        stopping.stop_directory(
            self.directory,
            timeout=self.stop_timeout,
            say=lambda text: sys.stderr.write(f"ipkernel: {text}\n"),
        )
        self._attached = False
        self.engines = {}

    def _tidy(self, *, elsewhere: bool) -> None:
        """After the end of everything: what a private cluster wrote is of no more use.

        Args:
            elsewhere: Whether other hosts have programs that another process has started.
        """
        spoiled = self._programs.spoiled
        if elsewhere or self.directory.processes():  # left by a program that was killed
            stopping.stop_directory(self.directory, timeout=self.stop_timeout)
        if not self._private:
            self._note()
        elif spoiled:
            self._note()  # nothing of it is anywhere any more
            self.directory.keep_logs()
            logs = self.directory.log
            sys.stderr.write(f"ipkernel: {spoiled}; the logs are kept for a day, in {logs}\n")
        else:
            self.directory.remove()

    def _note(self, *, starting: bool = False) -> None:
        """Keep :attr:`cluster_file` up to date; a cluster works without it as well.

        Args:
            starting: Whether it is this process yet that the cluster depends on, whatever comes.
        """
        with self._noting:
            before = self.directory.read_record()
            record = self.to_dict()
            sets = record["engines"]
            if self.running:  # what other processes have added is theirs to remove
                theirs = before.get("engines")
                if isinstance(theirs, dict):
                    mine = self._noted | sets.keys()
                    record["engines"] = sets | {k: theirs[k] for k in theirs.keys() - mine}
                self._noted |= sets.keys()
            if self._attached:
                record = {**before, "engines": record["engines"]}
            elif starting or not self.daemonize:
                record["owner"] = Process.this("owner").to_dict()
            try:
                self.directory.write_record(record)
            except OSError:
                pass


def _arguments() -> list[str]:
    import inspect

    return [name for name in inspect.signature(ClusterBase).parameters if name != "sections"]
