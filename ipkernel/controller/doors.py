# mypy: allow-untyped-calls, disable-error-code="misc"
"""The Foolscap objects behind the FURLs: one for each role, with that role's methods only.

They decode requests, pass them on to the service, and encode its answers. What goes wrong
reaches the caller as one line and never shows in the log as a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from foolscap.referenceable import Referenceable
from msgspec import MsgspecError, structs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ipkernel.errors import KernelError
from ipkernel.wire.doors import RIAdminDoor, RIClientDoor, RIEngineDoor, RIMonitorDoor
from ipkernel.wire.queries import Purge, Search
from ipkernel.wire.records import (
    MAX_STORIES,
    ClientHello,
    Description,
    EngineAnswer,
    EngineOrder,
    EngineStory,
    HostHello,
    Record,
    Status,
    TaskQuery,
    TaskStories,
    TaskStory,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from ipkernel.controller.service import Controller

R = TypeVar("R", bound=Record)
S = TypeVar("S", TaskStory, EngineStory)

#: Characters of all stories that an answer has, and what stands in the place of others.
_STEPS: Final = 1 << 20
_NO_ROOM: Final = "there is no room for its story in this answer: ask for fewer at a time"


def read_request(kind: type[R], data: bytes) -> R:
    """Return the record in a request.

    Raises:
        KernelError: The bytes are not one.
    """
    try:
        return unpack(kind, data)
    except MsgspecError as error:
        raise KernelError(f"this is not a {kind.__name__}: {error}") from None


def _packed(answer: Deferred[Any]) -> Deferred[bytes]:
    return answer.addCallback(pack)


def _fitting(stories: Iterable[S]) -> list[S]:
    """Leave the steps out of stories for which an answer has no room."""
    left = _STEPS
    fitting: list[S] = []
    for story in stories:
        left -= sum(map(len, story.story))
        fitting.append(story if left >= 0 else structs.replace(story, story=[_NO_ROOM]))
    return fitting


class _Door(Referenceable):
    """A door to the controller.

    Args:
        controller: The service behind it.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def _status(self) -> bytes:
        status: Status = self._controller.status()
        return pack(status)

    def _explain(self, query: bytes) -> bytes:
        request = read_request(TaskQuery, query)
        tasks = request.tasks
        if request.label:
            found = self._controller.scheduler.labelled(request.label, MAX_STORIES - len(tasks))
            tasks = [*tasks, *found]
        controller = self._controller
        return pack(
            TaskStories(
                stories=_fitting(controller.explain(task) for task in dict.fromkeys(tasks)),
                engines=_fitting(map(controller.explain_engine, dict.fromkeys(request.engines))),
            )
        )

    def _search(self, query: bytes) -> Deferred[bytes]:
        return _packed(self._controller.inquiries.search(read_request(Search, query)))

    def _order(
        self, do: Callable[[EngineOrder], Deferred[EngineAnswer]], order: bytes
    ) -> Deferred[bytes]:
        return _packed(do(read_request(EngineOrder, order)))


@implementer(RIClientDoor)
class ClientDoor(_Door):
    """What the client role may do."""

    def remote_open(self, client: Any, hello: bytes) -> Deferred[bytes]:
        """Open a session."""
        return _packed(self._controller.open_session(client, read_request(ClientHello, hello)))

    def remote_status(self, request: bytes) -> bytes:
        """Return the state of the cluster."""
        return self._status()

    def remote_explain(self, query: bytes) -> bytes:
        """Return where tasks are and why."""
        return self._explain(query)

    def remote_search(self, query: bytes) -> Deferred[bytes]:
        """Return tasks that are like what is looked for."""
        return self._search(query)

    def remote_purge(self, order: bytes) -> Deferred[bytes]:
        """Forget tasks that have ended."""
        return _packed(self._controller.inquiries.purge(read_request(Purge, order)))

    def remote_signal_engines(self, order: bytes) -> Deferred[bytes]:
        """Send a signal to engines."""
        return self._order(self._controller.orders.signal, order)

    def remote_restart_engines(self, order: bytes) -> Deferred[bytes]:
        """Restart engines under their ids."""
        return self._order(self._controller.orders.restart, order)

    def remote_describe_engines(self, description: bytes) -> Deferred[bytes]:
        """Change properties of engines, and return what they are."""
        return _packed(self._controller.describe(read_request(Description, description)))


@implementer(RIEngineDoor)
class EngineDoor(_Door):
    """What the engine role may do."""

    def remote_register(self, host: Any, hello: bytes) -> Deferred[bytes]:
        """Join with engines."""
        return _packed(self._controller.register_host(host, read_request(HostHello, hello)))


@implementer(RIMonitorDoor)
class MonitorDoor(_Door):
    """What the monitor role may do."""

    def remote_status(self, request: bytes) -> bytes:
        """Return the state of the cluster."""
        return self._status()

    def remote_explain(self, query: bytes) -> bytes:
        """Return where tasks are and why."""
        return self._explain(query)

    def remote_search(self, query: bytes) -> Deferred[bytes]:
        """Return tasks that are like what is looked for."""
        return self._search(query)


@implementer(RIAdminDoor)
class AdminDoor(_Door):
    """What the admin role may do."""

    def remote_status(self, request: bytes) -> bytes:
        """Return the state of the cluster."""
        return self._status()

    def remote_start_engines(self, order: bytes) -> Deferred[bytes]:
        """Start more engines."""
        return self._order(self._controller.orders.start, order)

    def remote_stop_engines(self, order: bytes) -> Deferred[bytes]:
        """End engines for good."""
        return self._order(self._controller.orders.stop, order)

    def remote_restart_engines(self, order: bytes) -> Deferred[bytes]:
        """Restart engines under their ids."""
        return self._order(self._controller.orders.restart, order)

    def remote_signal_engines(self, order: bytes) -> Deferred[bytes]:
        """Send a signal to engines."""
        return self._order(self._controller.orders.signal, order)

    def remote_shutdown(self, reason: bytes) -> None:
        """End everything."""
        self._controller.shutdown(reason.decode("utf-8", "replace"))


#: The door of each role.
DOORS: dict[str, type[_Door]] = {
    "client": ClientDoor,
    "engine": EngineDoor,
    "monitor": MonitorDoor,
    "admin": AdminDoor,
}


def monitor_methods(controller: Controller) -> dict[str, Callable[[bytes], Any]]:
    """Return what the monitor role may ask, by name.

    Args:
        controller: Who answers.
    """
    door = MonitorDoor(controller)
    return {name: getattr(door, f"remote_{name}") for name in RIMonitorDoor.names()}
