"""Machines for one run: network namespaces, and the processes in them."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.envs import ROOT
from benchmarks.systems.adapter import Unsupported
from tests.support import netns

CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
ENDING = 10.0
"""Seconds that a process has to end after it was told to."""
READY = 30.0
"""Seconds that a system's processes have to be there."""

Reports = list[dict[str, Any]]


def isolate() -> None:
    """Give this process file systems of its own, so that its namespaces end with it.

    A namespace made by ``ip netns`` is a mount. In a mount namespace of our own, the kernel removes
    all of them when the last process of the run has ended, however it ended.

    Raises:
        Unsupported: there can be no network namespaces here.
    """
    why = netns.missing()
    if why:
        raise Unsupported(why)
    libc = ctypes.CDLL(None, use_errno=True)
    os.makedirs("/run/netns", exist_ok=True)
    if (
        libc.unshare(CLONE_NEWNS) != 0
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0
        or libc.mount(b"tmpfs", b"/run/netns", b"tmpfs", 0, None) != 0
    ):
        raise Unsupported(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")


class Lab:
    """Machines joined by switches, and what runs on them; all of it ends with the context.

    Args:
        machines: The switches of each machine.
        directory: For files of the run.

    Attributes:
        directory: The same.
    """

    def __init__(self, machines: Mapping[str, Sequence[str]], directory: Path) -> None:
        self.directory = directory
        self._net = netns.Network(machines)
        self._processes: list[subprocess.Popen[str]] = []
        self.address = self._net.address

    def __enter__(self) -> Lab:
        try:
            self._net.__enter__()
        except RuntimeError as error:
            raise Unsupported(f"no network namespaces: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes):
            self.stop(process)
        self._net.__exit__(kind, error, traceback)

    def start(self, machine: str, *words: Any) -> subprocess.Popen[str]:
        """Start this interpreter with ``words`` on a machine; what it prints on errors is kept."""
        errors = tempfile.NamedTemporaryFile(  # noqa: SIM115
            "w", dir=self.directory, prefix=f"{machine}-", suffix=".txt", delete=False
        )
        with errors:
            process = subprocess.Popen(
                self._net.command(machine, sys.executable, *words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                text=True,
            )
        process.errors = Path(errors.name)  # type: ignore[attr-defined]
        self._processes.append(process)
        return process

    def serve(self, machine: str, *words: Any) -> subprocess.Popen[str]:
        """Start what runs until the end, and whose output is of no interest."""
        process = self.start(machine, *words)
        assert process.stdout is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return process

    def run(self, machine: str, *words: Any, limit: float) -> Reports:
        """Run a script on a machine; return the JSON objects that it printed.

        Raises:
            Unsupported: it failed, or did not end in time.
        """
        return self.finish(self.start(machine, *words), limit)

    def finish(self, process: subprocess.Popen[str], limit: float) -> Reports:
        """Wait for a script; otherwise as `run`."""
        try:
            printed, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.stop(process)
            raise Unsupported(f"took more than {limit:.0f} s") from None
        self._processes.remove(process)
        if process.returncode != 0:
            raise Unsupported(f"failed: {last_line(process) or process.returncode}")
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End a process, politely at first."""
        if process in self._processes:
            self._processes.remove(process)
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def last_line(process: subprocess.Popen[str]) -> str:
    """Return the last line that a process of a lab wrote to its standard error."""
    errors: Path = process.errors  # type: ignore[attr-defined]
    lines = errors.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written a file.

    Raises:
        Unsupported: it has ended, or takes too long.
    """
    end = time.monotonic() + READY
    while not (path.exists() and path.stat().st_size):
        if process.poll() is not None or time.monotonic() > end:
            raise Unsupported(f"{path.name} was not written: {last_line(process)}")
        time.sleep(0.02)


class Peak:
    """Samples a size in a thread; ``highest`` is the largest seen while the context lasted.

    Args:
        measure: Returns the size.
        interval: Seconds between samples.
    """

    def __init__(self, measure: Callable[[], float], interval: float = 0.05) -> None:
        self._measure = measure
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.highest = 0.0

    def __enter__(self) -> Peak:
        self.before = self.highest = self._measure()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """How much larger it became than it was at the beginning."""
        return self.highest - self.before

    def _sample(self) -> None:
        while not self._over.wait(self._interval):
            self.highest = max(self.highest, self._measure())
        self.highest = max(self.highest, self._measure())
