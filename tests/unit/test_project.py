"""The project's frame: public names, versions, scripts, the leak check and the test reactor."""

from __future__ import annotations

import ast
import importlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import FIRST_COMPLETED
from pathlib import Path

import pytest
from hypothesis import settings

import ipkernel
from tests.support import leaks
from tests.support.reactor import inreactor, run_in_reactor

ROOT = Path(__file__).resolve().parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


# ------------------------------------------------------------------ public names


def test_import_loads_nothing_heavy():
    heavy = "{'twisted', 'foolscap', 'IPython', 'numpy', 'tqdm', 'tabulate', 'asyncio'}"
    code = f"import sys; import ipkernel; print(sorted({heavy} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_all_lists_exactly_the_public_names():
    own = {"__version__", "version_info", "error"}
    assert set(ipkernel.__all__) == set(ipkernel._WHERE) | own
    assert len(ipkernel.__all__) == len(set(ipkernel.__all__))


@pytest.mark.parametrize("name", ipkernel.__all__)
def test_each_public_name_is_there(name):
    value = getattr(ipkernel, name)
    assert ipkernel.__dict__[name] is value, "kept after its first use"
    if name in ipkernel._WHERE:
        assert value is getattr(importlib.import_module(ipkernel._WHERE[name]), name)


def test_type_checkers_are_told_of_every_name():
    tree = ast.parse(Path(ipkernel.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name, alias.asname or alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    expected = {(module, name, name) for name, module in ipkernel._WHERE.items()}
    assert imported == expected | {("ipkernel", "errors", "error")}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'MultiKulti'"):
        ipkernel.MultiKulti  # noqa: B018


def test_names_are_listed_before_their_use():
    names = run_python("import ipkernel; print(' '.join(dir(ipkernel)))").split()
    assert {"Client", "Cluster", "error", "__version__"} <= set(names)


def test_wait_constants_are_those_of_the_standard_library():
    assert ipkernel.FIRST_COMPLETED is FIRST_COMPLETED


# ------------------------------------------------------------------ version and packaging


def test_version_info_says_the_same_as_the_version():
    assert ".".join(map(str, ipkernel.version_info)) == ipkernel.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", ipkernel.__version__)


def test_the_version_is_written_in_one_place():
    assert CONFIG["project"]["dynamic"] == ["version"]
    assert CONFIG["tool"]["setuptools"]["dynamic"]["version"]["attr"] == (
        "ipkernel._version.__version__"
    )


def test_every_dependency_has_a_lower_bound():
    for requirement in CONFIG["project"]["dependencies"]:
        assert ">=" in requirement, requirement


def test_every_dependency_is_explained():
    page = (ROOT / "docs" / "dependencies.rst").read_text().lower()
    for requirement in CONFIG["project"]["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        assert f"``{name}``" in page, name


@pytest.mark.parametrize("name", ["ipcluster", "ipcontroller", "ipengine", "ipdaemon"])
def test_each_command_is_installed_and_in_scripts(name):
    target = f"ipkernel.cli.entry:{name}"
    assert CONFIG["project"]["scripts"][name] == target
    script = ROOT / "scripts" / name
    assert f"from ipkernel.cli.entry import {name}" in script.read_text()
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["ipcluster", "ipcontroller", "ipengine", "ipdaemon"])
def test_each_command_helps_without_loading_the_network(name):
    code = (
        f"import sys; sys.argv = ['{name}', '--help']\n"
        f"from ipkernel.cli import entry\n"
        f"try:\n    entry.{name}()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('twisted' in sys.modules)"
    )
    *text, loaded = run_python(code).splitlines()
    assert name in " ".join(text)
    assert loaded == "False"


def test_news_fragments_have_a_known_type():
    types = {kind["directory"] for kind in CONFIG["tool"]["towncrier"]["type"]}
    for fragment in (ROOT / "newsfragments").glob("*.rst"):
        assert fragment.stem.split(".")[1] in types, fragment.name
        assert fragment.read_text().strip(), fragment.name


# ------------------------------------------------------------------ the leak check itself


def leftovers(before: leaks.Snapshot, *, machine: bool = False) -> str:
    return "\n".join(leaks.wait_until_clean(before, machine=machine, grace=0))


def test_a_socket_left_open_is_seen():
    before = leaks.take(machine=False)
    with socket.socket() as left:
        assert f"descriptor {left.fileno()} (socket:" in leftovers(before)
    assert leftovers(before) == ""


def test_a_thread_left_running_is_seen():
    before = leaks.take(machine=False)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    try:
        assert leftovers(before) == "thread 'forgotten'"
    finally:
        stop.set()
        thread.join()
    assert leftovers(before) == ""


def test_a_file_in_the_temporary_directory_is_seen_and_tmp_path_is_not(tmp_path):
    before = leaks.take(machine=False)
    (tmp_path / "fine").write_text("x")
    assert leftovers(before) == ""
    with tempfile.NamedTemporaryFile(prefix="left-") as left:
        assert f"file {left.name}" in leftovers(before)


def test_a_process_left_running_is_seen_and_ended():
    before = leaks.take(machine=True)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        seen = leftovers(before, machine=True)
        assert f"child process {process.pid} (" in seen
        leaks.end_leftovers(before)
        assert process.wait(10) != 0
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
    assert leftovers(before) == ""


def test_a_process_that_is_nobody_s_child_any_more_is_seen_by_its_cookie():
    before = leaks.take(machine=True)
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)\n"
        "print(p.pid)"
    )
    pid = int(run_python(code))
    assert f"process {pid} (" in leftovers(before, machine=True)
    leaks.end_leftovers(before)
    assert leaks.wait_until_clean(before, machine=True) == []


def test_home_is_not_the_user_s():
    assert "ipkernel-tests-" in str(Path.home())
    assert os.environ["IPYTHONDIR"].startswith(str(Path.home()))


# ------------------------------------------------------------------ the test reactor


def test_inreactor_runs_the_test_in_the_reactor_thread():
    @inreactor
    async def where():
        from twisted.internet import defer

        await defer.succeed(None)
        return threading.current_thread().name

    assert where() != threading.current_thread().name
    assert where() == run_in_reactor(lambda: threading.current_thread().name)


def test_inreactor_passes_failures_on():
    @inreactor
    async def fails():
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        fails()


def test_inreactor_passes_a_timeout_error_of_the_test_on():
    @inreactor
    async def fails():
        raise TimeoutError("my own")

    with pytest.raises(TimeoutError, match="my own"):
        fails()


def test_inreactor_cancels_a_test_that_hangs():
    ended = []

    @inreactor(timeout=0.05)
    async def hangs():
        from twisted.internet import defer

        try:
            await defer.Deferred()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError, match=r"after 0\.05 s"):
        hangs()
    assert ended == [True]


def test_run_in_reactor_takes_functions_and_deferreds():
    from twisted.internet import defer

    assert run_in_reactor(lambda: 42) == 42
    assert run_in_reactor(lambda: defer.succeed(43)) == 43


def test_waiting_for_the_reactor_inside_the_reactor_is_refused():
    @inreactor
    async def nested():
        return run_in_reactor(lambda: None)

    with pytest.raises(RuntimeError, match="await instead"):
        nested()


def test_no_example_of_a_property_has_a_deadline() -> None:
    """On a busy machine it would fail for nothing."""
    assert settings().deadline is None
