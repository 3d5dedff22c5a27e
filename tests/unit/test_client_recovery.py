"""Recovery tasks and cleared namespaces, as views say it, against a controller in memory."""

from __future__ import annotations

from functools import partial

import pytest

from ipkernel import errors
from ipkernel.client.metadata import KEYS, recovered
from ipkernel.client.task import TaskRecord
from ipkernel.serialize.calls import load_call
from ipkernel.wire.messages import (
    Clear,
    Failed,
    Finished,
    Function,
    Kind,
    Outcome,
    Reason,
    encode_reason,
)
from tests.support.clients import fake, rc, submits

__all__ = ["fake", "rc"]


def test_a_recovery_task_is_sent_with_each_call(fake, rc):
    view = rc.load_balanced_view()

    def instead():
        return 7

    with view.temp_flags(recovery_task=instead, priority=2):
        view.apply_async(int).get()
        view.map_async(abs, range(2), chunksize=1).get()
    view.apply_async(int).get()
    *with_one, last = submits(fake)
    assert last.terms is None and len(with_one) == 3
    for message in with_one:
        assert message.terms.priority == 2
        recovery = message.terms.recovery
        sent = {m.digest for m in fake.messages if isinstance(m, Function)}
        assert not recovery.digest or recovery.digest in sent
    assert view.recovery_task is None


def test_what_is_sent_is_a_call_without_arguments(fake, rc):
    view = rc.load_balanced_view(recovery_task=partial(max, 3, 4))
    view.apply_async(int).get()
    [message] = submits(fake)
    recovery = message.terms.recovery
    func, args, kwargs = load_call(recovery.payload, fake.store, recovery.digest)
    assert func(*args, **kwargs) == 4


def test_what_cannot_be_a_recovery_task(rc):
    view = rc.load_balanced_view()
    with pytest.raises(TypeError, match="recovery_task must be a function"):
        view.recovery_task = 7
    view.recovery_task = partial(len, bytes(100_000))
    with pytest.raises(ValueError, match="may carry 65536 bytes"):
        view.apply_async(int)
    with pytest.raises(TypeError, match="DirectView has no flag 'recovery_task'"):
        rc[:].set_flags(recovery_task=len)


@pytest.mark.parametrize(
    ("before", "after", "bits"),
    [(True, False, Clear.BEFORE), (False, True, Clear.AFTER), (True, True, 3)],
)
def test_namespaces_are_cleared_when_it_is_said(fake, rc, before, after, bits):
    view = rc.load_balanced_view()
    with view.temp_flags(clear_before=before, clear_after=after):
        assert (view.clear_before, view.clear_after) == (before, after)
        view.apply_async(int).get()
    assert not view.clear_before and not view.clear_after
    view.apply_async(int).get()
    first, second = submits(fake)
    assert first.terms.clear == bits and second.terms is None


def test_the_metadata_say_how_the_call_itself_failed():
    assert "recovered" in KEYS
    record = TaskRecord(1, Kind.APPLY, -1, "", 0.0)
    assert recovered(record) is None
    reason = encode_reason(Reason("timeout", "too long"))
    record.finish(
        Finished(1, Outcome.OK, 0, 0.0, 0.0, 0, failed=Failed(Outcome.TIMEOUT, reason)), b"", 1.0
    )
    failure = recovered(record)
    assert type(failure) is errors.TaskTimeout and str(failure) == "too long"
    record.finish(Finished(1, Outcome.OK, 0, 0.0, 0.0, 0), b"", 1.0)
    assert recovered(record) is None
