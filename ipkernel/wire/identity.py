"""The identity of a process: a P-256 key, its certificate, and what follows from them.

Every process has its own (two with the same one disconnect each other). A controller keeps
its identity in a file, because its FURLs name it; clients and host daemons make a new one
each time and never write it to disk.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ipkernel.errors import ConnectError, SecurityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

_YEARS = timedelta(days=100 * 365)


def base32(data: bytes) -> str:
    """Return ``data`` in the lower-case base32 of FURLs, without padding."""
    return base64.b32encode(data).decode("ascii").lower().rstrip("=")


def tub_id_of(der: bytes) -> str:
    """Return the TubID of a certificate (DER bytes): SHA-1 in base32, 32 characters."""
    return base32(hashlib.sha1(der, usedforsecurity=False).digest())


def pin_of(der: bytes) -> str:
    """Return the pin of a certificate (DER bytes): SHA-256 in base32, 52 characters."""
    return base32(hashlib.sha256(der).digest())


def check_private(path: Path) -> None:
    """Refuse a file that others could read or replace.

    Args:
        path: The file; its directory is looked at as well. Nothing is checked on systems
            without POSIX permissions.

    Raises:
        SecurityError: Group or others may read or write the file, or write its directory.
        OSError: The file or its directory is not there.
    """
    if os.name != "posix":
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SecurityError(
            f"{path} is open to other users (mode {mode:o}): run 'chmod 600 {path}', and make "
            "new FURLs if somebody may have read it"
        )
    directory = path.absolute().parent
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        raise SecurityError(
            f"the directory {directory} is open to other users (mode {mode:o}): "
            f"run 'chmod 700 {directory}'"
        )


@frozen
class Identity:
    """A key and its certificate.

    Attributes:
        certificate: The self-signed certificate.
        key: Its private key; not shown in the repr.
        tub_id: Who this is, for Foolscap (32 characters).
        pin: SHA-256 of the certificate (52 characters).
    """

    certificate: Certificate = field(repr=False)
    key: EllipticCurvePrivateKey = field(repr=False)
    tub_id: str
    pin: str

    @classmethod
    def create(cls) -> Identity:
        """Make a new identity; it takes about 0.1 ms and touches no file."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ipkernel")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + _YEARS)
            .sign(key, hashes.SHA256())
        )
        return cls._of(certificate, key)

    @classmethod
    def _of(cls, certificate: Certificate, key: EllipticCurvePrivateKey) -> Identity:
        from cryptography.hazmat.primitives.serialization import Encoding

        der = certificate.public_bytes(Encoding.DER)
        return cls(certificate, key, tub_id_of(der), pin_of(der))

    @property
    def pem(self) -> bytes:
        """Certificate and private key in PEM form. This is a secret."""
        from cryptography.hazmat.primitives import serialization as s

        return self.certificate.public_bytes(s.Encoding.PEM) + self.key.private_bytes(
            s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """Return the identity in ``pem``.

        Raises:
            ValueError: It does not hold a certificate and its P-256 key.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        certificate = x509.load_pem_x509_certificate(pem)
        key = load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is not an elliptic-curve key")
        if certificate.public_key() != key.public_key():
            raise ValueError("the key does not belong to the certificate")
        return cls._of(certificate, key)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read an identity from a file.

        Raises:
            ConnectError: The file is missing or holds something else.
            SecurityError: Others could read or replace it.
        """
        path = Path(path)
        try:
            check_private(path)
            return cls.from_pem(path.read_bytes())
        except OSError as error:
            raise ConnectError(f"cannot read the identity {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConnectError(f"{path} does not hold an identity: {error}") from None

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Identity:
        """Read the identity in ``path``, or make one and keep it there (mode 0600).

        Raises:
            ConnectError: The file cannot be read or written, or holds something else.
            SecurityError: Others could read or replace it.
        """
        path = Path(path)
        if not path.exists():
            new = cls.create()
            try:
                write_private(path, new.pem, replace=False)
            except FileExistsError:
                pass
            except OSError as error:
                raise ConnectError(f"cannot write the identity {path}: {error.strerror}") from None
            else:
                return new
        return cls.load(path)


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Args:
        path: The file.
        data: All of its contents.
        replace: Whether an existing file may be replaced.

    Raises:
        FileExistsError: It exists and ``replace`` is False.
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        elif os.name == "posix":
            os.link(temporary, path)  # fails if somebody else was faster
        else:
            os.rename(temporary, path)  # on Windows this fails if the target exists
    finally:
        temporary.unlink(missing_ok=True)
