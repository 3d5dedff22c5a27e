"""What ssh says, and what people are told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.launchers import sshtext
from ipkernel.launchers.sshoptions import HostEntry, read_host


def entry(text: str = "me@a.example:2", **options: Any) -> HostEntry:
    return read_host(text, options)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "ssh: Could not resolve hostname a.example: Name or service not known",
            ["no host of this name", "'hosts'"],
        ),
        (
            "ssh: connect to host a.example port 22: Connection refused",
            ["no ssh connections on port 22", "start its ssh server"],
        ),
        (
            "ssh: connect to host a.example port 22: Connection timed out",
            ["did not answer within 15 s", "connect_timeout"],
        ),
        (
            "Connection timed out during banner exchange",
            ["did not answer within 15 s"],
        ),
        (
            "ssh: connect to host a.example port 22: No route to host",
            ["no way to it"],
        ),
        (
            "me@a.example: Permission denied (publickey,password).",
            ["user 'me'", "ssh-copy-id me@a.example", "key = FILE"],
        ),
        ("Host key verification failed.", ["ssh me@a.example", "host_keys = accept-new"]),
        (
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
            ["not the one that ssh knows", "ssh-keygen -R a.example"],
        ),
        (
            "command-line: line 0: Bad configuration option: hots",
            ["configuration", "hots"],
        ),
        (
            "'exec' is not recognized as an internal or external command,",
            ["Windows host", "not supported"],
        ),
        (
            "    + FullyQualifiedErrorId : CommandNotFoundException",
            ["Windows host", "not supported"],
        ),
        ("This account is currently not available.", ["does not permit commands"]),
    ],
)
def test_each_way_to_fail_has_its_remedy(line: str, words: list[str]) -> None:
    said = sshtext.explain(["Welcome to a.example", line], entry(), 255)
    for word in words:
        assert word in said
    assert "\n" not in said


def test_a_changed_key_is_not_taken_for_an_unknown_one() -> None:
    lines = [
        "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
        "Host key verification failed.",
    ]
    assert "accept-new" not in sshtext.explain(lines, entry(), 255)


@pytest.mark.parametrize(
    "line",
    [
        "Warning: Identity file /no/such not accessible: No such file or directory.",
        "Permissions 0644 for '/home/me/key' are too open.",
        'Load key "/home/me/key.pub": error in libcrypto',
    ],
)
def test_a_key_that_cannot_be_used_is_named_if_it_was_needed(line: str) -> None:
    said = sshtext.explain([line, "me@a: Permission denied (publickey)."], entry(), 255)
    assert "does not let user 'me' log in" in said
    assert said.endswith(f"(ssh: {line})")
    refused = "ssh: connect to host a port 22: Connection refused"
    assert line not in sshtext.explain([line, refused], entry(), 255)


def test_what_is_not_known_is_repeated() -> None:
    said = sshtext.explain(["something", "  else {odd}  "], entry("a"), 255)
    assert said.endswith("ended before anything could be started: else {odd}")
    said = sshtext.explain(["no such shell"], entry("a"), 1)
    assert "exit code 1): no such shell; try 'ssh a echo hello'" in said
    assert "without a word" in sshtext.explain([], entry("a"), 1)


@given(st.lists(st.text(max_size=40), max_size=5), st.none() | st.integers(0, 255))
def test_there_is_always_a_sentence(lines: list[str], code: int | None) -> None:
    assert sshtext.explain(lines, entry(), code).strip()
    assert "lost" in sshtext.explain_loss(lines, entry())


def test_a_silent_host_is_told_from_a_closed_connection() -> None:
    silent = ["Timeout, server a.example not responding."]
    assert "not answered for 6 s" in sshtext.explain_loss(silent, entry(alive_interval=2))
    closed = ["Connection to a.example closed by remote host."]
    assert "(Connection to a.example closed by remote host.)" in sshtext.explain_loss(
        closed, entry()
    )


def test_commands_of_setup_are_counted_from_one_and_not_repeated() -> None:
    secret = entry(setup=["true", "export TOKEN=secret; false"])
    said = sshtext.explain_setup({"at": 1, "code": 3}, secret, ["not found"])
    assert "command 2 of 'setup' has failed there with code 3: not found" in said
    assert "secret" not in said


def test_versions_are_told_with_what_to_do() -> None:
    assert "Python 3.9.1" in sshtext.old_python("3.9.1", (3, 11), entry())
    assert "3.11 or newer" in sshtext.old_python("3.9.1", (3, 11), entry())
    missing = sshtext.wrong_version("", "1.2", "/usr/bin/python3")
    assert missing.startswith("ipkernel is not installed for /usr/bin/python3: run")
    assert "push = yes" in missing
    other = sshtext.wrong_version("1.1", "1.2", "/usr/bin/python3")
    assert "has ipkernel 1.1, and this is 1.2" in other
    assert "twisted, attr" in sshtext.missing_needs(["twisted", "attr"], "python3")
