"""Asking an ssh connection for ports, with a script in the place of ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipkernel.errors import LauncherError
from ipkernel.launchers.sshoptions import read_host
from ipkernel.launchers.sshtunnel import Tunnels


class Scene:
    """An ssh that answers, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ssh = directory / "ssh"
        self.sockets = directory / "sockets"
        self.sockets.mkdir()
        self.tunnels = Tunnels(read_host("me@a", {"ssh": str(self.ssh)}), self.sockets)

    def answer(self, text: str = "", errors: str = "", code: int = 0) -> None:
        lines = [
            "#!/bin/sh",
            f'pwd >{self._directory}/asked; printf "%s\\n" "$@" >>{self._directory}/asked',
            f"printf '%s' '{text}'; printf '%s' '{errors}' >&2; exit {code}",
        ]
        self.ssh.write_text("\n".join(lines))
        self.ssh.chmod(0o700)

    def asked(self) -> list[str]:
        return (self._directory / "asked").read_text().splitlines()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_port_of_the_host_is_chosen_there(scene: Scene) -> None:
    scene.answer("Allocated port 40123\n40123\n")
    assert scene.tunnels.to_here("::1", 4711) == 40123
    where, *words = scene.asked()
    assert where == str(scene.sockets)
    control = words[words.index("-o") + 1]
    assert control.startswith("ControlPath=./ssh-")
    assert control in scene.tunnels.options  # of the ssh that makes the connection
    assert scene.tunnels.place == {"cwd": scene.sockets}
    assert words[-6:] == ["-O", "forward", "-R", "127.0.0.1:0:[::1]:4711", "--", "a"]
    assert words[:2] == ["-F", "/dev/null"]


def test_a_port_of_this_machine_is_chosen_here(scene: Scene) -> None:
    scene.answer()
    port = scene.tunnels.to_there("127.0.0.1", 4711)
    assert scene.asked()[-3] == f"127.0.0.1:{port}:127.0.0.1:4711"
    assert scene.asked()[-4] == "-L"
    assert 1024 <= port < 65536


@pytest.mark.parametrize(("text", "errors", "code"), [("", "it is forbidden", 255), ("?", "", 0)])
def test_what_cannot_be_had_is_told_with_what_to_do(
    scene: Scene, text: str, errors: str, code: int
) -> None:
    scene.answer(text, errors, code)
    with pytest.raises(LauncherError) as caught:
        scene.tunnels.to_here("127.0.0.1", 4711)
    said = str(caught.value)
    assert f"({errors or text}): have it permit AllowTcpForwarding" in said


def test_a_missing_ssh_is_told(scene: Scene) -> None:
    with pytest.raises(LauncherError, match="does not open a tunnel .*No such file"):
        scene.tunnels.to_here("127.0.0.1", 4711)


def test_two_connections_to_a_host_have_sockets_of_their_own(scene: Scene) -> None:
    other = Tunnels(read_host("a", {}), scene.sockets)
    assert other.options != scene.tunnels.options
    name = scene.tunnels.options[-1].rpartition("/")[2]
    (scene.sockets / name).touch()
    scene.tunnels.remove()
    scene.tunnels.remove()
    assert list(scene.sockets.iterdir()) == []
