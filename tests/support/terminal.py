"""ipcluster as people run it: in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

COMMAND = [sys.executable, "-m", "ipkernel.cli.ipcluster"]


class Terminal:
    """ipcluster, or another command, in a terminal of its own."""

    def __init__(self, *arguments, command=COMMAND, env=None):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""

    def read_until(self, text, seconds=30):
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.master, 65536).decode()
                except OSError:
                    break
        assert text in self.shown

    def press(self, keys):
        os.write(self.master, keys)

    def end(self):
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``ipcluster`` without a terminal, to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def good(*arguments: str) -> str:
    """Run ``ipcluster``, which must succeed and complain of nothing; return what it prints."""
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
