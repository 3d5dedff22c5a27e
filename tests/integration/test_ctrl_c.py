"""Ctrl-C in a script that waits for results: in a real terminal, and sent by other programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.terminal import Terminal

SCRIPT = """
import sys, threading, time
import ipkernel

def nap(seconds):
    time.sleep(seconds)

def tell():
    # Once the main thread waits.
    while True:
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame is not None and frame.f_code.co_name != "wait_until":
            frame = frame.f_back
        if frame is not None:
            break
        time.sleep(0.01)
    print("it waits", flush=True)

with ipkernel.Cluster(1) as rc:
    rc.interrupt = sys.argv[1]
    result = rc.load_balanced_view().apply_async(nap, 600)
    while not rc.queue_status()[0]["tasks"]:
        time.sleep(0.01)
    threading.Thread(target=tell, daemon=True).start()
    try:
        if sys.argv[2] == "get":
            result.get()
        else:
            result.wait_interactive()
    except KeyboardInterrupt:
        print("over:", result.done(), *result.fates.values(), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def go(*arguments):
        env = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
        env.pop("IPP_NONINTERACTIVE", None)
        terminal = Terminal(*arguments, command=[sys.executable, "-c", SCRIPT], env=env)
        started.append(terminal)
        terminal.read_until("it waits")
        return terminal

    yield go
    for terminal in started:
        if terminal.process.poll() is None:
            terminal.end()


@pytest.mark.parametrize("wait", ["get", "wait_interactive"])
def test_pressed_twice_it_cancels(start, wait):
    terminal = start("ask", wait)
    terminal.press(b"\x03")
    terminal.read_until("press Ctrl-C again within 2 s to cancel it")
    terminal.press(b"\x03")
    terminal.read_until("ipkernel: cancelled: 1 interrupted")
    terminal.read_until("over: True interrupted")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


def test_pressed_once_the_task_goes_on(start):
    terminal = start("ask", "get")
    terminal.press(b"\x03")
    terminal.read_until("1 task goes on")
    terminal.read_until("over: False")
    assert terminal.end() == 0


def test_set_to_cancel_once_is_enough(start):
    terminal = start("cancel", "get")
    terminal.press(b"\x03")
    terminal.read_until("over: True interrupted")
    assert terminal.end() == 0
    assert "press Ctrl-C" not in terminal.shown


def test_a_script_without_a_terminal_is_told_nothing_and_ends_at_once(tmp_path):
    env = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "ask", "get"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "it waits\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "over: False\n", "")
