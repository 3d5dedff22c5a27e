"""Clusters over machines that are network namespaces: what runs there, and what goes over their links."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.integration.faults_support import PATIENCE, Program, command, marked_with, wait_for
from tests.support import leaks
from tests.support.netns import Network

#: Seconds that a job may take that moves gigabytes while others use the processor.
LONG = 150.0
#: Where the controller listens.
PORT = 4711


class Refused(Exception):
    """A job of a client has failed.

    Args:
        kind: The name of the exception's type, there.
        text: What it said.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Station(Program):
    """A client of the cluster on a machine of its own; it does jobs of :mod:`.hosts_jobs`."""

    def start(self, job: Any, *arguments: Any) -> None:
        """Have it do a job; there may be one at a time."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([job.__name__, arguments]).encode() + b"\n")

    def answer(self, seconds: float = LONG) -> Any:
        """Return what the job has returned; raise Refused if it has failed."""
        answer = json.loads(self.line(seconds))
        if "kind" in answer:
            raise Refused(answer["kind"], answer["text"])
        return answer["value"]

    def do(self, job: Any, *arguments: Any) -> Any:
        """Have it do a job and wait for the end."""
        self.start(job, *arguments)
        return self.answer()

    def leave(self) -> None:
        """Have it end in good order."""
        code, out, err = self.end()
        assert (code, out) == (0, ""), err

    def refusal(self) -> Refused:
        """Return how the job has failed; it must."""
        try:
            value = self.answer()
        except Refused as refused:
            return refused
        raise AssertionError(f"it has not failed: {value!r}")


class Site:
    """A controller and host daemons, each on a machine of its own, and clients.

    Args:
        net: The machines; the controller is on ``ctl``.
        directory: For the cluster's files.
        cookie: Marks all processes.
    """

    def __init__(self, net: Network, directory: Path, cookie: str) -> None:
        self.net = net
        self.directory = directory / "cluster"
        self._cookie = cookie
        self._programs = contextlib.ExitStack()
        self._spill = tempfile.mkdtemp(dir=directory)
        self.daemons: dict[str, Program] = {}
        self.controller: Program

    def run(self, machine: str, words: Sequence[Any], kind: type[Program] = Program) -> Any:
        """Run a program on a machine until the end of the site."""
        program = kind(*self.net.command(machine, *words), **{leaks.COOKIE: self._cookie})
        return self._programs.enter_context(program)

    def start_controller(self, switches: Sequence[str]) -> None:
        """Start the controller; it can be reached at some switches."""
        addresses = [f"tcp:{self.net.address('ctl', switch)}:{PORT}" for switch in switches]
        options = ["--interface", "0.0.0.0", "--port", PORT, "--location", ",".join(addresses)]
        self.controller = self.run(
            "ctl", command("ipcontroller", "--cluster-dir", self.directory, *options)
        )
        assert json.loads(self.controller.line())["event"] == "ready"

    def start_host(self, machine: str, *options: Any, before: str = "true", n: int = 1) -> None:
        """Start a host daemon.

        Args:
            machine: Where.
            options: For its command line.
            before: What a shell does there first.
            n: How many engines it has.
        """
        furl = self.directory / "security" / "ipcontroller-engine.furl"
        options = ("-n", n, "--spill-dir", self._spill, *options)
        words = command("ipengine", "--furl-file", furl, "--wait", PATIENCE, *options)
        # The machine has a name of its own, by which errors call it.
        script = f'echo "$0" > /proc/sys/kernel/hostname && {before} && exec "$@"'
        words = ["unshare", "--uts", "sh", "-c", script, machine, *words]
        self.daemons[machine] = self.run(machine, words)

    def client(self, machine: str = "client", engines: int = 1) -> Station:
        """Return a new client that knows of so many engines."""
        furl = self.directory / "security" / "ipcontroller-client.furl"
        words = [sys.executable, "-m", "tests.integration.hosts_jobs", furl, engines]
        station: Station = self.run(machine, words, Station)
        assert json.loads(station.line()) == "ready"
        return station

    def close(self) -> None:
        """End everything; nothing may be left."""
        for program in [*self.daemons.values(), self.controller]:
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGCONT)
                program.process.terminate()
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(d.process.poll() is not None for d in self.daemons.values()), 10)
        self._programs.close()
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not marked_with(self._cookie), 10)
        left = marked_with(self._cookie)
        names = [" ".join(process.cmdline()) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        assert not left, f"left behind: {names}"
        shutil.rmtree(self._spill)


@contextlib.contextmanager
def site(
    directory: Path, hosts: Sequence[str], *options: Any, relayed: bool = False, **more: Any
) -> Iterator[Site]:
    """Run a cluster whose hosts, controller and client are machines of their own.

    Args:
        directory: For the cluster's files.
        hosts: Names of the machines with host daemons.
        options: For the command lines of the daemons.
        relayed: Whether clients and hosts have no switch in common, only the controller.
        more: For :meth:`Site.start_host`.
    """
    front, back = ("front", "back") if relayed else ("lan", "lan")
    switches = sorted({front, back})
    machines = {"ctl": switches, "client": [front], **{host: [back] for host in hosts}}
    with Network(machines) as net:
        made = Site(net, directory, secrets.token_hex(16))
        try:
            made.start_controller(switches)
            for host in hosts:
                made.start_host(host, *options, **more)
            yield made
        finally:
            made.close()


def link_bytes(program: Program) -> tuple[int, int]:
    """Return how many bytes the machine of a program has received and sent on its links."""
    text = Path(f"/proc/{program.pid}/net/dev").read_text()
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        if name.strip() != "lo":
            fields = numbers.split()
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def sent_by(program: Program) -> int:
    """Return how many bytes the machine of a program has sent."""
    return link_bytes(program)[1]


def received_by(program: Program) -> int:
    """Return how many bytes the machine of a program has received."""
    return link_bytes(program)[0]


def peak(program: Program) -> int:
    """Return how many bytes of memory a program has had at most."""
    for line in Path(f"/proc/{program.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


def sizes_that_fit(wanted: int, copies: int) -> int:
    """Return ``wanted`` bytes, or as much less as this machine's memory needs for ``copies`` of it."""
    return min(wanted, psutil.virtual_memory().available * 3 // 4 // copies)
