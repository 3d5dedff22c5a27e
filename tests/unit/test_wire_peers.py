"""Who is at the other end of a local socket, and whether that can be known at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ipkernel.wire import localport, peers

ALL = "         0          0 4294967295\n"


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the kernel does not tell here")
def test_the_other_end_of_a_pair_is_ours() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peers.peer_user(one) == os.geteuid()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the kernel does not tell here")
@pytest.mark.parametrize(
    ("overflow", "mapped", "can"),
    [
        (1, ALL, True),
        (1, "0 1000 1\n", True),
        (0, ALL, True),  # nobody's own processes
        (0, "", False),
        (0, "0 1000 1\n", False),
        (0, f"{ALL}1 2 3\n", False),
    ],
)
def test_users_without_a_number_here_are_not_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overflow: int, mapped: str, can: bool
) -> None:
    """``overflow``: by how much our own number differs from that of those who have none."""
    for name, text in (("_OVERFLOW", f"{os.geteuid() + overflow}\n"), ("_MAPPED", mapped)):
        (tmp_path / name).write_text(text, "ascii")
        monkeypatch.setattr(peers, name, tmp_path / name)
    assert peers.can_tell_users() is can


@pytest.mark.parametrize("text", [None, "", "many\n"])
def test_where_it_is_not_known_who_has_none_nobody_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    file = tmp_path / "overflowuid"
    if text is not None:
        file.write_text(text, "ascii")
    monkeypatch.setattr(peers, "_OVERFLOW", file)
    assert not peers.can_tell_users()


def test_there_are_no_local_ports_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localport, "can_tell_users", lambda: False)
    assert not localport.supported()
    assert localport.dial("unix:@ipkernel-1-0") is None
