"""The yardstick: one TLS stream between two processes, by blocking pyOpenSSL sockets and nothing else.

Usage: ``receive ADDRESS CERTIFICATE KEY MB TIMES`` (prints a JSON line when it listens, takes that many
streams), and ``send ADDRESS MB TIMES`` (prints a JSON line with the rates in MB/s).
"""

from __future__ import annotations

import json
import socket
import sys
import time

from OpenSSL import SSL

PIECE = 16 * 1024
"""What is received at once: a TLS record."""
SLICE = 1 << 20
"""What is sent at once."""
PORT = 4444


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    return context


def receive(address: str, certificate: str, key: str, megabytes: int, times: int) -> None:
    """Take streams into memory; answer each with a byte when the last byte of it is here."""
    context = _context()
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    memory = memoryview(bytearray(megabytes * 1_000_000))
    with socket.create_server((address, PORT)) as server:
        print(json.dumps({"listening": PORT}), flush=True)
        for _ in range(times):
            plain, _ = server.accept()
            stream = SSL.Connection(context, plain)
            stream.set_accept_state()
            done = 0
            while done < len(memory):
                done += stream.recv_into(memory[done : done + PIECE])
            stream.sendall(b"!")
            stream.shutdown()
            stream.close()


def send(address: str, megabytes: int, times: int) -> None:
    """Send streams; a rate's time is until the receiver has all."""
    memory = memoryview(bytearray(b"\xa5" * 1_000_000) * megabytes)
    rates = []
    for _ in range(times):
        plain = socket.create_connection((address, PORT), 10)
        plain.settimeout(None)
        stream = SSL.Connection(_context(), plain)
        stream.set_connect_state()
        stream.do_handshake()
        before = time.perf_counter()
        for start in range(0, len(memory), SLICE):
            stream.sendall(memory[start : start + SLICE])
        stream.recv(1)
        rates.append(megabytes / (time.perf_counter() - before))
        stream.close()
    print(json.dumps({"rates": rates}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(*sys.argv[2:5], *map(int, sys.argv[5:7]))
    else:
        send(sys.argv[2], *map(int, sys.argv[3:5]))
