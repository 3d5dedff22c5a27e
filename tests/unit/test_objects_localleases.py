"""How leases end: with the last view of what is mapped, wherever that goes."""

from __future__ import annotations

import gc
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import ConnectError
from ipkernel.objects.localleases import Leases
from ipkernel.objects.localwire import LIST_LIMIT

A, B = b"A" * 16, b"B" * 16


class FakeAnchor:
    """The last connection to a store: notes what the store is told."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.told: Counter[bytes] = Counter()
        self.tellings: list[int] = []
        self.gone = False
        self.closed = threading.Event()
        self.changed = threading.Condition()

    def tell(self) -> None:
        objects = self.leases.take()
        with self.changed:
            if self.gone:
                self.changed.notify_all()
                raise ConnectError("the store is gone")
            self.told.update(objects)
            self.tellings.append(len(objects))
            self.changed.notify_all()

    def close(self) -> None:
        self.closed.set()

    leave = close

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)


@pytest.fixture
def leases() -> Iterator[Leases]:
    made = Leases(pause=0.0)
    yield made
    gc.collect()
    made.close()


@pytest.fixture
def anchor(leases: Leases) -> FakeAnchor:
    made = FakeAnchor(leases)
    leases.hold_on(made)
    return made


def mapped(leases: Leases, object_id: bytes = A) -> memoryview:
    """What a user gets to see: a view, and nothing else that keeps the mapping."""
    mapping = mmap.mmap(-1, 4096)
    leases.keep(mapping, object_id)
    return memoryview(mapping)


def take_all(leases: Leases, count: int) -> list[bytes]:
    """Take ``count`` releases; the thread may just have one in its hands and put it back next."""
    found: list[bytes] = []
    while len(found) < count:
        found += leases.take()
    return sorted(found)


def test_a_lease_ends_with_the_last_view(leases: Leases, anchor: FakeAnchor) -> None:
    view = mapped(leases)
    part = view[10:20]
    del view
    assert leases.mapped() == [A]
    assert not anchor.told
    del part
    anchor.until(lambda: anchor.told == {A: 1})
    assert leases.mapped() == []


def test_an_idle_process_releases_too(leases: Leases, anchor: FakeAnchor) -> None:
    for round_ in range(1, 4):
        view = mapped(leases)
        del view
        anchor.until(lambda count=round_: anchor.told[A] == count)


def test_a_view_in_a_cycle_is_released_by_the_collector(leases: Leases, anchor: FakeAnchor) -> None:
    cycle: list[object] = [mapped(leases)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    anchor.until(lambda: anchor.told == {A: 1})


def test_what_goes_at_once_is_told_at_once(anchor: FakeAnchor, leases: Leases) -> None:
    views = [mapped(leases) for _ in range(50)]
    with anchor.changed:  # the thread has to wait
        del views
    anchor.until(lambda: anchor.told[A] == 50)
    assert len(anchor.tellings) <= 3


def test_a_question_takes_releases_along() -> None:
    leases = Leases(pause=1e6)  # the thread does nothing within this test
    view, other = mapped(leases), mapped(leases, B)
    del view, other
    leases.give_back(A)
    assert take_all(leases, 3) == [A, A, B]
    assert leases.take() == []
    assert len(leases) == leases.mappings == 0
    leases.close()


def lent(leases: Leases, undone: list[bytes], object_id: bytes = A) -> memoryview:
    """The same, where something is to be done at the end."""
    mapping = mmap.mmap(-1, 4096)
    leases.keep(mapping, object_id, lambda: undone.append(object_id))
    return memoryview(mapping)


def test_what_is_to_be_done_at_the_end_is_done_before_the_store_is_told() -> None:
    leases = Leases(pause=1e6)
    undone: list[bytes] = []
    view, other = lent(leases, undone), lent(leases, undone, B)
    del view
    assert not undone
    assert take_all(leases, 1) == [A]
    assert undone == [A]
    del other
    assert take_all(leases, 1) == [B]
    assert undone == [A, B]
    leases.close()


def test_what_is_to_be_done_can_be_done_before_its_time() -> None:
    leases = Leases(pause=1e6)
    undone: list[bytes] = []
    view, other = lent(leases, undone), mapped(leases, B)
    leases.undo()
    assert not undone
    del view, other
    leases.undo()  # or the thread has done it
    assert len(undone) <= 1
    assert take_all(leases, 2) == [A, B]
    assert undone == [A]
    leases.close()


def test_what_was_done_before_its_time_is_told_by_an_idle_process(
    leases: Leases, anchor: FakeAnchor
) -> None:
    undone: list[bytes] = []
    for count in range(1, 20):
        view = lent(leases, undone)
        del view
        leases.undo()
        leases.give_back(B)
        leases.undo()
        anchor.until(lambda count=count: anchor.told == {A: count, B: count})
        assert undone == [A] * count


def test_a_message_has_room_for_so_many() -> None:
    leases = Leases(pause=1e6)
    leases.put_back([A] * (LIST_LIMIT + 5))
    assert len(leases.take()) == LIST_LIMIT
    assert len(leases.take()) == 5


def test_nothing_is_lost_when_it_could_not_be_told(leases: Leases, anchor: FakeAnchor) -> None:
    leases.put_back([A, B, A])
    leases.give_back(B)
    anchor.until(lambda: anchor.told == {A: 2, B: 2})


def test_views_that_go_in_many_threads_are_all_counted(leases: Leases, anchor: FakeAnchor) -> None:
    def come_and_go() -> None:
        for _ in range(50):
            mapped(leases, A)
            leases.put_back(leases.take())

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    anchor.until(lambda: anchor.told[A] == 200)


@given(
    st.lists(st.sampled_from(["map", "drop", "give back", "take", "put back", "undo"]), max_size=30)
)
def test_each_lease_ends_once(steps: list[str]) -> None:
    leases = Leases(pause=1e6)
    views: list[memoryview] = []
    begun = 0
    ended: list[bytes] = []
    for step in steps:
        match step:
            case "map":
                views.append(mapped(leases))
                begun += 1
            case "drop":
                del views[:1]
            case "give back":
                leases.give_back(A)
                begun += 1
            case "take":
                ended += leases.take()
            case "put back":
                leases.put_back(leases.take())
            case "undo":
                leases.undo()
        assert len(leases.mapped()) == len(views)
    views.clear()
    ended += take_all(leases, begun - len(ended))
    assert ended == [A] * begun
    assert leases.take() == []
    assert len(leases) == 0
    leases.close()


# ------------------------------------------------------------------- closing


def test_without_leases_the_connection_goes_at_once(leases: Leases, anchor: FakeAnchor) -> None:
    leases.close()
    assert anchor.closed.is_set()


def test_what_ended_before_there_was_a_connection_is_told_later(leases: Leases) -> None:
    leases.give_back(A)
    anchor = FakeAnchor(leases)
    leases.hold_on(anchor)
    leases.give_back(B)
    anchor.until(lambda: anchor.told == {A: 1, B: 1})


def test_the_connection_lasts_as_long_as_a_lease(leases: Leases, anchor: FakeAnchor) -> None:
    view, other = mapped(leases), mapped(leases, B)
    leases.close()
    del other
    anchor.until(lambda: anchor.told == {B: 1})
    assert not anchor.closed.is_set()
    view[0] = 1
    del view
    assert anchor.closed.wait(10)
    assert anchor.told == {A: 1, B: 1}


def test_the_thread_ends_with_the_store(leases: Leases, anchor: FakeAnchor) -> None:
    views = [mapped(leases) for _ in range(3)]
    anchor.gone = True
    del views[0]
    thread = leases._thread
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    del views


def test_without_a_thread_the_next_question_has_to_do(
    leases: Leases, anchor: FakeAnchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    view = mapped(leases)
    del view
    assert leases.take() == [A]


def test_a_forked_process_tells_nothing(leases: Leases, anchor: FakeAnchor) -> None:
    view = mapping = mmap.mmap(-1, 4096)
    leases.leave()
    leases.keep(mapping, A)
    assert anchor.closed.is_set()
    del view, mapping
    leases.give_back(B)
    assert leases._thread is None
    assert not anchor.told


# ---------------------------------------------------------------- leases that end soon


def young(leases: Leases, object_id: bytes = A, undone: list[bytes] | None = None) -> memoryview:
    """What an engine maps for a task."""
    mapping = mmap.mmap(-1, 4096)
    undo = None if undone is None else (lambda: undone.append(object_id))
    leases.keep(mapping, object_id, undo, young=True)
    return memoryview(mapping)


@pytest.fixture
def idle() -> Iterator[Leases]:
    """Leases whose thread does not look at young ones within a test."""
    made = Leases(pause=0.0, youth=1e6)
    yield made
    gc.collect()
    made.close()


def test_the_end_of_a_young_lease_is_there_for_who_asks(idle: Leases) -> None:
    anchor = FakeAnchor(idle)
    idle.hold_on(anchor)
    view, other = young(idle), young(idle, B)
    assert idle.ended() == []
    assert idle.mapped() == [A, B]
    del view
    assert idle.ended() == [A]
    del other
    assert idle.take() == [B]
    assert idle.ended() == idle.take() == []
    assert len(idle) == 0
    assert not anchor.tellings


def test_what_is_to_be_done_at_the_end_may_come_after_the_answer(idle: Leases) -> None:
    undone: list[bytes] = []
    view, other = young(idle, A, undone), young(idle, B, undone)
    del view
    assert idle.ended() == [A]
    assert undone == []
    idle.undo()
    assert undone == [A]
    del other
    assert idle.take() == [B]
    assert undone == [A, B]
    idle.undo()
    assert undone == [A, B]


def test_what_had_ended_before_it_was_mapped_is_answered_too(idle: Leases) -> None:
    idle.put_back([B])
    view = young(idle)
    del view
    found: list[bytes] = []
    while len(found) < 2:  # the thread may have one in its hands
        found += idle.ended()
    assert sorted(found) == [A, B]


def test_the_store_is_told_of_young_leases_that_nobody_asks_for() -> None:
    leases = Leases(pause=0.0, youth=0.001)
    anchor = FakeAnchor(leases)
    leases.hold_on(anchor)
    undone: list[bytes] = []
    for count in range(1, 20):
        views = [young(leases, A, undone), young(leases, B, undone)]
        del views
        anchor.until(lambda count=count: anchor.told == {A: count, B: count})
        assert sorted(undone) == [A] * count + [B] * count
    leases.close()
    assert anchor.closed.wait(10)


def test_the_end_of_a_lease_that_has_grown_up_is_told_by_an_idle_process(idle: Leases) -> None:
    anchor = FakeAnchor(idle)
    idle.hold_on(anchor)
    undone: list[bytes] = []
    for count in range(1, 20):
        view, other = young(idle, A, undone), young(idle, B, undone)
        del other
        assert idle.ended() == [B]
        idle._grow_up()  # what the thread does after a while
        assert idle.mapped() == [A]
        assert idle.mappings == 1
        part = view[1:3]
        del view
        assert idle.ended() == []
        del part
        anchor.until(lambda count=count: anchor.told == {A: count})
        idle.undo()
        assert sorted(undone) == [A] * count + [B] * count
    assert len(idle) == 0


def test_what_is_young_when_the_store_is_closed_stays_valid() -> None:
    leases = Leases(pause=0.0, youth=0.001)
    anchor = FakeAnchor(leases)
    leases.hold_on(anchor)
    view = young(leases)
    leases.close()
    assert not anchor.closed.is_set()
    del view
    assert anchor.closed.wait(10)
    assert anchor.told == {A: 1}


def test_young_leases_that_come_and_go_in_threads_are_all_counted() -> None:
    leases = Leases(pause=0.0, youth=0.0)
    anchor = FakeAnchor(leases)
    leases.hold_on(anchor)
    found: Counter[bytes] = Counter()

    def come_and_go() -> None:
        for _ in range(100):
            view = young(leases)
            del view
            with anchor.changed:
                found.update(leases.ended())

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leases.close()
    assert anchor.closed.wait(10)
    assert found + anchor.told == {A: 400}
    assert leases.mappings == 0
