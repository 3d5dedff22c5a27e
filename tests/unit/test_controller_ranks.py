"""Ids for the ranks of MPI jobs, and orders that these can only follow as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.controller.events import HostFacts
from ipkernel.controller.jobs import comrades, without_parts_of_jobs
from ipkernel.controller.registry import Host, Ids
from ipkernel.controller.slots import Engine
from ipkernel.errors import ConnectError


def test_a_job_alone_gets_its_ranks_as_ids() -> None:
    ids = Ids()
    assert ids.take_ranks([0, 2], "job", 4) == [0, 2]
    assert ids.take_ranks([1, 3], "job", 4) == [1, 3]


@pytest.mark.parametrize("ranks", [[0, 4], [-1], [1 << 19]])
def test_ranks_that_the_job_does_not_have(ranks: list[int]) -> None:
    ids = Ids()
    with pytest.raises(ConnectError, match="an MPI job of 4 ranks has no others"):
        ids.take_ranks(ranks, "job", 4)
    assert ids.take(1) == [0]


def test_there_are_only_so_many_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipkernel.controller.registry.MAX_ENGINES", 8)
    ids = Ids()
    assert ids.take(6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ConnectError, match="at most 8 engines, and this one is full"):
        ids.take(3)
    with pytest.raises(ConnectError, match="at most 8 engines"):
        ids.take_ranks([0, 2], "job", 3)
    assert ids.take(2) == [6, 7]  # nothing was taken by those who failed
    ids.free(3)
    assert ids.take(1) == [3]


def test_a_job_beside_others_gets_ids_in_a_row() -> None:
    ids = Ids()
    assert ids.take(3) == [0, 1, 2]
    ids.free(1)
    assert ids.take_ranks([0, 1], "job", 3) == [3, 4]
    assert ids.take(2) == [1, 6]  # 5 is kept for the rank that has not come
    assert ids.take_ranks([2], "job", 3) == [5]


def test_a_gap_that_is_large_enough_is_used() -> None:
    ids = Ids()
    ids.take(6)
    for number in (1, 2, 3):
        ids.free(number)
    assert ids.take_ranks([0, 1, 2], "job", 3) == [1, 2, 3]


def test_two_jobs_do_not_get_into_each_others_way() -> None:
    ids = Ids()
    assert ids.take_ranks([0], "one", 2) == [0]
    assert ids.take_ranks([0], "two", 2) == [2]
    assert ids.take_ranks([1], "one", 2) == [1]
    assert ids.take_ranks([1], "two", 2) == [3]


def test_what_was_kept_for_a_job_is_free_when_it_has_ended() -> None:
    ids = Ids()
    ids.take_ranks([0], "job", 3)
    assert ids.take(1) == [3]
    ids.free(0)
    assert ids.take(4) == [0, 1, 2, 4]


def test_the_next_job_gets_the_same_ids() -> None:
    ids = Ids()
    for job in ("first", "second", "third"):
        assert ids.take_ranks([0, 1, 2], job, 3) == [0, 1, 2]
        for number in range(3):
            ids.free(number)


@given(
    st.lists(
        st.one_of(
            st.integers(1, 4),
            st.tuples(st.sampled_from("abc"), st.sets(st.integers(0, 4), min_size=1)),
            st.sets(st.integers(0, 12)),
        ),
        max_size=25,
    )
)
def test_no_id_is_given_twice_and_none_is_lost(steps: list) -> None:
    ids, taken, ranks = Ids(), set(), {}
    for step in steps:
        if isinstance(step, int):
            got = ids.take(step)
        elif isinstance(step, tuple):
            job = step[0]
            wanted = sorted(rank for rank in step[1] if (job, rank) not in ranks.values())
            got = ids.take_ranks(wanted, job, 5)
            ranks |= {number: (job, rank) for number, rank in zip(got, wanted, strict=True)}
            assert got == sorted(got)
        else:
            got = []
            for number in step & taken:
                ids.free(number)
                taken.discard(number)
                ranks.pop(number, None)
        assert len(set(got)) == len(got)
        assert taken.isdisjoint(got)
        taken |= set(got)
    for number in taken:
        ids.free(number)
    assert ids.take(5) == [0, 1, 2, 3, 4]


def scene() -> tuple[dict[int, Host], dict[int, Engine]]:
    """Engines 0 and 1 of one host and 2 of another in a job, 3 and 4 in none."""
    hosts, engines = {}, {}
    for number, job, ids in ((1, "job", (0, 1)), (2, "job", (2,)), (3, "", (3, 4))):
        host = hosts[number] = Host(number, f"h{number}", 1, 0.0, facts=HostFacts(job=job))
        for one in ids:
            engines[one] = host.engines[one] = Engine(one, host, 0.0)
    return hosts, engines


def test_comrades_are_on_all_hosts_of_a_job() -> None:
    hosts, engines = scene()
    assert comrades(hosts, engines[0]) == comrades(hosts, engines[2]) == {0, 1, 2}
    assert comrades(hosts, engines[3]) == {3}


def test_a_whole_job_and_others_may_be_ended() -> None:
    assert without_parts_of_jobs(*scene(), [4, 2, 0, 1, 99]) == ([4, 2, 0, 1, 99], [])


def test_a_part_of_a_job_is_left_out_and_told_once() -> None:
    left, problems = without_parts_of_jobs(*scene(), [4, 2, 1])
    assert left == [4]
    assert problems == [
        (
            "engines 1, 2 belong to an MPI job with the engines 0, 1, 2: these can only be stopped or "
            "restarted all together"
        )
    ]
