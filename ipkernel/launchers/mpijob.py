"""Keeps an MPI job going: ``python -m ipkernel.launchers.mpijob <options> -- mpiexec ...``.

It runs the job's launcher, tells its own parent in one voice what the host daemons of the job tell,
and starts the job again when it has failed. Why it has ended it writes into a file that the host
daemons read, which are there a little longer than the ranks: so each engine's error can say it.
What becomes of the job is decided in :mod:`ipkernel.launchers.mpicourse`.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from ipkernel.cli.process import Lifeline, emit, set_title
from ipkernel.cluster.pidfile import PidFile
from ipkernel.cluster.processes import read_pid_file
from ipkernel.engine.rank import JOB
from ipkernel.launchers.mpicourse import Action, Begin, Course, EndIt, Finish, Judge, Tell

__all__ = ["main"]

#: Seconds from a SIGTERM for the job's launcher to a SIGKILL.
INSIST: Final = 3.0
#: Seconds that pipes may stay open after the end of the job's launcher.
PIPES: Final = 1.0
#: Seconds that the host daemons may take to end after their ranks, and between looks.
DAEMONS: Final = 10.0
LOOK: Final = 0.02


class Keeper:
    """Runs one job after the other, as a course has it.

    Args:
        directory: The cluster directory.
        command: The command line of the job's launcher.
        course: Decides.
    """

    def __init__(self, directory: Path, command: Sequence[str], course: Course) -> None:
        self._directory = directory
        self._command = list(command)
        self._course = course
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._verdict: Path | None = None
        self._daemons: list[Path] = []
        self._begin_at: float | None = 0.0
        self._end_at: float | None = None
        self._look_at: float | None = None
        self._daemons_until = 0.0
        self._killing = False
        self._code: int | None = None

    def stop(self) -> None:
        """Want no more of it; may be called from any thread, and from signal handlers."""
        self._events.put(("stop", None))

    def run(self) -> int:
        """Keep it going; return the exit code."""
        try:
            while self._code is None or self._daemons_left():
                self._do_what_is_due()
                try:
                    kind, value = self._events.get(timeout=self._patience())
                except queue.Empty:
                    continue
                self._take(kind, value)
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            self._forget_verdict()
        return self._code

    def _patience(self) -> float | None:
        begin_at = self._begin_at if self._look_at is None else None
        due = [at for at in (begin_at, self._end_at, self._look_at) if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._look_at is not None and self._look_at <= now:
            self._look_at = now + LOOK if self._daemons_left() else None
        if self._begin_at is not None and self._begin_at <= now and self._look_at is None:
            self._begin_at = None
            self._begin()
        if self._end_at is not None and self._end_at <= now:
            self._end_at = None
            self._end()

    def _take(self, kind: str, value: Any) -> None:
        course = self._course
        if kind == "stop":
            self._follow(course.stop())
            if self._process is None:
                self._begin_at, self._code = None, 0
        elif kind == "line":
            self._line(value)
        elif kind == "text":
            course.complained(value)
        elif kind == "ended":
            self._ended(value)

    def _follow(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Begin):
                self._begin_at = time.monotonic() + action.seconds
            elif isinstance(action, EndIt):
                at = time.monotonic() + action.seconds
                if self._process is not None and not self._killing:
                    self._end_at = at if self._end_at is None else min(at, self._end_at)
            elif isinstance(action, Judge):
                self._write_verdict(action.text)
            elif isinstance(action, Tell):
                emit(str(action.event["event"]), **_without_name(action.event))
            elif isinstance(action, Finish):
                self._code = action.code

    # ------------------------------------------------------------- the job

    def _begin(self) -> None:
        token = secrets.token_hex(32)
        self._forget_verdict()
        name = sha256(f"verdict {token}".encode()).hexdigest()[:16]
        self._verdict = self._directory / "state" / f"mpi-{name}.json"
        self._daemons = []
        self._killing = False
        job = json.dumps({"token": token, "verdict": str(self._verdict)})
        tied = [sys.executable, "-P", "-m", "ipkernel.launchers.tied", str(os.getpid())]
        self._process = subprocess.Popen(
            [*tied, *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, JOB: job},
            bufsize=0,
        )
        threading.Thread(target=self._wait, args=(self._process,), daemon=True).start()
        self._follow(self._course.begun())

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Read what a job's launcher writes, and wait for its end; in a thread of its own."""
        readers = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in ((self._read_out, process.stdout), (self._read_err, process.stderr))
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            reader.join(PIPES)
        self._events.put(("ended", code))

    def _read_out(self, stream: IO[bytes]) -> None:
        pending = b""
        with stream:
            while data := stream.read(65536):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._events.put(("line", line))

    def _read_err(self, stream: IO[bytes]) -> None:
        with stream:
            while data := stream.read(65536):
                with suppress(OSError):
                    os.write(2, data)
                self._events.put(("text", data.decode("utf-8", "replace")))

    def _line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            with suppress(OSError):
                os.write(2, line + b"\n")
            self._course.complained(line.decode("utf-8", "replace") + "\n")
            return
        if event["event"] == "ranks":
            name = f"ipdaemon-{event.get('host')}-{event.get('pid')}.json"
            self._daemons.append(self._directory / "pid" / name)
            return
        self._follow(self._course.heard(event, time.monotonic()))

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        self._course.told_to_end()
        if self._killing:
            process.kill()
            return
        self._killing = True
        process.terminate()
        self._end_at = time.monotonic() + INSIST

    def _ended(self, code: int) -> None:
        self._process = None
        self._end_at = None
        self._follow(self._course.ended(code, time.monotonic()))
        self._daemons_until = time.monotonic() + DAEMONS
        self._look_at = 0.0

    def _daemons_left(self) -> bool:
        """Tell whether host daemons of a job that has ended are still there, and in good time."""
        return any(map(_is_there, self._daemons)) and time.monotonic() < self._daemons_until

    # --------------------------------------------------------- the verdict

    def _write_verdict(self, text: str) -> None:
        path = self._verdict
        if path is None:
            return
        temporary = path.with_name(f".{path.name}")
        with suppress(OSError):  # then the host daemons say what they know themselves
            temporary.write_text(json.dumps({"text": text[:4000]}), encoding="utf-8")
            temporary.replace(path)

    def _forget_verdict(self) -> None:
        if self._verdict is not None:
            with suppress(OSError):
                self._verdict.unlink()
            self._verdict = None


def _without_name(event: Any) -> dict[str, Any]:
    return {str(name): value for name, value in event.items() if name != "event"}


def _is_there(pid_file: Path) -> bool:
    process = read_pid_file(pid_file)
    return process is not None and process.alive


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ipkernel.launchers.mpijob", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--cluster-dir", required=True, type=Path, metavar="DIR")
    parser.add_argument("--cluster", default="", metavar="NAME")
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many ranks")
    parser.add_argument("--lifeline", action="store_true", help="end when the standard input ends")
    parser.add_argument("command", nargs="+", help="the job's command line, after --")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep a job going.

    Args:
        arguments: The command line; by default that of the process.

    Returns:
        The exit code: 0 if it was stopped or has ended in good order, 1 otherwise.
    """
    chosen = parse(arguments)
    keeper = Keeper(chosen.cluster_dir, chosen.command, Course(chosen.n, chosen.command[0]))
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda number, frame: keeper.stop())
    set_title(f"ipkernel mpi [{chosen.cluster}]" if chosen.cluster else "ipkernel mpi")
    pids = chosen.cluster_dir / "pid"
    pids.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid_file = PidFile(pids / f"mpi-{socket.gethostname()}-{os.getpid()}.json")
    pid_file.claim(chosen.cluster, "mpi")
    if chosen.lifeline:
        Lifeline(keeper.stop).start()
    try:
        return keeper.run()
    finally:
        pid_file.remove()


if __name__ == "__main__":
    sys.exit(main())
