"""Views and their calls, against a controller in memory."""

from __future__ import annotations

import operator

import pytest

from ipkernel import errors
from ipkernel.client.asyncresult import AsyncMapResult, AsyncResult
from ipkernel.client.reply import ExecuteReply
from ipkernel.client.task import failure_of
from ipkernel.client.view import BroadcastView, DirectView, LoadBalancedView
from ipkernel.wire.messages import Kind, Reason, Submit
from tests.support.clients import fake, rc, submits
from tests.support.fakecontroller import FakeController

__all__ = ["fake", "rc"]


# ---------------------------------------------------------------- which engines


def test_client_lists_engines(rc):
    assert rc.ids == [0, 1, 2]
    assert len(rc) == 3
    assert [view.targets for view in rc] == [0, 1, 2]
    assert all(isinstance(view, DirectView) for view in rc)


@pytest.mark.parametrize(
    ("key", "targets"),
    [
        (0, 0),
        (-1, 2),
        (slice(None), [0, 1, 2]),
        (slice(None, None, 2), [0, 2]),
        ([1, 2], [1, 2]),
        ((0, -1), [0, 2]),
        (range(2), [0, 1]),
    ],
)
def test_indexing_gives_views(rc, key, targets):
    assert rc[key].targets == targets


@pytest.mark.parametrize("key", [3, -4, [0, 7]])
def test_unknown_engines_are_refused(rc, key):
    with pytest.raises(errors.InvalidEngineID, match="there are 0, 1, 2"):
        rc[key]
    with pytest.raises(IndexError):
        rc[key]


@pytest.mark.parametrize("key", ["x", 1.5, b"all", True])
def test_targets_of_wrong_types_are_refused(rc, key):
    with pytest.raises(TypeError):
        rc.direct_view(key)


def test_numpy_integers_are_targets(rc):
    numpy = pytest.importorskip("numpy")
    assert rc[numpy.int64(1)].targets == 1
    assert rc[numpy.arange(2)].targets == [0, 1]


def test_dead_engine_is_refused_with_its_reason(fake, rc):
    fake.leave(1, "killed by signal 9 (SIGKILL)")
    assert rc.ids == [0, 2]
    with pytest.raises(errors.InvalidEngineID, match="dead: killed by signal 9"):
        rc[1]


def test_restarting_engine_can_still_be_addressed(fake, rc):
    view = rc[1]
    fake.leave(1, "exited", restarting=True)
    assert rc.ids == [0, 2]
    assert rc[1].targets == 1
    fake.join(1)
    assert view.apply_sync(int) == 0


def test_all_is_lazy_and_a_slice_is_frozen(fake, rc):
    everybody, frozen = rc.direct_view("all"), rc[:]
    fake.join(3)
    assert len(everybody) == 4
    assert len(frozen) == 3
    assert everybody.apply_sync(int) == [0] * 4


def test_no_engines_is_an_error_at_once():
    rc = FakeController(engines=0).client()
    for call in (rc[:].apply_async, rc.direct_view().apply_async):
        with pytest.raises(errors.NoEnginesRegistered):
            call(int)


def test_an_empty_list_of_engines_does_not_mean_any(fake, rc):
    balanced, direct = rc.load_balanced_view([]), rc.direct_view([])
    calls = (
        lambda: balanced.apply_async(int),
        lambda: balanced.map_async(abs, [1, 2]),
        lambda: list(balanced.imap(abs, [1])),
        lambda: list(direct.imap(abs, [1])),
        lambda: direct.apply_async(int),
    )
    for call in calls:
        with pytest.raises(errors.NoEnginesRegistered, match="there are no engines"):
            call()
    assert submits(fake) == []


def test_view_of_a_dead_engine_fails_with_invalid_engine(fake, rc):
    view, both = rc[1], rc[[0, 1]]
    fake.leave(1)
    with pytest.raises(errors.InvalidEngineID):
        view.apply_sync(int)
    with pytest.raises(errors.CompositeError, match="InvalidEngineID"):
        both.apply_sync(int)


# ---------------------------------------------------------------- calls


def test_single_target_gives_a_value_and_several_a_list(rc):
    assert rc[0].apply_sync(operator.add, 1, 2) == 3
    assert rc[:].apply_sync(operator.add, 1, 2) == [3, 3, 3]
    assert rc[[1]].apply_sync(operator.add, 1, 2) == [3]
    assert rc.load_balanced_view().apply_sync(operator.add, 1, 2) == 3


def test_a_call_for_many_engines_is_one_message(fake, rc):
    rc[:].apply_sync(int)
    (submit,) = submits(fake)
    assert submit.targets == [0, 1, 2]
    assert not submit.spread


@pytest.mark.parametrize("what", [5, "f", None, [len]])
def test_what_cannot_be_called_is_refused_here(rc, what):
    for view in (rc[0], rc[:], rc.load_balanced_view()):
        with pytest.raises(TypeError, match=f"'{type(what).__name__}' object is not callable: "):
            view.apply_async(what)
        with pytest.raises(TypeError, match="not callable"):
            view.map_async(what, [1, 2])
    assert not rc.history


def test_keyword_arguments_named_f_reach_the_function(rc):
    def function(f, self):
        return f, self

    assert rc[0].apply_sync(function, f=1, self=2) == (1, 2)


def test_apply_follows_block(rc):
    for view in (rc[0], rc.load_balanced_view()):
        assert isinstance(view.apply(int), AsyncResult)
        view.block = True
        assert view.apply(int) == 0


def test_client_block_is_inherited(rc):
    rc.block = True
    assert rc[0].block
    assert rc.load_balanced_view().block


def test_function_is_sent_once(fake, rc):
    from ipkernel.wire.messages import Function

    view = rc.load_balanced_view()
    factor = 3

    def times(x):
        return factor * x

    assert [view.apply_sync(times, i) for i in range(20)] == [3 * i for i in range(20)]
    functions = [m for m in fake.messages if isinstance(m, Function)]
    assert len(functions) == 1
    index = fake.messages.index(functions[0])
    named = [i for i, m in enumerate(fake.messages) if isinstance(m, Submit) and m.digest]
    assert min(named) == index + 1
    assert {fake.messages[i].digest for i in named} == {functions[0].digest}


def test_what_cannot_be_sent_is_named(rc):
    import threading

    with pytest.raises(errors.SerializationError, match=r"argument 1\['lock'\]"):
        rc[0].apply_async(len, {"lock": threading.Lock()})
    assert rc.outstanding == set()


def test_restricted_load_balancing(fake, rc):
    rc.load_balanced_view([0, 2]).apply_sync(int)
    rc.load_balanced_view(1).apply_sync(int)
    rc.load_balanced_view().apply_sync(int)
    assert [m.targets for m in submits(fake)] == [[0, 2], [1], []]
    assert all(m.spread for m in submits(fake))


# ---------------------------------------------------------------- flags


def test_flags_are_sent(fake, rc):
    view = rc.load_balanced_view(retries=2, label="mine")
    result = view.apply_async(int)
    (submit,) = submits(fake)
    assert (submit.retries, submit.label) == (2, "mine")
    assert result.label == "mine"


def test_temp_flags_are_restored_even_after_an_error(rc):
    view = rc[:]
    with pytest.raises(ZeroDivisionError):
        with view.temp_flags(block=True, label="x"):
            assert view.block and view.label == "x"
            raise ZeroDivisionError
    assert not view.block and view.label == ""


def test_unknown_flags_are_refused_and_nothing_is_set(rc):
    view = rc[:]
    with pytest.raises(TypeError, match="no flag 'blok'"):
        view.set_flags(block=True, blok=True)
    assert not view.block
    assert view.set_flags(block=True) is view


def test_targets_can_be_set(rc):
    view = rc[:]
    view.targets = [0, -1]
    assert view.targets == [0, 2]
    with pytest.raises(IndexError):
        view.targets = 9
    balanced = rc.load_balanced_view()
    balanced.targets = 1
    assert balanced.targets == [1]


def test_broadcast_view(rc):
    view = rc.broadcast_view(is_coalescing=True)
    assert isinstance(view, BroadcastView)
    assert view.is_coalescing
    assert view.apply_sync(operator.neg, 1) == [-1] * 3


# ---------------------------------------------------------------- namespaces


def test_push_and_pull(rc):
    view = rc[:]
    view.push({"a": 1, "b": [2]}, block=True)
    assert view.pull("a", block=True) == [1, 1, 1]
    assert view.pull(["a", "b"], block=True) == [[1, [2]]] * 3
    assert rc[0].pull(("a", "b")).get() == [1, [2]]
    assert rc[0]["a + len(b)"] == 2
    assert rc[0].get("a") == 1


def test_item_assignment_waits(fake, rc):
    rc[:]["x"] = 5
    assert rc.outstanding == set()
    assert rc[1]["x"] == 5


def test_push_needs_a_mapping_of_names(rc):
    with pytest.raises(TypeError):
        rc[0].push([1])
    with pytest.raises(TypeError):
        rc[0].push({1: 2})
    with pytest.raises(TypeError):
        rc[0].pull([1])


def test_update_keys_and_clear(rc):
    rc[:].update({"k": 1}).get()
    assert rc[0].keys() == ["k"]
    assert rc[:].keys() == [["k"]] * 3
    rc[0].clear(block=True)
    assert rc[:].keys() == [[], ["k"], ["k"]]
    rc.clear(block=True)
    assert rc[:].keys() == [[], [], []]


def test_missing_name_is_a_name_error(rc):
    with pytest.raises(NameError, match="nothing"):
        rc[0]["nothing"]
    with pytest.raises(errors.CompositeError, match="NameError"):
        rc[:]["nothing"]


def test_block_argument_wins_over_the_flag(rc):
    view = rc[0]
    view.block = True
    assert isinstance(view.push({"a": 1}, block=False), AsyncResult)
    assert view.push({"a": 1}) is None


# ---------------------------------------------------------------- scatter and gather


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 30])
def test_gather_inverts_scatter(rc, dist, count):
    view = rc[:]
    view.scatter("part", range(count), dist=dist, block=True)
    assert view.gather("part", dist=dist, block=True) == list(range(count))


def test_scatter_divides(rc):
    view = rc[:]
    view.scatter("x", list(range(7)), block=True)
    assert view["x"] == [[0, 1, 2], [3, 4], [5, 6]]
    view.scatter("x", iter(range(7)), dist="r", block=True)
    assert view["x"] == [[0, 3, 6], [1, 4], [2, 5]]


def test_flatten(rc):
    view = rc[:]
    view.scatter("rank", rc.ids, flatten=True, block=True)
    assert view["rank"] == [0, 1, 2]
    assert view.gather("rank", block=True) == [0, 1, 2]


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("shape", [(8,), (7, 2), (2,)])
def test_masks_are_gathered(rc, dist, shape):
    numpy = pytest.importorskip("numpy")
    numbers = numpy.arange(numpy.prod(shape)).reshape(shape)
    whole = numpy.ma.masked_where(numbers % 3 == 1, numbers)
    rc[:].scatter("m", whole, dist=dist, block=True)
    again = rc[:].gather("m", dist=dist, block=True)
    assert (again.dtype, again.shape) == (whole.dtype, whole.shape)
    assert (again.mask == whole.mask).all()
    assert again.tolist() == whole.tolist()


def test_masks_of_parts_that_were_not_dealt_out(rc):
    numpy = pytest.importorskip("numpy")
    whole = numpy.ma.masked_equal(range(5), 3)
    parts = [whole[4:], whole[:4], numpy.arange(3)]
    for engine, part in enumerate(parts):
        rc[engine].push({"m": part}, block=True)
    again = rc[:].gather("m", dist="r", block=True)
    assert again.tolist() == [4, 0, 0, 1, 1, 2, 2, None]


def test_arrays_are_gathered_as_arrays(rc):
    numpy = pytest.importorskip("numpy")
    view = rc[:]
    data = numpy.arange(20.0).reshape(10, 2)
    view.scatter("a", data, block=True)
    whole = view.gather("a", block=True)
    assert isinstance(whole, numpy.ndarray)
    assert (whole == data).all()


def test_unknown_dist(rc):
    with pytest.raises(ValueError, match="dist='q'"):
        rc[:].scatter("a", [1], dist="q")


# ---------------------------------------------------------------- source text


def test_execute_returns_replies(rc):
    replies = rc[:].execute("6 * 7", silent=False).get()
    assert all(isinstance(reply, ExecuteReply) for reply in replies)
    assert [reply.text for reply in replies] == ["42"] * 3
    assert repr(replies[0]) == "<ExecuteReply[1]: 42>"
    assert replies[2].engine == replies[2].engine_id == 2
    data, _ = replies[1]._repr_mimebundle_()
    assert data["text/plain"] == "Out[1:1]: 42"


def test_blocking_execute_shows_output(rc, capsys):
    result = rc[0].execute("print('hello')", silent=False, block=True)
    assert isinstance(result, AsyncResult)
    assert capsys.readouterr().out == "[stdout:0] hello\n"
    rc[0].execute("1 + 1", silent=False, block=True)
    assert capsys.readouterr().out == "Out[0:2]: 2\n"


def test_silent_execute_prints_nothing(rc, capsys):
    reply = rc[0].execute("print('hello')", block=True).get()
    assert capsys.readouterr().out == ""
    assert reply.stdout == "hello\n"
    assert reply.text == "" and reply.data == {}


def test_execute_raises_what_the_code_raises(rc):
    with pytest.raises(ZeroDivisionError):
        rc[0].execute("1/0", block=True)
    result = rc[:].execute("1/0")
    with pytest.raises(errors.CompositeError, match="ZeroDivisionError"):
        result.get()


def test_run_sends_a_file(fake, rc, tmp_path):
    file = tmp_path / "script.py"
    file.write_text("# -*- coding: utf-8 -*-\nvalue = 'grün'\n", encoding="utf-8")
    rc[:].run(file, block=True)
    assert rc[0]["value"] == "grün"
    with pytest.raises(FileNotFoundError):
        rc[:].run(tmp_path / "missing.py")


# ---------------------------------------------------------------- tasks of a view


def test_history_and_outstanding(fake, rc):
    view, other = rc.load_balanced_view(), rc[:]
    fake.held = True
    results = [view.apply_async(int) for _ in range(3)]
    other.apply_async(int)
    assert view.history == [r.msg_ids[0] for r in results]
    assert view.outstanding == set(view.history)
    assert len(rc.outstanding) == 6
    assert not view.wait(timeout=0)
    fake.release()
    assert view.wait()
    assert view.outstanding == set() == rc.outstanding
    assert list(rc.history) == view.history + other.history


def test_abort_of_a_view_leaves_others_alone(fake, rc):
    view, other = rc.load_balanced_view(), rc.load_balanced_view()
    fake.held = True
    mine, theirs = view.apply_async(int), other.apply_async(int)
    view.abort()
    with pytest.raises(errors.TaskAborted):
        mine.get()
    assert not theirs.ready()
    fake.release()
    assert theirs.get() == 0


def test_get_result_by_index(rc):
    view = rc.load_balanced_view()
    keep = [view.apply_async(operator.neg, i) for i in range(3)]
    assert view.get_result(0).get() == 0
    assert view.get_result(-1, block=True) == -2
    assert view.get_result([0, 1]).get() == [0, -1]
    assert view.get_result().get() == -2
    assert len(view.results) == len(keep)


def test_repr_and_truth(rc):
    assert repr(rc[[0, 1]]) == "<DirectView [0, 1]>"
    assert bool(rc.load_balanced_view())
    assert isinstance(rc.load_balanced_view(), LoadBalancedView)
    assert isinstance(rc[:].map(abs, [1]), AsyncMapResult)
    assert {m.kind for m in submits(rc._connection)} == {Kind.MAP}


# ---------------------------------------------------------------- priorities


def test_a_priority_is_sent_with_each_call_of_a_balanced_view(fake, rc):
    view = rc.load_balanced_view(priority=3)
    view.apply_async(int).get()
    view.map_async(abs, range(2), chunksize=1).get()
    list(view.imap(abs, range(1)))
    view.stream(range, 2)  # it fails here, but it is sent
    assert len(submits(fake)) == 5
    assert {m.terms.priority for m in submits(fake)} == {3}


def test_no_terms_are_sent_when_nothing_is_asked(fake, rc):
    view = rc.load_balanced_view()
    with view.temp_flags(priority=5):
        view.apply_async(int).get()
    assert view.priority == 0
    view.apply_async(int).get()
    assert [m.terms is None for m in submits(fake)] == [False, True]


@pytest.mark.parametrize(
    ("value", "error"), [("high", TypeError), (1.5, TypeError), (1_000_001, ValueError)]
)
def test_an_impossible_priority_is_refused_at_once(rc, value, error):
    view = rc.load_balanced_view()
    with pytest.raises(error, match="priority must be"):
        view.priority = value
    assert view.priority == 0


def test_a_direct_view_has_no_priority(rc):
    with pytest.raises(TypeError, match="DirectView has no flag 'priority'"):
        rc[:].set_flags(priority=1)


# ---------------------------------------------------------------- timeouts


@pytest.mark.parametrize("kind", ["direct", "several", "balanced"])
def test_a_timeout_is_sent_with_each_call(fake, rc, kind):
    view = {"direct": rc[0], "several": rc[:2], "balanced": rc.load_balanced_view()}[kind]
    with view.temp_flags(timeout=2):
        assert view.timeout == 2.0
        view.apply_async(int).get()
        view.map_async(abs, [1, 2]).get()
    assert view.timeout is None
    view.apply_async(int).get()
    *with_one, last = submits(fake)
    assert with_one and all(m.terms.timeout == 2.0 for m in with_one)
    assert last.terms is None


@pytest.mark.parametrize("value", [None, -1])
def test_a_timeout_can_be_for_ever(rc, value):
    view = rc[:]
    view.timeout = 5
    view.timeout = value
    assert view.timeout is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (1e10, ValueError),
        (float("nan"), ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_an_impossible_timeout_is_refused_at_once(rc, value, error):
    with pytest.raises(error, match="timeout must be"):
        rc[:].set_flags(timeout=value)


def test_a_task_that_timed_out_raises_what_it_is():
    reason = Reason("timeout", "the task ran for longer than its timeout of 1 s")
    with pytest.raises(errors.TaskTimeout, match="longer than its timeout of 1 s"):
        raise failure_of(reason)


# ---------------------------------------------------------------- labels


def test_tasks_are_explained_by_their_label(fake, rc):
    fake.held = True
    view = rc.load_balanced_view()
    with view.temp_flags(label="fit"):
        first, second = view.apply_async(int), view.apply_async(int)
    other = view.apply_async(int)
    assert [s.task for s in rc.explain(label="fit")] == [*first.msg_ids, *second.msg_ids]
    both = rc.explain([first, other], label="fit")
    assert [s.task for s in both] == [*first.msg_ids, *other.msg_ids, *second.msg_ids]
    assert rc.explain(label="no such label") == rc.explain() == []
    fake.held = False
    fake.release()


def test_what_stays_with_its_client_says_so_when_it_is_sent(rc):
    view = rc[0]
    stay = {"a client": rc, "a view": view, "a result": view.apply_async(len, "")}
    for name, value in stay.items():
        with pytest.raises(errors.SerializationError, match=rf"argument 1\['x'\]: {name} stays"):
            view.apply(len, {"x": value})
