"""The exceptions: their tree, texts, pickles, and errors that are also of the original type."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from ipkernel import errors
from ipkernel.errors import (
    AlreadyDisplayedError,
    CompositeError,
    EngineLost,
    HostLost,
    RemoteError,
    SerializationError,
    collect_exceptions,
    remote_error,
)
from ipkernel.serialize.failure import ErrorInfo, describe

CLASSES = [
    value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.IPythonError)
]


def entry(ename="ValueError", evalue="bad", engine=0, tb="Traceback"):
    return (ename, evalue, tb, {"engine": engine, "method": "apply"})


def capture(make):
    try:
        make()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def over(exc, **info):
    """Send an exception over: describe it and make it again."""
    return remote_error(describe(exc, engine_info={"engine": 1, **info}))


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("KernelError", "IPythonError"),
        ("EngineError", "KernelError"),
        ("NoEnginesRegistered", "KernelError"),
        ("TaskAborted", "KernelError"),
        ("TaskRejectError", "KernelError"),
        ("TaskTimeout", "KernelError"),
        ("UnmetDependency", "KernelError"),
        ("ImpossibleDependency", "UnmetDependency"),
        ("DependencyTimeout", "ImpossibleDependency"),
        ("InvalidDependency", "ImpossibleDependency"),
        ("RemoteError", "KernelError"),
        ("CompositeError", "RemoteError"),
        ("AlreadyDisplayedError", "RemoteError"),
        ("ControllerLost", "KernelError"),
        ("HostLost", "EngineError"),
        ("EngineLost", "EngineError"),
        ("ConnectError", "KernelError"),
        ("LauncherError", "KernelError"),
        ("SecurityError", "KernelError"),
    ],
)
def test_the_tree_is_the_one_users_know(child, parent):
    assert getattr(errors, parent) in getattr(errors, child).__bases__


def test_timeouts_are_the_builtin_and_bad_ids_are_index_errors():
    assert errors.TimeoutError is TimeoutError
    assert issubclass(errors.InvalidEngineID, IndexError)


def test_everything_public_is_exported():
    names = {cls.__name__ for cls in CLASSES} | {"TimeoutError"}
    assert names == {n for n in errors.__all__ if n[0].isupper()}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("protocol", [2, 5])
def test_all_can_be_pickled(cls, protocol):
    if cls is CompositeError:
        exc = cls("failed", [entry()])
    elif cls is AlreadyDisplayedError:
        exc = cls(RemoteError("ValueError", "bad"))
    elif cls is RemoteError:
        exc = cls("ValueError", "bad", "tb", {"engine": 1})
    else:
        exc = cls("a message")
    again = pickle.loads(pickle.dumps(exc, protocol))
    assert type(again) is cls
    assert str(again) == str(exc)
    assert again.args == exc.args


def test_attributes_survive_pickling():
    exc = SerializationError("cannot", path="a.b", reason="TypeError")
    exc.extra = [1]
    again = pickle.loads(pickle.dumps(exc))
    assert (again.path, again.reason, again.extra) == ("a.b", "TypeError", [1])


def test_an_engine_killed_by_a_signal_says_it_all():
    exc = EngineLost(
        engine=3,
        host="nodea",
        pid=812,
        signal=11,
        uptime=12.34,
        memory=3 * 2**30 // 2,
        last_output=["one", "two"],
    )
    text = str(exc)
    assert text.startswith(
        "engine 3 on nodea (pid 812) was killed by signal 11 (SIGSEGV) after 12.3 s"
    )
    assert "1.5 GiB" in text
    assert text.endswith("its last output was:\n    one\n    two")
    again = pickle.loads(pickle.dumps(exc))
    assert (again.engine, again.signal, again.exitcode) == (3, 11, None)
    assert again.last_output == ("one", "two")
    assert str(again) == text


def test_an_engine_that_exited_says_its_code():
    assert str(EngineLost(engine=0, exitcode=7, uptime=7500)) == (
        "engine 0 exited with code 7 after 2 h 5 min"
    )
    assert str(EngineLost(engine=0, exitcode=0, uptime=130)).endswith("after 2 min 10 s")
    assert str(EngineLost()) == "an engine was lost"
    assert "signal 250" in str(EngineLost(signal=250))
    assert str(EngineLost("my own words", engine=1)) == "my own words"
    assert "512 bytes" in str(EngineLost(memory=512))
    assert "2.0 TiB" in str(EngineLost(memory=2 * 2**40))


def test_a_lost_host_names_its_engines():
    exc = HostLost(host="b", reason="no answer for 30 s", engines=[0, 1, 2, 7])
    assert str(exc) == "the connection to host b was lost with engines 0-2, 7: no answer for 30 s"
    assert pickle.loads(pickle.dumps(exc)).engines == (0, 1, 2, 7)


# ---------------------------------------------------------------- RemoteError


def test_remote_error_says_where_and_what(capsys):
    exc = RemoteError("ValueError", "bad", ["line 1", "line 2"], {"engine": 1})
    assert str(exc) == "[engine 1] ValueError: bad"
    assert exc.render_traceback() == ["line 1", "line 2"]
    assert exc._render_traceback_() == ["[1:apply]: ", "line 1", "line 2"]
    exc.print_traceback()
    assert capsys.readouterr().out == "line 1\nline 2\n"
    assert exc.original is None


def test_remote_error_without_details():
    exc = RemoteError("KeyboardInterrupt", "")
    assert str(exc) == "KeyboardInterrupt"
    assert exc.render_traceback() == ["KeyboardInterrupt"]
    assert exc._render_traceback_(None) == ["KeyboardInterrupt"]


def test_the_engine_id_is_found_under_its_old_name_too():
    assert str(RemoteError("E", "x", "", {"engine_id": 0})) == "[engine 0] E: x"


def test_a_plain_python_shows_the_remote_traceback():
    import traceback

    exc = RemoteError("ValueError", "bad", "the remote lines", {"engine": 1})
    assert "the remote lines" in "".join(traceback.format_exception(exc))


class Custom(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.a = a
        self.b = b


class Odd(Exception):
    """Its attributes cannot be set, and its text is an accident."""

    def __setattr__(self, name, value):
        raise AttributeError("frozen")

    def __str__(self):
        raise RuntimeError("no text")


class Slotted(ValueError):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__()
        self.code = code


class Refuses(Exception):
    def __init_subclass__(cls):
        raise TypeError("final")


class OwnPickle(Exception):
    def __init__(self, text, level):
        super().__init__(text)
        self.level = level

    def __reduce__(self):
        return OwnPickle, (self.args[0], self.level)


class OwnError(OSError):
    def __init__(self, message, where):
        super().__init__(5, message)
        self.where = where


def bad_decode():
    b"\xff".decode("utf-8")


def bad_syntax():
    compile("a b", "<it>", "exec")


@pytest.mark.parametrize(
    "make",
    [
        lambda: 1 / 0,
        lambda: {}["a"],
        lambda: [].pop(),
        lambda: open("/nonexistent/file"),
        bad_decode,
        bad_syntax,
        lambda: next(iter(())),
        lambda: __import__("no_such_module_at_all"),
        lambda: object().nothing,
        lambda: undefined_name,  # noqa: F821
        lambda: int("x"),
        lambda: (_ for _ in ()).throw(Custom(1, 2)),
        lambda: (_ for _ in ()).throw(Slotted(9)),
        lambda: (_ for _ in ()).throw(Odd("odd")),
        lambda: (_ for _ in ()).throw(OwnPickle("t", 3)),
        lambda: (_ for _ in ()).throw(OwnError("m", "w")),
        lambda: (_ for _ in ()).throw(TimeoutError("late")),
        lambda: (_ for _ in ()).throw(RecursionError("deep")),
        lambda: (_ for _ in ()).throw(ExceptionGroup("many", [ValueError(1), KeyError("k")])),
        lambda: (_ for _ in ()).throw(errors.UnmetDependency("no gpu")),
        lambda: (_ for _ in ()).throw(errors.TaskRejectError("not here")),
        lambda: (_ for _ in ()).throw(EngineLost(engine=3, pid=5)),
    ],
)
def test_remote_errors_are_also_of_the_original_type(make):
    original = capture(make)
    exc = over(original)
    assert isinstance(exc, RemoteError)
    assert isinstance(exc, type(original))
    assert type(exc).__name__ == f"Remote{type(original).__name__}"
    if not isinstance(original, ExceptionGroup):
        assert exc.args == original.args
    assert exc.ename == type(original).__name__
    assert str(exc).startswith(f"[engine 1] {exc.ename}")
    assert type(exc.original) is type(original)
    again = pickle.loads(pickle.dumps(exc))
    assert type(again) is type(exc)
    assert str(again) == str(exc)
    assert str(copy.copy(exc)) == str(exc)
    with pytest.raises(type(original)):
        raise exc


def test_attributes_of_builtin_types_are_there():
    exc = over(capture(lambda: open("/nonexistent/file")))
    assert isinstance(exc, FileNotFoundError)
    assert (exc.errno, exc.filename) == (2, "/nonexistent/file")
    exc = over(capture(bad_decode))
    assert (exc.encoding, exc.object, exc.start, exc.end) == ("utf-8", b"\xff", 0, 1)
    exc = over(capture(bad_syntax))
    assert (exc.filename, exc.lineno, exc.text) == ("<it>", 1, "a b\n")
    exc = over(capture(lambda: __import__("no_such_module_at_all")))
    assert exc.name == "no_such_module_at_all"
    stop = StopIteration(42)
    assert over(stop).value == 42


def test_attributes_of_own_types_are_there():
    exc = over(Custom(1, 2))
    assert (exc.a, exc.b, exc.args) == (1, 2, ("1-2",))
    assert over(Slotted(9)).code == 9
    assert over(OwnPickle("t", 3)).level == 3
    exc = over(OwnError("m", "w"))
    assert (exc.where, exc.errno, exc.strerror) == ("w", 5, "m")
    assert over(EngineLost(engine=3)).engine == 3


def test_the_text_of_a_key_error_is_the_remote_form():
    assert str(over(KeyError("a"))) == "[engine 1] KeyError: 'a'"


def test_groups_keep_their_members():
    exc = over(ExceptionGroup("many", [ValueError(1), KeyError("k")]))
    assert [type(e) for e in exc.exceptions] == [ValueError, KeyError]
    caught = []
    try:
        raise exc
    except* ValueError as group:
        caught.append(group)
    except* KeyError:
        pass
    assert len(caught) == 1


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_is_no_exception_proper_stays_plain(exc):
    made = over(exc)
    assert type(made) is RemoteError
    assert made.ename == type(exc).__name__


def test_a_type_that_refuses_subclasses_stays_plain():
    made = over(Refuses("x"))
    assert type(made) is RemoteError
    assert isinstance(made.original, Refuses)
    assert pickle.loads(pickle.dumps(made)).evalue == "x"


def test_a_remote_error_of_an_engine_stays_plain():
    inner = RemoteError("ValueError", "inner", "", {"engine": 9})
    made = over(inner)
    assert type(made) is RemoteError
    assert made.ename == "RemoteError"
    assert "inner" in made.evalue


def test_damaged_pickles_give_the_plain_form():
    info = ErrorInfo("ValueError", "x", ["t"], [], b"\x01nonsense", {})
    assert type(remote_error(info)) is RemoteError
    # A pickle of something else is not an exception either.
    info = ErrorInfo("ValueError", "x", ["t"], [], b"\x01" + pickle.dumps(3), {})
    assert type(remote_error(info)) is RemoteError


def test_the_combined_type_is_made_once():
    assert type(over(ValueError(1))) is type(over(ValueError(2)))


# ---------------------------------------------------------------- CompositeError


def test_identical_errors_are_shown_once():
    exc = CompositeError(
        "failed", [entry(engine=i) for i in range(5)] + [entry("KeyError", "'a'", 9)]
    )
    lines = str(exc).splitlines()
    assert lines == [
        "failed",
        "[0:apply]: ValueError: bad  (4 more like this, on 1-4)",
        "[9:apply]: KeyError: 'a'",
    ]
    assert len(exc) == 6


def test_only_so_many_different_errors_are_shown():
    exc = CompositeError("failed", [entry(evalue=str(i), engine=i) for i in range(7)])
    assert str(exc).splitlines()[-1] == "... and 3 more exceptions"
    assert len(str(exc).splitlines()) == 1 + CompositeError.tb_limit + 1
    exc.tb_limit = 6
    assert str(exc).splitlines()[-1] == "... and 1 more exception"


def test_errors_without_an_engine_are_numbered():
    exc = CompositeError("failed", [("E", "x", None, None), ("F", "y", ["a", "b"], {})])
    assert str(exc).splitlines()[1:] == ["[0:apply]: E: x", "[1:apply]: F: y"]
    assert exc.elist[1] == ("F", "y", "a\nb", {})


def test_tracebacks_of_one_and_of_all(capsys):
    exc = CompositeError(
        "failed", [entry(tb="A1\nA2"), entry("KeyError", "k", 1, ""), entry(engine=2)]
    )
    assert exc.render_traceback(0) == ["[0:apply]: ", "A1", "A2"]
    assert exc.render_traceback(1) == ["[1:apply]: ", "KeyError: k"]
    everything = exc.render_traceback()
    assert everything.count("[0:apply]: ") == 1
    assert "(1 more like this, on 2)" in everything
    assert exc._render_traceback_() == everything
    exc.print_traceback(1)
    assert capsys.readouterr().out == "[1:apply]: \nKeyError: k\n"
    for bad in (3, -4):
        with pytest.raises(IndexError, match="there are 3"):
            exc.render_traceback(bad)


def test_one_of_them_can_be_raised():
    exc = CompositeError("failed", [entry(), entry("KeyError", "k", 1)])
    with pytest.raises(RemoteError, match="KeyError"):
        exc.raise_exception(1)
    with pytest.raises(RemoteError, match="ValueError"):
        exc.raise_exception()
    with pytest.raises(IndexError):
        exc.raise_exception(2)


def test_composite_survives_pickling_with_its_errors():
    with pytest.raises(CompositeError) as info:
        collect_exceptions([over(ZeroDivisionError("z"))])
    again = pickle.loads(pickle.dumps(info.value))
    assert str(again) == str(info.value)
    assert again.elist == info.value.elist
    with pytest.raises(ZeroDivisionError):
        again.raise_exception(0)


# ---------------------------------------------------------------- collect_exceptions


@pytest.mark.parametrize("results", [[], [1, 2], {"a": 1}, (ValueError("a value"),)])
def test_results_without_errors_pass(results):
    assert collect_exceptions(results) is results


def test_errors_are_collected_and_composites_flattened():
    nested = CompositeError("inner", [entry("A", "1"), entry("B", "2", 1)])
    results = [1, over(ZeroDivisionError("z")), nested, EngineLost(engine=4), 2]
    with pytest.raises(CompositeError) as info:
        collect_exceptions(results, "map")
    exc = info.value
    assert [e[0] for e in exc.elist] == ["ZeroDivisionError", "A", "B", "EngineLost"]
    assert exc.elist[3][3]["engine"] == 4
    assert str(exc).splitlines()[-1] == "[4]: EngineLost: engine 4 was lost"
    assert str(exc).startswith("one or more exceptions raised in: map\n")
    with pytest.raises(ZeroDivisionError):
        exc.raise_exception(0)
    with pytest.raises(EngineLost):
        exc.raise_exception(3)


def test_the_values_of_a_mapping_are_looked_at():
    with pytest.raises(CompositeError):
        collect_exceptions({0: 1, 1: RemoteError("E", "x")})


def test_an_error_shown_already_is_not_shown_again():
    shown = RemoteError("E", "x", "tb", {"engine": 1})
    exc = AlreadyDisplayedError(shown)
    assert exc._render_traceback_() == []
    assert exc.original_error is shown
    assert str(exc) == str(shown)
