"""Engines that are the ranks of an MPI job: processes that the job's launcher has started.

They come by themselves, to a socket in a private directory, and live and die together: when one
of them ends unexpectedly, so do all. Why it has ended knows for sure only the process that has
started it, which is MPI's: so the engines are reported as lost when the job's launcher has left its
verdict in a file, or when that has taken too long.

Nothing here needs Twisted until :meth:`RankStarter.attach`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from contextlib import suppress
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

from attrs import define
from zope.interface import implementer

from ipkernel.cli.process import emit
from ipkernel.engine.rank import COME
from ipkernel.engine.zygote import receive_message, send_message
from ipkernel.host.interfaces import Begun, IEngineStarter, Job, Place, StarterEvents
from ipkernel.host.processes import Exit, kill_group, signal_process
from ipkernel.host.rankplace import Ranks, exit_of, listen, read_verdict
from ipkernel.host.zygotes import make_ends
from ipkernel.host.zygotewire import ZygoteWire
from ipkernel.launchers.mpiwords import how_it_ended, the_others

__all__ = ["RankStarter"]

logger = logging.getLogger(__name__)

#: Seconds in which a rank that has connected must say who it is.
HELLO_TIME: Final = 10.0
#: Seconds between looks whether the rank that has started this process is still there.
PARENT_LOOK: Final = 0.1
#: Seconds for which the verdict on a job that has failed is waited for, and how many of them when
#: no rank is left here; and between looks.
VERDICT_TIME: Final = 15.0
VERDICT_TIME_ALONE: Final = 5.0
VERDICT_LOOK: Final = 0.05
#: Seconds from the first end of a rank to a look at all that have ended by then.
SETTLE: Final = 0.03
#: Seconds that the ranks may take to leave MPI together, from the first signal that would end them.
FINALIZE_TIME: Final = 5.0


#: What MPI ends ranks with.
_ENDED_BY_MPI: Final = (int(signal.SIGTERM), int(signal.SIGKILL))


@define(eq=False)
class _Rank:
    """One rank of this host.

    Attributes:
        number: In ``MPI_COMM_WORLD``.
        pid: Its process.
        control: The connection that ends with it.
        key: Its slot, once it has one.
        wire: The connection in the reactor.
        leaving: How it is about to end, as it has said itself; or what it was ended with.
        in_order: Whether it has said that it leaves, of its own accord or because its link ended.
        gone: Whether it has ended.
    """

    number: int
    pid: int
    control: socket.socket
    key: str = ""
    wire: ZygoteWire | None = None
    leaving: Exit | None = None
    in_order: bool = False
    gone: bool = False


@implementer(IEngineStarter)
class RankStarter:
    """Takes the ranks of this host in, and tells when, how and why they end.

    Args:
        ranks: What is known of them.

    Attributes:
        job: The job; its ranks are known when the first was taken in.
    """

    threaded = False

    def __init__(self, ranks: Ranks) -> None:
        name = sha256(f"job {ranks.token}".encode()).hexdigest()[:16]
        self.job = Job(name, ranks.size, [])
        self._ranks = ranks
        self._path = Path(ranks.socket)
        self._waiting: list[_Rank] = []
        self._members: dict[str, _Rank] = {}
        self._reactor: Any = None
        self._events: StarterEvents | None = None
        self._first: _Rank | None = None
        self._suspect: _Rank | None = None
        self._judged = False
        self._expected = False
        self._waits_since = 0.0
        self._timers: list[Any] = []
        self._listening: socket.socket | None = listen(self._path)

    # ------------------------------------------------------------ coming

    def start(self, key: str, place: Place) -> Begun:
        """Take the next rank in; the first call waits until all are there.

        See :meth:`~ipkernel.host.interfaces.IEngineStarter.start`.
        """
        if self._listening is not None:
            self._gather()
        if not self._waiting:
            raise OSError("an MPI job has the ranks that it began with, and no others")
        rank = self._waiting.pop(0)
        link, theirs, out, out_end, err, err_end, counter, progress = make_ends()
        answer = {
            "environment": dict(place.environment),
            "cwd": place.cwd,
            "cpus": list(place.cpus),
        }
        try:
            send_message(rank.control, answer, (theirs.fileno(), out_end, err_end, counter))
        except OSError:
            pass  # it has ended already, which is about to be noticed
        finally:
            theirs.close()
            for descriptor in (out_end, err_end, counter):
                os.close(descriptor)
        rank.key = key
        self._members[key] = rank
        return Begun(key, out, err, link, progress, rank.pid)

    def _gather(self) -> None:
        """Wait for the ranks of this host.

        Raises:
            OSError: They do not come.
        """
        assert self._listening is not None
        wanted, deadline = self._ranks.here, time.monotonic() + COME
        parent = os.getppid()
        found: dict[int, _Rank] = {}
        try:
            while len(found) < wanted:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OSError(_missing(found, wanted))
                if os.getppid() != parent:
                    raise OSError("the MPI job has ended before its engines were ready")
                self._listening.settimeout(min(left, PARENT_LOOK))
                try:
                    control, _ = self._listening.accept()
                except TimeoutError:
                    continue
                rank = self._introduced(control)
                if rank is not None:
                    found[rank.number] = rank
        finally:
            self._hide()
        self._waiting = [rank for _, rank in sorted(found.items())]
        self.job.ranks[:] = sorted(found)
        emit("ranks", ranks=self.job.ranks, host=socket.gethostname(), pid=os.getpid())

    def _introduced(self, control: socket.socket) -> _Rank | None:
        control.settimeout(HELLO_TIME)
        try:
            received = receive_message(control)
            message, descriptors = received if received is not None else ({}, [])
            for descriptor in descriptors:
                os.close(descriptor)
            number, pid, token = message["rank"], message["pid"], message["token"]
            if compare_digest(token, self._ranks.token) and 0 <= number < self.job.size:
                control.settimeout(None)
                return _Rank(int(number), int(pid), control)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        logger.warning("a process that is no rank of this job has connected")
        control.close()
        return None

    def _hide(self) -> None:
        """All have come: take the socket away."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            with suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()

    def attach(self, reactor: Any, events: StarterEvents) -> None:
        """Begin to report; see :meth:`~ipkernel.host.interfaces.IEngineStarter.attach`."""
        self._reactor = reactor
        self._events = events
        for rank in self._members.values():
            events.spawned(rank.key, rank.pid)
            rank.control.setblocking(False)
            rank.wire = ZygoteWire(
                reactor, rank.control, partial(self._told, rank), partial(self._ended, rank)
            )

    def _told(self, rank: _Rank, message: dict[str, Any]) -> None:
        number = message.get("leaving")
        if isinstance(number, int):
            rank.leaving = Exit(None, number) if number else Exit(0, None)
            rank.in_order = not number
            self._suspect = self._suspect or rank

    # ------------------------------------------------------------- going

    def _ended(self, rank: _Rank) -> None:
        """The connection to a rank has ended, and so has the rank."""
        rank.gone = True
        if rank.leaving is None:
            rank.leaving = exit_of(rank.pid)
        rank.control.close()
        if not rank.in_order:
            kill_group(rank.pid)  # what it has started itself; MPI may not care for it
        if self._judged or self._expected:
            self._report(rank)
        elif self._first is None:
            self._fail(rank)

    def _fail(self, rank: _Rank) -> None:
        """The first one has ended, and nobody has wanted it: the job has failed."""
        self._first = rank
        self._later(SETTLE, self._investigate)

    def _investigate(self) -> None:
        """Find out how it has ended, and whether it was the first, and tell the launcher."""
        gone = [rank for rank in self._members.values() if rank.gone]
        first = self._suspect or self._first
        assert first is not None
        if first.leaving is None or first.leaving.signal == signal.SIGKILL:
            # MPI may have killed this one, and be quicker in that than the one that has failed is
            # in closing its connection.
            others = [r for r in gone if r.leaving and r.leaving.signal not in _ENDED_BY_MPI]
            first = others[0] if others else first
        self._first = first
        text, known = self._what_happened(), first.leaving is not None
        emit("died", rank=first.number, text=text, known=known)
        logger.warning("%s", text)
        _let_go()
        self._waits_since = self._reactor.seconds()
        if known and self._ranks.here == self.job.size:
            self._conclude("")  # nobody knows more
        else:
            self._look()

    def _what_happened(self) -> str:
        rank = self._first
        assert rank is not None
        ending = rank.leaving
        how = how_it_ended(ending.signal or 0, ending.code or 0) if ending else "ended unexpectedly"
        return f"rank {rank.number} (pid {rank.pid} on host {socket.gethostname()}) {how}"

    def _look(self) -> None:
        """Look for the verdict."""
        if self._judged:
            return
        text = read_verdict(Path(self._ranks.verdict))
        alone = all(rank.gone for rank in self._members.values())
        patience = VERDICT_TIME_ALONE if alone else VERDICT_TIME
        if text or self._expected or self._reactor.seconds() - self._waits_since > patience:
            self._conclude(text)
        else:
            self._later(VERDICT_LOOK, self._look)

    def _conclude(self, text: str) -> None:
        """Report all ranks as lost; without a verdict, with what is known here."""
        self._judged = True
        known_here = "; ".join(filter(None, (self._what_happened(), the_others(self.job.size))))
        assert self._events is not None
        self._events.over(text or known_here)
        for rank in self._members.values():
            if rank.gone:
                self._report(rank)

    def _report(self, rank: _Rank) -> None:
        assert self._events is not None
        self._events.exited(rank.key, rank.leaving or Exit(None, None))

    def expect_end(self) -> None:
        """All are about to be ended: that needs no explanation."""
        self._expected = True
        if self._waits_since:
            self._look()

    def signal(self, key: str, number: int, group: bool) -> None:
        """Send a signal; see :meth:`~ipkernel.host.interfaces.IEngineStarter.signal`."""
        rank = self._members.get(key)
        if rank is None or rank.gone:
            return
        if rank.in_order and number in (signal.SIGTERM, signal.SIGKILL):
            # It waits for the others, to leave MPI together.
            self._later(FINALIZE_TIME, self._kill, rank)
            return
        self._send(rank, number, group)
        if number == signal.SIGKILL:
            rank.leaving = Exit(None, int(number))

    def _kill(self, rank: _Rank) -> None:
        if not rank.gone:
            self._send(rank, int(signal.SIGKILL), True)

    def _send(self, rank: _Rank, number: int, group: bool) -> None:
        with suppress(OSError):  # MPI gives each rank a group of its own, or leaves it in another's
            signal_process(rank.pid, number, group=group and os.getpgid(rank.pid) == rank.pid)

    def _later(self, seconds: float, function: Any, *args: Any) -> None:
        self._timers.append(self._reactor.callLater(seconds, function, *args))

    def close(self) -> None:
        """Part with the ranks that are left: they end when their connection does."""
        self._hide()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        for rank in [*self._waiting, *self._members.values()]:
            if rank.wire is not None:
                rank.wire.close()
            rank.control.close()


def _missing(found: dict[int, _Rank], wanted: int) -> str:
    there = ", ".join(map(str, sorted(found))) or "none"
    return (
        f"of the {wanted} MPI ranks of host {socket.gethostname()} only these have come within "
        f"{COME:g} s: {there}"
    )


def _let_go() -> None:
    """Close what MPI's launcher reads from: it may wait for its end before it says what happened.

    MPI may signal whatever belongs to the job; this process has something to explain first.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
