"""The namespace of an engine."""

from __future__ import annotations

import types
from collections.abc import Iterator

import pytest

from ipkernel.engine.namespace import UserNamespace
from ipkernel.serialize.namespace import set_namespace


@pytest.fixture
def namespace() -> Iterator[UserNamespace]:
    yield UserNamespace()
    set_namespace(None)


def test_it_is_empty_for_the_user(namespace: UserNamespace) -> None:
    assert namespace.keys() == []
    assert namespace.names["__name__"] == "__main__"
    assert isinstance(namespace.module, types.ModuleType)


def test_push_pull_and_keys(namespace: UserNamespace) -> None:
    namespace.push({"b": 2, "a": [1]})
    assert namespace.keys() == ["a", "b"]
    assert namespace.pull(["a", "b", "a[0] + b"]) == [[1], 2, 3]


def test_a_dotted_name_sets_an_attribute(namespace: UserNamespace) -> None:
    namespace.push({"a": types.SimpleNamespace()})
    namespace.push({"a.x": 5})
    assert namespace.pull(["a.x"]) == [5]
    with pytest.raises(NameError, match="nothing"):
        namespace.push({"nothing.x": 5})


@pytest.mark.parametrize("name", ["", "a b", "1a", "a..b", "a[0]", 3])
def test_impossible_names_are_refused(namespace: UserNamespace, name: object) -> None:
    with pytest.raises(ValueError, match="not a name"):
        namespace.push({name: 1})
    assert namespace.keys() == []


def test_an_unknown_name_is_a_name_error(namespace: UserNamespace) -> None:
    with pytest.raises(NameError, match="'nothing'"):
        namespace.pull(["nothing"])


def test_what_is_seeded_is_hidden_until_the_user_replaces_it(namespace: UserNamespace) -> None:
    namespace.names["helper"] = helper = object()
    namespace.names["_i3"] = "history"
    namespace.names["__"] = 1
    namespace.hide(["helper", "missing"])
    assert namespace.keys() == []
    namespace.push({"helper": 1})
    assert namespace.keys() == ["helper"]
    namespace.clear()
    assert namespace.keys() == []
    assert namespace.names["helper"] is helper


def test_clear_keeps_the_builtins(namespace: UserNamespace) -> None:
    namespace.push({"a": 1, "print": 2})
    namespace.clear()
    assert namespace.keys() == []
    assert namespace.pull(["len([1])"]) == [1]
    assert namespace.names["__name__"] == "__main__"
