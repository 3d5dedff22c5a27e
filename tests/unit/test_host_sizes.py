"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("1 b", 1),
        ("1K", 1024),
        ("1KB", 1000),
        ("1kib", 1024),
        (" 1.5 GiB ", 3 << 29),
        ("2GB", 2 * 10**9),
        ("2g", 2 << 30),
        (".5M", 1 << 19),
        ("1T", 1 << 40),
        ("25%", 250),
        ("100 %", 1000),
        ("0%", 0),
    ],
)
def test_what_is_a_size(text: str | int, size: int) -> None:
    assert parse_size(text, 1000) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "-1",
        -1,
        "1X",
        "1GiBs",
        "1 2",
        "101%",
        "1e9",
        "nan",
        "1,5G",
        True,
        None,
        1.5,
        "2000T",
    ],
)
def test_what_is_none(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size: write a number of bytes"):
        parse_size(text, 1000)  # type: ignore[arg-type]


def test_a_share_needs_something_to_be_a_share_of() -> None:
    with pytest.raises(ValueError, match="'4GB'$"):
        parse_size("25%")


@given(st.integers(0, 10**6), st.sampled_from(["K", "KB", "KiB", "M", "MB", "MiB"]), st.booleans())
def test_whole_numbers_are_exact(number: int, unit: str, space: bool) -> None:
    base = 1000 if unit.endswith("B") and "i" not in unit else 1024
    size = number * base ** "_KM".index(unit[0])
    assert parse_size(f"{number}{' ' * space}{unit}") == size
