"""A client's ``__main__`` and an engine, for the tests of functions and calls."""

from __future__ import annotations

import pytest

from ipkernel.serialize import payload
from ipkernel.serialize.functions import (
    FunctionCache,
    FunctionStore,
    dump_call,
    load_call,
    set_namespace,
)

__all__ = ["Engine", "Main", "engine", "no_namespace", "ns"]


@pytest.fixture(autouse=True)
def no_namespace():
    set_namespace(None)
    yield
    set_namespace(None)


@pytest.fixture
def ns():
    space = {}
    set_namespace(space)
    return space


class Main:
    """A stand-in for the ``__main__`` of a client."""

    def __init__(self, source=""):
        self.ns = {"__name__": "__main__"}
        self.run(source)

    def run(self, source, filename="<main>"):
        exec(compile(source, filename, "exec", dont_inherit=True), self.ns)
        return self

    def __getitem__(self, name):
        return self.ns[name]

    def __setitem__(self, name, value):
        self.ns[name] = value


class Engine:
    """What a client and one engine do for a call."""

    def __init__(self):
        self.cache = FunctionCache()
        self.store = FunctionStore()
        self.sent = []

    def load(self, func, *args, **kwargs):
        call = dump_call(func, args, kwargs, self.cache)
        if call.digest and call.digest not in self.store:
            self.store.add(call.digest, call.blob)
        self.sent.append(call)
        return load_call(payload.join(call.pieces), self.store, call.digest)

    def call(self, func, *args, **kwargs):
        func, args, kwargs = self.load(func, *args, **kwargs)
        return func(*args, **kwargs)


@pytest.fixture
def engine(ns):
    return Engine()
