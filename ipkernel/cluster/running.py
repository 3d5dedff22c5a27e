"""What can be done to a cluster that runs: stop, restart, signal and scale its engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ipkernel.cluster import options
from ipkernel.cluster.base import ClusterBase
from ipkernel.cluster.either import either
from ipkernel.cluster.recorded import Recorded
from ipkernel.errors import ClusterError, ConfigurationError
from ipkernel.signals import signal_here, signal_name

if TYPE_CHECKING:
    from ipkernel.cluster.hosted import Hosted
    from ipkernel.cluster.scaling import Adapting
    from ipkernel.wire.records import HostInfo, Status

#: Seconds for which the end of what was launched elsewhere is waited for.
_ENDING: Final = 5.0


class RunningCluster(ClusterBase):
    """The part of :class:`~ipkernel.cluster.cluster.Cluster` that changes what runs."""

    # -- stop -----------------------------------------------------------------------------

    def stop_engines_sync(
        self,
        engine_set_id: str | None = None,
        *,
        engines: Iterable[int] | None = None,
        drain: bool = False,
        limit: float = 0.0,
    ) -> None:
        """Stop an engine set, some engines, or all engines.

        Args:
            engine_set_id: Which engine set; None for all of them.
            engines: Ids of engines, instead of an engine set.
            drain: Let them finish what they have begun, and what only they can run; what others
                can run is taken back.
            limit: Seconds that this may take; 0 for as long as it takes.

        Raises:
            ClusterError: There is no such engine set or engine, or the cluster does not run.
        """
        if engines is not None:
            self._stop_some(_ids(engines, engine_set_id), drain=drain, limit=limit)
            return
        with self._lock:
            chosen = self._chosen(engine_set_id)
        ids = [e for s in chosen for e in s.engines] if engine_set_id is not None else []
        if drain:
            self._check_running()
            if ids or engine_set_id is None:
                self._order("stop_engines", ids, drain=True, limit=limit)
        with self._lock:
            left = [s for s in self.engines.values() if s not in chosen]
            hosts = [one for s in chosen for one in s.programs]
            if (
                not drain
                and (ids or engine_set_id is None)
                and (left or not all(s.programs for s in chosen))
            ):
                self._check_running()
                self._order("stop_engines", ids)
            for recorded in (one for s in chosen for one in s.recorded):
                self._end_recorded(recorded)
            self._programs.end(None if not left else [one for one in hosts if not one.shared])
            for engine_set in chosen:
                self.engines.pop(engine_set.engine_set_id, None)
            self._note()

    def stop_engine_sync(self, engine_id: int) -> None:
        """Stop one engine for good.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
        """
        self._stop_some([engine_id])

    def _stop_some(
        self, engines: Sequence[int], *, drain: bool = False, limit: float = 0.0
    ) -> None:
        """Stop engines, and then the programs elsewhere that have none left."""
        with self._lock:
            self._check_running()
        stopped = self._order("stop_engines", engines, drain=drain, limit=limit)
        with self._lock:
            for engine_set in self.engines.values():
                engine_set.discard(stopped)
        self._release_unused()

    def _release_unused(self) -> None:
        """End the programs elsewhere that have no engines left, and note that."""
        with self._lock:
            self._release_empty()
            self._note()

    def _release_empty(self) -> None:
        """End what was launched elsewhere and has no engines any more: it may cost something."""
        programs = [one for s in self.engines.values() for one in s.programs]
        recorded = [one for s in self.engines.values() for one in s.recorded]
        if all(one.entry.name == "local" for one in programs) and all(o.here for o in recorded):
            return
        hosts = self._status().hosts
        self._end_hosts([one for one in programs if _is_empty(one.to_record(), hosts)])
        asked = [(one, self._end_recorded(one)) for one in recorded if _is_empty(one, hosts)]
        deadline = time.monotonic() + _ENDING
        over = [
            one
            for one, launcher in asked
            if launcher is not None and launcher.wait(max(0.0, deadline - time.monotonic()))
        ]
        for engine_set in self.engines.values():  # of what is still there, its end is not known
            engine_set.recorded = tuple(one for one in engine_set.recorded if one not in over)

    def _end_recorded(self, program: Recorded) -> Any:
        """Ask a program to end that another process has launched elsewhere; return its launcher."""
        launcher = None if program.here else program.find(self.directory)
        if launcher is not None:
            launcher.request_stop()
        return launcher

    def _end_hosts(self, hosts: Sequence[Hosted]) -> None:
        """End host daemons, or their jobs, and forget them."""
        if not hosts:
            return
        with self._lock:
            self._programs.end(hosts)
            for engine_set in self.engines.values():
                engine_set.drop(hosts)
            self._note()

    # -- restart, signal ------------------------------------------------------------------

    def restart_engines_sync(
        self, engine_set_id: str | None = None, *, engines: Iterable[int] | None = None
    ) -> None:
        """Restart an engine set, some engines, or all engines; they keep their ids.

        Args:
            engine_set_id: Which engine set; None for all of them.
            engines: Ids of engines, instead of an engine set.

        Raises:
            ClusterError: There is no such engine set or engine, or the cluster does not run.
        """
        self._order_chosen("restart_engines", engine_set_id, engines)

    def restart_engine_sync(self, engine_id: int) -> None:
        """Restart one engine; it keeps its id.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
        """
        self._order_chosen("restart_engines", None, [engine_id])

    def signal_engines_sync(
        self,
        signum: int | str,
        engine_set_id: str | None = None,
        *,
        engines: Iterable[int] | None = None,
    ) -> None:
        """Send a signal to an engine set, to some engines, or to all engines.

        Args:
            signum: Number or name of the signal.
            engine_set_id: Which engine set; None for all of them.
            engines: Ids of engines, instead of an engine set.

        Raises:
            ClusterError: There is no such engine set or engine, or the cluster does not run.
            ValueError: There is no such signal.
        """
        self._order_chosen("signal_engines", engine_set_id, engines, signal_name(signum))

    def signal_engine_sync(self, signum: int | str, engine_id: int) -> None:
        """Send a signal to one engine.

        Raises:
            ClusterError: There is no such engine, or the cluster does not run.
            ValueError: There is no such signal.
        """
        self._order_chosen("signal_engines", None, [engine_id], signal_name(signum))

    def signal_controller_sync(self, signum: int | str) -> None:
        """Send a signal to the controller.

        Args:
            signum: Number or name of the signal.

        Raises:
            ClusterError: The cluster does not run, or its controller cannot be signalled from here.
            ValueError: There is no such signal.
        """
        name = signal_name(signum)
        with self._lock:
            self._check_running()
            if self.controller is not None and self.controller.running:
                self.controller.signal(name)
                return
            process = self.directory.controller()
            if process is not None and process.here:
                process.signal(signal_here(name))
                return
            recorded = Recorded.from_dict(
                self.directory.read_record().get("controller"), "controller"
            )
            launcher = None if recorded is None or recorded.here else recorded.find(self.directory)
            if launcher is None:
                where = process.host if process is not None else "another host"
                raise ClusterError(
                    f"the controller of cluster {self.cluster_id} runs on {where}: signal it there"
                )
            launcher.signal(name)

    def _order_chosen(
        self,
        method: str,
        engine_set_id: str | None,
        engines: Iterable[int] | None,
        name: str = "",
    ) -> None:
        with self._lock:
            self._check_running()
            if engines is not None:
                self._order(method, _ids(engines, engine_set_id), name)
                return
            ids = [e for s in self._chosen(engine_set_id) for e in s.engines]
            if engine_set_id is not None and not ids:  # to name no engine would mean all of them
                raise ClusterError(f"engine set {engine_set_id!r} has no engines")
            self._order(method, ids if engine_set_id is not None else [], name)

    # -- scale ----------------------------------------------------------------------------

    def scale_sync(self, n: int, *, drain: bool = True, limit: float = 0.0) -> None:
        """Have so many engines.

        More of them are started on the hosts that are there, or by batch jobs if a launcher of
        the cluster makes such. Of too many, those go first that are not there yet, then those
        with nothing to do. No task is lost.

        Args:
            n: How many engines there are to be, those that wait in a queue included.
            drain: Let engines that go finish what they have begun. Without, it is done again or
                fails, as with an engine that dies.
            limit: Seconds that this may take; 0 for as long as it takes.

        Raises:
            ClusterError: The cluster does not run, or it cannot be done.
            LauncherError: Engines did not start; the text says why.
            TimeoutError: They were not ready within ``engine_timeout``.
        """
        options.check_count(n)
        options.check_limit(limit)
        self._end_adapting()
        with self._lock:
            self._check_running()
        from ipkernel.cluster.scaling import Scaler

        Scaler(self, drain=drain, limit=limit).to(n)

    def adapt(
        self,
        minimum: int,
        maximum: int,
        interval: float = 2.0,
        *,
        tasks_per_engine: float = 1.0,
        grow_after: float = 2.0,
        idle_after: float = 60.0,
        told: Callable[[str], object] | None = None,
    ) -> Adapting:
        """From now on have as many engines as there are tasks for them, within bounds.

        Engines that have had nothing to do for a while go, so they should hold nothing that is
        needed later. It ends with the cluster, with :meth:`scale`, or by ``stop()`` of what is
        returned.

        Args:
            minimum: As many engines there are at least.
            maximum: As many there are at most.
            interval: Seconds between two looks at the cluster.
            tasks_per_engine: For so many tasks that can run there should be an engine.
            grow_after: Seconds for which there must have been too few engines.
            idle_after: Seconds for which an engine must have had nothing to do.
            told: Called, in another thread, with a sentence for each change and each problem.

        Returns:
            What does it.

        Raises:
            ConfigurationError: A value is not acceptable.
            ClusterError: The cluster does not run.
        """
        from ipkernel.cluster.adapting import Rules
        from ipkernel.cluster.scaling import Adapting, Scaler, check_interval

        rules = Rules(minimum, maximum, tasks_per_engine, grow_after, idle_after)
        interval = check_interval(interval)
        self._end_adapting()
        with self._lock:
            self._check_running()
            self._adapting = Adapting(self, rules, interval, Scaler(self), told)
            return self._adapting

    def _coming_back(self, status: Status) -> bool:
        """Tell whether a host daemon of this host is being started again."""
        return self._programs.coming_back({one.pid for one in status.hosts if one.connected})

    def _grow(self, count: int) -> None:
        """Start more engines: by batch jobs, on the hosts that are there, or on new ones."""
        batch = next((entry for entry in self._entries if not entry.immediate), None)
        if batch is None and self._has_hosts():
            self._start_more(count, None)
        else:
            with self._lock:
                self._check_running()
                entries = [batch._replace(n=count)] if batch else self._entries_for(count)
                sets = self._spawn_hosts(entries)
                self._wait_sets(sets, self._deadline())
        with self._lock:
            self._note()

    stop_engines = either(stop_engines_sync)
    stop_engine = either(stop_engine_sync)
    restart_engines = either(restart_engines_sync)
    restart_engine = either(restart_engine_sync)
    signal_engines = either(signal_engines_sync)
    signal_engine = either(signal_engine_sync)
    signal_controller = either(signal_controller_sync)
    scale = either(scale_sync)


def _ids(engines: Iterable[int], engine_set_id: str | None) -> list[int]:
    found = options.check_ids(engines)
    if engine_set_id is not None:
        raise ConfigurationError("give either an engine set or ids of engines, not both")
    if not found:
        raise ConfigurationError("there is no engine id: leave out engines for all of them")
    return found


def _is_empty(program: Recorded, hosts: Sequence[HostInfo]) -> bool:
    """Tell whether a program elsewhere has joined, with one host or several, and is of no use.

    It has no engine then, and nothing that others want.
    """
    mine = [host for host in hosts if program.label and host.label == program.label]
    used = any(host.engines or host.sole for host in mine)
    return not program.here and bool(mine) and not used
