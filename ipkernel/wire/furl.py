"""FURLs: who, where, and the secret name of a door, in one line of text.

``pb://<TubID><pin>@<hint>,<hint>.../<swissnum>``. The pin is the SHA-256 of the server's
certificate; it stands where Foolscap ignores it, so stock Foolscap can use the same FURL.
Whoever knows a FURL may use the door behind it: FURL files are private, and a FURL never
shows its swissnum in a ``repr``, a log or a message.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from attrs import field, frozen

from ipkernel.errors import ConfigurationError, ConnectError
from ipkernel.wire.identity import check_private, write_private

#: No FURL is longer, in characters.
MAX_FURL: Final = 4096

_FURL = re.compile(r"pb://([a-z2-7]{32})([a-z2-7]{52})@([^/@\s]*)/([A-Za-z0-9._~-]{1,128})")
_HINT = re.compile(r"[a-z0-9]+:[^,/\s]+")
_PLACE = re.compile(r"tcp:(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+):\d{1,5}")


class NoFurlError(ConnectError):
    """The file does not exist, or not yet: whoever serves the FURL writes it when it is ready."""


@frozen
class Furl:
    """A FURL in its parts.

    Attributes:
        tub_id: The server's TubID (32 characters).
        pin: SHA-256 of the server's certificate in base32 (52 characters).
        hints: Where to try, such as ``tcp:127.0.0.1:4711``.
        swissnum: The secret name of the door.
    """

    tub_id: str
    pin: str
    hints: tuple[str, ...]
    swissnum: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Furl:
        """Return the FURL in ``text``; white space around it does not matter.

        Raises:
            ConnectError: It is not a FURL of ours. The text is not repeated in the message,
                because it may hold a secret.
        """
        text = text.strip()
        match = _FURL.fullmatch(text) if len(text) <= MAX_FURL else None
        if match is None:
            raise ConnectError("this is not a FURL of an ipkernel controller (pb://...@.../...)")
        tub_id, pin, places, swissnum = match.groups()
        hints = tuple(places.split(",")) if places else ()
        for hint in hints:
            if not _HINT.fullmatch(hint):
                raise ConnectError(f"the FURL has the place {hint!r}, which cannot be understood")
        return cls(tub_id, pin, hints, swissnum)

    def __str__(self) -> str:
        return f"pb://{self.tub_id}{self.pin}@{','.join(self.hints)}/{self.swissnum}"

    @property
    def plain(self) -> str:
        """The FURL without its pin, as Foolscap writes it. This is a secret."""
        return f"pb://{self.tub_id}@{','.join(self.hints)}/{self.swissnum}"

    @property
    def location(self) -> str:
        """The places to try, for messages to people."""
        return ", ".join(hint.removeprefix("tcp:") for hint in self.hints) or "nowhere"


def read_furl(path: str | os.PathLike[str]) -> Furl:
    """Read a FURL file.

    Raises:
        NoFurlError: There is no such file.
        ConnectError: It cannot be read or does not hold a FURL.
        SecurityError: Other users could read or replace it.
    """
    path = Path(path)
    try:
        check_private(path)
        with open(path, encoding="ascii") as file:
            text = file.read(MAX_FURL + 2)
    except FileNotFoundError:
        raise NoFurlError(
            f"there is no FURL file {path}: is the controller running, and is this its directory?"
        ) from None
    except OSError as error:
        raise ConnectError(f"cannot read the FURL file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    try:
        return Furl.parse(text)
    except ConnectError as error:
        raise ConnectError(f"{path}: {error}") from None


def write_furl(path: str | os.PathLike[str], furl: Furl) -> None:
    """Write a FURL file, readable by its owner only, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    write_private(Path(path), f"{furl}\n".encode("ascii"))


def hints(location: str, port: int) -> list[str]:
    """Return Foolscap's location hints for what a user wrote.

    Args:
        location: Host names, addresses or complete hints, separated by commas.
        port: The port, for those that do not name one.

    Raises:
        ConfigurationError: One is none of that.
    """
    found = []
    for part in filter(None, (p.strip() for p in location.split(","))):
        if part.startswith("tcp:"):
            found.append(part)
        elif part.count(":") == 1:
            found.append(f"tcp:{part}")
        elif ":" in part and not part.startswith("["):
            found.append(f"tcp:[{part}]:{port}")
        else:
            found.append(f"tcp:{part}" if "]:" in part else f"tcp:{part}:{port}")
        if not _PLACE.fullmatch(found[-1]):
            raise ConfigurationError(
                f"others cannot reach this host at {part!r}: give the name of a host, an address, "
                f"or such as tcp:10.0.0.1:4711"
            )
    if location and not found:
        raise ConfigurationError(f"{location!r} names no place where others reach this host")
    return found


def local_location(interface: str, port: int) -> list[str]:
    """Return the hints for a port of this machine.

    Args:
        interface: The address listened on; ``0.0.0.0``, ``::`` or an empty one means all.
        port: The port.

    Returns:
        One hint, or for all interfaces one for each address that others could reach, the
        loopback address last.
    """
    if interface in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        addresses = _own_addresses(include_ipv6=interface == "::")
    else:
        addresses = [interface]
    return [f"tcp:{f'[{a}]' if ':' in a else a}:{port}" for a in addresses]


def _own_addresses(*, include_ipv6: bool) -> list[str]:
    import socket

    import psutil

    found: list[str] = []
    up = {name for name, status in psutil.net_if_stats().items() if status.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if name not in up:
                continue
            if address.family == socket.AF_INET:
                found.append(address.address)
            elif include_ipv6 and address.family == socket.AF_INET6 and "%" not in address.address:
                found.append(address.address)  # link-local ones need a scope and are left out
    unique = list(dict.fromkeys(found))
    reachable = [a for a in unique if a != "::1" and not a.startswith("127.")]
    return [*reachable, "127.0.0.1"]
