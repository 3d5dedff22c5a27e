"""Records collected into chunks by a thread: order, batches, bounds, ends, and nothing left."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import ConnectError, StoreFull
from ipkernel.objects import chunks, items
from ipkernel.objects.flow import FlowFailed, FlowReader, FlowStopped, FlowWriter
from ipkernel.objects.items import RecordReader, RecordWriter
from tests.support.flowstore import FlowStore

KEY = bytes(range(16))
SESSION = 7


def records_of(store, **options):
    return RecordWriter(FlowWriter(store, KEY, SESSION, **options))


def reader(store):
    return FlowReader(store, KEY, SESSION)


def read_all(source):
    found, batches = [], []
    while not source.ended:
        with source.read().payload as payload:
            records = chunks.unpack(payload)
            batches.append(len(records))
            found += [bytes(record) for record in records]
            for record in records:
                record.release()
        source.free()
    return found, batches


class GatedStore(FlowStore):
    """Its first ``put`` waits until ``gate`` is set."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = threading.Event()
        self.entered = threading.Event()

    def put(self, *args, **options):
        self.entered.set()
        assert self.gate.wait(20)
        super().put(*args, **options)


class TestBatches:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.binary(max_size=50), max_size=300))
    def test_everything_arrives_in_order(self, sent):
        store = FlowStore()
        out = records_of(store)
        into = reader(store)
        found = []
        thread = threading.Thread(target=lambda: found.extend(read_all(into)[0]))
        thread.start()
        for record in sent:
            out.send([record])
        out.finish()
        out.close()
        thread.join()
        assert found == sent
        assert store.objects == {}

    def test_what_comes_while_a_chunk_is_written_goes_into_the_next(self):
        store = GatedStore()
        out = records_of(store)
        out.send([b"first"])
        store.entered.wait(20)
        for number in range(10):
            out.send([b"%d" % number])
        store.gate.set()
        store.wait_for(lambda s: s.puts >= 2)
        found, batches = [], []
        thread = threading.Thread(target=out.finish)
        thread.start()
        found, batches = read_all(reader(store))
        thread.join()
        out.close()
        assert found == [b"first", *(b"%d" % number for number in range(10))]
        assert batches == [1, 10, 0]

    def test_a_record_that_is_waited_for_goes_out_alone(self):
        store = FlowStore()
        out = records_of(store)
        into = reader(store)
        for number in range(5):
            out.send([b"%d" % number])
            assert [bytes(r) for r in chunks.unpack(into.read().payload)] == [b"%d" % number]
            into.free()
        out.close()

    @pytest.mark.parametrize(
        ("limit", "size", "expected"), [("BATCH", 4, 3), ("BATCH_BYTES", 250, 4)]
    )
    def test_a_chunk_is_bounded(self, monkeypatch, limit, size, expected):
        monkeypatch.setattr(items, "BATCH", 3)
        monkeypatch.setattr(items, "BATCH_BYTES", 1000)
        store = GatedStore()
        out = records_of(store)
        out.send([bytes(size)])
        store.entered.wait(20)
        if limit == "BATCH_BYTES":
            monkeypatch.setattr(items, "BATCH", 1000)
        sent = threading.Event()

        def send():
            for _ in range(20):
                out.send([bytes(size)])
            sent.set()
            out.finish()

        thread = threading.Thread(target=send)
        thread.start()
        assert not sent.wait(0.05)
        store.gate.set()
        found, batches = read_all(reader(store))
        thread.join()
        out.close()
        assert len(found) == 21
        assert max(batches) == expected

    def test_large_records_are_written_from_where_they_are(self, monkeypatch):
        monkeypatch.setattr(items, "LARGE", 100)
        store = FlowStore()
        out = records_of(store)
        data = bytearray(b"x" * 200)
        out.send([memoryview(data)])
        data[:] = bytes(200)  # it has been written
        assert bytes(chunks.unpack(reader(store).read().payload)[0]) == b"x" * 200
        out.close()

    def test_small_records_are_copied(self):
        store = GatedStore()
        out = records_of(store)
        out.send([b"first"])
        store.entered.wait(20)
        data = bytearray(b"second")
        out.send([memoryview(data)])
        data[:] = b"######"
        store.gate.set()
        thread = threading.Thread(target=out.finish)
        thread.start()
        found, _ = read_all(reader(store))
        thread.join()
        out.close()
        assert found == [b"first", b"second"]


class TestEnds:
    def test_an_error_comes_after_all_records(self):
        store = FlowStore()
        out = records_of(store)
        for number in range(5):
            out.send([b"%d" % number])
        failed = []
        thread = threading.Thread(target=lambda: out.finish(b"why"))
        thread.start()
        into, found = reader(store), []
        try:
            while True:
                found += [bytes(r) for r in chunks.unpack(into.read().payload)]
                into.free()
        except FlowFailed as failure:
            failed.append(failure.error)
        thread.join()
        out.close()
        assert found == [b"0", b"1", b"2", b"3", b"4"]
        assert failed == [b"why"]
        assert store.objects == {}

    def test_nothing_is_an_end_too(self):
        store = FlowStore()
        out = records_of(store)
        thread = threading.Thread(target=out.finish)
        thread.start()
        assert read_all(reader(store)) == ([], [0])
        thread.join()
        out.close()
        assert store.objects == {}

    def test_a_stop_reaches_who_sends(self):
        store = FlowStore()
        out = records_of(store, window=1, watch=True)
        reader(store).refuse(b"enough")
        with pytest.raises(FlowStopped) as caught:
            while True:
                out.send([b"x"])
        assert caught.value.error == b"enough"
        with pytest.raises(FlowStopped):
            out.finish()
        out.close()
        assert store.objects == {}

    def test_it_may_be_stopped_from_another_thread(self):
        store = FlowStore()
        out = records_of(store, window=1)
        threading.Thread(target=lambda: out.stop(KeyError("enough"))).start()
        with pytest.raises(KeyError, match="enough"):
            while True:
                out.send([b"x"])
        out.close()
        assert store.objects == {}

    def test_a_full_store_is_said_to_who_sends(self):
        store = FlowStore(limit=10)
        out = records_of(store)
        with pytest.raises(StoreFull):
            while True:
                out.send([b"x"])
        out.close()

    def test_a_store_that_is_gone_is_said_to_who_sends(self):
        store = FlowStore()
        out = records_of(store, window=1)
        out.send([b"x"])
        store.break_down()
        with pytest.raises(ConnectError):
            while True:
                out.send([b"x"])
        with pytest.raises(ConnectError):
            out.close()

    def test_closing_ends_the_thread_in_the_midst_of_everything(self):
        store = FlowStore()
        out = records_of(store, window=1)
        for _ in range(3):
            out.send([b"x"])
        out.close()
        assert store.objects == {}

    def test_the_thread_calls_idle(self):
        store, called = FlowStore(), threading.Event()
        out = RecordWriter(FlowWriter(store, KEY, SESSION), idle=called.set)
        out.send([b"x"])
        assert called.wait(20)
        out.close()


class TestReading:
    def test_records_come_one_by_one(self):
        store = FlowStore()
        out = records_of(store)
        for number in range(3):
            out.send([b"%d" % number])
        thread = threading.Thread(target=out.finish)
        thread.start()
        into = RecordReader(reader(store))
        assert [bytes(into.take()) for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(EOFError):
            into.take()
        assert into.ended
        thread.join()
        out.close()
        assert store.objects == {}

    def test_what_is_kept_of_them_keeps_nothing_in_the_store(self):
        store = FlowStore()
        out = records_of(store)
        out.send([b"x" * 100])
        into = RecordReader(reader(store))
        kept = into.take()
        assert store.leased == 0
        kept[0] = 0
        assert bytes(kept) == b"\0" + b"x" * 99
        out.close()

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.binary(max_size=5), max_size=30), st.sets(st.integers(0, 60)), st.integers(1, 9)
    )
    def test_interrupts_neither_lose_nor_repeat_anything(self, sent, interrupts, size):
        class Interrupted(FlowStore):
            calls = 0

            def interrupt(self):
                self.calls += 1
                if self.calls in interrupts:
                    raise KeyboardInterrupt

            def get(self, *args, **options):
                self.interrupt()
                data = super().get(*args, **options)
                self.interrupt()
                return data

            def free(self, *args):
                self.interrupt()
                super().free(*args)
                self.interrupt()

        store = Interrupted()
        flow = FlowWriter(store, KEY, SESSION, window=100)
        for start in range(0, len(sent), size):
            flow.write(chunks.pack([[one] for one in sent[start : start + size]]))
        flow.write(chunks.pack([]), chunks.Flag.LAST)
        into, found = RecordReader(reader(store)), []
        while True:
            try:
                found.append(bytes(into.take()))
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
        assert found == sent
        assert store.objects == {}

    def test_an_error_comes_in_its_place(self):
        store = FlowStore()
        out = records_of(store)
        out.send([b"x"])
        thread = threading.Thread(target=lambda: out.finish(b"why"))
        thread.start()
        into = RecordReader(reader(store))
        assert bytes(into.take()) == b"x"
        for _ in range(2):
            with pytest.raises(FlowFailed):
                into.take()
        thread.join()
        out.close()
