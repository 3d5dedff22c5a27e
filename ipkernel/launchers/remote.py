"""What the ssh launcher runs on a host: checks, a private directory, one program, and its end.

This file goes over the connection as text and is run by a Python in which ipkernel may be missing,
so it needs nothing but the standard library. Orders come on the standard input, each a line with
its length and then JSON; what happens goes to the standard output, one JSON object a line.

The program's lifeline is a pipe that this process holds: whatever ends this process, or the
connection under it, ends the program in good order. Then its directory is removed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, NoReturn

#: Seconds that a program may take to end after its lifeline, before it is told more loudly.
ORDERLY: Final = 20.0
TERMINATE: Final = 5.0
#: Seconds after which what nobody uses any more is removed: half-made directories, packages.
HALF_MADE: Final = 3600.0
UNUSED: Final = 30 * 86400.0
#: Lines of a log that are shown when a program has failed.
TAIL: Final = 30
#: The pipe by which others of this host give orders.
ORDERS: Final = "orders"
_CONNECT: Final = 3.0


def say(event: str, **fields: Any) -> None:
    """Tell the launcher something; nobody there is no error."""
    data = json.dumps({"event": event, **fields}).encode() + b"\n"
    write_all(1, data)


def write_all(descriptor: int, data: bytes) -> bool:
    """Write all of ``data``; return whether somebody took it."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True


def give_up(kind: str, message: str) -> NoReturn:
    """Tell the launcher why this cannot go on, and end."""
    say("@problem", kind=kind, message=message)
    sys.exit(3)


class Orders:
    """Reads orders from a descriptor, without waiting for more than there is.

    Args:
        descriptor: Where they come from.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._buffer = bytearray()

    def fill(self) -> None:
        """Read once; may wait."""
        try:
            data = os.read(self.descriptor, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self._buffer += data

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes, waiting for them.

        Raises:
            EOFError: They do not come.
        """
        while len(self._buffer) < size:
            self.fill()
            if self.ended:
                raise EOFError
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def whole(self) -> dict[str, Any] | None:
        """Return the next order if all of it is here."""
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline or len(rest) < int(line):
            return None
        found: dict[str, Any] = json.loads(rest[: int(line)])
        del self._buffer[: len(line) + 1 + int(line)]
        return found

    def next(self) -> dict[str, Any]:
        """Return the next order, waiting for it.

        Raises:
            EOFError: There is none any more.
        """
        while (order := self.whole()) is None:
            self.fill()
            if self.ended:
                raise EOFError
        return order


# ------------------------------------------------------------------------------ checks


def check(order: dict[str, Any]) -> None:
    """Say what is there: Python, ipkernel, what it needs, and a place for files."""
    tidy(base_directory(order["base"]))
    say(
        "@checked",
        python=".".join(map(str, sys.version_info[:3])),
        executable=sys.executable,
        platform=[sysconfig.get_platform(), str(sysconfig.get_config_var("SOABI"))],
        version=installed(),
        machine=machine(),
        missing=[name for name in order["needs"] if not findable(name)],
    )


def machine() -> list[str]:
    """Return what tells this machine, with its network, from others."""
    try:
        network = os.readlink("/proc/self/ns/net")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        network = boot = ""
    return [socket.gethostname(), boot, network]


def installed() -> str:
    """Return the version of ipkernel here; empty if there is none."""
    try:
        spec = importlib.util.find_spec("ipkernel")
        places = spec.submodule_search_locations if spec is not None else None
        text = Path(next(iter(places or [])), "_version.py").read_text("utf-8")
    except (ImportError, OSError, ValueError, StopIteration):
        return ""
    match = re.search(r"""__version__ = ["']([^"']+)""", text)
    return match.group(1) if match else ""


def findable(name: str) -> bool:
    """Tell whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def reached(places: list[tuple[str, int]]) -> bool:
    """Tell whether any of some places takes a connection."""
    found = threading.Event()
    left = threading.Semaphore(0)

    def attempt(host: str, port: int) -> None:
        try:
            socket.create_connection((host, port), _CONNECT).close()
            found.set()
        except OSError:
            pass
        left.release()

    for host, port in places:
        threading.Thread(target=attempt, args=(host, port), daemon=True).start()
    deadline = time.monotonic() + _CONNECT
    for _ in places:
        left.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if found.is_set():
            return True
    return False


# ------------------------------------------------------------------------- directories


def base_directory(wanted: str) -> Path:
    """Return the directory in which those of programs are, made if need be."""
    home = os.environ.get("IPYTHONDIR") or os.path.join("~", ".ipython")
    base = Path(os.path.abspath(os.path.expanduser(wanted or os.path.join(home, "ssh"))))
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.stat()
    except OSError as error:
        give_up("directory", f"cannot make the directory {base}: {error.strerror}")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        give_up("directory", f"{base} is not only yours to write to")
    return base


def host_id() -> str:
    """Return what tells this host, over restarts, from others that see the same files."""
    try:
        machine = Path("/etc/machine-id").read_text("ascii").strip()
    except OSError:
        machine = ""
    return f"{socket.gethostname()} {machine}"


def tidy(base: Path) -> None:
    """Remove what programs of this host have left that were killed, and unused packages."""
    for path in unneeded(base):
        shutil.rmtree(path, ignore_errors=True)


def unneeded(base: Path) -> list[Path]:
    """Return what programs of this host have left that were killed, and unused packages."""
    now = time.time()
    found = []
    for path in base.iterdir():
        try:
            age = now - path.stat().st_mtime
            if path.name.startswith(".new-"):
                over = age > HALF_MADE
            elif path.name.startswith("packages-"):
                over = age > UNUSED
            else:
                ours = (path / "host").read_text("utf-8") == host_id()
                over = ours and open_orders(path) is None
        except (OSError, UnicodeDecodeError):  # it is none of ours
            continue
        if over:
            found.append(path)
    return found


def open_orders(directory: Path, keep: bool = False) -> int | None:
    """Return a descriptor for orders to the program of a directory, None if it has ended.

    Args:
        directory: The program's.
        keep: Whether to return it open; else it is closed and -1 returned.
    """
    try:
        descriptor = os.open(directory / ORDERS, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody has its other end
        return None
    if keep:
        return descriptor
    os.close(descriptor)
    return -1


def new_directory(base: Path, name: str, files: dict[str, str]) -> tuple[Path, list[int]]:
    """Make the private directory of a program.

    Args:
        base: Where.
        name: How its own name begins.
        files: Their contents by path.

    Returns:
        The directory, and both ends of its pipe for orders: as long as they are open, the
        directory is in use.
    """
    made = base / f".new-{secrets.token_hex(8)}"
    final = base / f"{name}-{secrets.token_hex(4)}"
    try:
        made.mkdir(mode=0o700)
        for part in ("security", "log", "state", "pid"):
            (made / part).mkdir(mode=0o700)
        for where, text in files.items():
            descriptor = os.open(made / where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        (made / "host").write_text(host_id(), "utf-8")
        os.mkfifo(made / ORDERS, 0o600)
        ends = [os.open(made / ORDERS, os.O_RDONLY | os.O_NONBLOCK)]
        ends.append(os.open(made / ORDERS, os.O_WRONLY))  # or the last writer would end it
        made.rename(final)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        give_up("directory", f"cannot make a directory in {base}: {error.strerror}")
    return final, ends


# ---------------------------------------------------------------------------- packages


def packages(base: Path, digest: str) -> Path:
    """Return where the packages with a digest are, or would be."""
    return base / f"packages-{digest}"


def unpack(base: Path, digest: str, archive: bytes) -> None:
    """Put packages where programs of this user find them."""
    made = base / f".new-{secrets.token_hex(8)}"
    try:
        made.mkdir(mode=0o700)
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            tar.extractall(made, filter="data")
        made.rename(packages(base, digest))
    except FileExistsError:
        shutil.rmtree(made, ignore_errors=True)
    except (OSError, tarfile.TarError) as error:
        shutil.rmtree(made, ignore_errors=True)
        if not packages(base, digest).is_dir():  # else another one was faster
            give_up("directory", f"cannot unpack ipkernel in {base}: {error}")


# --------------------------------------------------------------------------- a program


class Program:
    """A program in its directory, from its start until nothing is left.

    Args:
        order: What the launcher wants.
        base: Where directories are.
        commands: Where further orders come from.
        detached: Called when it does without the connection from there on.
    """

    def __init__(
        self,
        order: dict[str, Any],
        base: Path,
        commands: Orders,
        detached: Callable[[], object] = lambda: None,
    ) -> None:
        self._order = order
        self._commands = commands
        self._detached = detached
        self._attached = True
        self.directory, ends = new_directory(base, order["name"], order["files"])
        self._ends = ends
        self._pipe = Orders(ends[0])
        self._wake, self._woken = os.pipe()
        self._deadline: float | None = None
        self._loud = 0
        self._pending = b""
        self._silent = False

    def run(self) -> int:
        """Start it and stay with it; return how it ended."""
        try:
            return self._run()
        finally:
            for descriptor in self._ends:
                os.close(descriptor)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self) -> int:
        order = self._order
        words = [
            one if isinstance(one, str) else str(self.directory / one["at"])
            for one in order["arguments"]
        ]
        try:
            with self._open_errors() as errors:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", order["module"], *words, "--lifeline"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=self._environment(),
                    bufsize=0,
                    start_new_session=True,
                )
        except OSError as error:
            give_up("start", f"cannot start {order['module']}: {error.strerror}")
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            signal.signal(getattr(signal, name), lambda *_: write_all(self._woken, b"s"))
        say("@started", directory=str(self.directory))
        threading.Thread(target=self._await, daemon=True).start()
        try:
            self._obey(self._commands)  # what came in one piece with the first order
            while self._turn():
                pass
        finally:
            code = self._finish()
        return code

    def _open_errors(self) -> IO[bytes]:
        """Return where the standard error goes: a program that stays holds no connection open."""
        if self._order["detach"] == "leave":
            return open(self.directory / "log" / "program.err", "wb", buffering=0)
        return os.fdopen(os.dup(2), "wb", buffering=0)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, **self._order["environment"], "SPT_NOENV": "1"}
        if self._order["packages"]:
            path = packages(self.directory.parent, self._order["packages"])
            os.utime(path)
            known = environment.get("PYTHONPATH", "").split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, known)])
        return environment

    def _await(self) -> None:
        self._child.wait()
        write_all(self._woken, b"e")

    def _turn(self) -> bool:
        """Wait until something happens, and do what follows; False when it has ended."""
        assert self._child.stdout is not None
        output = self._child.stdout.fileno()
        watched = [self._wake, self._pipe.descriptor, *([] if self._silent else [output])]
        if self._attached and not self._commands.ended:
            watched.append(self._commands.descriptor)
        patience = None
        if self._deadline is not None:
            patience = max(0.0, self._deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], patience)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._insist()
        if output in ready:
            self._relay(os.read(output, 65536))
        for source in (self._commands, self._pipe):
            if source.descriptor in ready:
                source.fill()
                self._obey(source)
        if self._wake in ready:
            if b"e" in os.read(self._wake, 64):
                return False
            self.stop()
        return True

    def _relay(self, data: bytes) -> None:
        """Pass on what the program says."""
        self._silent = not data
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            ready = is_ready(line)
            if ready:
                self._send_files()
            if self._attached:
                write_all(1, line + b"\n")
            if ready and self._order["detach"] == "leave":
                self._detach()

    def _send_files(self) -> None:
        found = {
            where: (self.directory / where).read_text("utf-8") for where in self._order["send"]
        }
        if found:
            say("@files", files=found)

    def _detach(self) -> None:
        """Let go of the connection; from here on orders come by the pipe only."""
        self._attached = False
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.close(nowhere)
        self._detached()

    def _obey(self, source: Orders) -> None:
        while (order := source.whole()) is not None:
            if order["act"] == "stop":
                self.stop()
            elif order["act"] == "signal":
                self._signal(order["name"], group=order["group"])
        if source is self._commands and source.ended and not self._order["detach"]:
            self.stop()

    def _signal(self, name: str, *, group: bool) -> None:
        if self._child.returncode is not None:
            return
        number = signal.Signals[name]
        try:
            if group:
                os.killpg(self._child.pid, number)
            else:
                os.kill(self._child.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def stop(self) -> None:
        """Ask the program to end in good order."""
        if self._deadline is None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._deadline = time.monotonic() + ORDERLY

    def _insist(self) -> None:
        self._loud += 1
        self._signal("SIGTERM" if self._loud == 1 else "SIGKILL", group=True)
        self._deadline = time.monotonic() + TERMINATE

    def _finish(self) -> int:
        """Pass on the rest; if it has failed, show the end of its log."""
        assert self._child.stdout is not None
        output = self._child.stdout.fileno()
        while select.select([output], [], [], 0)[0] and (data := os.read(output, 65536)):
            self._relay(data)
        code = self._child.wait()
        if code and self._attached:
            logs = (self.directory / "log").iterdir()
            for log in sorted(one for one in logs if not one.name.startswith("ipengine")):
                lines = log.read_text("utf-8", "replace").splitlines()[-TAIL:]
                write_all(2, "".join(f"{line}\n" for line in lines).encode())
        if self._attached:
            say("@ended", code=code)
        return 128 - code if code < 0 else code


def is_ready(line: bytes) -> bool:
    """Tell whether a line of a program's output says that it is ready."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("event") == "ready"


def run_detaching(order: dict[str, Any], base: Path, commands: Orders) -> int:
    """Have a process of its own stay with the program, and leave when that one does not need us."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()

        def detached() -> None:
            write_all(writing, b"d")
            os.close(writing)

        return Program(order, base, commands, detached).run()
    os.close(writing)
    if os.read(reading, 1):
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ------------------------------------------------------------- orders for other programs


def tell(order: dict[str, Any]) -> None:
    """Give the program of a directory an order, and wait for its end if that is wanted."""
    directory = Path(order["directory"])
    descriptor = open_orders(directory, keep=True)
    there = descriptor is not None
    if descriptor is not None:
        try:
            if order["order"]:
                text = json.dumps(order["order"]).encode()
                there = write_all(descriptor, b"%d\n%s" % (len(text), text))
        finally:
            os.close(descriptor)
    deadline = time.monotonic() + order["wait"]
    while there and order["wait"]:
        there = open_orders(directory) is not None
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    say("@told", there=there)


def main() -> int:
    """Do what the launcher wants."""
    os.umask(0o077)
    say("@here")
    commands = Orders()
    try:
        while True:
            order = commands.next()
            act = order["act"]
            if act == "check":
                check(order)
            elif act == "reach":
                say("@reached", reached=reached(order["places"]))
            elif act == "tell":
                tell(order)
                return 0
            elif act in ("stop", "signal"):  # there is nothing yet that they could be for
                return 0
            else:
                base = base_directory(order["base"])
                if act == "have":
                    say("@has", there=packages(base, order["digest"]).is_dir())
                elif act == "push":
                    unpack(base, order["digest"], commands.take(order["size"]))
                    say("@has", there=True)
                elif order["detach"] == "leave":
                    return run_detaching(order, base, commands)
                else:
                    return Program(order, base, commands).run()
    except EOFError:
        return 4


if __name__ == "__main__":
    sys.exit(main())
