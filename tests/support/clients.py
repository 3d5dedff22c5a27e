"""Fixtures of tests of the client: a controller in memory, a client of it, a load-balanced view."""

from __future__ import annotations

import pytest

from ipkernel.wire.messages import Submit
from tests.support.fakecontroller import FakeController

__all__ = ["fake", "far", "lv", "near", "rc", "submits"]


@pytest.fixture
def fake():
    """A controller with three engines; modules of tests may have another one."""
    return FakeController(engines=3)


@pytest.fixture
def rc(fake):
    with fake.client() as client:
        yield client


@pytest.fixture
def lv(rc):
    return rc.load_balanced_view()


@pytest.fixture
def near():
    """A controller with a host on the client's machine, and the client."""
    yield from _moving(FakeController(2))


@pytest.fixture
def far():
    """A controller with its host elsewhere, and the client."""
    yield from _moving(FakeController(2, near=False))


def _moving(fake):
    with fake.client() as client:
        client.progress = False
        yield fake, client


def submits(fake):
    """The tasks that the controller was sent."""
    return [m for m in fake.messages if isinstance(m, Submit)]
