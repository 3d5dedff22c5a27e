"""The engine's ends of flows: what it tells its client, and how it stops."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from ipkernel.engine import files as engine_files
from ipkernel.engine import flows
from ipkernel.engine.current import State
from ipkernel.errors import ConnectError, RemoteError, StoreFull, UnknownObject
from ipkernel.objects import items
from ipkernel.objects.chunks import Flag, decode_note, flow_key, pack
from ipkernel.objects.flow import FlowReader, FlowStopped, FlowWriter
from ipkernel.objects.items import RecordReader
from ipkernel.serialize import failure
from ipkernel.serialize.payload import dumps, loads
from ipkernel.wire.messages import Output, Stream
from tests.support.flowstore import FlowStore

MASTER = bytes(range(16))
SESSION = 7
TASK = (SESSION << 40) | 3


class Engine:
    """An engine that runs a task, as far as flows can see."""

    def __init__(self) -> None:
        self.store = FlowStore()
        self.sent: list[tuple[Output, bytes]] = []
        self.held = 0
        self.state = State()
        self.state.engine = 5
        self.state.task = TASK
        self.state.loop = SimpleNamespace(
            objects=SimpleNamespace(store=self.store),
            send=lambda message, data: self.sent.append((message, data)),
            uninterrupted=self.uninterrupted,
        )

    @contextlib.contextmanager
    def uninterrupted(self):
        self.held += 1
        yield

    @property
    def notes(self):
        return [decode_note(data) for _, data in self.sent]

    @property
    def key(self) -> bytes:
        return flow_key(MASTER, TASK, self.notes[0].attempt)

    def reader(self) -> FlowReader:
        """The client's end."""
        return FlowReader(self.store, self.key, SESSION)

    def writer(self) -> FlowWriter:
        """The client's end."""
        return FlowWriter(self.store, self.key, SESSION)


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    monkeypatch.setattr(flows, "state", made.state)
    yield made
    assert made.store.broken or made.store.objects == {}


@contextlib.contextmanager
def client(function):
    """Be the client in another thread meanwhile; its exception, if any, is raised at the end."""
    failures = []

    def run():
        try:
            function()
        except BaseException as problem:
            failures.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]


class TestOpening:
    def test_the_client_is_told(self, engine):
        opening = flows.Opening(MASTER, 1000)
        opening.tell()
        ((message, data),) = engine.sent
        assert message == Output(TASK, 5, Stream.FLOW, len(data))
        note = decode_note(data)
        assert (note.master, note.stop, note.size) == (MASTER, False, 1000)
        assert opening.key == flow_key(MASTER, TASK, note.attempt)
        assert opening.session == SESSION
        assert engine.held == 1

    def test_each_opening_is_another_flow(self, engine):
        assert flows.Opening(MASTER).key != flows.Opening(MASTER).key

    def test_it_is_told_again_after_a_while(self, engine):
        now = [0.0]
        opening = flows.Opening(MASTER, clock=lambda: now[0])
        opening.tell()
        for seconds in (1.0, 2.9, 3.1, 4.0, 6.3):
            now[0] = seconds
            opening.tell_again()
        assert len(engine.sent) == 3
        assert len({note.attempt for note in engine.notes}) == 1

    def test_other_threads_are_not_held(self, engine):
        opening = flows.Opening(MASTER)
        with client(lambda: opening.tell(stop=True)):
            pass
        assert engine.held == 0
        assert engine.notes[0].stop

    @pytest.mark.parametrize("how", ["no engine", "no task", "a fork"])
    def test_a_task_is_needed(self, engine, how):
        if how == "no engine":
            engine.state.loop = None
        elif how == "no task":
            engine.state.task = 0
        else:
            engine.state.forked = True
        with pytest.raises(RuntimeError, match="needs a task that runs on an engine"):
            flows.Opening(MASTER)


class TestItems:
    def put(self, engine, *values, flags=Flag.LAST):
        engine.writer().write(pack([dumps(value) for value in values]), flags)

    def test_nothing_is_told_before_the_first_item_is_wanted(self, engine):
        made = flows.received_items(MASTER)
        assert engine.sent == []
        with client(lambda: (wait_for_note(engine), self.put(engine, 1, [2]))):
            assert list(made) == [1, [2]]
        assert list(made) == []
        made.close()
        assert len(engine.sent) == 1  # it came to its end, so there was nothing to stop

    def test_closing_tells_the_client_once(self, engine):
        made = flows.received_items(MASTER)
        with client(lambda: (wait_for_note(engine), self.put(engine, 1, 2))):
            assert next(made) == 1
        made.close()
        made.close()
        assert [note.stop for note in engine.notes] == [False, True]
        assert list(made) == []

    def test_closing_what_was_never_used_tells_nothing(self, engine):
        flows.received_items(MASTER).close()
        assert engine.sent == []

    def test_it_belongs_to_its_task(self, engine):
        made = flows.received_items(MASTER)
        engine.state.task += 1
        with pytest.raises(RuntimeError, match="a task that has ended"):
            next(made)
        made.close()
        assert engine.sent == []

    def test_it_goes_nowhere_else(self, engine):
        made = flows.received_items(MASTER)
        with pytest.raises(TypeError, match="cannot be sent"):
            copy.copy(made)
        assert "not open" in repr(made)

    def test_other_processes_have_none(self, engine):
        engine.state.loop = None
        with pytest.raises(TypeError, match="on an engine only"):
            flows.received_items(MASTER)

    def test_errors_of_the_client_are_raised_as_what_they_are(self, engine):
        def fail():
            wait_for_note(engine)
            try:
                raise LookupError("here")
            except LookupError as error:
                encoded = failure.encode(failure.describe(error))
            engine.writer().write([encoded], Flag.LAST | Flag.ERROR)

        made = flows.received_items(MASTER)
        with client(fail), pytest.raises(LookupError, match="here") as caught:
            next(made)
        assert "on the client" in caught.value.__notes__[0]
        assert 'raise LookupError("here")' in caught.value.__notes__[1]

    def test_those_that_cannot_be_rebuilt_are_told(self):
        info = failure.ErrorInfo("OddError", "text", ["line"])
        error = flows.exception_of(failure.encode(info))
        assert isinstance(error, RemoteError)
        assert (error.ename, error.evalue) == ("OddError", "text")


def wait_for_note(engine):
    deadline = time.monotonic() + 20
    while not engine.sent:
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def read_all(engine):
    wait_for_note(engine)
    records, found = RecordReader(engine.reader()), []
    with contextlib.suppress(EOFError):
        while True:
            found.append(loads(records.take()))
    return found


class TestProduce:
    def test_everything_is_sent(self, engine):
        found = []
        with client(lambda: found.extend(read_all(engine))):
            assert flows.produce(MASTER, lambda n, *, m: range(n, m), 2, m=9) == 7
        assert found == list(range(2, 9))

    def test_the_generator_is_closed_when_the_client_stops(self, engine, monkeypatch):
        closed = []

        def endless():
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        monkeypatch.setattr(items, "BATCH", 5)
        with client(lambda: (wait_for_note(engine), engine.reader().refuse())):
            assert flows.produce(MASTER, endless) > 0
        assert closed == [True]

    def test_user_code_that_takes_long_is_interrupted(self, engine, monkeypatch):
        """With a real signal, as this is the main thread."""
        seen = []

        def sleeps():
            yield 1
            try:
                threading.Event().wait(60)
            except KeyboardInterrupt:
                seen.append("interrupted")
                raise

        monkeypatch.setattr(flows, "GRACE", 0.02)
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with client(lambda: (wait_for_note(engine), engine.reader().refuse())):
                assert flows.produce(MASTER, sleeps) == 1
        finally:
            signal.signal(signal.SIGINT, handler)
        assert seen == ["interrupted"]

    def test_user_code_that_ends_in_time_is_not(self, engine, monkeypatch):
        interrupted = []
        monkeypatch.setattr(flows, "GRACE", 0.02)
        monkeypatch.setattr(flows, "_interrupt", lambda: interrupted.append(1))

        def quick():
            while True:
                yield 1
                threading.Event().wait(0.001)

        with client(lambda: (wait_for_note(engine), engine.reader().refuse())):
            flows.produce(MASTER, quick)
        assert interrupted == []

    def test_an_interrupt_from_elsewhere_is_an_error(self, engine):
        def interrupted():
            yield 1
            raise KeyboardInterrupt

        def read():
            with pytest.raises(Exception, match="has failed"):
                read_all(engine)

        with client(read), pytest.raises(KeyboardInterrupt):
            flows.produce(MASTER, interrupted)

    def test_a_client_that_is_gone_is_an_error(self, engine):
        closed = []

        def endless():
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        with client(lambda: (wait_for_note(engine), engine.store.session_gone(SESSION))):
            with pytest.raises(UnknownObject, match="the client of this stream is gone"):
                flows.produce(MASTER, endless)
        assert closed == [True]

    def test_a_store_that_is_gone_is_an_error(self, engine):
        with client(lambda: (wait_for_note(engine), engine.store.break_down())):
            with pytest.raises(ConnectError):
                flows.produce(MASTER, lambda: iter(int, 1))

    def test_an_item_that_does_not_fit_is_an_error(self, engine, monkeypatch):
        store = FlowStore(limit=1000)
        engine.store = engine.state.loop.objects.store = store
        with pytest.raises(StoreFull):
            flows.produce(MASTER, lambda: iter([bytes(2000)]))

    def test_what_raises_while_it_is_closed_is_an_error(self, engine):
        def stubborn():
            try:
                while True:
                    yield 1
            finally:
                raise OSError("not closed")

        with client(lambda: (wait_for_note(engine), engine.reader().refuse())):
            with pytest.raises(OSError, match="not closed"):
                flows.produce(MASTER, stubborn)


class TestFiles:
    def test_what_the_client_reports_is_raised(self, engine, tmp_path):
        def fail():
            wait_for_note(engine)
            error = failure.encode(failure.describe(PermissionError(13, "no", "/here")))
            engine.writer().write([error], Flag.LAST | Flag.ERROR)

        with client(fail), pytest.raises(PermissionError, match="/here"):
            engine_files.receive(MASTER, "f", str(tmp_path / "d" / "f"), True)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_opened_for_what_is_not_there(self, engine, tmp_path):
        with pytest.raises(FileNotFoundError):
            engine_files.send(MASTER, str(tmp_path / "nothing"))
        assert engine.sent == []

    def test_what_another_engine_has_done_needs_not_be_done(self, engine, tmp_path):
        def answer():
            wait_for_note(engine)
            engine.writer().write([b"/there/f"], Flag.LAST | Flag.DONE)

        with client(answer):
            assert engine_files.receive(MASTER, "f", str(tmp_path), True) == "/there/f"
        assert list(tmp_path.iterdir()) == []
        assert len(engine.notes[0].place) == 16

    def test_a_client_that_refuses_a_file(self, engine, tmp_path):
        (tmp_path / "f").write_bytes(b"x")
        with client(lambda: (wait_for_note(engine), engine.reader().refuse(b"no"))):
            with pytest.raises(FlowStopped) as caught:
                engine_files.send(MASTER, str(tmp_path / "f"))
        assert caught.value.error == b"no"
        assert engine.notes[0].size == 1

    @pytest.mark.parametrize("way", ["receive", "send"])
    def test_a_client_that_is_gone(self, engine, tmp_path, way):
        (tmp_path / "f").write_bytes(b"x")
        with client(lambda: (wait_for_note(engine), engine.store.session_gone(SESSION))):
            with pytest.raises(UnknownObject, match="is gone"):
                if way == "receive":
                    engine_files.receive(MASTER, "f", str(tmp_path / "g"), True)
                else:
                    engine_files.send(MASTER, str(tmp_path / "f"))
        assert [path.name for path in tmp_path.iterdir()] == ["f"]
