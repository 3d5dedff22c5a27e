"""Choosing how engines are started."""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["RANKS", "make_starter", "needs_zygote", "portable"]

#: Environment variable of the host daemon of MPI ranks: JSON of :class:`ipkernel.host.rankplace.Ranks`.
RANKS: Final = "IPKERNEL_MPI_RANKS"


def portable() -> bool:
    """Tell whether engines are to be started the portable way."""
    if os.environ.get("IPKERNEL_PORTABLE") == "1":
        return True
    from ipkernel.host.zygotes import available

    return not available()


def needs_zygote() -> bool:
    """Tell whether engines are to be forked."""
    return not portable() and not _come_by_themselves()


def _come_by_themselves() -> bool:
    return RANKS in os.environ


def make_starter(name: str = "", zygote: Any = None) -> Any:
    """Return the starter for this system: native where it can be.

    Args:
        name: The cluster's.
        zygote: One that was started already, for the native starter.
    """
    if _come_by_themselves():
        from ipkernel.host.rankplace import take_ranks
        from ipkernel.host.ranks import RankStarter

        return RankStarter(take_ranks(os.environ))
    if portable():
        from ipkernel.host.spawns import SpawnStarter

        return SpawnStarter()
    from ipkernel.host.zygotes import ZygoteStarter

    return ZygoteStarter(name, zygote)
