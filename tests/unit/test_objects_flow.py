"""Writing and reading flows through a store: order, bounds, ends of every kind, and nothing left."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import ConnectError, StoreFull, TransferError, UnknownObject
from ipkernel.objects import chunks, flow
from ipkernel.objects.chunks import Flag
from ipkernel.objects.flow import FlowFailed, FlowReader, FlowStopped, FlowWriter, closing
from ipkernel.objects.interfaces import TRANSIENT
from tests.support.flowstore import FlowStore

KEY = bytes(range(16))
SESSION = 7


def writer(store, **options) -> FlowWriter:
    return FlowWriter(store, KEY, SESSION, **options)


def reader(store, **options) -> FlowReader:
    return FlowReader(store, KEY, SESSION, **options)


@contextmanager
def another_thread(function):
    """Run ``function()`` meanwhile; its exception, if any, is raised at the end."""
    failures = []

    def run():
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


def read_all(source: FlowReader) -> list[bytes]:
    found = []
    while not source.ended:
        found.append(bytes(source.read().payload))
        source.free()
    return found


class TestOneAfterTheOther:
    def test_what_is_written_is_read_in_order(self):
        store = FlowStore()
        out, into = writer(store), reader(store)
        out.write([b"a", b"b"])
        out.write([b"c"], Flag.LAST)
        assert bytes(into.read().payload) == b"ab"
        into.free()
        assert not into.ended
        last = into.read()
        assert last.flags == Flag.LAST
        assert into.ended
        del last
        into.free()
        out.drain()
        assert store.objects == {}
        with pytest.raises(EOFError):
            into.read()

    def test_a_chunk_can_be_read_until_it_is_freed(self):
        store = FlowStore()
        out, into = writer(store), reader(store)
        for letter in (b"a", b"b"):
            out.write([letter])
        for _ in range(2):
            assert bytes(into.read().payload) == b"a"
        into.free()
        assert list(store.objects) == [chunks.chunk_id(KEY, 1)]
        assert bytes(into.read().payload) == b"b"

    def test_freeing_that_was_interrupted_is_made_up_for(self):
        class Interrupted(FlowStore):
            interrupt = True

            def free(self, object_ids):
                if self.interrupt:
                    self.interrupt = False
                    raise KeyboardInterrupt
                super().free(object_ids)

        store = Interrupted()
        out, into = writer(store), reader(store)
        for letter in (b"a", b"b"):
            out.write([letter])
        into.read()
        with pytest.raises(KeyboardInterrupt):
            into.free()
        assert len(store.objects) == 2
        assert bytes(into.read().payload) == b"b"
        assert list(store.objects) == [chunks.chunk_id(KEY, 1)]

    def test_chunks_belong_to_the_session(self):
        store = FlowStore()
        writer(store).write([b"a"])
        assert store.owners == {chunks.chunk_id(KEY, 0): SESSION + TRANSIENT}

    def test_an_empty_flow_is_one_chunk(self):
        store = FlowStore()
        writer(store).write([], Flag.LAST)
        assert read_all(reader(store)) == [b""]
        assert store.objects == {}

    def test_an_error_arrives_as_it_was_put(self):
        store = FlowStore()
        out, into = writer(store), reader(store)
        out.write([b"a"])
        out.write([b"why"], Flag.LAST | Flag.ERROR)
        into.read()
        into.free()
        with pytest.raises(FlowFailed) as caught:
            into.read()
        assert caught.value.error == b"why"
        assert into.ended
        with pytest.raises(FlowFailed):
            into.read()
        out.drain()
        assert store.objects == {}

    def test_a_chunk_that_was_freed_may_still_be_looked_at(self):
        store = FlowStore()
        out, into = writer(store, window=1), reader(store)
        out.write([b"abc"])
        kept = into.read().payload
        into.free()
        out.write([b"def"])
        assert bytes(kept) == b"abc"
        assert store.leased == 1

    @pytest.mark.parametrize("damaged", [False, True])
    def test_nothing_that_is_raised_keeps_a_chunk(self, damaged):
        store = FlowStore()
        if damaged:
            store.put(chunks.chunk_id(KEY, 0), [bytes(100)], 100, owner=SESSION)
        else:
            writer(store).write([b"why"], Flag.LAST | Flag.ERROR)
        with pytest.raises(TransferError) as caught:
            reader(store).read()
        assert caught.tb is not None
        assert store.leased == 0

    def test_damage_is_noticed(self):
        store = FlowStore()
        store.put(chunks.chunk_id(KEY, 0), [b"rubbish"], 7, owner=SESSION)
        with pytest.raises(TransferError, match="chunk 0 of a stream is damaged"):
            reader(store).read()


class TestBothAtOnce:
    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.binary(max_size=300), max_size=25),
        st.integers(1, 5),
        st.integers(1, 600),
    )
    def test_everything_arrives_and_the_window_is_kept(self, payloads, window, window_bytes):
        store = FlowStore()

        def write():
            with closing(writer(store, window=window, window_bytes=window_bytes)) as out:
                for payload in payloads:
                    out.write([payload])
                out.write([], Flag.LAST)
                out.drain()

        with another_thread(write):
            found = read_all(reader(store, window=window))
        assert found == [*payloads, b""]
        assert store.objects == {}
        assert store.most[1] <= window
        most = window_bytes + chunks.HEADER_SIZE
        assert store.most[0] <= max(most, 2 * (300 + chunks.HEADER_SIZE))

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 12), st.integers(1, 4))
    def test_a_reader_may_stop_anywhere_and_nothing_is_left(self, wanted, window):
        store = FlowStore()
        into = reader(store, window=window)
        outcome = []

        def write():
            with closing(writer(store, window=window, watch=True)) as out:
                try:
                    while True:
                        out.write([b"more"])
                except FlowStopped as stopped:
                    outcome.append(stopped.error)

        with another_thread(write):
            for _ in range(wanted):
                into.read()
                into.free()
            into.refuse(b"enough")
        into.close()
        assert outcome == [b"enough"]
        assert store.objects == {}


class TestTheOtherSideIsGone:
    def test_a_writer_notices_that_the_reader_is_gone(self):
        store = FlowStore()
        out = writer(store, watch=True, window=1)
        out.write([b"a"])
        store.session_gone(SESSION)
        with pytest.raises(UnknownObject, match="the client of this stream is gone"):
            out.write([b"b"])
        out.close()
        assert store.objects == {}

    def test_a_writer_that_waits_for_the_end_notices_it_too(self):
        store = FlowStore()
        out = writer(store, watch=True)
        out.write([b"a"], Flag.LAST)
        store.session_gone(SESSION)
        with pytest.raises(UnknownObject, match="the client of this stream is gone"):
            out.drain()

    def test_a_reader_notices_that_the_writer_is_gone(self):
        store = FlowStore()
        into = reader(store)
        store.session_gone(SESSION)
        with pytest.raises(UnknownObject, match="the client of this stream is gone"):
            into.read()

    def test_what_it_has_put_goes_with_a_session(self):
        store = FlowStore()
        writer(store).write([b"a"])
        reader(store).refuse(b"b")
        store.session_gone(SESSION + 1)
        assert len(store.objects) == 2
        store.session_gone(SESSION)
        assert store.objects == {}

    def test_a_reader_that_is_done_leaves_nothing_of_a_dead_writer(self):
        store = FlowStore()
        out, into = writer(store), reader(store)
        for _ in range(flow.WINDOW):
            out.write([b"a"])
        into.read()
        into.refuse()
        into.close()
        assert store.objects == {}

    def test_a_reader_that_stops_before_anything_came_leaves_nothing(self):
        store = FlowStore()
        into = reader(store)
        into.refuse(b"no")
        assert len(store.objects) == 1
        into.close()
        assert store.objects == {}

    def test_a_writer_may_be_stopped_from_another_thread(self):
        store = FlowStore()
        out = writer(store, window=1)
        out.write([b"a"])
        with another_thread(lambda: out.stop(KeyError("first"))):
            with pytest.raises(KeyError, match="first"):
                out.drain()
        out.stop(ValueError("second"))
        with pytest.raises(KeyError, match="first"):
            out.write([b"b"])
        out.close()
        assert store.objects == {}

    def test_a_reader_may_be_stopped_from_another_thread(self):
        into = reader(FlowStore())
        with another_thread(lambda: into.stop(KeyError("enough"))):
            with pytest.raises(KeyError, match="enough"):
                into.read()

    def test_who_waits_is_asked_now_and_then_whether_to_go_on(self):
        asked = []

        def idle():
            asked.append(1)
            if len(asked) == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reader(FlowStore(patience=0.001), idle=idle).read()
        store = FlowStore(patience=0.001)
        out = writer(store, idle=lambda: idle(), window=1)
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            for _ in range(9):
                out.write([b"x"])


class Abandoned(FlowStore):
    """Says so often that a chunk was not written to its end."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def get(self, *args, **options):
        if self.times:
            self.times -= 1
            raise TransferError("its writer gave up")
        return super().get(*args, **options)


class TestTheStore:
    def test_a_chunk_that_was_given_up_is_waited_for_again(self):
        store = Abandoned(flow.TRIES - 1)
        writer(store).write([b"a"], Flag.LAST)
        assert read_all(reader(store)) == [b"a"]

    def test_but_not_for_ever(self):
        with pytest.raises(TransferError, match="gave up"):
            reader(Abandoned(flow.TRIES)).read()

    def test_nor_when_there_is_nothing_to_wait_for(self):
        def idle():
            raise KeyError("the task is over")

        with pytest.raises(KeyError):
            reader(Abandoned(1), idle=idle).read()

    def test_a_full_store_is_said_to_be_full_and_nothing_is_left(self):
        store = FlowStore(limit=1000)
        with pytest.raises(StoreFull):
            with closing(writer(store)) as out:
                for _ in range(3):
                    out.write([bytes(500)])
        assert store.objects == {}

    def test_what_did_not_fit_can_be_replaced(self):
        store = FlowStore(limit=1000)
        out, into = writer(store), reader(store)
        with pytest.raises(StoreFull):
            out.write([bytes(2000)])
        out.write([b"too large"], Flag.LAST | Flag.ERROR)
        with pytest.raises(FlowFailed) as caught:
            into.read()
        assert caught.value.error == b"too large"
        out.close()
        assert store.objects == {}

    @pytest.mark.parametrize("act", ["read", "write", "drain"])
    def test_a_store_that_breaks_down_ends_all_waiting(self, act):
        store = FlowStore()
        out, into = writer(store, window=1), reader(store)
        if act != "read":
            out.write([b"a"])
        with another_thread(store.break_down):
            with pytest.raises(ConnectError):
                {"read": into.read, "drain": out.drain, "write": lambda: out.write([b"b"])}[act]()
        with pytest.raises(ConnectError):
            into.close()

    def test_closing_twice_does_no_harm(self):
        store = FlowStore()
        out = writer(store)
        out.write([b"a"])
        out.close()
        out.close()
        assert store.objects == {}

    def test_what_was_put_half_way_is_freed_as_well(self):
        class Interrupted(FlowStore):
            def put(self, *args, **options):
                super().put(*args, **options)
                raise KeyboardInterrupt

        store = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            with closing(writer(store)) as out:
                out.write([b"a"])
        assert store.objects == {}


class TestStop:
    def test_a_stop_is_seen_without_writing(self):
        store = FlowStore()
        out, into = writer(store, watch=True), reader(store)
        out.look_for_stop(0)
        into.refuse(b"tired")
        with pytest.raises(FlowStopped, match="has stopped") as caught:
            out.look_for_stop(0)
        assert caught.value.error == b"tired"
        out.close()
        assert store.objects == {}

    def test_who_does_not_watch_does_not_look(self):
        store = FlowStore()
        out, into = writer(store, window=1), reader(store)
        into.refuse()
        out.write([b"a"])
        with another_thread(lambda: out.stop(KeyError())):
            with pytest.raises(KeyError):
                out.write([b"b"])
        into.close()
