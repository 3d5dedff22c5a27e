"""The command lines of ``ipdaemon`` and ``ipengine``, and what the latter says."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cli import ipdaemon, ipengine
from ipkernel.cluster.options import store_arguments
from ipkernel.errors import ConfigurationError
from ipkernel.host.options import Options, count, engine_ids
from ipkernel.host.storeoptions import StoreOptions


def test_defaults_of_ipdaemon() -> None:
    chosen = ipdaemon.parse(["--furl-file", "f"])
    assert chosen.engines == os.cpu_count()
    assert (chosen.wait, chosen.grace, chosen.lifeline) == (60.0, 60.0, False)
    assert (chosen.cluster_dir, chosen.cluster, chosen.log_level) == (None, "", "info")
    assert (chosen.walltime, chosen.label, chosen.launcher, chosen.restarts) == (0.0, "", "", 0)
    assert (chosen.log_size, chosen.log_backups, chosen.engine_ids) == (5_000_000, 3, ())


@pytest.mark.parametrize("text", ["-1", "many", "4097", "1.5", ""])
def test_impossible_numbers_of_engines(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="number of engines"):
        count(text)


def test_possible_numbers_of_engines() -> None:
    assert [count(text) for text in ("0", "1", "4096")] == [0, 1, 4096]


def test_where_ipengine_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    name = "security/ipcontroller-engine.furl"

    def found(*arguments: str) -> str:
        return ipengine.parse(arguments).furl_file

    assert found() == str(tmp_path / "cluster_default" / name)
    assert found("--cluster", "big") == str(tmp_path / "cluster_big" / name)
    assert found("--cluster-dir", "/c") == f"/c/{name}"
    assert found("--furl-file", "my.furl") == found("--file", "my.furl") == "my.furl"


def test_what_ipengine_says(capsys: pytest.CaptureFixture[str]) -> None:
    speak = ipengine.Speaker()
    speak("registered", engines=[0, 3])
    speak("engines", engines=[0, 3], pids=[10, 13])
    speak("waiting", message="nobody listens")
    speak("lost", message="closed")
    speak("stopping", message="received SIGINT")
    assert capsys.readouterr().out.splitlines() == [
        "engine 0 (pid 10) ready",
        "engine 3 (pid 13) ready",
        "waiting for the controller: nobody listens",
        "lost the controller (closed); looking for it",
        "stopping: received SIGINT",
    ]
    speak("error", message="no FURL")
    assert capsys.readouterr().err == "ipengine: no FURL\n"


# ---------------------------------------------------------------- for launchers


@pytest.mark.parametrize("program", [ipdaemon, ipengine])
def test_options_of_launchers(program: Any) -> None:
    def chosen(*arguments: str) -> Options:
        return program.parse(["--furl-file", "f", *arguments])  # type: ignore[no-any-return]

    given = chosen(
        "--walltime", "3600", "--drain-margin", "30", "--label", "slurm job 17",
        "--launcher", "slurm", "--restarts", "2", "--engine-ids", "4,0-2",
        "--resources", "gpu=1, memory=2.5,", "--host-resources", "licence=2",
        "--log-size", "1MB", "--log-backups", "0",
    )  # fmt: skip
    assert (given.walltime, given.drain_margin) == (3600.0, 30.0)
    assert (given.label, given.launcher, given.restarts) == ("slurm job 17", "slurm", 2)
    assert given.engine_ids == (4, 0, 1, 2)
    assert given.resources == {"gpu": 1.0, "memory": 2.5}
    assert given.host_resources == {"licence": 2.0}
    assert (given.log_size, given.log_backups) == (1_000_000, 0)


@pytest.mark.parametrize(
    ("walltime", "margin", "taken"),
    [
        ("7200", None, 60.0),
        ("20", None, 10.0),
        ("20", "60", 10.0),
        ("7200", "600", 600.0),
        ("20", "0", 0.0),
    ],
)
def test_the_margin_is_a_minute_but_never_more_than_half(
    walltime: str, margin: str | None, taken: float
) -> None:
    words = ["--furl-file", "f", "--walltime", walltime]
    words += ["--drain-margin", margin] if margin is not None else []
    assert ipdaemon.parse(words).drain_margin == taken


@pytest.mark.parametrize(
    ("walltime", "left", "taken"),
    [
        ("", "1-02:03:04", 93784 - 10),
        ("", "1:40", 90),
        ("", "0:50", 45),
        ("", "0:00", 1),
        ("60", "2:00", 60),
        ("600", "2:00", 110),
        ("600", "UNLIMITED", 600),
        ("", "INVALID", 0),
        ("", "", 0),
        ("", " 5:00\n", 290),
    ],
)
def test_what_a_batch_system_says_is_left_counts_if_it_is_less(
    walltime: str, left: str, taken: float
) -> None:
    words = ["--furl-file", "f", "--time-left", left, "--drain-margin", "5"]
    words += ["--walltime", walltime] if walltime else []
    assert ipdaemon.parse(words).walltime == taken


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--walltime", "0"), "'0' is not a number of seconds above 0, nor such as 90s"),
        (("--walltime", "nan"), "'nan' is not a number of seconds"),
        (("--walltime", "1:00:00"), "'1:00:00' is not a number"),
        (("--drain-margin", "5"), "means nothing without --walltime"),
        (("--walltime", "5", "--drain-margin", "-1"), "'-1' is not a number of seconds from 0"),
        (("--resources", "gpu"), "'gpu' is not a resource with its amount"),
        (("--resources", "gpu=0"), "'gpu=0' is not a resource with its amount"),
        (("--resources", "gpu=1,gpu=2"), "'gpu=2' is not a resource with its amount"),
        (("--host-resources", "=1"), "'=1' is not a resource with its amount"),
        (("--resources", ",".join(f"r{n}=1" for n in range(17))), "there may be 16 resources"),
        (("--engine-ids", "3-1"), "'3-1' in '3-1' is not a range"),
        (("--engine-ids", "0-9999"), "is not a range"),
        (("--engine-ids", "a"), "'a' are not ids of engines"),
        (("--engine-ids", "-1"), "'-1' are not ids"),
        (("--restarts", "-2"), "'-2' is not a whole number"),
        (("--log-size", "10"), "too small for a log file"),
        (("--log-size", "big"), "'big' is not a size"),
        (("--grace", "nan"), "'nan' is not a number of seconds"),
        (("--data-port", "65536"), "'65536' is not a port"),
        (("--store-memory", "200%"), "'200%' is not a size"),
        (("--label", "a\nb"), "not a text of one line"),
        (("--label", "x" * 257), "at most 256 characters"),
    ],
)
def test_impossible_options_of_launchers(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{name}={value}" for name, value in zip(arguments[::2], arguments[1::2], strict=True)]
    with pytest.raises(SystemExit) as ended:
        ipdaemon.parse(["--furl-file", "f", *words])
    assert ended.value.code == 2
    assert text in " ".join(capsys.readouterr().err.split())


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_ids_are_read_back(ids: list[int]) -> None:
    assert engine_ids(",".join(map(str, ids))) == tuple(dict.fromkeys(ids))


@given(st.text(alphabet="0123456789,- ", max_size=12))
def test_ids_are_ids_or_refused(text: str) -> None:
    try:
        found = engine_ids(text)
    except argparse.ArgumentTypeError:
        return
    assert all(0 <= one < 1 << 20 for one in found) and len(set(found)) == len(found)


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("program", [ipdaemon, ipengine])
def test_options_about_the_store(program: object) -> None:
    def chosen(*arguments: str) -> StoreOptions:
        return program.parse(["--furl-file", "f", *arguments]).store  # type: ignore[attr-defined,no-any-return]

    assert chosen() == StoreOptions()
    given = chosen(
        "--store-memory", "2GB", "--spill-dir", "/s", "--spill-limit", "0",
        "--data-interface", "10.0.0.1", "--data-port", "4711",
    )  # fmt: skip
    assert given == StoreOptions("2GB", "/s", "0", "10.0.0.1", 4711)


@pytest.mark.parametrize(
    "arguments",
    [("--store-memory", "much"), ("--spill-limit", "10%"), ("--data-port", "65536")],
)
def test_impossible_options_about_the_store(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ipdaemon.parse(["--furl-file", "f", *arguments])
    assert ended.value.code == 2
    assert repr(arguments[1]) in capsys.readouterr().err


def test_what_a_cluster_tells_its_host_daemons(tmp_path: Path) -> None:
    assert store_arguments(None, None, None, "") == ()
    arguments = store_arguments("50%", tmp_path / "spill", 0, "127.0.0.1")
    chosen = ipdaemon.parse(["--furl-file", "f", *arguments])
    assert chosen.store == StoreOptions("50%", str(tmp_path / "spill"), "0", "127.0.0.1")


@pytest.mark.parametrize(
    ("memory", "limit", "text"),
    [("much", None, "store_memory: 'much'"), (None, "1%", "spill_limit: '1%'"), (-1, 0, "-1")],
)
def test_sizes_that_are_none(memory: object, limit: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        store_arguments(memory, None, limit, "")  # type: ignore[arg-type]
