"""Ways to the data port of another host: its addresses, all tried at about the same time, or a relay.

No attempt takes longer than two seconds. A host that could not be reached is left alone for a minute if
there is another way to it.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from attrs import define, frozen

from ipkernel.errors import ConnectError

__all__ = [
    "ATTEMPT",
    "RELAY_GREETING",
    "Dialling",
    "Hint",
    "Unreachable",
    "dial_relay",
    "parse_hint",
    "usable_hints",
]

#: Seconds that one attempt to connect may take.
ATTEMPT: Final = 2.0
#: Seconds after which the next address is tried as well.
_HEAD_START: Final = 0.25
#: Seconds for which a host that could not be reached is not tried again.
_MEMORY: Final = 60.0
#: What an attempt that has begun returns.
_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, 10035})
#: Hosts that are remembered at most.
_REMEMBERED: Final = 1024
#: What goes ahead of a token to the controller's port.
RELAY_GREETING: Final = b"R"
_TOKEN: Final = 32


@frozen
class Hint:
    """An address to dial.

    Attributes:
        host: An IP address or a name.
        port: The TCP port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """Whether nobody has to be asked for the address."""
        return _address(self.host) is not None

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to the machine that dials it."""
        address = _address(self.host)
        if address is None:
            return self.host.lower().rstrip(".") in ("localhost", "ip6-localhost")
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_hint(text: str) -> Hint:
    """Return the address in a hint such as ``tcp:192.168.1.2:4711`` or ``tcp:[fd00::2]:4711``.

    Raises:
        ValueError: It is none.
    """
    kind, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or _address(host) is None:
            host = ""
    elif ":" in host and _address(host) is None:
        host = ""
    if kind != "tcp" or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"not an address: {text[:200]!r}")
    if not host.isprintable() or " " in host or not 0 < int(port) < 1 << 16:
        raise ValueError(f"not an address: {text[:200]!r}")
    return Hint(host, int(port))


def usable_hints(hints: Sequence[str], same_machine: bool) -> list[Hint]:
    """Return the addresses that are worth dialling, in the order in which to do so.

    Hints that cannot be understood are left out. Names come last: it may take long to look one up.

    Args:
        hints: As a host gives them.
        same_machine: Whether the host shares this machine and its network: a loopback address
            leads to somebody else otherwise.
    """
    found: dict[Hint, None] = {}
    for text in hints:
        with contextlib.suppress(ValueError):
            hint = parse_hint(text)
            if same_machine or not hint.is_loopback:
                found[hint] = None
    return sorted(found, key=lambda hint: not hint.is_numeric)


@define(eq=False)
class _Attempt:
    """A socket that is being connected."""

    hint: Hint
    deadline: float


class Dialling:
    """Connects to the first of some addresses that answers, and to the next if that is of no use.

    Iterate over it: each item is a connected socket, which is the caller's. A context manager:
    leaving it ends what is still going on.

    Args:
        hints: The addresses; each is given a little head start over the next.
        clock: Tells the time in seconds.

    Attributes:
        problems: Why addresses could not be connected to.
    """

    def __init__(
        self, hints: Sequence[Hint], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.problems: list[str] = []
        self._clock = clock
        self._left = deque(hints)
        self._selector = selectors.DefaultSelector()
        self._next_start = clock()

    def __enter__(self) -> Dialling:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for key in list(self._selector.get_map().values()):
            self._take(key.fileobj).close()
        self._selector.close()

    def __iter__(self) -> Iterator[socket.socket]:
        while self._left or self._selector.get_map():
            if self._left and (self._clock() >= self._next_start or not self._selector.get_map()):
                self._start(self._left.popleft())
            ready = self._selector.select(self._patience())
            now = self._clock()  # the caller may take its time with what it gets
            for key, _ in ready:
                sock = self._finished(key)
                if sock is not None:
                    yield sock
            self._give_up(now)

    def _patience(self) -> float:
        """Return how long there is nothing to do but wait."""
        moments = [key.data.deadline for key in self._selector.get_map().values()]
        if not moments:
            return 0.0
        if self._left:
            moments.append(self._next_start)
        patience: float = min(moments) - self._clock()
        return max(0.0, patience)

    def _start(self, hint: Hint) -> None:
        self._next_start = self._clock() + _HEAD_START
        try:
            found = socket.getaddrinfo(hint.host, hint.port, type=socket.SOCK_STREAM)
            for index, (family, kind, protocol, _, address) in enumerate(found):
                if index:  # a name with several addresses: the others have their turn as well
                    self._left.append(Hint(str(address[0]), hint.port))
                else:
                    self._connect(hint, socket.socket(family, kind, protocol), address)
        except (OSError, UnicodeError) as error:
            self._failed(hint, error)

    def _connect(self, hint: Hint, sock: socket.socket, address: Any) -> None:
        try:
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code not in _UNDER_WAY:
                raise OSError(code, os.strerror(code))
            attempt = _Attempt(hint, self._clock() + ATTEMPT)
            self._selector.register(sock, selectors.EVENT_WRITE, attempt)
        except BaseException:
            sock.close()
            raise

    def _finished(self, key: selectors.SelectorKey) -> socket.socket | None:
        sock = self._take(key.fileobj)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            return sock
        sock.close()
        self._failed(key.data.hint, OSError(code, os.strerror(code)))
        return None

    def _give_up(self, now: float) -> None:
        """End the attempts that were late at that moment."""
        for key in list(self._selector.get_map().values()):
            if key.data.deadline <= now:
                self._take(key.fileobj).close()
                self._failed(key.data.hint, OSError(0, f"no answer within {ATTEMPT:g} s"))

    def _take(self, sock: Any) -> socket.socket:
        self._selector.unregister(sock)
        return sock  # type: ignore[no-any-return]

    def _failed(self, hint: Hint, error: Exception) -> None:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        self.problems.append(f"{hint}: {why}")


class Unreachable:
    """Remembers hosts that could not be reached, for a minute. For any thread.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def add(self, tub_id: str) -> None:
        """Note that a host cannot be reached."""
        with self._lock:
            now = self._clock()
            self._until = {t: until for t, until in self._until.items() if until > now}
            while len(self._until) >= _REMEMBERED:
                del self._until[next(iter(self._until))]
            self._until[tub_id] = now + _MEMORY

    def remove(self, tub_id: str) -> None:
        """Note that it can."""
        with self._lock:
            self._until.pop(tub_id, None)

    def __contains__(self, tub_id: object) -> bool:
        with self._lock:
            return isinstance(tub_id, str) and self._until.get(tub_id, 0.0) > self._clock()


def dial_relay(
    addresses: Sequence[str], token: bytes, *, clock: Callable[[], float] = time.monotonic
) -> socket.socket:
    """Connect to the controller's port for a connection that it relays.

    Args:
        addresses: Hints of the controller, such as those of its FURL.
        token: As the controller has given it, 32 bytes.
        clock: Tells the time in seconds.

    Returns:
        A socket to the peer, for TLS.

    Raises:
        ConnectError: The controller cannot be reached.
    """
    if len(token) != _TOKEN:
        raise ConnectError("what the controller gave for a relayed connection is not a token")
    # Whoever holds a FURL of the controller decides what its addresses mean.
    with Dialling(usable_hints(addresses, same_machine=True), clock=clock) as dialling:
        for sock in dialling:
            try:
                sock.settimeout(ATTEMPT)
                sock.sendall(RELAY_GREETING + token)
            except OSError as error:
                dialling.problems.append(str(error))
                sock.close()
            else:
                sock.settimeout(None)
                return sock
        why = "; ".join(dialling.problems) or "it has no address"
        raise ConnectError(f"cannot connect to the controller as a relay: {why}")
