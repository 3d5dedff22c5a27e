"""What the measurements between machines are made of, without machines."""

from __future__ import annotations

import argparse
import mmap
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import metrics, proc
from benchmarks.hosts import certificates, ipkernel_, ipkernel_client, lab, peers
from benchmarks.systems.adapter import Unsupported
from tests.support import netns


class HereNetwork:
    """Runs everything on this machine."""

    def __init__(self, machines: Any) -> None:
        self.events: list[str] = []

    def __enter__(self) -> HereNetwork:
        self.events.append("made")
        return self

    def __exit__(self, *exception: object) -> None:
        self.events.append("removed")

    def address(self, machine: str, switch: str | None = None) -> str:
        return "127.0.0.1"

    def command(self, machine: str, *words: Any) -> list[str]:
        return list(map(str, words))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[lab.Lab]:
    monkeypatch.setattr(netns, "Network", HereNetwork)
    with lab.Lab({"a": ["lan"]}, tmp_path) as made:
        yield made


def test_without_root_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "missing", lambda: "only root can make network namespaces")
    with pytest.raises(Unsupported, match="only root"):
        next(iter(ipkernel_.figures(1.0, True)))


def test_a_script_gives_the_objects_that_it_prints(here: lab.Lab) -> None:
    code = "print('hello'); print('{\"a\": 1}'); print('{\"b\": 2}')"
    assert here.run("a", "-c", code, limit=30) == [{"a": 1}, {"b": 2}]


def test_a_script_that_fails_gives_its_last_words(here: lab.Lab) -> None:
    with pytest.raises(Unsupported, match=r"failed: .*no luck"):
        here.run("a", "-c", "raise ValueError('no luck')", limit=30)


def test_a_script_that_takes_too_long_is_ended(here: lab.Lab) -> None:
    process = here.start("a", "-c", "import sys; print('up', flush=True); sys.stdin.read()")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    sleeper = here.start("a", "-c", "import signal; signal.pause()")
    with pytest.raises(Unsupported, match="took more than 0 s"):
        here.finish(sleeper, 0)
    assert sleeper.returncode is not None
    assert here.finish(process, 30) == []  # its input was closed


def test_all_processes_end_with_the_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(netns, "Network", HereNetwork)
    with lab.Lab({}, tmp_path) as made:
        process = made.serve("a", "-c", "import signal; signal.pause()")
        assert process.poll() is None
    assert process.returncode is not None
    assert made._net.events == ["made", "removed"]


def test_a_network_that_cannot_be_made_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(self: HereNetwork) -> HereNetwork:
        raise RuntimeError("ip netns add: no")

    monkeypatch.setattr(netns, "Network", HereNetwork)
    monkeypatch.setattr(HereNetwork, "__enter__", fail)
    with pytest.raises(Unsupported, match="ip netns add: no"), lab.Lab({}, tmp_path):
        pass


def test_a_file_of_a_process_that_has_ended_is_not_waited_for(
    here: lab.Lab, tmp_path: Path
) -> None:
    process = here.start("a", "-c", "import sys; sys.exit('cannot listen')")
    process.wait()
    with pytest.raises(Unsupported, match=r"x\.furl was not written: cannot listen"):
        lab.wait_for_file(tmp_path / "x.furl", process)
    (tmp_path / "x.furl").write_text("there")
    lab.wait_for_file(tmp_path / "x.furl", process)


def test_a_peak_is_the_largest_seen() -> None:
    sizes = iter([10.0, 30.0, 20.0])
    seen = threading.Event()

    def measure() -> float:
        try:
            return next(sizes)
        except StopIteration:
            seen.set()
            return 15.0

    with lab.Peak(measure, interval=0.0) as peak:
        assert seen.wait(30)
    assert (peak.before, peak.highest, peak.growth) == (10.0, 30.0, 20.0)


def test_certificates_are_good_for_both_ends_and_keys_are_private(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)
    assert files.key.stat().st_mode & 0o077 == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.certificate)


def test_the_bare_stream_gives_a_rate_for_each_time(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)
    program = [sys.executable, "-m", "benchmarks.hosts.raw_tls"]
    receive = [*program, "receive", "127.0.0.9", *map(str, files), "1", "2"]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and "listening" in server.stdout.readline()
        send = [*program, "send", "127.0.0.9", "1", "2"]
        sent = subprocess.run(send, capture_output=True, text=True, check=True, timeout=60)
    assert server.returncode == 0
    assert sent.stdout.count(",") == 1 and "rates" in sent.stdout


def test_the_best_rates_of_a_peer(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "HOSTS_PEER_MB", 1)
        peers.pair(peers.Peer(kept.append, lambda: kept[-1], int), 0.0)
        assert len(kept) == 2  # one to warm up, one that counts
        with pytest.raises(AssertionError, match="gave 8"):
            peers.pair(peers.Peer(kept.append, lambda: kept[-1][:1], int), 0.0)
    assert '"push"' in capsys.readouterr().out


PEER = """
import sys
from benchmarks import metrics
from benchmarks.hosts import peers
metrics.HOSTS_PEER_MB = 1
kept = []
peer = peers.Peer(lambda array: kept.__setitem__(slice(None), [array]), lambda: kept[0], int)
peers.ACTIONS[sys.argv[1]](peer, float(sys.argv[2]))
"""


def test_all_that_is_measured_of_a_peer(here: lab.Lab) -> None:
    controller = here.serve("a", "-c", "import signal; signal.pause()")
    found: dict[Any, Any] = {}
    with pytest.raises(Unsupported, match="of the peers"):
        for figure in peers.figures_of(here, controller, [controller], "-c", PEER, bound=0.05):
            found[figure["metric"]] = figure
    assert set(found) == {
        *("hosts_push_peer", "hosts_pull_peer", "hosts_peak_sender", "hosts_peak_receiver"),
        *("hosts_controller_direct", "hosts_noop_p50_ms", "hosts_noop_p99_ms"),
    }
    assert found.pop("hosts_peak_receiver")["value"] < 0, "this one has received nothing"
    assert all(figure["value"] >= 0 for figure in found.values())
    assert "calls beside pushes" in found["hosts_noop_p99_ms"]["note"]


def test_one_failed_part_leaves_the_others(tmp_path: Path) -> None:
    def broken() -> ipkernel_.Figures:
        yield {"metric": "a", "value": 1.0}
        raise Unsupported("it broke")

    run = ipkernel_._Measurement(1.0, True, tmp_path)
    assert list(run._part(["a", "b"], broken)) == [
        {"metric": "a", "value": 1.0},
        {"metric": "b", "skipped": "it broke"},
    ]


class FakeView:
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed: list[Any] = []

    def push(self, names: dict[str, Any], block: bool) -> None:
        self.pushed.append(names["bench_a"])

    def execute(self, code: str, block: bool) -> None:
        pass

    def pull(self, name: str, block: bool) -> Any:
        return self.pushed[-1]


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"mb": 1, "total": 0, "seconds": 60.0, "engines": 2, **values})


@pytest.mark.parametrize(
    ("action", "seconds", "pushes"),
    [("pair", 60.0, 4), ("pair", 0.0, 2), ("spread", 60.0, 3), ("spread", 0.0, 2)],
)
def test_actions_stop_at_the_bound_but_measure_once(
    action: str, seconds: float, pushes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    view = FakeView()
    client = {0: view} if action == "pair" else _AnyKey(view)
    ipkernel_client.ACTIONS[action](client, options(seconds=seconds))
    assert len(view.pushed) == pushes
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(("total", "seconds", "pushes"), [(3, 60.0, 3), (100, 0.0, 1)])
def test_a_flow_ends_when_it_is_enough_or_time_is_over(
    total: int, seconds: float, pushes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    view = FakeView()
    ipkernel_client.flow({0: view}, options(total=total, seconds=seconds))
    assert len(view.pushed) == pushes
    assert f'"moved": {pushes}' in capsys.readouterr().out.splitlines()[-1]


class _AnyKey:
    def __init__(self, view: FakeView) -> None:
        self._view = view

    def __getitem__(self, key: object) -> FakeView:
        return self._view


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_shared_memory_is_counted_once_and_apart_from_a_processs_own() -> None:
    before, apart = proc.nameless_mb(os.getpid()), proc.apart_mb(os.getpid())
    descriptor = os.memfd_create("test")
    again = os.dup(descriptor)
    try:
        size = 64_000_000
        os.posix_fallocate(descriptor, 0, size)
        with mmap.mmap(descriptor, size) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) == 0
            assert size / 1e6 <= proc.nameless_mb(os.getpid()) - before < size / 1e6 + 1
            assert proc.apart_mb(os.getpid()) - apart < size / 2e6
            assert proc.pss_mb(os.getpid()) > size / 1e6
    finally:
        os.close(descriptor)
        os.close(again)


def test_a_process_that_has_ended_has_no_memory() -> None:
    gone = 1 << 30
    assert proc.nameless_mb(gone) == proc.apart_mb(gone) == 0
