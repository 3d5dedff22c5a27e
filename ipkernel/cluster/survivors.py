"""Host daemons that have outlived their controller, and look for it: a new one gets them back."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ipkernel.cluster import daemonnotes, restarting
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.engineset import EngineSet
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.recorded import Recorded, recorded_programs
from ipkernel.errors import KernelError


def survivors(directory: ClusterDirectory) -> list[EngineSet]:
    """Return the engine sets of a cluster whose controller was killed, as far as they live on.

    It asks hosts and queues if there are programs elsewhere, which may take a second.

    Args:
        directory: Of the cluster.
    """
    if restarting.noted(directory) is None:  # it was stopped in good order
        return []
    sets = directory.read_record().get("engines")
    if not isinstance(sets, dict):
        return []
    pids = [process.pid for process in directory.processes() if process.here]
    found = []
    for name, content in sets.items():
        programs = recorded_programs(content)
        alive = [one for one in programs if _lives(one, directory, pids)]
        if alive and len(alive) == len(programs):
            ids = [one for one in content.get("engines", ()) if isinstance(one, int)]
            found.append(EngineSet(str(name), sum(p.n for p in alive), ids, recorded=alive))
        elif alive:  # which engines were whose is not known any more
            found.append(EngineSet(str(name), sum(p.n for p in alive), recorded=alive))
    return found


def _lives(program: Recorded, directory: ClusterDirectory, pids: Collection[int]) -> bool:
    if program.here:
        pid = program.record.get("pid")
        noted = daemonnotes.noted_of(directory, pid) if isinstance(pid, int) else None
        return (pid if noted is None else noted.process.pid) in pids
    try:
        launcher = program.find(directory)
        return launcher is not None and bool(launcher.running)
    except (KernelError, OSError):  # its host may be gone for good
        return False


def missing(entries: Sequence[Entry], sets: Sequence[EngineSet]) -> list[Entry]:
    """Return what is to be started beside what lives on.

    Args:
        entries: Launchers, each with the engines that it should have in all.
        sets: What lives on.
    """
    there: dict[str, int] = {}
    for program in (one for s in sets for one in s.recorded):
        there[program.launcher] = there.get(program.launcher, 0) + program.n
    found = []
    for entry in entries:
        wanted = sum(share.n for share in entry.plan())
        has = min(wanted, there.get(entry.name, 0))
        there[entry.name] = there.get(entry.name, 0) - has
        if wanted > has:
            found.append(entry if not has else entry._replace(n=wanted - has))
    return found
