"""Everything that can be configured about a cluster: where each value comes from, and what it is.

In this order: what the program or the command line gives, the environment, the cluster's own
``ipcluster.ini``, the user's, the default. Nothing that is not needed is loaded: without a file
there is no ConfigObj.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.cluster import spec
from ipkernel.cluster.checks import BadValue, checked, is_list, kind_of
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.spec import MANY, Option, Section, nearest
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import launcher_names

if TYPE_CHECKING:
    from ipkernel.cluster.inifile import Content

#: Name of a configuration file.
FILE: Final = "ipcluster.ini"
DEFAULT: Final = "default"
KEYWORD: Final = "keyword"
PREFIX: Final = "IPKERNEL_"

#: Where a value is: the names of its sections, then its own.
Place = tuple[str, ...]


class Value(NamedTuple):
    """A value and where it comes from."""

    value: Any
    origin: str


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


_Layer = dict[Place, Value]


class Configuration:
    """The options of one cluster.

    Args:
        layers: What is given, by place; an earlier one wins.
        files: The files that were read.
    """

    def __init__(self, layers: list[_Layer], files: Iterable[Path] = ()) -> None:
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

    def _layers(self) -> list[_Layer]:
        return [self._given, self._environment, *self._files]

    def _in_use(self, name: str) -> bool:
        used = [self.value("cluster", "controller"), *self.value("cluster", "engines")]
        names = {one.partition(":")[0].strip() for one in used if isinstance(one, str)}
        return name in names or any(place[0] == name for layer in self._layers() for place in layer)

    def _known(self, name: str) -> Section:
        """Return what can be in a section, after a look at the environment for it."""
        found = spec.find_section(name)
        if name not in self._looked:
            self._looked.add(name)
            own = {place for place in self._environment if place[0] == name}
            self._environment.update(
                {p: v for p, v in _from_environment(name, found).items() if p not in own}
            )
        return found

    def _find(self, section: str, name: str) -> Value:
        first, *more = section.split(".")
        known: Section | None = self._known(first)
        for part in more:
            known = known.section(part) if known is not None else None
        option = known.option(name) if known is not None else None
        if known is None or option is None:
            options = known.options if known is not None else ()
            raise ConfigurationError(
                f"unknown option {name!r} in [{section}]{nearest(name, options)}"
            )
        return self._effective((*section.split("."), name), option)

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


def settings_by_place(given: Mapping[str, Any]) -> dict[Place, Any]:
    """Return what is given to :func:`load` by place, checked, as it is used.

    Raises:
        ConfigurationError: Something is unknown or not acceptable.
    """
    return {place: found.value for place, found in _from_given(given).items()}


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
    layers = [_from_given(given or {}), {}]
    for name, section in spec.CORE.items():
        layers[1].update(_from_environment(name, section))
    read = []
    for path in files(directory):
        layer = load_file(path, directory)
        if layer is not None:
            layers.append(layer)
            read.append(path)
    return Configuration(layers, read)


def load_file(path: Path, directory: ClusterDirectory) -> _Layer | None:
    """Return the values of a configuration file by place, checked; None if there is no such file.

    Args:
        path: The file.
        directory: Of the cluster for which it is read.

    Raises:
        ConfigurationError: It is wrong; the text has file, line, and what would be right.
        SecurityError: It belongs to somebody else, or others can write to it.
    """
    if not os.path.lexists(path):
        return None
    from ipkernel.cluster.inifile import read_file

    content = read_file(path, _names_of(directory))
    return None if content is None else _from_content(content, path)


def variable_of(section: str, name: str) -> str:
    """Return the environment variable for an option: ``IPKERNEL_N``, ``IPKERNEL_SSH_HOSTS``."""
    words = name if section == "cluster" else f"{section}_{name}"
    return PREFIX + re.sub(r"\W", "_", words).upper()


def misspelt_variables() -> dict[str, str]:
    """Return the environment variables that look like options and are none, with what they mean."""
    known = {
        variable_of(section, name)
        for section in spec.section_names()
        for name in spec.find_section(section).options
    }
    found = {}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known:
            words = variable.removeprefix(PREFIX)
            near = get_close_matches(words, [name.removeprefix(PREFIX) for name in known], 1, 0.8)
            if near:
                found[variable] = PREFIX + near[0]
    return found


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return what texts such as ``ssh.hosts=a,b`` or ``n=4`` say, for :func:`load`.

    Raises:
        ConfigurationError: One of them is not such a text, or not acceptable.
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        *sections, option = (part.strip() for part in name.split("."))
        if not equals or not option:
            raise ConfigurationError(f"{text!r} sets nothing: write SECTION.OPTION=VALUE")
        place = (*(sections or ["cluster"]), option)
        known = _option_at(place, f"{text!r}: ")
        into = given
        for part in place[:-1] if place[0] != "cluster" else ():
            into = into.setdefault(part, {})
        into[option] = _checked(known, value.strip(), place, f"{text!r}: ")
    return given


# -- layers -----------------------------------------------------------------------------------


def _from_given(given: Mapping[str, Any]) -> _Layer:
    layer: _Layer = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in spec.CLUSTER.options:
            _take(layer, ("cluster", name), value, "")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                _take(layer, (name, str(key)), inner, "")
        else:
            known = [*spec.CLUSTER.options, *spec.section_names()]
            raise ConfigurationError(f"unknown option {name!r}{nearest(name, known)}")
    return layer


def _take(layer: _Layer, place: Place, value: Any, before: str) -> None:
    """Put a keyword's value in a layer; a mapping may be a section."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _take(layer, (*place, str(key)), inner, before)
    elif value is not None:
        option = _option_at(place, before)
        layer[place] = Value(_checked(option, value, place, before), KEYWORD)


def _from_environment(section: str, known: Section) -> _Layer:
    layer: _Layer = {}
    for name, option in known.options.items():
        variable = variable_of(section, name)
        text = os.environ.get(variable)
        if text and name != MANY:
            place = (section, name)
            value = _checked(option, text, place, f"environment variable {variable}: ")
            layer[place] = Value(value, f"environment {variable}")
    return layer


def _from_content(content: Content, path: Path) -> _Layer:
    layer: _Layer = {}
    filled = {place[:depth] for place in content.entries for depth in range(len(place))}
    for place, line in content.sections.items():
        if place[0] != "DEFAULT" and (place in filled or place[0] in spec.CORE):
            _section_at(place, f"{path}, line {line}: ")
    for place, entry in content.entries.items():
        before = f"{path}, line {entry.line}: "
        option = _option_at(place, before)
        if any("pb://" in text for text in _texts(entry.value)):
            raise ConfigurationError(
                f"{before}{place[-1]!r} has a FURL, which is a secret: leave it in the cluster's "
                f"security directory"
            )
        found = entry.value
        if isinstance(found, str) and is_list(option.check):
            found = [found] if found else []  # what stood in quotes may have commas
        value = _checked(option, found, place, before)
        if value and kind_of(option.check) == "path":
            value = os.path.join(path.parent, value)
        layer[place] = Value(value, f"{path}:{entry.line}")
    return layer


def _texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _section_at(place: Place, before: str) -> Section:
    """Return the section at a place.

    Raises:
        ConfigurationError: There is none; the text begins with ``before``.
    """
    try:
        known = spec.find_section(place[0])
    except ConfigurationError as error:
        raise ConfigurationError(f"{before}{error}") from None
    for depth, name in enumerate(place[1:], 1):
        inner = known.section(name)
        if inner is None:
            outer = ".".join(place[:depth])
            raise ConfigurationError(
                f"{before}unknown section {name!r} in [{outer}]{nearest(name, known.sections)}"
            )
        known = inner
    return known


def _option_at(place: Place, before: str) -> Option:
    if len(place) == 1:
        raise ConfigurationError(
            f"{before}{place[0]!r} stands in no section: write a line such as [cluster] above it"
        )
    known = _section_at(place[:-1], before)
    option = known.option(place[-1])
    if option is None:
        raise ConfigurationError(
            f"{before}unknown option {place[-1]!r} in [{'.'.join(place[:-1])}]"
            f"{nearest(place[-1], known.options)}"
        )
    return option


def _checked(option: Option, value: Any, place: Place, before: str) -> Any:
    """Return a value as it is used; a text without anything in it may stand for the default."""
    try:
        return checked(option.check, value)
    except BadValue as error:
        if value == "":
            return option.default
        section = ".".join(place[:-1])
        where = (
            place[-1] if not before and section == "cluster" else f"{place[-1]!r} in [{section}]"
        )
        if error.reason:
            raise ConfigurationError(f"{before}{where}: {error.reason}") from None
        hint = ""
        if isinstance(value, list) and kind_of(option.check) in ("text", "path", "string"):
            hint = "; write a text that has commas in quotes"
        raise ConfigurationError(
            f"{before}{where} must be {error.expected}, not {value!r}{hint}"
        ) from None


def _names_of(directory: ClusterDirectory) -> dict[str, str]:
    """Return what every file can refer to."""
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid()) if hasattr(os, "getuid") else ""
    return {
        "cluster": directory.name,
        "cluster_dir": str(directory.path),
        "home": os.path.expanduser("~"),
        "user": user,
    }


def _send_hosts(layers: list[_Layer]) -> None:
    """Let ``hosts`` of the cluster be those of ssh, and choose ssh if no launcher was."""
    hosts, engines = ("cluster", "hosts"), ("cluster", "engines")
    for layer in layers:
        if hosts not in layer:
            continue
        layer.setdefault(("ssh", "hosts"), layer[hosts])
        chosen = next((one[engines] for one in layers if engines in one), None)
        names = [str(one).partition(":")[0].strip() for one in chosen.value] if chosen else []
        if "ssh" in names or not layer[hosts].value:
            return
        before = layers[: layers.index(layer)]
        if engines in layer:
            raise ConfigurationError(
                f"hosts are for the launcher ssh, but engines is {', '.join(names)} "
                f"({layer[engines].origin}): name ssh there as well, or leave out one of both"
            )
        if not any(engines in one for one in before):
            layer[engines] = Value(["ssh"], layer[hosts].origin)
        return
