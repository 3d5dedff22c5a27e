"""A journal that cannot be written: nothing new is taken in until it can, and nothing is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ipkernel.cluster.cluster import Cluster
from tests.integration.disk_support import ROOT_ONLY, fill, make_read_only, small_disk
from tests.integration.faults_support import PATIENCE, command, run, wait_for


def trouble(cluster: Cluster) -> str:
    """Return what status says of the journal."""
    return cluster.status_sync().journal


def goes_on(rc: Any, results: list[Any]) -> None:
    """What waited is done, and everything is as always."""
    assert [result.get(PATIENCE) for result in results] == list(range(len(results)))
    assert rc.load_balanced_view().map_sync(abs, [-1, -2, -3]) == [1, 2, 3]


def _first(number: int, rest: bytes) -> int:
    return number


def held_up(cluster: Cluster, rc: Any, says: str) -> list[Any]:
    """Submit what cannot be written; return the results."""
    view = rc.load_balanced_view()
    rest = bytes(10_000)  # what is small need not go into the database at once
    results = [view.apply_async(_first, i, rest) for i in range(20)]
    wait_for(lambda: says in trouble(cluster), what=f"status does not say {says!r}")
    assert not any(result.ready() for result in results)
    out = run(*command("ipcluster", "status", "--cluster-dir", cluster.cluster_dir))[1]
    assert "Nothing new is taken in until it can be" in out
    return results


@ROOT_ONLY
def test_a_full_disk_holds_everything_up_until_there_is_room(tmp_path: Path) -> None:
    cluster = Cluster(1, cluster_dir=tmp_path / "cluster_full")
    cluster.directory.create()
    with small_disk(cluster.directory.state, "4m") as disk:
        try:
            with cluster.start_and_connect_sync() as rc:
                assert rc[0].apply_async(abs, -1).get(PATIENCE) == 1
                assert trouble(cluster) == ""
                fill(disk)
                results = held_up(cluster, rc, "full")
                (disk / "filler").unlink()
                goes_on(rc, results)
                wait_for(lambda: trouble(cluster) == "")
        finally:
            cluster.stop_cluster_sync()
    log = (cluster.directory.log / "ipcontroller.log").read_text()
    assert log.count("the journal cannot be written") == 1
    assert log.count("the journal can be written again") == 1


@ROOT_ONLY
def test_a_controller_stops_though_its_disk_is_full(tmp_path: Path) -> None:
    cluster = Cluster(1, cluster_dir=tmp_path / "cluster_full")
    cluster.directory.create()
    with small_disk(cluster.directory.state, "4m") as disk:
        try:
            with cluster.start_and_connect_sync() as rc:
                assert rc[0].apply_async(abs, -1).get(PATIENCE) == 1
                fill(disk)
                held_up(cluster, rc, "full")
        finally:
            cluster.stop_cluster_sync()
        assert not cluster.running
    log = (cluster.directory.log / "ipcontroller.log").read_text()
    assert "the controller stops, and its journal cannot be written" in log


@ROOT_ONLY
def test_a_controller_does_not_start_where_it_can_write_no_journal(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "4m") as disk:
        stopped(started(tmp_path))
        make_read_only(disk)
        code, _, err = run(*command("ipcontroller", "--cluster-dir", tmp_path))
        assert code == 1
        assert f"cannot open the journal {disk}/journal.sqlite: Read-only file system" in err
        assert "journal = off" in err
        assert err.count("\n") == 1


def test_a_file_that_another_process_locks_holds_everything_up_until_it_is_free(
    tmp_path: Path,
) -> None:
    cluster = Cluster(1, cluster_dir=tmp_path / "cluster_locked")
    try:
        with cluster.start_and_connect_sync() as rc:
            assert rc[0].apply_async(abs, -1).get(PATIENCE) == 1
            other = sqlite3.connect(
                cluster.directory.state / "journal.sqlite", isolation_level=None, timeout=PATIENCE
            )
            other.execute("BEGIN IMMEDIATE")
            results = held_up(cluster, rc, "locked")
            other.execute("ROLLBACK")
            other.close()
            goes_on(rc, results)
    finally:
        cluster.stop_cluster_sync()


def started(directory: Path, warning: str = "") -> subprocess.Popen[str]:
    """Start a controller by hand and wait until it is ready; it must say what is given, or nothing."""
    process = subprocess.Popen(
        command("ipcontroller", "--cluster-dir", directory, "--lifeline"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if warning:
        told = json.loads(process.stdout.readline())
        assert told["event"] == "warning"
        assert warning in told["message"]
    assert json.loads(process.stdout.readline())["event"] == "ready"
    return process


def stopped(process: subprocess.Popen[str]) -> None:
    """End a controller, and see that it had nothing to complain of."""
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")


def test_a_broken_journal_is_put_aside_and_the_controller_starts(tmp_path: Path) -> None:
    state = tmp_path / "state"
    stopped(started(tmp_path))
    journal = state / "journal.sqlite"
    with open(journal, "r+b") as file:
        file.write(b"no database at all")
    process = started(tmp_path, "was broken")
    out = run(*command("ipcluster", "status", "--cluster-dir", tmp_path))[1]
    assert "was broken (file is not a database)" in out
    stopped(process)
    [aside] = state.glob("journal-*.broken.sqlite")
    assert aside.read_bytes().startswith(b"no database at all")
    assert "was broken" in (tmp_path / "log" / "ipcontroller.log").read_text()


def test_a_journal_of_a_newer_release_is_not_touched(tmp_path: Path) -> None:
    stopped(started(tmp_path))
    journal = tmp_path / "state" / "journal.sqlite"
    database = sqlite3.connect(journal)
    database.execute("PRAGMA user_version=1000")
    database.close()
    before = journal.read_bytes()
    code, _, err = run(*command("ipcontroller", "--cluster-dir", tmp_path))
    assert code == 1
    assert "was written by a newer release of ipkernel" in err
    assert err.count("\n") == 1
    assert journal.read_bytes() == before


@pytest.mark.parametrize("level", ["power", "off"])
def test_other_levels_work(tmp_path: Path, level: str) -> None:
    (tmp_path / "ipcluster.ini").write_text(f"[controller]\njournal = {level}\n")
    cluster = Cluster(1, cluster_dir=tmp_path)
    try:
        with cluster.start_and_connect_sync() as rc:
            assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        status = cluster.status_sync()
        assert status.journal_level == level
        assert bool(status.journal_size) == (level == "power")
        assert (tmp_path / "state" / "journal.sqlite").exists() == (level == "power")
    finally:
        cluster.stop_cluster_sync()
