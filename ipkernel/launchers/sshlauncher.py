"""Launch on other hosts, each over one connection of the system's ssh.

What runs there is :mod:`ipkernel.launchers.remote`; it comes over the connection, as do the keys
and everything else that others must not see in a list of processes. The connection then carries the
program's events and is its lifeline: when it ends, by whose fault ever, the program ends.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zope.interface import implementer, provider

from ipkernel._version import __version__
from ipkernel.cluster import processes
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConnectError, LauncherError, SecurityError
from ipkernel.launchers import sshboot, sshoptions, sshpush, sshtext
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass, Share
from ipkernel.launchers.local import LocalLauncher
from ipkernel.launchers.sshjob import RemoteJob, frame
from ipkernel.launchers.sshoptions import HostEntry
from ipkernel.launchers.sshtalk import Conversation
from ipkernel.launchers.sshtunnel import Tunnels

#: Seconds from the order to kill to the end of the connection itself.
_KILL: Final = 0.5
#: Seconds that the thread which reads may take after the end of the connection.
_TELLING: Final = 1.0
#: The roles for which a controller writes FURLs.
ROLES: Final = ("client", "engine", "monitor", "admin")

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
        self.entry = self.find_entry()
        self._talk: Conversation | None = None
        self._finished = False  # whether the program has ended as programs do
        self._job: RemoteJob | None = None  # of a program that does without a connection
        self._error_file: Path | None = None
        self._place: RemoteJob | None = None  # the program, as anybody can find it
        self._noted: dict[str, Any] = {}  # the ssh, as anybody can find it
        self.tunnels: Tunnels | None = None
        if self.entry.tunnel != "no" and os.name == "posix":
            self.tunnels = Tunnels(self.entry, self.directory.security)

    def find_entry(self) -> HostEntry:
        """Return the host's entry."""
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
        # Until its end is told: what ssh's own end means has to be found out first.
        return self._process is not None and not self._ended

    @property
    def exit_code(self) -> int | None:
        """How it ended: the program's exit code, or ssh's, which is 255 if that has failed."""
        if self._job is not None:
            return 0 if self._job.over else None
        return None if self.running else super().exit_code

    @property
    def error_file(self) -> Path:
        """Where its standard error goes, and what ssh has to say."""
        return self._error_file or self.directory.log / f"{self.name}-{self.entry.host}.err"

    @property
    def log_file(self) -> Path:
        """The same, as its log is on the host; the one of its name here is another program's."""
        return self.error_file

    @property
    def unreachable(self) -> bool:
        """Whether it has ended because there was no way to the host; there may be one later."""
        return self._talk is not None and self._talk.unreachable

    def how_ended(self) -> str:
        """Say how it ended."""
        for said in self.events:
            if said["event"] == "error":
                return f"failed: {said.get('message')}"
        taken = self._talk is not None and self._talk.taken
        if self.exit_code == 255 and taken and not self._finished:
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
            "process": self._noted,
            "n": self.share.n,
            "host": self.entry.record(),
            "directory": "" if place is None else place.directory,
            "python": "" if place is None else place.python,
        }

    def command(self) -> list[str]:
        """Return the command line of ssh."""
        before = self.tunnels.options if self.tunnels is not None else []
        return [*self.entry.command(*before), sshboot.COMMAND]

    def preview(self) -> str:
        """Return the command lines: of ssh, and of the program on the host."""
        there = f"{self.entry.directory or '~/.ipython/ssh'}/{self.directory.name}-..."
        words = [
            shlex.quote(one) if isinstance(one, str) else f"{there}/{one['at']}".rstrip("/")
            for one in self._words()
        ]
        program = [self.entry.python, "-P", "-m", self.module, *words, "--lifeline"]
        setup = "".join(f"    command {n + 1} of 'setup'\n" for n in range(len(self.entry.setup)))
        return f"{shlex.join(self.command())}\n{setup}    {' '.join(program)}"

    def _words(self) -> list[Any]:
        """Return the arguments; what is a path of this host says where it is over there."""
        known = {
            str(self.directory.furl_file(role)): f"security/{furl_name(role)}" for role in ROLES
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
        environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
        if self.lifeline:
            environment[processes.COOKIE] = str(self.directory)
        process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            bufsize=0,
            **(self.tunnels.place if self.tunnels is not None else {}),
            **processes.spawn_options(),
        )
        self._talk = Conversation(process, self.entry, self.output)
        noted = processes.Process.now(process.pid, "ssh")
        self._noted = noted.to_dict() if noted is not None else {}
        return process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Go through the start with the host, then pass events on; runs in a thread of its own."""
        assert process.stdout is not None
        assert self._talk is not None
        talk, over = self._talk, False
        try:
            with process.stdout:
                self.set_up(talk)
                for event in talk.events:
                    self.heard(event)
            over = True
        except (LauncherError, ConnectError, SecurityError, OSError) as error:
            self.tell({"event": "error", "host": self.entry.host, "message": str(error)})
        except (KeyError, TypeError, ValueError) as error:
            message = f"it does not answer as ipkernel does ({error!r})"
            self.tell({"event": "error", "host": self.entry.host, "message": message})
        finally:
            talk.watch(0)
            if not over:  # else it ends by itself
                talk.hang_up()
            process.wait()
            talk.finish()
            _error_files.discard(self.error_file)
            if self.tunnels is not None:
                self.tunnels.remove()
            if self._job is None:
                self.tell_end()

    def set_up(self, talk: Conversation) -> None:
        """Go through the start with the host, until the program is started."""
        entry = self.entry
        self.tell({"event": "connecting", "host": entry.host})
        talk.begin()
        self.tell({"event": "checking", "host": entry.host})
        talk.expect("@here")
        talk.taken = True
        checked = self.check(talk)
        pushed = self._push(talk, checked)
        talk.watch(0)
        files = self.files(talk, checked)
        self.tell({"event": "copying", "host": entry.host, "what": "keys"})
        order: dict[str, Any] = {
            "act": "run",
            "base": entry.directory,
            "name": self.directory.name,
            "module": self.module,
            "arguments": self._words(),
            "environment": self._environment,
            "files": files,
            "send": self.wanted_files(),
            "detach": "" if self.lifeline else "stay" if self.tunnelled else "leave",
            "packages": pushed,
        }
        place = talk.order("@started", order)["directory"]
        self._place = RemoteJob(entry, checked["executable"], place)
        started = {"event": "started", "host": entry.host, "directory": place}
        self.tell({**started, "python": checked["python"]})

    def check(self, talk: Conversation) -> dict[str, Any]:
        """Return what is on the host.

        Raises:
            LauncherError: ipkernel, or something that it needs, is not, and is not brought along.
        """
        order = {"act": "check", "base": self.entry.directory, "needs": list(sshpush.NEEDS)}
        checked = talk.order("@checked", order)
        missing, python = checked["missing"], checked["executable"]
        if self.entry.push != "yes":
            if checked["version"] != __version__:
                raise LauncherError(sshtext.wrong_version(checked["version"], __version__, python))
            if missing:
                raise LauncherError(sshtext.missing_needs(missing, python))
        elif missing and not sshpush.fits(checked["platform"]):
            there, here = ", ".join(checked["platform"]), ", ".join(sshpush.platform())
            raise LauncherError(
                f"{sshtext.missing_needs(missing, python)} (they cannot be brought along: that "
                f"Python is for {there}, this one for {here})"
            )
        return checked

    def _push(self, talk: Conversation, checked: dict[str, Any]) -> str:
        """Bring ipkernel along if it is to be; return the digest of what was brought."""
        if self.entry.push != "yes":
            return ""
        archive = sshpush.find_archive(with_needs=bool(checked["missing"]))
        order = {"base": self.entry.directory, "digest": archive.digest}
        if not talk.order("@has", {"act": "have", **order})["there"]:
            self.tell({"event": "copying", "host": self.entry.host, "what": "ipkernel"})
            data = archive.pack()
            talk.order("@has", {"act": "push", **order, "size": len(data)}, data)
        return archive.digest

    # -- what a subclass knows ------------------------------------------------------------

    def files(self, talk: Conversation, checked: dict[str, Any]) -> dict[str, str]:
        """Return the files that the program needs there, by path."""
        return {}

    def wanted_files(self) -> list[str]:
        """Return the files that the program makes and that are needed here."""
        return []

    @property
    def tunnelled(self) -> bool:
        """Whether the program needs the connection even if nobody watches it."""
        return False

    # -- while it runs --------------------------------------------------------------------

    def heard(self, event: dict[str, Any]) -> None:
        """Take an event of the host, or of the program there."""
        if event["event"] == "@ended":
            self._finished = True
        elif event["event"] == "ready":
            if not self.lifeline and not self.tunnelled:
                self._job = self._place
            self.tell(event)
        elif not event["event"].startswith("@"):
            self.tell(event)

    def request_stop(self) -> None:
        """Have the host close the program's lifeline."""
        talk = self._talk
        if self._job is not None:
            self._job.order({"act": "stop"}, self.tell_end)
        elif talk is not None and self.running:
            talk.stopped = True
            if not (talk.taken and talk.write(frame({"act": "stop"}))):
                talk.hang_up()

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; see :class:`~ipkernel.launchers.interfaces.ILauncher`."""
        if self._job is not None:
            return self._job.wait(timeout)
        deadline = time.monotonic() + timeout
        if not super().wait(timeout):
            return False
        with self._changed:
            left = max(_TELLING, deadline - time.monotonic())
            return self._process is None or self._changed.wait_for(lambda: self._ended, left)

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
        elif self._talk is not None and self._talk.taken and self.running:
            self._talk.write(frame(order))

    def close(self) -> None:
        """Let the connection go, and wait a moment for the thread that reads."""
        if self._talk is not None and self.lifeline:
            self._talk.finish()
        if self._job is not None:
            self._job.close()
        if self._reader is not None and not super().running:
            self._reader.join(0.5)


def furl_name(role: str) -> str:
    """Return the name of the file with the FURL of a role."""
    return f"ipcontroller-{role}.furl"
