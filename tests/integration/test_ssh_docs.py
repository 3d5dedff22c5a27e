"""The page about ssh is true: what it shows is run on hosts with the names that it uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults_support import wait_for
from tests.support.sshsite import SshSite, needs_sshd
from tests.system.test_docs import ROOT, blocks, promised, script

PAGE = (ROOT / "docs" / "launchers" / "ssh.rst").read_text(encoding="utf-8")
HOSTS = ["a.example", "b.example"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshSite]:
    with SshSite(tmp_path_factory.mktemp("ssh") / "site", {name: [] for name in HOSTS}) as made:
        yield made


def run(site: SshSite, *words: str, **environment: str) -> str:
    """Run something in the way of a user whose ssh knows the hosts; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        site.command(*words),
        env=site.environment(
            PATH=path, IPKERNEL_SSH_SSH_CONFIG=str(site.ssh_config), **environment
        ),
        cwd=site.home("here"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def assert_empty(site: SshSite) -> None:
    wait_for(lambda: not any(site.processes(name) + site.left(name) for name in HOSTS))


@needs_sshd
def test_the_examples_print_what_the_page_says(site: SshSite) -> None:
    program = site.home("here") / "page.py"
    program.write_text(script(PAGE))
    assert run(site, sys.executable, str(program), IPKERNEL_SSH_PYTHON=sys.executable) == promised(
        PAGE
    )
    assert_empty(site)


@needs_sshd
def test_the_commands_work_with_the_configuration_of_the_page(site: SshSite) -> None:
    # The page's Python is in a virtual environment of the user on one host, and in a module of
    # the system on the other one.
    venv = site.home("a.example") / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "python").chmod(0o700)
    profile = site.home("b.example") / ".bashrc"
    profile.write_text(
        f"module() {{ PATH={Path(sys.executable).parent}:$PATH; }}\nexport -f module\n"
    )
    directory = site.home("here") / ".ipython"
    directory.mkdir(exist_ok=True)
    (configuration,) = [block.text for block in blocks(PAGE) if block.language == "ini"]
    (directory / "ipcluster.ini").write_text(configuration)
    (commands,) = [block.text for block in blocks(PAGE) if block.language == "shell"]
    said = run(site, "bash", "-ec", commands)
    assert "3 engines" in said
    assert all(name in said for name in HOSTS)
    assert_empty(site)
