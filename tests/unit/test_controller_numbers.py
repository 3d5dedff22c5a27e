"""Numbers of sessions and hosts, which do not come again."""

from __future__ import annotations

import pytest

from ipkernel.controller import numbers
from ipkernel.controller.folding import Folded
from ipkernel.controller.journal import LifeBegan
from ipkernel.controller.numbers import BLOCK, Numbers


class Life:
    """A controller's numbers, and what of them is in the journal."""

    def __init__(
        self, before: list[LifeBegan] | None = None, known: set[int] | None = None
    ) -> None:
        old = Folded(before or [])
        self.known = known or set()
        self.written: list[LifeBegan] = []
        self.numbers = Numbers(
            old.life + 1, *old.numbers, self.written.append, lambda: 5.0, self.known.__contains__
        )


def test_none_comes_again_wherever_a_life_ends() -> None:
    sessions: list[int] = []
    hosts: list[int] = []
    written: list[LifeBegan] = []
    for count in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 2):
        life = Life(written)
        for _ in range(count):
            sessions.append(life.numbers.session())
            hosts.append(life.numbers.host())
            assert sessions[-1] <= life.written[-1].sessions, "it is set aside before it is given"
            assert hosts[-1] <= life.written[-1].hosts
        written = life.written[-1:]  # only the latest is kept
    assert sessions == sorted(set(sessions))
    assert hosts == sorted(set(hosts))


def test_few_records_are_written() -> None:
    life = Life()
    for _ in range(10 * BLOCK):
        life.numbers.session()
    assert 10 <= len(life.written) <= 12
    assert {record.life for record in life.written} == {1}


def test_the_first_hosts_of_a_cluster_count_from_one() -> None:
    life = Life()
    assert [life.numbers.host() for _ in range(3)] == [1, 2, 3]


def test_a_life_without_a_journal_hardly_begins_where_the_last_one_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numbers.secrets, "randbelow", lambda limit: limit - 1)
    assert Life().numbers.session() == 1 << 21


def test_after_the_last_number_the_first_come_again_that_are_not_in_use() -> None:
    life = Life([LifeBegan(1, 1.0, numbers.LAST_SESSION - 2, 7)], known={1, 2})
    assert [life.numbers.session() for _ in range(4)] == [
        numbers.LAST_SESSION - 1,
        numbers.LAST_SESSION,
        3,
        4,
    ]
    assert 4 <= life.written[-1].sessions <= 4 + BLOCK
