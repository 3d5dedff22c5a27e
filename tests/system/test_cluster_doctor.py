"""The doctor as a whole, on this host."""

from __future__ import annotations

import json
import socket

import pytest

from ipkernel.cli import ipcluster
from ipkernel.cluster import doctor
from ipkernel.cluster.doctor import OK, PROBLEM


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    return tmp_path


def test_listening():
    (found,) = doctor.listening("127.0.0.1", 0)
    assert (found.level, found.text) == (OK, "a controller can listen on 127.0.0.1 and be reached")
    (found,) = doctor.listening("0.0.0.0", 0)
    assert found.level == OK


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = doctor.listening("127.0.0.1", port)
    assert found.level == PROBLEM
    assert found.text.startswith(f"a controller cannot be reached on 127.0.0.1 port {port}: ")
    assert "--port" in found.advice


def test_an_address_of_nobody():
    (found,) = doctor.listening("192.0.2.1", 0)
    assert found.level == PROBLEM
    assert "192.0.2.1" in found.text


def test_the_command(home, capsys):
    assert ipcluster.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "ok    python" in shown
    assert f"{home / 'cluster_default'} will be made when it is needed" in shown
    assert shown.splitlines()[-1].startswith("0 problems")


def test_as_json_with_a_problem(home, capsys):
    (home / "ipcluster.ini").write_text("[cluster]\nn = many\n")
    assert ipcluster.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (problem,) = [one for one in found if one["level"] == PROBLEM]
    assert problem["check"] == "configuration"
    assert "line 2" in problem["text"]


def test_quietly_only_what_is_wrong(home, capsys):
    (home / "ipcluster.ini").write_text("[cluster]\nn = many\n")
    assert ipcluster.main(["doctor", "--quiet"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("ok") for line in shown)
    assert any(line.startswith("FAIL  configuration") for line in shown)
