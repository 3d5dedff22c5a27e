"""Programs that were launched and whose hosts have not joined: where each of them stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ipkernel.cluster.diagnosis import PATIENCE, last_lines, launched_state, local_state
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


def standings(
    directory: ClusterDirectory, hosts: Iterable[HostInfo], patience: float = PATIENCE
) -> list[Standing]:
    """Return where the programs of a cluster stand whose hosts have not joined.

    It asks batch systems and other hosts, all at the same time, which may take a second.

    Args:
        directory: The cluster's directory.
        hosts: What the controller knows.
        patience: Seconds after which no more answers are waited for.
    """
    programs, hosts = programs_of(directory), list(hosts)
    missing = not_joined(programs, hosts)
    found = _ask(missing, directory, patience)
    late = f"unknown (no answer within {patience:g} s)"
    here = [
        _standing(one, directory, None, state)
        for one in programs
        if one.kind == "engines"
        and one.here
        and not one.failure
        and (state := local_state(one, directory, hosts))
    ]
    return [*(found.get(n) or Standing(one, late) for n, one in enumerate(missing)), *here]


def _ask(
    programs: Sequence[Recorded], directory: ClusterDirectory, patience: float
) -> dict[int, Standing]:
    """Return where programs stand, by their places, as far as that is known soon enough."""
    found: dict[int, Standing] = {}
    asked: list[Any] = []

    def ask(number: int) -> None:
        found[number] = _standing(programs[number], directory, asked.append)

    def ask_all() -> None:
        at_once(range(len(programs)), ask)

    if not programs:
        return found
    asking = threading.Thread(target=ask_all, name="ipkernel-standings", daemon=True)
    asking.start()
    asking.join(patience)
    if asking.is_alive():
        for launcher in asked:  # or what it has begun would go on behind us
            launcher.close()
    return dict(found)


def _standing(
    program: Recorded,
    directory: ClusterDirectory,
    note: Callable[[Any], object] | None = None,
    state: str = "",
) -> Standing:
    """Return where a program stands.

    Args:
        program: Which.
        directory: The cluster's directory.
        note: Told the launcher that is asked.
        state: What is known already.
    """
    if program.failure:
        first, *others = program.failure.splitlines()
        return Standing(program, f"failed: {first}", tuple(others))
    from ipkernel.cluster.hosted import state_of

    try:
        launcher = program.find(directory)
    except (KernelError, OSError) as error:
        return Standing(program, state or f"unknown ({error})")
    if launcher is not None and note is not None:
        note(launcher)
    if launcher is None:
        state = state or "unknown"
    elif not state and not getattr(launcher, "started", True):
        state = launched_state(program, directory)
        if state and program.lost:
            state = f"{state}; the one before {program.lost}"
    state = state or state_of(launcher)
    over = state.startswith(("died", "ended"))
    return Standing(program, state, last_lines(launcher) if over else ())
