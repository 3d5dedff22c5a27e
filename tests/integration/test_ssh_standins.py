"""The ssh launcher's programs behind an ssh that stays on this machine: every step but the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import LauncherError
from ipkernel.launchers.sshlauncher import SSHLauncher
from tests.integration.faults_support import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
#: Characters that mean something to one shell or another.
ODD = 'it\'s "$HOME" `id` \\n !! # é; {x} %s'


class Probe(SSHLauncher):
    """Starts :mod:`tests.integration.ssh_probe`."""

    name = "probe"
    module = "tests.integration.ssh_probe"


class Scene:
    """A cluster directory, a stand-in for ssh, and the home that it leads to."""

    def __init__(self, directory: Path) -> None:
        self.directory = ClusterDirectory(directory / "cluster").create()
        self.home = directory / "home"
        self.home.mkdir()
        self.ssh = directory / "ssh"
        self.stand_in(
            f'export HOME={self.home} IPYTHONDIR={self.home}\necho "Welcome!"\nexec sh -c "$last"'
        )
        self.launchers: list[Probe] = []
        self.events: list[dict[str, Any]] = []

    def stand_in(self, script: str) -> None:
        """Have ssh do something else; ``$last`` is what it is to run."""
        self.ssh.write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
        self.ssh.chmod(0o700)

    def probe(self, how: str, environment: dict[str, str] | None = None, **options: Any) -> Probe:
        """Return a started launcher."""
        options = {"python": sys.executable, "ssh": str(self.ssh), "hosts": ["a"], **options}
        (share,) = Probe.plan(1, options)
        launcher = Probe(
            self.directory,
            [how, str(self.directory)],
            environment=environment,
            options=options,
            share=share,
            on_event=self.events.append,
        )
        self.launchers.append(launcher)
        launcher.start()
        return launcher

    def left(self) -> list[str]:
        """Return what programs have left."""
        place = self.home / "ssh"
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    for launcher in made.launchers:
        launcher.kill()
        assert launcher.wait(PATIENCE)
        launcher.close()
    assert [one for one in made.left() if not one.startswith("packages-")] == []


def failure(launcher: Probe) -> str:
    """Return why a launcher's program has not become ready."""
    with pytest.raises(LauncherError) as caught:
        launcher.wait_event("ready", PATIENCE)
    assert launcher.wait(PATIENCE)
    return str(caught.value)


@pytest.mark.parametrize("shell", ["", "sh", "bash --noprofile --norc"])
def test_a_program_has_its_environment_to_the_letter_and_nothing_of_it_is_seen(
    scene: Scene, shell: str
) -> None:
    setup = ["cd /", f"export FROM_SETUP={subprocess.list2cmdline(['x'])}", "echo said by setup"]
    launcher = scene.probe("quiet", {"ODD": ODD, "SECRET": "s3cret"}, setup=setup, shell=shell)
    ready = launcher.wait_event("ready", PATIENCE)
    environment = ready["environment"]
    assert (environment["ODD"], environment["FROM_SETUP"]) == (ODD, "x")
    directory = Path(ready["arguments"][2])
    assert directory.parent == scene.home / "ssh"
    assert directory.name in scene.left()
    assert ready["arguments"][1:] == ["quiet", str(directory), "--lifeline"]
    for pid in (launcher.pid, ready["pid"]):
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert [e["event"] for e in scene.events if "event" in e][:5] == [
        "connecting", "checking", "copying", "started", "ready",
    ]  # fmt: skip
    assert launcher.state() == "running"
    launcher.request_stop()
    assert launcher.wait(PATIENCE)
    assert (launcher.exit_code, launcher.state()) == (0, "ended: exited with code 0")
    assert scene.events[-1]["event"] == "stopping"
    assert scene.left() == []
    assert launcher.error_file.read_text() == "said by setup\n"


def test_a_program_that_fails_says_why_here(scene: Scene) -> None:
    launcher = scene.probe("broken")
    said = failure(launcher)
    assert said.startswith("probe (host a) exited with code 3; the last lines of its log in")
    assert said.endswith("    this is why")
    assert launcher.exit_code == 3


def test_signals_go_to_the_program_and_force_ends_one_that_does_not_listen(scene: Scene) -> None:
    launcher = scene.probe("deaf")
    ready = launcher.wait_event("ready", PATIENCE)
    launcher.signal("SIGUSR1")
    launcher.wait_event("signalled", PATIENCE)
    launcher.request_stop()
    launcher.terminate()
    launcher.wait_event("terminated", PATIENCE)
    assert launcher.running
    launcher.kill()
    assert launcher.wait(PATIENCE)
    wait_for(lambda: not os.path.exists(f"/proc/{ready['pid']}"))
    wait_for(lambda: scene.left() == [])


def test_a_connection_that_is_cut_ends_the_program_and_is_told_as_a_loss(scene: Scene) -> None:
    script = textwrap.dedent(
        f"""\
        cd {scene.home}
        mkfifo in out
        HOME={scene.home} IPYTHONDIR={scene.home} sh -c "$last" <in >out &
        exec 3<&0
        cat <&3 >in & cats=$!
        cat <out & cats="$cats $!"
        trap 'kill $cats; echo "Timeout, server a not responding." >&2; exit 255' USR1
        while :; do wait; done
        """
    )
    scene.stand_in(script)
    launcher = scene.probe("quiet", alive_interval=2)
    launcher.wait_event("ready", PATIENCE)
    launcher._process.send_signal(signal.SIGUSR1)  # type: ignore[union-attr]
    assert launcher.wait(PATIENCE)
    wait_for(lambda: scene.left() == [])
    assert launcher.problem().startswith(
        "probe (host a) ended: the connection was lost: it has not answered for 6 s"
    )


def test_what_a_killed_process_leaves_is_removed_by_the_next_start(scene: Scene) -> None:
    launcher = scene.probe("quiet")
    pid = launcher.wait_event("ready", PATIENCE)["pid"]
    keeper = psutil.Process(pid).parent()
    assert keeper is not None
    keeper.kill()
    assert launcher.wait(PATIENCE)
    wait_for(lambda: not psutil.pid_exists(pid))  # its lifeline was held by the killed one
    (left,) = scene.left()
    again = scene.probe("quiet")
    again.wait_event("ready", PATIENCE)
    (now,) = scene.left()
    assert now != left


def test_a_start_can_be_given_up_at_any_time(scene: Scene) -> None:
    scene.stand_in("exec sleep 60")
    launcher = scene.probe("quiet")
    launcher.wait_event("connecting", PATIENCE)
    launcher.request_stop()
    assert "stopped while it started" in failure(launcher)


def test_two_at_one_host_explain_their_own_failures(scene: Scene) -> None:
    first = scene.probe("quiet")
    first.wait_event("ready", PATIENCE)
    scene.stand_in('echo "ssh: connect to host a port 22: Connection refused" >&2; exit 255')
    second = scene.probe("quiet")
    assert "it takes no ssh connections" in failure(second)
    assert second.error_file.name == "probe-a-2.err"
    assert first.output() == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            """echo "'exec' is not recognized as an internal or external command," >&2; exit 1""",
            "it is a Windows host, and those are not supported",
        ),
        ("echo only sftp here; exit 1", "it does not run commands as expected (exit code 1)"),
        ("cat >/dev/null; exit 0", "did not let anybody log in within 2 s"),
    ],
)
def test_what_is_no_posix_host_is_told_as_such(scene: Scene, script: str, words: str) -> None:
    scene.stand_in(script)
    assert words in failure(scene.probe("quiet", connect_timeout=1))


def test_a_missing_ssh_is_told_at_once(scene: Scene) -> None:
    options = {"hosts": ["a"], "ssh": "/nowhere/ssh"}
    launcher = Probe(scene.directory, options=options, share=Probe.plan(1, options)[0])
    with pytest.raises(LauncherError, match="cannot start probe: .*/nowhere/ssh"):
        launcher.start()
    assert not launcher.running


def test_packages_go_ahead_of_what_is_installed_and_stay_for_the_next_time(scene: Scene) -> None:
    copied = []
    for _ in range(2):
        launcher = scene.probe("quiet", push="yes", setup=[f"export PYTHONPATH={ROOT}"])
        ready = launcher.wait_event("ready", PATIENCE)
        copied.append([e["what"] for e in launcher.events if e["event"] == "copying"])
        (path,) = ready["path"]
        assert (Path(path) / "ipkernel" / "launchers" / "remote.py").is_file()
        assert ready["environment"]["PYTHONPATH"] == f"{path}:{ROOT}"
        launcher.request_stop()
        assert launcher.wait(PATIENCE)
    assert copied == [["ipkernel", "keys"], ["keys"]]
    assert len(scene.left()) == 1


def test_a_preview_has_the_command_lines_and_no_secret(scene: Scene) -> None:
    options = {"hosts": ["me@a:2"], "setup": ["export TOKEN=secret"], "python": "~/bin/python"}
    (share,) = Probe.plan(None, options)
    launcher = Probe(scene.directory, ["quiet", str(scene.directory)], options=options, share=share)
    text = launcher.preview()
    first, setup, program = text.splitlines()
    assert first.startswith("ssh -T")
    assert "-l me -- a 'exec sh -c" in first
    assert setup == "    command 1 of 'setup'"
    place = f"~/.ipython/ssh/{scene.directory.name}-..."
    assert program == f"    ~/bin/python -P -m {Probe.module} quiet {place} --lifeline"
    assert "secret" not in text
