# mypy: disable-error-code="misc"
"""Questions to a controller from its own machine and user, without Twisted, Foolscap and TLS.

The controller listens on a UNIX socket in the cluster's directory. A connection is for one question and
its answer, each a MessagePack array behind its length, a big-endian ``u32``. What can be asked is what the
monitor door answers, with the same requests and answers.

Where there are no such sockets, or nobody listens, there is still the door:
:mod:`ipkernel.cluster.monitoring` asks there.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct as Layout
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from ipkernel.decoding import decode
from ipkernel.errors import ConnectError, KernelError
from ipkernel.wire.peers import peer_user

__all__ = ["Answer", "NotNearby", "Question", "ask", "short_path", "supported"]

#: Bytes of a question and of an answer at most, as the doors have it, and what is around them.
QUESTION_LIMIT: Final = (1 << 18) + 256
ANSWER_LIMIT: Final = (1 << 24) + 8192
#: Bytes that the path of a socket may have on every system.
LONGEST_PATH: Final = 100
_LENGTH: Final = Layout(">I")


class NotNearby(ConnectError):
    """No controller of ours listens there: it is elsewhere, or has no such socket."""


class Question(Struct, frozen=True, array_like=True):
    """What is asked.

    Attributes:
        method: Of the monitor door.
        request: Its argument.
    """

    method: Annotated[str, Meta(max_length=64)]
    request: Annotated[bytes, Meta(max_length=1 << 18)] = b""


class Answer(Struct, frozen=True, array_like=True):
    """What the controller says.

    Attributes:
        problem: Why there is no answer; empty if there is one.
        answer: What the door's method returns.
    """

    problem: Annotated[str, Meta(max_length=4096)] = ""
    answer: Annotated[bytes, Meta(max_length=1 << 24)] = b""


_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def supported() -> bool:
    """Tell whether controllers listen on such sockets here."""
    return hasattr(socket, "AF_UNIX") and os.environ.get("IPKERNEL_PORTABLE") != "1"


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Return a name of a socket that is short enough for the system; it is good within this context.

    Args:
        path: Where the socket is, or is to be.

    Raises:
        OSError: There is none: the path is too long, or its directory is not there.
    """
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    if sys.platform != "linux":
        raise OSError(f"the path of a socket is too long: {path}")
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def ask(path: Path, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
    """Ask a controller of this machine, and wait for the answer.

    Args:
        path: Where it listens.
        method: Of the monitor door.
        request: Its argument.
        timeout: Seconds that this may take.

    Returns:
        What the door's method returns.

    Raises:
        NotNearby: No controller of ours listens there, or it has gone before it answered.
        KernelError: It cannot answer; the text says why.
        TimeoutError: It has not answered in time.
    """
    if not supported():
        raise NotNearby("controllers do not listen on local sockets here")
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            with short_path(path) as name:
                sock.connect(name)
            if (user := peer_user(sock)) != os.geteuid():
                raise NotNearby(f"{path} is a socket of user {user}")
            sock.sendall(framed(Question(method, request)))
            (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size, deadline))
            if length > ANSWER_LIMIT:
                raise NotNearby(f"{path} is not a controller's: it announces {length} bytes")
            data = _exactly(sock, length, deadline)
    except TimeoutError:
        raise TimeoutError(f"the controller has not answered within {timeout:g} s") from None
    except OSError as error:
        raise NotNearby(f"nobody answers at {path}: {error.strerror or error}") from None
    try:
        answer = decode(_answers, data)
    except msgspec.MsgspecError as error:
        raise NotNearby(f"{path} is not a controller's: {error}") from None
    if answer.problem:
        raise KernelError(answer.problem)
    return answer.answer


def _exactly(sock: socket.socket, count: int, deadline: float) -> bytearray:
    """Receive so many bytes."""
    data = bytearray()
    while len(data) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        more = sock.recv(min(count - len(data), 1 << 18))
        if not more:
            raise ConnectionResetError("the connection was closed")
        data += more
    return data


def framed(message: Struct) -> bytes:
    """Return a message behind its length."""
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data
