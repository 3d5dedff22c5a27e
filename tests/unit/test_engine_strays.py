"""What is killed after the end of an engine, and when looking for it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.engine import native
from ipkernel.engine.strays import LONGEST, PATIENCE, Strays

ENGINE, OTHER, MEMORY = 100, 101, 7


class Machine:
    """Processes that are children of the zygote, or of other processes, as the system shows them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0
        self.owner: dict[int, int | None] = {}
        self.parent: dict[int, int] = {}
        self.clear: dict[int, float] = {}
        self.dying: dict[int, float] = {}
        self.linger: dict[int, float] = {}
        self.killed: list[int] = []
        self.strays = Strays(self.children, self.belongs_to, self.kill, lambda: self.now)

    def add(
        self,
        pid: int,
        owner: int | None = ENGINE,
        *,
        parent: int = 0,
        clear: float = 0.0,
        linger: float = 0.0,
    ) -> None:
        """A process whose owner shows after ``clear`` seconds, and that takes so long to die."""
        self.owner[pid] = owner
        self.parent[pid] = parent
        self.clear[pid] = self.now + clear
        self.linger[pid] = linger

    def children(self) -> list[int]:
        self.looks += 1
        for pid in [pid for pid, when in self.dying.items() if when <= self.now]:
            del self.dying[pid], self.owner[pid], self.parent[pid]
            for child, parent in self.parent.items():
                if parent == pid:
                    self.parent[child] = 0
        return [pid for pid, parent in self.parent.items() if parent == 0]

    def belongs_to(self, pid: int, engine: int, mapped: int) -> bool | None:
        assert mapped == MEMORY
        if self.now < self.clear[pid]:
            return None
        return self.owner[pid] == engine

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        self.dying.setdefault(pid, self.now + self.linger[pid])

    def end(self, *engines: int) -> None:
        self.strays.end(ENGINE, MEMORY, engines)

    def pass_time(self, seconds: float, *engines: int) -> None:
        """Do as the zygote does, for so long."""
        until = self.now + seconds
        while (delay := self.strays.delay()) is not None and self.now + delay <= until:
            self.now += delay
            self.strays.look(engines)
        self.now = until


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_nothing_is_left(machine: Machine) -> None:
    assert machine.strays.delay() is None
    machine.strays.look([])
    assert machine.looks == 0
    machine.end()
    assert machine.looks == 1 and machine.strays.delay() is None


def test_what_is_the_engines_is_killed_at_once(machine: Machine) -> None:
    machine.add(1)
    machine.add(2, OTHER)
    machine.add(3, None)
    machine.add(OTHER, ENGINE)  # as if it were: an engine is nobody's
    machine.end(OTHER)
    assert machine.killed == [1]
    machine.pass_time(PATIENCE, OTHER)
    assert set(machine.killed) == {1}
    assert machine.looks == 2 and machine.strays.delay() is None


def test_what_cannot_be_told_at_first_is_looked_at_again(machine: Machine) -> None:
    machine.add(1, clear=0.0005)
    machine.end()
    assert machine.killed == []
    assert machine.strays.delay() == pytest.approx(0.001)
    machine.strays.look([])  # the zygote was woken by something else
    assert machine.looks == 1
    machine.pass_time(0.002)
    assert machine.killed == [1]
    machine.pass_time(1.0)
    assert machine.owner == {} and machine.strays.delay() is None


def test_what_can_never_be_told_is_left_alone_after_a_while(machine: Machine) -> None:
    machine.add(1, clear=1e9)
    machine.end()
    machine.pass_time(PATIENCE - 1)
    assert machine.strays.delay() is not None
    machine.pass_time(2)
    assert machine.strays.delay() is None and machine.killed == []
    assert machine.looks < PATIENCE / LONGEST + 20


def test_a_process_that_does_not_die_does_not_keep_anybody_busy(machine: Machine) -> None:
    machine.add(1, linger=1e9)
    machine.end()
    machine.pass_time(PATIENCE + 1)
    assert machine.strays.delay() is None and set(machine.killed) == {1}


def test_children_of_what_was_killed_follow(machine: Machine) -> None:
    machine.add(1, linger=0.01)
    machine.add(2, parent=1, linger=0.2)
    machine.add(3, parent=2)
    machine.add(4, OTHER, parent=2)
    machine.end()
    assert machine.killed == [1]
    machine.pass_time(2.0)
    assert machine.owner == {4: OTHER}
    assert machine.strays.delay() is None


def test_another_engine_that_ends_is_looked_for_at_once(machine: Machine) -> None:
    machine.add(1, clear=20.0)
    machine.end()
    machine.pass_time(5.0)
    machine.add(2, OTHER)
    machine.strays.end(OTHER, MEMORY, [])
    assert machine.killed == [2]
    machine.pass_time(20.0)
    assert machine.owner == {} and machine.strays.delay() is None


def test_the_number_of_an_engine_that_is_given_again(machine: Machine) -> None:
    machine.add(1, clear=0.5)
    machine.end()
    machine.strays.began(ENGINE)
    assert machine.strays.delay() is None
    machine.pass_time(1.0, ENGINE)
    assert machine.killed == []


times = st.floats(0.0, 3.0)
processes = st.lists(
    st.tuples(st.sampled_from([ENGINE, OTHER, None]), st.integers(0, 5), times, times), max_size=8
)


@given(processes)
def test_all_that_can_be_reached_is_killed_and_nothing_else(made) -> None:
    machine = Machine()
    machine.add(1, OTHER)
    for number, (owner, parent, clear, linger) in enumerate(made, 2):
        known = parent if parent in machine.owner and owner == machine.owner[parent] else 0
        machine.add(number, owner, parent=known, clear=clear, linger=linger)
    machine.end()
    machine.pass_time(PATIENCE + 1)
    assert ENGINE not in machine.owner.values()
    assert sum(owner != ENGINE for owner, *_ in made) + 1 == len(machine.owner)
    assert machine.strays.delay() is None


# ---------------------------------------------------------------------- what the system shows

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@linux
def test_whose_a_program_is() -> None:
    with subprocess.Popen(["sleep", "100"], env={**os.environ, native.COOKIE: "17"}) as child:
        until(lambda: native.belongs_to(child.pid, 17, -1) is not None)
        assert native.belongs_to(child.pid, 17, -1) is True
        assert native.belongs_to(child.pid, 1, -1) is False
        assert child.pid in native.children()
        child.kill()
    assert native.belongs_to(child.pid, 17, -1) is None
    assert child.pid not in native.children()


@linux
def test_whose_a_program_without_an_environment_is_cannot_be_told() -> None:
    with subprocess.Popen(
        ["sh", "-c", f"echo; read go; {native.COOKIE}=17 exec sleep 100"],
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"\n"
        assert native.belongs_to(child.pid, 17, -1) is None
        child.stdin.write(b"\n")
        child.stdin.flush()
        until(lambda: native.belongs_to(child.pid, 17, -1))
        child.kill()


@linux
def test_whose_it_was_cannot_be_told_of_what_has_ended() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert native.belongs_to(child.pid, 17, -1) is None
