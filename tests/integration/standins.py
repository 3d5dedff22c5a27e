"""Small programs that stand for a controller and a host daemon, so that crashes can be chosen."""

from __future__ import annotations

import sys

from ipkernel.launchers.local import LocalLauncher

PRELUDE = """
import json, os, signal, subprocess, sys, threading, time

def emit(event, **fields):
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\\n")

told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())

def until_told():
    def watch():
        while os.read(0, 100): pass
        told.set()
    if "--lifeline" in sys.argv:
        threading.Thread(target=watch, daemon=True).start()
    told.wait()

def argument(name):
    return sys.argv[sys.argv.index(name) + 1]

def pid_file(role):
    import psutil, socket
    path = os.path.join(argument("--cluster-dir"), "pid", role + ".json")
    with open(path + ".new", "w") as file:
        json.dump({"pid": os.getpid(), "started": psutil.Process().create_time(),
                   "host": socket.gethostname()}, file)
    os.replace(path + ".new", path)
    return path
"""


def standin(program: str, code: str) -> type[LocalLauncher]:
    """Return a launcher class whose program is ``code``."""

    class StandIn(LocalLauncher):
        name = program
        module = "none"

        def command(self) -> list[str]:
            return [sys.executable, "-c", PRELUDE + code, *super().command()[4:]]

    return StandIn


CONTROLLER = """
path = pid_file("ipcontroller")
emit("ready", pid=os.getpid())
until_told()
os.unlink(path)
"""
HOST = """
path = pid_file(f"ipdaemon-h-{os.getpid()}")
count = int(argument("-n"))
emit("registered", engines=list(range(count)))
emit("ready", engines=list(range(count)))
until_told()
os.unlink(path)
"""
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = pid_file(f"ipdaemon-h-{os.getpid()}")
emit("ready", engines=[0])
while True:
    time.sleep(1)
"""

Controller = standin("ipcontroller", CONTROLLER)
Host = standin("ipdaemon", HOST)
Stubborn = standin("ipdaemon", STUBBORN)
