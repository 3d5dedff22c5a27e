"""What the controller knows of one object, and of those who look for it."""

from __future__ import annotations

from typing import TypeAlias

from ipkernel.sizes import size_text

Place: TypeAlias = int
"""Where an object can be: the number of a host, or minus the number of a client's session."""


class Seeker:
    """Somebody who has asked where an object is.

    Attributes:
        source: From where it was told to fetch it, or 0 while it waits for an answer.
        asked: How many questions of it have not been answered.
        avoid: From where it could not be fetched, and why not.
        done: How many bytes are there, if it takes long.
        told: The sessions that were told of that.
    """

    __slots__ = ("asked", "avoid", "done", "source", "told")

    def __init__(self) -> None:
        self.source: Place = 0
        self.asked = 0
        self.avoid: dict[Place, str] = {}
        self.done = 0
        self.told: set[int] = set()


class Entry:
    """One object.

    Attributes:
        id: Its id.
        length: Its bytes.
        holders: The hosts that have it.
        client: The session whose client has it and provides it when asked to, or 0.
        references: Who refers to it: numbers of sessions, and ids of tasks whose result it is
            and waits to be fetched.
        tasks: The tasks that need it.
        seekers: Who looks for it.
        queued: The places that it stands in the queue of.
        lost: Whether it was found to be lost.
        last: How the latest copy came to be lost.
    """

    __slots__ = (
        "client", "holders", "id", "last", "length", "lost",
        "queued", "references", "seekers", "tasks",
    )  # fmt: skip

    def __init__(self, object_id: bytes, length: int) -> None:
        self.id = object_id
        self.length = length
        self.holders: set[int] = set()
        self.client = 0
        self.references: set[int] = set()
        self.tasks: set[int] = set()
        self.seekers: dict[Place, Seeker] = {}
        self.queued: set[Place] = set()
        self.lost = False
        self.last = "nobody has it"

    @property
    def wanted(self) -> bool:
        """Whether anybody refers to it."""
        return bool(self.references or self.tasks)

    @property
    def available(self) -> bool:
        """Whether there is a copy, or one that is being made."""
        return bool(self.holders or self.client or self.coming())

    def coming(self, to: Place = 0) -> bool:
        """Tell whether a host is fetching it, and ``to`` could fetch it from there then."""
        if not self.seekers:
            return False
        avoid = self.seekers[to].avoid if to else ()
        return any(
            seeker.source and place > 0 and place not in avoid
            for place, seeker in self.seekers.items()
        )

    def __str__(self) -> str:
        return f"object {short(self.id)} ({size_text(self.length)})"


def short(object_id: bytes) -> str:
    """Return enough of an id for people; who knows all of it may use the object."""
    return object_id[:4].hex()
