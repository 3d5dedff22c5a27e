"""joblib's calls on a view, against a controller in memory."""

from __future__ import annotations

import operator
import threading
import types

import joblib
import pytest
from joblib import parallel

import ipkernel
from ipkernel import joblib as ours
from ipkernel.client.joblibbackend import backend_class
from ipkernel.errors import TaskAborted
from tests.support.clients import fake, lv, rc

__all__ = ["fake", "lv", "rc"]


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    monkeypatch.setattr(parallel, "BACKENDS", dict(parallel.BACKENDS))
    monkeypatch.setattr(parallel, "DEFAULT_BACKEND", parallel.DEFAULT_BACKEND)


def negated(numbers, **options):
    return joblib.Parallel(**options)(joblib.delayed(operator.neg)(n) for n in numbers)


def test_calls_run_on_the_view(lv):
    lv.register_joblib_backend()
    with joblib.parallel_config("ipkernel"):
        assert negated(range(30)) == [-n for n in range(30)]
        assert sorted(negated(range(9), return_as="generator_unordered")) == list(range(-8, 1))
    assert lv.history


def test_it_can_have_any_name_and_be_the_default(lv):
    lv.register_joblib_backend("there", make_default=True)
    assert negated(range(3), n_jobs=-1) == [0, -1, -2]
    assert lv.history


def test_without_a_view_a_cluster_is_started_once(rc, monkeypatch):
    started = []

    def start():
        started.append(rc)
        return rc

    monkeypatch.setattr(
        "ipkernel.cluster.cluster.Cluster",
        lambda: types.SimpleNamespace(start_and_connect_sync=start),
    )
    ours._own_client.cache_clear()
    try:
        ipkernel.register_joblib_backend()
        assert not started, "not before it is used"
        with joblib.parallel_config("ipkernel"):
            assert negated(range(3)) == negated(range(3)) == [0, -1, -2]
    finally:
        ours._own_client.cache_clear()
    assert len(started) == 1


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, 3), (-1, 3), (-2, 2), (-9, 1), (1, 1), (2, 2), (8, 3)]
)
def test_as_many_jobs_as_engines(lv, wanted, expected):
    assert backend_class()(lambda: lv).effective_n_jobs(wanted) == expected


def test_no_jobs_are_a_mistake(lv):
    with pytest.raises(ValueError, match="n_jobs=0"):
        backend_class()(lambda: lv).effective_n_jobs(0)


def test_the_first_error_is_raised_and_ends_the_others(lv):
    lv.register_joblib_backend()
    with joblib.parallel_config("ipkernel"), pytest.raises(ZeroDivisionError):
        joblib.Parallel()(joblib.delayed(divmod)(1, n) for n in (1, 0, 2))


def test_what_is_aborted_is_cancelled_and_no_thread_stays(fake, lv):
    backend = backend_class()(lambda: lv)
    fake.held = True
    told = []
    result = backend.submit(int, told.append)
    backend.abort_everything(ensure_ready=False)
    with pytest.raises(TaskAborted):
        result.get()
    fake.held = False
    fake.release()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("ipkernel-joblib") for name in names)
    assert backend.apply_async(int).get() == 0, "it can be used again"


def test_callbacks_are_called_in_a_thread_of_their_own(lv):
    backend = backend_class()(lambda: lv)
    told = threading.Event()
    seen = []

    def callback(result):
        seen.append((threading.current_thread().name, result.get()))
        told.set()

    backend.submit(int, callback)
    assert told.wait(30)
    backend.terminate()
    [(thread, value)] = seen
    assert thread.startswith("ipkernel-joblib") and value == 0
