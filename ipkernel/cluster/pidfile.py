"""Files that say which process does a job, so that no other one does it too."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from ipkernel.cluster.processes import is_copy
from ipkernel.vitals import same_process_lives


class AlreadyRunning(Exception):
    """A pid file names a process that lives; the text says which and what to do."""


class PidFile:
    """A file that says which process does a job: ``{pid, started, host, cluster, name, directory}``.

    The start time tells the process from a later one with the same number, the directory a file
    from its copy.

    Args:
        path: The file, in a directory that exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, object] | None:
        """Return what the file says, or None when it is missing or garbled."""
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or not isinstance(content.get("pid"), int):
            return None
        return content

    def state(self) -> str:
        """Return ``"none"``, ``"dead"``, ``"alive"``, or ``"elsewhere"`` for another host's.

        A copy of another cluster's file is as good as dead.
        """
        content = self.read()
        if content is None:
            return "none"
        if content.get("host") not in ("", None, socket.gethostname()):
            return "elsewhere"
        started = content.get("started")
        pid = content["pid"]
        assert isinstance(pid, int)
        alive = isinstance(started, int | float) and same_process_lives(pid, float(started))
        alive = alive and not is_copy(self.path, content)
        return "alive" if alive else "dead"

    def claim(self, cluster: str = "", name: str = "") -> None:
        """Write this process into the file.

        Args:
            cluster: Name of the cluster.
            name: Name of the program, for messages.

        Raises:
            AlreadyRunning: The file names another process that lives.
            OSError: The file cannot be written.
        """
        temporary = self._write_beside(cluster, name)
        try:
            while True:
                try:
                    os.link(temporary, self.path)
                    return
                except FileExistsError:
                    self._put_aside(temporary.with_suffix(".old"))
                except OSError:  # a file system without hard links
                    self._refuse_if_taken()
                    os.replace(temporary, self.path)
                    return
        finally:
            temporary.unlink(missing_ok=True)

    def _put_aside(self, old: Path) -> None:
        """Remove a file whose process is gone; of several who try it at the same time, one does."""
        stale = self.read()
        self._refuse_if_taken()
        try:
            os.replace(self.path, old)
        except FileNotFoundError:
            return
        moved = PidFile(old)
        if moved.read() != stale:  # it was another one's by then
            with suppress(OSError):
                os.link(old, self.path)
        old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file if it names this process."""
        content = self.read()
        if content is not None and content["pid"] == os.getpid():
            self.path.unlink(missing_ok=True)

    def _write_beside(self, cluster: str, name: str) -> Path:
        import psutil

        content = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "cluster": cluster,
            "name": name,
            "directory": os.path.abspath(self.path.parent),
        }
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
                file.write("\n")
        except OSError as error:
            os.unlink(temporary)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        return Path(temporary)

    def _refuse_if_taken(self) -> None:
        content = self.read()
        state = self.state()
        if content is None or state in ("none", "dead") or content["pid"] == os.getpid():
            return
        what = f"{content.get('name') or 'a process'} with pid {content['pid']}"
        if state == "alive":
            raise AlreadyRunning(
                f"{what} already runs here, says {self.path}: stop it before you start another"
            )
        raise AlreadyRunning(
            f"{what} runs on host {content.get('host')}, says {self.path}: stop it there, or "
            f"remove that file if it is gone"
        )
