"""The programs that one cluster object has started: begin, watch, and end them together."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ipkernel.cluster import stopping
from ipkernel.cluster.directory import ClusterDirectory, private_name
from ipkernel.cluster.processes import describe_exit
from ipkernel.errors import ClusterError, LauncherError

#: Shares of the time for a stop: asking, insisting, killing.
_ORDERLY: Final = 0.6
_TERMINATE: Final = 0.2
_KILL: Final = 0.2
#: How often one program's wait looks at the others, in seconds.
_SLICE: Final = 0.2


class Settings(NamedTuple):
    """How a cluster's programs are to be started and stopped.

    Attributes:
        controller: Launcher class of the controller.
        engines: Launcher class of host daemons.
        interface: On which the controller listens; empty for its default.
        port: Of the controller; 0 for its default.
        location: Address that it announces; empty for its default.
        controller_args: Further arguments for it.
        engine_args: Further arguments for host daemons.
        environment: Further environment variables for both.
        log_level: Of both.
        lifeline: Whether they end with this process.
        stop_timeout: Seconds that a stop may take, about.
        on_event: Called with the name of a program and each event that it reports.
        on_host_lost: Called, in another thread, with a sentence when the last host daemon has
            ended by itself.
    """

    controller: Any
    engines: Any
    interface: str = ""
    port: int = 0
    location: str = ""
    controller_args: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    log_level: str = "INFO"
    lifeline: bool = True
    stop_timeout: float = 5.0
    on_event: Callable[[str, dict[str, Any]], object] | None = None
    on_host_lost: Callable[[str], object] | None = None


class Programs:
    """A controller and host daemons, each behind its launcher.

    Args:
        directory: The cluster directory.
        private: Whether it must be a new one.
        settings: How to start and stop them.

    Attributes:
        directory: The same, or another new one.
        controller: The controller's launcher, or None.
        hosts: Launchers of host daemons.
        spoiled: What went wrong first, as a sentence; empty if nothing.
    """

    def __init__(self, directory: ClusterDirectory, private: bool, settings: Settings) -> None:
        self.directory = directory
        self.settings = settings
        self.controller: Any = None
        self.hosts: list[Any] = []
        self.spoiled = ""
        self._private = private
        self._ending: list[Any] = []

    @property
    def all(self) -> list[Any]:
        """The launchers of everything that was started, host daemons first."""
        return [*self.hosts, *([self.controller] if self.controller is not None else [])]

    def start_controller(self) -> None:
        """Start a controller, without waiting for it.

        Raises:
            ClusterError: The directory cannot be used, or the cluster runs already.
            LauncherError: It could not be started at all.
        """
        while self._private and self.controller is None and self.directory.exists:
            self.directory = ClusterDirectory.named(private_name())
        self.directory.create()
        if not any(host.running for host in self.hosts):
            stopping.end_leftovers(self.directory, self.settings.stop_timeout)
        options = (
            ("--interface", self.settings.interface),
            ("--port", self.settings.port),
            ("--location", self.settings.location),
        )
        arguments = [text for name, value in options if value for text in (name, str(value))]
        arguments += self.settings.controller_args
        self.spoiled = ""
        self.controller = self._start(self.settings.controller, arguments)

    def start_host(self, n: int, patience: float, *, lifeline: bool = True) -> Any:
        """Start a host daemon with ``n`` engines, without waiting for it; return its launcher.

        Args:
            n: Number of engines.
            patience: Seconds for which it shall try to reach the controller.
            lifeline: False if it must outlive this process whatever the settings say.

        Raises:
            LauncherError: It could not be started at all.
        """
        arguments = ["--furl-file", str(self.directory.furl_file("engine")), "-n", str(n)]
        arguments += ["--wait", f"{patience:g}", *self.settings.engine_args]
        host = self._start(self.settings.engines, arguments, lifeline, on_stop=self._host_ended)
        self.hosts = [one for one in self.hosts if one.running] + [host]
        return host

    def _host_ended(self, host: Any) -> None:
        told = self.settings.on_host_lost
        if told is None or host in self._ending or any(one.running for one in self.hosts):
            return
        told(f"{host.name} (pid {host.pid}) {describe_exit(host.exit_code)} by itself")

    def _start(
        self, launcher_class: Any, arguments: list[str], lifeline: bool = True, **more: Any
    ) -> Any:
        name, told = launcher_class.name, self.settings.on_event
        common = ["--cluster-dir", str(self.directory), "--cluster", self.directory.name]
        common += ["--log-level", self.settings.log_level.lower()]
        launcher = launcher_class(
            self.directory,
            [*common, *arguments],
            lifeline=lifeline and self.settings.lifeline,
            environment=dict(self.settings.environment),
            on_event=None if told is None else lambda event: told(name, event),
            **more,
        )
        launcher.start()
        return launcher

    def wait_ready(self, launcher: Any, deadline: float) -> dict[str, Any]:
        """Wait until a program is ready; return its event.

        Args:
            launcher: Whose.
            deadline: By the monotonic clock.

        Raises:
            LauncherError: It, or another program, has ended; raised as soon as that is known.
            TimeoutError: It was not ready in time.
        """
        while True:
            left = deadline - time.monotonic()
            try:
                return dict(launcher.wait_event("ready", max(0.0, min(left, _SLICE))))
            except TimeoutError:
                for other in self.all:
                    if not other.running:
                        raise LauncherError(other.problem()) from None
                if left <= 0:
                    raise TimeoutError(
                        f"{launcher.name} of cluster {self.directory.name} was not ready in "
                        f"time; see {self.directory.log}"
                    ) from None

    def wait_ended(self, timeout: float) -> bool:
        """Wait until any of the programs has ended, at most ``timeout`` seconds; say whether."""
        deadline = time.monotonic() + timeout
        while all(one.running for one in self.all):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for one in self.all[-1:]:
                one.wait(min(left, _SLICE))
        return True

    def problem(self) -> str:
        """Say which program has failed, and how, with the end of its log; empty if none has."""
        for one in self.all:
            if one.exit_code not in (0, None):
                return str(one.problem())
        return ""

    def check_controller(self) -> None:
        """Do nothing while the controller runs.

        Raises:
            ClusterError: It does not; the text says why and has the last lines of its log.
        """
        if self.controller is None:
            raise ClusterError(f"cluster {self.directory.name} is not running: start it first")
        if not self.controller.running:
            raise ClusterError(
                f"cluster {self.directory.name} has lost its controller: "
                f"{self.controller.problem()}"
            )

    def end(self, launchers: Sequence[Any]) -> None:
        """End programs: ask all of them at once, then insist, then kill.

        Raises:
            ClusterError: One of them cannot be ended.
        """
        self._ending = [*launchers]
        for one in launchers:
            if not one.running:
                self._spoil(f"{one.name} {describe_exit(one.exit_code)} by itself")
        limit = self.settings.stop_timeout
        try:
            left = _all(launchers, lambda one: one.request_stop(), limit * _ORDERLY)
            left = _all(left, lambda one: one.terminate(), limit * _TERMINATE)
        except BaseException:  # most likely a second Ctrl-C: somebody is losing patience
            for one in _all(launchers, lambda one: one.kill(), 1.0):
                self._spoil(f"{one.name} (pid {one.pid}) may still be there")
            for one in launchers:
                one.close()
            raise
        for one in left:
            self._spoil(f"{one.name} (pid {one.pid}) did not stop and was killed")
            sys.stderr.write(f"ipkernel: {one.name} (pid {one.pid}) did not stop; it is killed\n")
        left = _all(left, lambda one: one.kill(), max(limit * _KILL, 0.5))
        for one in launchers:
            one.close()
            if one.exit_code not in (0, None):
                self._spoil(f"{one.name} (pid {one.pid}) {describe_exit(one.exit_code)}")
        self.hosts = [one for one in self.hosts if one.running]
        self.controller = None if self.controller in launchers else self.controller
        if left:
            names = ", ".join(f"{one.name} (pid {one.pid})" for one in left)
            raise ClusterError(f"cannot end {names} of cluster {self.directory.name}")

    def _spoil(self, what: str) -> None:
        self.spoiled = self.spoiled or what


def _all(launchers: Sequence[Any], how: Callable[[Any], object], patience: float) -> list[Any]:
    """Tell programs to end, all at once; return those that have not after a while."""
    for one in launchers:
        how(one)
    deadline = time.monotonic() + patience
    return [one for one in launchers if not one.wait(max(0.0, deadline - time.monotonic()))]
