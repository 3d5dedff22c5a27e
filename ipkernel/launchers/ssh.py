"""Launch on other hosts, each over one connection of the system's ssh.

What runs there is :mod:`ipkernel.launchers.remote`; it comes over the connection, as do the keys
and everything else that others must not see in a list of processes. The connection then carries the
program's events and is its lifeline: when it ends, by whose fault ever, the program ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from zope.interface import implementer, provider

from ipkernel._version import __version__
from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConnectError, LauncherError, SecurityError
from ipkernel.launchers import remote, sshboot, sshoptions, sshpush, sshtext
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass, Share
from ipkernel.launchers.local import LocalLauncher
from ipkernel.launchers.sshjob import RemoteJob, frame
from ipkernel.launchers.sshoptions import HostEntry
from ipkernel.launchers.sshtunnel import Tunnels, is_loopback, places
from ipkernel.wire.furl import Furl, read_furl, write_furl

#: Seconds between two looks whether the controller has written its FURL.
_LOOK: Final = 0.05
#: Seconds that an order to a host may take to be written before the connection counts as stuck.
_STUCK: Final = 1.0
#: Seconds from the order to kill to the end of the connection itself.
_KILL: Final = 0.5
_ROLES: Final = ("client", "engine", "monitor", "admin")

#: The files to which something of this process writes now.
_error_files: set[Path] = set()
_error_files_lock = threading.Lock()


@implementer(ILauncher)
@provider(ILauncherClass)
class SSHLauncher(LocalLauncher):
    """One of ipkernel's programs on another host; the process here is an ssh.

    Its arguments are those of :class:`~ipkernel.launchers.base.Launcher`.
    """

    SPEC = sshoptions.SPEC
    #: Hosts that reach the controller need no tunnel.
    elsewhere = True

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.entry = self._find_entry()
        self._writing = threading.Lock()
        self._timer: threading.Timer | None = None
        self._too_late = ""
        self._taken = False  # whether the host takes orders
        self._asked = False  # whether it was told to end
        self._finished = False  # whether the program has ended as programs do
        self._job: RemoteJob | None = None  # of a program that does without a connection
        self._error_file: Path | None = None
        self._place: RemoteJob | None = None  # the program, as anybody can find it
        self._tunnels: Tunnels | None = None
        if self.entry.tunnel != "no" and os.name == "posix":
            self._tunnels = Tunnels(self.entry, self.directory.security)

    def _find_entry(self) -> HostEntry:
        return HostEntry.from_dict(self.share.options)

    @classmethod
    def plan(cls, n: int | None, options: Mapping[str, Any]) -> list[Share]:
        """Have on each host what its entry says; see :func:`sshoptions.plan_hosts`."""
        return sshoptions.plan_hosts(n, options)

    @classmethod
    def from_record(
        cls, directory: ClusterDirectory, record: dict[str, Any], options: Mapping[str, Any]
    ) -> SSHLauncher:
        """Return a launcher for a program on a host that another process has started."""
        entry = HostEntry.from_dict(record["host"])
        share = Share(int(record.get("n", 0)), entry.label, entry.to_dict())
        launcher = cls(directory, options=options, share=share, lifeline=not record["directory"])
        if record["directory"]:
            launcher._job = launcher._place = RemoteJob(
                entry, record["python"], record["directory"]
            )
        return launcher

    # -- what is known --------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Where it runs, for messages."""
        return self.entry.label

    @property
    def started(self) -> bool:
        """Whether it was started."""
        return self._process is not None or self._job is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended, as far as is known here."""
        if self._job is not None:
            return not self._job.over
        return super().running

    @property
    def exit_code(self) -> int | None:
        """How it ended: the program's exit code, or ssh's, which is 255 if that has failed."""
        if self._job is not None:
            return 0 if self._job.over else None
        return super().exit_code

    @property
    def error_file(self) -> Path:
        """Where its standard error goes, and what ssh has to say."""
        return self._error_file or self.directory.log / f"{self.name}-{self.entry.host}.err"

    def how_ended(self) -> str:
        """Say how it ended."""
        if self.exit_code == 255 and self._taken and not self._finished:
            return f"ended: {sshtext.explain_loss(self.output(), self.entry)}"
        return super().how_ended()

    def state(self) -> str:
        """Say in a few words where it stands; asks the host if nobody here has a connection."""
        if self._job is None:
            return super().state()
        return "running" if self._job.look() else "ended"

    def record(self) -> dict[str, Any]:
        """Return where it runs, and how to get there."""
        place = self._place
        return {
            "pid": self.pid,
            "n": self.share.n,
            "host": self.entry.record(),
            "directory": "" if place is None else place.directory,
            "python": "" if place is None else place.python,
        }

    def command(self) -> list[str]:
        """Return the command line of ssh."""
        before = self._tunnels.options if self._tunnels is not None else []
        return [*self.entry.command(*before), sshboot.COMMAND]

    def preview(self) -> str:
        """Return the command lines: of ssh, and of the program on the host."""
        there = f"{self.entry.directory or '~/.ipython/ssh'}/{self.directory.name}-..."
        words = [
            one if isinstance(one, str) else f"{there}/{one['at']}".rstrip("/")
            for one in self._words()
        ]
        program = [self.entry.python, "-P", "-m", self.module, *words, "--lifeline"]
        setup = "".join(f"    command {n + 1} of 'setup'\n" for n in range(len(self.entry.setup)))
        return f"{shlex.join(self.command())}\n{setup}    {' '.join(program)}"

    def _words(self) -> list[Any]:
        """Return the arguments; what is a path of this host says where it is over there."""
        known = {
            str(self.directory.furl_file(role)): f"security/{_furl_name(role)}" for role in _ROLES
        }
        known[str(self.directory)] = ""
        return [{"at": known[one]} if one in known else one for one in self.arguments]

    # -- start ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start ssh; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        with _error_files_lock:  # two at the same host must not explain each other's failures
            number, path = 1, self.error_file
            while path in _error_files:
                number += 1
                path = self.directory.log / f"{self.name}-{self.entry.host}-{number}.err"
            _error_files.add(path)
        self._error_file = path
        try:
            super().start()
        except LauncherError:
            _error_files.discard(path)
            raise

    def spawn(self, errors: Any) -> subprocess.Popen[bytes]:
        """Start ssh."""
        environment = {**os.environ}
        if self.lifeline:
            environment[processes.COOKIE] = str(self.directory)
        return subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            bufsize=0,
            **(self._tunnels.place if self._tunnels is not None else {}),
            **processes.spawn_options(),
        )

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Go through the start with the host, then pass events on; runs in a thread of its own."""
        assert process.stdout is not None
        with process.stdout as stream:
            lines = _events(stream.read)
            try:
                self._set_up(lines)
                for event in lines:
                    self._heard(event)
            except (LauncherError, ConnectError, SecurityError, OSError) as error:
                self.tell({"event": "error", "host": self.entry.host, "message": str(error)})
                self._hang_up(process)
            finally:
                self._watch(0)
        process.wait()
        self._close_input(process)
        _error_files.discard(self.error_file)
        if self._tunnels is not None:
            self._tunnels.remove()
        if self._job is None:
            self.tell_end()

    def _set_up(self, lines: Iterator[dict[str, Any]]) -> None:
        entry = self.entry
        self.tell({"event": "connecting", "host": entry.host})
        self._watch(
            2 * entry.connect_timeout,
            f"it did not let anybody log in within {2 * entry.connect_timeout:g} s",
        )
        self._write(sshboot.first_words(entry.python, entry.setup, entry.shell))
        self._expect(lines, "@shell")
        self._watch(
            entry.start_timeout,
            f"'setup', the checks and copying took longer than {entry.start_timeout:g} s: raise "
            f"start_timeout in [ssh]",
        )
        self.tell({"event": "checking", "host": entry.host})
        self._expect(lines, "@here")
        self._taken = True
        check = {"act": "check", "base": entry.directory, "needs": list(sshpush.NEEDS)}
        checked = self._order(lines, "@checked", check)
        pushed = self._push(lines, checked)
        self._watch(0)
        files = self._files(lines, checked)
        self.tell({"event": "copying", "host": entry.host, "what": "keys"})
        detach = "" if self.lifeline else "stay" if self._tunnelled else "leave"
        order: dict[str, Any] = {
            "act": "run",
            "base": entry.directory,
            "name": self.directory.name,
            "module": self.module,
            "arguments": self._words(),
            "environment": self._environment,
            "files": files,
            "send": self._wanted_files(),
            "detach": detach,
            "packages": pushed,
        }
        started = self._order(lines, "@started", order)
        self._place = RemoteJob(entry, checked["executable"], started["directory"])
        self.tell(
            {
                "event": "started",
                "host": entry.host,
                "python": checked["python"],
                "directory": started["directory"],
            }
        )

    def _order(
        self, lines: Iterator[dict[str, Any]], answer: str, order: dict[str, Any], data: bytes = b""
    ) -> dict[str, Any]:
        self._write(frame(order) + data)
        return self._expect(lines, answer)

    def _expect(self, lines: Iterator[dict[str, Any]], wanted: str) -> dict[str, Any]:
        """Return the next event, which must be the one that is wanted.

        Raises:
            LauncherError: It is not; the text says what is wrong with the host.
        """
        for event in lines:
            name = event["event"]
            if name == wanted:
                return event
            if name == sshboot.SETUP:
                raise LauncherError(sshtext.explain_setup(event, self.entry, self.output()))
            if name == sshboot.NO_PYTHON:
                raise LauncherError(sshtext.no_python(self.entry))
            if name == sshboot.OLD_PYTHON:
                version = str(event["version"])
                raise LauncherError(sshtext.old_python(version, sshboot.OLDEST, self.entry))
            if name == "@problem":
                raise LauncherError(str(event["message"]))
        if self._too_late:
            raise LauncherError(self._too_late)
        if self._asked:
            raise LauncherError("it was stopped while it started")
        assert self._process is not None
        code = self._process.wait()
        if self._taken:
            raise LauncherError(sshtext.explain_loss(self.output(), self.entry))
        raise LauncherError(sshtext.explain(self.output(), self.entry, code))

    def _push(self, lines: Iterator[dict[str, Any]], checked: dict[str, Any]) -> str:
        """See that ipkernel is there; return the digest of what was brought along, if anything."""
        if self.entry.push != "yes":
            if checked["version"] != __version__:
                raise LauncherError(
                    sshtext.wrong_version(checked["version"], __version__, checked["executable"])
                )
            if checked["missing"]:
                raise LauncherError(
                    sshtext.missing_needs(checked["missing"], checked["executable"])
                )
            return ""
        missing, executable = checked["missing"], checked["executable"]
        if missing and not sshpush.fits(checked["platform"]):
            there, here = ", ".join(checked["platform"]), ", ".join(sshpush.platform())
            raise LauncherError(
                f"{sshtext.missing_needs(missing, executable)} (they cannot be brought along: "
                f"that Python is for {there}, this one for {here})"
            )
        archive = sshpush.make_archive(with_needs=bool(missing))
        order = {"base": self.entry.directory, "digest": archive.digest, "size": len(archive.data)}
        if not self._order(lines, "@has", {"act": "have", **order})["there"]:
            self.tell({"event": "copying", "host": self.entry.host, "what": "ipkernel"})
            self._order(lines, "@has", {"act": "push", **order}, archive.data)
        return archive.digest

    # -- what a subclass knows ------------------------------------------------------------

    def _files(self, lines: Iterator[dict[str, Any]], checked: dict[str, Any]) -> dict[str, str]:
        """Return the files that the program needs there."""
        return {}

    def _wanted_files(self) -> list[str]:
        """Return the files that the program makes and that are needed here."""
        return []

    @property
    def _tunnelled(self) -> bool:
        """Whether the program needs the connection even if nobody watches it."""
        return False

    # -- while it runs --------------------------------------------------------------------

    def _heard(self, event: dict[str, Any]) -> None:
        if event["event"] == "@ended":
            self._finished = True
        elif event["event"] == "ready":
            if not self.lifeline and not self._tunnelled:
                self._job = self._place
            self.tell(event)
        elif not event["event"].startswith("@"):
            self.tell(event)

    def _watch(self, seconds: float, sentence: str = "") -> None:
        """Hang up after so many seconds, because of what the sentence says; 0: no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds:
            self._timer = threading.Timer(seconds, self._late, [sentence])
            self._timer.daemon = True
            self._timer.start()

    def _late(self, sentence: str) -> None:
        self._too_late = sentence
        if self._process is not None:
            self._hang_up(self._process)

    @staticmethod
    def _hang_up(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()

    def _write(self, data: bytes) -> bool:
        """Write to the host; False if it does not read, or nobody is there."""
        process = self._process
        if process is None or process.stdin is None or not self._writing.acquire(timeout=_STUCK):
            return False
        try:
            while data:
                data = data[process.stdin.write(data) :]
            return True
        except (OSError, ValueError):  # its end is told by what it wrote, or did not write
            return False
        finally:
            self._writing.release()

    def _close_input(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def request_stop(self) -> None:
        """Have the host close the program's lifeline."""
        self._asked = True
        if self._job is not None:
            self._job.order({"act": "stop"}, self.tell_end)
        elif self.running and not (self._taken and self._write(frame({"act": "stop"}))):
            assert self._process is not None
            self._hang_up(self._process)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        if self._job is not None:
            return self._job.wait(timeout)
        return super().wait(timeout)

    def terminate(self) -> None:
        """Have the host send SIGTERM to everything that belongs to the program."""
        self._signal("SIGTERM", group=True)

    def kill(self) -> None:
        """Have the host kill the program, and end the connection."""
        self._signal("SIGKILL", group=True)
        process = self._process
        if self._job is None and process is not None and process.poll() is None:
            timer = threading.Timer(_KILL, process.kill)
            timer.daemon = True
            timer.start()

    def signal(self, name: str) -> None:
        """Send the program itself a signal by name, such as ``"SIGTERM"``."""
        self._signal(name, group=False)

    def _signal(self, name: str, *, group: bool) -> None:
        order = {"act": "signal", "name": name, "group": group}
        if self._job is not None:
            self._job.order(order, self.tell_end)
        elif self.running and self._taken:
            self._write(frame(order))

    def close(self) -> None:
        """Let the connection go, and wait a moment for the thread that reads."""
        process = self._process
        if process is not None and self.lifeline:
            self._close_input(process)
        if self._job is not None:
            self._job.close()
        if self._reader is not None and not super().running:
            self._reader.join(0.5)


class SSHHostLauncher(SSHLauncher):
    """A host daemon, with its engines, on another host."""

    name = "ipdaemon"
    module = "ipkernel.cli.ipdaemon"
    _forwarded = 0

    @property
    def _tunnelled(self) -> bool:
        return bool(self._forwarded)

    def _files(self, lines: Iterator[dict[str, Any]], checked: dict[str, Any]) -> dict[str, str]:
        furl = self._wait_furl()
        if self._needs_tunnel(lines, checked, furl):
            furl = self._through_tunnel(furl)
        return {f"security/{_furl_name('engine')}": f"{furl}\n"}

    def _wait_furl(self) -> Furl:
        """Return the controller's FURL as soon as there is one."""
        path = self.directory.furl_file("engine")
        patience = self.entry.start_timeout
        deadline = time.monotonic() + patience
        while not _is_current(path, self.directory):
            if not self.running or self._asked:
                raise LauncherError("it was stopped while it waited for the controller")
            if time.monotonic() > deadline:
                raise LauncherError(f"there was no controller within {patience:g} s ({path})")
            time.sleep(_LOOK)
        return read_furl(path)

    def _needs_tunnel(
        self, lines: Iterator[dict[str, Any]], checked: dict[str, Any], furl: Furl
    ) -> bool:
        if self.entry.tunnel != "auto":
            return self.entry.tunnel == "yes"
        same = checked["machine"] == remote.machine()
        found = [place for place in places(furl.hints) if same or not is_loopback(place[0])]
        if not found:
            return True
        return not self._order(lines, "@reached", {"act": "reach", "places": found})["reached"]

    def _through_tunnel(self, furl: Furl) -> Furl:
        if self._tunnels is None:
            raise LauncherError(
                "it does not reach the controller, and tunnels need a POSIX system here"
            )
        found = places(furl.hints)
        if not found:
            raise LauncherError("the controller has not said where it listens")
        # Loopback first: if the controller is on this machine that is the shortest way.
        host, port = min(found, key=lambda place: not is_loopback(place[0]))
        self._forwarded = self._tunnels.to_here(host, port)
        self.tell({"event": "tunnel", "host": self.entry.host, "port": self._forwarded})
        return Furl(furl.tub_id, furl.pin, (f"tcp:127.0.0.1:{self._forwarded}",), furl.swissnum)


class SSHControllerLauncher(SSHLauncher):
    """A controller on another host."""

    name = "ipcontroller"
    module = "ipkernel.cli.ipcontroller"
    _forwarded = 0

    def _find_entry(self) -> HostEntry:
        if self.share.options:
            return HostEntry.from_dict(self.share.options)
        return sshoptions.read_controller(self.options)

    @property
    def _tunnelled(self) -> bool:
        return self._tunnels is not None

    def _wanted_files(self) -> list[str]:
        return [f"security/{_furl_name(role)}" for role in _ROLES]

    def _heard(self, event: dict[str, Any]) -> None:
        if event["event"] == "@files":
            self._keep_furls({Path(name).name: text for name, text in event["files"].items()})
        else:
            super()._heard(event)

    def _keep_furls(self, found: dict[str, str]) -> None:
        """Write the controller's FURLs to the cluster directory of this host."""
        for role in _ROLES:
            furl = Furl.parse(found[_furl_name(role)])
            hints = furl.hints if self._is_reached(furl) else self._tunnel_hints(furl)
            kept = Furl(furl.tub_id, furl.pin, hints, furl.swissnum)
            write_furl(self.directory.furl_file(role), kept)

    def _is_reached(self, furl: Furl) -> bool:
        if self._forwarded or self.entry.tunnel != "auto":
            return self.entry.tunnel == "no"
        for host, port in places(furl.hints):
            if not is_loopback(host):
                with contextlib.suppress(OSError):
                    socket.create_connection((host, port), 3.0).close()
                    return True
        return False

    def _tunnel_hints(self, furl: Furl) -> tuple[str, ...]:
        """Return hints by way of the connection first, then those that others may reach."""
        found = places(furl.hints)
        if self._tunnels is None or not found:
            raise LauncherError(
                "the controller is not reached there, and tunnels need a POSIX system"
            )
        if not self._forwarded:
            host, port = min(found, key=lambda place: not is_loopback(place[0]))
            self._forwarded = self._tunnels.to_there(host, port)
            self.tell({"event": "tunnel", "host": self.entry.host, "port": self._forwarded})
        others = [hint for hint in furl.hints if not is_loopback(places((hint,))[0][0])]
        return (f"tcp:127.0.0.1:{self._forwarded}", *others)


def _furl_name(role: str) -> str:
    return f"ipcontroller-{role}.furl"


def _is_current(path: Path, directory: ClusterDirectory) -> bool:
    """Tell whether a FURL file is that of the controller which runs now."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    controller = directory.controller()
    return controller is None or not controller.here or written >= controller.started - 1.0


def _events(read: Callable[[int], bytes | None]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream; what is none, such as a login's greeting, is ignored."""
    pending = b""
    while data := read(65536):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
