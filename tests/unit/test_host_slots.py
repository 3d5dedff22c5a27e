"""How engines are to be: options, cores, variables, directories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.host import slots as module
from ipkernel.host.interfaces import Place
from ipkernel.host.options import SLOTS, take_slots
from ipkernel.host.slots import (
    SlotOptions,
    Slots,
    available_cpus,
    make_slots,
    parse_affinity,
    read_options,
    shares,
)

CPUS = st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True).map(sorted)


def test_nothing_is_chosen() -> None:
    assert read_options("") == SlotOptions()
    slots = make_slots("", 3)
    assert slots.place(2) == Place({}, "", ())
    assert slots.late(2, 5) == {}


def test_the_variable_is_taken_out_of_the_environment() -> None:
    environ = {SLOTS: '{"memory": 5}', "OTHER": "1"}
    assert read_options(take_slots(environ)).memory == 5
    assert environ == {"OTHER": "1"}
    assert take_slots(environ) == ""


@given(
    st.builds(
        SlotOptions,
        cwd=st.text(max_size=20),
        memory=st.integers(0, (1 << 50) - 1),
        affinity=st.sampled_from(["none", "auto", "0-3;4-7", "1,3"]),
        environment=st.dictionaries(
            st.text("ABC_", min_size=1, max_size=5),
            st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
        ),
        output_limit=st.integers(0, 1 << 40),
    )
)
def test_options_are_read_back(options: SlotOptions) -> None:
    assert read_options(msgspec.json.encode(options).decode()) == options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", SLOTS),
        ("[]", SLOTS),
        ('{"memory": -1}', "memory"),
        ('{"memory": "2GB"}', "memory"),
        ('{"memroy": 1}', "memroy"),
        ('{"environment": {"A": 1}}', "environment"),
        ('{"environment": {"": "1"}}', "slots.environment: ''"),
        ('{"environment": {"A=B": "1"}}', "slots.environment: 'A=B'"),
        ('{"environment": {"A": "\\u0000"}}', "slots.environment: 'A'"),
        ('{"affinity": "some"}', "slots.affinity: 'some'"),
        ('{"resources": {"gpu": 0}}', "resources"),
        ('{"resources": {"": 1}}', "resources"),
        ('{"resources": {"gpu": 1}, "host_resources": {"gpu": 1}}', "slots.host_resources: 'gpu'"),
    ],
)
def test_options_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="slots|SLOTS") as refused:
        read_options(text)
    assert said in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_options_or_refused(text: str) -> None:
    try:
        options = read_options(text)
    except ValueError as error:
        assert "slots" in str(error).lower()
    else:
        assert isinstance(options, SlotOptions)


# ---------------------------------------------------------------------------- cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("none", []),
        ("", []),
        ("AUTO", []),
        ("0", [{0}]),
        ("0-3;4-7", [{0, 1, 2, 3}, {4, 5, 6, 7}]),
        (" 1 , 3-4 ; 2", [{1, 3, 4}, {2}]),
    ],
)
def test_affinities(text: str, cores: list[set[int]]) -> None:
    assert parse_affinity(text) == cores


@pytest.mark.parametrize("text", ["a", "1;", ";", "3-1", "-1", "1-", "0..3", "1 2", "99999", "²"])
def test_affinities_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"slots\.affinity: .* are no cores: write none, auto"):
        parse_affinity(text)


@given(CPUS, st.integers(1, 60))
def test_cores_are_shared_out_evenly(cpus: list[int], count: int) -> None:
    found = shares(cpus, count)
    assert len(found) == count
    assert all(found)
    sizes = {len(share) for share in found}
    assert max(sizes) - min(sizes) <= 1
    if count <= len(cpus):
        assert sorted(cpu for share in found for cpu in share) == cpus
        for share in found:  # neighbours stay together
            first = cpus.index(min(share))
            assert sorted(share) == cpus[first : first + len(share)]
    else:
        assert sizes == {1} and set().union(*found) == set(cpus)


def test_slots_that_come_later_begin_anew() -> None:
    slots = Slots(SlotOptions(affinity="auto"), 2, cpus=[0, 1, 2, 3])
    assert [slots.place(n).cpus for n in range(3)] == [(0, 1), (2, 3), (0, 1)]
    slots = Slots(SlotOptions(affinity="0-1;3"), 9, cpus=[0, 1, 2, 3])
    assert [slots.place(n).cpus for n in range(3)] == [(0, 1), (3,), (0, 1)]


def test_cores_that_there_are_none_of() -> None:
    with pytest.raises(ValueError, match=r"slots\.affinity: n1 has no core 4 .*there are 0-2, 6"):
        Slots(SlotOptions(affinity="0;2,4-9"), 2, host="n1", cpus=[0, 1, 2, 6])


@pytest.mark.parametrize("affinity", ["auto", "0"])
def test_a_system_without_affinity(affinity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(ValueError, match="bound to cores on darwin: leave it at none"):
        Slots(SlotOptions(affinity=affinity), 1, cpus=None)
    assert Slots(SlotOptions(), 1, cpus=None).place(0).cpus == ()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds none to cores")
def test_the_cores_of_this_process() -> None:
    assert available_cpus() == sorted(os.sched_getaffinity(0))
    whole = make_slots(json.dumps({"affinity": "auto"}), 1).place(0)
    assert whole.cpus == tuple(available_cpus() or ())


# ------------------------------------------------------------- variables and directories


def test_variables_know_their_slot_and_engine() -> None:
    environment = {"A": "{slot}", "B": "{engine}/{slot}", "C": "{x} {}", "D": ""}
    slots = Slots(SlotOptions(environment=environment))
    assert slots.place(3).environment == {"A": "3", "C": "{x} {}", "D": ""}
    assert slots.late(3, 17) == {"B": "17/3"}


def test_each_slot_has_a_directory(tmp_path: Path) -> None:
    slots = Slots(SlotOptions(cwd=str(tmp_path / "work" / "{slot}")))
    assert slots.place(1).cwd == str(tmp_path / "work" / "1")
    assert (tmp_path / "work" / "1").stat().st_mode & 0o777 == 0o700
    assert Slots(SlotOptions(cwd=str(tmp_path))).place(4).cwd == str(tmp_path)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"slots\.cwd: .*gone is not a directory on n1"):
        Slots(SlotOptions(cwd=str(tmp_path / "gone")), host="n1")
    (tmp_path / "file").touch()
    slots = Slots(SlotOptions(cwd=str(tmp_path / "file" / "{slot}")))
    with pytest.raises(OSError, match="Not a directory"):
        slots.place(0)
