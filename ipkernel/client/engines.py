"""The engines as a client sees them."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import attrs

from ipkernel.client.waiting import wait_until
from ipkernel.wire.messages import EngineJoined, EngineLeft
from ipkernel.wire.records import EngineInfo


@attrs.frozen
class Engine:
    """What is known of one engine.

    Attributes:
        id: Its id.
        host: Host name.
        pid: Process id, 0 if not known.
        state: ``"starting"``, ``"ready"``, ``"draining"``, ``"gone"``, ``"restarting"`` or
            ``"dead"``.
        reason: Why it is not ready.
        host_id: The host's number, 0 if not known.
        began: When its process was asked for, by its host's clock; 0 if not known.
    """

    id: int
    host: str = ""
    pid: int = 0
    state: str = "ready"
    reason: str = ""
    host_id: int = 0
    began: float = 0.0

    def __str__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        why = f": {self.reason}" if self.reason else ""
        return f"engine {self.id}{where} is {self.state}{why}"


class Engines:
    """All engines that were ever seen, with those that can be used.

    Attributes:
        changed: Notified when anything changes.
        closing: Why the controller is about to stop, or empty.
        gone: False until the connection to the controller is lost.
        hopeless: Why no engine will come by itself any more, or empty.
    """

    def __init__(self, engines: Iterable[EngineInfo] = ()) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.closing = ""
        self.gone = False
        self.hopeless = ""
        self._known: dict[int, Engine] = {}
        self._ids: tuple[int, ...] = ()
        self.update(engines)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the engines that are ready, in order."""
        return self._ids

    @property
    def known(self) -> dict[int, Engine]:
        """All engines that were seen, by id, also those that are gone."""
        with self.changed:
            return dict(self._known)

    def hosts(self, engines: Iterable[int]) -> list[int]:
        """Return the numbers of the hosts of some engines, each once, as far as they are known."""
        known = self._known
        found = dict.fromkeys(known[one].host_id for one in engines if one in known)
        found.pop(0, None)
        return list(found)

    def update(self, engines: Iterable[EngineInfo]) -> None:
        """Take the state of engines as the controller tells it.

        Those whose host is away for the moment stay what they were: that is over soon, or told.
        """
        with self.changed:
            for info in engines:
                before = self._known.get(info.engine)
                if info.state == "away" and before is not None and before.state == "ready":
                    continue
                self._known[info.engine] = Engine(
                    info.engine,
                    info.host,
                    info.pid,
                    info.state,
                    info.reason,
                    info.host_id,
                    info.began,
                )
            self._refresh()

    def renew(self, engines: Iterable[EngineInfo]) -> None:
        """Take the engines that a controller which was started again knows; there are no others."""
        infos = list(engines)
        present = {info.engine for info in infos}
        with self.changed:
            for number, engine in self._known.items():
                if number not in present and engine.state not in ("dead", "gone"):
                    reason = "the controller was started again and does not know it"
                    self._known[number] = attrs.evolve(engine, state="dead", reason=reason)
            self.update(infos)

    def joined(self, message: EngineJoined) -> None:
        """Take note that an engine is ready."""
        with self.changed:
            self._known[message.engine] = Engine(
                message.engine,
                message.host,
                message.pid,
                host_id=message.host_id,
                began=message.began,
            )
            self.hopeless = ""
            self._refresh()

    def left(self, message: EngineLeft) -> None:
        """Take note that an engine is gone, for a moment or for good."""
        with self.changed:
            before = self._known.get(message.engine, Engine(message.engine))
            state = "restarting" if message.restarting else "dead"
            if message.excused:  # as somebody wants: it is going, and then it has gone
                state = "gone" if before.state == "draining" else "draining"
            self._known[message.engine] = attrs.evolve(before, state=state, reason=message.reason)
            self._refresh()

    def lost(self) -> None:
        """Take note that nothing more will be heard of any engine."""
        with self.changed:
            self.gone = True
            self._refresh()

    def give_up(self, why: str, patience: float) -> bool:
        """Note that no engine will come by itself; say whether there is none either.

        Args:
            why: In a sentence.
            patience: Seconds that the last engines may take to be told of as lost.
        """
        with self.changed:
            self.hopeless = why
            self.changed.notify_all()
            none = wait_until(self.changed, lambda: self.gone or not self._ids, patience)
            if not none or self.gone or not self.hopeless:
                self.hopeless = ""  # there are others, or the controller is gone as well
            return bool(self.hopeless)

    def hope(self) -> None:
        """Note that engines are being started."""
        with self.changed:
            self.hopeless = ""

    def wait_for_change(self, known: dict[int, Engine], timeout: float | None) -> None:
        """Wait until the engines are not those of ``known`` any more, or nothing more will come."""
        with self.changed:
            wait_until(
                self.changed,
                lambda: self.gone or self._known != known or bool(self.hopeless and not self._ids),
                timeout,
            )

    def _refresh(self) -> None:
        self._ids = tuple(sorted(e.id for e in self._known.values() if e.state == "ready"))
        self.changed.notify_all()
