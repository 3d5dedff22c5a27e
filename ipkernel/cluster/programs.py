"""The programs that one cluster object has started: begin, watch, and end them together."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any, Final

from ipkernel.cluster import daemonnotes, processes, restarting, stopping
from ipkernel.cluster.claiming import claim
from ipkernel.cluster.directory import ClusterDirectory, private_name
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry, starts_elsewhere
from ipkernel.cluster.gathering import Failure, gather, report
from ipkernel.cluster.hosted import Hosted, how_ended, named, state_of, where, why_ended
from ipkernel.cluster.kept import KeptController
from ipkernel.cluster.pidfile import PidFile
from ipkernel.cluster.processes import Process, describe_exit, host_name
from ipkernel.cluster.recorded import Recorded
from ipkernel.cluster.settings import Settings
from ipkernel.cluster.survivors import survivors
from ipkernel.cluster.telling import at_once, previewed, tell_all
from ipkernel.errors import ClusterError, LauncherError
from ipkernel.host.options import SLOTS
from ipkernel.launchers.local import LocalHostLauncher

#: Shares of the time for a stop: asking, insisting, killing.
_ORDERLY: Final = 0.6
_TERMINATE: Final = 0.2
_KILL: Final = 0.2
#: Seconds that batch systems are given to end a job if somebody is in a hurry.
_HURRY: Final = 2.0
#: How often one program's wait looks at the others, in seconds.
_SLICE: Final = 0.2
#: Seconds between two looks at a controller that is being started again, and for which whoever
#: needs it waits for that.
_POLL: Final = 0.02
_BACK: Final = 10.0
#: Seconds that a daemon has to end which the controller has started again.
_GRACE: Final = 3.0
#: Events after which a program elsewhere can be found by others, if that is noted.
_PLACED: Final = ("started", "submitted")
#: How much longer host daemons wait for a controller that has to wait in a queue itself.
_QUEUED: Final = 2


class Programs:
    """A controller and host daemons, each behind its launcher.

    Args:
        directory: The cluster directory.
        private: Whether it must be a new one.
        settings: How to start and stop them.

    Attributes:
        directory: The same, or another new one.
        hosts: The host daemons.
        survivors: What lives on of the cluster as it was before the start of the controller.
        spoiled: What went wrong first, as a sentence; empty if nothing.
    """

    def __init__(self, directory: ClusterDirectory, private: bool, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.hosts: list[Hosted] = []
        self.survivors: list[EngineSet] = []
        self._starting: PidFile | None = None
        self.spoiled = ""
        self._private = private
        self._kept: KeptController | None = None

    @property
    def controller(self) -> Any:
        """The controller's launcher, or None; another one after it was started again."""
        return self._kept.launcher if self._kept is not None else None

    @property
    def restarts(self) -> int:
        """How often the controller was started again from here."""
        return self._kept.restarts if self._kept is not None else 0

    @property
    def all(self) -> list[Any]:
        """The launchers of everything that was started, host daemons first."""
        hosts = [host.launcher for host in self.hosts]
        return [*hosts, *([self.controller] if self.controller is not None else [])]

    def start_controller(self) -> None:
        """Start a controller, without waiting for it.

        Raises:
            ClusterError: The directory cannot be used, or the cluster runs already.
            LauncherError: It could not be started at all.
        """
        while self._private and self.controller is None and self.directory.exists:
            self.directory = ClusterDirectory.named(private_name())
        self.directory.create()
        self._starting = claim(self.directory)
        try:
            self._start_controller()
        except BaseException:
            self._started()
            raise

    def _started(self) -> None:
        """Let others start the cluster: it is ready, and so they see that it runs, or has failed."""
        starting, self._starting = self._starting, None
        if starting is not None:
            with suppress(OSError):
                starting.remove()

    def _start_controller(self) -> None:
        self.survivors = []
        if not any(host.running for host in self.hosts):
            self.survivors = survivors(self.directory)
            if self.survivors:
                stopping.refuse_running(self.directory)
            else:
                stopping.end_leftovers(self.directory, self.settings.stop_timeout)
                daemonnotes.forbid_all(self.directory)  # of those that were killed with it
        self.spoiled = ""
        self._kept = KeptController(
            self.make_controller,
            again=self._may_restart,
            ready=self._note_ready,
            told=self._controller_changed,
        )
        with suppress(OSError):  # from now on, but nobody else is to start it now
            restarting.note(self.directory, restarting.Restart(again=False))
        self._kept.start()

    def _note_ready(self) -> None:
        """Note whether the controller is started again; if it outlives this process, how."""
        settings, launcher = self.settings, self.controller
        told = getattr(launcher, "command", None)
        alone = not settings.lifeline
        command: tuple[str, ...] = ()
        if alone and callable(told) and not starts_elsewhere(settings.controller.launcher):
            command = tuple(told())
        may = bool(command) or not alone
        again = settings.restart and settings.controller.immediate and may
        owner = None if alone else Process.this("owner")
        restart = restarting.Restart(command, host_name(), again=again, owner=owner)
        with suppress(OSError):
            restarting.note(self.directory, restart)
        self._started()

    def _may_restart(self) -> bool:
        noted = restarting.noted(self.directory) if self.settings.lifeline else None
        return noted is not None and noted.again

    def start_hosts(
        self, entries: Sequence[Entry], patience: float, *, lifeline: bool = True
    ) -> list[list[Hosted]]:
        """Start host daemons, all at once, without waiting for any of them.

        What could not be started at all is told by :attr:`Hosted.failure`.

        Args:
            entries: With which launchers, and how many engines.
            patience: Seconds for which they shall try to reach the controller.
            lifeline: False if they must outlive this process whatever the settings say.

        Returns:
            For each entry its host daemons.

        Raises:
            ConfigurationError: The options of a launcher do not allow it.
        """
        started = self.make_hosts(entries, patience, lifeline=lifeline)
        fresh = [hosted for sets in started for hosted in sets]
        for one in self.hosts:
            if one.over:
                one.launcher.close()
        self.hosts = [one for one in self.hosts if not one.over] + fresh
        at_once(fresh, Hosted.start)
        for one in fresh:
            self._note_host(one)
        return started

    def _note_host(self, hosted: Hosted) -> None:
        """Have the controller start a daemon again that outlives this process, on its own host."""
        launcher = hosted.launcher
        if launcher.running and self._is_for_controller(hosted):
            slots = self.settings.environment.get(SLOTS, "")
            noted = daemonnotes.first_note(launcher.pid, launcher.command(), slots)
            if noted is not None:
                with suppress(OSError):
                    daemonnotes.note(self.directory, noted)

    def _is_for_controller(self, hosted: Hosted) -> bool:
        """Tell whether the controller, and not this process, starts a daemon again."""
        both_here = not starts_elsewhere(self.settings.controller.launcher)
        launcher = hosted.launcher
        local = hosted.entry.immediate and isinstance(launcher, LocalHostLauncher)
        return both_here and local and not launcher.lifeline

    def coming_back(self, pids: Container[int]) -> bool:
        """Tell whether a daemon of this host is being started again, here or by the controller.

        Args:
            pids: The process ids of the daemons that have joined.
        """
        noted = daemonnotes.noted(self.directory)
        return any(not one.failure and one.process.pid not in pids for one in noted) or any(
            hosted.comes_back and hosted.launcher.pid not in pids for hosted in self.hosts
        )

    def _returns(self, hosted: Hosted) -> bool:
        return self._is_for_controller(hosted) and daemonnotes.returns(
            self.directory, hosted.launcher.pid
        )

    def make_hosts(
        self, entries: Sequence[Entry], patience: float, *, lifeline: bool = True
    ) -> list[list[Hosted]]:
        """Return host daemons that are not started; see :meth:`start_hosts`."""
        if not self.settings.controller.immediate:  # they may run long before it does
            patience *= _QUEUED

        def make(hosted: Hosted) -> Any:
            arguments = ["--furl-file", str(self.directory.furl_file("engine"))]
            arguments += ["-n", str(hosted.count), "--wait", f"{patience:g}", *hosted.arguments()]
            arguments += self.settings.engine_args
            return self._make(hosted.entry, arguments, lifeline, hosted)

        return [
            [Hosted(one, share, make, self._returns) for share in one.plan()] for one in entries
        ]

    def preview(self, entries: Sequence[Entry], patience: float) -> str:
        """Return what would be started, program by program: command lines and batch scripts.

        Args:
            entries: With which launchers of engines.
            patience: Seconds for which host daemons shall try to reach the controller.

        Raises:
            ConfigurationError: The options of a launcher do not allow it.
        """
        parts = [(f"# controller: {self.settings.controller.name}", self.make_controller())]
        for hosted in (one for hosts in self.make_hosts(entries, patience) for one in hosts):
            n = hosted.share.n
            engines = f"{n} engine{'s' if n != 1 else ''}"
            parts.append((f"# {engines}: {hosted.title}", hosted.launcher))
        return "\n\n".join(f"{head}\n{previewed(one)}" for head, one in parts)

    def make_controller(self, restarts: int = 0) -> Any:
        """Return a launcher for the controller, not started.

        Args:
            restarts: How often it was started again.
        """
        options = (
            ("--interface", self.settings.interface),
            ("--port", self.settings.port),
            ("--location", self.settings.location),
        )
        arguments = [text for name, value in options if value for text in (name, str(value))]
        arguments += self.settings.controller_args
        if restarts:
            arguments += ["--restarts", str(restarts)]
        return self._make(self.settings.controller, arguments)

    def _make(
        self,
        entry: Entry,
        arguments: list[str],
        lifeline: bool = True,
        hosted: Hosted | None = None,
    ) -> Any:
        name, told = entry.launcher.name, self.settings.on_event
        common = ["--cluster-dir", str(self.directory), "--cluster", self.directory.name]
        common += ["--log-level", self.settings.log_level.lower()]
        on_event: Callable[[dict[str, Any]], object] | None
        if hosted is None:
            more = {**entry.arguments(), "on_stop": self._controller_ended}

            def on_event(event: dict[str, Any]) -> None:
                if self._kept is not None:
                    self._kept.heard(event)
                if told is not None:
                    told(name, event)
                self._note_place(event)

        else:
            more = entry.arguments(hosted.share)
            more["on_stop"] = lambda launcher: self._host_ended(hosted)

            def on_event(event: dict[str, Any]) -> None:
                hosted.heard(event)
                self._tell(hosted, event)
                self._note_place(event)

        return entry.launcher(
            self.directory,
            [*common, *arguments],
            lifeline=lifeline and self.settings.lifeline,
            environment=dict(self.settings.environment),
            on_event=on_event,
            **more,
        )

    def _note_place(self, event: dict[str, Any]) -> None:
        """Have noted where a program is: from now on it goes on, even if this process is killed."""
        if event["event"] in _PLACED and self.settings.on_change is not None:
            self.settings.on_change()

    def _tell(self, hosted: Hosted, event: dict[str, Any]) -> None:
        if self.settings.on_event is not None:
            label = where(hosted.launcher) or hosted.share.label
            if label:
                event = {**event, "where": label}
            self.settings.on_event(hosted.launcher.name, event)

    def _controller_ended(self, launcher: Any) -> None:
        """The controller has ended, and is started again if nobody has asked for that."""
        kept, told = self._kept, self.settings.on_controller_lost
        how = kept.ended(launcher) if kept is not None else ""
        if how:
            self.spoil(f"{how}, and was started again")
        elif told is not None and launcher is self.controller and not self._others_start_it():
            told(f"{named(launcher)} {how_ended(launcher)}")

    def _others_start_it(self) -> bool:
        """Whether a host daemon starts the controller again, as this process need not live."""
        noted = None if self.settings.lifeline else restarting.noted(self.directory)
        return noted is not None and noted.again

    def _controller_changed(self, event: dict[str, Any]) -> None:
        lost = self.settings.on_controller_lost
        if event["event"] == "failed" and lost is not None:
            lost(event["message"])
        if self.settings.on_event is not None:
            self.settings.on_event(self.settings.controller.launcher.name, event)
        if event["event"] != "ended" and self.settings.on_change is not None:
            self.settings.on_change()

    def _host_ended(self, hosted: Hosted) -> None:
        """A host daemon has ended: start it again, or say so if it was the last one."""
        if not hosted.wanted:
            return
        launcher = hosted.launcher
        how = f"{named(launcher)} {how_ended(launcher)}"
        if launcher.exit_code != 0:
            if self._is_for_controller(hosted):
                if not hosted.ready:  # its start has failed
                    daemonnotes.forbid(self.directory, launcher.pid)
                hosted.over = True
                again = not hosted.over
            else:
                again = self.alive() and hosted.begin_again(self._changed)
            self.spoil(f"{how}, and was started again" if again else how)
            if again:
                return
        hosted.over = True
        if hosted.failure:
            self._changed(hosted, {"event": "failed", "message": hosted.failure})
        told = self.settings.on_host_lost
        if told is not None and hosted.ready and all(one.over for one in self.hosts):
            told(how)

    def _changed(self, hosted: Hosted, event: dict[str, Any]) -> None:
        self._tell(hosted, event)
        if event["event"] != "ended" and self.settings.on_change is not None:
            self.settings.on_change()

    def alive(self) -> bool:
        """Tell whether the controller runs, or will soon again, as far as can be told from here."""
        if self._kept is not None and (self._kept.alive or self.settings.lifeline):
            return self._kept.alive
        return restarting.wait_back(self.directory, _BACK)

    def recorded_controller(self) -> dict[str, Any]:
        """Return what another process needs to look at the controller and to end it."""
        launcher, entry = self.controller, self.settings.controller
        if launcher is None:
            return {"pid": 0}
        record = launcher.record() if hasattr(launcher, "record") else {}
        recorded = Recorded(
            entry.name,
            where(launcher),
            restarts=self.restarts,
            options=entry.options,
            record=record,
        )
        return {"pid": launcher.pid, **recorded.to_dict()}

    def wait_controller(self, deadline: float, *, alone: bool = False) -> bool:
        """Wait until the controller is ready, or no host daemon is left to wait for it.

        Args:
            deadline: By the monotonic clock.
            alone: Wait though no host daemon is left.

        Returns:
            Whether it is ready.

        Raises:
            LauncherError: It has ended; raised as soon as that is known.
            TimeoutError: It was not ready in time.
        """
        while True:
            launcher = self.controller
            left = deadline - time.monotonic()
            try:
                launcher.wait_event("ready", max(0.0, min(left, _SLICE)))
                return True
            except LauncherError:
                if left <= 0 or self._kept is None or not self._kept.alive:
                    raise
                time.sleep(_POLL)
            except TimeoutError:
                if not self.alive():
                    raise LauncherError(why_ended(launcher)) from None
                new = [one for one in self.hosts if not one.ready and not alone]
                if new and all(one.failure or not one.running for one in new):
                    return False
                if left <= 0:
                    queued = not self.settings.controller.immediate
                    raise TimeoutError(
                        f"{launcher.name} of cluster {self.directory.name} was not ready in "
                        f"time ({state_of(launcher)}); see {self.directory.log}"
                        f"{', or give it longer by engine_timeout' if queued else ''}"
                    ) from None

    def wait_hosts(
        self, hosts: Sequence[Hosted], deadline: float, minimum: int | None = None
    ) -> list[Failure]:
        """Wait until host daemons are ready; those in a queue, until their jobs are accepted.

        Args:
            hosts: Whom to wait for.
            deadline: By the monotonic clock.
            minimum: How many engines are enough; None for all of them.

        Returns:
            What has failed, if ``minimum`` allows it. What has not started is ended.

        Raises:
            LauncherError: The controller or a host daemon has ended. The text has all of them.
            TimeoutError: They were not ready in time.
        """
        failures = gather(hosts, deadline, self._check_start, patient=minimum is not None)
        if not failures:
            return []
        self._check_start()
        missing = [one.hosted for one in failures]
        there = sum(one.share.n for one in hosts if one not in missing)
        if minimum is None or there < minimum:
            raise self._not_started(failures, len(hosts))
        failed = [one.hosted for one in failures if one.text]
        self.end(failed)
        self.hosts = [one for one in self.hosts if one not in failed]
        return failures

    def _check_start(self) -> None:
        if self.controller is not None and not self.alive():
            raise LauncherError(why_ended(self.controller))

    def _not_started(self, failures: Sequence[Failure], count: int) -> Exception:
        if any(one.text for one in failures):
            return LauncherError(report(failures, count))
        name, logs = self.directory.name, self.directory.log
        if count == 1:
            (one,) = failures
            state = state_of(one.hosted.launcher)
            return TimeoutError(
                f"{one.hosted.launcher.name} of cluster {name} was not ready in time "
                f"({state}); see {logs}"
            )
        return TimeoutError(f"of cluster {name}, {report(failures, count)}\nsee {logs}")

    def wait_ended(self, timeout: float) -> bool:
        """Wait until the controller, or all host daemons, have ended for good.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether that has happened.
        """
        deadline = time.monotonic() + timeout
        while not self._over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for one in self.all[-1:]:
                if one.wait(min(left, _SLICE)):  # it has ended, and may be started again
                    time.sleep(min(left, _POLL))
        return True

    def _over(self) -> bool:
        if self.controller is not None and not self.alive():
            return True
        return all(one.over for one in self.hosts) and bool(self.hosts or self.controller is None)

    def problem(self) -> str:
        """Say which program has failed, and how, with the end of its log; empty if none has."""
        one = self.controller
        if one is not None and not self.alive():
            return why_ended(one) if one.exit_code != 0 else ""
        for hosted in self.hosts:
            if hosted.over and hosted.launcher.exit_code not in (0, None):
                return hosted.failure or why_ended(hosted.launcher)
        return ""

    def check_controller(self) -> None:
        """Do nothing while the controller runs; wait a while for one that is started again.

        Raises:
            ClusterError: It does not; the text says why and has the last lines of its log.
        """
        if self.controller is None:
            raise ClusterError(f"cluster {self.directory.name} is not running: start it first")
        if self.controller.running and self.restarts == 0:
            return
        if not self.settings.lifeline and self.alive():  # somebody else has started another one
            return
        lost = f"cluster {self.directory.name} has lost its controller"
        try:
            if self.alive():
                self.wait_controller(time.monotonic() + _BACK, alone=True)
                return
        except TimeoutError:
            raise ClusterError(f"{lost}; it is being started again") from None
        except LauncherError as error:
            raise ClusterError(f"{lost}: {error}") from None
        raise ClusterError(f"{lost}: {why_ended(self.controller)}")

    def end(self, hosts: Sequence[Hosted] | None = None, *, controller: bool = False) -> None:
        """End programs: ask all of them at once, then insist, then kill.

        Args:
            hosts: Which host daemons; None for all of them.
            controller: Whether to end the controller as well.

        Raises:
            ClusterError: One of them cannot be ended.
        """
        chosen = self.hosts if hosts is None else hosts
        for hosted in chosen:
            hosted.give_up()
        launchers = [hosted.launcher for hosted in chosen]
        others = self._give_up_others(chosen)
        if controller and self._kept is not None:
            self._kept.give_up()
            restarting.forbid(self.directory)
            self._started()
            launchers.append(self.controller)
        for one in launchers:
            if one.running or one.exit_code is None:
                continue
            # A job that has ended in good order may have had its time.
            if one.exit_code or getattr(one, "immediate", True):
                self.spoil(f"{one.name} {how_ended(one)}")
        left = self._end(launchers)
        for process in processes.wait_gone(others, _GRACE):
            process.kill()
        self.hosts = [one for one in self.hosts if one not in chosen]
        self._kept = None if controller else self._kept
        if left:
            names = ", ".join(named(one) for one in left)
            raise ClusterError(f"cannot end {names} of cluster {self.directory.name}")

    def _give_up_others(self, chosen: Sequence[Hosted]) -> list[Process]:
        """Have daemons started again no more, and end those that the controller has started again."""
        others = []
        for hosted in chosen:
            if self._is_for_controller(hosted) and hosted.launcher.pid:
                process = daemonnotes.forbid(self.directory, hosted.launcher.pid)
                if process is not None and process.pid != hosted.launcher.pid:
                    process.terminate()
                    others.append(process)
        return others

    def _end(self, launchers: Sequence[Any]) -> list[Any]:
        limit = self.settings.stop_timeout
        try:
            left = tell_all(launchers, lambda one: one.request_stop(), limit * _ORDERLY)
            left = tell_all(left, lambda one: one.terminate(), limit * _TERMINATE)
        except BaseException:  # most likely a second Ctrl-C: somebody is losing patience
            for one in tell_all(launchers, lambda one: one.kill(), 1.0, _HURRY):
                self.spoil(f"{named(one)} may still be there")
            for one in launchers:
                one.close()
            raise
        for one in left:
            self.spoil(f"{named(one)} did not stop and was killed")
            sys.stderr.write(f"ipkernel: {named(one)} did not stop; it is killed\n")
        left = tell_all(left, lambda one: one.kill(), max(limit * _KILL, 0.5))
        for one in launchers:
            one.close()
            if one.exit_code not in (0, None):
                self.spoil(f"{named(one)} {describe_exit(one.exit_code)}")
        return left

    def spoil(self, what: str) -> None:
        """Note that something went wrong, unless something has before."""
        self.spoiled = self.spoiled or what
