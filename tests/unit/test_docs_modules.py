"""The page about the folders and modules: all of them are on it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module_tree():
    path = ROOT / "docs/_ext/module_tree.py"
    made = importlib.util.spec_from_file_location("module_tree", path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def test_all_packages_and_modules_are_told(module_tree):
    """Also: each begins with one line that says what it is."""
    top, *parts = module_tree.tree().split("\n``ipkernel.")
    assert [part.partition("``")[0] for part in parts] == list(module_tree.PACKAGES)
    for folder, part in zip(
        ["", *module_tree.PACKAGES],
        [top, *(text.partition("\n")[2] for text in parts)],
        strict=True,
    ):
        names = {path.stem for path in (ROOT / "ipkernel" / folder).glob("*.py")} - {"__init__"}
        told = {line.split("``")[1] for line in part.splitlines() if line.startswith("    * - ``")}
        assert told == names
        for line in part.splitlines():
            assert not line.startswith("      - ") or line.endswith((".", "``.")), line


def test_a_package_or_docstring_that_is_missing_is_found(module_tree, monkeypatch, tmp_path):
    monkeypatch.setattr(module_tree, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="differ"):
        module_tree.tree()
    monkeypatch.setattr(module_tree, "PACKAGES", ())
    (tmp_path / "silent.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match=r"silent\.py has no docstring"):
        module_tree.tree()
    (tmp_path / "silent.py").write_text('"""Not any more.\n\nMore of it."""\n')
    assert "    * - ``silent``\n      - Not any more.\n" in module_tree.tree()


def test_the_folders_of_the_repository_are_told():
    page = (ROOT / "docs/modules.rst").read_text(encoding="utf-8")
    for folder in ("ipkernel", "tests", "benchmarks", "docs", "examples", "scripts"):
        assert (ROOT / folder).is_dir() and f"``{folder}/``" in page
