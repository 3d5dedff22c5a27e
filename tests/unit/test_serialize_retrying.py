"""Functions whose calls are to be run again after some exceptions."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from threading import Lock
from typing import Any

import cloudpickle
import pytest

from ipkernel.errors import SerializationError, UnmetDependency
from ipkernel.serialize.cache import FunctionCache
from ipkernel.serialize.calls import dump_call
from ipkernel.serialize.dependent import dependent
from ipkernel.serialize.retrying import Retry, Retrying


def fails(error: Exception) -> None:
    raise error


def test_what_it_names_is_told_with_the_users_frames_alone() -> None:
    error = FileNotFoundError("there is none")
    with pytest.raises(Retry) as caught:
        Retrying(fails, (OSError, KeyError))(error)
    assert caught.value.error is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fails"]


@pytest.mark.parametrize("error", [ValueError("another"), UnmetDependency("not here")])
def test_all_else_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        Retrying(fails, (OSError,))(error)
    with pytest.raises(UnmetDependency):
        Retrying(fails, (Exception,))(UnmetDependency("not here"))


def test_results_are_those_of_the_function() -> None:
    assert Retrying(divmod, (Exception,))(7, 2) == (3, 1)
    assert Retrying(int, (Exception,))("11", base=3) == 4


def test_its_name_is_that_of_the_function() -> None:
    assert Retrying(fails, ()).__name__ == "fails"
    assert Retrying(Retrying(fails, ()), ()).__name__ == "fails"


def test_a_callable_without_a_name() -> None:
    class Adds:
        def __call__(self, x: int) -> int:
            return x + 1

    assert Retrying(Adds(), ()).__name__ == "Adds"


def test_an_exception_of_the_users_own_is_the_same_on_an_engine() -> None:
    class Busy(Exception):
        pass

    def busy() -> None:
        raise Busy

    copy = cloudpickle.loads(cloudpickle.dumps(Retrying(busy, (Busy,))))
    with pytest.raises(Retry):
        copy()


@pytest.mark.parametrize(
    "wrapped", [lambda f: Retrying(f, (OSError,)), lambda f: dependent(f, bool)], ids=["", "depend"]
)
def test_a_function_that_cannot_be_sent_is_named_as_ever(
    wrapped: Callable[[Callable[..., Any]], Any],
) -> None:
    lock = Lock()

    def holds() -> object:
        return lock

    told = [_told(holds), _told(wrapped(holds))]
    assert told[0] == told[1]
    assert "holds" in told[0]


def test_the_wrapper_is_to_blame_if_the_function_is_not() -> None:
    assert "cannot pickle" in _told(dependent(fails, bool, Lock()))


def _told(function: Callable[..., Any]) -> str:
    with pytest.raises(SerializationError) as caught:
        dump_call(function, (), {}, FunctionCache())
    return str(caught.value)
