"""The documentation is true: its examples run and print what it says, its tables match the code.

Each page with examples becomes one script, run by a Python of its own against a cluster that the
page itself starts. A line of the script has the number of its line in the page, so a traceback
points into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.rst",
    "docs/tutorial.rst",
    "docs/coming-from.rst",
    "docs/tasks.rst",
    "docs/finding.rst",
    "docs/configuration.rst",
    "docs/moving-data.rst",
    "docs/daemons.rst",
    "docs/scaling.rst",
    "docs/portability.rst",
]


class Block(NamedTuple):
    """A code block of a page: its language, options, first line (from 1) and text."""

    language: str
    options: dict[str, str]
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page's source."""
    lines = page.splitlines()
    found = []
    for number, line in enumerate(lines):
        directive = re.fullmatch(r"( *)\.\. code-block:: (\S+)", line)
        if directive is None:
            continue
        margin = len(directive[1]) + 1
        end = number + 1
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" " * margin)):
            end += 1
        options: dict[str, str] = {}
        start = number + 1
        while start < end and (option := re.fullmatch(r" +:(\w+):\s*(.*)", lines[start])):
            options[option[1]] = option[2]
            start += 1
        while start < end and not lines[start].strip():
            start += 1
        text = textwrap.dedent("\n".join(lines[start:end])).rstrip() + "\n"
        found.append(Block(directive[2], options, start + 1, text))
    return found


def script(page: str) -> str:
    """Return the page's Python as one script whose line numbers are those of the page."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def promised(page: str) -> str:
    """Return what the page says that its examples print."""
    return "".join(b.text for b in blocks(page) if b.options.get("caption") == "prints")


def test_blocks_are_found_with_their_lines_and_options():
    page = (
        "Title\n\n.. code-block:: python\n\n    a = 1\n\n    b = 2\n\ntext\n\n"
        ".. code-block:: text\n    :caption: prints\n\n    3\n\n.. code-block:: python\n\n    c = 4\n"
    )
    python, text, last = blocks(page)
    assert python == Block("python", {}, 5, "a = 1\n\nb = 2\n")
    assert text == Block("text", {"caption": "prints"}, 14, "3\n")
    assert last.line == 18
    assert script(page).splitlines()[4::13] == ["a = 1", "c = 4"]
    assert promised(page) == "3\n"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_examples_that_print(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    assert script(page).strip()
    assert promised(page).strip()


@pytest.mark.parametrize("name", PAGES)
def test_every_example_does_what_the_page_says(name, tmp_path):
    page = (ROOT / name).read_text(encoding="utf-8")
    program = tmp_path / (Path(name).stem + ".py")
    program.write_text(script(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
    assert done.stdout == promised(page), done.stderr


# ------------------------------------------------------------------ tables and commands


def rows(page: str, first_header: str) -> list[list[str]]:
    """Return the cells of the list-table whose first header cell is ``first_header``."""
    start = page.index(f"    * - {first_header}\n")
    table = re.split(r"\n(?=\S)", page[start:])[0]
    return [
        [" ".join(cell.split()) for cell in re.split(r"\n {6}-", row)]
        for row in re.split(r"(?m)^ {4}\* - ", table)[1:]
    ]


def test_the_table_of_task_states_is_the_one_of_the_scheduler():
    from ipkernel.controller.tasks import TRANSITIONS

    _, *table = rows((ROOT / "docs/architecture.rst").read_text(), "State")
    documented = {name: {s for s in may.split(", ") if s} for name, _, may in table}
    assert documented == {
        state.value: {after.value for after in nexts} for state, nexts in TRANSITIONS.items()
    }


def test_the_table_of_roles_is_complete():
    from ipkernel.wire import doors

    _, *table = rows((ROOT / "docs/security.rst").read_text(), "Role")
    documented = {name for name, *_ in table}
    names = {re.fullmatch(r"RI(\w+)Door", name) for name in vars(doors)}
    assert documented == {match[1].lower() for match in names if match}


def test_the_readme_begins_with_commands_that_exist():
    commands = re.findall(r"(?m)^ {4}make ([a-z]+)", (ROOT / "README.rst").read_text())
    assert commands[:2] == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    for command in {*commands, *_make_commands((ROOT / "CONTRIBUTING.rst").read_text())}:
        assert re.search(rf"(?m)^{command}:", makefile), command


def _make_commands(text: str) -> list[str]:
    return re.findall(r"``make ([a-z]+)", text)


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst", "SECURITY.rst"])
def test_files_that_a_page_names_exist(name):
    made_later = {"docs/_build/html", "benchmarks/results/latest.rst"}
    text = (ROOT / name).read_text()
    for path in re.findall(r"``((?:docs|tests|ipkernel|benchmarks|\.ci)/[\w./]+)``", text):
        assert path in made_later or (ROOT / path).exists(), path
