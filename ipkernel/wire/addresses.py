"""Where processes of one machine reach each other, for stores and channels, and which machine this is."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from functools import cache
from typing import Final

from attrs import frozen

__all__ = ["LocalAddress", "listen", "machine_id", "native_sockets", "parse_address"]

#: An address of the kernel's own name space for UNIX sockets has at most this many bytes.
_LONGEST_NAME: Final = 106
#: Connections that wait to be accepted, at most.
_BACKLOG: Final = 256
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_NETWORK: Final = "/proc/self/ns/net"


@frozen
class LocalAddress:
    """Where a store, or a port for local channels, listens.

    Attributes:
        name: Name of an abstract UNIX socket, or empty.
        port: Port of the loopback interface, or 0.
    """

    name: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:@{self.name}" if self.name else f"tcp:127.0.0.1:{self.port}"

    @property
    def family(self) -> int:
        """The address family for :func:`socket.socket`."""
        return socket.AF_UNIX if self.name else socket.AF_INET

    @property
    def sockaddr(self) -> bytes | tuple[str, int]:
        """The address for :meth:`socket.socket.connect` and ``bind``."""
        return b"\0" + self.name.encode() if self.name else ("127.0.0.1", self.port)

    @property
    def usable(self) -> bool:
        """Whether this system has such sockets at all."""
        return not self.name or _has_abstract_sockets()


def parse_address(text: str) -> LocalAddress:
    """Return the address that ``text`` is, such as ``unix:@name`` or ``tcp:127.0.0.1:4711``.

    Raises:
        ValueError: It is not one.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest.startswith("@"):
        name = rest[1:]
        if 0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable():
            return LocalAddress(name=name)
    elif kind == "tcp":
        host, _, port = rest.rpartition(":")
        # Any other host is a mistake, or somebody's wish to have data sent elsewhere.
        if host == "127.0.0.1" and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16:
            return LocalAddress(port=int(port))
    raise ValueError(f"not the address of a store on this machine: {text[:200]!r}")


def _has_abstract_sockets() -> bool:
    return sys.platform == "linux" and hasattr(socket, "SO_PEERCRED")


def native_sockets() -> bool:
    """Tell whether abstract UNIX sockets are used here, and stores pass descriptors through them.

    Otherwise stores listen on the loopback interface and pass names of shared memory, and channels use TLS.
    """
    return _has_abstract_sockets() and os.environ.get("IPKERNEL_PORTABLE") != "1"


def listen(native: bool | None = None) -> tuple[socket.socket, LocalAddress]:
    """Return a socket for processes of this machine, listening and not blocking, and its address.

    Args:
        native: Whether it is an abstract UNIX socket, or one of the loopback interface; None
            takes what is native here.

    Raises:
        OSError: There are no more descriptors.
    """
    if native is None:
        native = native_sockets()
    sock = socket.socket(socket.AF_UNIX if native else socket.AF_INET)
    try:
        wanted = LocalAddress(name=f"ipkernel-{os.getpid()}-{os.urandom(8).hex()}")
        sock.bind(wanted.sockaddr if native else ("127.0.0.1", 0))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        return sock, wanted if native else LocalAddress(port=sock.getsockname()[1])
    except BaseException:
        sock.close()
        raise


@cache
def machine_id() -> str:
    """Return a name of this machine: equal in two processes if they share memory and loopback.

    On Linux it is made of the id that the kernel made when it booted, and of the network name space, for
    containers with networks of their own are machines of their own. Elsewhere it is made of the
    host name and of the network hardware's address; if there is none, it fits no other process.
    """
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot}-{os.stat(_NETWORK).st_ino}"
    except OSError:
        return _portable_id()


def _portable_id() -> str:
    import platform
    import uuid

    facts = f"{platform.system()}\0{platform.node()}\0{uuid.getnode()}"
    return hashlib.sha256(facts.encode()).hexdigest()[:32]
