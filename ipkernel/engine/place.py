"""Which rank of an MPI job a process is, from what the launcher of the job has put into its environment.

MPI itself is not asked: that is for the user's code to start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["PlaceUnknown", "RankPlace", "find_place"]


class RankPlace(NamedTuple):
    """Where a process stands in its job.

    Attributes:
        rank: Its number in ``MPI_COMM_WORLD``.
        size: How many ranks the job has.
        local: Its number among the ranks of its host.
        local_size: How many these are.
    """

    rank: int
    size: int
    local: int
    local_size: int


class PlaceUnknown(ValueError):
    """The environment does not tell; the text says what was looked for."""


#: Variables for rank, size, rank on the host, ranks on the host: Open MPI; Hydra of MPICH and Intel
#: MPI; MVAPICH; Cray PALS and others with PMI. What starts processes itself comes before Slurm, as
#: a job of Slurm has Slurm's variables whoever has started its processes.
_KNOWN: Final = (
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    (
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
_GROUP: Final = re.compile(r"(\d+)(?:\(x(\d+)\))?\Z")


def find_place(environment: Mapping[str, str]) -> RankPlace:
    """Return which rank a process with this environment is.

    Args:
        environment: The process's, as its launcher has made it.

    Raises:
        PlaceUnknown: No launcher that is known here has started it, or it has left nonsense.
    """
    for names in _KNOWN:
        if all(name in environment for name in names):
            return _checked(*(_number(environment, name) for name in names))
    if "SLURM_PROCID" in environment and "SLURM_LOCALID" in environment:
        return _slurm(environment)
    looked_for = ", ".join(sorted({names[0] for names in _KNOWN} | {"SLURM_PROCID"}))
    raise PlaceUnknown(
        "no MPI launcher that ipkernel knows has started this process: of the variables "
        f"{looked_for} none is set together with those for the size of the job and for the place "
        "on its host"
    )


def _slurm(environment: Mapping[str, str]) -> RankPlace:
    """As ``srun`` tells: how many tasks there are on each node is a list such as ``2(x3),1``."""
    name = _first(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    tasks = _first(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    node = _number(environment, "SLURM_NODEID")
    return _checked(
        _number(environment, "SLURM_PROCID"),
        _number(environment, name),
        _number(environment, "SLURM_LOCALID"),
        tasks_of_node(environment[tasks], node),
    )


def tasks_of_node(text: str, node: int) -> int:
    """Return how many tasks a node has, by Slurm's list for all nodes of a step.

    Args:
        text: Such as ``"2(x3),1"``: two on each of the first three nodes, one on the fourth.
        node: Number of the node, from 0.

    Raises:
        PlaceUnknown: That is no such list, or the node is not in it.
    """
    left = node
    for part in text.split(","):
        found = _GROUP.match(part.strip())
        if found is None:
            raise PlaceUnknown(f"{text!r} is no list of tasks per node")
        times = int(found[2] or 1)
        if left < times:
            return int(found[1])
        left -= times
    raise PlaceUnknown(f"the list of tasks per node {text!r} says nothing of node {node}")


def _first(environment: Mapping[str, str], *names: str) -> str:
    for name in names:
        if name in environment:
            return name
    raise PlaceUnknown(f"Slurm has set none of {', '.join(names)} for this process")


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise PlaceUnknown(f"the MPI launcher has set {name} to {text!r}, which is no number")
    return int(text)


def _checked(rank: int, size: int, local: int, local_size: int) -> RankPlace:
    if not (rank < size and local < local_size <= size):
        raise PlaceUnknown(
            f"the MPI launcher says that this is rank {rank} of {size}, on its host {local} of "
            f"{local_size}, which cannot be"
        )
    return RankPlace(rank, size, local, local_size)
