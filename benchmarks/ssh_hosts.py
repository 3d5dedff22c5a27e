"""``python -m benchmarks.ssh_hosts``: how long engines on many hosts of ssh take to be there.

Hosts are network namespaces with a real ssh server each, all on this machine, so its cores are shared
by everything on both sides. What ssh itself needs, logging in to all hosts at once and running
nothing, is measured beside it: the difference is what ipkernel costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import sshsite

_START = """
import json, sys, time
from ipkernel import Cluster

if __name__ == "__main__":
    hosts, options, directory = map(json.loads, sys.argv[1:])
    events = []
    began = time.monotonic()

    def note(program, event):
        events.append((time.monotonic() - began, event["event"]))

    with Cluster(hosts=hosts, ssh=options, cluster_dir=directory, on_event=note) as rc:
        took = time.monotonic() - began
        count = len(rc[:].apply_sync(int))
        stopping = time.monotonic()
    print(json.dumps({
        "engines": count,
        "start": took,
        "stop": time.monotonic() - stopping,
        "last": {name: max(t for t, n in events if n == name) for _, name in events},
    }))
"""


def logins(site: sshsite.SshSite, hosts: Sequence[str]) -> float:
    """Return the seconds that ssh takes to log in to all hosts at once."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            site.command("ssh", "-F", site.ssh_config, "-T", host, "true"),
            stdin=subprocess.DEVNULL,
        )
        for host in hosts
    ]
    if any(process.wait() for process in running):
        raise RuntimeError("ssh cannot log in")
    return time.monotonic() - began


def start(
    site: sshsite.SshSite, hosts: Sequence[str], engines: int, number: int
) -> dict[str, float]:
    """Return what a cluster with so many engines on each host takes."""
    given = (
        [f"{host}:{engines}" for host in hosts],
        site.options(),
        str(site.directory / f"cluster-{number}"),
    )
    done = subprocess.run(
        site.command(sys.executable, "-c", _START, *map(json.dumps, given)),
        env=site.environment(),
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ssh_hosts", description=__doc__)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--engines", type=int, default=4, help="on each host")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if why := sshsite.missing():
        parser.exit(1, f"{why}\n")
    names = [f"h{number}" for number in range(options.hosts)]
    with tempfile.TemporaryDirectory() as directory:
        with sshsite.SshSite(Path(directory) / "site", {name: [] for name in names}) as site:
            logins(site, names)
            starts, ssh = [], []
            for number in range(options.rounds):
                ssh.append(logins(site, names))
                starts.append(start(site, names, options.engines, number))
                print(json.dumps({"logins": ssh[-1], **starts[-1]}), flush=True)
    took, alone = statistics.median(one["start"] for one in starts), statistics.median(ssh)
    print(
        f"{options.hosts} hosts x {options.engines} engines: {took:.2f} s, of which ssh's logins "
        f"{alone:.2f} s; {took - alone:.2f} s beyond them"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
