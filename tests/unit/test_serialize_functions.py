"""Functions of ``__main__`` in the namespace of an engine."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.serialize import payload
from ipkernel.serialize.functions import (
    Namespace,
    current_namespace,
    interactive,
    set_namespace,
)
from tests.support.calling import Main, engine, no_namespace, ns

__all__ = ["engine", "no_namespace", "ns"]


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
