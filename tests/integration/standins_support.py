"""Clusters with stand-ins for controller and host daemon."""

from __future__ import annotations

import pytest

from tests.integration.clusters_support import clusters, home
from tests.integration.standins import Controller, Host

__all__ = ["home", "make"]


@pytest.fixture
def make(home):
    with clusters(controller=Controller, engines=Host) as make:
        yield make
