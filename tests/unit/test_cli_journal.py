"""The options about the journal, from the configuration to what the controller has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from ipkernel.cli import ipcontroller
from ipkernel.cli.journal import add_journal_options, make_retained, open_journal
from ipkernel.cli.parser import Parser
from ipkernel.cluster.arguments import Arguments
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.controller import retention
from ipkernel.errors import ConfigurationError
from tests.support.journals import finished


class Reactor(Clock):
    """A clock that takes note of what is to be done at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.triggers: list[tuple[str, str, Any]] = []

    def addSystemEventTrigger(self, phase: str, event: str, function: Any) -> None:
        self.triggers.append((phase, event, function))


def parsed(*arguments: str) -> argparse.Namespace:
    parser = Parser()
    parser.add_argument("--cluster", default="c")
    add_journal_options(parser)
    return parser.parse(arguments)


def test_there_is_a_journal_by_default(tmp_path: Path) -> None:
    reactor = Reactor()
    options = parsed()
    journal = open_journal(options, tmp_path, reactor)
    assert journal is not None
    assert (journal.level, journal.path) == ("process", tmp_path / "journal.sqlite")
    kept = make_retained(options, journal)
    assert kept.seconds == retention.KEEP_SECONDS
    [(phase, event, close)] = reactor.triggers
    assert (phase, event) == ("after", "shutdown")
    close()
    assert [p.name for p in tmp_path.iterdir() if "-" in p.name] == []  # no write-ahead log is left


def test_power(tmp_path: Path) -> None:
    reactor = Reactor()
    journal = open_journal(parsed("--journal", "power"), tmp_path, reactor)
    assert journal is not None
    assert journal.level == "power"
    journal.close()


def test_off(tmp_path: Path) -> None:
    options = parsed("--journal", "off")
    assert open_journal(options, tmp_path, Reactor()) is None
    assert list(tmp_path.iterdir()) == []
    assert make_retained(options, None).seconds == retention.RETAIN_SECONDS


def test_how_long_and_how_much() -> None:
    kept = make_retained(parsed("--keep-results", "60", "--keep-results-size", "2000"), None)
    assert kept.seconds == 60.0
    for tid in range(5):
        kept.keep(*finished(tid, bytes(400)), 0.0)
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--journal", "sometimes"],
            "unknown --journal 'sometimes'; there are: process, power, off",
        ),
        (["--keep-results", "long"], "'long' is not a number of seconds"),
        (["--keep-results", "-1"], "not a number of seconds"),
        (["--keep-results", "nan"], "not a number of seconds"),
        (["--keep-results-size", "much"], "'much' is not a size"),
    ],
)
def test_what_cannot_be_meant(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert says in capsys.readouterr().err


def controller_arguments(tmp_path: Path, text: str) -> list[str]:
    directory = ClusterDirectory(tmp_path / "cluster_c").create()
    (directory.path / "ipcluster.ini").write_text(text)
    arguments = Arguments(directory, {})
    return list(arguments.settings(arguments.entries(1)).controller_args)


def test_the_configuration_reaches_the_controller(tmp_path: Path) -> None:
    text = "[controller]\njournal = power\nkeep_results = 2d\nkeep_results_size = 5GB\n"
    found = controller_arguments(tmp_path, text)
    assert found == ["--journal=power", "--keep-results=172800", "--keep-results-size=5GB"]
    options = parsed(*found)
    assert (options.keep_results, options.keep_results_size) == (172800.0, 5 * 10**9)
    times = "[controller]\nhost_grace = 4.5\nrestart_grace = 20\nwatchdog = 7\n"
    options = ipcontroller.parser().parse_args(controller_arguments(tmp_path, times))
    assert (options.host_grace, options.restart_grace, options.watchdog) == (4.5, 20.0, 7.0)


def test_nothing_is_said_of_what_is_as_always(tmp_path: Path) -> None:
    assert controller_arguments(tmp_path, "[controller]\njournal = process\n") == []


@pytest.mark.parametrize(
    "line",
    ["journal = maybe", "keep_results = 0", "keep_results = 5 weeks", "keep_results_size = big"],
)
def test_mistakes_in_the_configuration(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line.split()[0]):
        controller_arguments(tmp_path, f"[controller]\n{line}\n")
