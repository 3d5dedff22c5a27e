# ruff: noqa: N805, RET501
# mypy: disable-error-code="no-untyped-def, misc, assignment, override, return-value, valid-type, attr-defined, no-untyped-call"
"""The Foolscap interfaces: what each role may call, with bounds on every argument.

A door is a Foolscap object behind one FURL. All arguments and answers are byte strings made
by :mod:`ipkernel.wire.records`; Foolscap refuses longer ones before they are buffered.

The methods of a RemoteInterface are schemas, not code: they have no ``self``, their defaults
bound the arguments, and what they "return" bounds the answer.
"""

from __future__ import annotations

from typing import Final

from foolscap.api import RemoteInterface
from foolscap.schema import ByteStringConstraint

#: Bounds in bytes.
REQUEST: Final = ByteStringConstraint(maxLength=1 << 18)
ANSWER: Final = ByteStringConstraint(maxLength=1 << 24)
NOTICE: Final = ByteStringConstraint(maxLength=1 << 12)


class RIClient(RemoteInterface):
    """A client, as the controller sees it: presence and farewells."""

    __remote_name__ = "RIClient.ipkernel"

    def closing(reason=NOTICE):
        """The controller is about to stop; ``reason`` is UTF-8 text."""
        return None


class RIHost(RemoteInterface):
    """A host daemon, as the controller sees it."""

    __remote_name__ = "RIHost.ipkernel"

    def start_engines(order=REQUEST):
        """Start engines with the ids of an EngineOrder; answers an EngineAnswer."""
        return ANSWER

    def stop_engines(order=REQUEST):
        """End engines for good; answers an EngineAnswer when they are gone."""
        return ANSWER

    def restart_engines(order=REQUEST):
        """End engines and start them again under the same ids; answers an EngineAnswer."""
        return ANSWER

    def signal_engines(order=REQUEST):
        """Send a signal to engines; answers an EngineAnswer."""
        return ANSWER

    def stop(reason=NOTICE):
        """End all engines and the daemon itself."""
        return None


class RIClientDoor(RemoteInterface):
    """What the client role may do."""

    __remote_name__ = "RIClientDoor.ipkernel"

    def open(client=RIClient, hello=REQUEST):
        """Open a session with a ClientHello; answers a SessionGrant."""
        return ANSWER

    def status(request=NOTICE):
        """Answers a Status; ``request`` is empty."""
        return ANSWER

    def explain(query=REQUEST):
        """Answers TaskStories for a TaskQuery."""
        return ANSWER

    def search(query=REQUEST):
        """Answers a Page of tasks for a Search."""
        return ANSWER

    def purge(order=REQUEST):
        """Forget tasks that have ended; answers Purged for a Purge."""
        return ANSWER

    def signal_engines(order=REQUEST):
        """Send a signal to engines; answers an EngineAnswer."""
        return ANSWER

    def restart_engines(order=REQUEST):
        """Restart engines under their ids; answers an EngineAnswer."""
        return ANSWER

    def describe_engines(description=REQUEST):
        """Change properties of engines as a Description says; answers EngineProperties."""
        return ANSWER


class RIEngineDoor(RemoteInterface):
    """What the engine role may do: join with engines, and nothing else."""

    __remote_name__ = "RIEngineDoor.ipkernel"

    def register(host=RIHost, hello=REQUEST):
        """Join with a HostHello; answers a HostGrant."""
        return ANSWER


class RIMonitorDoor(RemoteInterface):
    """What the monitor role may do: look."""

    __remote_name__ = "RIMonitorDoor.ipkernel"

    def status(request=NOTICE):
        """Answers a Status; ``request`` is empty."""
        return ANSWER

    def explain(query=REQUEST):
        """Answers TaskStories for a TaskQuery."""
        return ANSWER

    def search(query=REQUEST):
        """Answers a Page of tasks for a Search."""
        return ANSWER


class RIAdminDoor(RemoteInterface):
    """What the admin role may do: change the cluster itself."""

    __remote_name__ = "RIAdminDoor.ipkernel"

    def status(request=NOTICE):
        """Answers a Status; ``request`` is empty."""
        return ANSWER

    def start_engines(order=REQUEST):
        """Start more engines on the hosts there are; answers an EngineAnswer."""
        return ANSWER

    def stop_engines(order=REQUEST):
        """End engines for good; answers an EngineAnswer."""
        return ANSWER

    def restart_engines(order=REQUEST):
        """Restart engines under their ids; answers an EngineAnswer."""
        return ANSWER

    def signal_engines(order=REQUEST):
        """Send a signal to engines; answers an EngineAnswer."""
        return ANSWER

    def shutdown(reason=NOTICE):
        """End every engine, every host daemon and the controller."""
        return None
