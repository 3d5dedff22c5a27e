"""From what a cluster was given, by whomever, to how its programs are to be started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipkernel.cluster import options
from ipkernel.cluster.configuration import DEFAULT, load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.entries import (
    Entry,
    one_entry,
    read_entries,
    recorded_launcher,
    starts_elsewhere,
)
from ipkernel.cluster.settings import Settings
from ipkernel.cluster.spec import CLUSTER
from ipkernel.controller.defaults import HOST_GRACE, RESTART_GRACE, SCHEMES, WATCHDOG
from ipkernel.errors import ConfigurationError
from ipkernel.sizes import parse_size

#: The variable that tells host daemons how their engines are to be.
_SLOTS: Final = "IPKERNEL_SLOTS"
#: On all interfaces: for host daemons of other hosts.
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - see above


class Arguments:
    """What a cluster was given: by keyword, by the environment, in files, or nowhere.

    Args:
        directory: The cluster's directory, which need not exist.
        given: What was given by keyword: options of the cluster by name (None: not given), and
            sections by name, as mappings.

    Raises:
        ConfigurationError: A value is not acceptable.
    """

    def __init__(self, directory: ClusterDirectory, given: Mapping[str, Any]) -> None:
        given = {name: value for name, value in given.items() if value is not None}
        engines = given.get("engines")
        if engines is not None and (
            not isinstance(engines, str | Sequence) or isinstance(engines, bytes)
        ):
            given["engines"] = [engines]
        self.configuration = load(directory, given=given)
        self.n: int | None = self.value("n")
        self.minimum: int | None = self.value("minimum")

    def value(self, name: str) -> Any:
        """Return an option of the cluster."""
        return self.configuration.value("cluster", name)

    def entries(self, n: int | None) -> list[Entry]:
        """Return the launchers of engines.

        Args:
            n: How many engines all of them are to have; None for what each has.

        Raises:
            ConfigurationError: There is no such launcher, or the numbers do not fit.
        """
        return read_entries(
            "engines", self.value("engines"), n, self.configuration.launcher_options
        )

    def settings(self, entries: Sequence[Entry], **callbacks: Any) -> Settings:
        """Return how the programs are to be started and stopped.

        Args:
            entries: The launchers of engines.
            callbacks: Those of :class:`~ipkernel.cluster.programs.Settings`.
        """
        value = self.value
        controller = one_entry(
            "controller", value("controller"), self.configuration.launcher_options
        )
        elsewhere = any(starts_elsewhere(entry.launcher) for entry in entries)
        return Settings(
            controller=controller,
            interface=value("controller_ip") or (_EVERYWHERE if elsewhere else ""),
            port=value("controller_port"),
            location=value("controller_location"),
            controller_args=(
                *self._scheme(),
                *self._times(),
                *self._journal(),
                *value("controller_args"),
            ),
            engine_args=(*self._store_arguments(), *value("engine_args")),
            environment={**self.configuration.section("environment"), **self._slots()},
            log_level=value("log_level"),
            stop_timeout=value("stop_timeout"),
            restart=self.configuration.value("controller", "restart"),
            **callbacks,
        )

    def _scheme(self) -> tuple[str, ...]:
        scheme = self.configuration.value("controller", "scheme")
        return (f"--scheme={scheme}",) if scheme != SCHEMES[0] else ()

    def _times(self) -> tuple[str, ...]:
        """Return what is not as the controller has it by default."""
        defaults = {
            "watchdog": WATCHDOG,
            "host_grace": HOST_GRACE,
            "restart_grace": RESTART_GRACE,
        }
        chosen = {name: self.configuration.value("controller", name) for name in defaults}
        return tuple(
            f"--{name.replace('_', '-')}={chosen[name]:g}"
            for name, default in defaults.items()
            if chosen[name] != default
        )

    def _store_arguments(self) -> tuple[str, ...]:
        value = self.value
        store = options.store_arguments(
            value("store_memory"), value("spill_dir"), value("spill_limit"), value("data_interface")
        )
        port = value("data_port")
        return (*store, f"--data-port={port}") if port else store

    def _journal(self) -> tuple[str, ...]:
        find = self.configuration.value
        level, age = find("controller", "journal"), find("controller", "keep_results")
        size = find("controller", "keep_results_size")
        return (
            *((f"--journal={level}",) if level != "process" else ()),
            *((f"--keep-results={age:g}",) if age is not None else ()),
            *((f"--keep-results-size={size}",) if size is not None else ()),
        )

    def _slots(self) -> dict[str, str]:
        """Return the variable for host daemons, with what was said about slots."""
        content = self.configuration.section("slots")
        chosen: dict[str, Any] = {}
        for name, value in content.items():
            if isinstance(value, Mapping):
                chosen |= {name: dict(value)} if value else {}
            elif self.configuration.origin("slots", name) != DEFAULT:
                sized = name in ("memory", "output_limit")
                chosen[name] = parse_size(value) if sized else value
        return {_SLOTS: json.dumps(chosen)} if chosen else {}


def recorded_keywords(launchers: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with which a cluster has the launchers that ``cluster.json`` names.

    Args:
        launchers: What it says of them.
        given: Keywords that are given, and win.
    """
    if not isinstance(launchers, list) or given.keys() & {"engines", "hosts"}:
        return {}
    engines: list[Any] = []
    found: dict[str, Any] = {}
    for one in launchers:
        if not isinstance(one, Mapping) or not isinstance(one.get("launcher"), str):
            return {}
        name, count, section = one["launcher"], one.get("n"), one.get("options")
        try:
            launcher = recorded_launcher("engines", name)
        except ConfigurationError:  # a class that is not to be found any more
            return {}
        engines.append((name if ":" not in name else launcher, count))
        if isinstance(section, Mapping) and section and name not in given:
            found[name] = section
    return {**found, "engines": engines} if engines else {}


def split_keywords(
    known: Mapping[str, Any], others: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Return all that was given by keyword; refuse what nobody knows.

    Args:
        known: Options of the cluster.
        others: Further keywords: sections, and what may be a mistake.
        names: All keywords that there are.

    Raises:
        TypeError: There is no such keyword.
    """
    from ipkernel.cluster.spec import section_names

    given = {name: value for name, value in known.items() if name in CLUSTER.options}
    sections = section_names() if others else []
    unknown = {}
    for name, value in others.items():
        if name not in sections:
            unknown[name] = value
        elif not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{name} must be a mapping with options of launcher {name!r}, not {value!r}"
            )
        else:
            given[name] = value
    options.refuse_unknown(unknown, [*names, *sections])
    return given
