"""The command line of ipcluster: what is accepted, and how the rest is refused."""

from __future__ import annotations

import argparse
import inspect
import json
import os

import pytest

from ipkernel._version import __version__
from ipkernel.cli import common, ipcluster, ipcontroller, ipdaemon, ipengine
from ipkernel.cli.ipcluster import main, make_parser
from ipkernel.errors import ClusterError, ConfigurationError
from ipkernel.launchers.interfaces import Share

COMMANDS = tuple(ipcluster._COMMANDS)
#: Those with commands of their own behind them.
GROUPS = ("config",)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "ipython"


def parse(*arguments):
    return make_parser().parse(arguments)


def refused(capsys, *arguments):
    """Return what is printed for arguments that are wrong."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == common.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ipcluster")
    assert "--help" in err
    assert "Traceback" not in err
    return err


def test_start():
    options = parse("start", "-n", "4", "--cluster", "x", "--daemonize")
    assert (options.command, options.n, options.cluster) == ("start", 4, "x")
    assert options.daemonize
    assert parse("start").n is None


@pytest.mark.parametrize("spelling", [("-n4",), ("-n", "4"), ("--n", "4"), ("--n=4",)])
def test_ways_to_write_a_number(spelling):
    assert parse("start", *spelling).n == 4


def test_older_names(home):
    options = parse("status", "--profile", "mpi", "--cluster-id", "x", "--log-level", "10")
    assert common.directory_of(options).path == home / "cluster_mpi-x"
    assert options.log_level == "DEBUG"
    assert parse("list", "-o", "json").output == parse("list", "--json").output == "json"
    assert parse("list").output == "text"


def test_logs():
    options = parse("logs", "engine", "3", "-f", "-n", "0")
    assert (options.name, options.follow, options.lines) == (["engine", "3"], True, 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: ipcluster {command}")
    for text in ("commands:",) if command in GROUPS else ("--cluster NAME", "--quiet"):
        assert (text in out) != (command == "list" and text == "--cluster NAME")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for text in (*COMMANDS, "examples:", "exit codes:", "import ipkernel"):
        assert text in out
    assert all(len(line) < 100 for line in out.splitlines())


def test_no_command(capsys):
    assert main([]) == common.USAGE
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--version"], ["start", "--version"]])
def test_version(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ipkernel {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["strat"], "unknown command 'strat'; did you mean 'start'?"),
        (["stat"], "unknown command 'stat'; did you mean 'status'?"),
        (["xyzzy"], "unknown command 'xyzzy'; there are: start, stop, status"),
        (["start", "--deamonize"], "unknown argument '--deamonize'; did you mean '--daemonize'?"),
        (["status", "--clustr", "x"], "did you mean '--cluster'?"),
        (["status", "--clustr=x"], "unknown argument '--clustr=x'; did you mean '--cluster'?"),
        (["stop", "--al"], "did you mean '--all'?"),
        (["stop", "now"], "unknown argument 'now'"),
        (["start", "-n", "0"], "'0' is not a number of engines from 1 to 4096"),
        (["scale", "--", "-1"], "'-1' is not a number of engines from 0 to 4096"),
        (["adapt", "x", "2"], "'x' is not a number of engines from 0 to 4096"),
        (["start", "-n", "many"], "'many' is not a number of engines"),
        (["start", "-n", "5000"], "'5000' is not a number of engines"),
        (["start", "-n"], "expected one argument"),
        (["engines"], "-n/--n"),
        (["engines", "--nn", "3"], "unknown argument '--nn'; did you mean '--n'?"),
        (["start", "--port", "-1"], "'-1' is not a port"),
        (["start", "--timeout", "-1"], "'-1' is not a number of seconds above 0"),
        (["start", "--log-level", "loud"], "unknown log level 'LOUD'|unknown log level 'loud'"),
        (["list", "-o", "jsn"], "unknown -o/--output 'jsn'; did you mean 'json'?"),
        (["logs", "-n", "x"], "'x' is not a whole number"),
        (["start", "--timeout", "soon"], "'soon'"),
    ],
)
def test_wrong_usage(capsys, arguments, text):
    err = refused(capsys, *arguments)
    assert any(part in err for part in text.split("|"))


@pytest.mark.parametrize(
    ("program", "arguments", "text"),
    [
        (ipcontroller, ["--keep-result", "3"], "'--keep-result'; did you mean '--keep-results'?"),
        (ipcontroller, ["--schme=lru"], "unknown argument '--schme=lru'; did you mean '--scheme'?"),
        (ipcontroller, ["--scheme", "fast"], "unknown --scheme 'fast'; there are: leastload, lru"),
        (ipcontroller, ["--log-level", "loud"], "unknown log level 'loud'"),
        (ipengine, ["--fulr-file", "f"], "'--fulr-file'; did you mean '--furl-file'?"),
        (ipengine, ["now"], "unknown argument 'now'"),
        (ipdaemon, ["--furlfile", "f"], "'--furlfile'; did you mean '--furl-file'?"),
        (ipdaemon, ["--furl-file", "f", "--life-line"], "did you mean '--lifeline'?"),
        (ipdaemon, [], "the following arguments are required: --furl-file"),
        (ipdaemon, ["--", "--furlfile"], "the following arguments are required: --furl-file"),
    ],
)
def test_the_other_programs_say_it_too(program, arguments, text, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    assert caught.value.code == common.USAGE
    name = program.__name__.rpartition(".")[2]
    line, advice = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ") and text in line
    assert advice == f"Try '{name} --help'."


@pytest.mark.parametrize("program", [ipcontroller, ipengine, ipdaemon])
def test_the_other_programs_help(program, capsys):
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as caught:
            program.main([option])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "A TIME is a number of seconds, or such as 90s" in out
    assert "A SIZE is a number of bytes" in out
    assert out.endswith(f"ipkernel {__version__}\n")


def test_the_help_tells_of_units_where_there_are_any(capsys):
    for command, told in (("adapt", True), ("list", False)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert ("A TIME is" in capsys.readouterr().out) is told


@pytest.mark.parametrize("command", ["status", "stop", "engines"])
def test_no_such_cluster(capsys, home, command):
    arguments = [command, "--cluster", "x", *(["-n", "1"] if command == "engines" else [])]
    assert main(arguments) == common.NOT_RUNNING
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"ipcluster: there is no cluster x ({home / 'cluster_x'} does not exist)\n"


@pytest.mark.parametrize("command", ["status", "stop", "engines"])
def test_dead_cluster(capsys, home, command):
    from ipkernel.cluster.directory import ClusterDirectory

    ClusterDirectory.named("x").create()
    arguments = [command, "--cluster", "x", *(["-n", "1"] if command == "engines" else [])]
    assert main(arguments) == common.NOT_RUNNING
    assert (
        capsys.readouterr().err == f"ipcluster: cluster x is not running ({home / 'cluster_x'})\n"
    )


@pytest.mark.parametrize("command", ["status", "stop", "logs", "start"])
def test_bad_name(capsys, command):
    assert main([command, "--cluster", "a b"]) == common.FAILURE
    assert capsys.readouterr().err.startswith("ipcluster: 'a b' cannot name a cluster")


def test_contradiction(capsys, tmp_path):
    assert main(["status", "--cluster", "a", "--cluster-dir", str(tmp_path)]) == common.FAILURE
    assert "not both" in capsys.readouterr().err


def test_open_security_directory(capsys):
    from ipkernel.cluster.directory import ClusterDirectory

    ClusterDirectory.named("x").create().security.chmod(0o750)
    for command in ("status", "stop", "logs"):
        assert main([command, "--cluster", "x"]) == common.FAILURE
        assert "chmod 700" in capsys.readouterr().err


def test_unknown_launcher(capsys):
    assert main(["start", "--engines", "slrum"]) == common.FAILURE
    assert "there is no launcher 'slrum'" in capsys.readouterr().err


def test_nothing_to_stop(capsys):
    assert main(["stop", "--all"]) == common.NOT_RUNNING
    assert "none of your clusters is running" in capsys.readouterr().err


def test_list(capsys):
    from ipkernel.cluster.directory import ClusterDirectory

    assert main(["list"]) == common.OK
    assert "ipcluster start" in capsys.readouterr().out
    assert main(["list", "--json"]) == common.OK
    assert json.loads(capsys.readouterr().out) == []
    path = ClusterDirectory.named("x").create().path
    assert main(["list"]) == common.OK
    heads, row = capsys.readouterr().out.splitlines()
    assert heads.split() == ["CLUSTER", "RUNNING", "ENGINES", "HOSTS", "DIRECTORY"]
    assert row.split() == ["x", "no", "-", "-", str(path)]
    assert main(["list", "-o", "json"]) == common.OK
    assert json.loads(capsys.readouterr().out) == [
        {
            "cluster": "x",
            "running": False,
            "engines": 0,
            "hosts": 0,
            "directory": str(path),
            "pid": None,
        }
    ]


def test_clean(capsys, home):
    from ipkernel.cluster.directory import ClusterDirectory

    named = ClusterDirectory.named("x").create()
    (named.pid / "ipcontroller.json").write_text('{"pid": 4194303, "started": 1, "host": ""}')
    private = ClusterDirectory.private().create()
    private.write_record({"daemonize": True})
    young = ClusterDirectory.private().create()
    assert main(["clean"]) == common.OK
    out = capsys.readouterr().out
    assert f"removed {private.path}" in out
    assert "removed 1 directory of dead clusters and 1 stale pid file" in out
    assert named.exists
    assert named.pid_files() == []
    assert not private.exists
    assert young.exists
    assert main(["clean", "--quiet"]) == common.OK
    assert capsys.readouterr().out == ""


class TestRun:
    """How commands fail."""

    def run(self, error, **options):
        def command():
            raise error

        return common.run("prog", command, **options)

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ClusterError("bad"), common.FAILURE),
            (ConfigurationError("bad"), common.FAILURE),
            (common.NotRunning("bad"), common.NOT_RUNNING),
            (TimeoutError("bad"), common.FAILURE),
            (ValueError("bad"), common.FAILURE),
            (PermissionError(13, "bad", "file"), common.FAILURE),
        ],
    )
    def test_one_line(self, capsys, error, code):
        assert self.run(error) == code
        err = capsys.readouterr().err
        assert err.startswith("prog: ")
        assert "bad" in err
        assert err.count("\n") == 1

    def test_debug_shows_all(self):
        with pytest.raises(ClusterError):
            self.run(ClusterError("bad"), debug=True)

    def test_interrupted(self):
        assert self.run(KeyboardInterrupt()) == common.INTERRUPTED

    def test_program_errors_are_not_hidden(self):
        with pytest.raises(ZeroDivisionError):
            self.run(ZeroDivisionError())


def test_every_command_can_be_loaded():
    from importlib import import_module

    choices = next(
        action.choices
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(choices) == set(COMMANDS)
    for command, module in ipcluster._COMMANDS.items():
        assert callable(getattr(import_module(module), f"{command}_command"))


def test_log_files(capsys, home):
    from ipkernel.cluster.directory import ClusterDirectory

    assert main(["logs"]) == common.FAILURE
    assert "there is no cluster default" in capsys.readouterr().err
    directory = ClusterDirectory.named().create()
    assert main(["logs"]) == common.OK
    assert capsys.readouterr().out == f"there are no logs in {directory.log}\n"
    (directory.log / "ipcontroller.log").write_text("".join(f"line {i}\n" for i in range(50)))
    (directory.log / "ipengine-3.log").write_text("three\nand no end")
    (directory.log / "ipdaemon.err").write_text("")
    assert main(["logs"]) == common.OK
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "ipdaemon.err",
        "ipengine-3.log",
        "ipcontroller.log",
    ]
    assert main(["logs", "ipcontroller", "-n", "2"]) == common.OK
    assert capsys.readouterr().out == "line 48\nline 49\n"
    for words in (["engine", "3"], ["3"], ["ipengine-3"], ["ipengine-3.log"]):
        assert main(["logs", *words]) == common.OK
        assert capsys.readouterr().out == "three\nand no end"
    assert main(["logs", "3", "-n", "0"]) == common.OK
    assert capsys.readouterr().out == ""
    assert main(["logs", "ipdaemon"]) == common.OK
    assert main(["logs", "engine", "9"]) == common.FAILURE
    err = capsys.readouterr().err
    assert "no engine 9 of cluster default has printed anything here; there are:" in err
    assert main(["logs", "a", "b"]) == common.FAILURE
    assert "give one log" in capsys.readouterr().err
    assert main(["logs", "../../secret"]) == common.FAILURE


def test_tail_of_a_big_file(tmp_path, capsys):
    from ipkernel.cli.logs import show_tail

    path = tmp_path / "log"
    path.write_text("".join(f"{i:07}\n" for i in range(50000)))
    show_tail(path, 20000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20000
    assert (lines[0], lines[-1]) == ("0030000", "0049999")


def test_replaced_file_is_noticed(tmp_path):
    from ipkernel.cli.logs import _replaced

    path = tmp_path / "log"
    path.write_text("abc")
    with path.open("rb") as file:
        file.read()
        assert not _replaced(file.fileno(), path, file.tell())
        path.write_text("a")
        assert _replaced(file.fileno(), path, file.tell())
        os.rename(path, tmp_path / "log.1")
        assert not _replaced(file.fileno(), path, 0)  # there is no new one yet
        path.write_text("a new one")
        assert _replaced(file.fileno(), path, 0)


def test_ctrl_c_while_a_command_is_loaded(capsys, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(ipcluster, "import_module", interrupted)
    assert main(["status"]) == common.INTERRUPTED
    assert capsys.readouterr().err == "\n"


@pytest.mark.parametrize("option", ["--hosts", "--engines"])
def test_an_option_from_a_variable_that_is_not_set(capsys, home, option):
    assert main(["start", "--dry-run", option, ""]) == common.FAILURE
    expected = f"ipcluster: {option} is empty: give it a value, or leave it out\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("minimum", ["2", "3"])
def test_a_minimum_that_cannot_be(capsys, home, minimum):
    code = main(["start", "--dry-run", "-n", "2", "--minimum", minimum])
    expected = "minimum (3) must not be more than the number of engines (2)"
    assert (code == common.FAILURE) == (expected in capsys.readouterr().err) == (minimum == "3")


def test_a_directory_that_is_not_of_a_cluster(capsys, home, tmp_path):
    (tmp_path / "security").mkdir(mode=0o755)
    assert main(["status", "--cluster-dir", str(tmp_path)]) == common.FAILURE
    assert capsys.readouterr().err == f"ipcluster: {tmp_path} is not the directory of a cluster\n"


def test_hosts_that_failed_are_not_counted_when_a_cluster_is_ready(capsys, home):
    from types import SimpleNamespace

    from ipkernel.cli.starting import _say_ready
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.cluster.engineset import EngineSet

    entry = SimpleNamespace(immediate=True)
    hosts = [SimpleNamespace(share=Share(n), ready=True, entry=entry) for n in (1, 4)]
    engine_set = EngineSet("engines-0", 5, programs=hosts)
    engine_set.drop(hosts[1:])
    directory = ClusterDirectory.named()
    cluster = SimpleNamespace(cluster_id="x", directory=directory, engines={"0": engine_set})
    _say_ready(cluster, 1.0, argparse.Namespace(daemonize=True))
    assert capsys.readouterr().out.startswith("cluster x is ready: 1 engine in 1.0 s, ")


def a_job(number, running, state):
    """Return a batch job whose two engines are not there."""
    from types import SimpleNamespace

    told = f"ipdaemon (slurm job {number}) exited with code 127; it said: \x1bno python"
    launcher = SimpleNamespace(running=running, state=lambda: state, problem=lambda: told)
    entry = SimpleNamespace(immediate=False)
    share, title = Share(2), f"slurm job {number}"
    return SimpleNamespace(share=share, ready=False, entry=entry, launcher=launcher, title=title)


@pytest.mark.parametrize(
    ("ids", "jobs", "said"),
    [
        ((), [1], "2 engines to come: slurm job 1, pending\n"),
        ((3, 4), [], "added 2 engines to cluster default: 3-4\n"),
        (
            (3, 4),
            [7],
            "added 2 engines to cluster default: 3-4\n2 engines to come: slurm job 7, pending\n",
        ),
    ],
)
def test_engines_that_are_added_may_be_in_a_queue(monkeypatch, capsys, home, ids, jobs, said):
    from types import SimpleNamespace

    from ipkernel.cli import starting
    from ipkernel.cluster.directory import ClusterDirectory

    programs = [a_job(number, True, "pending") for number in jobs]
    added = {"b": SimpleNamespace(engines=ids, programs=programs)}
    cluster = SimpleNamespace(engines=added, start_engines_sync=lambda n: "b")
    classes = SimpleNamespace(from_directory=lambda path, **given: cluster)
    directory = ClusterDirectory.named()
    monkeypatch.setattr(starting, "Cluster", classes)
    monkeypatch.setattr(starting.common, "running_directory", lambda options: directory)
    options = argparse.Namespace(n=2, quiet=False, log_level=None)
    assert starting.engines_command(options) == common.OK
    assert capsys.readouterr().out == said


def test_a_job_that_has_ended_at_once_brings_no_engines(capsys, home):
    from types import SimpleNamespace

    from ipkernel.cli.starting import _say_ready
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.cluster.engineset import EngineSet

    jobs = [a_job(1, True, "pending (Priority)"), a_job(2, False, "ended: exited with code 127")]
    engine_set = EngineSet("engines-0", 4, programs=jobs)
    cluster = SimpleNamespace(
        cluster_id="x", directory=ClusterDirectory.named(), engines={"0": engine_set}
    )
    _say_ready(cluster, 1.0, argparse.Namespace(daemonize=True))
    said = capsys.readouterr()
    assert "2 engines to come: slurm job 1, pending (Priority)\n" in said.out
    assert "job 2" not in said.out
    assert said.err == (
        "ipcluster: 2 engines will not come: ipdaemon (slurm job 2) exited with code 127; it said: "
        "?no python\n"
    )


def test_ctrl_c_before_anything_was_asked_leaves_nothing(monkeypatch, home):
    from ipkernel.cluster import doors
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.wire.records import Status

    given = []

    def interrupted(reactor, start, what, timeout):
        given.append(start)
        raise KeyboardInterrupt

    monkeypatch.setattr(doors, "start_reactor", lambda: None)
    monkeypatch.setattr(doors, "run_in_reactor", interrupted)
    for ask in (
        lambda: doors.ask_monitor(ClusterDirectory.named(), "x", "status", None, Status),
        lambda: doors.order(ClusterDirectory.named(), "restart_engines"),
        lambda: doors.start_engines(ClusterDirectory.named(), 1, 1.0),
    ):
        with pytest.raises(KeyboardInterrupt):
            ask()
    assert [inspect.iscoroutinefunction(one) for one in given] == [True] * 3


def test_logs_of_programs_that_ssh_has_started(capsys, home):
    from ipkernel.cluster.directory import ClusterDirectory
    from ipkernel.cluster.recorded import Recorded

    directory = ClusterDirectory.named().create()
    there = Recorded("ssh", "host a", record={"directory": "/home/me/.ipython/ssh/default-1"})
    programs = [there, Recorded("ssh", "host b", record={"directory": ""}), Recorded("local")]
    content = [one.to_dict() for one in programs]
    directory.write_record({"engines": {"x": {"programs": content}}})
    assert main(["logs"]) == common.OK
    where = "host a: /home/me/.ipython/ssh/default-1/log"
    assert capsys.readouterr().out.splitlines()[1:] == [
        "on other hosts, while the cluster runs:",
        f"  {where}",
    ]
    assert main(["logs", "engine", "0"]) == common.FAILURE
    assert capsys.readouterr().err.endswith(f"here; there are: none; on {where}\n")
