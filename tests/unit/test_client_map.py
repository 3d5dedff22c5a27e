"""Maps in all forms: parts, chunks, lazy ones, decorated functions, executors."""

from __future__ import annotations

import array
import concurrent.futures
import itertools
import operator
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel import errors
from ipkernel.client import partition
from ipkernel.client.executor import ViewExecutor
from ipkernel.client.view import LazyMapIterator
from ipkernel.wire.messages import Cancel, Kind
from tests.support.clients import fake, lv, rc, submits
from tests.support.fakecontroller import FakeController

__all__ = ["fake", "lv", "rc"]


def odd_fails(x):
    if x % 2:
        raise ValueError(x)
    return x


# ---------------------------------------------------------------- dividing


@settings(deadline=None)
@given(st.lists(st.integers()), st.integers(1, 20), st.sampled_from(["b", "r"]))
def test_parts_join_to_the_whole(items, count, name):
    dist = partition.dist_of(name)
    parts = dist.parts(items, count)
    assert len(parts) == count
    assert dist.join(parts) == items
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def frames(size):
    pandas = pytest.importorskip("pandas")
    index = [number + 0.5 for number in range(size)]  # pandas' own slices would be by these labels
    column = pandas.Series([number * number for number in range(size)], index)
    kinds = pandas.Series(["ab"[number % 2] for number in range(size)], dtype="category")
    return [pandas.DataFrame({"a": column, "b": column + 1}), column, kinds, column.index]


def arrow_values(size):
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.array(range(size), "int32")
    table = pyarrow.table({"a": column, "b": column})
    return [column, pyarrow.chunked_array([column, column]), table, table.to_batches(99)[0]]


def memory(size):
    numbers = array.array("d", range(size))
    return [numbers, bytearray(range(size)), memoryview(bytes(range(size))), memoryview(numbers)]


def same(one, other):
    return one.equals(other) if hasattr(one, "equals") else one == other


@pytest.mark.parametrize("values", [frames, arrow_values, memory])
@pytest.mark.parametrize("name", ["b", "r"])
@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_tables_columns_and_memory_join_to_what_they_were(values, name, count):
    dist = partition.dist_of(name)
    for value in values(20):
        parts = dist.parts(value, count)
        lengths = [len(part) for part in parts]
        assert sum(lengths) == len(value) and max(lengths) - min(lengths) <= 1
        assert {type(part) for part in parts} == {type(value)}
        whole = dist.join(parts)
        assert type(whole) is type(value) and same(whole, value)


def test_tables_are_items_where_they_do_not_make_one():
    pandas = pytest.importorskip("pandas")
    table, error = pandas.DataFrame({"a": [1, 2]}), ValueError("oops")
    assert partition.BLOCK.join([table, [error]]) == [table, error]
    assert len(partition.ROUND_ROBIN.join([table, table, pandas.DataFrame({"a": [1] * 9})])) == 3
    pyarrow = pytest.importorskip("pyarrow")
    tables = [pyarrow.table({"a": [1]}), pyarrow.table({"b": ["x"]})]
    assert partition.BLOCK.join(tables) == tables
    views = [memoryview(b"12345678"), memoryview(array.array("d", [1]))]
    assert partition.BLOCK.join(views) == views
    squares = [view.cast("B", (2, 4)) for view in (views[0], views[0])]
    assert partition.BLOCK.join(squares) == squares


@pytest.mark.parametrize("size", [None, 3])
def test_columns_are_cut_by_position(size):
    _, column, *_ = frames(20)
    parts = [part for (part,) in partition.chunks([column], 2, size)]
    assert [value for part in parts for value in part] == list(column)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 9), st.sampled_from(["b", "r"]))
def test_arrays_join_to_arrays(size, count, name):
    numpy = pytest.importorskip("numpy")
    dist = partition.dist_of(name)
    data = numpy.arange(size, dtype="f4")
    whole = dist.join(dist.parts(data, count))
    assert isinstance(whole, numpy.ndarray) and whole.dtype == data.dtype
    assert (whole == data).all()


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 16), st.none() | st.integers(1, 50))
def test_chunks_cover_everything_in_order(items, engines, size):
    known = list(partition.chunks([range(items)], engines, size))
    unknown = list(partition.chunks([iter(range(items))], engines, size))
    for cut in (known, unknown):
        assert [x for (part,) in cut for x in part] == list(range(items))
        assert all(len(part) for (part,) in cut)
        if size:
            assert all(len(part) <= size for (part,) in cut)


def test_chunks_of_a_range_stay_ranges():
    (part,) = next(partition.chunks([range(10**9)], 2))
    assert isinstance(part, range)
    assert len(part) == partition.MAX_CHUNK


@pytest.mark.parametrize(
    ("items", "engines", "size"),
    [(0, 4, 1), (1, 4, 1), (32, 4, 1), (33, 4, 2), (3200, 4, 100), (5, 0, 1)],
)
def test_chunk_size(items, engines, size):
    assert partition.chunk_size(items, engines) == size


def test_chunks_of_unknown_length_are_taken_as_needed():
    seen = []

    def source():
        for i in itertools.count():
            seen.append(i)
            yield i

    cut = partition.chunks([source()], 1)
    next(cut)
    assert seen == [0]
    sizes = [len(next(cut)[0]) for _ in range(40)]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0]


def test_sequences_that_cannot_be_sliced_are_copied():
    assert partition.indexable({1, 2}) == [1, 2]
    assert partition.indexable({"a": 1}) == ["a"]
    data = (1, 2)
    assert partition.indexable(data) is data


# ---------------------------------------------------------------- map


@pytest.mark.parametrize("kind", ["direct", "balanced"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 1001])
def test_map_is_like_map(rc, kind, count):
    view = rc[:] if kind == "direct" else rc.load_balanced_view()
    assert view.map_sync(operator.neg, range(count)) == [-i for i in range(count)]
    result = view.map_async(operator.add, range(count), iter(range(count)))
    assert len(result) == count
    assert list(result) == result.get() == [2 * i for i in range(count)]
    assert result[:] == result.get()


def test_shortest_sequence_ends_it(rc, lv):
    for view in (rc[:], lv):
        assert view.map_sync(operator.add, [1, 2, 3], range(10)) == [1, 3, 5]


def test_direct_map_is_one_task_per_engine(fake, rc):
    rc[:].map_sync(operator.neg, range(100))
    assert [m.targets for m in submits(fake)] == [[0], [1], [2]]
    assert {m.kind for m in submits(fake)} == {Kind.MAP}
    rc[:].map_sync(operator.neg, range(2))
    assert len(submits(fake)) == 5


def test_balanced_map_is_cut_into_chunks(fake, lv):
    lv.map_sync(operator.neg, range(10_000))
    assert len(submits(fake)) == 3 * partition.CHUNKS_PER_ENGINE
    fake.messages.clear()
    lv.map_sync(operator.neg, range(10), chunksize=3)
    assert len(submits(fake)) == 4


def test_map_arguments_are_checked(rc, lv):
    for view in (rc[:], lv):
        with pytest.raises(TypeError):
            view.map(operator.neg)
        with pytest.raises(TypeError, match="'chunks'"):
            view.map(operator.neg, [1], chunks=2)
        with pytest.raises(ValueError):
            view.map(operator.neg, [1], chunksize=0)


def test_round_robin_map(rc):
    result = rc[:].map_async(operator.neg, range(7), dist="r")
    assert list(result) == result.get() == [-i for i in range(7)]


def test_errors_of_a_map(rc, lv):
    for view in (rc[:], lv):
        with pytest.raises(errors.CompositeError, match="ValueError: 1"):
            view.map_sync(odd_fails, range(4))


def test_exceptions_as_items(rc, lv):
    for view in (rc[:], lv):
        found = view.map_sync(odd_fails, range(4), return_exceptions=True)
        assert [type(x).__mro__[-4:] and isinstance(x, ValueError) for x in found] == [
            False, True, False, True,
        ]  # fmt: skip
        assert found[::2] == [0, 2]
        assert all(isinstance(x, errors.RemoteError) for x in found[1::2])
        again = list(view.map(odd_fails, range(4), return_exceptions=True))
        assert again[0] == 0 and isinstance(again[1], ValueError)


def test_a_lost_chunk_is_as_many_exceptions_as_items(fake, lv):
    fake.held = True
    result = lv.map(operator.neg, range(6), chunksize=2, return_exceptions=True)
    fake.release(2)
    result._session.lost(lambda: errors.ControllerLost("gone"))
    found = result.get()
    assert found[:4] == [0, -1, -2, -3]
    assert [type(x) for x in found[4:]] == [errors.ControllerLost] * 2


def test_unordered_iteration_yields_what_is_there(fake, lv):
    fake.held = True
    result = lv.map(operator.neg, range(6), chunksize=2, ordered=False)
    fake.release(2, backwards=True)
    iterator = iter(result)
    assert [next(iterator) for _ in range(4)] == [-4, -5, -2, -3]
    fake.release()
    assert list(iterator) == [0, -1]
    assert result.get() == [-i for i in range(6)]


def test_ordered_iteration_does_not_wait_for_the_end(fake, lv):
    fake.held = True
    result = lv.map(operator.neg, range(6), chunksize=2)
    fake.release(1)
    iterator = iter(result)
    assert [next(iterator), next(iterator)] == [0, -1]
    fake.release()
    assert list(iterator) == [-2, -3, -4, -5]


def test_arrays_come_back_as_arrays_from_parallel(rc):
    numpy = pytest.importorskip("numpy")
    data = numpy.arange(12.0)

    @rc[:].parallel(block=True)
    def double(part):
        return 2 * part

    whole = double(data)
    assert isinstance(whole, numpy.ndarray)
    assert (whole == 2 * data).all()


def test_block_of_a_map(lv):
    lv.block = True
    assert lv.map(operator.neg, [1]) == [-1]
    assert lv.map(operator.neg, [1], block=False).get() == [-1]
    assert lv.map_async(operator.neg, [1]).get() == [-1]


def test_labels_and_retries_of_a_map(fake, lv):
    lv.set_flags(retries=2, label="l")
    lv.map_sync(operator.neg, [1])
    lv.map_sync(operator.neg, [1], label="other")
    assert [(m.retries, m.label) for m in submits(fake)] == [(2, "l"), (2, "other")]


# ---------------------------------------------------------------- imap


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("outstanding", [0, 1, 2, "auto"])
def test_imap(rc, lv, ordered, outstanding):
    for view in (lv, rc[:]):
        found = view.imap(operator.neg, range(50), ordered=ordered, max_outstanding=outstanding)
        assert isinstance(found, LazyMapIterator)
        assert repr(found).startswith("<LazyMapIterator: ")
        assert sorted(found) == sorted(-i for i in range(50))


def test_imap_consumes_lazily(fake, lv):
    numbers = itertools.count()
    found = lv.imap(operator.neg, numbers, max_outstanding=4)
    assert repr(found) == "<LazyMapIterator: 4 calls under way, more to come>"
    assert [next(found) for _ in range(3)] == [0, -1, -2]
    assert len(submits(fake)) <= 3 + 4
    found.cancel()
    assert list(found) == []


def test_imap_in_the_order_of_arrival(fake, lv):
    fake.held = True
    found = lv.imap(operator.neg, range(4), ordered=False, max_outstanding=0)
    fake.release(backwards=True)
    assert list(found) == [-3, -2, -1, 0]


def test_imap_cancel_aborts(fake, lv):
    fake.held = True
    found = lv.imap(operator.neg, range(100), max_outstanding=5)
    found.cancel()
    assert sum(len(m.tasks) for m in fake.messages if isinstance(m, Cancel)) == 5
    assert not fake.queue


def test_imap_errors(lv):
    found = lv.imap(odd_fails, range(4))
    assert next(found) == 0
    with pytest.raises(ValueError):
        next(found)
    assert next(found) == 2
    kept = list(lv.imap(odd_fails, range(4), return_exceptions=True))
    assert isinstance(kept[1], ValueError) and kept[2] == 2
    with pytest.raises(TypeError):
        lv.imap(odd_fails)
    with pytest.raises(ValueError):
        lv.imap(odd_fails, [1], max_outstanding=-1)


# ---------------------------------------------------------------- decorators


def test_remote_function(rc):
    @rc[:].remote(block=True)
    def add(a, b=1):
        """Adds."""
        return a + b

    assert add(2) == [3] * 3
    assert add(2, b=5) == [7] * 3
    assert add.__name__ == "add" and add.__doc__ == "Adds."
    assert str(add.__signature__) == "(a, b=1)"
    assert "add" in repr(add)


def test_remote_flags_hold_for_its_calls_only(fake, lv):
    @lv.remote(label="mine")
    def one():
        return 1

    assert one().get() == 1
    assert lv.apply_sync(int) == 0
    assert [m.label for m in submits(fake)] == ["mine", ""]


def test_parallel_function(rc, lv):
    for view in (rc[:], lv):

        @view.parallel(block=True)
        def total(xs, ys):
            return [sum(xs) + sum(ys)]

        assert sum(total(range(10), range(10))) == 90
        with pytest.raises(ValueError, match="differ in length"):
            total([1], [1, 2])
        with pytest.raises(TypeError):
            total()

    @rc[:].parallel(dist="r", block=True)
    def negative(x):
        return -x

    assert negative.map(range(7)) == [-i for i in range(7)]


# ---------------------------------------------------------------- executor


def test_executor(rc):
    with rc.executor() as pool:
        assert isinstance(pool, ViewExecutor) and isinstance(pool, concurrent.futures.Executor)
        assert repr(pool) == "<ViewExecutor on <LoadBalancedView all>>"
        futures = [pool.submit(operator.neg, i) for i in range(10)]
        assert sum(f.result() for f in concurrent.futures.as_completed(futures)) == -45
        assert list(pool.map(operator.add, range(5), range(5))) == [0, 2, 4, 6, 8]
        assert list(pool.map(operator.neg, range(3), chunksize=2, timeout=10)) == [0, -1, -2]
    assert repr(pool) == "<ViewExecutor on <LoadBalancedView all>: shut down>"
    with pytest.raises(RuntimeError):
        pool.submit(int)
    with pytest.raises(RuntimeError):
        pool.map(int, [1])


def test_executor_map_timeout(fake, rc):
    pool = rc.load_balanced_view().executor
    fake.held = True
    for ordered in (True, False):
        found = pool.map(operator.neg, range(3), timeout=0.01, ordered=ordered)
        with pytest.raises(TimeoutError):
            next(found)
    fake.release()


def test_executor_shutdown_waits_or_cancels(fake, rc):
    fake.held = True
    pool = rc.executor()
    future = pool.submit(operator.neg, 1)
    ended = threading.Event()

    def shutdown():
        pool.shutdown()
        ended.set()

    thread = threading.Thread(target=shutdown)
    thread.start()
    time.sleep(0.02)
    assert not ended.is_set()
    fake.release()
    thread.join(10)
    assert ended.is_set() and future.result() == -1
    other = rc.executor()
    late = other.submit(operator.neg, 1)
    other.shutdown(cancel_futures=True)
    assert late.cancelled()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5, 5), max_size=60), st.integers(1, 7))
def test_any_order_of_completion_gives_the_same_result(items, chunksize):
    fake = FakeController(engines=2)
    fake.held = True
    result = fake.client().load_balanced_view().map(operator.neg, items, chunksize=chunksize)
    while fake.queue:
        fake.release(1, backwards=len(fake.queue) % 2 == 0)
    assert result.get(0) == [-i for i in items]
