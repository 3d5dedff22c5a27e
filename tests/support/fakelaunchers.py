"""Launchers as another package may bring them, in several shapes; nothing of them is a process.

Each shape is made anew by :func:`shape`, so that what a test's launchers have started is its own.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.entries import Entry
from ipkernel.cluster.programs import Programs
from ipkernel.cluster.settings import Settings
from ipkernel.errors import LauncherError
from ipkernel.launchers.interfaces import Share


class Fake:
    """A launcher that is told by the test, or by its subclass, what its program does.

    Attributes:
        made: All of this class that were made.
        labels: Of the shares that :meth:`plan` makes; engines are divided evenly.
    """

    name = "ipdaemon"
    SPEC = ""
    immediate = True
    elsewhere = False
    labels: ClassVar[tuple[str, ...]] = ("",)
    made: ClassVar[list[Any]]
    numbers: ClassVar[Any]

    def __init__(
        self,
        directory: Any,
        arguments: Any = (),
        *,
        lifeline: bool = True,
        on_event: Any = None,
        on_stop: Any = None,
        environment: Any = None,
        options: Mapping[str, Any] = {},  # noqa: B006 - it is only read
        share: Share = Share(0),  # noqa: B008 - it is immutable
    ) -> None:
        self.directory = directory
        self.arguments = list(arguments)
        self.options = options
        self.share = share
        self.environment = environment
        self.pid = 0
        self.exit_code: int | None = None
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.closed = False
        self._on_event = on_event
        self._on_stop = on_stop
        self._changed = threading.Condition()
        self.made.append(self)

    @classmethod
    def plan(cls, n: int | None, options: Mapping[str, Any]) -> list[Share]:
        count = len(cls.labels) if n is None else n
        each, more = divmod(count, len(cls.labels))
        return [Share(each + (i < more), label) for i, label in enumerate(cls.labels)]

    @property
    def label(self) -> str:
        return self.share.label

    @property
    def running(self) -> bool:
        return bool(self.pid) and self.exit_code is None

    def argument(self, name: str) -> str:
        return str(self.arguments[self.arguments.index(name) + 1])

    # -- what tests say --------------------------------------------------------------------

    def tell(self, event: str, **fields: Any) -> None:
        said = {"event": event, **fields}
        with self._changed:
            self.events.append(said)
            self._changed.notify_all()
        if self._on_event is not None:
            self._on_event(said)

    def ready(self, first: int = 0) -> None:
        ids = list(range(first, first + int(self.argument("-n"))))
        self.tell("registered", engines=ids)
        self.tell("ready", engines=ids)

    def end(self, code: int) -> None:
        if not self.running:
            return
        with self._changed:
            self.exit_code = code
            self._changed.notify_all()
        if self._on_stop is not None:
            self._on_stop(self)

    def begun(self) -> None:
        """Do what the shape does."""

    # -- what a launcher does --------------------------------------------------------------

    def start(self) -> None:
        self.pid = 1000 + next(self.numbers)
        self.begun()

    def wait_event(self, event: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for said in self.events:
                    if said["event"] == event:
                        return said
                    if said["event"] == "error":
                        raise LauncherError(f"{self.name} failed: {said['message']}")
                if not self.running:
                    raise LauncherError(f"{self.name} ended with code {self.exit_code}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(event)
                self._changed.wait(left)

    def wait(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.running, timeout)

    def request_stop(self) -> None:
        self.asked.append("stop")
        self.end(0)

    def terminate(self) -> None:
        self.asked.append("terminate")
        self.end(-15)

    def kill(self) -> None:
        self.asked.append("kill")
        self.end(-9)

    def signal(self, name: str) -> None:
        self.asked.append(name)

    def output(self, lines: int = 20) -> list[str]:
        return [f"log of {self.label}"][:lines]

    def close(self) -> None:
        self.closed = True

    def state(self) -> str:
        return "running" if self.running else "ended"

    def record(self) -> dict[str, Any]:
        return {"pid": self.pid}

    def preview(self) -> str:
        return f"run {self.name} {' '.join(self.arguments)}"


class Ready(Fake):
    """Works at once, with engines whose ids follow those of the launchers before."""

    def begun(self) -> None:
        self.ready(sum(int(one.argument("-n")) for one in self.made if one is not self))


class Refusing(Fake):
    """Cannot start anything."""

    def start(self) -> None:
        raise LauncherError(f"there is no way to {self.label or 'this host'}")


class Failing(Fake):
    """Starts a program that fails."""

    def begun(self) -> None:
        self.tell("error", message=f"no Python on {self.label or 'this host'}\nreally")
        self.end(1)


class Stubborn(Ready):
    """Starts a program that has to be killed."""

    def request_stop(self) -> None:
        self.asked.append("stop")

    def terminate(self) -> None:
        self.asked.append("terminate")


class Queued(Fake):
    """Submits jobs, which run when the test says so; other launchers can find them again."""

    immediate = False
    elsewhere = True
    jobs: ClassVar[dict[str, Queued]]

    def begun(self) -> None:
        self.jobs[self.label] = self
        self.tell("submitted", job=self.label)

    @property
    def label(self) -> str:
        return f"fake job {self.pid - 1000}" if self.pid else self.share.label

    def state(self) -> str:
        ready = any(said["event"] == "ready" for said in self.events)
        return ("running" if ready else "pending (Priority)") if self.running else "ended"

    def record(self) -> dict[str, Any]:
        return {"job": self.label}

    @classmethod
    def from_record(cls, directory: Any, record: Any, options: Any) -> Queued:
        return cls.jobs[record["job"]]


class Controller(Fake):
    """A controller that is ready at once."""

    name = "ipcontroller"

    def begun(self) -> None:
        self.tell("ready")


def shape(kind: type[Fake], *labels: str, **attributes: Any) -> Any:
    """Return a class of a shape, of which nothing was made yet.

    Args:
        kind: The shape.
        labels: Where its programs run, one each.
        attributes: Further attributes of the class.
    """
    content = {"made": [], "numbers": itertools.count(1), "jobs": {}, **attributes}
    return type(kind.__name__, (kind,), content | ({"labels": labels} if labels else {}))


@contextlib.contextmanager
def many_programs(path: Path, seen: list[Any]) -> Iterator[Callable[..., Programs]]:
    """Yield what makes the programs of a cluster whose controller has been started; end them all.

    Args:
        path: The cluster's directory.
        seen: Gets the events, as pairs of a program's name and what it said.
    """
    made: list[Programs] = []

    def go(controller: Any = None, **settings: Any) -> Programs:
        entry = Entry("local", controller or shape(Controller))
        settings.setdefault("on_event", lambda name, event: seen.append((name, event)))
        found = Programs(
            ClusterDirectory(path), False, Settings(entry, stop_timeout=0.1, **settings)
        )
        found.start_controller()
        made.append(found)
        return found

    yield go
    for found in made:
        found.end(controller=True)
