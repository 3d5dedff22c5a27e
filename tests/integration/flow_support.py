"""What tests of files and streams share: clients near and far, flows seen, memory measured."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
from msgspec.structs import replace

from ipkernel.client.client import Client
from ipkernel.client.flows import Flows
from ipkernel.client.stores import Stores
from ipkernel.objects.chunks import chunk_id, decode_note, flow_key, stop_id

#: Seconds in which what is freed at the end of a flow is gone.
SOON = 20
#: Chunks of a flow that are looked for.
CHUNKS = 400


def be_far(monkeypatch, how: str) -> None:
    """Have clients of this process take hosts for near, far, or reachable by the controller only."""
    if how != "near":
        monkeypatch.setattr(Stores, "is_near", lambda self, access: False)
    if how == "relayed":
        far = Stores.far
        monkeypatch.setattr(
            Stores, "far", lambda self, access: far(self, replace(access, hints=[]))
        )


@contextmanager
def connected(directory: Path, engines: int = 2):
    """A client of a cluster, when its engines are there."""
    with Client(cluster_dir=str(directory)) as client:
        client.wait_for_engines(engines, timeout=30, interactive=False)
        client.progress = False
        yield client


def note_flows(monkeypatch) -> list[bytes]:
    """Return a list that gets the key of each flow that is opened for a client of this process."""
    keys: list[bytes] = []
    noted = Flows.noted

    def noting(self, message, payload, record):
        note = decode_note(payload)
        keys.append(flow_key(note.master, message.task, note.attempt))
        noted(self, message, payload, record)

    monkeypatch.setattr(Flows, "noted", noting)
    return keys


def assert_nothing_left(client: Client, keys: list[bytes]) -> None:
    """Fail if there is anything of these flows in the store of any host, and stays there."""
    assert keys, "no flow was opened"
    objects = client._session.objects
    for host in objects.hosts.named(client._session.engines.hosts(client.ids)):
        store = objects.hosts.store(host)
        for key in dict.fromkeys(keys):
            for name in [stop_id(key), *(chunk_id(key, index) for index in range(CHUNKS))]:
                assert store.wait_freed(name, SOON), "something is left in the store"


class Script:
    """Another Python process, which says things and can be told to go on.

    Args:
        text: The program. It has ``say(text)``, ``keys`` (of flows, as hex, one for each ``say``),
            ``wait()`` for :meth:`go_on`, and the arguments in ``sys.argv``.
        arguments: Its arguments.
    """

    PRELUDE = """
import os, sys
import ipkernel as ipp
from tests.integration.flow_support import be_far, connected, note_flows
class Patch:
    setattr = staticmethod(setattr)
keys = note_flows(Patch)
def say(text):
    print(text, *(key.hex() for key in keys), flush=True)
def wait():
    sys.stdin.readline()
"""

    def __init__(self, text: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PRELUDE + text, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.keys: list[bytes] = []

    def hear(self) -> str:
        """Return the next thing it says."""
        line = self.process.stdout.readline()
        assert line, "the script has ended"
        text, *keys = line.split()
        self.keys = [bytes.fromhex(key) for key in keys]
        return text

    def go_on(self) -> None:
        """End its waiting."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def host_processes(client: Client) -> dict[str, int]:
    """Return the process ids of the first engine and of its host daemon."""
    engine = client[0].apply_sync(_pid)
    return {"engine": engine, "daemon": _daemon_of(engine)}


def _pid() -> int:
    import os

    return os.getpid()


def _daemon_of(engine: int) -> int:
    for parent in psutil.Process(engine).parents():
        if any("ipdaemon" in part for part in [parent.name(), *parent.cmdline()]):
            return parent.pid
    raise AssertionError("the engine has no daemon")


def reset_peak(pid: int) -> None:
    """Begin to measure the peak of a process's memory afresh."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory(pid: int) -> tuple[int, int]:
    """Return the resident memory of a process, now and at its peak, in bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(rest.split()[0]) << 10
    return found["VmRSS"], found["VmHWM"]


class Peaks:
    """How much memory processes have used at most in the meantime, beyond what they had before.

    Args:
        pids: The processes, by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        for pid in pids.values():
            reset_peak(pid)
        self._before = {name: memory(pid)[0] for name, pid in pids.items()}

    def growth(self) -> dict[str, int]:
        """Return the growth of each, in MB."""
        return {
            name: (memory(pid)[1] - self._before[name]) >> 20 for name, pid in self._pids.items()
        }
