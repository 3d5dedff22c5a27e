"""ipyparallel between machines: the controller, two engines, the client; signed, not encrypted.

Run with ``FILE ACTION SECONDS`` it is the client.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.hosts import peers
from benchmarks.hosts.lab import Lab, isolate, wait_for_file
from benchmarks.hosts.peers import Figures


def figures(bound: float, quick: bool) -> Figures:
    """Yield the figures; the arguments are those of `ipkernel_.figures`."""
    del quick  # what it has is small
    isolate()
    with tempfile.TemporaryDirectory(prefix="hosts-", dir=".") as name:
        directory = Path(name).resolve()
        profile = directory / "profile"
        with Lab(peers.MACHINES, directory) as lab:
            address = lab.address("ctl")
            controller = lab.serve(
                *("ctl", "-m", "ipyparallel.controller", f"--profile-dir={profile}"),
                *(f"--ip={address}", f"--location={address}"),
            )
            copies = {}
            for end in ("engine", "client"):
                written = profile / "security" / f"ipcontroller-{end}.json"
                wait_for_file(written, controller)
                copies[end] = shutil.copy(written, directory)
            (directory / "engine").mkdir()
            engines = [
                lab.serve(
                    *("h1", "-m", "ipyparallel.engine", f"--file={copies['engine']}"),
                    f"--profile-dir={directory / 'engine'}",
                )
                for _ in range(peers.WORKERS)
            ]
            script = ("-m", "benchmarks.hosts.ipyparallel_", copies["client"])
            yield from peers.figures_of(lab, controller, engines, *script, bound=bound)


def main(file: str, action: str, seconds: str) -> None:
    """Be the client."""
    ipp: Any = importlib.import_module("ipyparallel")
    with ipp.Client(file, timeout=30) as client:
        client.wait_for_engines(peers.WORKERS, timeout=30, interactive=False)
        view = client[0]

        def push(array: Any) -> None:
            view.push({"bench_a": array}, block=True)
            view.execute(workload.TOUCH_STATEMENT, block=True)

        view.execute("import numpy", block=True)
        peer = peers.Peer(
            push,
            lambda: view.pull("bench_a", block=True),
            lambda: client[1].apply_sync(workload.noop),
        )
        peers.ACTIONS[action](peer, float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
