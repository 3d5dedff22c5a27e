"""The tree of packages and modules for the documentation, from the first line of each docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2] / "ipkernel"

#: The packages, each behind those that it uses most.
PACKAGES = (
    "wire",
    "serialize",
    "objects",
    "controller",
    "host",
    "engine",
    "launchers",
    "cluster",
    "client",
    "cli",
)


def tree() -> str:
    """Return the description of all packages and modules, as reStructuredText.

    Raises:
        ValueError: A package is not in the list of them, or a module has no docstring.
    """
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    if found != set(PACKAGES):
        raise ValueError(
            f"docs/_ext/module_tree.py and the packages differ: {found ^ set(PACKAGES)}"
        )
    lines = list(_modules(ROOT))
    for name in PACKAGES:
        title = f"``ipkernel.{name}``"
        lines += [title, "-" * len(title), "", _brief(ROOT / name / "__init__.py"), ""]
        lines += _modules(ROOT / name)
    return "\n".join(lines)


def _modules(folder: Path) -> Iterator[str]:
    """List the modules of one package."""
    yield from (".. list-table::", "    :widths: 24 76", "")
    for path in sorted(folder.glob("*.py")):
        if path.stem != "__init__":
            yield from (f"    * - ``{path.stem}``", f"      - {_brief(path)}")
    yield ""


def _brief(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path} has no docstring")
    return text.splitlines()[0]


class ModuleTree(Directive):
    """Describe every package and module in a line."""

    def run(self) -> list[nodes.Node]:
        """Insert the description in the place of the directive."""
        self.state_machine.insert_input(tree().splitlines(), "the docstrings of ipkernel")
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("module-tree", ModuleTree)
    return {"parallel_read_safe": True}
