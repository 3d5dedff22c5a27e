"""The page about configuration: its files are right, its commands exist, its reference is complete."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from ipkernel.cli.ipcluster import make_parser
from ipkernel.cluster import spec
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.sources import load_file, misspelt_variables

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/configuration.rst").read_text(encoding="utf-8")


def blocks(language):
    """Return the texts of the page's code blocks in a language."""
    found = re.findall(rf"(?m)^\.\. code-block:: {language}\n\n((?: {{4}}.*\n|\n)+)", PAGE)
    return [textwrap.dedent(text) for text in found]


@pytest.mark.parametrize("text", blocks("ini"))
def test_every_file_is_right(text, tmp_path):
    path = tmp_path / "ipcluster.ini"
    path.write_text(text)
    path.chmod(0o600)
    assert load_file(path, ClusterDirectory.named("x"))


def test_there_are_files_and_commands():
    assert len(blocks("ini")) >= 2
    assert len(list(commands())) >= 6


def commands():
    for text in blocks("console"):
        for line in filter(None, text.splitlines()):
            words = shlex.split(line.removeprefix("$ "))
            variables = [word for word in words if word.startswith("IPKERNEL_")]
            yield variables, words[len(variables) :]


@pytest.mark.parametrize(("variables", "words"), list(commands()))
def test_every_command_exists(variables, words, monkeypatch):
    program, *arguments = words
    assert program == "ipcluster"
    make_parser().parse(arguments)
    for one in variables:
        monkeypatch.setenv(*one.split("=", 1))
    assert misspelt_variables() == {}


def test_every_kind_is_named():
    from ipkernel.cluster.checks import KINDS

    inner = {"launcher", "launchers"}  # of no use to a launcher
    for kind in KINDS.keys() - inner:
        assert f"``{kind}``" in PAGE, kind


def test_the_reference_is_complete():
    path = ROOT / "docs/_ext/configuration_reference.py"
    made = importlib.util.spec_from_file_location("configuration_reference", path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    text = module.reference()
    for name in spec.section_names():
        section = spec.find_section(name)
        assert f"``[{name}]``" in text or not (section.options or section.sections)
        for option in section.options:
            assert option == spec.MANY or f"\n``{option}``\n" in text
    assert "``--bind-to``" in text, "with both of its hyphens"
    assert "default: ``60``; environment: ``IPKERNEL_ENGINE_TIMEOUT``" in text
