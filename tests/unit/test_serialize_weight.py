"""Functions that take a lot along with them: one warning, which says what it is."""

from __future__ import annotations

import functools
import threading
import tracemalloc
import types
import warnings

import numpy as np
import pytest

from ipkernel.serialize import weight
from ipkernel.serialize.functions import FunctionCache, dump_call
from ipkernel.serialize.weight import weigh

MEGA = 1_000_000


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(weight, "_known", type(weight._known)())


def in_main(source, **names):
    space = {"__name__": "__main__", **names}
    exec(source, space)
    return space


def text_of(func) -> str:
    with pytest.warns(UserWarning) as caught:
        FunctionCache().lookup(func)
    (one,) = caught
    return str(one.message)


def silent(func, cache=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (cache or FunctionCache()).lookup(func)


def test_a_large_global_is_named_with_what_to_do():
    space = in_main("def f(): return table, small", table=np.zeros(5 * MEGA), small=[1])
    assert text_of(space["f"]) == (
        "the function 'f' takes 40.0 MB along with it, mainly global 'table' (ndarray, 40.0 MB);"
        " that may go with every call. Put it into the cluster once, with rc.put(), and pass the"
        " reference as an argument instead"
    )


def closure(value):
    return lambda: value


def with_default(value):
    def f(x=value):
        return x

    return f


def with_keyword(value):
    def f(*, x=value):
        return x

    return f


class Model:
    def __init__(self, weights):
        self.weights = weights

    def predict(self):
        return self.weights


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (closure, "mainly free variable 'value' (ndarray, 16.0 MB);"),
        (with_default, "mainly default value (ndarray, 16.0 MB);"),
        (with_keyword, "mainly default of 'x' (ndarray, 16.0 MB);"),
        (lambda value: functools.partial(print, value), "mainly .args (tuple, 16.0 MB);"),
        (lambda value: functools.partial(print, x=value), "mainly .keywords (dict, 16.0 MB);"),
        (lambda value: Model(value).predict, "mainly .__self__ (Model, 16.0 MB);"),
        (lambda value: closure(closure(value)), "'value', free variable 'value' (ndarray, 16.0"),
        (lambda value: closure({"a": value, "b": 1}), "free variable 'value' (dict, 16.0 MB);"),
        (lambda value: closure(value.tobytes()), "free variable 'value' (bytes, 16.0 MB);"),
    ],
)
def test_whatever_it_is_in_is_named(make, what):
    assert what in text_of(make(np.zeros(2 * MEGA)))


def test_of_several_the_largest_is_named():
    space = in_main(
        "def helper(): return big\ndef f(): return small, helper()",
        big=np.zeros(2 * MEGA),
        small=np.zeros(MEGA),
    )
    text = text_of(space["f"])
    assert "takes 24.0 MB" in text
    assert "mainly global 'helper', global 'big' (ndarray, 16.0 MB)" in text


def test_many_small_things_are_not_named():
    names = {f"n{i}": bytes([i]) * 900_000 for i in range(15)}
    space = in_main(f"def f(): return {', '.join(names)}", **names)
    assert "takes 13.5 MB along with it; that may go" in text_of(space["f"])


def test_there_is_one_warning_for_a_function():
    space = in_main("def f(): return table", table=np.zeros(2 * MEGA))
    cache = FunctionCache()
    with pytest.warns(UserWarning):
        cache.lookup(space["f"])
    silent(space["f"], cache)
    silent(space["f"])
    with pytest.warns(UserWarning):
        FunctionCache().lookup(closure(space["table"]))
    silent(functools.partial(closure(space["table"])))


def test_a_warning_that_is_an_error_is_one_each_time():
    func = closure(np.zeros(2 * MEGA))
    for _ in range(2):
        with pytest.raises(UserWarning, match="along with it"):
            silent(func)


def test_less_is_no_reason_to_warn():
    silent(closure(np.zeros(MEGA)))
    silent(len)
    silent(closure(3))


def test_arguments_are_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dump_call(len, (np.zeros(2 * MEGA),), {}, FunctionCache())


def test_it_shows_the_users_line():
    module = types.ModuleType("ipkernel.pretended")
    exec("def call(cache, func): return cache.lookup(func)", module.__dict__)
    with pytest.warns(UserWarning) as caught:
        module.call(FunctionCache(), closure(np.zeros(2 * MEGA)))
    assert caught[0].filename == __file__


def test_recursive_functions_end():
    space = in_main("def f(): return f, g\ndef g(): return f, table", table=bytes(20 * MEGA))
    assert "mainly global 'g', global 'table' (bytes, 20.0 MB)" in text_of(space["f"])


def test_weighing_copies_nothing():
    value = {"a": np.zeros(MEGA), "b": [bytes(8 * MEGA)]}
    tracemalloc.start()
    try:
        assert weigh(value) == pytest.approx(16 * MEGA, rel=0.01)
        assert tracemalloc.get_traced_memory()[1] < MEGA
    finally:
        tracemalloc.stop()


def test_what_cannot_be_pickled_weighs_nothing():
    assert weigh(threading.Lock()) == 0
