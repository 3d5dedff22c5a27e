"""The names that users of this field know: each is there, or the documentation says what is instead."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import ipkernel
from ipkernel.client.asyncresult import AsyncResult
from ipkernel.client.client import Client
from ipkernel.client.executor import ViewExecutor
from ipkernel.client.view import BroadcastView, DirectView, LoadBalancedView
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.manager import ClusterManager

PAGE = (Path(__file__).resolve().parents[2] / "docs/coming-from.rst").read_text(encoding="utf-8")

TOP = """
    Client Cluster ClusterManager DirectView LoadBalancedView BroadcastView ViewExecutor AsyncResult
    AsyncMapResult AsyncHubResult RemoteFunction ParallelFunction Dependency depend dependent Reference
    PrePickled remote parallel require interactive use_dill use_cloudpickle use_pickle can uncan can_map
    uncan_map serialize_object deserialize_object pack_apply_message unpack_apply_message bind_kernel
    register_joblib_backend collect_exceptions wrap_exception unwrap_exception
    load_jupyter_server_extension ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION version_info __version__
    error
"""
ERRORS = """
    IPythonError KernelError EngineError NoEnginesRegistered TaskAborted TaskRejectError TaskTimeout
    UnmetDependency ImpossibleDependency DependencyTimeout InvalidDependency RemoteError CompositeError
    AlreadyDisplayedError TimeoutError
"""
VIEW = """
    set_flags temp_flags apply apply_async apply_sync map map_async map_sync imap remote parallel wait abort
    queue_status purge_results shutdown get_result executor spin
"""
MEMBERS = {
    Client: """
        ids outstanding history results metadata cluster session profile direct_view load_balanced_view
        broadcast_view executor activate wait wait_interactive wait_for_engines abort clear send_signal
        shutdown queue_status result_status get_result resubmit hub_history db_query purge_results
        purge_local_results purge_hub_results purge_everything become_dask stop_dask become_distributed
        stop_distributed send_apply_request send_execute_request create_message_futures spin spin_thread
        stop_spin_thread close _ids _engines _build_targets _outstanding_dict
    """,
    Cluster: """
        start_controller start_engines start_cluster start_and_connect stop_controller stop_engines
        stop_cluster restart_engines signal_engines stop_engine restart_engine signal_engine
        connect_client start_controller_sync start_engines_sync start_cluster_sync
        start_and_connect_sync stop_controller_sync stop_engines_sync stop_cluster_sync
        restart_engines_sync signal_engines_sync connect_client_sync to_dict from_dict from_file
        write_cluster_file update_cluster_file remove_cluster_file
    """,
    ClusterManager: "load_clusters new_cluster get_cluster remove_cluster",
    DirectView: f"""{VIEW}
        execute run get update push pull clear scatter gather sync_imports importer use_dill
        use_cloudpickle use_pickle activate
    """,
    BroadcastView: f"{VIEW} execute run get update push pull clear scatter gather",
    LoadBalancedView: f"{VIEW} register_joblib_backend",
    ViewExecutor: "submit map shutdown",
    AsyncResult: """
        get wait ready successful r result_dict get_dict abort split join sent wait_for_send stream_output
        wait_for_output display_outputs wait_interactive progress elapsed serial_time wall_time timedelta
        msg_ids metadata owner result exception done cancel add_done_callback
    """,
}


def missing() -> set[str]:
    """Return the names of which the page says that they are missing."""
    table = PAGE[PAGE.index("    * - Missing\n") :].partition("\n\n")[0]
    return {
        name
        for cell in re.findall(r"(?m)^    \* - (.*)$", table)
        for name in re.findall(r"``(\w+)``", cell)
    }


def test_names_of_the_package():
    lost = {name for name in TOP.split() + ERRORS.split() if not hasattr(ipkernel, name)}
    assert lost <= missing()
    assert all(hasattr(ipkernel.error, name) for name in ERRORS.split())


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda kind: kind.__name__)
def test_names_of_a_class(kind):
    made = set(dir(kind)) | set(re.findall(r"self\.(\w+)\b.* = ", _source(kind)))
    lost = {name for name in MEMBERS[kind].split() if name not in made}
    assert lost <= missing()


def _source(kind: type) -> str:
    """Return the text of the modules in which a class and its bases are."""
    modules = {base.__module__ for base in kind.__mro__ if base.__module__.startswith("ipkernel")}
    files = [importlib.import_module(name).__file__ for name in sorted(modules)]
    return "".join(Path(file).read_text(encoding="utf-8") for file in files)


def test_what_is_said_to_be_missing_is():
    for name in missing():
        assert not hasattr(ipkernel, name)
        assert not any(hasattr(kind, name) for kind in MEMBERS)


@pytest.mark.parametrize(
    ("module", "name", "where"),
    [
        ("client.client", "Client", "client.client"),
        ("client.view", "LazyMapIterator", "client.mapping"),
        ("client.asyncresult", "AsyncResult", "client.result"),
        ("client.remotefunction", "RemoteFunction", "client.remotefunction"),
        ("cluster", "Cluster", "cluster.cluster"),
        ("error", "CompositeError", "errors"),
        ("util", "interactive", "serialize.functions"),
        ("serialize", "serialize_object", "serialize.compat"),
        ("datapub", "publish_data", "engine.current"),
    ],
)
def test_modules_that_users_import(module, name, where):
    known, ours = (importlib.import_module(f"ipkernel.{one}") for one in (module, where))
    assert getattr(known, name) is getattr(ours, name)
