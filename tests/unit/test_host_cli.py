"""The command lines of ``ipdaemon`` and ``ipengine``, and what the latter says."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from ipkernel.cli import ipdaemon, ipengine
from ipkernel.cluster.options import store_arguments
from ipkernel.errors import ConfigurationError
from ipkernel.host.storeoptions import StoreOptions, chosen_store


def test_defaults_of_ipdaemon() -> None:
    chosen = ipdaemon.parse(["--furl-file", "f"])
    assert chosen.engines == os.cpu_count()
    assert (chosen.wait, chosen.grace, chosen.lifeline) == (60.0, 10.0, False)
    assert (chosen.cluster_dir, chosen.cluster, chosen.log_level) == (None, "", "info")


@pytest.mark.parametrize("text", ["-1", "many", "4097", "1.5", ""])
def test_impossible_numbers_of_engines(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="number of engines"):
        ipdaemon.count(text)


def test_possible_numbers_of_engines() -> None:
    assert [ipdaemon.count(text) for text in ("0", "1", "4096")] == [0, 1, 4096]


def test_where_ipengine_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    name = "security/ipcontroller-engine.furl"

    def found(*arguments: str) -> str:
        return ipengine.furl_file(ipengine.parse(arguments))

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


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("program", [ipdaemon, ipengine])
def test_options_about_the_store(program: object) -> None:
    def chosen(*arguments: str) -> StoreOptions:
        return chosen_store(program.parse(["--furl-file", "f", *arguments]))  # type: ignore[attr-defined]

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
    chosen = chosen_store(ipdaemon.parse(["--furl-file", "f", *arguments]))
    assert chosen == StoreOptions("50%", str(tmp_path / "spill"), "0", "127.0.0.1")


@pytest.mark.parametrize(
    ("memory", "limit", "text"),
    [("much", None, "store_memory: 'much'"), (None, "1%", "spill_limit: '1%'"), (-1, 0, "-1")],
)
def test_sizes_that_are_none(memory: object, limit: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        store_arguments(memory, None, limit, "")  # type: ignore[arg-type]
