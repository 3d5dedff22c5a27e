"""One module per system that is measured; each runs in its own environment."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a system is found and what it needs.

    Attributes:
        name: its name on the command line and in the JSON files.
        title: what the tables call it.
        module: the module with its adapter, run with ``python -m``.
        requirements: what pip installs into its environment; empty for the project's own.
        packages: distributions whose versions the report names.
    """

    name: str
    title: str
    module: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]


SYSTEMS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "ipkernel",
            "ipkernel",
            "benchmarks.systems.ipkernel_",
            (),
            ("ipkernel", "twisted", "foolscap", "numpy"),
        ),
        Entry(
            "ipyparallel",
            "ipyparallel",
            "benchmarks.systems.ipyparallel_",
            ("ipyparallel", "numpy"),
            ("ipyparallel", "pyzmq", "ipykernel", "numpy"),
        ),
        Entry(
            "dask",
            "dask.distributed",
            "benchmarks.systems.dask_",
            ("distributed", "numpy", "cryptography"),
            ("distributed", "dask", "numpy"),
        ),
        Entry("ray", "Ray", "benchmarks.systems.ray_", ("ray", "numpy"), ("ray", "numpy")),
        Entry("futures", "concurrent.futures", "benchmarks.systems.futures_", (), ("numpy",)),
    )
}
"""All systems, ours first, by name."""

OURS = "ipkernel"
WORKERS = 2
"""How many workers every system gets."""
