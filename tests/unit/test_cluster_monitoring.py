"""A controller that is asked while it is started again; nobody listens."""

import pytest

from ipkernel.cluster import monitoring as module
from ipkernel.cluster import restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConnectError


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_x").create()


@pytest.fixture
def asked(monkeypatch):
    """How often it was asked; it answers the third time."""
    times = []

    def ask(*arguments):
        times.append(arguments)
        if len(times) < 3:
            raise ConnectError("nobody listens")
        return "an answer"

    monkeypatch.setattr(module, "_ask", ask)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    return times


def test_one_that_is_started_again_is_waited_for(directory, asked):
    restarting.note(directory, restarting.Restart())
    assert module.status(directory) == "an answer"
    assert len(asked) == 3


@pytest.mark.parametrize("note", [None, restarting.Restart(again=False)])
def test_one_that_is_not_is_not(directory, asked, note):
    if note is not None:
        restarting.note(directory, note)
    with pytest.raises(ConnectError, match="nobody listens"):
        module.status(directory)
    assert len(asked) == 1


def test_not_for_ever(directory, asked, monkeypatch):
    monkeypatch.setattr(module, "_BACK", -1.0)
    restarting.note(directory, restarting.Restart())
    with pytest.raises(ConnectError, match="nobody listens"):
        module.status(directory)
    assert len(asked) == 1
