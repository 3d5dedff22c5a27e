"""Programs that were launched and whose hosts have not joined: where each of them stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ipkernel.cluster.recorded import Recorded, programs_of
from ipkernel.cluster.telling import at_once
from ipkernel.errors import KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.wire.records import HostInfo


class Standing(NamedTuple):
    """Where a program stands that has no connected host.

    Attributes:
        program: Which.
        state: In a few words, such as ``"pending (Resources)"``.
    """

    program: Recorded
    state: str


def not_joined(programs: Iterable[Recorded], hosts: Iterable[HostInfo]) -> list[Recorded]:
    """Return the programs of engines elsewhere that no connected host belongs to.

    Args:
        programs: What was launched.
        hosts: What the controller knows.
    """
    there = {host.label for host in hosts if host.connected}
    return [
        one
        for one in programs
        if one.kind == "engines" and (one.failure or not (one.here or one.label in there))
    ]


def standings(directory: ClusterDirectory, hosts: Iterable[HostInfo]) -> list[Standing]:
    """Return where the programs of a cluster stand whose hosts have not joined.

    It asks batch systems and other hosts, all at the same time, which may take a second.

    Args:
        directory: The cluster's directory.
        hosts: What the controller knows.
    """
    missing = not_joined(programs_of(directory), hosts)
    if not missing:
        return []
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = _state(missing[number], directory)

    at_once(range(len(missing)), ask)
    return [Standing(one, found[number]) for number, one in enumerate(missing)]


def _state(program: Recorded, directory: ClusterDirectory) -> str:
    if program.failure:
        return f"failed: {program.failure.splitlines()[0]}"
    from ipkernel.cluster.hosted import state_of

    try:
        launcher = program.find(directory)
    except (KernelError, OSError) as error:
        return f"unknown ({error})"
    return "unknown" if launcher is None else state_of(launcher)
