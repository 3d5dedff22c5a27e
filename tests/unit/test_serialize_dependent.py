"""Functions that not every engine can run."""

from __future__ import annotations

import math
import pickle
import types

import cloudpickle
import pytest

import ipkernel as ipp
from ipkernel.errors import (
    ImpossibleDependency,
    RemoteError,
    TaskRejectError,
    UnmetDependency,
    remote_error,
)
from ipkernel.serialize.dependent import rejects
from ipkernel.serialize.failure import decode, describe
from ipkernel.serialize.namespace import set_namespace
from ipkernel.wire.messages import Kind, Outcome
from tests.support.enginebench import Bench


def double(x, add=0):
    """Return twice as much."""
    return 2 * x + add


def at_most(limit, value=0):
    return value <= limit


@ipp.depend(at_most, 3, value=4)
def never(x):
    return x


@pytest.fixture
def names():
    namespace = {}
    set_namespace(namespace)
    try:
        yield namespace
    finally:
        set_namespace(None)


def test_the_function_is_called_where_its_dependency_agrees():
    assert ipp.dependent(double, at_most, 3, value=2)(5, add=1) == 11


@pytest.mark.parametrize("verdict", [None, True, 1, "yes", 0])
def test_only_false_is_a_no(verdict):
    assert ipp.depend(lambda: verdict)(double)(1) == 2


def test_a_no_is_an_unmet_dependency():
    with pytest.raises(UnmetDependency, match="at_most said no"):
        never(1)


def test_a_dependent_looks_like_its_function():
    made = ipp.depend(at_most, 3)(double)
    assert (made.__name__, made.__doc__) == ("double", "Return twice as much.")
    assert repr(made) == "<dependent double on at_most>"


def test_a_dependent_needs_functions():
    with pytest.raises(TypeError, match="needs functions, not 'at_most'"):
        ipp.dependent(double, "at_most")


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_dependent_can_be_sent(dumps):
    made = pickle.loads(dumps(ipp.dependent(double, at_most, 3)))
    assert made(4) == 8


def test_a_decorated_function_of_a_module_can_be_sent():
    assert pickle.loads(cloudpickle.dumps(never)).__name__ == "never"


def test_modules_are_imported_and_get_names(names):
    @ipp.require("os.path", math, double, seven=7)
    def known():
        return sorted(n for n in names if not n.startswith("__"))

    assert known() == ["double", "math", "os", "seven"]
    assert isinstance(names["os"], types.ModuleType) and names["seven"] == 7


def test_names_of_the_users_stay(names):
    names["math"] = "mine"
    assert ipp.require("math")(double)(1) == 2
    assert names["math"] == "mine"


def test_a_module_that_is_not_there_is_an_unmet_dependency():
    with pytest.raises(UnmetDependency, match="cannot import no_such_module: No module named"):
        ipp.require("no_such_module")(double)(1)


def test_what_has_no_name_cannot_be_required():
    with pytest.raises(TypeError, match=r"not 7; give other objects a name: require\(name=...\)"):
        ipp.require(7)


def test_which_exceptions_reject_a_task():
    assert rejects(UnmetDependency()) and rejects(TaskRejectError())
    assert not rejects(ImpossibleDependency()) and not rejects(ValueError())
    nested = remote_error(describe(UnmetDependency("of a task of this task")))
    assert isinstance(nested, RemoteError) and not rejects(nested)


# ------------------------------------------------------------------------------- on an engine


@pytest.fixture
def bench():
    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()


def reject_it():
    raise TaskRejectError("too small")


@pytest.mark.parametrize(
    ("function", "text"), [(never, "at_most said no"), (lambda x: reject_it(), "too small")]
)
def test_an_engine_reports_what_it_rejects(bench, function, text):
    done, payload = bench_run(bench, function)
    assert done.outcome is Outcome.REJECTED
    assert text in decode(payload).evalue


def bench_run(bench, function):
    task = bench.submit(function, 1)
    return bench.run()[task]


@pytest.mark.parametrize("keep", [False, True])
def test_a_chunk_is_rejected_as_a_whole(bench, keep):
    task = bench.submit(never, [[1, 2]], keep, kind=Kind.MAP)
    assert bench.run()[task][0].outcome is Outcome.REJECTED


def test_other_errors_are_errors(bench):
    def impossible(x):
        raise ImpossibleDependency("of something else")

    assert bench_run(bench, impossible)[0].outcome is Outcome.ERROR


def test_a_dependent_runs_on_an_engine(bench):
    task = bench.submit(ipp.dependent(double, at_most, 3), 4)
    assert bench.good(task) == 8
