"""What a controller keeps so that its FURLs are good after a restart: its port and swissnums."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Final

from attrs import frozen

from ipkernel.errors import ConfigurationError
from ipkernel.wire.identity import base32, check_private, write_private

#: The roles that have a door and a FURL file each.
ROLES: Final = ("client", "engine", "monitor", "admin")


@frozen(repr=False)
class Kept:
    """The contents of ``security/ipcontroller.json``. The swissnums are secrets.

    Attributes:
        port: The port that the FURLs name, or 0 when none has been chosen yet.
        swissnums: The secret name of each role's door.
    """

    port: int
    swissnums: dict[str, str]

    @classmethod
    def new(cls) -> Kept:
        """Return fresh swissnums and no port."""
        return cls(0, {role: base32(secrets.token_bytes(20)) for role in ROLES})

    @classmethod
    def load(cls, path: Path) -> Kept:
        """Return what ``path`` says, or something new when there is no such file.

        Raises:
            ConfigurationError: It cannot be read or says something else.
            SecurityError: Others can read it.
        """
        try:
            check_private(path)
            content = json.loads(path.read_bytes())
            port, swissnums = content["port"], content["swissnums"]
            if not isinstance(port, int) or not 0 <= port < 65536:
                raise ValueError("port")
            kept = {role: swissnums[role] for role in ROLES}
            if not all(isinstance(s, str) and len(s) >= 20 for s in kept.values()):
                raise ValueError("swissnums")
        except FileNotFoundError:
            return cls.new()
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"{path} is garbled: remove it, and the controller will make new FURLs"
            ) from None
        return cls(port, kept)

    def save(self, path: Path) -> None:
        """Write this to ``path``, for its owner only.

        Raises:
            OSError: It cannot be written.
        """
        content = {"port": self.port, "swissnums": self.swissnums}
        write_private(path, json.dumps(content).encode() + b"\n")
