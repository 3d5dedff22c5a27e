"""Objects on an engine: arguments out of the host's store, results into it."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ipkernel.engine.objects import EngineObjects
from ipkernel.errors import ConnectError, StoreFull
from ipkernel.objects import INLINE_LIMIT
from ipkernel.objects.ref import ObjectRef
from ipkernel.objects.tickets import result_id
from ipkernel.serialize.failure import decode
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.messages import Assign, Done, EngineSetup, Kind, Outcome, Placed, Release
from tests.support.enginebench import Bench

LARGE = INLINE_LIMIT * 2


class FakeStore:
    """A store in this process, which copies in slices as the real one does."""

    def __init__(self) -> None:
        self.connections: list[tuple[str, str, bytes]] = []
        self.objects: dict[bytes, bytes] = {}
        self.owners: dict[bytes, int] = {}
        self.mapped: list[bytes] = []
        self.over: list[bytes] = []
        self.tidied: list[int] = []
        self.problem: Exception | None = None
        self.during: Any = None

    def connect(self, address: str, subject: str, ticket: bytes) -> FakeStore:
        self.connections.append((address, subject, ticket))
        if isinstance(self.problem, ConnectError):
            raise self.problem
        return self

    def place(self, value: Any) -> Placed:
        data = b"".join(dumps(value))
        object_id = os.urandom(16)
        self.objects[object_id] = data
        return Placed(object_id, 1, 0, len(data))

    def map_placed(self, placed: Placed) -> memoryview:
        self.mapped.append(placed.object)
        data = self.objects[placed.object]
        memory = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
        weakref.finalize(memory, self.over.append, placed.object)
        return memoryview(memory).cast("B")

    def ended(self) -> list[bytes]:
        over = self.over.copy()
        self.over.clear()
        return over

    def tidy(self) -> None:
        self.tidied.append(len(self.mapped))

    def put(
        self,
        object_id: bytes,
        pieces: Sequence[Any],
        size: int,
        *,
        owner: int,
        transfer: Any = None,
    ) -> None:
        if self.problem is not None:
            raise self.problem
        data = b"".join(pieces)
        assert len(data) == size
        for offset in range(0, size, 1 << 14):
            if self.during is not None:
                self.during()
            transfer.advance(min(1 << 14, size - offset))
        self.objects[object_id] = data
        self.owners[object_id] = owner


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def bench(store: FakeStore) -> Iterator[Bench]:
    made = Bench(store.connect)
    made.number = 5 << 40
    yield made
    made.close()


# ---------------------------------------------------------------- results


def test_a_large_result_goes_into_the_store(bench: Bench, store: FakeStore) -> None:
    task = bench.submit(lambda: b"x" * LARGE)
    done, payload = bench.run()[task]
    assert (done.outcome, done.size, payload) == (Outcome.OK, 0, b"")
    assert done.length > LARGE and len(store.objects[done.object]) == done.length
    assert loads(store.objects[done.object]) == b"x" * LARGE
    assert store.owners[done.object] == 5
    assert done.object == result_id(b"ticket", task)
    assert store.connections == [("unix:@here", "engine:1:1", b"ticket")]


def test_small_results_need_no_store(bench: Bench, store: FakeStore) -> None:
    tasks = [bench.submit(lambda: b"x" * 1000), bench.submit(lambda n: n, [b"y" * 5000] * 3)]
    done = bench.run()
    assert [not done[task][0].object for task in tasks] == [True, True]
    assert loads(done[tasks[1]][1]) == [b"y" * 5000] * 3
    assert store.connections == []


@pytest.mark.parametrize(("size", "stored"), [(INLINE_LIMIT - 100, False), (INLINE_LIMIT, True)])
def test_where_the_limit_is(bench: Bench, size: int, stored: bool) -> None:
    task = bench.submit(lambda: bytearray(size))
    done, _ = bench.run()[task]
    assert bool(done.object) is stored


def test_the_smallest_result_is_kept_when_it_shall_be(bench: Bench, store: FakeStore) -> None:
    task, _ = bench.submit_large(lambda: 7, placed=(), stored=False, keep=True)
    done, _ = bench.run()[task]
    assert loads(store.objects[done.object]) == 7
    assert done.length == len(store.objects[done.object])


@pytest.mark.parametrize("kind", [Kind.MAP, Kind.EXECUTE, Kind.PULL])
def test_results_of_any_kind(bench: Bench, store: FakeStore, kind: Kind) -> None:
    bench.namespace.push({"a": b"x" * LARGE})
    if kind is Kind.MAP:
        task = bench.submit(lambda n: b"x" * n, [[LARGE]], kind=kind)
    elif kind is Kind.PULL:
        task = bench.order(kind, (["a"], True))
    else:
        options = {"silent": False, "filename": None, "store_history": True}
        task = bench.order(kind, ("print('x' * 10); a", options))
    done, _ = bench.run()[task]
    assert done.outcome is Outcome.OK and done.length > LARGE
    assert len(store.objects[done.object]) == done.length


def test_without_a_store_everything_travels_with_the_result() -> None:
    bench = Bench()
    try:
        assert bench.value(lambda: b"x" * LARGE) == b"x" * LARGE
        task, _ = bench.submit_large(lambda: 7, placed=(), stored=False, keep=True)
    finally:
        bench.close()


def test_a_full_store_is_the_tasks_error(bench: Bench, store: FakeStore) -> None:
    store.problem = StoreFull("1000 of 1000 bytes are in use")
    info = bench.error(bench.submit(lambda: b"x" * LARGE))
    assert info.ename == "StoreFull"
    assert info.evalue == "the result cannot stay on host here: 1000 of 1000 bytes are in use"


def test_a_store_that_is_not_there_is_the_tasks_error(bench: Bench, store: FakeStore) -> None:
    store.problem = ConnectError("nobody listens")
    task = bench.submit(lambda: b"x" * LARGE)
    assert "nobody listens" in bench.error(task).evalue


def test_an_engine_whose_id_changes_keeps_its_connection(store: FakeStore) -> None:
    objects = EngineObjects([False, False], store.connect)
    assert not objects.available
    objects.set_up(EngineSetup(0, "here", "c", "unix:@here", b"t", "engine:1:1"))
    objects.put([b"abc"], 3, 1 << 40)
    objects.set_up(EngineSetup(4, "here", "c", "unix:@here", b"t", "engine:1:1"))
    objects.put([b"abc"], 3, 1 << 40)
    assert objects.available and len(store.connections) == 1
    objects.set_up(EngineSetup(4, "here", "c", "unix:@there", b"t", "engine:1:1"))
    objects.put([b"abc"], 3, 1 << 40)
    assert store.connections[1] == ("unix:@there", "engine:1:1", b"t")


# ---------------------------------------------------------------- interrupts


def test_an_interrupt_ends_a_copy_and_leaves_nothing(bench: Bench, store: FakeStore) -> None:
    slices = []

    def during() -> None:
        slices.append(1)
        if len(slices) == 2:
            signal.raise_signal(signal.SIGINT)

    store.during = during
    info = bench.error(bench.submit(lambda: b"x" * LARGE))
    assert info.ename == "KeyboardInterrupt"
    assert len(slices) == 2 and not store.objects


def test_the_task_after_an_interrupted_copy_is_not_interrupted(
    bench: Bench, store: FakeStore
) -> None:
    store.during = lambda: signal.raise_signal(signal.SIGINT)
    first = bench.submit(lambda: b"x" * LARGE)
    second = bench.submit(sum, [1, 2])
    done = bench.run()
    assert decode(done[first][1]).ename == "KeyboardInterrupt"
    assert loads(done[second][1]) == 3


# ---------------------------------------------------------------- arguments


def test_a_stored_payload(bench: Bench, store: FakeStore) -> None:
    placed = Placed(os.urandom(16), 1, 0, 0)
    task, data = bench.submit_large(
        lambda blob: len(blob), b"x" * LARGE, placed=[placed], stored=True
    )
    store.objects[placed.object] = data
    assert bench.good(task) == LARGE
    assert store.mapped == [placed.object]


def test_references_become_their_values(bench: Bench, store: FakeStore) -> None:
    one, two = store.place({"a": [1, 2, 3]}), store.place(b"y" * LARGE)
    refs = [ObjectRef(placed.object, placed.size) for placed in (one, two)]
    task, _ = bench.submit_large(
        lambda a, b: (a["value"], len(b)), {"value": refs[0]}, refs[1],
        placed=[one, two], stored=False,
    )  # fmt: skip
    assert bench.good(task) == ({"a": [1, 2, 3]}, LARGE)


def test_a_stored_payload_with_references(bench: Bench, store: FakeStore) -> None:
    value = store.place([1, 2])
    body = Placed(os.urandom(16), 1, 0, 0)
    task, data = bench.submit_large(
        lambda blob, items: (len(blob), sum(items)), b"x" * LARGE,
        ObjectRef(value.object, value.size), placed=[body, value], stored=True,
    )  # fmt: skip
    store.objects[body.object] = data
    assert bench.good(task) == (LARGE, 3)


def test_references_in_a_push(bench: Bench, store: FakeStore) -> None:
    value = store.place([1, 2])
    bench.number += 1
    data = b"".join(dumps({"pushed": ObjectRef(value.object, value.size)}))
    message = Assign(bench.number, 3, Kind.PUSH, len(data), needs=[value.object], placed=[value])
    bench.link.send(message, data)
    bench.good(bench.number)
    assert bench.namespace.pull(["pushed"]) == [[1, 2]]


def test_a_reference_that_was_not_brought_along(bench: Bench, store: FakeStore) -> None:
    there = store.place(1)
    task, _ = bench.submit_large(
        lambda a: a, ObjectRef(os.urandom(16), 10), placed=[there], stored=False
    )
    assert "was not brought along" in bench.error(task).evalue


def test_code_of_the_task_sees_references_as_they_are(bench: Bench, store: FakeStore) -> None:
    """Only the call itself is loaded with its objects; what user code unpickles is its own."""
    there = store.place(1)

    def unpickles(value: int, blob: bytes) -> str:
        import pickle

        return type(pickle.loads(blob)).__name__

    import pickle

    ref = ObjectRef(there.object, there.size)
    task, _ = bench.submit_large(unpickles, ref, pickle.dumps(ref), placed=[there], stored=False)
    assert bench.good(task) == "ObjectRef"


def test_objects_that_cannot_be_mapped_are_the_tasks_error(bench: Bench, store: FakeStore) -> None:
    there = store.place(1)
    store.problem = ConnectError("the store is gone")
    task, _ = bench.submit_large(lambda a: a, 1, placed=[there], stored=False)
    after = bench.submit(sum, [1, 2])
    done = bench.run()
    assert "the store is gone" in decode(done[task][1]).evalue
    assert loads(done[after][1]) == 3


def test_nothing_keeps_a_mapping_after_its_task(bench: Bench, store: FakeStore) -> None:
    there = store.place(b"y" * LARGE)
    views: list[Any] = []
    original = store.map_placed

    def remember(placed: Placed) -> memoryview:
        import weakref

        class Memory(bytearray):
            """Memory that can be referred to weakly."""

        memory = Memory(store.objects[placed.object])
        views.append(weakref.ref(memory))
        assert original(placed)
        return memoryview(memory)

    store.map_placed = remember  # type: ignore[method-assign]
    ref = ObjectRef(there.object, there.size)
    task, _ = bench.submit_large(lambda a: len(a), ref, placed=[there], stored=False)
    again, _ = bench.submit_large(lambda a: 1 // 0, ref, placed=[there], stored=False)
    done = bench.run()
    assert done[task][0].outcome is Outcome.OK and done[again][0].outcome is Outcome.ERROR
    gc.collect()
    assert [view() for view in views] == [None, None]


def released(bench: Bench) -> list[tuple[list[bytes], int]]:
    """The leases that the engine said have ended, with the task whose result came right after."""
    messages = [message for message, _ in bench.messages]
    return [
        (sorted(message.objects), after.task)
        for message, after in pairwise(messages)
        if isinstance(message, Release) and isinstance(after, Done)
    ]


def test_leases_that_end_with_a_task_are_told_with_its_result(
    bench: Bench, store: FakeStore
) -> None:
    one, two, three = store.place(b"y" * LARGE), store.place(b"z"), store.place(0)
    refs = [ObjectRef(there.object, there.size) for there in (one, two)]
    both, _ = bench.submit_large(lambda *a: len(a), *refs, placed=[one, two], stored=False)
    none = bench.submit(sum, [1, 2])
    fails, _ = bench.submit_large(lambda a: 1 // 0, refs[0], placed=[one], stored=False)
    call, data = bench.submit_large(lambda: 7, placed=[three], stored=True)
    store.objects[three.object] = data
    done = bench.run()
    assert [done[task][0].outcome for task in (both, none, fails, call)] == [
        Outcome.OK, Outcome.OK, Outcome.ERROR, Outcome.OK,
    ]  # fmt: skip
    assert released(bench) == [
        (sorted([one.object, two.object]), both),
        ([one.object], fails),
        ([three.object], call),
    ]
    assert store.tidied  # when nothing more was to be done


def test_what_is_kept_stays_leased(bench: Bench, store: FakeStore) -> None:
    def keep(value: Any) -> None:
        import sys

        sys.kept = value  # type: ignore[attr-defined]

    there = store.place(np.zeros(LARGE))
    ref = ObjectRef(there.object, there.size)
    task, _ = bench.submit_large(keep, ref, placed=[there], stored=False)
    assert bench.run()[task][0].outcome is Outcome.OK
    assert released(bench) == []
    assert not store.tidied
    del sys.kept  # type: ignore[attr-defined]
    assert store.ended() == [there.object]


def test_a_child_that_user_code_forked_puts_nothing(bench: Bench, store: FakeStore) -> None:
    def forks() -> bytes:
        from ipkernel.engine.current import state

        pid = os.fork()
        if pid == 0:
            state.forked = True
            return b"x" * LARGE
        assert os.waitpid(pid, 0)[1] == 0
        return b"y" * LARGE

    task = bench.submit(forks)
    done, _ = bench.run()[task]
    assert loads(store.objects[done.object]) == b"y" * LARGE
    assert len(store.objects) == 1


def test_engines_load_no_modules_of_the_store() -> None:
    """Until something large comes: engines are to start fast."""
    code = (
        "import sys\n"
        "from ipkernel.engine import zygote\n"
        "zygote.preload()\n"
        "print([m for m in sys.modules if m.startswith(('ipkernel.objects.', 'attr', 'twisted'))])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert eval(found) == ["ipkernel.objects.ref"]
