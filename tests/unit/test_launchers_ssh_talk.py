"""The conversation with a host, with a host that is made of bytes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import LauncherError
from ipkernel.launchers import sshboot
from ipkernel.launchers.sshoptions import read_host
from ipkernel.launchers.sshtalk import LONGEST, Conversation, events

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.builds(
    lambda name, more: {**more, "event": name}, st.text(), st.dictionaries(st.text(), JSON)
)
NOISE = st.binary(max_size=20).map(lambda data: b"#" + data.replace(b"\n", b""))


class Pieces:
    """A stream that comes in pieces."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = sizes

    def read(self, most: int) -> bytes:
        size = self._sizes.pop() if self._sizes else most
        found, self._data = self._data[:size], self._data[size:]
        return found


@given(st.lists(EVENTS | NOISE, max_size=8), st.lists(st.integers(1, 30)))
def test_events_are_found_however_they_are_cut_and_noise_is_left_out(
    lines: list[Any], sizes: list[int]
) -> None:
    data = b"".join(
        (one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines
    )
    found = list(events(Pieces(data, sizes).read))
    assert found == [one for one in lines if isinstance(one, dict)]


@pytest.mark.parametrize(
    "line", [b"[]", b"1", b'{"event": 3}', b'{"other": "x"}', b"\xff{", b"[" * 10**5]
)
def test_what_is_no_event_is_left_out(line: bytes) -> None:
    assert list(events(io.BytesIO(line + b'\n{"event": "x"}\n').read)) == [{"event": "x"}]


def test_a_host_that_never_ends_its_line_is_not_heard_out() -> None:
    class Endless(io.BytesIO):
        said = 0

        def read(self, most: int | None = -1) -> bytes:
            assert most is not None
            self.said += most
            assert self.said < 2 * LONGEST
            return b"x" * most

    with pytest.raises(ValueError, match="a line of more than"):
        next(events(Endless().read))


class Host:
    """An ssh process that says what it is given, and remembers what it is told."""

    def __init__(self, *said: dict[str, Any], code: int = 0) -> None:
        self.stdin = io.BytesIO()
        self.stdout = io.BytesIO(b"".join(json.dumps(one).encode() + b"\n" for one in said))
        self.code = code
        self.terminated = False

    def poll(self) -> int | None:
        return self.code if self.terminated else None

    def wait(self) -> int:
        return self.code

    def terminate(self) -> None:
        self.terminated = True


def talk(host: Host, *errors: str, **options: Any) -> Conversation:
    return Conversation(host, read_host("a", options), lambda: list(errors))  # type: ignore[arg-type]


def test_an_order_is_written_whole_and_answered() -> None:
    host = Host({"event": "@checked", "python": "3.12"})
    answer = talk(host).order("@checked", {"act": "check", "é": 1}, b"data")
    assert answer["python"] == "3.12"
    length, _, rest = host.stdin.getvalue().partition(b"\n")
    assert json.loads(rest[: int(length)]) == {"act": "check", "é": 1}
    assert rest[int(length) :] == b"data"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": sshboot.NO_PYTHON}, "there is no 'python3'"),
        ({"event": sshboot.OLD_PYTHON, "version": "3.9.2"}, "is Python 3.9.2"),
        ({"event": sshboot.SETUP, "at": 0, "code": 127}, "command 1 of 'setup' has failed"),
        ({"event": "@problem", "message": "the disk is full"}, "the disk is full"),
    ],
)
def test_what_the_host_says_instead_of_an_answer_is_raised(
    event: dict[str, Any], words: str
) -> None:
    with pytest.raises(LauncherError, match=words):
        talk(Host({"event": "something else"}, event)).expect("@here")


def test_an_end_before_the_host_takes_orders_is_explained_by_ssh_s_words() -> None:
    with pytest.raises(LauncherError, match="no ssh connections"):
        talk(Host(code=255), "connect to host a port 22: Connection refused").expect("@here")


@pytest.mark.parametrize(
    ("line", "away"),
    [
        ("ssh: connect to host a port 22: Connection refused", True),
        ("ssh: connect to host a port 22: Connection timed out", True),
        ("ssh: connect to host a port 22: No route to host", True),
        ("kex_exchange_identification: read: Connection reset by peer", True),
        ("ssh: Could not resolve hostname a: Temporary failure in name resolution", True),
        ("ssh: Could not resolve hostname a: Name or service not known", False),
        ("me@a: Permission denied (publickey).", False),
        ("Host key verification failed.", False),
        ("", False),
    ],
)
def test_a_host_to_which_there_is_no_way_is_told_from_one_that_lets_nobody_in(
    line: str, away: bool
) -> None:
    conversation = talk(Host(code=255), line)
    with pytest.raises(LauncherError):
        conversation.begin()
    conversation.watch(0)
    assert conversation.unreachable is away


def test_a_host_that_was_reached_is_not_away() -> None:
    conversation = talk(Host({"event": "@shell"}, code=255), "Connection closed by remote host.")
    conversation.begin()
    conversation.watch(0)
    with pytest.raises(LauncherError):
        conversation.expect("@here")
    assert not conversation.unreachable


def test_an_end_after_that_is_a_loss() -> None:
    conversation = talk(Host(code=255), "Timeout, server a not responding.")
    conversation.taken = True
    with pytest.raises(LauncherError, match="the connection was lost: it has not answered"):
        conversation.expect("@started")


def test_an_end_that_the_owner_wants_is_no_fault_of_the_host() -> None:
    conversation = talk(Host(code=255))
    conversation.stopped = True
    with pytest.raises(LauncherError, match="stopped while it started"):
        conversation.expect("@here")


def test_the_beginning_ends_its_own_watch_when_told() -> None:
    host = Host({"event": "@shell"})
    conversation = talk(host)
    conversation.begin()
    conversation.watch(0)
    assert host.stdin.getvalue() == sshboot.first_words("python3")
    assert not host.terminated


def test_being_too_late_hangs_up_and_says_why() -> None:
    host = Host()
    conversation = talk(host)
    conversation._late("it took too long")
    assert host.terminated
    with pytest.raises(LauncherError, match="it took too long"):
        conversation.expect("@here")
    assert conversation.unreachable  # nobody has let us in


def test_nothing_can_be_written_after_the_end() -> None:
    conversation = talk(Host())
    assert conversation.write(b"x")
    conversation.finish()
    assert not conversation.write(b"x")
    conversation.finish()
