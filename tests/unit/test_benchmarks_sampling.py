"""Tests of the sampling profiler of the benchmarks; no timer runs in them."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from benchmarks.sampling import sitecustomize


@pytest.fixture
def sampler(tmp_path, monkeypatch: pytest.MonkeyPatch) -> sitecustomize.Sampler:
    for name in ("signal", "siginterrupt", "setitimer"):
        monkeypatch.setattr(signal, name, lambda *_: None)
    return sitecustomize.Sampler(str(tmp_path))


def work(sampler: sitecustomize.Sampler) -> None:
    sampler._tick(signal.SIGPROF, sys._getframe())


def test_what_works_is_counted_and_written(sampler, tmp_path) -> None:
    work(sampler)
    work(sampler)
    sampler.write()
    counts = json.loads((tmp_path / f"{os.getpid()}.json").read_text())
    assert sum(count for stack, count in counts.items() if stack.endswith(":work")) == 2


def test_a_tick_while_the_counts_are_written_changes_nothing(
    sampler, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(sampler)
    dump = json.dump

    def interrupted(counts, file) -> None:
        before = dict(counts)
        sampler._tick(signal.SIGPROF, sys._getframe())
        assert counts == before
        dump(counts, file)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", interrupted)
        sampler.write()
    assert list(tmp_path.iterdir()) == [tmp_path / f"{os.getpid()}.json"]
    before = sampler._counts.total()
    work(sampler)
    assert sampler._counts.total() > before
