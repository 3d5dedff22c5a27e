"""What tests of launchers for batch systems share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers import find_launcher
from tests.integration.faults_support import PATIENCE


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
