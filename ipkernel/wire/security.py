"""TLS as all connections use it: version 1.3 only, certificates on both sides, one context.

Trust does not come from authorities: each side compares the other's certificate with the
TubID it expects (and clients with the FURL's pin). OpenSSL only has to make sure that the
peer holds the key of the certificate that it shows.
"""

from __future__ import annotations

import socket
from typing import Any

from attrs import field, frozen
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from ipkernel.wire.identity import Identity, pin_of, tub_id_of

# X509_V_OK, NOT_YET_VALID, HAS_EXPIRED (clocks of machines differ), and self-signed.
_ACCEPTED = frozenset({0, 9, 10, 18, 19})


def _verify(connection: object, certificate: object, errno: int, depth: int, ok: int) -> bool:
    return errno in _ACCEPTED


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class TubTLS:
    """Makes the TLS side of connections, for clients and servers alike.

    Args:
        identity: Whose certificate is shown.
    """

    def __init__(self, identity: Identity) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.use_privatekey(identity.key)
        context.use_certificate(identity.certificate)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a new connection; Twisted sets its role."""
        return SSL.Connection(self._context, None)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """Return a new connection; Twisted sets its role."""
        return SSL.Connection(self._context, None)

    def over(self, sock: socket.socket) -> SSL.Connection:
        """Return a new connection over a socket, for code that blocks; the caller sets its role."""
        return SSL.Connection(self._context, sock)


@frozen
class PeerCertificate:
    """What is known of the other side of a TLS connection.

    Attributes:
        tub_id: Its TubID.
        pin: SHA-256 of its certificate in base32.
    """

    tub_id: str
    pin: str
    _sha1: bytes = field(repr=False)

    def digest(self, method: str) -> bytes:
        """Return the digest as Foolscap asks for it: colon-separated hexadecimal digits."""
        return self._sha1.hex(":").upper().encode("ascii")


def peer_certificate(transport: Any) -> PeerCertificate | None:
    """Return the peer's certificate, or None when there is none (yet).

    Args:
        transport: A Twisted transport that speaks TLS.
    """
    connection = transport.getHandle()
    return certificate_of(connection) if connection else None


def certificate_of(connection: SSL.Connection) -> PeerCertificate | None:
    """Return the peer's certificate, or None when there is none (yet)."""
    import hashlib

    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        return None
    der = certificate.public_bytes(Encoding.DER)
    sha1 = hashlib.sha1(der, usedforsecurity=False).digest()
    return PeerCertificate(tub_id_of(der), pin_of(der), sha1)
