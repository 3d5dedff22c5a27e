"""Everything that can be configured about a cluster: where each value comes from, and what it is.

In this order: what the program or the command line gives, the environment, the cluster's own
``ipcluster.ini``, the user's, the default. Nothing that is not needed is loaded: without a file
there is no ConfigObj.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipkernel.cluster import spec
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.sources import (
    Layer,
    Place,
    Value,
    from_environment,
    from_given,
    load_file,
    place_of,
)
from ipkernel.cluster.spec import MANY, Option, Section, nearest
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import launcher_names

#: Name of a configuration file.
FILE: Final = "ipcluster.ini"
#: The origin of what is given nowhere.
DEFAULT: Final = "default"


class Row(NamedTuple):
    """One option as it is in effect.

    Attributes:
        section: Its section; a section in another one has a dot in its name.
        option: Its name.
        value: What it is.
        origin: Where that comes from.
    """

    section: str
    option: str
    value: Any
    origin: str


class Configuration:
    """The options of one cluster.

    Args:
        layers: What is given, by place; an earlier one wins.
        files: The files that were read.
    """

    def __init__(self, layers: list[Layer], files: Iterable[Path] = ()) -> None:
        self.files = tuple(files)
        self._given, self._environment, *self._files = layers
        self._looked: set[str] = set(spec.CORE)
        _send_hosts(layers)

    def value(self, section: str, name: str) -> Any:
        """Return the value of an option.

        Args:
            section: Its section; that of a section in another one is ``"outer.inner"``.
            name: Its name.

        Raises:
            ConfigurationError: There is no such option, or its value is not acceptable.
        """
        return self._find(section, name).value

    def origin(self, section: str, name: str) -> str:
        """Return where the value of an option comes from.

        Returns:
            ``"default"``, ``"keyword"``, ``"environment <variable>"`` or ``"<file>:<line>"``.

        Raises:
            ConfigurationError: There is no such option, or its value is not acceptable.
        """
        return self._find(section, name).origin

    def section(self, name: str) -> dict[str, Any]:
        """Return all values of a section by name; sections in it are dictionaries as well.

        Raises:
            ConfigurationError: There is no such section, or a value is not acceptable.
        """
        return self._content(name, self._known(name))

    def launcher_options(self, name: str, launcher: Any) -> dict[str, Any]:
        """Return the options of a launcher: the values of its section.

        Args:
            name: Under which it was named.
            launcher: Its class. One that is no known launcher has the options of its own
                description, each with its default unless they were given by keyword.

        Raises:
            ConfigurationError: A value is not acceptable.
        """
        if not getattr(launcher, "SPEC", "").strip():
            return {}
        if name in launcher_names():
            return self.section(name)
        return self._content(name, spec.class_section(name, launcher))

    def rows(self, *, everything: bool = False) -> list[Row]:
        """Return the options with their values and origins.

        Args:
            everything: Those of all launchers, not only of those that are used or configured.

        Raises:
            ConfigurationError: A value is not acceptable.
        """
        rows = []
        for name in spec.section_names():
            if name in spec.CORE or everything or self._in_use(name):
                rows += list(self._rows((name,), self._known(name)))
        return rows

    # -- underneath -----------------------------------------------------------------------

    def _layers(self) -> list[Layer]:
        return [self._given, self._environment, *self._files]

    def _in_use(self, name: str) -> bool:
        used = [self.value("cluster", "controller"), *self.value("cluster", "engines")]
        return name in map(_name_of, used) or any(
            place[0] == name for layer in self._layers() for place in layer
        )

    def _known(self, name: str) -> Section:
        """Return what can be in a section, after a look at the environment for it."""
        found = spec.find_section(name)
        if name not in self._looked:
            self._looked.add(name)
            own = {place for place in self._environment if place[0] == name}
            self._environment.update(
                {p: v for p, v in from_environment(name, found).items() if p not in own}
            )
        return found

    def _find(self, section: str, name: str) -> Value:
        place = place_of(section)
        known: Section | None = self._known(place[0])
        for inner in place[1:]:
            known = known.section(inner) if known is not None else None
        option = known.option(name) if known is not None else None
        if known is None or option is None:
            options = known.options if known is not None else ()
            raise ConfigurationError(
                f"unknown option {name!r} in [{section}]{nearest(name, options)}"
            )
        return self._effective((*place, name), option)

    def _effective(self, place: Place, option: Option) -> Value:
        for layer in self._layers():
            if place in layer:
                return layer[place]
        default = option.default
        return Value(list(default) if isinstance(default, list) else default, DEFAULT)

    def _names(self, place: Place, known: Mapping[str, Any], depth: int) -> list[str]:
        """Return the names that are known, or given, right below a place."""
        given = [
            where[len(place)]
            for layer in reversed(self._layers())
            for where in layer
            if where[: len(place)] == place and (len(where) > len(place) + 1) == bool(depth)
        ]
        return [name for name in dict.fromkeys([*known, *given]) if name != MANY]

    def _content(self, name: str, known: Section, place: Place = ()) -> dict[str, Any]:
        place = place or (name,)
        content: dict[str, Any] = {
            row.option: row.value for row in self._rows(place, known, inner=False)
        }
        for inner in self._names(place, known.sections, 1):
            found = known.section(inner)
            if found is not None:
                content[inner] = self._content(inner, found, (*place, inner))
        return content

    def _rows(self, place: Place, known: Section, *, inner: bool = True) -> Iterator[Row]:
        for name in self._names(place, known.options, 0):
            option = known.option(name)
            if option is not None:
                value, origin = self._effective((*place, name), option)
                yield Row(".".join(place), name, value, origin)
        for name in self._names(place, known.sections, 1) if inner else ():
            section = known.section(name)
            if section is not None:
                yield from self._rows((*place, name), section)


def files(directory: ClusterDirectory) -> list[Path]:
    """Return where the configuration of a cluster may be: its own file, and the user's."""
    return list(dict.fromkeys([directory.path / FILE, ipython_dir() / FILE]))


def load(directory: ClusterDirectory, *, given: Mapping[str, Any] | None = None) -> Configuration:
    """Return the options of a cluster.

    Args:
        directory: The cluster's directory, which need not exist.
        given: What the program says itself: options of ``[cluster]`` by name, and sections by
            name, each as a mapping. None stands for "not given".

    Raises:
        ConfigurationError: Something is unknown or not acceptable; the text says where, and what
            would be.
        SecurityError: A file belongs to somebody else, or others can write to it.
    """
    layers = [from_given(given or {}), {}]
    for name, section in spec.CORE.items():
        layers[1].update(from_environment(name, section))
    read = []
    for path in files(directory):
        layer = load_file(path, directory)
        if layer is not None:
            layers.append(layer)
            read.append(path)
    return Configuration(layers, read)


def _send_hosts(layers: list[Layer]) -> None:
    """Let ``hosts`` of the cluster be those of ssh, and choose ssh if no launcher was."""
    hosts, engines = ("cluster", "hosts"), ("cluster", "engines")
    for index, layer in enumerate(layers):
        if hosts not in layer:
            continue
        layer.setdefault(("ssh", "hosts"), layer[hosts])
        chosen = next((one[engines] for one in layers if engines in one), None)
        names = [_name_of(one) for one in chosen.value] if chosen else []
        if "ssh" in names or "" in names or not layer[hosts].value:
            return
        if engines in layer:
            raise ConfigurationError(
                f"hosts are for the launcher ssh, but engines is {', '.join(names)} "
                f"({layer[engines].origin}): name ssh there as well, or leave out one of both"
            )
        if not any(engines in one for one in layers[:index]):
            layer[engines] = Value(["ssh"], layer[hosts].origin)
        return


def _name_of(launcher: Any) -> str:
    """Return the name in ``"slurm:8"`` or ``("slurm", 8)``; empty if it is a class."""
    if isinstance(launcher, tuple | list) and launcher:
        launcher = launcher[0]
    return launcher.partition(":")[0].strip().lower() if isinstance(launcher, str) else ""
