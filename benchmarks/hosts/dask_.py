"""dask.distributed between machines, with TLS: the scheduler, two workers, the client.

Run with ``SCHEDULER CERTIFICATE KEY ACTION SECONDS`` it is the client.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.hosts import certificates, peers
from benchmarks.hosts.lab import Lab, isolate
from benchmarks.hosts.peers import Figures

PORT = 8786


def figures(bound: float, quick: bool) -> Figures:
    """Yield the figures; the arguments are those of `ipkernel_.figures`."""
    del quick  # what it has is small
    isolate()
    with tempfile.TemporaryDirectory(prefix="hosts-", dir=".") as name:
        directory = Path(name).resolve()
        files = certificates.make(directory)
        tls = (
            *("--tls-ca-file", files.certificate, "--tls-cert", files.certificate),
            *("--tls-key", files.key, "--protocol", "tls", "--no-dashboard"),
        )
        with Lab(peers.MACHINES, directory) as lab:
            scheduler = f"tls://{lab.address('ctl')}:{PORT}"
            controller = lab.serve(
                *("ctl", "-m", "distributed.cli.dask_scheduler", *tls),
                *("--host", lab.address("ctl"), "--port", PORT),
            )
            worker = lab.serve(
                *("h1", "-m", "distributed.cli.dask_worker", scheduler, *tls),
                *("--host", lab.address("h1"), "--nthreads", 1, "--local-directory", directory),
                *("--nworkers", peers.WORKERS),
            )
            script = ("-m", "benchmarks.hosts.dask_", scheduler, *files)
            yield from peers.figures_of(lab, controller, [worker], *script, bound=bound)


def main(scheduler: str, certificate: str, key: str, action: str, seconds: str) -> None:
    """Be the client."""
    distributed: Any = importlib.import_module("distributed")
    security = distributed.Security(
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=key,
        require_encryption=True,
    )
    with distributed.Client(scheduler, security=security, timeout=30) as client:
        client.wait_for_workers(peers.WORKERS, timeout=30)
        first, other = sorted(client.scheduler_info(n_workers=-1)["workers"])
        kept: list[Any] = [None]

        def push(array: Any) -> None:
            kept[0] = client.scatter(array, workers=[first], hash=False)
            client.submit(workload.touch, kept[0], workers=[first], pure=False).result()

        def noop() -> None:
            client.submit(workload.noop, workers=[other], pure=False).result()

        peer = peers.Peer(push, lambda: kept[0].result(), noop)
        peers.ACTIONS[action](peer, float(seconds))
        kept.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
