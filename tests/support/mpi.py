"""Real MPI for tests: Open MPI and MPICH side by side."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from pathlib import Path
from typing import Final

import pytest

__all__ = ["FLAVOURS", "use_mpi"]

FLAVOURS: Final = ("openmpi", "mpich")


def use_mpi(flavour: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Prepare the environment for an MPI implementation.

    Args:
        flavour: One of :data:`FLAVOURS`.
        directory: For files.
        monkeypatch: Changes the environment.

    Returns:
        Options of the section ``[mpi]``.
    """
    command = f"mpiexec.{flavour}"
    if not shutil.which(command):
        if os.environ.get("CI"):
            pytest.fail(f"{command} is missing")
        pytest.skip(f"{command} is not installed")
    # The tests may run as root, which Open MPI does not like.
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    monkeypatch.setenv("OMPI_MCA_btl_base_warn_component_unused", "0")
    monkeypatch.setenv("MPI4PY_MPIABI", flavour)
    if flavour == "mpich":
        # The library has a name of its own in Debian, as there it may stand beside another one.
        found = ctypes.util.find_library("mpich")
        assert found is not None, "MPICH's library is missing"
        libraries = directory / "mpich"
        libraries.mkdir()
        ctypes.CDLL(found)
        with open("/proc/self/maps") as maps:
            where = next(line.split()[-1] for line in maps if "libmpich.so" in line)
        (libraries / "libmpi.so.12").symlink_to(where)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    return {"command": command, "oversubscribe": True}
