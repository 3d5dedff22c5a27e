"""Interactive parallel computing in Python: a controller, host daemons, engines and clients.

Everything that a user needs is importable from here::

    import ipkernel as ipp

    with ipp.Cluster(n=4) as rc:
        print(rc[:].map_sync(lambda x: x * x, range(16)))

The names are looked up when they are first used, so ``import ipkernel`` itself loads neither
Twisted nor Foolscap nor IPython.
"""

from __future__ import annotations

from importlib import import_module

from ipkernel._version import __version__, version_info

TYPE_CHECKING = False  # as typing has it, which takes as long to load as all else here
if TYPE_CHECKING:
    from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

    from ipkernel import errors as error
    from ipkernel.client.asyncresult import AsyncHubResult, AsyncMapResult, AsyncResult
    from ipkernel.client.client import Client
    from ipkernel.client.dependency import Dependency
    from ipkernel.client.executor import ViewExecutor
    from ipkernel.client.feeding import stream
    from ipkernel.client.remotefunction import (
        ParallelFunction,
        RemoteFunction,
        parallel,
        remote,
    )
    from ipkernel.client.view import BroadcastView, DirectView, LoadBalancedView
    from ipkernel.cluster.cluster import Cluster
    from ipkernel.cluster.manager import ClusterManager
    from ipkernel.errors import (
        AlreadyDisplayedError,
        ClusterError,
        CompositeError,
        ConfigurationError,
        ConnectError,
        ControllerLost,
        DependencyTimeout,
        EngineError,
        EngineLost,
        HostLost,
        ImpossibleDependency,
        InvalidDependency,
        InvalidEngineID,
        IPythonError,
        KernelError,
        LauncherError,
        NoEnginesRegistered,
        ObjectError,
        ObjectLost,
        QueryError,
        RemoteError,
        SecurityError,
        SerializationError,
        StoreFull,
        TaskAborted,
        TaskRejectError,
        TaskTimeout,
        TimeoutError,
        TransferError,
        UnknownObject,
        UnmetDependency,
        collect_exceptions,
    )
    from ipkernel.joblib import register_joblib_backend
    from ipkernel.objects.ref import ObjectRef
    from ipkernel.serialize import (
        can,
        can_map,
        deserialize_object,
        pack_apply_message,
        serialize_object,
        uncan,
        uncan_map,
        unpack_apply_message,
    )
    from ipkernel.serialize.dependent import depend, dependent, require
    from ipkernel.serialize.failure import unwrap_exception, wrap_exception
    from ipkernel.serialize.functions import interactive
    from ipkernel.serialize.payload import PrePickled, use_cloudpickle, use_dill, use_pickle
    from ipkernel.serialize.reference import Reference

_MODULES: dict[str, tuple[str, ...]] = {
    "ipkernel.client.client": ("Client",),
    "ipkernel.client.view": ("BroadcastView", "DirectView", "LoadBalancedView"),
    "ipkernel.client.dependency": ("Dependency",),
    "ipkernel.client.executor": ("ViewExecutor",),
    "ipkernel.client.feeding": ("stream",),
    "ipkernel.client.asyncresult": ("AsyncHubResult", "AsyncMapResult", "AsyncResult"),
    "ipkernel.client.remotefunction": ("ParallelFunction", "RemoteFunction", "parallel", "remote"),
    "ipkernel.cluster.cluster": ("Cluster",),
    "ipkernel.cluster.manager": ("ClusterManager",),
    "ipkernel.joblib": ("register_joblib_backend",),
    "ipkernel.objects.ref": ("ObjectRef",),
    "ipkernel.serialize": (
        "can",
        "can_map",
        "deserialize_object",
        "pack_apply_message",
        "serialize_object",
        "uncan",
        "uncan_map",
        "unpack_apply_message",
    ),
    "ipkernel.serialize.dependent": ("depend", "dependent", "require"),
    "ipkernel.serialize.failure": ("unwrap_exception", "wrap_exception"),
    "ipkernel.serialize.functions": ("interactive",),
    "ipkernel.serialize.payload": ("PrePickled", "use_cloudpickle", "use_dill", "use_pickle"),
    "ipkernel.serialize.reference": ("Reference",),
    "ipkernel.errors": (
        "AlreadyDisplayedError",
        "ClusterError",
        "CompositeError",
        "ConfigurationError",
        "ConnectError",
        "ControllerLost",
        "DependencyTimeout",
        "EngineError",
        "EngineLost",
        "HostLost",
        "IPythonError",
        "ImpossibleDependency",
        "InvalidDependency",
        "InvalidEngineID",
        "KernelError",
        "LauncherError",
        "NoEnginesRegistered",
        "ObjectError",
        "ObjectLost",
        "QueryError",
        "RemoteError",
        "SecurityError",
        "SerializationError",
        "StoreFull",
        "TaskAborted",
        "TaskRejectError",
        "TaskTimeout",
        "TimeoutError",
        "TransferError",
        "UnknownObject",
        "UnmetDependency",
        "collect_exceptions",
    ),
    "concurrent.futures": ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"),
}

_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AlreadyDisplayedError",
    "AsyncHubResult",
    "AsyncMapResult",
    "AsyncResult",
    "BroadcastView",
    "Client",
    "Cluster",
    "ClusterError",
    "ClusterManager",
    "CompositeError",
    "ConfigurationError",
    "ConnectError",
    "ControllerLost",
    "Dependency",
    "DependencyTimeout",
    "DirectView",
    "EngineError",
    "EngineLost",
    "HostLost",
    "IPythonError",
    "ImpossibleDependency",
    "InvalidDependency",
    "InvalidEngineID",
    "KernelError",
    "LauncherError",
    "LoadBalancedView",
    "NoEnginesRegistered",
    "ObjectError",
    "ObjectLost",
    "ObjectRef",
    "ParallelFunction",
    "PrePickled",
    "QueryError",
    "Reference",
    "RemoteError",
    "RemoteFunction",
    "SecurityError",
    "SerializationError",
    "StoreFull",
    "TaskAborted",
    "TaskRejectError",
    "TaskTimeout",
    "TimeoutError",
    "TransferError",
    "UnknownObject",
    "UnmetDependency",
    "ViewExecutor",
    "__version__",
    "can",
    "can_map",
    "collect_exceptions",
    "depend",
    "dependent",
    "deserialize_object",
    "error",
    "interactive",
    "pack_apply_message",
    "parallel",
    "register_joblib_backend",
    "remote",
    "require",
    "serialize_object",
    "stream",
    "uncan",
    "uncan_map",
    "unpack_apply_message",
    "unwrap_exception",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
    "version_info",
    "wrap_exception",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use and keep it."""
    if name == "error":
        value: object = import_module("ipkernel.errors")
    elif name in _WHERE:
        value = getattr(import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'ipkernel' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names also before their first use."""
    return sorted({*globals(), *__all__})
