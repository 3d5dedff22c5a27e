"""Compression: round trips, bounds, choice by sample, and codecs that are not there."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import TransferError
from ipkernel.objects import compress
from ipkernel.objects.compress import MAX_BLOCK, available, choose, compressor, decompressor

pytest.importorskip("lz4.block")
zstandard = pytest.importorskip("zstandard")

CODECS = ["lz4", "zstd"]
NOISE = random.Random(1).randbytes(MAX_BLOCK)
TEXT = b"a line of text that is like others, number %d\n" * 20_000


@pytest.fixture
def without(monkeypatch):
    """Takes packages away."""

    def take(*modules):
        for module in modules:
            for name in [n for n in sys.modules if n == module or n.startswith(module + ".")]:
                monkeypatch.delitem(sys.modules, name)
            monkeypatch.setitem(sys.modules, module, None)

    return take


def test_both_are_available_here():
    assert available() == ("lz4", "zstd")


def test_asking_imports_nothing():
    code = (
        "import sys\n"
        "from ipkernel.objects.compress import available, choose\n"
        "assert available() == ('lz4', 'zstd')\n"
        "assert choose([b'x' * 1000], 1000, ['lz4', 'zstd']) == ''\n"
        "print(sorted({'lz4.block', 'zstandard', 'numpy', 'twisted'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [50, 4096, 100_000, len(TEXT)])
def test_blocks_survive(name, kind, size):
    block = TEXT[:size]
    packed = compressor(name)(kind(block))
    assert size < 100 or len(packed) < size // 2
    unpack = decompressor(name)
    if len(packed) < size:
        assert unpack(kind(packed), size) == block
        assert unpack(kind(packed), size) == block  # it can be used again


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=300), times=st.integers(1, 50))
@settings(max_examples=60)
def test_any_block_survives_or_is_not_worth_it(name, data, times):
    block = data * times
    packed = compressor(name)(block)
    if len(packed) < len(block):
        assert decompressor(name)(packed, len(block)) == block


@pytest.mark.parametrize("name", CODECS)
def test_what_cannot_be_compressed_does_not_become_much_larger(name):
    packed = compressor(name)(NOISE)
    assert len(NOISE) <= len(packed) < len(NOISE) * 1.01
    with pytest.raises(TransferError, match="refused"):
        decompressor(name)(packed, len(NOISE))


@pytest.mark.parametrize("name", CODECS)
def test_blocks_are_bounded(name):
    with pytest.raises(ValueError, match="more than 1048576"):
        compressor(name)(bytes(MAX_BLOCK + 1))
    packed = compressor(name)(bytes(MAX_BLOCK))
    unpack = decompressor(name)
    assert unpack(packed, MAX_BLOCK) == bytes(MAX_BLOCK)
    for size in (MAX_BLOCK + 1, 1 << 40, -1, 0, len(packed)):
        with pytest.raises(TransferError, match="refused"):
            unpack(packed, size)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("off", [-1, 1, -4000])
def test_a_size_that_is_wrong_is_noticed(name, off):
    block = TEXT[:10_000]
    with pytest.raises(TransferError, match="damaged"):
        decompressor(name)(compressor(name)(block), len(block) + off)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
@settings(max_examples=100)
def test_damaged_blocks_give_an_error_or_so_many_bytes(name, data):
    block = TEXT[:2000] + NOISE[:300]
    packed = bytearray(compressor(name)(block))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(packed)))
    try:
        again = decompressor(name)(packed[:cut], len(block))
    except TransferError:
        return
    assert len(again) == len(block)


@pytest.mark.parametrize("name", CODECS)
@given(packed=st.binary(max_size=200), size=st.integers(1, 5000))
def test_noise_is_no_block(name, packed, size):
    try:
        again = decompressor(name)(packed, size)
    except TransferError:
        return
    assert len(again) == size


def peak_of(function, *args):
    tracemalloc.start()
    try:
        with pytest.raises(TransferError):
            function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_frame_that_announces_a_large_size_is_refused_before_it_is_believed():
    huge = bytes(200 << 20)
    announced = zstandard.ZstdCompressor(level=1).compress(huge)
    silent = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(huge)
    unpack = decompressor("zstd")
    assert len(announced) < MAX_BLOCK
    for packed in (announced, silent):
        assert peak_of(unpack, packed, MAX_BLOCK) < 3 * MAX_BLOCK


def test_a_frame_that_needs_a_large_window_is_refused():
    options = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    made = zstandard.ZstdCompressor(compression_params=options).compressobj()
    packed = made.compress(bytes(100_000)) + made.flush()
    with pytest.raises(TransferError, match="damaged"):
        decompressor("zstd")(packed, 100_000)


def test_more_behind_a_frame_is_refused():
    packed = compressor("zstd")(TEXT[:5000])
    with pytest.raises(TransferError, match="damaged"):
        decompressor("zstd")(packed + b"more", 5000)


# ---------------------------------------------------------------- choice


def test_the_first_that_pays_is_chosen():
    assert choose([TEXT], len(TEXT), ["lz4", "zstd"]) == "lz4"
    assert choose([TEXT], len(TEXT), ["zstd", "lz4"]) == "zstd"
    assert choose([TEXT], len(TEXT), ("future", "zstd")) == "zstd"
    assert choose([TEXT], len(TEXT), []) == ""
    assert choose([TEXT], len(TEXT), ["future"]) == ""


def test_noise_does_not_pay():
    assert choose([NOISE], len(NOISE), CODECS) == ""


def test_what_only_one_of_them_can_compress():
    # Digits one by one: four of eight bits say nothing, and hardly anything is there twice.
    digits = bytes(random.Random(2).choices(b"0123456789", k=1 << 18))
    assert choose([digits], len(digits), ["lz4"]) == ""
    assert choose([digits], len(digits), ["lz4", "zstd"]) == "zstd"


@pytest.mark.parametrize("size", [0, 1, compress.SMALLEST - 1])
def test_little_does_not_pay(size):
    assert choose([bytes(size)], size, CODECS) == ""


def test_the_least_that_pays():
    assert choose([bytes(compress.SMALLEST)], compress.SMALLEST, CODECS) == "lz4"


@pytest.mark.parametrize("where", [0, 1, 2])
def test_the_samples_are_spread_over_the_data(where):
    """Noise everywhere but where the samples are taken, and the other way round."""
    part = compress.SAMPLE
    length = 12 * part
    data = bytearray(NOISE[: length // 2] * 2)
    step = (length - part) // 2
    for index in range(3):
        data[index * step : index * step + part] = bytes(part)
    assert choose([data], length, CODECS) == "lz4"
    for index in {0, 1, 2} - {where}:
        data[index * step : index * step + part] = NOISE[:part]
    assert choose([data], length, CODECS) == ""


@given(
    cuts=st.lists(st.integers(0, 500), max_size=6),
    start=st.integers(0, 600),
    length=st.integers(1, 600),
)
def test_a_sample_does_not_depend_on_how_the_data_are_cut(cuts, start, length):
    data = bytes(range(250)) * 2
    edges = [0, *sorted(cuts), len(data)]
    pieces = [memoryview(data)[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert compress._cut(pieces, start, length) == data[start : start + length]


def test_pieces_of_any_kind_are_sampled():
    numbers = memoryview(bytes(80_000)).cast("d")
    pieces = [b"head", bytearray(10), numbers, memoryview(b"")]
    assert choose(pieces, 80_014, ["zstd"]) == "zstd"


def test_only_the_samples_are_looked_at():
    data = bytes(64 << 20)
    tracemalloc.start()
    try:
        assert choose([data], len(data), CODECS) == "lz4"
        assert tracemalloc.get_traced_memory()[1] < 8 * compress.SAMPLE
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- what is not there


def test_what_is_not_installed_is_not_available(without):
    without("lz4", "lz4.block")
    assert available() == ("zstd",)
    assert choose([TEXT], len(TEXT), ["lz4", "zstd"]) == "zstd"
    for make in (compressor, decompressor):
        with pytest.raises(TransferError, match="needs the package lz4.*pip install lz4"):
            make("lz4")
    without("zstandard")
    assert available() == ()
    assert choose([TEXT], len(TEXT), ["lz4", "zstd"]) == ""
    with pytest.raises(TransferError, match="pip install zstandard"):
        decompressor("zstd")


@pytest.mark.parametrize("make", [compressor, decompressor])
def test_codecs_of_the_future_are_unknown(make):
    with pytest.raises(TransferError, match="no codec 'future' here, only lz4, zstd"):
        make("future")
