"""The kernel's way of relaying by itself: threads and sockets, no reactor."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if not hasattr(os, "splice"):
    pytest.skip("this system has no splice", allow_module_level=True)

from ipkernel.controller import splicing
from ipkernel.controller.splicing import Splice


def connection():
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), 20)
        two, _ = server.accept()
    two.setblocking(False)
    return one, two


@contextmanager
def spliced(early=(b"", b"")):
    """Two sockets that are joined, and what joins them."""
    (one, near), (two, far) = connection(), connection()
    ended = threading.Event()
    splice = Splice((near, far), early, ended.set)
    splice.start()
    try:
        yield one, two, splice, ended
    finally:
        one.close()
        two.close()
        splice.stop()
        assert ended.wait(20)
        assert near.fileno() == far.fileno() == -1


def read_all(one):
    data = bytearray()
    while got := one.recv(1 << 16):
        data += got
    return bytes(data)


def test_bulk_gathers_and_what_is_small_goes_at_once(monkeypatch):
    pauses = []
    monkeypatch.setattr(splicing, "time", SimpleNamespace(sleep=pauses.append))
    with spliced() as (one, two, splice, ended):
        for _ in range(100):
            one.sendall(b"question")
            assert two.recv(100) == b"question"
            two.sendall(b"answer")
            assert one.recv(100) == b"answer"
        assert pauses == []
        sender = threading.Thread(target=lambda: (one.sendall(bytes(16 << 20)), one.close()))
        sender.start()
        assert len(read_all(two)) == 16 << 20
        sender.join(20)
        assert set(pauses) == {splicing._GATHER}


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(
    there=st.lists(st.integers(1, 300_000), max_size=6),
    back=st.lists(st.integers(1, 300_000), max_size=6),
    early=st.tuples(st.binary(max_size=50), st.binary(max_size=50)),
)
def test_everything_arrives_in_order(there, back, early):
    with spliced(early) as (one, two, splice, ended):
        results = {}

        def run(mine, sizes, name):
            reader = threading.Thread(target=lambda: results.setdefault(name, read_all(mine)))
            reader.start()
            for number, size in enumerate(sizes):
                mine.sendall(bytes([number]) * size)
            mine.shutdown(socket.SHUT_WR)
            reader.join(20)

        sides = [
            threading.Thread(target=run, args=(one, there, "one")),
            threading.Thread(target=run, args=(two, back, "two")),
        ]
        for side in sides:
            side.start()
        for side in sides:
            side.join(20)
        assert ended.wait(20)
        to_two = early[0] + b"".join(bytes([n]) * size for n, size in enumerate(there))
        to_one = early[1] + b"".join(bytes([n]) * size for n, size in enumerate(back))
        assert results == {"one": to_one, "two": to_two}
        assert splice.passed == (len(to_two), len(to_one))


def looks(splice, monkeypatch):
    """Count how often the thread looks what there is to do."""
    count = [0]
    wanted = splice._wanted

    def counted():
        count[0] += 1
        return wanted()

    monkeypatch.setattr(splice, "_wanted", counted)
    return count


def rests(count):
    """Tell whether the thread has stopped looking, and waits."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        before = count[0]
        time.sleep(0.1)
        if count[0] == before:
            return True
    return False


def fill(one):
    one.setblocking(False)
    sent = 0
    idle = 0
    while idle < 5:
        try:
            sent += one.send(bytes(1 << 16))
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.05)
    one.setblocking(True)
    return sent


def test_nothing_is_done_while_nobody_sends_or_nobody_receives(monkeypatch):
    with spliced() as (one, two, splice, _):
        count = looks(splice, monkeypatch)
        one.sendall(b"x")
        assert two.recv(1) == b"x"
        assert rests(count)
        sent = fill(one)
        assert rests(count)
        two.sendall(b"y")  # the other direction is free
        assert one.recv(1) == b"y"
        assert rests(count)
        left = sent
        while left:
            left -= len(two.recv(1 << 20))
        assert rests(count)


def test_nothing_is_done_while_one_side_has_ended(monkeypatch):
    with spliced() as (one, two, splice, ended):
        count = looks(splice, monkeypatch)
        one.sendall(b"x")
        one.shutdown(socket.SHUT_WR)
        assert read_all(two) == b"x"
        assert rests(count)
        one.close()
        assert rests(count)
        assert not ended.is_set()
        two.sendall(b"to nobody")  # which is answered with a reset


def test_a_stop_wakes_a_thread_that_waits_for_either():
    for stuck in (False, True):
        with spliced() as (one, _, splice, ended):
            if stuck:
                fill(one)
            splice.stop()
            splice.stop()
            assert ended.wait(20)
        splice.stop()


def test_small_pipes_do_as_well(monkeypatch):
    """Where a user may have no more memory in pipes, they have one page."""
    monkeypatch.setattr(
        splicing, "fcntl", type("F", (), {"fcntl": lambda *a: fcntl.fcntl(a[0], a[1], 4096)})
    )
    with spliced((b"early" * 4000, b"")) as (one, two, _, _):
        data = os.urandom(3_000_000)
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        expected = b"early" * 4000 + data
        got = bytearray()
        while len(got) < len(expected):
            got += two.recv(1 << 16)
        sender.join(20)
        assert got == expected


def test_a_fault_closes_everything(monkeypatch):
    """Whatever it is: nobody is left waiting."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(Splice, "_wanted", lambda self: 1 / 0)
    with spliced() as (one, two, _, ended):
        assert ended.wait(20)
        assert one.recv(1) == two.recv(1) == b""
    assert len(seen) == 1
