"""Values, functions and errors as bytes; used by clients and engines only.

========================================== ============================================================
:mod:`~ipkernel.serialize.payload`         values: pickle protocol 5 with buffers out of band
:mod:`~ipkernel.serialize.buffers`         types whose memory needs help to go out of band
:mod:`~ipkernel.serialize.functions`       functions by hash, calls, the engine's namespace
:mod:`~ipkernel.serialize.failure`         exceptions as data
:mod:`~ipkernel.serialize.reference`       names that are evaluated on the engine
:mod:`~ipkernel.serialize.compat`          the functions exported here, which users of this field know
========================================== ============================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipkernel.serialize.compat import (
        can,
        can_map,
        deserialize_object,
        pack_apply_message,
        serialize_object,
        uncan,
        uncan_map,
        unpack_apply_message,
    )
    from ipkernel.serialize.functions import interactive
    from ipkernel.serialize.payload import (
        PrePickled,
        use_cloudpickle,
        use_dill,
        use_pickle,
        use_pickler,
    )
    from ipkernel.serialize.reference import Reference

__all__ = [
    "PrePickled",
    "Reference",
    "can",
    "can_map",
    "deserialize_object",
    "interactive",
    "pack_apply_message",
    "serialize_object",
    "uncan",
    "uncan_map",
    "unpack_apply_message",
    "use_cloudpickle",
    "use_dill",
    "use_pickle",
    "use_pickler",
]

_HOMES = {
    "Reference": "reference",
    "interactive": "functions",
    "PrePickled": "payload",
    **dict.fromkeys(("use_cloudpickle", "use_dill", "use_pickle", "use_pickler"), "payload"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'compat')}"), name)
    globals()[name] = value
    return value
