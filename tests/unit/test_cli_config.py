"""ipcluster create, show, delete, config: what they print and how they fail."""

from __future__ import annotations

import builtins
import json
import os
import shlex
import sys

import pytest

from ipkernel.cli import common, config, creating
from ipkernel.cli.ipcluster import main, make_parser
from ipkernel.cli.settings import chosen_settings
from ipkernel.cluster.base import ClusterBase
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.making import create_cluster
from ipkernel.cluster.processes import Process


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("VISUAL", raising=False)
    return tmp_path / "ipython"


@pytest.fixture
def directory(home):
    directory = ClusterDirectory.named("big")
    create_cluster(directory, {"n": 4})
    return directory


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code, and what it has printed to both streams."""

    def run_command(*arguments):
        code = main([str(one) for one in arguments])
        return code, *capsys.readouterr()

    return run_command


@pytest.fixture
def answers(monkeypatch):
    """Pretend that somebody sits at a terminal and answers questions."""
    given = []

    def answer(question=""):
        sys.stdout.write(question)
        if not given:
            raise EOFError
        return given.pop(0)

    monkeypatch.setattr(builtins, "input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    return given


# -- settings ---------------------------------------------------------------------------------


def test_what_is_not_given_stays_out():
    options = make_parser().parse(["start"])
    assert chosen_settings(options) == {}


def test_settings_are_arguments_of_a_cluster():
    texts = (
        "start -n 4 --engines local:2,ssh --controller local --hosts a:4,b --ip 1.2.3.4 --port 5 "
        "--location c --timeout 9 --store-memory 4GB --spill-dir /s --spill-limit 1GB "
        "--data-interface 1.2.3.5 --data-port 6 --log-level debug --set slots.memory=1GB "
        "--set minimum=2 --set ssh.user=me"
    )
    found = chosen_settings(make_parser().parse(texts.split()))
    assert found == {
        "n": 4,
        "engines": "local:2,ssh",
        "controller": "local",
        "hosts": "a:4,b",
        "controller_ip": "1.2.3.4",
        "controller_port": 5,
        "controller_location": "c",
        "engine_timeout": 9.0,
        "store_memory": "4GB",
        "spill_dir": "/s",
        "spill_limit": "1GB",
        "data_interface": "1.2.3.5",
        "data_port": 6,
        "log_level": "DEBUG",
        "minimum": 2,
        "slots": {"memory": 10**9},
        "ssh": {"user": "me"},
    }
    import inspect

    assert set(found) - {"slots", "ssh"} <= set(inspect.signature(ClusterBase).parameters)


def test_an_option_of_its_own_comes_before_set():
    options = make_parser().parse(["start", "--set", "n=3", "-n", "4"])
    assert chosen_settings(options) == {"n": 4}


# -- create, show, delete ---------------------------------------------------------------------


def test_create(run, home):
    code, out, err = run("create", "--cluster", "x", "-n", "3", "--set", "slots.memory=1GB")
    path = home / "cluster_x" / "ipcluster.ini"
    assert (code, err) == (0, "")
    assert out == f"created cluster x; its options are in {path}\n"
    found = load(ClusterDirectory.named("x"))
    assert (found.value("cluster", "n"), found.value("slots", "memory")) == (3, 10**9)
    code, out, err = run("create", "--cluster", "x")
    assert (code, out) == (1, "")
    assert err == f"ipcluster: there is a cluster 'x' already ({path})\n"


def test_create_in_a_directory(run, tmp_path):
    assert run("create", "--cluster-dir", tmp_path / "here", "-q") == (0, "", "")
    assert (tmp_path / "here" / "ipcluster.ini").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "hots=a"], "ipcluster: 'hots=a': unknown option 'hots' in [cluster]; did you"),
        (["--set", "n"], "'n' sets nothing: write SECTION.OPTION=VALUE"),
        (["--engines", "slrm"], "there is no launcher 'slrm' for the engines; did you mean"),
        (
            ["--set", "controller_port=70000"],
            "'controller_port' in [cluster] must be a port: a whole number from 0 to 65535",
        ),
        (["--engines", "local", "--hosts", "a"], "hosts are for the launcher ssh"),
        (["--cluster", "a b"], "'a b' cannot name a cluster"),
    ],
)
def test_wrong_create(run, home, arguments, text):
    code, out, err = run("create", *arguments)
    assert (code, out) == (1, "")
    assert text in err
    assert not home.exists()


def test_show(run, directory, home):
    code, out, err = run("show", "--cluster", "big")
    assert (code, err) == (0, "")
    assert out.startswith("cluster big: not running\n")
    assert f"  configuration  {directory.path}/ipcluster.ini\n" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["OPTION", "VALUE", "FROM"],
        ["cluster.n", "4", f"{directory.path}/ipcluster.ini:21"],
    ]


def test_show_as_json(run, directory):
    far = {"pid": 7, "started": 1.0, "host": "far.invalid"}
    (directory.pid / "ipcontroller.json").write_text(json.dumps(far))
    code, out, _ = run("show", "--cluster", "big", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["running"] is True
    assert found["processes"] == [{"role": "ipcontroller", "pid": 7, "host": "far.invalid"}]
    assert found["options"]["cluster.n"]["value"] == 4
    assert found["size"] > 1000
    assert "ipcontroller (pid 7 on far.invalid)" in run("show", "--cluster", "big")[1]


def test_show_a_cluster_without_a_file(run, home):
    ClusterDirectory.named().create()
    _, out, _ = run("show")
    assert "configuration  none of its own" in out
    assert "OPTION" not in out


@pytest.mark.parametrize("command", ["show", "delete"])
def test_no_such_cluster(run, home, command):
    code, out, err = run(command, "--cluster", "x")
    assert (code, out) == (1, "")
    assert err == f"ipcluster: there is no cluster x ({home}/cluster_x does not exist)\n"


def test_delete(run, directory):
    code, out, err = run("delete", "--cluster", "big", "--yes")
    assert (code, out, err) == (0, f"deleted cluster big ({directory.path})\n", "")
    assert not directory.exists


def test_delete_asks(run, directory, answers):
    for answer in ([], ["n"], [""], ["what?"]):
        answers[:] = answer
        code, out, _ = run("delete", "--cluster", "big")
        assert code == 1
        assert out.startswith(
            f"delete cluster big: {directory.path} with its logs and state? [y/N]"
        )
        assert directory.exists
    answers[:] = ["Y"]
    assert run("delete", "--cluster", "big")[0] == 0
    assert not directory.exists


def test_delete_without_a_terminal(run, directory, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    code, _, err = run("delete", "--cluster", "big")
    assert code == 1
    assert "add --yes if" in err
    assert directory.exists


def test_delete_what_runs(run, directory):
    mine = Process.this("x").to_dict()
    (directory.pid / "ipcontroller.json").write_text(json.dumps(mine))
    code, _, err = run("delete", "--cluster", "big", "--yes")
    assert code == 1
    assert "cluster big is running" in err
    assert directory.exists


@pytest.mark.parametrize("option", ["cluster", "cluster-dir", "cluster-id", "profile"])
@pytest.mark.parametrize("command", ["delete --yes", "stop", "status", "clean", "config show"])
def test_empty_names_do_not_mean_the_default_cluster(run, home, option, command):
    ClusterDirectory.named().create()
    code, out, err = run(*command.split(), f"--{option}", "")
    assert (code, out) == (1, "")
    assert err == f"ipcluster: --{option} is empty: give it a value, or leave it out\n"
    assert ClusterDirectory.named().exists


def test_stop_all_or_one(run):
    code, _, err = run("stop", "--all", "--cluster", "x")
    assert (code, err) == (1, "ipcluster: give a cluster or --all, not both\n")


def test_errors_of_the_system_name_the_file(run, tmp_path):
    path = tmp_path / ("x" * 300)
    code, _, err = run("show", "--cluster-dir", path)
    assert (code, err) == (1, f"ipcluster: {path}: File name too long\n")


def test_delete_tells_what_is_left(run, tmp_path):
    directory = ClusterDirectory(tmp_path / "here")
    create_cluster(directory)
    (directory.path / "thesis.tex").write_text("x")
    _, out, _ = run("delete", "--cluster-dir", directory.path, "--yes")
    assert out.splitlines()[1] == (f"left in {directory.path}, as it is not ipkernel's: thesis.tex")


# -- config show and check --------------------------------------------------------------------


def test_config_show(run, directory, monkeypatch):
    monkeypatch.setenv("IPKERNEL_LOG_LEVEL", "debug")
    code, out, err = run("config", "show", "--cluster", "big", "--origin")
    rows = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert rows[0] == ["OPTION", "VALUE", "FROM"]
    assert rows[1] == ["cluster.n", "4", f"{directory.path}/ipcluster.ini:21"]
    assert ["cluster.log_level", "DEBUG", "environment", "IPKERNEL_LOG_LEVEL"] in rows
    assert ["cluster.engine_timeout", "60", "default"] in rows
    assert ["cluster.controller_args", "default"] in rows
    assert not any(row[0].startswith("ssh.") for row in rows)
    plain = run("config", "show", "--cluster", "big")[1]
    assert "cluster.engine_timeout" in plain
    assert "default" not in plain
    assert "ssh.user" in run("config", "show", "--all")[1]


def test_config_show_as_json(run, directory):
    out = run("config", "show", "--cluster", "big", "--json")[1]
    assert json.loads(out)["cluster"]["n"] == 4
    out = run("config", "show", "--cluster", "big", "--json", "--origin")[1]
    found = json.loads(out)
    assert found["cluster"]["engines"] == {"value": ["local"], "origin": "default"}
    assert found["slots"]["memory"]["value"] == 0


def test_config_check(run, directory, home):
    path = directory.path / "ipcluster.ini"
    code, out, err = run("config", "check", "--cluster", "big")
    assert (code, out, err) == (0, f"{path}: 1 option set, all of them right\n", "")
    assert run("config", "check", "--cluster", "big", "--quiet") == (0, "", "")
    with path.open("a") as file:
        file.write("[cluster\n")
    code, out, err = run("config", "check", "--cluster", "big")
    assert (code, out) == (1, "")
    assert err.startswith(f"ipcluster: {path}, line ")
    assert err.endswith("'[cluster' is no section: write '[name]'\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts = a:x", "[ssh] hosts has 'a:x', which is no host"),
        ("n = 3\nengines = local:2, local:2", "n=3, but the launchers are to start 4 engines"),
        ("n = 3\nminimum = 4", "minimum (4) must not be more than the number of engines (3)"),
    ],
)
def test_config_check_finds_what_does_not_fit_together(run, directory, text, said):
    (directory.path / "ipcluster.ini").write_text(f"[cluster]\n{text}\n")
    code, _, err = run("config", "check", "--cluster", "big")
    assert code == 1
    assert said in err


def test_config_check_of_nothing(run, home):
    code, out, _ = run("config", "check")
    assert code == 0
    assert out.startswith(f"there is no {home}/cluster_default/ipcluster.ini and no {home}/ipclust")


def test_config_check_of_a_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.ini"
    path.write_text("[cluster]\nn = 3\nhosts = a\n")
    path.chmod(0o600)
    assert run("config", "check", "my.ini")[:2] == (
        0,
        f"{path}: 2 options set, all of them right\n",
    )
    path.write_text("[cluster]\nn = three\n")
    code, _, err = run("config", "check", "my.ini")
    assert code == 1
    assert f"{path}, line 2: 'n' in [cluster] must be a whole number" in err
    code, _, err = run("config", "check", "other.ini")
    assert (code, err) == (1, f"ipcluster: there is no file {tmp_path}/other.ini\n")


def test_config_check_looks_at_the_environment(run, monkeypatch):
    monkeypatch.setenv("IPKERNEL_HOTS", "a")
    code, _, err = run("config", "check")
    assert code == 0
    assert err == (
        "ipcluster: IPKERNEL_HOTS in the environment is no option; did you mean IPKERNEL_HOSTS?\n"
    )
    monkeypatch.setenv("IPKERNEL_SSH_PORT", "x")
    code, _, err = run("config", "check")
    assert code == 1
    assert "environment variable IPKERNEL_SSH_PORT: 'port' in [ssh] must be" in err


def test_wrong_usage(capsys):
    for arguments, text in (
        (["config"], "ipcluster config: the following arguments are required: COMMAND"),
        (["config", "shw"], "ipcluster config: unknown command 'shw'; did you mean 'show'?"),
        (["config", "show", "--orign"], "unknown argument '--orign'; did you mean '--origin'?"),
        (["list", "--cluster", "x"], "ipcluster list: unknown argument '--cluster'"),
        (["delete", "--yess"], "unknown argument '--yess'; did you mean '--yes'?"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == common.USAGE
        assert text in capsys.readouterr().err


# -- config edit ------------------------------------------------------------------------------

EDITOR = """
import os, pathlib, sys
path = pathlib.Path(sys.argv[-1])
steps = pathlib.Path(sys.argv[1])
*rest, step = steps.read_text().split("\\0")
steps.write_text("\\0".join(rest))
exec(step)
"""


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Set up an editor that runs pieces of Python, one each time, on the file called ``path``."""
    steps = tmp_path / "steps"
    program = tmp_path / "editor.py"
    program.write_text(EDITOR)
    monkeypatch.setenv("EDITOR", shlex.join([sys.executable, str(program), str(steps)]))
    return lambda *pieces: steps.write_text("\0".join(reversed(pieces)))


def write(text):
    return f"path.write_text({text!r})"


def files_in(directory):
    return sorted(name for name in os.listdir(directory) if "ipcluster.ini" in name)


def test_edit(run, directory, editor):
    path = directory.path / "ipcluster.ini"
    editor("path.write_text(path.read_text().replace('n = 4', 'n = 5')); path.chmod(0o666)")
    code, out, err = run("config", "edit", "--cluster", "big")
    assert (code, out, err) == (0, f"{path} has changed\n", "")
    assert load(directory).value("cluster", "n") == 5
    assert files_in(directory.path) == ["ipcluster.ini"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_edit_nothing(run, directory, editor):
    path = directory.path / "ipcluster.ini"
    before = path.stat().st_ino
    editor("pass")
    assert run("config", "edit", "--cluster", "big")[:2] == (0, f"{path} is as it was\n")
    assert path.stat().st_ino == before
    assert files_in(directory.path) == ["ipcluster.ini"]


def test_edit_again_until_it_is_right(run, directory, editor, answers):
    path = directory.path / "ipcluster.ini"
    before = path.read_text()
    editor(write("[cluster]\nn = x\n"), write("[clster]\nn = 2\n"), write("[cluster]\nn = 2\n"))
    answers[:] = ["", "y"]
    code, out, err = run("config", "edit", "--cluster", "big")
    assert code == 0
    first, second = err.splitlines()
    assert first.startswith(f"ipcluster: {path}, line 2: 'n' in [cluster] must be")
    assert second.startswith(f"ipcluster: {path}, line 1: unknown section [clster]")
    assert out.count("edit it again? [Y/n] ") == 2
    assert path.read_text() == "[cluster]\nn = 2\n" != before


@pytest.mark.parametrize("answer", [["n"], []])
def test_edit_given_up(run, directory, editor, answers, answer):
    path = directory.path / "ipcluster.ini"
    before = path.read_text()
    editor(write("[clster]\nn = 2"))
    answers[:] = answer
    code, out, _ = run("config", "edit", "--cluster", "big")
    assert code == 1
    assert out.endswith(f"{path} is as it was\n")
    assert path.read_text() == before
    assert files_in(directory.path) == ["ipcluster.ini"]


def test_wrong_edit_without_a_terminal_keeps_both(run, directory, editor, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    before = (directory.path / "ipcluster.ini").read_text()
    editor(write("[clster]\nn = 2"))
    code, _, err = run("config", "edit", "--cluster", "big")
    assert code == 1
    draft = err.rpartition("the edited text is in ")[2].strip()
    with open(draft) as file:
        assert file.read() == "[clster]\nn = 2"
    assert (directory.path / "ipcluster.ini").read_text() == before


def test_edit_repairs_what_is_broken(run, directory, editor):
    path = directory.path / "ipcluster.ini"
    path.write_bytes(b"\xff\xff")
    editor(write("[cluster]\nn = 2\n"))
    assert run("config", "edit", "--cluster", "big")[0] == 0
    assert load(directory).value("cluster", "n") == 2


def test_edit_the_users_file(run, home, editor):
    editor("path.write_text(path.read_text().replace('#n =', 'n = 7'))")
    path = home / "ipcluster.ini"
    assert run("config", "edit", "--user") == (0, f"{path} has changed\n", "")
    assert path.read_text().startswith("# Options of all your clusters.")
    assert load(ClusterDirectory.named("any")).value("cluster", "n") == 7
    assert path.stat().st_mode & 0o777 == 0o600


def test_edit_through_a_link(run, home, editor, tmp_path):
    real = tmp_path / "dotfiles.ini"
    real.write_text("[cluster]\n")
    real.chmod(0o600)
    home.mkdir()
    (home / "ipcluster.ini").symlink_to(real)
    editor(write("[cluster]\nn = 2\n"))
    assert run("config", "edit", "--user")[0] == 0
    assert (home / "ipcluster.ini").is_symlink()
    assert real.read_text() == "[cluster]\nn = 2\n"


def test_somebody_else_edits_at_the_same_time(run, directory, editor):
    path = directory.path / "ipcluster.ini"
    other = "[cluster]\nn = 9\n"
    editor(f"pathlib.Path({str(path)!r}).write_text({other!r}); {write('[cluster]')}")
    code, _, err = run("config", "edit", "--cluster", "big")
    assert code == 1
    assert f"somebody has changed {path} meanwhile; the edited text is in " in err
    assert path.read_text() == other


def test_edit_what_does_not_exist(run, home, editor):
    code, _, err = run("config", "edit", "--cluster", "x")
    assert code == 1
    assert "make it with 'ipcluster create', or edit the options of all" in err


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nowhere/vi", "cannot run the editor '/nowhere/vi'"),
        ("'", "$VISUAL or $EDITOR cannot be understood"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "failed; the file is as it was"),
        (
            f"{sys.executable} -c 'import os, sys; os.unlink(sys.argv[1])'",
            "has removed the file",
        ),
    ],
)
def test_editors_that_fail(run, directory, monkeypatch, command, text):
    monkeypatch.setenv("VISUAL", command)
    code, _, err = run("config", "edit", "--cluster", "big")
    assert code == 1
    assert text in err
    assert files_in(directory.path) == ["ipcluster.ini"]


def test_editors_of_windows(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setenv("EDITOR", r'"C:\Program Files\Vim\gvim.exe" --nofork')
    assert config._editor() == [r"C:\Program Files\Vim\gvim.exe", "--nofork"]


def test_editor_that_fails_after_changes(run, directory, editor):
    editor(write("x") + "; sys.exit(1)")
    code, _, err = run("config", "edit", "--cluster", "big")
    assert code == 1
    assert "failed; what it has left is in " in err
    assert len(files_in(directory.path)) == 2


def test_values_are_shown_as_in_a_file():
    from ipkernel.cluster.configuration import Row

    def shown(value):
        return config._value(Row("cluster", "x", value, ""))

    assert [shown(v) for v in (None, [], "", "a, b", ["a", "b"], 60.0, True)] == [
        "",
        "",
        '""',
        '"a, b"',
        "a, b",
        "60",
        "yes",
    ]
    assert shown("'''\"\"\"") == repr("'''\"\"\"")


def test_sizes_of_directories_that_change(directory, monkeypatch):
    assert creating._size(directory) > 0
    assert creating._size(ClusterDirectory("/nowhere")) == 0
