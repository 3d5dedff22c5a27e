"""Who starts a cluster, if several want to."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from ipkernel.cluster.claiming import claim
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ClusterError


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "big").create()


def test_a_claim_lasts_until_it_is_given_up(directory):
    file = claim(directory)
    assert file is not None
    path = directory.state / "starting.json"
    content = json.loads(path.read_bytes())
    assert content["pid"] == os.getpid()
    parent = psutil.Process(os.getppid())
    content |= {"pid": parent.pid, "started": parent.create_time()}
    path.write_text(json.dumps(content))
    with pytest.raises(
        ClusterError, match=f"big is being started already, by process {parent.pid}: w"
    ):
        claim(directory)
    path.write_text(json.dumps(content | {"host": "far.invalid"}))
    with pytest.raises(ClusterError, match=f"on host far.invalid: wait .* remove {path}"):
        claim(directory)
    path.write_text(json.dumps(content | {"started": 1.0}))  # it is gone
    file = claim(directory)
    assert file is not None
    file.remove()
    assert os.listdir(directory.state) == []


def test_where_nothing_can_be_written_others_find_out(directory):
    directory.state.rmdir()
    assert claim(directory) is None
