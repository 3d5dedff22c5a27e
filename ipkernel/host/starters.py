"""Choosing how engines are started."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["make_starter", "portable"]


def portable() -> bool:
    """Tell whether engines are to be started the portable way."""
    if os.environ.get("IPKERNEL_PORTABLE") == "1":
        return True
    from ipkernel.host.zygotes import available

    return not available()


def make_starter(name: str = "", zygote: Any = None) -> Any:
    """Return the starter for this system: native where it can be.

    Args:
        name: The cluster's.
        zygote: One that was started already, for the native starter.
    """
    if portable():
        from ipkernel.host.spawns import SpawnStarter

        return SpawnStarter()
    from ipkernel.host.zygotes import ZygoteStarter

    return ZygoteStarter(name, zygote)
