"""Options of the ssh launcher: hosts, their own sections, engines dealt out, the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipkernel.cluster.spec import MANY, read_spec
from ipkernel.errors import ConfigurationError
from ipkernel.launchers.sshoptions import (
    SPEC,
    HostEntry,
    plan_hosts,
    read_controller,
    read_host,
    read_hosts,
)

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5})?", fullmatch=True)
USERS = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 4096)


def written(name: str, user: str | None, n: int | None) -> str:
    return f"{f'{user}@' if user else ''}{name}{'' if n is None else f':{n}'}"


@given(NAMES, st.none() | USERS, COUNTS)
def test_an_entry_is_read_as_it_is_written(name: str, user: str | None, n: int | None) -> None:
    entry = read_host(f" {written(name, user, n)} ", {})
    assert (entry.host, entry.user, entry.n) == (name, user or "", n)
    assert entry.label == f"host {name}"


@given(st.text(max_size=20))
def test_no_text_is_read_as_an_option_for_ssh(text: str) -> None:
    try:
        entry = read_host(text, {})
    except ConfigurationError as error:
        assert "[ssh]" in str(error)
        assert "\n" not in str(error) or "\n" in text
        return
    assert not entry.host.startswith("-")
    assert not entry.user.startswith("-")
    assert not any(one.isspace() for one in entry.host + entry.user)
    assert entry.command()[-2:] == ["--", entry.host]


def test_addresses_of_the_sixth_version_stand_in_brackets() -> None:
    entry = read_host("me@[fe80::1]:2", {})
    assert (entry.host, entry.user, entry.n) == ("fe80::1", "me", 2)


# ---------------------------------------------------------------- engines over hosts


@given(st.lists(st.tuples(NAMES, COUNTS), min_size=1, max_size=6, unique_by=lambda one: one[0]))
def test_without_a_total_each_host_has_what_its_entry_says(
    hosts: list[tuple[str, int | None]],
) -> None:
    shares = plan_hosts(None, {"hosts": [written(name, None, n) for name, n in hosts]})
    assert [(share.label, share.n) for share in shares] == [
        (f"host {name}", n or 1) for name, n in hosts
    ]


@given(
    st.lists(st.none() | st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 40),
)
def test_a_total_is_dealt_out_fairly_within_the_limits(limits: list[int | None], n: int) -> None:
    assume(None in limits or n <= sum(limit or 0 for limit in limits))
    hosts = [written(f"h{index}", None, limit) for index, limit in enumerate(limits)]
    shares = plan_hosts(n, {"hosts": hosts})
    counts = {share.label: share.n for share in shares}
    found = [counts.get(f"host h{index}", 0) for index in range(len(limits))]
    assert sum(found) == n
    assert all(limit is None or count <= limit for count, limit in zip(found, limits, strict=True))
    free = [count for count, limit in zip(found, limits, strict=True) if count != limit]
    assert not free or max(found) - min(free) <= 1


def test_more_engines_than_the_hosts_take_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="5 engines are wanted, but the hosts .* take 4"):
        plan_hosts(5, {"hosts": ["a:3", "b:1"]})


def test_engines_of_a_host_without_a_number_are_an_option() -> None:
    options = {"hosts": ["a", "b", "c:5"], "engines": 3, "b": {"engines": "2"}}
    assert [share.n for share in plan_hosts(None, options)] == [3, 2, 5]


# ---------------------------------------------------------------------- the sections


def test_the_specification_has_help_and_the_same_options_for_each_host() -> None:
    section = read_spec("ssh", SPEC)
    own = section.sections[MANY].options
    assert set(section.options) - set(own) == {"hosts", "controller_host"}
    assert all(option.help for option in [*section.options.values(), *own.values()])
    assert all(option.default is None for option in own.values())
    defaults = {name: option.default for name, option in section.options.items()}
    assert read_host("a", defaults) == read_host("a", {})


def test_a_host_s_own_section_comes_first() -> None:
    options = {
        "hosts": ["a", "me@b"],
        "user": "all",
        "port": "22",
        "setup": ["one", "two, three"],
        "push": True,
        "b": {"user": "other", "port": 2222, "setup": "own, and whole", "python": None},
    }
    a, b = read_hosts(options)
    assert (a.user, a.port, a.setup, a.push) == ("all", 22, ("one", "two, three"), "yes")
    assert (b.user, b.port, b.setup, b.python) == ("me", 2222, ("own, and whole",), "python3")


def test_sections_of_hosts_that_are_not_wanted_now_do_no_harm() -> None:
    options = {"hosts": ["a"], "b": {"port": 1}, "c": {"unknown": "of whatever"}}
    assert [entry.host for entry in read_hosts(options)] == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["names no hosts", "hosts = a.example:4"]),
        ({"hosts": "a b"}, ["'a b', which is no host"]),
        ({"hosts": ["a", 5]}, ["hosts is ['a', 5]", "list of texts"]),
        ({"hosts": ["a:0"]}, ["'a:0'", "how many engines", "1 to 4096"]),
        ({"hosts": ["a:22222"]}, ["'a:22222'", "how many engines"]),
        ({"hosts": ["a:2", "x@a:3"]}, ["names 'a' 2 times"]),
        ({"hosts": ["a"], "prot": 1}, ["has 'prot'", "neither an option nor a section"]),
        ({"hosts": ["a"], "a": {"prot": 1}}, ["[[a]]", "unknown option 'prot'", "port"]),
        ({"hosts": ["a"], "a": "x"}, ["a must be a section"]),
        ({"hosts": ["a"], "port": 70000}, ["[ssh] port is 70000", "65535"]),
        ({"hosts": ["a"], "a": {"port": "x"}}, ["[ssh] [[a]] port is 'x'"]),
        ({"hosts": ["a"], "tunnel": "maybe"}, ["tunnel is 'maybe'", "auto"]),
        ({"hosts": ["a"], "host_keys": "off"}, ["host_keys is 'off'", "strict"]),
        ({"hosts": ["a"], "connect_timeout": 0}, ["connect_timeout is 0"]),
        ({"hosts": ["a"], "start_timeout": "soon"}, ["is 'soon'", "such as 90s, 30m"]),
        ({"hosts": ["a"], "a": {"alive_interval": "1x"}}, ["[[a]] alive_interval is '1x'"]),
        ({"hosts": ["a"], "python": "a\nb"}, ["python is", "line of text"]),
        ({"hosts": ["a"], "setup": 3}, ["setup is 3", "list of texts"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_hosts(None, options)
    for word in words:
        assert word in str(caught.value)


def test_the_controller_has_a_host_of_its_own() -> None:
    options = {"hosts": ["a"], "controller_host": "me@head", "head": {"port": 23}}
    entry = read_controller(options)
    assert (entry.host, entry.user, entry.port) == ("head", "me", 23)
    assert [one.host for one in read_hosts(options)] == ["a"]
    with pytest.raises(ConfigurationError, match="controller_host = "):
        read_controller({"hosts": ["a"]})


# ------------------------------------------------------------------- the command line


def test_the_command_line_has_what_was_chosen_and_the_user_s_options_first() -> None:
    entry = read_host(
        "me@a.example",
        {
            "port": 2222,
            "key": "/keys/one",
            "ssh": "/opt/ssh",
            "ssh_config": "/etc/own",
            "ssh_options": ["ProxyJump=gate", "ServerAliveInterval=99"],
            "host_keys": "accept-new",
            "connect_timeout": 2.5,
        },
    )
    words = entry.command("-o", "First=yes")
    assert words[0] == "/opt/ssh"
    assert words[-8:] == ["-p", "2222", "-l", "me", "-i", "/keys/one", "--", "a.example"]
    assert words[words.index("-F") + 1] == "/etc/own"
    options = [after for word, after in zip(words, words[1:], strict=False) if word == "-o"]
    assert options[:4] == [
        "First=yes",
        "ProxyJump=gate",
        "ServerAliveInterval=99",
        "StrictHostKeyChecking=accept-new",
    ]
    assert "BatchMode=yes" in options
    assert "ConnectTimeout=3" in options


def test_times_have_units() -> None:
    options = {"connect_timeout": "0.5 min", "start_timeout": "2m", "a": {"alive_interval": "1.5s"}}
    entry = read_host("a", options)
    assert (entry.connect_timeout, entry.start_timeout, entry.alive_interval) == (30.0, 120.0, 1.5)
    words = entry.command()
    assert "ConnectTimeout=30" in words
    assert "ServerAliveInterval=2" in words  # ssh takes whole seconds
    assert "ServerAliveInterval=5" in read_host("a", {"alive_interval": 5}).command()


def test_files_are_found_from_wherever_ssh_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    words = read_host("a", {"key": "keys/one", "ssh_config": "own"}).command()
    assert words[words.index("-i") + 1] == "/keys/one"
    assert words[words.index("-F") + 1] == "/own"


def test_by_default_ssh_s_own_configuration_decides_about_keys_and_names() -> None:
    words = read_host("a", {}).command()
    assert not {"-F", "-p", "-l", "-i"} & set(words)
    assert not any("StrictHostKeyChecking" in word for word in words)


def test_an_entry_survives_json_and_its_record_has_no_secrets() -> None:
    entry = read_host("a", {"setup": ["export TOKEN=secret"], "ssh_options": ["A=b"]})
    assert HostEntry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    assert "secret" not in json.dumps(entry.record())
    assert "secret" not in repr(entry)
    again = HostEntry.from_dict(json.loads(json.dumps(entry.record())))
    assert again.command() == entry.command()
