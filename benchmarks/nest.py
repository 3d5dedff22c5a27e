"""Runs one command so that nothing of it outlives it: ``nest.py LIMIT GRACE command...``.

The nest is a session of its own and the *subreaper* of all that starts below it: whatever
becomes a daemon is handed to the nest by the kernel, whether or not it changed its session,
environment or title. So its descendants are exactly the processes of the run. When the command
has ended, they get ``GRACE`` seconds to end by themselves; what is left then is killed. After
``LIMIT`` seconds, on SIGTERM, when the driver dies, and on SIGUSR1, by which the command says that
too little memory is left, all are killed at once.

It prints one JSON line before the command starts (``{"t0": ...}``, seconds of the monotonic
clock, which is the same for all processes) and one when all is over (``{"nest": ...}``).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from types import FrameType

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import proc

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1)
"""The signals that end the run."""
KILL_LIMIT = 15.0
"""Seconds for which killed processes may take to vanish before the nest gives up on them."""


class Ended(Exception):
    """The nest was told to end the run; the text says by whom."""


def _end(signum: int, frame: FrameType | None) -> None:
    del frame
    why = {signal.SIGALRM: "time limit", signal.SIGUSR1: "too little memory was left"}
    raise Ended(why.get(signal.Signals(signum), signal.Signals(signum).name))


def _say(message: dict[str, object]) -> None:
    # One write: lines of the command, which shares this pipe, must not get in between.
    os.write(1, (json.dumps(message) + "\n").encode())


def _reap_until_alone(deadline: float) -> bool:
    """Reap what ends until no child is left (True) or the deadline passes (False)."""
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.002)
    return False


def _kill_all() -> int:
    """Kill every descendant and reap them all; return how many processes were killed."""
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_LIMIT
    while time.monotonic() < deadline:
        for pid in proc.living(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        if _reap_until_alone(time.monotonic() + 0.1):
            break
    return len(killed)


def _run(command: list[str], grace: float) -> dict[str, object]:
    """Run the command, wait for it, then for what it left; return the report."""
    _say({"t0": time.monotonic()})
    child = subprocess.Popen(command)
    code: int | None = None
    while code is None:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            code = child.returncode = os.waitstatus_to_exitcode(status)
    alone = _reap_until_alone(time.monotonic() + grace)
    return {"exit": code, "alone": alone, "gone": time.monotonic()}


def main(arguments: list[str]) -> int:
    """Run ``arguments`` = [limit in seconds, grace in seconds, command...]; return the exit code."""
    limit, grace, command = float(arguments[0]), float(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_CHILD_SUBREAPER, 1), (PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed: benchmarks need Linux")
    for signum in ENDING:
        signal.signal(signum, _end)
    signal.setitimer(signal.ITIMER_REAL, limit)
    report: dict[str, object]
    try:
        report = _run(command, grace)
    except Ended as ended:
        report = {"exit": None, "ended": str(ended)}
    for signum in ENDING:
        signal.signal(signum, signal.SIG_IGN)
    report["killed"] = _kill_all()
    _say({"nest": report})
    return 0 if report["exit"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
