"""Results: futures that are cheap, lazy, divisible and honest."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import gc
import operator
import threading
import weakref

import msgspec
import pytest

from ipkernel import errors
from ipkernel.client.asyncresult import AsyncResult
from ipkernel.serialize.payload import dumps_bytes
from ipkernel.wire.messages import Cancel, Outcome, Reason, Stream, encode_reason
from tests.support.clients import fake, lv, rc
from tests.support.fakecontroller import FakeController

__all__ = ["fake", "lv", "rc"]


def fail(x):
    raise ValueError(x)


# ---------------------------------------------------------------- a future


def test_is_a_future(fake, lv):
    fake.held = True
    result = lv.apply_async(operator.add, 1, 2)
    assert isinstance(result, concurrent.futures.Future)
    assert not result.done() and not result.ready() and not result.running()
    fake.release()
    assert result.done() and result.ready() and result.successful() and result.ok()
    assert result.result() == result.get() == result.r == 3
    assert result.exception() is None


def test_standard_library_waits_for_it(fake, lv):
    fake.held = True
    results = [lv.apply_async(operator.neg, i) for i in range(5)]
    assert concurrent.futures.wait(results, timeout=0).not_done == set(results)
    fake.release(2)
    done, pending = concurrent.futures.wait(results, return_when="FIRST_COMPLETED")
    assert done == set(results[:2]) and pending == set(results[2:])
    releasing = threading.Timer(0.05, fake.release)
    releasing.start()
    found = [r.get() for r in concurrent.futures.as_completed(results, timeout=10)]
    releasing.join()
    assert sorted(found) == [-4, -3, -2, -1, 0]


@pytest.mark.parametrize("when", ["ALL_COMPLETED", "FIRST_EXCEPTION"])
def test_standard_wait_counts_right_while_results_arrive(fake, lv, when):
    fake.held = True
    results = [lv.apply_async(operator.neg, i) for i in range(300)]
    thread = threading.Thread(target=lambda: [fake.release(1) for _ in results])
    thread.start()
    done, pending = concurrent.futures.wait(results, timeout=30, return_when=when)
    thread.join()
    assert len(done) == 300 and not pending


def test_callbacks(fake, lv, caplog):
    fake.held = True
    result = lv.apply_async(operator.neg, 1)
    seen = []
    result.add_done_callback(lambda r: 1 / 0)
    result.add_done_callback(lambda r: seen.append(r.get()))
    assert seen == []
    fake.release()
    assert seen == [-1]
    assert "ZeroDivisionError" in caplog.text
    result.add_done_callback(seen.append)
    assert seen == [-1, result]


def test_awaitable_in_any_loop(fake, lv):
    fake.held = True

    async def main():
        first = lv.apply_async(operator.neg, 1)
        bad = lv.apply_async(fail, "no")
        threading.Timer(0.02, fake.release).start()
        with pytest.raises(ValueError, match="no"):
            await bad
        return await first, await asyncio.wait_for(first, 5)

    assert asyncio.run(main()) == (-1, -1)


def test_who_stops_waiting_in_a_loop_cancels_nothing(fake, lv):
    fake.held = True

    async def main():
        result = lv.apply_async(operator.neg, 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(result, 0.01)
        assert not result.done()
        fake.release()
        return await result

    assert asyncio.run(main()) == -1
    assert not any(isinstance(m, Cancel) for m in fake.messages)


def test_the_loops_own_future_of_a_result_cancels_it(fake, rc, lv):
    """As with any executor: asyncio calls cancel() of what it has wrapped."""
    fake.held = True

    async def main():
        result = lv.apply_async(operator.neg, 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(result), 0.01)
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(rc.executor(), operator.neg, 2), 0.01)
        return result

    assert asyncio.run(main()).cancelled()
    assert sum(isinstance(m, Cancel) for m in fake.messages) == 2


def test_awaiting_what_was_aborted_raises_why(fake, lv):
    fake.held = True

    async def main():
        result, other = lv.apply_async(operator.neg, 1), lv.apply_async(operator.neg, 2)
        threading.Timer(0.02, result.abort).start()
        with pytest.raises(errors.TaskAborted, match="the task was aborted"):
            await result
        threading.Timer(0.02, other.cancel).start()
        with pytest.raises(errors.TaskAborted, match="was cancelled: 1 "):
            await other

    asyncio.run(main())


def test_cancel_gives_up_and_aborts(fake, lv):
    fake.held = True
    result = lv.apply_async(operator.neg, 1)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(result.wait()))
    thread.start()
    assert result.cancel() and result.cancelled() and result.done()
    thread.join(10)
    assert waiting == [True]
    with pytest.raises(concurrent.futures.CancelledError):
        result.get()
    assert any(isinstance(m, Cancel) for m in fake.messages)
    assert not result.ok()
    assert result.cancel()
    done = lv.apply_async(int)
    fake.release()
    assert not done.cancel()
    assert done.get() == 0


def test_late_result_of_a_cancelled_task_is_ignored(fake, lv):
    fake.held = True
    result = lv.apply_async(operator.neg, 1)
    fake.take = lambda *args: None  # the controller never hears of the abort
    result.cancel()
    fake.release()
    assert result.cancelled()


# ---------------------------------------------------------------- waiting


def test_timeout_is_the_builtin_and_says_what_is_missing(fake, lv):
    fake.held = True
    result = lv.apply_async(operator.neg, 1)
    with pytest.raises(TimeoutError, match="not ready after 0.01 s: 1 of 1 task of 'neg'"):
        result.get(0.01)
    with pytest.raises(TimeoutError):
        result.exception(0)
    assert result.wait(0) is False
    fake.release()
    assert result.wait(None) is True
    assert result.get(timeout=-1) == -1


def test_wait_return_when(fake, rc):
    fake.held = True
    result = rc[:].apply_async(operator.neg, 1)
    fake.release(1)
    done, pending = result.wait(0, return_when="FIRST_COMPLETED")
    assert (len(done), len(pending)) == (1, 2)
    assert all(isinstance(part, AsyncResult) for part in done | pending)
    fake.release()
    assert done | pending == set(result.split())
    assert result.wait(return_when="ALL_COMPLETED") == (set(result.split()), set())
    with pytest.raises(ValueError):
        result.wait(return_when="NEVER")


def test_first_exception_does_not_wait_for_the_others(fake, rc):
    fake.held = True
    result = rc[:].apply_async(fail, 1)
    fake.release(1)
    with pytest.raises(errors.CompositeError):
        result.get(return_when="FIRST_EXCEPTION")
    assert not result.done()
    with pytest.raises(ValueError):
        result.get(return_when="FIRST_COMPLETED")


def test_successful_before_the_end(fake, lv):
    fake.held = True
    result = lv.apply_async(fail, 1)
    with pytest.raises(ValueError):
        result.successful()
    assert not result.ok()
    fake.release()
    assert not result.successful()


# ---------------------------------------------------------------- errors


def test_error_is_also_of_its_own_type(lv):
    result = lv.apply_async(fail, "wrong")
    with pytest.raises(ValueError, match="wrong") as caught:
        result.get()
    error = caught.value
    assert isinstance(error, errors.RemoteError)
    assert error.ename == "ValueError"
    assert error.engine_info["engine"] == result.engine_id
    assert "fail" in error.traceback
    assert isinstance(result.exception(), ValueError)
    assert result.errors == [error]


def test_list_of_results_raises_composite(rc):
    result = rc[:].apply_async(fail, "wrong")
    with pytest.raises(errors.CompositeError) as caught:
        result.get()
    assert len(caught.value.elist) == 3
    assert [e[0] for e in caught.value.elist] == ["ValueError"] * 3
    with pytest.raises(ValueError):
        caught.value.raise_exception(1)


def test_return_exceptions(rc):
    values = rc[:].apply_async(fail, 1).get(return_exceptions=True)
    assert all(isinstance(value, ValueError) for value in values)
    assert isinstance(rc[0].apply_async(fail, 1).get(return_exceptions=True), ValueError)


@pytest.mark.parametrize(
    ("kind", "kwargs", "expected"),
    [
        ("engine", {"engine": 1, "signal": 9, "host": "h"}, errors.EngineLost),
        ("host", {"host": "h"}, errors.HostLost),
        ("aborted", {}, errors.TaskAborted),
        ("no-engine", {}, errors.NoEnginesRegistered),
        ("object", {}, errors.ObjectLost),
        ("store-full", {}, errors.StoreFull),
        ("limit", {}, errors.KernelError),
    ],
)
def test_reasons_become_exceptions(fake, lv, kind, kwargs, expected):
    fake.held = True
    result = lv.apply_async(int)
    reason = Reason(kind, "this is why", **kwargs)
    fake.finish(result.msg_ids[0], Outcome.LOST, 1, encode_reason(reason))
    with pytest.raises(expected, match="this is why") as caught:
        result.get()
    assert type(caught.value) is expected
    for name, value in kwargs.items():
        if hasattr(caught.value, name):
            assert getattr(caught.value, name) == value


def test_garbage_is_an_error_not_a_hang(fake, rc):
    fake.held = True
    for outcome in Outcome:
        result = rc[0].apply_async(int)
        fake.finish(result.msg_ids[0], outcome, 0, b"\xff\x00garbage")
        with pytest.raises(Exception):
            result.get()


def test_results_are_decoded_by_who_asks(fake, lv):
    fake.held = True
    result = lv.apply_async(int)
    loaded = []

    class Loud:
        def __reduce__(self):
            return loaded_in, ()

    def loaded_in():
        loaded.append(threading.get_ident())
        return "value"

    import sys

    setattr(sys.modules[__name__], "loaded_in", loaded_in)
    loaded_in.__qualname__ = "loaded_in"
    answer = dumps_bytes(Loud())
    loaded.clear()
    thread = threading.Thread(target=fake.finish, args=(result.msg_ids[0], Outcome.OK, 0, answer))
    thread.start()
    thread.join()
    assert loaded == []
    assert result.get() is result.get()
    assert loaded == [threading.get_ident()]


# ---------------------------------------------------------------- parts


def test_list_results_are_sequences(rc):
    result = rc[:].apply_async(operator.neg, 1)
    assert len(result) == 3
    assert list(result) == [-1, -1, -1]
    assert result[0] == -1
    assert result[1:] == [-1, -1]
    with pytest.raises(IndexError):
        result[3]
    with pytest.raises(KeyError):
        result["nonsense"]


def test_iteration_does_not_wait_for_the_last(fake, rc):
    fake.held = True
    result = rc[:].apply_async(operator.neg, 1)
    fake.release(2)
    iterator = iter(result)
    assert [next(iterator), next(iterator)] == [-1, -1]
    assert result[0] == -1
    fake.release()
    assert next(iterator) == -1


def test_single_results_are_not_iterable(lv):
    result = lv.apply_async(operator.neg, 1)
    assert len(result) == 1
    with pytest.raises(TypeError, match="not iterable"):
        iter(result)
    with pytest.raises(TypeError):
        result[0]
    assert result.split() == [result]


def test_get_dict(rc, lv):
    assert rc[:].apply_async(operator.neg, 1).get_dict() == {0: -1, 1: -1, 2: -1}
    failed = rc[:].apply_async(operator.truediv, 1, 0).get_dict(return_exceptions=True)
    assert list(failed) == [0, 1, 2]
    assert all(isinstance(error, ZeroDivisionError) for error in failed.values())
    assert rc[1].apply_async(operator.neg, 1).result_dict == {1: -1}
    joined = AsyncResult.join(*(rc[1].apply_async(int) for _ in range(2)))
    with pytest.raises(ValueError, match="more than one"):
        joined.get_dict()


def test_split_and_join(fake, rc, lv):
    fake.held = True
    result = rc[:].apply_async(operator.neg, 1)
    other = lv.apply_async(operator.neg, 2)
    parts = result.split()
    fake.release(1)
    assert [part.done() for part in parts] == [True, False, False]
    joined = AsyncResult.join(other, *reversed(parts))
    assert joined.progress == 1
    fake.release()
    assert joined.get(5) == [-2, -1, -1, -1]
    assert AsyncResult.join(result).get() == [-1, -1, -1]
    assert [part.get() for part in parts] == [-1, -1, -1]
    assert joined.msg_ids == [other.msg_ids[0], *reversed(result.msg_ids)]


def test_join_refuses_strangers(lv):
    stranger = FakeController().client().load_balanced_view().apply_async(int)
    with pytest.raises(ValueError, match="different clients"):
        AsyncResult.join(lv.apply_async(int), stranger)
    with pytest.raises(ValueError, match="at least one"):
        AsyncResult.join()


# ---------------------------------------------------------------- metadata


def test_metadata_of_one(rc):
    result = rc[1].apply_async(operator.neg, 1)
    assert result.metadata.engine_id == result["engine_id"] == result.engine_id == 1
    assert result.status == "ok"
    assert result.msg_id == result.msg_ids[0]
    for key in ("submitted", "started", "completed", "received"):
        moment = getattr(result, key)
        assert isinstance(moment, datetime.datetime) and moment.tzinfo is not None
    assert result.submitted <= result.completed <= result.received
    assert "stdout" in dir(result)
    with pytest.raises(AttributeError):
        result.nonsense  # noqa: B018


def test_metadata_of_many(rc):
    result = rc[:].apply_async(operator.neg, 1)
    assert result.engine_id == [0, 1, 2]
    assert [m["engine_id"] for m in result.metadata] == [0, 1, 2]


def test_metadata_of_pending_and_failed(fake, lv):
    fake.held = True
    result = lv.apply_async(fail, 1)
    assert result.status is None and result.received is None and result.error is None
    fake.release()
    assert result.status == "error"
    assert isinstance(result.error, ValueError)


def test_times(rc):
    result = rc[:].apply_async(operator.neg, 1)
    assert result.elapsed == result.wall_time >= 0
    assert result.serial_time >= 0
    assert result.timedelta(result.submitted, result.received) == pytest.approx(
        result.wall_time, abs=1e-3
    )
    now = datetime.datetime.now(datetime.UTC)
    assert result.timedelta(now, now + datetime.timedelta(seconds=2)) == 2


def test_repr(fake, rc):
    fake.held = True
    result = rc[:].apply_async(operator.neg, 1)
    assert repr(result) == "<AsyncResult(neg): pending, 0 of 3 done>"
    fake.release()
    assert repr(result) == "<AsyncResult(neg): finished>"
    assert repr(rc[:].apply_async(fail, 1)).endswith("pending, 0 of 3 done>")


def test_timeline(rc, tmp_path):
    result = rc[:].apply_async(operator.neg, 1)
    result.timeline(tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text()


# ---------------------------------------------------------------- output


def test_output_is_collected(fake, rc):
    fake.held = True
    result = rc[0].apply_async(operator.neg, 1)
    task = result.msg_ids[0]
    fake.output(task, 0, "grün\n".encode()[:3])
    fake.output(task, 0, "grün\n".encode()[3:])
    fake.output(task, 0, "oh\n", Stream.STDERR)
    display = {"data": {"text/plain": "shown"}, "metadata": {}, "transient": {}}
    fake.output(task, 0, msgspec.msgpack.encode(display), Stream.DISPLAY)
    fake.output(task, 0, dumps_bytes({"i": 1}), Stream.DATA)
    fake.output(task, 0, dumps_bytes({"i": 2, "j": 3}), Stream.DATA)
    assert result.stdout == "grün\n" and result.stderr == "oh\n"
    assert result.data == {"i": 2, "j": 3}
    assert result.outputs[0]["data"] == {"text/plain": "shown"}
    fake.release()
    assert result.get() == -1


def test_output_is_bounded(fake, rc, monkeypatch):
    from ipkernel.client import task

    monkeypatch.setattr(task, "MAX_OUTPUT", 2 << 20)
    fake.held = True
    result = rc[0].apply_async(int)
    for _ in range(100):
        fake.output(result.msg_ids[0], 0, "x" * 65536)
    assert len(result.stdout) == 2 << 20
    assert "more than 2 MB" in result.stderr


def test_display_outputs(fake, rc, capsys):
    fake.held = True
    result = rc[:2].apply_async(int)
    for engine, task in enumerate(result.msg_ids):
        fake.output(task, engine, f"one {engine}\n")
        fake.output(task, engine, "bad\nworse\n", Stream.STDERR)
    fake.release()
    result.display_outputs()
    out, err = capsys.readouterr()
    assert out == "[stdout:0] one 0\n[stdout:1] one 1\n"
    assert err == "[stderr:0] \nbad\nworse\n[stderr:1] \nbad\nworse\n"
    result.display_outputs("engine")
    assert capsys.readouterr().out == out
    result.display_outputs(result_only=True)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError):
        result.display_outputs("colour")


def test_stream_output_prints_while_it_lasts(fake, rc, capsys):
    fake.held = True
    result = rc[0].apply_async(int)
    task = result.msg_ids[0]
    fake.output(task, 0, "before\n")
    with result.stream_output():
        fake.output(task, 0, "during\n")
        fake.release()
        result.get()
    out = capsys.readouterr().out
    assert "before" in out and "during" in out and out.startswith("[stdout:0] ")


def test_streamed_output_may_be_cut_anywhere(fake, rc, capsys):
    fake.held = True
    result = rc[:2].apply_async(int)
    one, two = result.msg_ids
    for piece in (b"gr\xc3", b"\xbcn ", b"und ", b"rot\nnot ended"):
        fake.output(one, 0, piece)
    fake.output(two, 1, b"other\n")
    fake.output(two, 1, b"cut \xc3")
    with result.stream_output():
        fake.release()
        result.get()
    assert capsys.readouterr().out == (
        "[stdout:0] grün und rot\nnot ended\n[stdout:1] other\n[stdout:1] cut \ufffd\n"
    )


def test_stream_output_ends_with_its_context(fake, rc):
    fake.held = True
    result = rc[0].apply_async(int)
    with pytest.raises(ZeroDivisionError):
        with result.stream_output():
            raise ZeroDivisionError
    assert not any(t.name == "ipkernel-output" for t in threading.enumerate())


def test_wait_interactive(fake, rc, capsys):
    fake.held = True
    result = rc[:].apply_async(int)
    result.wait_interactive(interval=0.01, timeout=0.05)
    assert not result.done()
    fake.release()
    result.wait_interactive(interval=0.01)
    assert "3/3" in capsys.readouterr().err


# ---------------------------------------------------------------- memory


def test_nothing_is_kept_of_what_nobody_holds(rc, lv, fake):
    result = lv.apply_async(operator.neg, 1)
    record = weakref.ref(result._records[0])
    task = result.msg_ids[0]
    assert task in rc.results
    assert result.get() == -1
    watched = weakref.ref(result)
    gc.disable()
    try:
        del result
        assert watched() is None and record() is None, "only a garbage collection frees it"
    finally:
        gc.enable()
    assert rc.results == {} and rc.metadata == {}
    assert not fake.session.pending


def test_dropping_a_pending_result_keeps_the_task(fake, lv):
    fake.held = True
    seen = []
    lv.apply_async(operator.neg, 1).add_done_callback(lambda r: seen.append(r.get()))
    gc.collect()
    fake.release()
    assert seen == [-1]


def test_lightness(lv):
    result = lv.apply_async(operator.neg, 1)
    assert result.get() == -1
    assert result._cond is None, "nobody had to wait, so there is no need of a lock"
