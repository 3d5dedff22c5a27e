"""ipkernel between machines: directly, through the controller's relay, and to several hosts."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import metrics, proc, stats
from benchmarks.hosts import certificates
from benchmarks.hosts.lab import Lab, Peak, Reports, isolate, wait_for_file
from benchmarks.systems.adapter import Unsupported

HOSTS = ("h1", "h2", "h3", "h4")
ENGINES = 2
PORT = 4711
TOGETHER = dict.fromkeys(("ctl", "client", *HOSTS), ("lan",))
APART = {"ctl": ("left", "right"), "client": ("left",), "h1": ("right",)}
RAW_TIMES = 3

Figures = Iterator[dict[str, object]]


class _Cluster:
    """A controller and hosts in a lab, and how to run clients.

    Args:
        lab: The machines.
        bound: Seconds that one figure may take.
    """

    def __init__(self, lab: Lab, bound: float) -> None:
        self._lab = lab
        self._bound = bound
        self._directory = lab.directory / "cluster"
        self.controller: subprocess.Popen[str]
        self.hosts: dict[str, subprocess.Popen[str]] = {}

    def start(self, switches: tuple[str, ...]) -> None:
        """Start the controller, reachable at some switches."""
        addresses = [self._lab.address("ctl", switch) for switch in switches]
        self.controller = self._lab.serve(
            *("ctl", "-m", "ipkernel.cli.ipcontroller", "--cluster-dir", self._directory),
            *("--interface", addresses[0] if len(addresses) == 1 else "0.0.0.0"),
            *("--port", PORT, "--location", ",".join(f"tcp:{a}:{PORT}" for a in addresses)),
        )
        for end in ("engine", "client"):
            wait_for_file(self._furl(end), self.controller)

    def _furl(self, end: str) -> Path:
        return self._directory / "security" / f"ipcontroller-{end}.furl"

    def join(self, host: str) -> None:
        """Have a host join with its engines, and wait for them."""
        self.hosts[host] = self._lab.serve(
            *(host, "-m", "ipkernel.cli.ipengine", "-n", ENGINES, "--wait", 30),
            *("--furl-file", self._furl("engine")),
            *("--data-interface", self._lab.address(host)),
        )
        self.run("warm", engines=ENGINES * len(self.hosts))

    def begin(self, action: str, **options: Any) -> subprocess.Popen[str]:
        """Start an action of `ipkernel_client` on the client's machine."""
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        script = ("-m", "benchmarks.hosts.ipkernel_client", action)
        return self._lab.start("client", *script, "--cluster-dir", self._directory, *words)

    def run(self, action: str, **options: Any) -> Reports:
        """Run an action of `ipkernel_client`; return what it printed.

        Raises:
            Unsupported: it failed, or took too long.
        """
        return self.finish(self.begin(action, **options))

    def finish(self, process: subprocess.Popen[str]) -> Reports:
        """Wait for an action."""
        return self._lab.finish(process, 2 * self._bound + 30)

    def host_memory(self, host: str) -> float:
        """Return the memory (MB) of a host: its store, and what its processes have beside it.

        The proportional set sizes of processes that share a gigabyte cannot be added while it is
        being mapped: they are read one after the other.
        """
        root = self.hosts[host].pid
        return proc.nameless_mb(root) + sum(map(proc.apart_mb, [root, *proc.living(root)]))

    def controller_memory(self) -> float:
        """Return the resident memory (MB) of the controller."""
        return proc.status_mb(self.controller.pid, "VmRSS")


class _Measurement:
    """Everything that is measured of one run.

    Args:
        bound: Seconds that one figure may take.
        quick: Small sizes.
        directory: For files of the run.
    """

    def __init__(self, bound: float, quick: bool, directory: Path) -> None:
        self._bound = bound
        self._directory = directory
        self._mb = metrics.QUICK_HOSTS_MB if quick else metrics.HOSTS_MB
        self._total = metrics.QUICK_HOSTS_FLOW_MB if quick else metrics.HOSTS_FLOW_MB
        self._note = f"{self._mb:,} MB" if quick else ""
        self._raw = 0.0

    def figures(self) -> Figures:
        """Yield all figures."""
        with Lab(TOGETHER, self._directory) as lab:
            cluster = _Cluster(lab, self._bound)
            cluster.start(("lan",))
            cluster.join("h1")
            peaks = ["hosts_peak_sender", "hosts_peak_receiver"]
            yield from self._part(peaks, lambda: self._peaks(cluster))
            small = ["hosts_push_peer", "hosts_pull_peer"]
            yield from self._part(small, lambda: self._small(cluster))
            yield from self._part(["hosts_raw_tls"], lambda: self._yardstick(lab))
            yield from self._way(cluster, "direct")
            yield from self._part(
                ["hosts_noop_p50_ms", "hosts_noop_p99_ms"], lambda: self._noops(cluster)
            )
            keys = ["hosts_spread_1", "hosts_spread_4", "hosts_spread_ratio"]
            yield from self._part(keys, lambda: self._spread(cluster))
        relayed = self._directory / "relayed"
        relayed.mkdir()
        with Lab(APART, relayed) as lab:
            cluster = _Cluster(lab, self._bound)
            cluster.start(("left", "right"))
            cluster.join("h1")
            yield from self._way(cluster, "relay")

    def _part(self, keys: list[str], measure: Callable[[], Figures]) -> Figures:
        """Yield the figures of one part; what is missing for its failure is named with the reason."""
        found = set()
        try:
            for figure in measure():
                found.add(figure["metric"])
                yield figure
        except Unsupported as why:
            for key in keys:
                if key not in found:
                    yield {"metric": key, "skipped": str(why)}

    def _figure(self, key: str, number: float, note: str = "") -> dict[str, object]:
        text = "; ".join(part for part in (self._note, note) if part)
        return {"metric": key, "value": number, **({"note": text} if text else {})}

    def _yardstick(self, lab: Lab) -> Figures:
        files = certificates.make(self._directory)
        script = ("-m", "benchmarks.hosts.raw_tls")
        size = (self._mb, RAW_TIMES)
        server = lab.start("h1", *script, "receive", lab.address("h1"), *files, *size)
        assert server.stdout is not None
        port = server.stdout.readline()
        if not port:
            raise Unsupported("the receiver of the bare stream did not start")
        words = (*script, "send", lab.address("h1"), *size)
        (report,) = lab.run("client", *words, limit=2 * self._bound + 30)
        lab.finish(server, 10)
        self._raw = max(report["rates"])
        yield self._figure("hosts_raw_tls", self._raw)

    def _peaks(self, cluster: _Cluster) -> Figures:
        with Peak(lambda: cluster.host_memory("h1")) as peak:
            (report,) = cluster.run("push_once", mb=self._mb)
        yield self._figure("hosts_peak_sender", report["growth"])
        yield self._figure("hosts_peak_receiver", peak.growth - self._mb)

    def _small(self, cluster: _Cluster) -> Figures:
        (report,) = cluster.run("pair", mb=metrics.HOSTS_PEER_MB, seconds=self._bound)
        for what in ("push", "pull"):
            yield {"metric": f"hosts_{what}_peer", "value": report[what]}

    def _way(self, cluster: _Cluster, way: str) -> Figures:
        """Pushes, pulls and the controller's memory, one way."""
        keys = [
            f"hosts_{what}_{way}{share}" for what in ("push", "pull") for share in ("", "_share")
        ]
        yield from self._part(keys, lambda: self._pair(cluster, way))
        growth = f"hosts_controller_{way}"
        yield from self._part([growth], lambda: self._growth(cluster, growth))

    def _pair(self, cluster: _Cluster, way: str) -> Figures:
        (report,) = cluster.run("pair", mb=self._mb, seconds=self._bound)
        for what in ("push", "pull"):
            key = f"hosts_{what}_{way}"
            yield self._figure(key, report[what])
            if self._raw:
                yield self._figure(f"{key}_share", 100 * report[what] / self._raw)
            else:
                yield {"metric": f"{key}_share", "skipped": "there is no figure of a bare stream"}

    def _growth(self, cluster: _Cluster, key: str) -> Figures:
        with Peak(cluster.controller_memory) as peak:
            *_, report = cluster.run("flow", mb=self._mb, total=self._total, seconds=self._bound)
        note = ""
        if report["moved"] < metrics.HOSTS_FLOW_MB:
            note = f"over {report['moved']:,} MB, by the bound"
        yield {"metric": key, "value": peak.growth, **({"note": note} if note else {})}

    def _noops(self, cluster: _Cluster) -> Figures:
        flow = cluster.begin("flow", mb=self._mb, total=0, seconds=2 * self._bound)
        assert flow.stdout is not None
        if not flow.stdout.readline():
            cluster.finish(flow)
            raise Unsupported("the transfers did not begin")
        (report,) = cluster.run("noop", seconds=self._bound / 2)
        (moved,) = cluster.finish(flow)  # closes its input, which ends it
        rate = moved["moved"] / moved["seconds"]
        note = f"{len(report['taken']):,} calls beside pushes at {rate:,.0f} MB/s"
        for percent in (50, 99):
            number = stats.percentile(report["taken"], percent) * 1e3
            yield self._figure(f"hosts_noop_p{percent}_ms", number, note)

    def _spread(self, cluster: _Cluster) -> Figures:
        (one,) = cluster.run("spread", mb=self._mb, engines=ENGINES, seconds=self._bound)
        yield self._figure("hosts_spread_1", one["seconds"])
        wanted = self._mb * 2 * len(HOSTS)
        if proc.available_mb() < wanted + 2000:
            raise Unsupported(f"it takes {wanted:,} MB of memory, which are not available")
        for host in HOSTS[1:]:
            cluster.join(host)
        (all_of,) = cluster.run(
            "spread", mb=self._mb, engines=ENGINES * len(HOSTS), seconds=self._bound
        )
        yield self._figure("hosts_spread_4", all_of["seconds"])
        yield self._figure("hosts_spread_ratio", all_of["seconds"] / one["seconds"])


def figures(bound: float, quick: bool) -> Figures:
    """Yield the figures of ipkernel between machines.

    Args:
        bound: Seconds that one figure may take.
        quick: Small sizes.

    Raises:
        Unsupported: there can be no network namespaces here, or the cluster did not start.
    """
    isolate()
    with tempfile.TemporaryDirectory(prefix="hosts-", dir=".") as directory:
        yield from _Measurement(bound, quick, Path(directory).resolve()).figures()
