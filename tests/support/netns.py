"""Machines made of network namespaces: each with addresses of its own, joined by switches.

A :class:`Network` makes the namespaces that a test needs and removes them again. Nothing of it
touches the network of the real machine: the switches are bridges in a namespace of their own.
Needs Linux, root and ``ip`` (Debian: iproute2).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

__all__ = ["Network", "needs_namespaces"]

#: The addresses of the n-th switch are 10.213.n.0/24.
_PREFIX: Final = "10.213"


def missing() -> str:
    """Return what keeps this machine from having namespaces, or nothing."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "there is no 'ip' command (Debian: apt install iproute2)"
    return ""


def needs_namespaces(test: Any) -> Any:
    """Skip a test where there can be no namespaces; in continuous integration it fails instead."""
    if os.environ.get("CI"):
        return test
    import pytest  # here only: the benchmarks use networks in environments without it

    return pytest.mark.skipif(bool(missing()), reason=missing() or "-")(test)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Network:
    """Machines and the switches that join them.

    Args:
        machines: For each machine the switches it is connected to, by name. Machines without a
            switch in common cannot reach each other: nothing is routed.

    Use it as a context manager; it must have no processes left at its end.
    """

    def __init__(self, machines: Mapping[str, Sequence[str]]) -> None:
        self._machines = {name: list(switches) for name, switches in machines.items()}
        self._switches = sorted({s for switches in machines.values() for s in switches})
        self._tag = f"ipk{secrets.token_hex(3)}"
        self._made: list[str] = []

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _make(self) -> None:
        core = self._add("core")
        for switch in self._switches:
            _ip("-n", core, "link", "add", f"br-{switch}", "type", "bridge")
            _ip("-n", core, "link", "set", f"br-{switch}", "up")
        for machine in self._machines:
            namespace = self._add(machine)
            _ip("-n", namespace, "link", "set", "lo", "up")
            for switch in self._machines[machine]:
                self._plug(machine, switch)

    def _add(self, name: str) -> str:
        namespace = f"{self._tag}-{name}"
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        return namespace

    def _plug(self, machine: str, switch: str) -> None:
        core, namespace = f"{self._tag}-core", f"{self._tag}-{machine}"
        outer, inner = self._port(machine, switch), f"to-{switch}"
        _ip("link", "add", outer, "netns", core, "type", "veth", "peer", inner, "netns", namespace)
        _ip("-n", core, "link", "set", outer, "master", f"br-{switch}", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(machine, switch)}/24", "dev", inner)
        _ip("-n", namespace, "link", "set", inner, "up")

    def _port(self, machine: str, switch: str) -> str:
        names = list(self._machines)
        return f"p{names.index(machine)}-{self._switches.index(switch)}"

    def _remove(self) -> None:
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        self._made.clear()

    def address(self, machine: str, switch: str | None = None) -> str:
        """Return a machine's address at a switch; by default at its first."""
        which = self._machines[machine][0] if switch is None else switch
        third = self._switches.index(which)
        return f"{_PREFIX}.{third}.{list(self._machines).index(machine) + 1}"

    def command(self, machine: str, *words: Any) -> list[str]:
        """Return the command line that runs ``words`` on a machine."""
        return ["ip", "netns", "exec", f"{self._tag}-{machine}", *map(str, words)]

    def command_with_sys(self, machine: str, *words: Any) -> list[str]:
        """Return the same for what needs this machine's own ``/sys``, such as its control groups."""
        return ["nsenter", f"--net=/run/netns/{self._tag}-{machine}", *map(str, words)]

    def unplug(self, machine: str, switch: str | None = None) -> None:
        """Take a machine's link down: what is sent to it or by it is lost silently."""
        self._set(machine, switch, "down")

    def plug(self, machine: str, switch: str | None = None) -> None:
        """Bring the link up again."""
        self._set(machine, switch, "up")

    def _set(self, machine: str, switch: str | None, state: str) -> None:
        which = self._machines[machine][0] if switch is None else switch
        _ip("-n", f"{self._tag}-core", "link", "set", self._port(machine, which), state)
