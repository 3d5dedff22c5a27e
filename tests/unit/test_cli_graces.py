"""How long hosts may be away: from the configuration to what the controller is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipkernel.cli.ipcontroller import parser
from ipkernel.cluster.arguments import Arguments
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.controller.defaults import HOST_GRACE, RESTART_GRACE, WATCHDOG
from ipkernel.errors import ConfigurationError


def controller_arguments(tmp_path: Path, text: str) -> list[str]:
    directory = ClusterDirectory(tmp_path / "cluster_c").create()
    (directory.path / "ipcluster.ini").write_text(text)
    arguments = Arguments(directory, {})
    return list(arguments.settings(arguments.entries(1)).controller_args)


def test_the_configuration_reaches_the_controller(tmp_path: Path) -> None:
    text = "[controller]\nhost_grace = 7.5\nrestart_grace = 30.25\nwatchdog = 3\n"
    found = controller_arguments(tmp_path, text)
    assert found == ["--watchdog=3", "--host-grace=7.5", "--restart-grace=30.25"]
    options = parser().parse_args(found)
    assert (options.watchdog, options.host_grace, options.restart_grace) == (3.0, 7.5, 30.25)


def test_nothing_is_said_of_what_is_as_always(tmp_path: Path) -> None:
    text = f"[controller]\nhost_grace = {HOST_GRACE}\nrestart_grace = {RESTART_GRACE}\n"
    assert controller_arguments(tmp_path, text) == []


def test_the_program_has_the_defaults_of_the_controller() -> None:
    options = parser().parse_args([])
    assert (options.host_grace, options.restart_grace) == (HOST_GRACE, RESTART_GRACE)
    assert options.watchdog == WATCHDOG


@pytest.mark.parametrize("option", ["--host-grace", "--restart-grace"])
@pytest.mark.parametrize("value", ["-1", "soon", "nan"])
def test_what_is_no_span_of_time(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([f"{option}={value}"])
    assert f"argument {option}: '{value}' is not a number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--host-grace", "--restart-grace"])
def test_nobody_need_be_waited_for(option: str) -> None:
    assert getattr(parser().parse_args([f"{option}=0"]), option[2:].replace("-", "_")) == 0.0


@pytest.mark.parametrize("name", ["host_grace", "restart_grace"])
@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_what_is_no_span_of_time_in_a_file(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        controller_arguments(tmp_path, f"[controller]\n{name} = {value}\n")
    assert name in str(caught.value)
    assert "a number of seconds above 0" in str(caught.value)
