"""The example that kills controllers and engines: it does so, and every result is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "crashes.py"


@pytest.mark.timeout(240)
def test_every_result_is_right_and_comes_once(tmp_path):
    picture = tmp_path / "run.svg"
    options = ["--tasks", "600", "--controllers", "2", "--engines", "4", "--picture", str(picture)]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *options],
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "controller killed 2 times, engines 4 times" in done.stdout
    assert re.search(r"(?m)^600 results came exactly once, 0 are wrong$", done.stdout)
    assert picture.read_text().endswith("</svg>\n")
