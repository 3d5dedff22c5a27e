"""Streams of items with a real cluster: both ways, many at once, ended and killed in the midst."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading

import pytest

import ipkernel as ipp
from ipkernel import errors
from ipkernel.cluster.cluster import Cluster
from tests.integration.faults_support import wait_for
from tests.integration.flow_support import (
    Peaks,
    Script,
    assert_nothing_left,
    be_far,
    connected,
    host_processes,
    note_flows,
)

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("streams") / "cluster_streams"
    cluster = Cluster(n=2, cluster_dir=str(directory), store_memory="96MB")
    cluster.start_cluster_sync()
    try:
        with connected(directory):  # starts the reactor's thread, once for all tests
            yield cluster
    finally:
        cluster.stop_cluster_sync()


@pytest.fixture
def keys(monkeypatch):
    return note_flows(monkeypatch)


@pytest.fixture
def rc(cluster, keys):
    with connected(cluster.directory) as client:
        yield client
        if client.ids and keys:
            assert_nothing_left(client, keys)


@pytest.fixture(params=["near", "far", "relayed"])
def any_rc(cluster, request, monkeypatch):
    """A client of this machine; one that believes to be on another; one that cannot dial the host."""
    be_far(monkeypatch, request.param)
    return request.getfixturevalue("rc")


@pytest.fixture
def own(tmp_path, keys):
    """A cluster of one engine for one test, which may break it."""
    cluster = Cluster(n=1, cluster_dir=str(tmp_path / "cluster_own"))
    cluster.start_cluster_sync()
    try:
        with connected(cluster.directory, 1) as client:
            yield client, cluster
    finally:
        cluster.stop_cluster_sync()


# ---------------------------------------------------------------- on the engine


def numbers(count):
    yield from range(count)


def arrays(count, size):
    import numpy

    for number in range(count):
        yield numpy.full(size, number)


def watched(path, pause=0.0):
    """Yield for ever, and note in a file how it ended."""
    import time

    how = "lost"
    try:
        for number in itertools.count():
            yield number
            time.sleep(pause)
    except GeneratorExit:
        how = "closed"
        raise
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    finally:
        with open(path, "w") as file:
            file.write(how)


def failing(count):
    yield from range(count)
    raise ZeroDivisionError("on the engine")


def first(count, items):
    return [next(items) for _ in range(count)]


def total(items):
    return float(sum(item.sum() for item in items))


def ended(path):
    """Wait until a watched generator has ended; return how."""
    return wait_for(lambda: path.exists() and path.read_text(), what="the generator goes on")


# ---------------------------------------------------------------- both ways


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_items_come(any_rc, count):
    assert list(any_rc[0].stream(numbers, count)) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_items_go(any_rc, count):
    assert any_rc[0].apply_sync(list, ipp.stream(numbers(count))) == list(range(count))


def test_arrays_come_and_go(any_rc):
    size = 300_000  # 2.4 MB, each a chunk of its own
    for number, array in enumerate(any_rc[1].stream(arrays, 5, size)):
        assert (array == number).all() and array.shape == (size,)
        array[:] = 0  # it is ours
    sent = ipp.stream(arrays(5, size))
    assert any_rc[1].apply_sync(total, sent) == size * (0 + 1 + 2 + 3 + 4)


def test_what_comes_out_goes_in(any_rc):
    def double(items):
        for item in items:
            yield 2 * item

    source = any_rc[0].stream(numbers, 2000)
    assert list(any_rc[1].stream(double, ipp.stream(source))) == list(range(0, 4000, 2))


def test_any_engine_of_a_load_balanced_view(any_rc):
    view = any_rc.load_balanced_view()
    found = [view.stream(numbers, 500) for _ in range(5)]
    assert [sum(one) for one in found] == [sum(range(500))] * 5
    sums = [view.apply_async(sum, ipp.stream(range(500))) for _ in range(5)]
    assert [one.get(30) for one in sums] == [sum(range(500))] * 5


def test_several_at_once(rc):
    streams = rc[:].stream(numbers, 1000)
    pairs = list(zip(*streams, strict=True))
    assert pairs == [(n, n) for n in range(1000)]

    found = {}

    def consume(name):
        found[name] = sum(rc.load_balanced_view().stream(numbers, 1000))

    threads = [threading.Thread(target=consume, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found.values()) == {sum(range(1000))}


# ---------------------------------------------------------------- laziness and ends


def test_the_engine_is_only_a_little_ahead(rc, tmp_path):
    with rc[0].stream(watched, str(tmp_path / "how")) as items:
        assert list(itertools.islice(items, 10)) == list(range(10))
    assert ended(tmp_path / "how") == "closed"
    assert items.result.get(30) < 20_000


def test_items_here_are_made_while_they_are_wanted(rc, tmp_path):
    made = []

    def make():
        for number in itertools.count():
            made.append(number)
            yield number

    assert rc[0].apply_sync(first, 5, ipp.stream(make())) == [0, 1, 2, 3, 4]
    assert len(made) < 20_000


def test_an_iterator_that_is_dropped_ends_its_generator(any_rc, tmp_path):
    items = any_rc[0].stream(watched, str(tmp_path / "how"))
    assert next(items) == 0
    del items
    assert ended(tmp_path / "how") == "closed"
    assert any_rc[0].apply_sync(abs, -1) == 1


def test_a_generator_that_sleeps_is_interrupted(rc, tmp_path):
    items = rc[0].stream(watched, str(tmp_path / "how"), 60)
    assert next(items) == 0
    items.close()
    assert ended(tmp_path / "how") == "interrupted"
    assert rc[0].apply_sync(abs, -1) == 1
    assert items.result.get(30) == 1


def test_closing_before_it_has_begun(rc, tmp_path):
    busy = rc[0].stream(watched, str(tmp_path / "busy"))
    assert next(busy) == 0
    items = rc[0].stream(watched, str(tmp_path / "how"))
    items.close()
    busy.close()
    with pytest.raises(errors.TaskAborted):
        items.result.get(30)
    assert not (tmp_path / "how").exists()


def test_an_engine_that_has_enough_closes_our_generator(any_rc, tmp_path):
    items = watched(str(tmp_path / "how"))
    assert any_rc[0].apply_sync(first, 3, ipp.stream(items)) == [0, 1, 2]
    assert ended(tmp_path / "how") == "closed"


# ---------------------------------------------------------------- exceptions


def test_an_exception_there_comes_as_what_it_is(any_rc):
    items = any_rc[0].stream(failing, 3)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="on the engine") as caught:
        next(items)
    assert isinstance(caught.value, errors.RemoteError)
    assert "in failing" in caught.value.traceback


def test_an_exception_here_goes_as_what_it_is(any_rc):
    def there(items):
        try:
            return list(items)
        except ZeroDivisionError as error:
            return f"caught {error}"

    assert any_rc[0].apply_sync(there, ipp.stream(failing(3))) == "caught on the engine"


def test_ctrl_c_is_no_end(rc, tmp_path):
    items = rc[0].stream(watched, str(tmp_path / "how"), 0.5)
    assert next(items) == 0
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            next(items)
    timer.join()
    before = next(items)
    assert next(items) == before + 1
    items.close()


def test_interrupting_the_engine_is_an_error(rc, tmp_path):
    items = rc[0].stream(watched, str(tmp_path / "how"), 60)
    assert next(items) == 0
    rc.send_signal("SIGINT", 0)
    with pytest.raises(errors.RemoteError, match="KeyboardInterrupt"):
        next(items)
    assert ended(tmp_path / "how") == "interrupted"


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize("way", ["come", "go"])
def test_memory_stays_bounded(rc, way):
    count, size = 150, 250_000  # 300 MB in all
    if way == "come":
        assert sum(a[0] for a in rc[0].stream(arrays, 5, size)) == 10
    else:
        rc[0].apply_sync(total, ipp.stream(arrays(5, size)))
    peaks = Peaks({"client": os.getpid(), **host_processes(rc)})
    if way == "come":
        found = sum(float(a.sum()) for a in rc[0].stream(arrays, count, size))
    else:
        found = rc[0].apply_sync(total, ipp.stream(arrays(count, size)))
    assert found == size * sum(range(count))
    growth = peaks.growth()
    assert max(growth.values()) < 120, growth


# ---------------------------------------------------------------- kills


def test_an_engine_that_is_killed_while_it_sends(own, keys, tmp_path):
    rc, _ = own
    pid = rc[0].apply_sync(os.getpid)
    items = rc[0].stream(watched, str(tmp_path / "how"), 0.001)
    assert next(items) == 0
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.EngineError, match="SIGKILL"):
        for _ in items:
            pass
    rc.wait_for_engines(1, timeout=30, interactive=False)
    assert_nothing_left(rc, keys)
    assert list(rc[0].stream(numbers, 3)) == [0, 1, 2]


def test_an_engine_that_is_killed_while_it_receives(own, keys, tmp_path):
    rc, _ = own
    pid = rc[0].apply_sync(os.getpid)
    result = rc[0].apply_async(total, ipp.stream(arrays_until_killed(pid, tmp_path / "how")))
    with pytest.raises(errors.EngineError, match="SIGKILL"):
        result.get(30)
    assert ended(tmp_path / "how") == "closed"
    rc.wait_for_engines(1, timeout=30, interactive=False)
    assert_nothing_left(rc, keys)


def arrays_until_killed(pid, path):
    try:
        for number in itertools.count():
            yield numpy.full(10, number)
            if number == 50:
                os.kill(pid, signal.SIGKILL)
    finally:
        path.write_text("closed")


def test_a_host_that_is_killed(own, tmp_path):
    rc, _ = own
    daemon = host_processes(rc)["daemon"]
    items = rc[0].stream(watched, str(tmp_path / "how"), 0.001)
    assert next(items) == 0
    os.kill(daemon, signal.SIGKILL)
    with pytest.raises(errors.EngineError):
        for _ in items:
            pass


SCRIPT = """
how, directory, path = sys.argv[1:]
if how == "reads":
    from tests.integration.test_streams import watched
    with connected(directory, 1) as rc:
        items = rc[0].stream(watched, path)
        next(items)
        say("begun")
        wait()
else:
    from tests.integration.test_streams import numbers
    import itertools
    def endless():
        yield 0
        say("begun")
        yield from itertools.count()
    def slowly(items, path):
        import time
        try:
            for item in items:
                time.sleep(0.001)
        finally:
            with open(path, "w") as file:
                file.write("ended")
    with connected(directory, 1) as rc:
        rc[0].apply_sync(slowly, ipp.stream(endless()), path)
"""


@pytest.mark.parametrize("how", ["reads", "writes"])
def test_a_client_that_is_killed(own, how, tmp_path):
    rc, cluster = own
    path = tmp_path / "how"
    with Script(SCRIPT, how, cluster.directory, path) as script:
        assert script.hear() == "begun"
        keys = script.keys
        script.process.kill()
        assert ended(path) in ("closed", "ended")
    assert rc[0].apply_sync(abs, -1) == 1
    assert_nothing_left(rc, keys)


@pytest.mark.parametrize("how", ["reads", "writes"])
def test_client_and_engine_killed_at_once(own, how, tmp_path):
    rc, cluster = own
    pid = rc[0].apply_sync(os.getpid)
    with Script(SCRIPT, how, cluster.directory, tmp_path / "how") as script:
        assert script.hear() == "begun"
        os.kill(pid, signal.SIGKILL)
        script.process.kill()
        keys = script.keys
    rc.wait_for_engines(1, timeout=30, interactive=False)
    assert_nothing_left(rc, keys)
