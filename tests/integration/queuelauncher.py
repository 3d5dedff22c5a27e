"""A launcher with a queue: its jobs are real host daemons of this machine, once they are let go."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

from ipkernel.launchers.local import LocalHostLauncher


class QueuedHost(LocalHostLauncher):
    """A job that is a file as long as it waits, and then a process.

    Attributes:
        submitted: All jobs of this process.
    """

    immediate = False
    submitted: ClassVar[list[QueuedHost]] = []
    _numbers: ClassVar[Any] = itertools.count(1)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.job = ""

    @classmethod
    def from_record(cls, directory: Any, record: Any, options: Any) -> QueuedHost:
        launcher = cls(directory, options=options)
        launcher.job = record["job"]
        return launcher

    @property
    def label(self) -> str:
        return f"fake job {self.job}" if self.job else ""

    @property
    def file(self) -> Path:
        return Path(self.directory) / "state" / f"job-{self.job}"

    @property
    def pending(self) -> bool:
        return bool(self.job) and self.file.exists()

    @property
    def running(self) -> bool:
        return self.pending or super().running

    def command(self) -> list[str]:
        return [*super().command(), "--label", self.label]

    def start(self) -> None:
        self.job = str(next(self._numbers))
        self.file.touch()
        self.submitted.append(self)
        self.tell({"event": "submitted", "job": self.job})

    def let_go(self) -> None:
        """Run it."""
        super().start()
        self.file.unlink()

    def state(self) -> str:
        return "pending (Priority)" if self.pending else super().state()

    def record(self) -> dict[str, Any]:
        return {"job": self.job}

    def request_stop(self) -> None:
        self.file.unlink(missing_ok=True)
        super().request_stop()
