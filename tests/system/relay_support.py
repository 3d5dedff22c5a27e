"""Plain TCP peers at a port that relays, for the tests of relays."""

from __future__ import annotations

import os
import socket
import threading
import zlib
from contextlib import asynccontextmanager, suppress

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from ipkernel.controller.relays import Relays
from ipkernel.wire.identity import Identity
from ipkernel.wire.tub import make_tub
from tests.system.wire_support import port_of

#: Seconds after which a blocked peer gives up, and its test fails.
PATIENCE = 40


class Peer:
    """A blocking socket, used in threads of its own."""

    def __init__(self, port: int, token: bytes, more: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if token:
            self.socket.sendall(b"R" + token + more)

    def send(self, data: bytes, *, end: bool = False) -> Deferred:
        """Send all of ``data``; ``end`` says that nothing more follows."""

        def send():
            self.socket.sendall(data)
            if end:
                self.socket.shutdown(socket.SHUT_WR)

        return in_thread(send)

    def receive(self, size: int) -> Deferred:
        """Return ``size`` bytes, or fewer if the other side ends."""

        def receive():
            data = bytearray(size)
            view = memoryview(data)
            count = 0
            while count < size:
                got = self.socket.recv_into(view[count:])
                if not got:
                    break
                count += got
            del view
            return bytes(data[:count])

        return in_thread(receive)

    def check(self, size: int) -> Deferred:
        """Return the checksum of ``size`` bytes, which are not kept."""

        def check():
            buffer = bytearray(1 << 18)
            left, sum_ = size, 0
            with memoryview(buffer) as view:
                while left:
                    got = self.socket.recv_into(view, min(left, len(view)))
                    if not got:
                        break
                    sum_ = zlib.crc32(view[:got], sum_)
                    left -= got
            return sum_ if not left else f"{left} bytes are missing"

        return in_thread(check)

    def end(self) -> Deferred:
        """Return how it ends: nothing at the end of the stream, or what was raised."""

        def end():
            try:
                return self.socket.recv(1 << 16)
            except OSError as error:
                return error

        return in_thread(end)

    def reset(self) -> None:
        """Vanish: the other side of this connection gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def in_thread(call) -> Deferred:
    """Call something that blocks, in a thread that ends with it."""
    done: Deferred = Deferred()

    def run():
        try:
            result = call()
        except Exception as error:
            reactor.callFromThread(done.errback, error)
        else:
            reactor.callFromThread(done.callback, result)

    threading.Thread(target=run, daemon=True).start()
    return done


class Port:
    """A port that relays."""

    def __init__(self, tub, relays: Relays) -> None:
        self.tub = tub
        self.relays = relays
        self.port = port_of(tub)
        self.peers: list[Peer] = []

    async def connect(self, token: bytes, more: bytes = b"") -> Peer:
        peer = await in_thread(lambda: Peer(self.port, token, more))
        self.peers.append(peer)
        return peer

    async def pair(self) -> tuple[Peer, Peer]:
        token = self.relays.open("one with another")
        return await self.connect(token), await self.connect(token)


@asynccontextmanager
async def relaying(portable: bool):
    """A Tub whose port relays, natively or portably."""
    tub = make_tub(Identity.create(), reactor)
    await tub.listen()
    relays = tub.relays = Relays(reactor, portable=portable)
    port = Port(tub, relays)
    try:
        yield port
    finally:
        for peer in port.peers:
            peer.close()
        await relays.close()
        await tub.stopService()


def noise(size: int) -> bytes:
    """Return random bytes, quickly."""
    block = os.urandom(1 << 20)
    return (block * (size // len(block) + 1))[:size]
