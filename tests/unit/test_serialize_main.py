"""A real ``__main__`` in one process, an engine in another."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import pytest

CLIENT = """
    import enum, pickle, subprocess, sys, threading
    from dataclasses import dataclass

    from ipkernel.errors import RemoteError, SerializationError
    from ipkernel.serialize import failure, payload
    from ipkernel.serialize.functions import FunctionCache, dump_call

    scale = 3
    table = {"a": 1}


    class Point:
        made = 0

        def __init__(self, x):
            self.x = x

        def scaled(self):
            return Point(self.x * scale)

        def __eq__(self, other):
            return isinstance(other, Point) and other.x == self.x


    @dataclass(frozen=True)
    class Item:
        name: str
        point: Point


    class Color(enum.Enum):
        RED = 1
        BLUE = 2


    class OwnError(Exception):
        def __init__(self, code, point):
            super().__init__(f"code {code}")
            self.code = code
            self.point = point


    def helper(x):
        return x * scale


    def use_helper(x):
        return helper(x) + 1


    def move(point):
        return point.scaled()


    def make_item(name):
        return Item(name, Point(1))


    def other(color):
        return Color.BLUE if color is Color.RED else Color.RED


    def fail(code):
        raise OwnError(code, Point(code))  # this line failed


    def fail_oddly():
        return table["missing"]


    async def later(x):
        return helper(x)


    def generate(n):
        for i in range(n):
            yield helper(i)


    def remember(value):
        global memory
        memory = value


    def recall():
        return memory


    def give_function():
        return lambda x: helper(x)


    engine = subprocess.Popen([sys.executable, sys.argv[1]], stdin=-1, stdout=-1)
    cache = FunctionCache()
    sent = set()


    def call(func, *args, **kwargs):
        message = dump_call(func, args, kwargs, cache)
        blob = b"" if message.digest in sent else message.blob
        sent.add(message.digest)
        pickle.dump((message.digest, blob, payload.join(message.pieces)), engine.stdin)
        engine.stdin.flush()
        ok, data = pickle.load(engine.stdout)
        if ok:
            return payload.loads(data)
        raise failure.to_exception(failure.decode(data))


    BODY
    engine.stdin.close()
    engine.wait()
    print("all is well")
"""

ENGINE = """
    import pickle, sys, traceback

    from ipkernel.serialize import failure, payload
    from ipkernel.serialize.functions import FunctionStore, load_call, set_namespace

    ns = {"__name__": "__main__", "pushed": 11}
    set_namespace(ns)
    store = FunctionStore()
    while True:
        try:
            digest, blob, data = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            if blob:
                store.add(digest, blob)
            func, args, kwargs = load_call(data, store, digest)
            answer = (True, payload.dumps_bytes(func(*args, **kwargs)))
        except BaseException as exc:
            info = failure.describe(exc, engine_info={"engine": 0}, hide_until=__file__)
            answer = (False, failure.encode(info))
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
"""

BODIES = {
    "functions see each other": """
        for i in range(4):
            assert call(use_helper, i) == i * 3 + 1
        scale = 5
        assert call(use_helper, 2) == 11
    """,
    "instances are of the client's class": """
        for i in range(3):
            moved = call(move, Point(i))
            assert type(moved) is Point and moved == Point(i * 3), moved
        item = call(make_item, "n")
        assert type(item) is Item and item == Item("n", Point(1))
        assert call(other, Color.RED) is Color.BLUE
        assert call(Point, 4) == Point(4)
        assert call(Point(4).scaled) == Point(12)
    """,
    "the client's class stays as it is": """
        Point.made = 1
        assert call(lambda: Point.made) == 1
        back = call(move, Point(1))
        Point.made = 2
        back = call(lambda p: p, back)
        assert Point.made == 2
        assert Point.scaled.__globals__ is globals()
        scale = 10
        assert back.scaled() == Point(30)
        # On the engine it follows.
        assert call(lambda: Point.made) == 2
        Point.scaled = lambda self: "new"
        assert call(move, Point(1)) == "new"
    """,
    "own exceptions can be caught": """
        try:
            call(fail, 5)
        except OwnError as exc:
            assert isinstance(exc, RemoteError)
            assert exc.code == 5 and exc.point == Point(5)
            assert str(exc) == "[engine 0] OwnError: code 5"
            assert "# this line failed" in exc.traceback
        else:
            raise AssertionError
        try:
            call(fail_oddly)
        except KeyError as exc:
            assert exc.args == ("missing",)
            # The machinery that called is not shown.
            assert exc.traceback.count("File ") == 1, exc.traceback
        else:
            raise AssertionError
    """,
    "the namespace is the engine's": """
        assert call(lambda: pushed) == 11
        call(remember, [1])
        assert call(recall) == [1]
        assert call(lambda: memory) == [1]
        memory = "the client's own"
        assert call(recall) == [1]
    """,
    "generators, coroutines and functions come and go": """
        assert call(lambda: list(generate(3))) == [0, 3, 6]
        import asyncio
        assert call(lambda: __import__("asyncio").run(later(2))) == 6
        given = call(give_function)
        assert given(2) == 6
        scale = 100
        assert given(2) == 6
        assert call(given, 2) == 6
    """,
    "mutable globals are as they are now": """
        look = lambda: dict(table)
        for i in range(3):
            table["i"] = i
            assert call(look) == {"a": 1, "i": i}
    """,
    "what cannot be sent is named": """
        lock = threading.Lock()
        try:
            call(lambda: lock)
        except SerializationError as exc:
            assert "global 'lock'" in str(exc), exc
        else:
            raise AssertionError
        try:
            call(move, Point(lock))
        except SerializationError as exc:
            assert str(exc).startswith("cannot send argument 1.x: "), exc
        else:
            raise AssertionError
    """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_main(body, tmp_path):
    engine = tmp_path / "engine.py"
    engine.write_text(textwrap.dedent(ENGINE))
    client = tmp_path / "client.py"
    client.write_text(textwrap.dedent(CLIENT).replace("BODY", textwrap.dedent(body)))
    done = subprocess.run(
        [sys.executable, str(client), str(engine)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all is well\n"


def test_source_of_a_script_that_is_not_on_the_engine(tmp_path):
    """The client's script is gone when the engine renders the traceback."""
    script = tmp_path / "script.py"
    out = tmp_path / "function.bin"
    script.write_text(
        "import sys\nfrom ipkernel.serialize import payload\n"
        "def f():\n    return 1 / 0  # the line\n"
        f"open({str(out)!r}, 'wb').write(payload.dumps_bytes(f))\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    script.unlink()
    code = (
        "import sys\nfrom ipkernel.serialize import failure, payload\n"
        "from ipkernel.serialize.functions import set_namespace\n"
        "set_namespace({})\n"
        f"f = payload.loads(open({str(out)!r}, 'rb').read())\n"
        "try:\n    f()\nexcept ZeroDivisionError as exc:\n"
        "    sys.stdout.buffer.write(failure.encode(failure.describe(exc)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    from ipkernel.serialize import failure

    info = failure.decode(done.stdout)
    assert info.frames[-1] == (str(script), 4, "f", "return 1 / 0  # the line")
    assert isinstance(pickle.loads(info.pickled[1:]), ZeroDivisionError)
