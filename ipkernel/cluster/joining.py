"""Programs that were launched and whose hosts have not joined: where each of them stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ipkernel.cluster.diagnosis import last_lines, local_state
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
        lines: The end of what it has said, if it has died.
    """

    program: Recorded
    state: str
    lines: tuple[str, ...] = ()


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
    programs, hosts = programs_of(directory), list(hosts)
    missing = not_joined(programs, hosts)
    found: dict[int, Standing] = {}

    def ask(number: int) -> None:
        found[number] = _standing(missing[number], directory)

    at_once(range(len(missing)), ask)
    here = [
        _standing(one, directory, state)
        for one in programs
        if one.kind == "engines"
        and one.here
        and not one.failure
        and (state := local_state(one, directory, hosts))
    ]
    return [*(found[number] for number in range(len(missing))), *here]


def _standing(program: Recorded, directory: ClusterDirectory, state: str = "") -> Standing:
    if program.failure:
        first, *others = program.failure.splitlines()
        return Standing(program, f"failed: {first}", tuple(others))
    from ipkernel.cluster.hosted import state_of

    try:
        launcher = program.find(directory)
    except (KernelError, OSError) as error:
        return Standing(program, state or f"unknown ({error})")
    if not state:
        state = "unknown" if launcher is None else state_of(launcher)
    over = state.startswith(("died", "ended"))
    return Standing(program, state, last_lines(launcher) if over else ())
