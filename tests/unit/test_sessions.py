"""Sessions whose connections are cut: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipkernel import errors
from ipkernel.controller import clientlink
from ipkernel.controller.events import Tick
from ipkernel.controller.links import OPEN_TIME
from ipkernel.wire.messages import (
    Closing,
    Fetch,
    Finished,
    Output,
    SessionGone,
    Stream,
    Submit,
)
from ipkernel.wire.records import ClientHello, Resume
from tests.support.sessionscene import GRACE, Connection, Reference, Scene


@pytest.fixture
def scene(monkeypatch):
    scene = Scene(monkeypatch)
    yield scene
    scene.close()


def lines(result):
    return result._records[0].output.text(Stream.STDOUT)


def test_a_session_goes_on_after_a_cut(scene):
    results = [scene.submit(i) for i in range(5)]
    scene.move()
    scene.cut()
    scene.finish(3)
    scene.move()
    later = scene.submit(5)
    assert scene.connect()
    scene.work()
    assert [r.get(0) for r in [*results, later]] == [0, 1, 2, 3, 4, 5]
    assert set(scene.runs.values()) == {1}
    assert [lines(r) for r in results] == ["0\n"] * 5
    assert scene.granted == [None, True]
    assert scene.scheduler.sessions[scene.session.number].attached


def test_what_had_not_arrived_is_sent_again(scene):
    scene.connection.near.transport.frozen = True
    result = scene.submit("hello")
    scene.clock.advance(0)
    scene.cut()
    assert not scene.assigned
    scene.connect()
    scene.work()
    assert result.get(0) == "hello"


def test_what_had_arrived_is_not_sent_again(scene):
    result = scene.submit("hello")
    scene.move()
    assert len(scene.assigned) == 1
    scene.cut()
    scene.connect()
    scene.work()
    assert result.get(0) == "hello"
    assert set(scene.runs.values()) == {1}


def test_a_connection_that_only_the_controller_believes_in_is_replaced(scene):
    result = scene.submit(1)
    scene.move()
    old = scene.connection
    scene.cut(controller=False)
    scene.finish(1)
    scene.move()
    assert scene.connect()
    assert scene.connection is not old
    scene.work()
    assert result.get(0) == 1
    scene.pass_time(2)  # and what the old one has still to say is ignored
    old.far.connectionLost()
    scene.work()
    assert scene.submit(2) and scene.connection is not None
    scene.work()
    assert scene.clients.connected == 1


def test_a_client_that_comes_late_gets_its_results(scene):
    ended, running, unsent = scene.submit(1), scene.submit(2), None
    scene.move()
    scene.finish(1)
    scene.cut()
    scene.move()
    unsent = scene.submit(3)
    scene.pass_time(GRACE + 1)
    assert not scene.clients.links
    assert list(scene.scheduler.retained) == ended.msg_ids
    scene.connect()
    scene.work()
    assert [r.get(0) for r in (ended, running, unsent)] == [1, 2, 3]
    assert [lines(r) for r in (ended, running, unsent)] == ["0\n"] * 3
    assert scene.granted == [None, False]
    assert set(scene.runs.values()) == {1}
    scene.cut()
    scene.connect()
    assert scene.granted[-1] is True, "it is exact again"


def test_results_that_were_not_kept_for_one_that_comes_late_are_told_to_be_gone(scene):
    gone, running = scene.submit(1), scene.submit(2)
    scene.move()
    scene.finish(1)
    scene.cut()
    scene.pass_time(GRACE + 1)
    scene.scheduler.retained.take(gone.msg_ids)
    scene.connect()
    scene.work()
    with pytest.raises(errors.KernelError, match="is not known: its result was fetched or has exp"):
        gone.get(0)
    assert running.get(0) == 2


def test_a_late_grant_that_did_not_arrive_is_asked_for_again(scene):
    result = scene.submit(1)
    scene.move()
    scene.cut()
    scene.pass_time(GRACE + 1)
    courier, life = scene.courier, scene.known_life
    received = courier.received
    assert received
    resume = Resume(number=scene.session.number, life=life, received=received)
    scene.clients.open(Reference("client"), ClientHello(resume=resume))
    scene.clock.advance(0)
    scene.connect()
    scene.work()
    assert result.get(0) == 1
    assert scene.granted == [None, False]


def test_grants_that_were_overtaken_have_no_say_any_more(scene):
    """The client has asked again while the first answers waited for the journal."""
    result = scene.submit(1)
    scene.move()
    scene.cut()
    resume = Resume(
        number=scene.session.number, life=scene.known_life, received=scene.courier.received
    )
    overtaken = [Reference("client") for _ in range(3)]
    for reference in overtaken:
        scene.turn.add(Tick(scene.turn.now()))  # so that there is something to wait for
        scene.clients.open(reference, ClientHello(resume=resume))
    scene.connect()
    link = scene.clients.links[scene.session.number]
    for reference in overtaken:
        reference.disconnect()
    scene.clock.advance(OPEN_TIME + 1)
    assert link.channel is not None and not link.gone
    scene.work()
    assert result.get(0) == 1
    assert scene.granted == [None, True]


def test_a_connection_that_is_cut_before_the_controller_has_seen_its_channel(monkeypatch):
    """The client has got its grant, and so it has a session."""
    scene = Scene.__new__(Scene)
    monkeypatch.setattr(Connection, "open", lambda self: None)
    scene.__init__(monkeypatch)
    result = scene.submit(1)
    monkeypatch.undo()
    scene.patch(monkeypatch)
    scene.connection.reference.disconnect()
    scene.cut(controller=False)
    assert scene.clients.links
    assert scene.connect()
    assert scene.granted == [None, True]
    scene.work()
    assert result.get(0) == 1
    scene.close()


def test_a_session_without_tasks_waits_for_its_client_for_a_while(scene):
    digest = b"d" * 16
    scene.session._add_function(digest, b"function")
    scene.session._wake_once()
    scene.work()
    scene.cut()
    scene.pass_time(GRACE + 1)
    session = scene.scheduler.sessions[scene.session.number]
    assert list(session.functions) == [digest]
    scene.clock.advance(clientlink.KEEP_SESSION)
    scene.turn.add(Tick(scene.turn.now()))
    scene.clock.advance(0)
    assert not scene.scheduler.sessions


def test_an_unknown_session_is_another_one(scene):
    scene.cut()
    scene.pass_time(GRACE + 1)
    scene.clock.advance(clientlink.KEEP_SESSION)
    scene.turn.add(Tick(scene.turn.now()))
    scene.clock.advance(0)
    with pytest.raises(AttributeError):  # there is no ``resumed``
        scene.connect()
    assert scene.granted[-1] is None


def test_a_session_belongs_to_one_certificate(scene, monkeypatch):
    from ipkernel.controller import clientele

    scene.submit(1)
    scene.move()
    monkeypatch.setattr(clientele, "peer_tub_id", lambda reference: "thief")
    with pytest.raises(AttributeError):
        scene.connect()
    assert scene.granted[-1] is None
    assert scene.clients.links[scene.session.number].channel is scene.connection.far


def test_a_client_that_says_goodbye_is_not_waited_for(scene):
    result = scene.submit(1)
    scene.session.tell(Closing("the client was closed"))
    scene.move()
    scene.cut()
    scene.clock.advance(0)
    assert not scene.clients.links
    scene.finish(1)
    scene.clock.advance(0)
    assert list(scene.scheduler.retained) == result.msg_ids
    assert not scene.scheduler.sessions, "and its session ends with its last task"


def test_a_client_whose_process_has_ended_is_not_waited_for(scene):
    link = scene.clients.links[scene.session.number]
    ended = []
    link._is_gone = lambda: bool(ended)
    scene.cut()
    scene.pass_time(1)
    assert scene.clients.links
    ended.append(True)
    scene.pass_time(1)
    assert not scene.clients.links


def test_too_much_for_a_client_that_is_away_is_kept_with_its_results(scene, monkeypatch):
    monkeypatch.setattr(clientlink, "HOLD_BYTES", 2000)
    results = [scene.submit(b"x" * 300) for _ in range(10)]
    scene.move()
    scene.cut()
    scene.work()
    assert not scene.clients.links
    assert len(scene.scheduler.retained) == 10
    scene.connect()
    scene.work()
    assert [r.get(0) for r in results] == [b"x" * 300] * 10
    assert scene.granted == [None, False]


def test_one_that_breaks_the_rules_is_not_let_in_again(scene):
    result = scene.submit(1)
    scene.session.tell(Submit(99 << 40, 1, 0))
    scene.work()
    assert scene.connection is None
    assert not scene.connect()
    assert isinstance(scene.refused, errors.ControllerLost)
    assert "has ended this session: task id" in str(scene.refused)
    assert not result.done() or result.get(0) == 1


def test_counts_that_cannot_be_end_the_session(scene):
    scene.submit(1)
    scene.work()
    scene.cut()
    scene.courier.received += 1000
    assert not scene.connect()
    assert "1" in str(scene.refused) and "cannot have been taken" in str(scene.refused)
    assert not scene.clients.links


def test_whoever_asks_for_the_results_of_one_that_is_away_gets_them(scene):
    result = scene.submit(7)
    scene.move()
    scene.cut()
    scene.work()
    other = scene.of_other()
    other.session.tell(Fetch(result.msg_ids))
    arrived = []
    other.session.received = lambda items: arrived.extend(items)
    other.move()
    (finished,) = [m for m, _ in arrived if isinstance(m, Finished)]
    assert (finished.task, finished.outcome) == (result.msg_ids[0], 0)
    other.courier.stop()


def test_hosts_hear_of_a_client_that_is_gone_not_of_one_that_is_away(scene):
    scene.cut()
    scene.pass_time(2)
    gone = SessionGone(scene.session.number)
    assert gone not in scene.to_host
    assert scene.scheduler.sessions[scene.session.number].attached
    scene.pass_time(GRACE)
    assert gone in scene.to_host


def test_abortions_that_were_asked_for_while_there_was_no_connection_are_told(scene):
    first, second = scene.submit(1), scene.submit(2)
    scene.move()
    scene.cut()
    scene.session.cancel(second.msg_ids)
    scene.connect()
    scene.move()
    with pytest.raises(errors.TaskAborted):
        second.get(0)
    scene.work()
    assert first.get(0) == 1
    assert list(scene.runs) == first.msg_ids


def test_output_of_a_task_that_still_runs_is_kept_for_one_that_comes_late(scene):
    result = scene.submit(1)
    scene.move()
    scene.cut()
    for serial in (1, 2):
        text = b"%d\n" % serial
        task = result.msg_ids[0]
        scene.from_host((Output(task, 0, Stream.STDOUT, len(text), serial), text))
    scene.clock.advance(0)
    scene.pass_time(GRACE + 1)
    scene.connect()
    scene.move()
    assert lines(result) == "1\n2\n"
    scene.serial = 2
    scene.work()
    assert lines(result) == "1\n2\n0\n"


def test_a_result_decided_in_the_turn_in_which_the_client_goes_is_kept(scene):
    result = scene.submit(1)
    scene.move()
    scene.finish(1)
    link = scene.clients.links[scene.session.number]
    link.give_up("in the same turn")
    scene.clock.advance(0)
    assert list(scene.scheduler.retained) == result.msg_ids


def test_a_controller_that_was_started_again_is_told_what_it_does_not_know(scene):
    ended, known = scene.submit(1), scene.submit(2)
    scene.move()
    scene.finish(1)
    scene.clock.advance(0)
    scene.connection.near.transport.frozen = True
    unknown = scene.submit(3)
    scene.clock.advance(0)
    scene.restart()
    later = scene.submit(4)
    assert scene.connect()
    scene.work()
    assert [r.get(0) for r in (ended, known, unknown, later)] == [1, 2, 3, 4]
    assert set(scene.runs.values()) == {1}
    assert scene.granted == [None, False]


# ------------------------------------------------- cut anywhere

STEPS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 4), st.integers(0, 3000)),
    st.tuples(st.just("move"), st.integers(1, 400), st.integers(1, 8)),
    st.tuples(st.just("finish"), st.integers(1, 3), st.integers(0, 3)),
    st.tuples(st.just("cut"), st.booleans(), st.just(0)),
    st.tuples(st.just("connect"), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, GRACE + 1]), st.just(0)),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, max_size=40))
def test_every_task_runs_once_wherever_connections_are_cut(monkeypatch, steps):
    with monkeypatch.context() as patch:
        scene = Scene(patch)
        submitted = []
        for what, first, second in steps:
            if what == "submit":
                for _ in range(first):
                    value = b"%d" % len(submitted) + b"x" * second
                    submitted.append((scene.submit(value), value))
            elif what == "move":
                scene.move(first, second)
            elif what == "finish":
                scene.finish(first, printed=second)
            elif what == "cut":
                scene.cut(controller=first)
            elif what == "connect" and scene.connection is None:
                scene.connect()
            elif what == "restart":
                scene.restart()
            elif what == "wait":
                scene.pass_time(first)
        if scene.connection is None:
            scene.connect()
        scene.work(8)
        assert scene.refused is None
        assert [r.get(0) for r, _ in submitted] == [value for _, value in submitted]
        assert all(count == 1 for count in scene.runs.values())
        assert len(scene.runs) == len(submitted)
        for result, _ in submitted:
            printed = result._records[0].output
            text = [] if printed is None else printed.text(Stream.STDOUT).split()
            assert text == [str(i) for i in range(len(text))], "in order, and each once"
        scene.pass_time(1)  # for acknowledgements
        assert not len(scene.courier._replay)
        assert scene.session.sent_bytes == scene.session.queued_bytes
        scene.scheduler.validate()
        scene.close()
