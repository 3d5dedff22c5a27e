"""MPI jobs: engines that live and die together, whatever hosts they are on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ipkernel.controller.registry import Host
from ipkernel.controller.slots import Engine

__all__ = ["comrades", "without_parts_of_jobs"]


def comrades(hosts: Mapping[int, Host], engine: Engine) -> set[int]:
    """Return the ids of all engines of an engine's MPI job, of itself alone if it is in none."""
    job = engine.host.facts.job
    if not job:
        return {engine.id}
    return {number for host in hosts.values() if host.facts.job == job for number in host.engines}


def without_parts_of_jobs(
    hosts: Mapping[int, Host], engines: Mapping[int, Engine], wanted: Iterable[int]
) -> tuple[list[int], list[str]]:
    """Leave out what is only a part of an MPI job: ended or started again is only all of one.

    Args:
        hosts: All hosts.
        engines: All engines.
        wanted: Ids, some of which there may be no engine for.

    Returns:
        The ids that are left, and a sentence for each job of which engines were left out.
    """
    asked = dict.fromkeys(wanted)
    left: list[int] = []
    problems: dict[str, None] = {}
    for number in asked:
        engine = engines.get(number)
        together = comrades(hosts, engine) if engine is not None else {number}
        if together <= asked.keys():
            left.append(number)
            continue
        some, all_ = (
            ", ".join(map(str, sorted(which))) for which in (together & asked.keys(), together)
        )
        problems[
            f"engines {some} belong to an MPI job with the engines {all_}: these can only be "
            "stopped or restarted all together"
        ] = None
    return left, list(problems)
