"""The demo does what it says: on a small package in place of the whole standard library."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "stdlib_metrics.py"

# The demo asks where the os module lies; here it is told that it lies in the package email.
PROGRAM = f"""
import os, runpy
os.__file__ = {email.__file__!r}
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE.parent}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


FILES = sorted(Path(email.__file__).parent.rglob("*.py"))


def test_every_file_is_measured_and_both_runs_agree(run):
    _, text = run
    lines = sum(len(file.read_bytes().splitlines()) for file in FILES)
    table = {cells[0]: cells[-1] for cells in map(str.split, text.splitlines()) if cells}
    assert table["modules"] == str(len(FILES))
    assert table["lines"] == f"{lines:,}"
    assert f"Serial and parallel run agree on all {len(FILES)} files." in text


def test_the_cost_is_shown(run):
    _, text = run
    for row in ("serial, one process", "speed-up", "overhead per task", "latency per task"):
        assert re.search(rf"(?m)^{re.escape(row)}.* \d+\.\d\d", text), row


def test_the_picture_has_each_task(run):
    folder, text = run
    picture = folder / "demo-run.svg"
    assert f"Picture of the run: {picture}" in text
    titles = [e.text or "" for e in ET.fromstring(picture.read_bytes()).iter() if "title" in e.tag]
    shown = {line for title in titles for line in title.splitlines()}
    assert len(titles) == -(-len(FILES) // 8)
    assert {str(file.relative_to(FILES[0].parent)) for file in FILES} <= shown
