"""What is brought along to hosts without ipkernel, and the words that begin a conversation."""

from __future__ import annotations

import importlib.util
import io
import re
import tarfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshboot, sshpush
from ipkernel.launchers.sshtunnel import is_loopback, places

ROOT = Path(__file__).resolve().parents[2]


def contents(archive: sshpush.Archive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive.pack()), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_ipkernel_is_in_its_archive() -> None:
    archive = sshpush.find_archive(with_needs=False)
    found = contents(archive)
    source = ROOT / "ipkernel" / "launchers" / "remote.py"
    assert found["ipkernel/launchers/remote.py"] == source.read_bytes()
    assert {name.partition("/")[0] for name in found} == {"ipkernel"}
    assert not any("__pycache__" in name for name in found)
    assert sshpush.find_archive(with_needs=False) is archive


def test_the_digest_names_the_contents(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = {name: tmp_path / name for name in "ab"}
    digest = sshpush.Archive(files).digest
    assert sshpush.Archive(dict(reversed(files.items()))).digest == digest
    (tmp_path / "b").touch()  # its time is not part of it
    assert sshpush.Archive(files).digest == digest
    assert sshpush.Archive({"a": files["a"], "c": files["b"]}).digest != digest
    (tmp_path / "b").write_text("c")
    assert sshpush.Archive(files).digest != digest
    (tmp_path / "b").unlink()
    with pytest.raises(LauncherError, match="cannot pack ipkernel"):
        sshpush.Archive(files)


def test_what_is_needed_is_what_the_project_needs_but_for_clients() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    assert declared >= sshpush.CLIENT_ONLY
    brought = {one.metadata["Name"].lower() for one in sshpush._closure("ipkernel")}
    assert declared - sshpush.CLIENT_ONLY <= brought
    assert not brought & sshpush.CLIENT_ONLY
    assert "service-identity" in brought  # of twisted[tls], which foolscap needs
    names = {"pyopenssl": "OpenSSL", "attrs": "attr"}
    wanted = {names.get(name, name) for name in declared - sshpush.CLIENT_ONLY}
    assert wanted == set(sshpush.NEEDS)
    assert all(importlib.util.find_spec(name) for name in sshpush.NEEDS)


def test_compiled_modules_go_only_where_they_fit() -> None:
    assert sshpush.fits(sshpush.platform())
    assert not sshpush.fits(["linux-aarch64", sshpush.platform()[1]])
    assert not sshpush.fits([sshpush.platform()[0], "cpython-399"])


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_the_words_for_the_host_have_the_lengths_that_they_announce(setup: list[str]) -> None:
    words = sshboot.first_words("~/my python", setup)
    begin, take, rest = words.split(b"\n", 2)
    size = int(take.split(b"count=")[1].split()[0])
    script, rest = rest[:size], rest[size:]
    assert begin.startswith(b"if command -v bash")
    assert script.endswith(b"'\n")
    check_size = int(script.split(b"n, s = ")[1].split(b",")[0])
    check, remote = rest[:check_size], rest[check_size:]
    compile(check, "check", "exec")
    assert int(check.split(b"n, s = ")[1].split(b",")[0]) == len(remote)
    assert remote == (ROOT / "ipkernel" / "launchers" / "remote.py").read_bytes()


@pytest.mark.parametrize("shell", ["", "sh", "bash"])
def test_what_stands_on_ssh_s_command_line_is_always_the_same(shell: str) -> None:
    assert "secret" in sshboot.first_words("python3", ["echo secret"], shell).decode()
    assert "secret" not in sshboot.COMMAND
    assert not set(sshboot.COMMAND) & set("\\!\n")


def test_hints_are_places() -> None:
    assert places(("tcp:a.example:1", "tcp:[::1]:22", "tor:x:1x", "tcp::3")) == [
        ("a.example", 1),
        ("::1", 22),
    ]
    assert [is_loopback(one) for one in ("127.0.1.1", "::1", "localhost", "10.0.0.1")] == [
        True,
        True,
        True,
        False,
    ]
