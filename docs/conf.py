"""How Sphinx builds the documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

from ipkernel import __version__

project = "ipkernel"
author = "The ipkernel developers"
copyright = "2026, The ipkernel developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "configuration_reference",
    "module_tree",
]
exclude_patterns = ["_build"]
root_doc = "index"

html_theme = "furo"
html_title = f"ipkernel {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of frozen values are described once, in their class


class CommandHelp(Directive):
    """Show what a command answers to ``--help``, so that the page cannot differ from it."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Run the command and return its answer as a literal block."""
        name, *more = self.arguments[0].split()
        code = f"import sys; from ipkernel.cli.{name} import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, *more, "--help"],
            check=False,
            env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise self.error(f"{self.arguments[0]} --help failed: {done.stderr.strip()}")
        text = done.stdout.replace("usage: -c ", f"usage: {name} ")
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add what this documentation needs to Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
