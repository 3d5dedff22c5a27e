"""ipkernel, and what it needs, as one archive for hosts on which they are not installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from ipkernel.errors import LauncherError

#: What programs on hosts need, as modules; that of a client alone is left out.
NEEDS: Final = (
    "twisted", "foolscap", "OpenSSL", "cryptography", "zope.interface", "attr", "msgspec",
    "cloudpickle", "psutil", "setproctitle", "xxhash",
)  # fmt: skip
#: Dependencies of ipkernel that only clients need.
CLIENT_ONLY: Final = frozenset({"ipython", "tqdm", "tabulate", "configobj"})
_NAME: Final = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^]]*)\])?")
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([^"']+)""")
_LEFT_OUT: Final = re.compile(r"(^|/)(__pycache__|tests?|testing)/|\.(pyc|pyo|pyi|h|c|pyx|pxd)$")
_lock = threading.Lock()
_found: dict[bool, Archive] = {}


class Archive:
    """What is pushed: it is packed when some host has not got it.

    Args:
        files: Its files by name.

    Attributes:
        digest: Names its contents.

    Raises:
        LauncherError: A file cannot be read.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(sorted(files.items()))
        self._lock = threading.Lock()
        self._data = b""
        self.digest = self._hash()

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for name, data in self._contents():
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()[:32]

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        try:
            for name, path in self._files.items():
                yield name, path.read_bytes()
        except OSError as error:
            raise LauncherError(f"cannot pack ipkernel: {error}") from None

    def pack(self) -> bytes:
        """Return it as a compressed tar file.

        Raises:
            LauncherError: A file cannot be read.
        """
        with self._lock:
            if not self._data:
                out = io.BytesIO()
                with (
                    gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as zipped,
                    tarfile.open(fileobj=zipped, mode="w") as tar,
                ):
                    for name, data in self._contents():
                        entry = tarfile.TarInfo(name)
                        entry.size, entry.mode = len(data), 0o600
                        tar.addfile(entry, io.BytesIO(data))
                self._data = out.getvalue()
            return self._data


def platform() -> list[str]:
    """Return what must be the same on both sides for compiled modules to work."""
    return [sysconfig.get_platform(), str(sysconfig.get_config_var("SOABI"))]


def find_archive(*, with_needs: bool) -> Archive:
    """Return ipkernel as an archive; its files are looked for once.

    Args:
        with_needs: Whether what it needs is in it as well.

    Raises:
        LauncherError: A file of it cannot be read.
    """
    with _lock:
        if with_needs not in _found:
            files = dict(_own_files())
            _found[with_needs] = Archive(files | dict(_needed_files()) if with_needs else files)
        return _found[with_needs]


def _own_files() -> Iterator[tuple[str, Path]]:
    import ipkernel

    root = Path(next(iter(ipkernel.__path__)))
    for path in root.rglob("*"):
        name = f"ipkernel/{path.relative_to(root).as_posix()}"
        if path.is_file() and "__pycache__" not in name:
            yield name, path


def _needed_files() -> Iterator[tuple[str, Path]]:
    for distribution in _closure("ipkernel"):
        for file in distribution.files or ():
            name = file.as_posix()
            if name.startswith(("..", "/")) or _LEFT_OUT.search(name):
                continue
            path = Path(str(file.locate()))
            if path.is_file():
                yield name, path


def _closure(name: str) -> list[metadata.Distribution]:
    """Return the distributions that programs on hosts need, without ipkernel's own."""
    found: dict[str, metadata.Distribution] = {}
    done: set[str] = set()
    left = [name]
    while left:
        for requirement in _requirements(left.pop()):
            plain = requirement.partition("[")[0]
            if requirement in done or plain in CLIENT_ONLY:
                continue
            done.add(requirement)
            try:
                found[plain] = metadata.distribution(plain)
            except metadata.PackageNotFoundError:
                continue  # for another system, or optional
            left.append(requirement)
    return list(found.values())


def _requirements(name: str) -> list[str]:
    """Return what a distribution needs, extras included: ``a[b]`` of what needs ``a[b]>=1``."""
    plain, _, extras = name.rstrip("]").partition("[")
    found = []
    for line in metadata.requires(plain) or ():
        requirement, _, marker = line.partition(";")
        match = _NAME.match(requirement)
        extra = _EXTRA.search(marker)
        if match is None or (extra is not None and extra[1] not in extras.split(",")):
            continue
        own = f"[{match[2].replace(' ', '')}]" if match[2] else ""
        found.append(re.sub(r"[-_.]+", "-", match[1]).lower() + own)
    return found


def fits(there: list[str]) -> bool:
    """Tell whether compiled modules of this Python work on a host with that platform."""
    return there == platform() and sys.implementation.name == "cpython"
