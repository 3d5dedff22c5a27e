"""A program on a host without a connection: what is asked, and what a wait makes of the answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshjob
from ipkernel.launchers.sshjob import RemoteJob, frame
from ipkernel.launchers.sshoptions import read_host

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stands for ssh by a script")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[RemoteJob]:
    """A program whose host answers what ``answer`` has made."""
    entry = read_host("a", {"ssh": str(tmp_path / "ssh")})
    made = RemoteJob(entry, sys.executable, "/the/directory")
    yield made
    made.close()


def answer(tmp_path: Path, *events: dict[str, Any], errors: str = "", code: int = 0) -> None:
    lines = "".join(f"echo '{json.dumps(event)}'\n" for event in events)
    script = f'#!/bin/sh\ncat >{tmp_path}/said\n{lines}echo "{errors}" >&2\nexit {code}\n'
    (tmp_path / "ssh").write_text(script)
    (tmp_path / "ssh").chmod(0o700)


def asked(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "said").read_bytes().rpartition(b"\n")[2])


def test_a_look_tells_whether_it_is_there(job: RemoteJob, tmp_path: Path) -> None:
    answer(tmp_path, {"event": "@here"}, {"event": "@told", "there": True})
    assert job.look()
    assert not job.over
    order = {"act": "tell", "directory": "/the/directory", "order": None, "wait": 0.0}
    assert asked(tmp_path) == order
    answer(tmp_path, {"event": "@told", "there": False})
    assert not job.look()
    assert job.over
    assert job.wait(0)


def test_an_order_ends_it_and_its_end_is_told_once(job: RemoteJob, tmp_path: Path) -> None:
    ended: list[str] = []
    answer(tmp_path, {"event": "@told", "there": False})
    job.order({"act": "stop"}, lambda: ended.append("one"))
    assert job.wait(30)
    job.order({"act": "stop"}, lambda: ended.append("two"))
    job.close()
    assert len(ended) == 1
    assert asked(tmp_path)["order"] == {"act": "stop"}
    assert asked(tmp_path)["wait"] > 0


def test_a_host_that_cannot_be_reached_ends_the_wait_and_is_no_end(
    job: RemoteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshjob, "_LOOK", 0.01)
    answer(tmp_path, errors="connect to host a port 22: Connection refused", code=255)
    with pytest.raises(LauncherError, match="takes no ssh connections"):
        job.look()
    assert not job.wait(0.02)  # nobody has ordered anything: it is asked again and again
    job.order({"act": "stop"}, lambda: pytest.fail("it has not ended"))
    assert not job.wait(30)
    assert not job.over


def test_a_missing_ssh_is_told(job: RemoteJob) -> None:
    with pytest.raises(LauncherError, match="cannot run .*ssh: No such file"):
        job.look()


def test_frames_have_the_length_in_bytes() -> None:
    length, _, text = frame({"é": "é"}).partition(b"\n")
    assert int(length) == len(text)
    assert json.loads(text) == {"é": "é"}
