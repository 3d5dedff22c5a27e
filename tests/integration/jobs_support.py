"""What tests of launchers for batch systems share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers import find_launcher
from tests.integration.faults_support import PATIENCE
from tests.system.test_docs import ROOT, blocks, promised, script

PAGES = ROOT / "docs" / "launchers"


class Jobs:
    """Programs of one cluster, most of them in jobs; see :func:`jobs_of`.

    Args:
        directory: The cluster's directory.
        system: Name of the launcher.
    """

    def __init__(self, directory: ClusterDirectory, system: str) -> None:
        self.directory = directory
        self.system = system
        self.made: list[Any] = []

    def launch(self, kind: str, name: str = "", *arguments: str, **keywords: Any) -> Any:
        """Start a program by the launcher ``name``, by default the batch system's."""
        launcher_class = find_launcher(kind, name or self.system)
        directory = self.directory
        common = ["--cluster-dir", str(directory), "--cluster", directory.name]
        launcher = launcher_class(directory, [*common, *arguments], **keywords)
        self.made.append(launcher)
        launcher.start()
        return launcher

    def controller(self) -> Any:
        """Start a controller on this host and wait until it is ready."""
        controller = self.launch("controller", "local")
        controller.wait_event("ready", PATIENCE)
        return controller

    def engines(self, n: int, *, environment: Any = None, on_stop: Any = None, **options: Any):
        """Start jobs with ``n`` engines altogether."""
        options = {"poll": 1.0, **options}
        where = ["--furl-file", str(self.directory.furl_file("engine")), "--wait", f"{PATIENCE:g}"]
        more = {"options": options, "environment": environment, "on_stop": on_stop}
        return [
            self.launch("engines", "", *where, "-n", str(share.n), share=share, **more)
            for share in find_launcher("engines", self.system).plan(n, options)
        ]


@contextlib.contextmanager
def jobs_of(directory: ClusterDirectory, system: str) -> Iterator[Jobs]:
    """Let a test start jobs; at the end they are killed, and must leave no script behind."""
    jobs = Jobs(directory, system)
    try:
        yield jobs
    finally:
        for launcher in jobs.made:
            launcher.kill()
        for launcher in jobs.made:
            assert launcher.wait(PATIENCE), f"{launcher!r} cannot be ended"
            launcher.close()
    scripts = directory.path / "jobs"
    assert not scripts.exists() or os.listdir(scripts) == []


class Page:
    """A page of the documentation, tried out as a user would.

    Args:
        name: Of the page.
        directory: An empty directory for all that its examples leave.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.text = (PAGES / f"{name}.rst").read_text(encoding="utf-8")
        self.home = directory / "ipython"
        self.home.mkdir()
        self._directory = directory
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        self._environment = {**os.environ, "IPYTHONDIR": str(self.home), "PATH": path}

    def run(self, *command: str) -> str:
        """Run a command; return what it prints."""
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def check_python(self) -> None:
        """Run the page's Python: it must print what the page says."""
        program = self._directory / "page.py"
        program.write_text(script(self.text), encoding="utf-8")
        assert self.run(sys.executable, str(program)) == promised(self.text)

    def block(self, caption: str) -> str:
        """Return the first block with a caption that ends so."""
        return next(
            block.text
            for block in blocks(self.text)
            if block.options.get("caption", "").endswith(caption)
        )

    def configure(self) -> None:
        """Take over the page's configuration."""
        (self.home / "ipcluster.ini").write_text(self.block("ipcluster.ini"))

    def check_commands(self) -> list[str]:
        """Run the page's commands; return what each of them prints."""
        lines = [b.text.splitlines() for b in blocks(self.text) if b.language == "console"]
        commands = [line.removeprefix("$ ") for block in lines for line in block]
        return [self.run("sh", "-c", command) for command in commands]
