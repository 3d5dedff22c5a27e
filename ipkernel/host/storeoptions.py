"""How the store of a host is to be, as it is told on the command line."""

from __future__ import annotations

import argparse
from typing import Final, NamedTuple

from ipkernel.arguments import port, share_text, size_text

__all__ = ["DEFAULTS", "StoreOptions", "add_store_options", "chosen_store"]


class StoreOptions(NamedTuple):
    """How large a host's store may become, and where others reach it.

    Attributes:
        memory: Memory for it: bytes, or a share of the machine's; 0 for no store at all, None for
            the default.
        spill_dir: Where objects go for which there is no memory; empty for the usual place for
            temporary files.
        spill_limit: Bytes that may be there; 0 for none, None for the default.
        interface: Address on which the data port listens; empty for the one that leads to the
            controller.
        port: The data port, 0 for any.
    """

    memory: str | int | None = None
    spill_dir: str = ""
    spill_limit: str | int | None = None
    interface: str = ""
    port: int = 0


DEFAULTS: Final = StoreOptions()
"""Nothing was chosen."""


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the store to the command line of a host daemon."""
    group = parser.add_argument_group("large objects")
    group.add_argument(
        "--store-memory", type=share_text, default=None, metavar="SIZE",
        help="memory for large objects, such as 4GB or 50%%; 0 sends all results by way of the "
        "controller (default: 30%% of the machine's)",
    )  # fmt: skip
    group.add_argument(
        "--spill-dir", default="", metavar="DIR",
        help="where objects go for which there is no memory (default: for temporary files)",
    )  # fmt: skip
    group.add_argument(
        "--spill-limit", type=size_text, default=None, metavar="SIZE",
        help="how much may be there; 0 for nothing (default: four times the memory)",
    )  # fmt: skip
    group.add_argument(
        "--data-interface", default="", metavar="ADDRESS",
        help="address on which other hosts and clients may fetch objects "
        "(default: that of the interface that leads to the controller)",
    )  # fmt: skip
    group.add_argument(
        "--data-port", type=port, default=0, metavar="PORT", help="its TCP port (default: any)"
    )


def chosen_store(chosen: argparse.Namespace) -> StoreOptions:
    """Return what was chosen of the options that :func:`add_store_options` has added."""
    return StoreOptions(
        chosen.store_memory,
        chosen.spill_dir,
        chosen.spill_limit,
        chosen.data_interface,
        chosen.data_port,
    )
