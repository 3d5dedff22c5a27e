"""What tasks may ask for, with a real controller, a real host daemon and real engines."""

from __future__ import annotations

import os
import time

import pytest

import ipkernel as ipp
from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("terms") / "cluster_terms"


@pytest.fixture(scope="module")
def rc(directory):
    cluster = Cluster(n=2, cluster_dir=str(directory))
    cluster.start_cluster_sync()
    try:
        with Client(cluster_dir=directory) as client:
            client.wait_for_engines(2, timeout=60, interactive=False)
            yield client
    finally:
        cluster.stop_cluster_sync()


def wait_for(path):
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.01)


def story_of(client, result):
    """Return the story of a task once the controller knows it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        [story] = client.explain(result.msg_ids)
        if story.state != "unknown":
            return story
        time.sleep(0.01)
    raise AssertionError("the controller never heard of it")


def test_calls_run_in_the_order_of_their_priorities(rc, tmp_path):
    view = rc.load_balanced_view(targets=0)
    go = tmp_path / "go"
    with view.temp_flags(priority=100):
        first = view.apply_async(wait_for, go)
    waiting = []
    for priority in (0, -3, 8, 0, 8):
        with view.temp_flags(priority=priority):
            waiting.append(view.apply_async(int))
    go.touch()
    assert first.get(timeout=60) is None
    assert [ar.get(timeout=60) for ar in waiting] == [0] * 5
    order = sorted(range(5), key=lambda n: waiting[n].started)
    assert order == [2, 4, 0, 3, 1]


def test_a_cell_that_takes_too_long_ends(rc):
    view = rc[1]
    with view.temp_flags(timeout=0.3):
        cell = view.execute("import time\nwhile True: time.sleep(0.01)")
        with pytest.raises(errors.TaskTimeout, match="0.3 s on engine 1 .* was interrupted$"):
            cell.get(timeout=60)
    assert view.apply_sync(abs, -1) == 1


def test_an_engine_that_ignores_the_interrupt_is_replaced(tmp_path):
    def deaf():
        import time

        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

    with Cluster(n=1, cluster_dir=str(tmp_path / "cluster_deaf")) as own:
        view = own.load_balanced_view(timeout=0.3, retries=2)
        with pytest.raises(errors.TaskTimeout, match="its engine was killed and is started again"):
            view.apply_async(deaf).get(timeout=60)
        assert view.map_async(abs, [-1, -2], chunksize=1).get(timeout=60) == [1, 2]


def test_a_graph_of_calls_runs_in_order_and_where_it_must(rc, tmp_path):
    view, go = rc.load_balanced_view(), tmp_path / "go"

    def remember(text):
        import sys

        sys.remembered = [*getattr(sys, "remembered", []), text]

    def recall():
        import sys

        return sys.remembered

    gate = view.apply_async(wait_for, go)
    with view.temp_flags(after=gate):
        first = view.apply_async(remember, "first")
    with view.temp_flags(follow=first):
        second = view.apply_async(remember, "second")
    with view.temp_flags(after=[gate, second], follow=second):
        last = view.apply_async(recall)
    assert "it waits for all of 2 tasks to end" in story_of(rc, last).reason
    go.touch()
    assert last.get(timeout=60) == ["first", "second"]
    assert first.engine_id == second.engine_id == last.engine_id


def test_a_failure_spreads_at_once_also_to_other_clients(rc, directory, tmp_path):
    go = tmp_path / "go"

    def fail(path):
        wait_for(path)
        raise ValueError("no")

    with Client(cluster_dir=directory) as other:
        bad = rc.load_balanced_view().apply_async(fail, go)
        story_of(rc, bad)
        child = other.load_balanced_view(after=bad.msg_ids).apply_async(int)
        story_of(other, child)
        grandchild = rc.load_balanced_view(after=child.msg_ids).apply_async(int)
        go.touch()
        for result in (child, grandchild):
            with pytest.raises(errors.ImpossibleDependency, match="failed"):
                result.get(timeout=60)
        with pytest.raises(errors.ImpossibleDependency, match=str(bad.msg_ids[0])):
            other.load_balanced_view(after=bad).apply_async(int).get(timeout=60)
        with pytest.raises(errors.InvalidDependency, match="12345 is not known"):
            other.load_balanced_view(after=12345).apply_async(int).get(timeout=60)


def test_a_call_goes_to_the_engine_that_can_run_it(rc):
    rc[1].execute("import os; os.environ['ONLY_HERE'] = '1'", block=True)

    @ipp.require("os")
    def here():
        import os

        if "ONLY_HERE" not in os.environ:
            raise ipp.TaskRejectError("it has nothing")
        return os.environ["ONLY_HERE"]

    view = rc.load_balanced_view()
    results = [view.apply_async(here) for _ in range(6)]
    assert {ar.get(timeout=60) for ar in results} == {"1"}
    assert {ar.engine_id for ar in results} == {1}
    nowhere = view.apply_async(ipp.require("no_such_module_anywhere")(abs), 1)
    with pytest.raises(errors.ImpossibleDependency) as caught:
        nowhere.get(timeout=60)
    assert str(caught.value).count("cannot import no_such_module_anywhere") == 2
    with pytest.raises(errors.UnmetDependency, match="cannot import no_such") as caught:
        rc[0].apply_async(ipp.require("no_such_module_anywhere")(abs), 1).get(timeout=60)
    assert isinstance(caught.value, errors.RemoteError)


def fails_often(folder, times):
    """Fail so many times, then return who has run it."""
    with open(folder / "tries", "ab", buffering=0) as file:
        file.write(b".")
        tries = file.tell()
    if tries <= times:
        raise ConnectionError(f"try {tries}")
    return os.getpid()


def test_a_call_that_raises_is_run_again_as_it_asks(rc, tmp_path):
    view = rc.load_balanced_view(retries=3, retry_on=ConnectionError)
    result = view.apply_async(fails_often, tmp_path, 3)
    assert result.get(timeout=60) in rc[:].apply_async(os.getpid).get(timeout=60)
    assert result.metadata.attempts == 4
    (tmp_path / "tries").unlink()
    with pytest.raises(ConnectionError, match="try 4"):
        view.apply_async(fails_often, tmp_path, 9).get(timeout=60)
    (tmp_path / "tries").unlink()
    with pytest.raises(ConnectionError, match="try 1"):
        rc.load_balanced_view(retries=3).apply_async(fails_often, tmp_path, 9).get(timeout=60)


def test_a_call_that_fails_for_ever_hangs_nobody_with_one_engine(rc):
    """Though it has retries left, and no engine that it has not failed on."""
    view = rc.load_balanced_view(targets=[0], retries=200, retry_on=ZeroDivisionError)
    bad = view.apply_async(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        bad.get(timeout=60)
    assert bad.metadata.attempts == 201
    assert view.apply_async(abs, -1).get(timeout=60) == 1


def test_items_of_a_map_that_fail_are_run_again(rc, tmp_path):
    def pick(number):
        return number if number else fails_often(tmp_path, 1)

    view = rc.load_balanced_view(retries=2, retry_on=ConnectionError)
    values = view.map_async(pick, [0, 1, 2], chunksize=3, return_exceptions=True)
    assert values.get(timeout=60)[1:] == [1, 2]
    assert not values.errors


# --------------------------------------------------------------------- calls that submit calls


def nest(directory, timeout=None):
    """Submit a call from within a call, and wait for it."""
    import ipkernel as ipp

    with ipp.Client(cluster_dir=directory) as inner:
        view = inner.load_balanced_view(label="nested")
        return view.apply_async(pow, 2, 8).get(timeout)


def test_calls_that_wait_for_calls_need_one_engine_more(rc, directory):
    view = rc.load_balanced_view()
    assert view.apply_async(nest, str(directory)).get(timeout=60) == 256
    calls = [view.apply_async(nest, str(directory)) for _ in rc.ids]  # on every engine
    deadline = time.monotonic() + 60
    reasons = []
    while not any("add engines, or abort one" in reason for reason in reasons):
        assert time.monotonic() < deadline, reasons
        reasons = [story.reason for story in rc.explain(label="nested")]
        time.sleep(0.05)
    calls[0].cancel()
    assert calls[1].get(timeout=60) == 256
    with pytest.raises(errors.KernelError):
        calls[0].get(timeout=60)


def test_a_call_does_not_wait_for_what_only_its_own_engine_could_run(rc, directory):
    def bound(directory):
        import ipkernel as ipp

        with ipp.Client(cluster_dir=directory) as inner:
            return inner[0].apply_async(pow, 2, 8).get()

    with pytest.raises(RuntimeError, match="it is for engine 0, which runs this call"):
        rc[0].apply_async(bound, str(directory)).get(timeout=60)
