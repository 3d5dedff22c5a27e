"""How processes ended, in words, and signals by name."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ipkernel.host.processes import GROUP_SIGNALS, Exit, kill_group, signal_number


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with code 0"),
        (3 << 8, "exited with code 3"),
        (9, "killed by SIGKILL (9)"),
        (11, "segmentation fault: killed by SIGSEGV (11)"),
        (11 | 128, "segmentation fault: killed by SIGSEGV (11)"),
    ],
)
def test_wait_statuses(status: int, text: str) -> None:
    assert Exit.of_status(status).text == text


def test_return_codes_of_subprocess() -> None:
    assert Exit.of_returncode(4, 100) == Exit(4, None, 100)
    assert Exit.of_returncode(-15).text == "killed by SIGTERM (15)"
    assert Exit(None, 63).text == "killed by signal 63"


@pytest.mark.parametrize("name", ["SIGINT", "int", " Int ", "2"])
def test_signals_by_name(name: str) -> None:
    assert signal_number(name) == signal.SIGINT


@pytest.mark.parametrize("name", ["SIGFOO", "", "99999", "_DFL", "DFL", "-1"])
def test_no_such_signal(name: str) -> None:
    with pytest.raises(ValueError, match="no signal"):
        signal_number(name)


def test_interrupts_and_ends_go_to_groups() -> None:
    assert signal.SIGINT in GROUP_SIGNALS
    assert signal.SIGUSR1 not in GROUP_SIGNALS


def test_a_group_is_killed_whether_its_leader_lives_or_not() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    kill_group(process.pid)
    assert process.wait(10) == -signal.SIGKILL
    kill_group(process.pid)
