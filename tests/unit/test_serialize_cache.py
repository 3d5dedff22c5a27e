"""Functions by hash: what is sent once, what changes are noticed, what is kept."""

from __future__ import annotations

import collections
import functools
import gc
import math
import operator
import pickle
import textwrap
import threading
import types

import pytest

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload
from ipkernel.serialize.cache import MAX_ENTRIES
from ipkernel.serialize.fingerprint import fingerprint, global_names, is_importable
from ipkernel.serialize.functions import (
    FunctionCache,
    FunctionStore,
    UnknownFunction,
    set_namespace,
)
from tests.support.calling import Main, engine, no_namespace, ns

__all__ = ["engine", "no_namespace", "ns"]


def map_list(f, values):
    return [f(value) for value in values]


# ---------------------------------------------------------------- the cache


def test_a_function_goes_inline_first_and_by_digest_then(engine):
    main = Main("def f(x): return x + 1")
    for i in range(3):
        assert engine.call(main["f"], i) == i + 1
    digests = [call.digest for call in engine.sent]
    assert digests[0] == b"" and engine.sent[0].blob == b""
    assert len(digests[1]) == 16 and digests[1] == digests[2]
    assert engine.sent[1].blob is engine.sent[2].blob
    assert len(engine.store) == 1


@pytest.mark.parametrize("func", [math.sin, operator.add, len, int, map_list, collections.Counter])
def test_importable_functions_are_only_a_name(func):
    cache = FunctionCache()
    for round_ in range(3):
        digest, blob = cache.lookup(func)
        assert len(digest) == (16 if round_ else 0)
        assert len(blob) < 100
        assert payload.loads(blob) is func
    assert is_importable(func) or func.__module__ == "builtins"


def test_importable_functions_are_looked_up_for_every_call(monkeypatch):
    cache, store = FunctionCache(), FunctionStore()
    cache.lookup(textwrap.dedent)
    digest, blob = cache.lookup(textwrap.dedent)
    store.add(digest, blob)
    assert store.get(digest).func is textwrap.dedent
    store.add(digest, blob)
    assert len(store) == 1 and digest in store
    reloaded = types.FunctionType(textwrap.dedent.__code__, vars(textwrap), "dedent")
    monkeypatch.setattr(textwrap, "dedent", reloaded)
    assert store.get(digest).func is reloaded
    store.forget([digest])
    assert digest not in store and len(store) == 0


def test_the_same_function_text_has_the_same_digest():
    one, two = FunctionCache(), FunctionCache()
    main = Main("f = lambda x: x")
    one.lookup(main["f"])
    two.lookup(main["f"])
    assert one.lookup(main["f"]) == two.lookup(main["f"])


CHANGES = [
    ("k = 1\nf = lambda: k", "k = 2"),
    ("def h(): return 1\nf = lambda: h()", "def h(): return 2"),
    ("k = 1\ndef h(): return k\nf = lambda: h()", "k = 2"),
    ("def f(x=1): return x", "f.__defaults__ = (2,)"),
    ("def f(*, x=1): return x", "f.__kwdefaults__ = {'x': 2}"),
    ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2"),
    ("def f(): return 1", "f.__code__ = (lambda: 2).__code__"),
    ("def f(): return f.k\nf.k = 1", "f.k = 2"),
    ("def h(x=1): return x\nf = lambda: h()", "h.__defaults__ = (2,)"),
    ("xs = [1]\nf = lambda: xs[0]", "xs[0] = 2"),
    ("d = {'a': 1}\nf = lambda: d['a']", "d['a'] = 2"),
    ("class C: v = 1\nc = C()\nf = lambda: c.v", "c.v = 2"),
    ("class C: v = 1\nf = lambda: C.v", "C.v = 2"),
    ("class C: v = 1\nf = lambda: C.v", "class C: v = 2"),
    ("class B: v = 1\nclass C(B): pass\nf = lambda: C.v", "B.v = 2"),
    ("class B: v = 1\nclass C(B): pass\nf = lambda: C.v", "C.v = 2"),
    ("class C:\n    def m(self): return 1\nf = lambda: C().m()", "C.m = lambda self: 2"),
    ("k = 1\nclass C:\n    def m(self): return k\nf = lambda: C().m()", "k = 2"),
    ("k = 1\nclass C:\n    @property\n    def m(self): return k\nf = lambda: C().m", "k = 2"),
    ("k = 1\nclass C:\n    @classmethod\n    def m(self): return k\nf = lambda: C.m()", "k = 2"),
    (
        (
            "def make(k):\n    def put(v):\n        nonlocal k\n        k = v\n    return put, (lambda: k)\n"
            "put, f = make(1)"
        ),
        "put(2)",
    ),
    (
        (
            "def make(k):\n    def put(v):\n        k[0] = v\n    return put, (lambda: k[0])\n"
            "put, f = make([1])"
        ),
        "put(2)",
    ),
    ("t = (0, [1])\nf = lambda: t[1][0]", "t[1][0] = 2"),
    ("def f(): return abs(-1)", "abs = lambda x: 2"),
    ("def f(): return missing() if 'missing' in globals() else 1", "def missing(): return 2"),
    (
        "import functools\ndef h(x): return x\np = functools.partial(h, 1)\nf = lambda: p()",
        "p = functools.partial(h, 2)",
    ),
    ("def f():\n    def inner(): return k\n    return inner()\nk = 1", "k = 2"),
]


@pytest.mark.parametrize(("source", "change"), CHANGES)
def test_every_change_is_noticed(source, change, ns):
    main = Main(source)
    cache = FunctionCache()
    for _ in range(3):
        first = cache.lookup(main["f"])
    assert payload.loads(first[1])() == 1
    main.run(change)
    second = cache.lookup(main["f"])
    assert second[1] != first[1]
    # A new engine, as the point is what was sent.
    set_namespace({})
    assert payload.loads(second[1])() == 2


@pytest.mark.parametrize(
    ("source", "stable"),
    [
        ("f = lambda x: x", True),
        ("k = (1, 'a', frozenset({2}))\nf = lambda: k", True),
        ("import math\nf = lambda: math.pi", True),
        ("def f(n): return f(n - 1)", True),
        ("def f(n): return g(n)\ndef g(n): return f(n)", True),
        ("class C:\n    x: int = 1\n    def m(self): return C\nf = lambda: C", True),
        ("import enum\nclass E(enum.Enum):\n    A = 1\nf = lambda: E.A", True),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass D:\n    x: int = 1\nf = lambda: D()",
            True,
        ),
        ("import datetime\nd = datetime.date(2020, 1, 1)\nf = lambda: d", True),
        ("class S:\n    __slots__ = ('a',)\nf = lambda: S()", True),
        ("xs = []\nf = lambda: xs", False),
        ("class C:\n    xs = []\nf = lambda: C", False),
        ("def f(x=[]): return x", False),
        ("o = object()\nf = lambda: o", False),
        ("t = (1, [2])\nf = lambda: t", False),
        ("def deco(g):\n    return lambda: g()\n@deco\ndef f(): return xs\nxs = {}", False),
    ],
)
def test_what_can_be_watched(source, stable):
    main = Main(source)
    watch = fingerprint(main["f"])
    assert watch.stable is stable
    assert watch.holds(main["f"])


def test_an_empty_cell_is_not_trusted():
    def make():
        f = lambda: later  # noqa: E731, F821
        if f is None:
            later = 1  # noqa: F841
        return f

    assert not fingerprint(make()).stable


def test_a_cell_that_was_emptied_is_noticed():
    def make():
        k = 1

        def drop():
            nonlocal k
            del k

        return drop, lambda: k

    drop, f = make()
    watch = fingerprint(f)
    assert watch.holds(f)
    drop()
    assert not watch.holds(f)


def test_an_unchanged_function_with_mutable_globals_is_promoted_too(engine):
    main = Main("xs = [1]\nf = lambda: xs")
    assert [engine.call(main["f"]) for _ in range(3)] == [[1]] * 3
    assert [bool(call.digest) for call in engine.sent] == [False, True, True]
    main["xs"].append(2)
    assert engine.call(main["f"]) == [1, 2]
    assert engine.sent[-1].digest == b""


def test_partials_and_methods_are_promoted_when_they_repeat(engine):
    part = functools.partial(operator.add, 3)
    assert [engine.call(part, 1) for _ in range(3)] == [4, 4, 4]
    assert [bool(call.digest) for call in engine.sent] == [False, True, True]


def test_stable_functions_are_not_pickled_again(monkeypatch):
    main = Main("k = 1\nf = lambda: k")
    cache = FunctionCache()
    cache.lookup(main["f"])
    monkeypatch.setattr(payload, "dump_value", lambda *a, **k: pytest.fail("pickled again"))
    assert cache.lookup(main["f"])[0]


def test_functions_that_are_gone_are_not_mistaken_for_new_ones():
    cache = FunctionCache()
    for i in range(200):
        main = Main(f"f = lambda: {i}")
        cache.lookup(main["f"])
        _, blob = cache.lookup(main["f"])
        assert payload.loads(blob)() == i
        del main
        gc.collect(0)


def test_the_cache_keeps_no_function_alive():
    import weakref

    cache = FunctionCache()
    main = Main("def f(n): return f(n)")
    cache.lookup(main["f"])
    cache.lookup(main["f"])
    ref = weakref.ref(main["f"])
    code = main["f"].__code__
    del main
    cache.clear()
    gc.collect()
    assert ref() is None
    assert code is not None


def test_the_cache_is_bounded():
    cache = FunctionCache()
    functions = [Main(f"f = lambda: {i}")["f"] for i in range(MAX_ENTRIES + 50)]
    for func in functions:
        cache.lookup(func)
    assert len(cache) == MAX_ENTRIES
    cache.clear()
    assert len(cache) == 0


def test_the_cache_can_be_used_from_threads():
    cache = FunctionCache()
    functions = [Main(f"k = {i}\nf = lambda: k")["f"] for i in range(40)]
    wrong = []

    def work():
        for _ in range(20):
            for i, func in enumerate(functions):
                if payload.loads(cache.lookup(func)[1])() != i:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_global_names_include_nested_code():
    def f(a):
        return [one for _ in (lambda: two)()] + three.attribute  # noqa: F821

    assert set(global_names(f.__code__)) == {"one", "two", "three"}


def test_what_is_by_value_in_cloudpickle_is_not_importable():
    import cloudpickle

    module = pytest.importorskip("json.decoder")
    import json

    assert is_importable(module.scanstring) or module.scanstring.__module__ != "json.decoder"
    assert is_importable(json.JSONDecoder)
    cloudpickle.register_pickle_by_value(json)
    try:
        assert not is_importable(json.JSONDecoder)
        assert not is_importable(json.dumps)
    finally:
        cloudpickle.unregister_pickle_by_value(json)


# ---------------------------------------------------------------- the store


def test_the_store_loads_once_and_lazily(ns):
    store = FunctionStore()
    store.add(b"d" * 16, payload.dumps_bytes(Main("f = lambda: 1")["f"]))
    store.add(b"e" * 16, b"damaged")
    assert len(store) == 2
    assert store.get(b"d" * 16) is store.get(b"d" * 16)
    with pytest.raises(SerializationError):
        store.get(b"e" * 16)
    with pytest.raises(SerializationError):
        store.get(b"e" * 16)
    store.add(b"d" * 16, b"ignored")
    assert store.get(memoryview(b"d" * 16).tobytes()).func() == 1
    store.forget([b"d" * 16, b"unknown"])
    assert b"d" * 16 not in store
    assert len(store) == 1


def test_an_unknown_digest_is_an_error_of_its_own():
    with pytest.raises(UnknownFunction, match="6162") as info:
        FunctionStore().get(b"ab")
    assert isinstance(info.value, KeyError)
    again = pickle.loads(pickle.dumps(info.value))
    assert again.digest == b"ab"
    assert str(again) == str(info.value)
