"""Secrets stay where they belong, and what is pickled is unpickled by engines and clients only."""

from __future__ import annotations

import base64
import json
import os
import re
import stat

import psutil
import pytest

import ipkernel
from ipkernel.cluster.cluster import Cluster
from ipkernel.errors import KernelError
from ipkernel.wire.furl import Furl
from tests.integration.faults_support import PATIENCE, wait_for

ROLES = ("client", "engine", "monitor", "admin")


def pickled_secrets(directory):
    """Return what nobody but the owner of the files may see."""
    secrets = {}
    for role in ROLES:
        secrets[role] = Furl.parse((directory / f"ipcontroller-{role}.furl").read_text()).swissnum
    kept = json.loads((directory / "ipcontroller.json").read_text())
    for name, value in _strings(kept):
        if len(value) >= 16:
            secrets[f"kept {name}"] = value
    pem = (directory / "ipcontroller.pem").read_text()
    key = re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", pem, re.DOTALL).group(1)
    secrets["key"] = key.split("\n")[1][:40]
    secrets["key bytes"] = base64.b64decode(key)[40:60].hex()
    return secrets


def _strings(value, name=""):
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{name}.{key}")


def use(rc):
    """Do a little of everything, errors included."""
    assert rc[:].apply_sync(abs, -1) == [1, 1]
    rc[:].push({"a": 5}, block=True)
    assert rc[:].pull("a", block=True) == [5, 5]
    rc[:].execute("print('hello')", block=True)
    assert rc.load_balanced_view().map_sync(abs, range(50)) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        rc[0].apply_sync(divmod, 1, 0)
    rc[0].apply_async(os._exit, 3).wait(PATIENCE)
    rc.wait_for_engines(2, timeout=PATIENCE)
    rc.status()
    rc.queue_status()


def test_no_secret_can_be_seen(tmp_path, capfd):
    """Not in command lines, environments, logs, records, texts of objects, or on the terminal."""
    cluster = Cluster(2, cluster_dir=tmp_path / "cluster_secret", log_level="DEBUG")
    seen = {}
    try:
        cluster.start_cluster_sync()
        security = cluster.directory.security
        secrets = pickled_secrets(security)
        with cluster.connect_client_sync() as rc:
            use(rc)
            refused = {}
            for role in ("engine", "monitor", "admin"):
                with pytest.raises(KernelError) as info:
                    ipkernel.Client(str(Furl.parse(cluster.directory.furl_file(role).read_text())))
                refused[role] = repr(info.value) + str(info.value.__dict__)
            processes = [psutil.Process(cluster.controller.pid)]
            daemon = psutil.Process(cluster.engine_set.launcher.pid)
            processes += [daemon, *daemon.children(recursive=True)]
            assert len(processes) == 5
            for process in processes:
                seen[f"arguments of {process}"] = " ".join(process.cmdline())
                seen[f"environment of {process}"] = str(process.environ())
            seen["environment of an engine's task"] = str(
                rc[0].apply_sync(lambda: dict(os.environ))
            )
            furl = Furl.parse(cluster.directory.furl_file("client").read_text())
            seen["texts"] = " ".join(
                map(repr, [rc, rc._place, rc._connection, rc._session, cluster, furl, rc[:]])
            ) + str(cluster.to_dict())
            seen["errors"] = str(refused)
            seen["status"] = repr(rc.status()) + str(rc.engine_infos())
    finally:
        cluster.stop_cluster_sync()
    seen["terminal"] = str(capfd.readouterr())
    private = set()
    assert stat.S_IMODE(cluster.directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(security.stat().st_mode) == 0o700
    for path in cluster.directory.path.rglob("*"):
        if path.parent == security:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        if path.is_file():
            if path.parent == security:
                private.add(path.name)
            else:
                seen[str(path)] = path.read_bytes().decode("latin-1")
    assert private >= {"ipcontroller.pem", "ipcontroller.json", "ipcontroller-client.furl"}
    assert any("log" in name for name in seen)
    for where, text in seen.items():
        for what, secret in secrets.items():
            assert secret not in text, f"{what} stands in: {where}"


SITE = """
import os, sys
_main = " ".join(sys.orig_argv)
if "ipkernel.cli.ipcontroller" in _main or "ipkernel.cli.ipdaemon" in _main:
    import _pickle, pickle

    def _record(what):
        import traceback
        with open(os.path.join({record!r}, f"{{what}}-{{os.getpid()}}"), "a") as file:
            file.write("".join(traceback.format_stack()))
        raise RuntimeError("a server process has unpickled something")

    def loads(*args, **kwargs):
        _record("loads")

    class Unpickler(_pickle.Unpickler):
        def __init__(self, *args, **kwargs):
            _record("Unpickler")

    for module in (pickle, _pickle):
        module.loads = module.load = loads
        module.Unpickler = Unpickler
    pickle._loads = pickle._load = loads
    pickle._Unpickler = Unpickler
    open(os.path.join({record!r}, f"watched-{{os.getpid()}}"), "w").close()
"""


def test_controller_and_daemon_never_unpickle(tmp_path):
    """Both run with an unpickler that tells on them and fails."""
    record = tmp_path / "record"
    site = tmp_path / "site"
    for directory in (record, site):
        directory.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(record=str(record)))
    cluster = Cluster(
        2,
        cluster_dir=tmp_path / "cluster_pickle",
        environment={"PYTHONPATH": f"{site}{os.pathsep}{os.environ['PYTHONPATH']}"},
    )
    try:
        cluster.start_cluster_sync()
        pids = [cluster.controller.pid, cluster.engine_set.launcher.pid]
        with cluster.connect_client_sync() as rc:
            use(rc)
            view = rc.load_balanced_view()
            with view.temp_flags(retries=1):
                view.apply_async(os._exit, 3).wait(PATIENCE)
            rc.wait_for_engines(2, timeout=PATIENCE)
            big = bytes(20 << 20)
            assert rc[0].apply_sync(len, big) == len(big)
            assert rc[:].apply_sync(lambda: big[:3]) == [bytes(3)] * 2
            with pytest.raises(SyntaxError):
                rc[0].execute("1 +", block=True)
            # engines may, of course, unpickle
            code = "import pickle\nvalue = pickle.loads(pickle.dumps({'a': [1]}))"
            rc[0].execute(code, block=True)
            assert rc[0].pull("value", block=True) == {"a": [1]}
            with pytest.raises(KernelError, match="boom"):
                rc[0].apply_sync(exec, "raise OSError('boom')")
            rc.shutdown(0, restart=True)
            wait_for(lambda: rc[0].apply_async(abs, -1).get(PATIENCE) == 1)
        cluster.status()
    finally:
        cluster.stop_cluster_sync()
    assert sorted(os.listdir(record)) == sorted(f"watched-{pid}" for pid in pids)
