"""Tasks that have a recovery task, and tasks that clear the namespace of their engine."""

from __future__ import annotations

import pytest

from ipkernel.controller.events import FromClient
from ipkernel.wire.messages import (
    MAX_RECOVERY,
    Cancel,
    Clear,
    Dependency,
    Failed,
    Function,
    Kind,
    Outcome,
    Recovery,
    Submit,
    Terms,
    decode_reason,
)
from tests.support.scheduling import OBJECT_SIZE, Cluster

SORRY = Terms(recovery=Recovery(b"", b"sorry"))


def test_what_fails_is_recovered_as_the_same_task() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(payload=b"payload", terms=SORRY)
    assert c.payload_of(task) == b"payload"
    c.done(task, outcome=Outcome.ERROR, payload=b"it broke")
    assert not c.results()
    assert c.payload_of(task) == b"sorry"
    c.done(task, payload=b"instead")
    finished = c.finished(task)
    assert finished.outcome is Outcome.OK
    assert finished.failed == Failed(Outcome.ERROR, b"it broke")
    assert c.payload_for(task) == b"instead"
    assert c.scheduler.totals.finished == 1 and c.scheduler.totals.failed == 0


def test_what_is_said_of_a_failure_at_length_is_let_go() -> None:
    c = Cluster()
    c.add_host(1, store=True)
    [task] = c.submit(terms=SORRY)
    made = bytes(16)
    c.done(task, outcome=Outcome.ERROR, makes=made)
    assert c.freed(1) == [made]
    c.done(task, payload=b"instead")
    failed = c.finished(task).failed
    assert failed is not None and failed.outcome is Outcome.IMPOSSIBLE
    assert f"too long: {OBJECT_SIZE} bytes" in decode_reason(failed.payload).text


def test_what_succeeds_needs_no_recovery() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    c.done(task)
    assert c.finished(task).failed is None
    assert not c.assigned


def test_a_recovery_that_fails_is_a_failure() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    c.done(task, outcome=Outcome.ERROR, payload=b"first")
    c.done(task, outcome=Outcome.ERROR, payload=b"second")
    finished = c.finished(task)
    assert (finished.outcome, finished.failed) == (
        Outcome.ERROR,
        Failed(Outcome.ERROR, b"first"),
    )
    assert c.payload_for(task) == b"second"


def test_a_timeout_is_recovered_and_the_recovery_has_it_too() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=Terms(timeout=2.0, priority=3, recovery=Recovery(b"", b"sorry")))
    c.done(task, outcome=Outcome.TIMEOUT, payload=b"late")
    assert c.assigned[0].limit == 2000
    c.done(task)
    assert c.finished(task).failed == Failed(Outcome.TIMEOUT, b"late")


def test_a_lost_engine_is_a_failure_when_the_retries_are_used_up() -> None:
    c = Cluster(engines=2)
    [task] = c.submit(retries=1, terms=SORRY)
    first = c.engine_of(task)
    c.leave(first, "killed", started=[task])
    assert c.payload_of(task) == b"payload"
    c.leave(c.engine_of(task), "killed", started=[task], restarting=True)
    assert not c.results()
    c.join(1 - first)
    assert c.payload_of(task) == b"sorry"
    c.done(task)
    failed = c.finished(task).failed
    assert failed is not None and failed.outcome is Outcome.LOST
    assert "killed" in decode_reason(failed.payload).text


def test_what_was_cancelled_is_not_recovered() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    c.from_client((Cancel([task]), b""))
    c.done(task, outcome=Outcome.ERROR)
    assert c.finished(task).failed is None
    assert not c.assigned


def test_a_recovery_that_waits_can_be_cancelled() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    [other] = c.submit(terms=Terms(1))
    c.done(task, outcome=Outcome.ERROR, payload=b"it broke", seconds=1.0)
    c.from_client((Cancel([task]), b""))
    assert c.engine_of(other) == 0
    assert c.finished(task).outcome is Outcome.ABORTED
    assert c.finished(task).failed == Failed(Outcome.ERROR, b"it broke")


def test_others_wait_for_the_recovery() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    [after] = c.submit(terms=Terms(after=Dependency([task])))
    c.done(task, outcome=Outcome.ERROR)
    assert [a.task for a in c.assigned] == [task]
    c.done(task)
    assert c.engine_of(after) == 0


def test_a_failure_that_is_too_long_is_summed_up() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=SORRY)
    c.done(task, outcome=Outcome.ERROR, payload=bytes(MAX_RECOVERY + 1))
    c.done(task)
    failed = c.finished(task).failed
    assert failed is not None and "too long: 65537 bytes" in decode_reason(failed.payload).text


def test_resources_are_kept_for_the_recovery_and_free_in_between() -> None:
    c = Cluster(engines=1)
    [task] = c.submit(terms=Terms(clear=3, recovery=Recovery(b"", b"sorry")))
    c.done(task, outcome=Outcome.ERROR)
    assert c.assigned[0].clear == 3
    assert c.scheduler.sessions[1].bytes == len(b"sorry")


def test_the_function_of_a_recovery_is_sent_to_its_host() -> None:
    c = Cluster(engines=1)
    digest = b"F" * 16
    c.from_client((Function(digest, 3), b"def"))
    [task] = c.submit(terms=Terms(recovery=Recovery(digest, b"sorry")))
    c.done(task, outcome=Outcome.ERROR)
    kinds = [type(m) for m, _ in c.to_host(1)]
    assert kinds.index(Function) == len(kinds) - 2
    [never] = c.submit(terms=Terms(recovery=Recovery(b"G" * 16, b"sorry")))
    assert c.finished(never).outcome is Outcome.IMPOSSIBLE


def test_a_direct_task_has_no_recovery() -> None:
    c = Cluster(engines=1)
    submit = Submit(1 << 40, Kind.APPLY, 0, [0], False, terms=SORRY)
    c.handle(FromClient(1, [(submit, b"")], c.now))
    assert any("or recover" in str(i) for i in c.last)


@pytest.mark.parametrize("clear", [0, Clear.BEFORE, Clear.AFTER, Clear.BEFORE | Clear.AFTER])
def test_engines_are_told_when_to_clear(clear: int) -> None:
    c = Cluster(engines=1)
    c.submit(terms=Terms(clear=int(clear)))
    c.submit(targets=[0], spread=False, terms=Terms(clear=int(clear)))
    assert c.assigned[0].clear == clear
