"""References: noted while something is pickled, replaced while it is loaded, given back when unused."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import ObjectError, SerializationError, UnknownObject
from ipkernel.objects import new_object_id, ref
from ipkernel.objects.ref import MAX_NEEDS, ObjectRef, collecting, resolving
from ipkernel.serialize import payload
from ipkernel.serialize.functions import FunctionCache, FunctionStore, dump_call, load_call
from ipkernel.serialize.payload import PrePickled, dumps, dumps_bytes, dumps_with_needs, join, loads


class Client:
    """What a client does for its references, written down."""

    def __init__(self):
        self.asked, self.freed, self.released = [], [], []
        self.release = self.released.append
        self.lock = threading.Lock()  # something that cannot be pickled

    def get(self, ref, timeout):
        self.asked.append((ref.id, timeout))
        return "the value"

    def free(self, ref):
        self.freed.append(ref.id)


def new(number=1, **kwargs):
    return ObjectRef(bytes([number]) * 16, 1_234_567, "n1", **kwargs)


A, B, C = new(1), new(2), new(3)


@pytest.fixture(autouse=True)
def cloudpickle_again():
    yield
    payload.use_cloudpickle()


# ---------------------------------------------------------------- the value itself


def test_references_to_the_same_object_are_equal():
    again = ObjectRef(A.id, 5)
    assert again == A
    assert hash(again) == hash(A)
    assert A != B
    assert A != A.id
    assert {A: 1}[again] == 1


def test_what_it_shows_does_not_give_the_right_to_use_it():
    shown = repr(ObjectRef(bytes(range(16)), 1_234_567, "n1"))
    assert shown == "<ObjectRef 00010203: 1.2 MB on n1, unbound>"
    assert bytes(range(16)).hex() not in shown
    bound = ObjectRef(bytes(range(16)), 70_000).bind(Client())
    assert repr(bound) == "<ObjectRef 00010203: 70.0 KB>"
    bound.free()
    assert repr(bound) == "<ObjectRef 00010203: 70.0 KB, freed>"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (2e9, "2.0 GB"), (3e15, "3000.0 TB")]
)
def test_sizes_are_written_for_people(size, text):
    assert f": {text} on" in repr(ObjectRef(A.id, int(size), "h"))


def test_a_copy_is_the_reference_itself():
    assert copy.copy(A) is A
    assert copy.deepcopy([A])[0] is A


def test_the_value_is_had_through_the_client():
    client = Client()
    bound = new().bind(client)
    assert bound.bound
    assert bound.get() == "the value"
    assert bound.get(timeout=3.5) == "the value"
    assert client.asked == [(bound.id, None), (bound.id, 3.5)]


@pytest.mark.parametrize("id", [b"", b"short", bytes(17)])
def test_what_is_no_id_is_refused(id):
    with pytest.raises(ValueError, match="16 bytes"):
        ObjectRef(id, 5)


def test_it_has_one_client():
    bound = new().bind(Client())
    with pytest.raises(RuntimeError, match="belongs to a client already"):
        bound.bind(Client())


def test_what_was_freed_says_so():
    client = Client()
    bound = new().bind(client)
    bound.free()
    bound.free()
    assert client.freed == [bound.id]
    assert not bound.bound
    with pytest.raises(UnknownObject, match="was freed"):
        bound.get()


def test_one_of_several_threads_frees_it():
    client = Client()
    bound = new().bind(client)
    together = threading.Barrier(8)

    def free():
        together.wait()
        bound.free()

    threads = [threading.Thread(target=free) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.freed == [bound.id]


def test_the_client_is_told_when_it_is_collected():
    client = Client()
    bound = new().bind(client)
    also = copy.copy(bound)
    del bound
    gc.collect()
    assert client.released == []
    del also
    gc.collect()
    assert client.released == [A.id]


def test_the_client_is_not_told_of_what_was_freed_or_never_bound():
    client = Client()
    bound = new().bind(client)
    bound.free()
    del bound
    new()
    gc.collect()
    assert client.released == []


def test_a_reference_keeps_those_in_its_value():
    client = Client()
    outer = ObjectRef(B.id, 5, inner=[new().bind(client)])
    gc.collect()
    assert client.released == []
    del outer
    gc.collect()
    assert client.released == [A.id]


def test_nothing_is_given_back_at_the_end_of_the_process():
    code = (
        "from ipkernel.objects.ref import ObjectRef\n"
        "class Client:\n"
        "    def release(self, id): print('released')\n"
        "kept = ObjectRef(bytes(16), 1).bind(Client())\n"
        "import sys; sys.kept = kept\n"
        "print('heavy', sorted({'numpy', 'twisted', 'ipkernel.serialize'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "heavy []\n"
    assert done.stderr == ""


def test_it_can_be_referred_to_weakly():
    mine = new()
    watch = weakref.ref(mine)
    del mine
    assert watch() is None


# ---------------------------------------------------------------- pickled anywhere


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_outside_of_a_call_it_comes_back_without_a_client(protocol):
    bound = new().bind(Client())
    again = pickle.loads(pickle.dumps(bound, protocol))
    assert again == bound
    assert (again.size, again.where) == (bound.size, bound.where)
    assert not again.bound
    for use in (again.get, again.free):
        with pytest.raises(ObjectError, match="belongs to no client.*pass it as an argument"):
            use()


# ---------------------------------------------------------------- noted


def test_needs_are_the_ids_in_the_order_they_are_met():
    pieces, needs = dumps_with_needs({"x": [B, (A, {C})], "y": A})
    assert needs == (B.id, A.id, C.id)
    assert loads(join(pieces)) == {"x": [B, (A, {C})], "y": A}


@pytest.mark.parametrize("value", [1, [1, 2], {"a": (1,)}, {1, 2}, np.zeros(3), [object]])
def test_without_references_there_are_no_needs(value):
    pieces, needs = dumps_with_needs(value)
    assert needs == ()
    assert join(pieces) == join(dumps(value))


def test_needs_of_needs_are_needs():
    innermost = new(4)
    inner = ObjectRef(A.id, 1, inner=[innermost, B])
    outer = ObjectRef(C.id, 1, inner=[inner, B])
    assert dumps_with_needs([outer])[1] == (C.id, A.id, innermost.id, B.id)


def test_contexts_do_not_mix():
    with collecting() as outer:
        dumps([A])
        with collecting() as inner:
            dumps([B])
        dumps([C])
    dumps([new(9)])
    assert list(outer) == [A.id, C.id]
    assert list(inner) == [B.id]
    assert outer[A.id] is A


def test_threads_do_not_mix():
    def elsewhere():
        dumps([B])

    with collecting() as found:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found == {}


def test_an_error_leaves_nothing_behind():
    with pytest.raises(SerializationError), collecting():
        dumps([A, threading.Lock()])
    with collecting() as found:
        pass
    assert found == {}
    assert ref._here.found is None


@pytest.mark.parametrize("use", ["use_cloudpickle", "use_pickle", "use_dill"])
def test_any_pickler_notes_them(use):
    pytest.importorskip("dill")
    getattr(payload, use)()
    pieces, needs = dumps_with_needs([A, np.arange(10_000), B])
    assert needs == (A.id, B.id)
    with resolving({A.id: memoryview(dumps_bytes("a")), B.id: memoryview(dumps_bytes("b"))}):
        assert loads(join(pieces))[::2] == ["a", "b"]


def test_those_in_prepickled_values_are_noted():
    once = PrePickled([A])
    for value in (once, [once], PrePickled(once), [PrePickled([once, B])]):
        pieces, needs = dumps_with_needs(value)
        assert needs[0] == A.id
        with resolving({A.id: memoryview(dumps_bytes("a")), B.id: memoryview(dumps_bytes("b"))}):
            assert "a" in str(loads(join(pieces)))


def test_prepickled_values_keep_their_references():
    client = Client()
    once = PrePickled([new().bind(client)])
    gc.collect()
    assert client.released == []
    del once
    gc.collect()
    assert client.released == [A.id]


def test_those_in_the_value_of_one_that_was_pickled_are_noted():
    inner = ObjectRef(B.id, 5, inner=[new(7)])
    outer = ObjectRef(A.id, 5, inner=[inner, C])
    again = pickle.loads(pickle.dumps(outer))
    assert again.inner == (B, C)
    assert dumps_with_needs(again) == dumps_with_needs(outer)
    assert dumps_with_needs(again)[1] == (A.id, B.id, new(7).id, C.id)


def test_too_many_for_one_call_are_refused():
    many = [ObjectRef(new_object_id(), 1) for _ in range(MAX_NEEDS + 1)]
    assert len(dumps_with_needs(many[:-1])[1]) == MAX_NEEDS
    with pytest.raises(SerializationError, match=f"refers to {MAX_NEEDS + 1} objects"):
        dumps_with_needs(many)
    with pytest.raises(SerializationError, match=f"refers to {MAX_NEEDS + 1} objects"):
        dump_call(print, many, {}, FunctionCache())


@pytest.mark.parametrize("use", ["use_cloudpickle", "use_pickle", "use_dill"])
def test_a_call_with_references_and_plain_values(use):
    pytest.importorskip("dill")
    getattr(payload, use)()
    cache = FunctionCache()
    store = FunctionStore()
    for args in ((A,), (1, B, "x", A, None), (A, A), (A, np.arange(10_000)), ([A], B)):
        call = dump_call(max, args, {}, cache)
        assert call.needs == tuple(dict.fromkeys(one.id for one in _refs(args)))
        values = {A.id: memoryview(dumps_bytes("a")), B.id: memoryview(dumps_bytes("b"))}
        if call.digest:
            store.add(call.digest, call.blob)
        with resolving(values):
            func, loaded, _ = load_call(join(call.pieces), store, call.digest)
        assert func is max
        assert repr(loaded) == repr(_resolved(args))


def _refs(value):
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in _refs(item)]
    return [value] if isinstance(value, ObjectRef) else []


def _resolved(value):
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item) for item in value)
    return {A: "a", B: "b"}[value] if isinstance(value, ObjectRef) else value


def test_which_argument_was_freed_is_told():
    gone = new(4).bind(Client())
    gone.free()
    with pytest.raises(SerializationError, match=r"cannot send argument 2: .*it was freed"):
        dump_call(print, (A, gone), {}, FunctionCache())


@pytest.mark.parametrize("call", [lambda ref: (ref,), lambda ref: ([ref],)])
def test_what_refers_to_something_that_was_freed_cannot_be_sent(call):
    inner = new(7).bind(Client())
    outer = ObjectRef(A.id, 5, inner=[ObjectRef(B.id, 5, inner=[inner])])
    inner.free()
    with pytest.raises(SerializationError, match=f"{inner.id[:4].hex()}.*it was freed"):
        dump_call(print, call(outer), {}, FunctionCache())


def test_what_was_freed_cannot_be_sent():
    gone = new().bind(Client())
    gone.free()
    with pytest.raises(SerializationError, match="it was freed, so it cannot be sent"):
        dumps_with_needs([gone])
    with pytest.raises(
        SerializationError, match=r"cannot send argument 2\['x'\]: .*was freed"
    ) as raised:
        dump_call(print, (1, {"x": gone}), {}, FunctionCache())
    assert raised.value.path == "argument 2['x']", "and not somewhere in its client"
    assert loads(dumps_bytes(gone)) == gone, "outside of a call it is only a value"


# ---------------------------------------------------------------- replaced


class Objects(dict):
    """Payloads by id, which count how often they are asked for."""

    def __init__(self, values):
        super().__init__()
        self.loaded = []
        for key, value in values.items():
            self[key.id] = self.loader(key.id, dumps_bytes(value))

    def loader(self, object_id, data):
        def load():
            self.loaded.append(object_id)
            return memoryview(data)

        return load


def roundtrip(value, values):
    with resolving(values):
        return loads(join(dumps_with_needs(value)[0]))


nested = st.recursive(
    st.sampled_from([A, B, C]) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(nested)
def test_references_at_any_depth_become_their_values(value):
    def replaced(part):
        if isinstance(part, ObjectRef):
            return f"value {part.id[0]}"
        if isinstance(part, dict):
            return {key: replaced(item) for key, item in part.items()}
        return type(part)(map(replaced, part)) if isinstance(part, (list, tuple)) else part

    objects = Objects({one: f"value {one.id[0]}" for one in (A, B, C)})
    assert roundtrip(value, objects) == replaced(value)
    needs = dumps_with_needs(value)[1]
    assert sorted(objects.loaded) == sorted(needs), "each once, and none that is not needed"


def test_the_same_object_is_the_same_value():
    first, again, also = roundtrip([A, [A], ObjectRef(A.id, 7)], Objects({A: [1]}))
    assert first == [1]
    assert first is again[0] is also


def test_each_call_has_values_of_its_own():
    objects = Objects({A: [1]})
    roundtrip(A, objects).append(2)
    assert roundtrip(A, objects) == [1]


def test_arrays_are_views_of_the_memory_that_was_brought():
    memory = bytearray(dumps_bytes(np.arange(10_000)))
    again = roundtrip((A, 1), {A.id: memoryview(memory)})[0]
    assert np.shares_memory(again, np.frombuffer(memory, np.uint8))
    again[:] = 0
    read_only = memoryview(dumps_bytes(np.arange(10_000)))
    again = roundtrip((A, 1), {A.id: read_only})[0]
    again[:] = 0
    assert loads(read_only)[5] == 5


def test_values_may_hold_references_themselves():
    objects = Objects({A: {"b": B}, B: [C, C], C: "innermost"})
    assert roundtrip([A, B], objects) == [{"b": ["innermost"] * 2}, ["innermost"] * 2]
    assert objects.loaded == [A.id, B.id, C.id]


def test_an_object_that_refers_to_itself_is_an_error():
    with pytest.raises(SerializationError, match="refers to itself"):
        roundtrip(A, Objects({A: [B], B: [A]}))


def test_an_object_that_was_not_brought_is_an_error():
    with pytest.raises(SerializationError, match="<ObjectRef 02020202.*not brought") as caught:
        roundtrip([A, B], Objects({A: 1}))
    assert "UnknownObject" in str(caught.value)


def test_a_damaged_object_is_an_error_and_is_tried_again():
    data = [b"\x02nonsense", dumps_bytes(5)]
    with resolving({A.id: lambda: data.pop(0)}):
        with pytest.raises(SerializationError):
            loads(join(dumps([A])))
        assert loads(join(dumps([A]))) == [5]


def test_a_reference_may_take_the_place_of_another():
    bound = new().bind(Client())
    (again,) = roundtrip([ObjectRef(bound.id, 1)], {bound.id: bound})
    assert again is bound


def test_scopes_do_not_mix():
    inner = resolving(Objects({A: "inner"}))
    with resolving(Objects({A: "outer"})):
        assert loads(dumps_bytes(A)) == "outer"
        with inner:
            assert loads(dumps_bytes(A)) == "inner"
        assert loads(dumps_bytes(A)) == "outer"
    assert loads(dumps_bytes(A)) == A


def test_another_thread_does_not_resolve():
    seen = []
    with resolving(Objects({A: "value"})):
        thread = threading.Thread(target=lambda: seen.append(loads(dumps_bytes(A))))
        thread.start()
        thread.join()
    assert seen == [A]


# ---------------------------------------------------------------- calls


def total(first, *more, key=None):
    return first, more, key


def call(func, *args, values=None, store=None, **kwargs):
    message = dump_call(func, args, kwargs, FunctionCache())
    store = FunctionStore() if store is None else store
    if message.digest:
        store.add(message.digest, message.blob)
    with resolving(Objects(values or {})):
        func, args, kwargs = load_call(join(message.pieces), store, message.digest)
    return message, func(*args, **kwargs)


def test_arguments_become_values():
    message, result = call(total, A, [B], key={"c": A}, values={A: "a", B: "b"})
    assert message.needs == (A.id, B.id)
    assert result == ("a", (["b"],), {"c": "a"})


def test_a_call_without_references_needs_nothing():
    for args in ((1, 2), (np.zeros(3),), ([object],)):
        assert dump_call(total, args, {}, FunctionCache()).needs == ()


def test_the_function_itself_may_be_an_object():
    _, result = call(A, 1, 2, values={A: total})
    assert result == (1, (2,), None)


def test_functions_that_refer_to_objects_go_with_each_call():
    table = A

    def uses():
        table.append(1)
        return table

    cache, store = FunctionCache(), FunctionStore()
    for _ in range(3):
        message = dump_call(uses, (B,), {}, cache)
        assert message.digest == b""
        assert message.needs == (A.id, B.id)
        with resolving(Objects({A: [], B: 5})):
            func, args, _ = load_call(join(message.pieces), store, message.digest)
        assert func() == [1], "loaded anew for each call"
        assert args == (5,)
    assert len(store) == 0


def test_a_call_that_is_made_whole_keeps_its_needs():
    from ipkernel.serialize.calls import inlined

    cache = FunctionCache()
    dump_call(total, (), {}, cache)
    message = dump_call(total, (A,), {}, cache)
    assert message.digest
    whole = inlined(message)
    assert whole.needs == message.needs == (A.id,)
    with resolving(Objects({A: "a"})):
        func, args, _ = load_call(join(whole.pieces), FunctionStore())
    assert func(*args) == ("a", (), None)
