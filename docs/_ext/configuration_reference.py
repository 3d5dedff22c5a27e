"""A directive that describes all options of ``ipcluster.ini``, as the program itself knows them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.parsers.rst import Directive

from ipkernel.cluster import spec
from ipkernel.cluster.checks import expected
from ipkernel.cluster.sources import variable_of
from ipkernel.cluster.spec import MANY, Option, Section
from ipkernel.cluster.template import shown

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_TITLES = {
    "cluster": "the cluster",
    "environment": "environment variables",
    "controller": "the controller",
    "slots": "engines",
}


def reference() -> str:
    """Return the description of every section and option, as reStructuredText."""
    lines: list[str] = []
    for name in spec.section_names():
        section = spec.find_section(name)
        if section.options or section.sections:
            title = f"``[{name}]``: {_TITLES.get(name, f'the launcher {name}')}"
            lines += [title, "^" * len(title), ""]
            lines += _section((name,), section)
    return "\n".join(lines)


def _section(place: tuple[str, ...], section: Section) -> Iterator[str]:
    if place[0] in spec.CORE or len(place) > 1:
        yield from (_escaped(section.help), "")
    for name, option in section.options.items():
        yield from _option(place, name, option)
    for name, inner in section.sections.items():
        brackets = len(place) + 1
        title = "name" if name == MANY else name
        heading = f"``{'[' * brackets}{title}{']' * brackets}``, in ``[{place[-1]}]``"
        yield from (heading, "~" * len(heading), "")
        yield from _section((*place, title), inner)


def _option(place: tuple[str, ...], name: str, option: Option) -> Iterator[str]:
    yield "*NAME*" if name == MANY else f"``{name}``"
    yield from textwrap.wrap(
        _escaped(option.help), 96, initial_indent="    ", subsequent_indent="    "
    )
    facts = [_escaped(expected(option.check))]
    if name != MANY:
        default = shown(name, option).partition("=")[2].strip()
        facts += [f"default: ``{default}``"] if default else []
        if len(place) == 1:
            facts.append(f"environment: ``{variable_of(place[0], name)}``")
    yield from ("", f"    *{facts[0][:1].upper()}{facts[0][1:]}.* " + "; ".join(facts[1:]), "")


def _escaped(text: str) -> str:
    escaped = re.sub(r"([\\*`|_])", r"\\\1", text)
    # As text the two hyphens of an option would become a dash.
    return re.sub(r"(?<!\S)--[a-z][a-z-]*", r"``\g<0>``", escaped)


class ConfigurationReference(Directive):
    """Describe every section and option."""

    def run(self) -> list[nodes.Node]:
        """Insert the description in the place of the directive."""
        self.state_machine.insert_input(reference().splitlines(), "ipkernel/cluster/spec.py")
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("configuration-reference", ConfigurationReference)
    return {"parallel_read_safe": True}
