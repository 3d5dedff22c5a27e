"""Processes that user code forks off an engine: how signals reach them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, threading
from ipkernel.engine.interrupts import reset_when_forked

early = []

def become():
    if early:  # it is not yet what it is to be
        os.kill(os.getpid(), early[0])

signal.signal(signal.SIGTERM, lambda number, frame: None)
reset_when_forked(become)

def forked():
    pid = os.fork()
    if not pid:
        handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        usual = handlers == (signal.SIG_DFL, signal.default_int_handler)
        os._exit(0 if usual and not signal.pthread_sigmask(signal.SIG_BLOCK, ()) else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

forked()
thread = threading.Thread(target=forked)
thread.start()
thread.join()
early.append(signal.SIGTERM)
forked()
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGTERM).__name__)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can fork here")
def test_a_signal_that_comes_at_once_is_not_lost():
    quiet = ("-W", "ignore::DeprecationWarning")  # Python's, of threads in one that forks
    command = [sys.executable, *quiet, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["0", "0", "-15", "set() <lambda>"], "")
