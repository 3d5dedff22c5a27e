"""Where options come from: programs, the command line, the environment, files.

Each of them is read, checked, and made into a layer: values by their places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.cluster import spec
from ipkernel.cluster.checks import BadValue, checked, expected, is_list, kind_of
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.spec import MANY, Option, Section, nearest
from ipkernel.errors import ConfigurationError

if TYPE_CHECKING:
    from ipkernel.cluster.inifile import Content

#: What the names of environment variables begin with.
PREFIX: Final = "IPKERNEL_"
#: The origin of what a program gives.
KEYWORD: Final = "keyword"

#: Where a value is: the names of its sections, then its own.
Place = tuple[str, ...]


class Value(NamedTuple):
    """A value and where it comes from."""

    value: Any
    origin: str


Layer = dict[Place, Value]


#: Keywords for sections whose names are those of other keywords.
_KEYWORDS: Final = {"controller": "controller_options"}
_SECTIONS: Final = {keyword: section for section, keyword in _KEYWORDS.items()}


# -- programs and the command line ------------------------------------------------------------


def from_given(given: Mapping[str, Any]) -> Layer:
    """Return what a program gives: options of ``[cluster]`` by name, and sections as mappings.

    Raises:
        ConfigurationError: Something is unknown or not acceptable.
    """
    layer: Layer = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in spec.CLUSTER.options:
            if isinstance(value, Mapping):
                kind = spec.CLUSTER.options[name].check
                raise ConfigurationError(f"{name} must be {expected(kind)}, not {value!r}")
            _take(layer, ("cluster", name), value, "")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                _take(layer, (_SECTIONS.get(name, name), str(key)), inner, "")
        else:
            known = [*spec.CLUSTER.options, *spec.section_names()]
            if name in known or name in _SECTIONS:
                raise ConfigurationError(
                    f"{name} must be a mapping with options of [{_SECTIONS.get(name, name)}], not "
                    f"{value!r}"
                )
            raise ConfigurationError(f"unknown option {name!r}{nearest(name, known)}")
    return layer


def _take(layer: Layer, place: Place, value: Any, before: str) -> None:
    """Put a keyword's value in a layer; a mapping may be a section."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _take(layer, (*place, str(key)), inner, before)
    elif value is not None:
        option = _option_at(place, before)
        layer[place] = Value(_checked(option, value, place, before), KEYWORD)


def settings_by_place(given: Mapping[str, Any]) -> dict[Place, Any]:
    """Return what is given to :func:`load` by place, checked, as it is used.

    Raises:
        ConfigurationError: Something is unknown or not acceptable.
    """
    return {place: found.value for place, found in from_given(given).items()}


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Return what texts such as ``ssh.hosts=a,b`` or ``n=4`` say, for :func:`load`.

    Raises:
        ConfigurationError: One of them is not such a text, or not acceptable.
    """
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        section, _, option = name.strip().rpartition(".")
        if not equals or not option:
            raise ConfigurationError(f"{text!r} sets nothing: write SECTION.OPTION=VALUE")
        place = (*place_of(section or "cluster"), option)
        known = _option_at(place, f"{text!r}: ")
        into = given
        for part in place[:-1] if place[0] != "cluster" else ():
            into = into.setdefault(_KEYWORDS.get(part, part), {})
        into[option] = _checked(known, value.strip(), place, f"{text!r}: ")
    return given


# -- the environment --------------------------------------------------------------------------


def from_environment(section: str, known: Section) -> Layer:
    """Return what environment variables say about a section.

    Args:
        section: Its name.
        known: Its options.

    Raises:
        ConfigurationError: A value is not acceptable.
    """
    layer: Layer = {}
    for name, option in known.options.items():
        variable = variable_of(section, name)
        text = os.environ.get(variable)
        if text and name != MANY:
            place = (section, name)
            value = _checked(option, text, place, f"environment variable {variable}: ")
            layer[place] = Value(value, f"environment {variable}")
    return layer


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


# -- files ------------------------------------------------------------------------------------


def load_file(path: Path, directory: ClusterDirectory) -> Layer | None:
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


def _from_content(content: Content, path: Path) -> Layer:
    layer: Layer = {}
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


# -- what they have in common -----------------------------------------------------------------


def place_of(section: str) -> Place:
    """Return the place of a section: ``("ssh", "node1.example")`` of ``"ssh.node1.example"``."""
    outer, dot, inner = section.partition(".")
    return (outer, inner) if dot else (outer,)


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
    if place[-2] == "environment" and not re.fullmatch(r"[^=\0]+", place[-1]):
        raise ConfigurationError(f"{before}{place[-1]!r} cannot be an environment variable")
    option = known.option(place[-1])
    if option is None and place[-1] in known.sections:
        raise ConfigurationError(
            f"{before}{place[-1]!r} in [{'.'.join(place[:-1])}] is no option but a section: write "
            f"[[{place[-1]}]] in a file, and a mapping in Python"
        )
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
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        raise ConfigurationError(
            f"{before}{where} must be {error.expected}, not {shown!r}{hint}"
        ) from None
