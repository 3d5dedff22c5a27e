"""Functions by hash, the engine's namespace, and calls."""

from __future__ import annotations

import asyncio
import collections
import datetime
import enum
import functools
import gc
import linecache
import math
import operator
import pickle
import textwrap
import threading
import traceback
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import SerializationError
from ipkernel.serialize import payload, sources
from ipkernel.serialize.cache import MAX_ENTRIES
from ipkernel.serialize.fingerprint import fingerprint, global_names, is_importable
from ipkernel.serialize.functions import (
    FunctionCache,
    FunctionStore,
    Namespace,
    UnknownFunction,
    current_namespace,
    dump_call,
    interactive,
    load_call,
    set_namespace,
)
from ipkernel.serialize.reference import Reference


@pytest.fixture(autouse=True)
def no_namespace():
    set_namespace(None)
    yield
    set_namespace(None)


@pytest.fixture
def ns():
    space = {}
    set_namespace(space)
    return space


class Main:
    """A stand-in for the ``__main__`` of a client."""

    def __init__(self, source=""):
        self.ns = {"__name__": "__main__"}
        self.run(source)

    def run(self, source, filename="<main>"):
        exec(compile(source, filename, "exec", dont_inherit=True), self.ns)
        return self

    def __getitem__(self, name):
        return self.ns[name]

    def __setitem__(self, name, value):
        self.ns[name] = value


class Engine:
    """What a client and one engine do for a call."""

    def __init__(self):
        self.cache = FunctionCache()
        self.store = FunctionStore()
        self.sent = []

    def load(self, func, *args, **kwargs):
        call = dump_call(func, args, kwargs, self.cache)
        if call.digest and call.digest not in self.store:
            self.store.add(call.digest, call.blob)
        self.sent.append(call)
        return load_call(payload.join(call.pieces), self.store, call.digest)

    def call(self, func, *args, **kwargs):
        func, args, kwargs = self.load(func, *args, **kwargs)
        return func(*args, **kwargs)


@pytest.fixture
def engine(ns):
    return Engine()


# ---------------------------------------------------------------- namespace


def test_functions_see_what_was_pushed(engine, ns):
    main = Main("f = lambda: a")
    with pytest.raises(NameError):
        engine.call(main["f"])
    ns["a"] = 5
    assert engine.call(main["f"]) == 5


def test_functions_store_into_the_namespace(engine, ns):
    main = Main("def f(v):\n    global x\n    x = v")
    engine.call(main["f"], 3)
    assert ns["x"] == 3
    assert current_namespace().user_keys() == ["__builtins__", "x"]


def test_globals_come_along(engine, ns):
    main = Main("k = 7\ndef helper(x): return x + k\ndef f(x): return helper(x) * k")
    assert engine.call(main["f"], 1) == 56
    assert ns["k"] == 7
    assert current_namespace().user_keys() == ["__builtins__"]


def test_a_pushed_name_wins_over_one_that_comes_along(engine, ns):
    main = Main("k = 7\nf = lambda: k")
    current_namespace().update({"k": 1})
    assert [engine.call(main["f"]) for _ in range(3)] == [1, 1, 1]


def test_a_name_pushed_later_wins_even_if_it_is_the_same_object(engine, ns):
    main = Main("k = 7\nf = lambda: k")
    assert engine.call(main["f"]) == 7
    current_namespace().update({"k": 7})
    main["k"] = 8
    assert engine.call(main["f"]) == 7
    assert "k" in current_namespace().user_keys()


def test_a_name_stored_by_the_function_wins(engine, ns):
    main = Main("k = 1\ndef bump():\n    global k\n    k += 1\n    return k")
    assert [engine.call(main["bump"]) for _ in range(4)] == [2, 3, 4, 5]
    assert ns["k"] == 5


def test_one_that_comes_along_replaces_an_earlier_one(engine, ns):
    main = Main("k = 1\nf = lambda: k")
    other = Main("k = 2\nf = lambda: k")
    for _ in range(3):
        assert engine.call(main["f"]) == 1
        assert engine.call(other["f"]) == 2
    main["k"] = 10
    assert engine.call(main["f"]) == 10
    assert engine.call(other["f"]) == 2


def test_a_name_that_was_deleted_comes_back(engine, ns):
    main = Main("k = 1\nf = lambda: k")
    assert engine.call(main["f"]) == 1
    ns.clear()
    set_namespace(ns)
    assert engine.call(main["f"]) == 1


names = st.sampled_from("abcd")


@given(
    st.lists(
        st.tuples(st.sampled_from(["ship", "push", "store", "delete"]), names, st.integers(0, 3)),
        max_size=30,
    )
)
def test_the_rule_of_weak_names(steps):
    space = Namespace({})
    model: dict[str, tuple[int, bool]] = {}
    for i, (what, name, value) in enumerate(steps):
        value = (value, i)  # every value an object of its own
        if what == "ship":
            space.inject({name: value})
            if name not in model or model[name][1]:
                model[name] = (value, True)
        elif what == "push":
            space.update({name: value})
            model[name] = (value, False)
        elif what == "store":
            space.ns[name] = value
            model[name] = (value, False)
        else:
            space.ns.pop(name, None)
            model.pop(name, None)
        shown = {k: v for k, v in space.ns.items() if k != "__builtins__"}
        assert shown == {k: v for k, (v, _) in model.items()}
        users = {k for k, (_, weak) in model.items() if not weak}
        assert set(space.user_keys()) == users | {"__builtins__"}
    space.clear_weak()
    assert set(space.ns) == set(space.user_keys())


@pytest.mark.parametrize(
    ("source", "args", "expected"),
    [
        ("def f(n): return 1 if n < 2 else n * f(n - 1)", (5,), 120),
        (
            "def f(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and f(n - 1)",
            (10,),
            True,
        ),
        ("def make(k):\n    return lambda x: x + k\nf = make(3)", (4,), 7),
        ("def f(x, y=2, *a, z=3, **k): return x + y + z", (1,), 6),
        (
            (
                "import functools\ndef deco(g):\n    @functools.wraps(g)\n    def w(*a):\n"
                "        return -g(*a)\n    return w\n@deco\ndef f(x): return x + one\none = 1"
            ),
            (4,),
            -5,
        ),
        (
            "import functools\nk = 2\ndef g(a, b): return a * b * k\nf = functools.partial(g, 5)",
            (3,),
            30,
        ),
        (
            (
                "k = 2\nclass C:\n    def __init__(self, v): self.v = v\n"
                "    def m(self, x): return self.v * x * k\nf = C(5).m"
            ),
            (3,),
            30,
        ),
        ("k = 2\nclass C:\n    @staticmethod\n    def m(x): return x * k\nf = C.m", (3,), 6),
        (
            (
                "k = 2\nclass B:\n    def m(self, x): return x\nclass C(B):\n"
                "    def m(self, x): return super().m(x) * k\nf = C().m"
            ),
            (3,),
            6,
        ),
        ("k = 4\nclass C:\n    def __call__(self, x): return x + k\nf = C()", (3,), 7),
        ("class C:\n    def __init__(self, x): self.x = x\nf = lambda x: C(x).x", (3,), 3),
        (
            "def g(n):\n    for i in range(n): yield i * k\nk = 3\nf = lambda n: list(g(n))",
            (3,),
            [0, 3, 6],
        ),
        ("import math\nf = lambda x: math.sqrt(x)", (9,), 3.0),
        ("import os.path\nf = lambda: os.path.basename('a/b')", (), "b"),
        ("xs = [1, 2]\nf = lambda: [x * len(xs) for x in xs]", (), [2, 4]),
        ("def f(x):\n    def inner(): return x * k\n    return inner()\nk = 5", (2,), 10),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'a b')\nf = lambda a: P(a, 2).b",
            (1,),
            2,
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int = 3\nf = lambda: D().x",
            (),
            3,
        ),
        (
            "from enum import Enum\nclass E(Enum):\n    A = 1\n    B = 2\nf = lambda: E.B.value",
            (),
            2,
        ),
    ],
)
def test_all_kinds_of_functions_work(engine, source, args, expected):
    main = Main(source)
    for _ in range(3):
        assert engine.call(main["f"], *args) == expected


def test_async_functions_work(engine):
    main = Main("k = 3\nasync def f(x): return x * k\nasync def g():\n    yield k")
    assert asyncio.run(engine.call(main["f"], 2)) == 6

    async def first():
        return [v async for v in engine.call(main["g"])]

    assert asyncio.run(first()) == [3]


def test_all_of_a_rebuilt_function_is_there(engine, ns):
    main = Main("def f(x: int, *, y=1) -> str:\n    'It does it.'\nf.note = 'n'")
    again = engine.load(main["f"])[0]
    assert again.__globals__ is ns
    assert (again.__name__, again.__doc__, again.note) == ("f", "It does it.", "n")
    assert again.__annotations__ == {"x": int, "return": str}
    assert again.__kwdefaults__ == {"y": 1}
    assert again.__module__ == "__main__"


def test_functions_as_arguments_and_values_work(engine, ns):
    main = Main("k = 3\ndef g(x): return x * k")
    assert engine.call(map_list, main["g"], [1, 2]) == [3, 6]
    again = payload.loads(payload.dumps_bytes({"g": main["g"]}))
    assert again["g"].__globals__ is ns
    assert again["g"](5) == 15


def map_list(f, values):
    return [f(v) for v in values]


def test_functions_go_back_from_the_engine(engine, ns):
    main = Main("k = 3\ndef f():\n    def g(x): return x + k\n    return g")
    data = payload.dumps_bytes(engine.call(main["f"]))
    set_namespace(None)
    g = payload.loads(data)
    assert g.__globals__ is not ns
    assert g(1) == 4


def test_without_a_namespace_globals_are_shared_among_what_came_together():
    main = Main("k = 1\ndef get(): return k\ndef put(v):\n    global k\n    k = v")
    get, put = payload.loads(payload.dumps_bytes((main["get"], main["put"])))
    put(5)
    assert get() == 5
    assert main["k"] == 1


def test_functions_of_other_modules_keep_their_own_globals(engine, ns):
    k = 5
    inner = lambda: (k, math.pi, math_name())  # noqa: E731
    assert engine.call(inner) == (5, math.pi, "test")
    assert "math" not in ns


def math_name():
    return "test"


def test_interactive_makes_a_function_of_a_module_see_the_namespace(engine, ns):
    @interactive
    def f():
        return a_name_on_the_engine  # noqa: F821

    ns["a_name_on_the_engine"] = 3
    assert engine.call(f) == 3
    assert interactive(5) == 5


def test_arrays_that_come_along_can_be_written_to(engine):
    main = Main("def f():\n    a[0] += 1\n    return a[0]")
    main["a"] = np.zeros(10_000)
    assert engine.call(main["f"]) == 1


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


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize("func", [lambda *a, **k: (a, k), dict])
@given(
    args=st.lists(st.integers() | st.text()),
    kwargs=st.dictionaries(st.text("ab", min_size=1), st.integers()),
)
def test_arguments_arrive(func, args, kwargs):
    engine = Engine()
    for _ in range(2):
        _, got_args, got_kwargs = engine.load(func, *args, **kwargs)
        assert got_args == tuple(args)
        assert got_kwargs == kwargs


def test_large_arguments_are_not_copied(engine):
    array = np.arange(100_000.0)
    func = Main("f = lambda a: a")["f"]
    for _ in range(2):
        call = dump_call(func, (array,), {}, engine.cache)
        engine.store.add(call.digest, call.blob)
        assert any(type(p) is memoryview for p in call.pieces)
        data = bytearray(payload.join(call.pieces))
        _, (again,), _ = load_call(data, engine.store, call.digest)
        assert np.array_equal(again, array)
        base = np.frombuffer(data, dtype=np.uint8)
        assert np.shares_memory(again, base)
        offset = again.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        assert offset % payload.ALIGNMENT == 0


def test_other_sequences_and_mappings_are_accepted(engine):
    call = dump_call(operator.add, [1, 2], {}, engine.cache)
    func, args, kwargs = load_call(payload.join(call.pieces), engine.store)
    assert func(*args, **kwargs) == 3


def test_references_are_resolved_on_the_engine(engine, ns):
    ns.update(a=5, g=lambda x: -x)
    main = Main("def f(*a, **k): return a, k")
    for _ in range(3):
        assert engine.call(main["f"], Reference("a"), [Reference("a")], k=Reference("a + 1")) == (
            (5, [5]),
            {"k": 6},
        )
        assert engine.call(Reference("g"), 3) == -3
        assert engine.call(main["f"], 1, object) == ((1, object), {})
    with pytest.raises(NameError):
        engine.call(Reference("nothing"))


@pytest.mark.parametrize("use", [payload.use_pickle, payload.use_cloudpickle])
def test_references_are_found_by_every_pickler(engine, ns, use):
    ns["a"] = 5
    use()
    try:
        assert engine.call(operator.neg, Reference("a")) == -5
    finally:
        payload.use_cloudpickle()


def test_no_reference_no_flag(engine):
    call = dump_call(operator.add, (np.zeros(3), 2), {}, engine.cache)
    assert not any(p[0] & payload.REFERENCES for p in call.pieces[1:2])


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (({"lock": 1}, 2), {}, None),
        ((threading.Lock(),), {}, "argument 1"),
        ((1, {"lock": threading.Lock()}), {}, "argument 2['lock']"),
        ((), {"x": [threading.Lock()]}, "argument 'x'[0]"),
    ],
)
def test_the_argument_to_blame_is_named(engine, args, kwargs, path):
    if path is None:
        engine.load(len, *args, **kwargs)
        return
    with pytest.raises(SerializationError) as info:
        engine.load(len, *args, **kwargs)
    assert info.value.path == path
    assert str(info.value) == (
        f"cannot send {path}: TypeError: cannot pickle '_thread.lock' object"
    )


def test_the_global_of_the_function_to_blame_is_named(engine):
    main = Main("import threading\nlock = threading.Lock()\ndef f(): return lock")
    with pytest.raises(
        SerializationError, match="cannot send the function 'f', global 'lock': TypeError"
    ):
        engine.call(main["f"])


def test_a_module_that_is_missing_on_the_engine_is_named(engine):
    call = dump_call(map_list, (), {}, engine.cache)
    data = payload.join(call.pieces).replace(b"map_list", b"mop_list")
    with pytest.raises(SerializationError, match="mop_list"):
        load_call(data, engine.store)


@given(st.data())
def test_cut_off_calls_are_refused(data):
    engine = Engine()
    func = data.draw(st.sampled_from([len, Main("f = lambda: 1")["f"]]))
    whole = payload.join(dump_call(func, (np.arange(3000), 2), {}, engine.cache).pieces)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(SerializationError):
        load_call(whole[:cut], engine.store)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x20", b"\x20\0\0\0\xff\xff\xff\xff", payload.dumps_bytes(3)]
)
def test_garbage_is_refused(data):
    store = FunctionStore()
    store.add(b"d", payload.dumps_bytes(len))
    for digest in (b"", b"d"):
        with pytest.raises(SerializationError):
            load_call(data, store, digest)


# ---------------------------------------------------------------- source text


def test_source_text_travels(engine, tmp_path):
    file = tmp_path / "script.py"
    text = "\n\n\nk = 0\ndef f():\n    return 1 / k  # here\n\ndef g():\n    return f()\n"
    file.write_text(text)
    main = Main().run(text, str(file))
    call = dump_call(main["g"], (), {}, engine.cache)
    file.unlink()
    linecache.clearcache()
    func, _, _ = load_call(payload.join(call.pieces), engine.store)
    with pytest.raises(ZeroDivisionError) as info:
        func()
    shown = "".join(traceback.format_exception(info.value))
    assert "return 1 / k  # here" in shown
    assert "return f()" in shown
    linecache.checkcache()
    assert linecache.getline(str(file), 6) == "    return 1 / k  # here\n"


def test_the_file_of_the_engine_wins_if_it_is_there(tmp_path):
    file = tmp_path / "there.py"
    file.write_text("a\nb\n")
    sources.register((str(file), 1, "other\n"))
    assert linecache.getline(str(file), 1) == "a\n"


def test_interactive_text_is_merged_and_replaced():
    name = "<ipython-input-7-abc>"
    sources.register((name, 3, "def f():\n    return 1\n"))
    sources.register((name, 1, "k = 1\n"))
    assert linecache.getlines(name) == ["k = 1\n", "\n", "def f():\n", "    return 1\n"]
    sources.register((name, 3, "def f():\n    return 2\n"))
    sources.register((name, 3, "def f():\n    return 2\n"))
    assert linecache.getline(name, 4) == "    return 2\n"
    linecache.cache[name] = (1, None, ["from elsewhere\n"], name)
    sources.register((name, 2, "added\n"))
    assert linecache.getlines(name) == ["from elsewhere\n", "added\n"]


@pytest.mark.parametrize("first", [0, -1, 10**9])
def test_lines_that_cannot_be_are_ignored(first):
    sources.register((f"<nowhere-{first}>", first, "x\n"))
    assert linecache.getlines(f"<nowhere-{first}>") == []


def test_long_or_missing_source_is_not_sent(tmp_path):
    assert sources.source_of(Main("f = lambda: 1")["f"].__code__) is None
    file = tmp_path / "long.py"
    text = "def f():\n" + "    x = 1\n" * 40_000
    file.write_text(text)
    main = Main().run(text, str(file))
    assert sources.source_of(main["f"].__code__) is None


def test_immutable_values_of_the_standard_library_can_be_watched():
    main = Main("f = lambda: d")
    main["d"] = datetime.timedelta(1)
    assert fingerprint(main["f"]).stable

    class Color(enum.Enum):
        RED = 1

    main["d"] = Color.RED
    assert not fingerprint(main["f"]).stable
