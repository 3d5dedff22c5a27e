"""A directory of objects with pretended hosts and clients, checked after every step."""

from __future__ import annotations

from ipkernel.controller.objectchecks import validate_objects
from ipkernel.controller.objects import Directory
from ipkernel.wire.messages import Free, Message, Provide, Source

ALICE, BOB = 100, 200  # sessions
TASK = 1 << 40


def oid(number: int) -> bytes:
    return number.to_bytes(16, "big")


X, Y, Z = (bytes([c]) * 16 for c in b"\xaa\xbb\xcc")


class Places:
    """A directory with hosts 1..n, and the latest messages to each place."""

    def __init__(self, hosts: int = 4) -> None:
        self.d = Directory()
        self.sent: list[tuple[int, Message]] = []
        for number in range(1, hosts + 1):
            self.d.host_joined(number, f"n{number}")

    def settle(self) -> list[tuple[int, Message]]:
        self.d.settle()
        self.sent = self.d.take_out()
        self.d.missing.clear()
        validate_objects(self.d)
        return self.sent

    def at(self, host: int, *ids: bytes, session: int = ALICE, length: int = 1000) -> None:
        for object_id in ids:
            self.d.made(object_id, length, host)
            self.d.refer(session, object_id)
        self.settle()

    def kept_by(self, session: int, *ids: bytes) -> None:
        for object_id in ids:
            self.d.made(object_id, 1000, 0, session)
            self.d.refer(session, object_id)
        self.settle()

    def seek(self, object_id: bytes, *places: int, failed: int = 0, problem: str = "") -> None:
        for place in places:
            self.d.seek(place, object_id, failed, problem)
        self.settle()

    def copied(self, host: int, *ids: bytes) -> None:
        self.d.copied(host, ids)
        self.settle()

    def sources(self) -> dict[int, int]:
        """Who was told to fetch from where."""
        return {p: m.host for p, m in self.sent if isinstance(m, Source) and not m.problem}

    def problems(self) -> dict[int, str]:
        return {p: m.problem for p, m in self.sent if isinstance(m, Source) and m.problem}

    def freed(self) -> set[tuple[int, bytes]]:
        return {(p, o) for p, m in self.sent if isinstance(m, Free) for o in m.objects}

    def provides(self) -> list[tuple[int, bytes, int]]:
        return [(p, m.object, m.host) for p, m in self.sent if isinstance(m, Provide)]
