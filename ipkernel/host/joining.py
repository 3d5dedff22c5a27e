"""Finding the controller, once and again, and agreeing with it on who this host is."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.task import deferLater

from ipkernel.errors import ConnectError, KernelError, SecurityError
from ipkernel.wire.channel import Channel
from ipkernel.wire.connect import ends_of
from ipkernel.wire.furl import NoFurlError, read_furl
from ipkernel.wire.messages import PROTOCOL
from ipkernel.wire.records import HostGrant, HostHello, Resume, pack, unpack
from ipkernel.wire.tub import SecureTub, call, connect, open_channel

__all__ = ["JoinFailed", "Joining", "Pauses"]

logger = logging.getLogger(__name__)

#: Seconds between attempts to reach the controller: the first, and the longest.
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 1.0
#: How much longer each pause is than the one before, and by which part it may differ from that.
GROWTH: Final = 1.5
JITTER: Final = 0.25
#: Seconds for which the pauses stay short: a controller that is being started comes up in less.
EAGER: Final = 3.0
#: Seconds that one attempt may take.
ATTEMPT: Final = 10.0


class JoinFailed(KernelError):
    """The controller could not be joined; the text says why."""


class Pauses:
    """How long to wait between attempts: a little longer each time, and not all hosts the same.

    Args:
        eager: Seconds for which the pauses stay short.
        chance: Returns a number from 0 to 1.
    """

    def __init__(self, eager: float = 0.0, chance: Callable[[], float] = random.random) -> None:
        self._eager = eager
        self._chance = chance
        self._pause = FIRST_PAUSE

    def next(self, passed: float) -> float:
        """Return how long to wait now.

        Args:
            passed: Seconds since the first attempt.
        """
        pause = self._pause
        if passed >= self._eager:
            self._pause = min(pause * GROWTH, LONGEST_PAUSE)
        return pause * (1.0 + JITTER * (2.0 * self._chance() - 1.0))


class Joining:
    """Joins the controller whose FURL is in a file, and comes back to it as the same host.

    Args:
        reactor: Twisted's reactor.
        tub: This process's Tub, running.
        furl_file: The file with the engine FURL; read again at each attempt.
        door: What the controller may call.
        hello: Returns the host's introduction, given the address of this machine that leads to
            the controller.
        granted: Is called with what the controller has granted, and its address and port, before
            the channel is opened.
        channel: Returns this end of a channel, not connected.
        waiting: Is called with the reason when joining takes long.

    Attributes:
        received: How many messages of the present life of the controller were taken here.
    """

    def __init__(
        self,
        reactor: Any,
        tub: SecureTub,
        furl_file: Path,
        door: Any,
        *,
        hello: Callable[[str], HostHello],
        granted: Callable[[HostGrant, str, int], None],
        channel: Callable[[], Channel],
        waiting: Callable[[str], None],
    ) -> None:
        self.received = 0
        self._reactor = reactor
        self._tub = tub
        self._furl_file = furl_file
        self._door = door
        self._hello = hello
        self._granted = granted
        self._channel = channel
        self._waiting = waiting
        self._stopped = False
        self._number = 0
        self._life = 0

    def stop(self) -> None:
        """Make no further attempt."""
        self._stopped = True

    def forget(self) -> None:
        """Come as a new host the next time."""
        self._number = 0

    async def join(
        self, seconds: float, *, again: bool = False, failed: Callable[[], None] = lambda: None
    ) -> tuple[Channel, HostGrant] | None:
        """Try to join for so many seconds.

        Args:
            seconds: How long, about.
            again: Whether the controller was there before.
            failed: Is called after each attempt that did not reach it.

        Returns:
            The channel, open, and what was granted; None when :meth:`stop` was called.

        Raises:
            JoinFailed: The controller cannot be reached, or does not want this host.
        """
        now = self._reactor.seconds
        began = now()
        pauses = Pauses(0.0 if again else EAGER)
        told = False
        if again:
            await deferLater(self._reactor, pauses.next(0.0))
        while not self._stopped:
            try:
                return await self._attempt(max(0.5, min(ATTEMPT, began + seconds - now())))
            except ConnectError as error:
                cause = str(error)
            failed()
            left = began + seconds - now()
            if left <= 0:
                raise JoinFailed(cause)
            if not told and now() - began > 1.0:
                told = True
                self._waiting(cause)
                logger.info("cannot join yet: %s", cause)
            await deferLater(self._reactor, min(pauses.next(now() - began), left))
        return None

    async def _attempt(self, seconds: float) -> tuple[Channel, HostGrant]:
        try:
            furl = read_furl(self._furl_file)
        except NoFurlError:
            raise  # not yet; to ask again whether it exists now could have another answer
        except (SecurityError, ConnectError) as error:
            raise JoinFailed(str(error)) from None
        reference = await connect(self._tub, furl, seconds)
        here, there = ends_of(reference)
        hello = self._hello(here.host)
        if self._number:
            resume = Resume(number=self._number, life=self._life, received=self.received)
            hello = msgspec.structs.replace(hello, resume=resume)
        try:
            answer = await call(reference, "register", self._door, pack(hello))
            grant = unpack(HostGrant, answer)
        except ConnectError:
            raise
        except (KernelError, msgspec.MsgspecError) as error:
            raise JoinFailed(f"the controller did not let this host join: {error}") from None
        if grant.protocol != PROTOCOL:
            raise JoinFailed(
                f"the controller speaks protocol {grant.protocol}, this host {PROTOCOL}: "
                "install the same version of ipkernel on both"
            )
        self._agree(grant, there.host, there.port)
        channel = await open_channel(
            self._tub, reference, grant.ticket, self._channel, local=grant.local
        )
        channel.watch()
        return channel, grant

    def _agree(self, grant: HostGrant, address: str, port: int) -> None:
        """Be who the controller says, from now on: also if the channel cannot be opened."""
        if self._stopped:
            raise ConnectError("the host daemon stops")
        if grant.resumed is None or not grant.resumed.same:
            self.received = 0
        self._number, self._life = grant.host_id, grant.life
        self._granted(grant, address, port)
