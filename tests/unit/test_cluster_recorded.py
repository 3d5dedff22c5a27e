"""Programs that ``cluster.json`` names: only what its owner has written is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.recorded import programs_of
from ipkernel.errors import SecurityError
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.local import LocalHostLauncher

if os.name != "posix":
    pytest.skip("modes are POSIX", allow_module_level=True)


class Tempting(LocalHostLauncher):
    """A launcher that must not even be looked for."""

    asked = 0

    @classmethod
    def from_record(cls, *arguments: object) -> Tempting:  # type: ignore[override]
        cls.asked += 1
        return cls(arguments[0], share=Share(1))


@pytest.mark.parametrize("open_to_others", ["", "pid", "state", "security"])
def test_a_directory_that_others_write_to_names_no_classes(
    tmp_path: Path, open_to_others: str
) -> None:
    directory = ClusterDirectory(tmp_path / "c")
    directory.create()
    program = {"launcher": f"{__name__}:Tempting", "n": 1, "label": "", "record": {}, "options": {}}
    directory.write_record({"engines": {"1": {"programs": [program]}}})
    assert json.loads(directory.record_file.read_text("utf-8"))
    Tempting.asked = 0
    (found,) = programs_of(directory)
    assert isinstance(found.find(directory), Tempting)
    assert Tempting.asked == 1
    (directory.path / open_to_others).chmod(0o777)
    with pytest.raises(SecurityError, match="mode 0777"):
        found.find(directory)
    assert Tempting.asked == 1
