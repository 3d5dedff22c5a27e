"""The command lines of ``ipdaemon`` and ``ipengine``, and what the latter says."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from ipkernel.cli import ipdaemon, ipengine


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
