"""The host's side of one data connection: a thread that moves bytes between a socket and the store.

What the store knows is asked of the reactor's thread, where it lives; the bytes themselves never pass there.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred

from ipkernel.errors import KernelError, ObjectError, TransferError
from ipkernel.objects.compress import available, choose, compressor, decompressor
from ipkernel.objects.datawire import (
    HELLO_LIMIT,
    LIMIT,
    PROTOCOL,
    Abandon,
    Done,
    Exists,
    Free,
    Get,
    Go,
    Hello,
    Ok,
    Problem,
    Put,
    PutRange,
    Release,
    Request,
    Sending,
    WaitFreed,
    Waiting,
    Welcome,
    decode_request,
    problem_of,
)
from ipkernel.objects.digests import PieceDigests
from ipkernel.objects.interfaces import Placement
from ipkernel.objects.line import Line
from ipkernel.objects.ranges import BLOCK, PIECE
from ipkernel.objects.reactorcall import ReactorCall
from ipkernel.objects.tickets import is_ticket
from ipkernel.objects.tlsstream import FROZEN_AFTER, StreamBroken, TlsStream
from ipkernel.objects.uploads import Store, Upload, Uploads

__all__ = ["Conversation", "Resources"]

logger = logging.getLogger(__name__)

#: Seconds after which a connection on which nothing is asked for is closed.
IDLE: Final = 60.0
#: Signs of life within the time after which a peer is taken for frozen.
_SIGNS: Final = 3
#: Seconds after which it is seen that nobody waits for an answer any more.
_LOOK: Final = 1.0
#: Objects that one connection may have leased.
_LEASES: Final = 16


@frozen
class Resources:
    """What the connections of a data port share.

    Attributes:
        reactor: Twisted's reactor; the next two belong to its thread.
        store: The store.
        uploads: What comes in.
        digests: Digests of what goes out.
        key: The store's key.
        timeout: Seconds without progress after which a connection is given up. Those at the other
            end should not have less.
    """

    reactor: Any
    store: Store
    uploads: Uploads
    digests: PieceDigests
    key: bytes
    timeout: float = FROZEN_AFTER


@frozen
class _Leased:
    """An object that is being read."""

    view: memoryview
    digest: bytes


class Conversation:
    """Serves one connection. :meth:`run` is for its own thread, :meth:`cut` for any.

    Args:
        number: Its number.
        stream: The connection, as TLS server.
        resources: What it shares with others.
        welcomed: Is called, in the conversation's thread, when the peer has shown who it is.

    Attributes:
        idle_since: Since when it has waited for a request, or None while it serves one.
    """

    def __init__(
        self,
        number: int,
        stream: TlsStream,
        resources: Resources,
        welcomed: Callable[[Conversation], None],
    ) -> None:
        self.idle_since: float | None = None
        self.holder = f"data:{number}"
        self._line = Line(stream, decode_request, HELLO_LIMIT)
        self._resources = resources
        self._welcomed = welcomed
        self._subject = ""
        self._uploads: dict[bytes, Upload] = {}
        self._leases: dict[bytes, _Leased] = {}
        self._codecs: dict[bytes, str] = {}
        self._lock = threading.Lock()
        self._cut = False
        self._call: ReactorCall[Any] | None = None
        self._quiet_since = 0.0

    def run(self) -> None:
        """Serve until the connection ends, and close it."""
        try:
            self._line.stream.handshake()
            self._let_in()
            while True:
                self._serve(self._next_request())
        except StreamBroken as error:
            logger.debug("data connection %s of %s: %s", self.holder, self._subject or "?", error)
        except Exception:
            logger.exception("data connection %s has failed", self.holder)
        finally:
            self._line.close()
            self._leases.clear()
            self._uploads.clear()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, and was not cut."""
        return self.idle_since is not None and not self._cut

    def cut(self) -> None:
        """End it at once."""
        with self._lock:
            self._cut = True
            call = self._call
        self._line.cut()
        if call is not None:
            call.fail(StreamBroken("the host ends the connection"))

    # ---------------------------------------------------------------- the beginning

    def _let_in(self) -> None:
        hello = self._line.hear()
        if not isinstance(hello, Hello):
            raise StreamBroken("the other side does not say who it is")
        tub_id = self._line.stream.peer.tub_id
        if hello.protocol != PROTOCOL:
            self._refuse(f"it speaks version {hello.protocol} of the protocol, not {PROTOCOL}")
        if hello.subject != tub_id or not is_ticket(self._resources.key, tub_id, hello.ticket):
            self._refuse("its ticket is not valid here")
        self._subject = tub_id
        self._line.limit = LIMIT
        self._line.tell(Welcome(list(available())))
        self._welcomed(self)

    def _refuse(self, why: str) -> None:
        self._line.tell(Problem("refused", f"the host does not let this process in: {why}"))
        raise StreamBroken(f"not let in: {why}")

    def _next_request(self) -> Request:
        self._line.stream.set_timeout(IDLE)
        self.idle_since = time.monotonic()
        request = self._line.hear()
        self.idle_since = None
        self._line.stream.set_timeout(self._resources.timeout)
        self._quiet_since = time.monotonic()
        return request

    # ---------------------------------------------------------------- requests

    def _serve(self, request: Request) -> None:
        match request:
            case PutRange():
                self._put_range(request)
            case Release():
                self._release(request.object)
            case Put() | Get() | Abandon() | Free() | WaitFreed():
                try:
                    self._answer(request)
                except (KernelError, TimeoutError) as error:
                    self._line.tell(problem_of(error))
            case _:
                raise StreamBroken(f"a {type(request).__name__} where there can be none")

    def _answer(self, request: Put | Get | Abandon | Free | WaitFreed) -> None:
        store, uploads = self._resources.store, self._resources.uploads
        match request:
            case Put():
                self._put(request)
            case Get():
                self._get(request)
            case Abandon():
                self._uploads.pop(request.object, None)
                self._ask(uploads.abandon, request.object, self._subject)
                self._line.tell(Ok())
            case Free():
                self._ask(store.free, request.objects)
                self._line.tell(Ok())
            case WaitFreed():
                gone = self._ask(store.wait_freed, request.object, request.timeout)
                self._line.tell(Ok(gone))

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have something done in the reactor's thread, and wait for the answer.

        It is done even if the connection was cut before: others may wait for an object to be sealed.
        """
        call = ReactorCall[Any](self._resources.reactor, function, *args)
        try:
            with self._lock:
                if self._cut:
                    raise StreamBroken("the host ends the connection")
                self._call = call
            self._quiet_since = time.monotonic()
            while True:
                try:
                    return call.wait(min(_LOOK, self._resources.timeout / _SIGNS))
                except queue.Empty:
                    if self._line.stream.peer_is_gone:
                        raise StreamBroken("nobody waits for the answer") from None
                self._show_life()
        except StreamBroken:
            call.cancel()
            raise
        finally:
            self._call = None

    def _show_life(self, count: int = 0) -> None:
        """Tell the peer, if he has not heard anything for long, that something is going on."""
        now = time.monotonic()
        if now - self._quiet_since >= self._resources.timeout / _SIGNS:
            self._quiet_since = now
            self._line.tell(Waiting())

    # ---------------------------------------------------------------- what comes in

    def _put(self, request: Put) -> None:
        self._uploads.clear()
        upload = self._ask(self._begin, request)
        if upload is None:
            self._line.tell(Exists())
        else:
            self._uploads[request.object] = upload
            self._line.tell(Go(upload.have))

    def _begin(self, request: Put) -> Deferred[Upload | None]:
        self._resources.uploads.leave(self)  # what this connection has worked on before
        return Deferred.fromCoroutine(
            self._resources.uploads.begin(
                request.object, request.size, request.owner, self._subject, self
            )
        )

    def _put_range(self, request: PutRange) -> None:
        """Take a piece in. Whatever goes wrong ends the connection, for its bytes follow."""
        upload = self._uploads.get(request.object)
        if upload is None:
            raise StreamBroken("bytes of an object that was not begun")
        offset, length = request.offset, request.length
        try:
            unpack = decompressor(request.codec) if request.codec else None
            target = upload.claim(offset, length, self)
        except TransferError as error:
            self._line.tell(problem_of(error))
            raise StreamBroken(str(error)) from None
        if target is None:
            target = memoryview(bytearray(length))  # a piece at most, and hardly ever
            digest = self._line.receive_range(target, self._show_life, unpack)
            self._trailer()
            self._line.tell(Done(digest))
            return
        right = None
        complete = False
        try:
            # What is sent over a slow network is on its way for long after the sender is done.
            digest = self._line.receive_range(target, self._show_life, unpack)
            right = digest if self._trailer() == digest else None
        finally:
            del target
            complete = upload.settle(offset, length, right)
        if complete:
            self._uploads.clear()
            try:
                self._ask(self._resources.uploads.seal, upload)
            except ObjectError as error:
                self._line.tell(problem_of(error))
                return
        self._line.tell(Done(digest, complete))

    def _trailer(self) -> bytes:
        done = self._line.hear()
        if not isinstance(done, Done):
            raise StreamBroken("a range without its digest")
        return done.digest

    # ---------------------------------------------------------------- what goes out

    def _get(self, request: Get) -> None:
        leased = self._leases.get(request.object)
        if leased is None:
            if len(self._leases) >= _LEASES:
                raise ObjectError(f"more than {_LEASES} objects at a time on one connection")
            leased = self._leases[request.object] = self._ask(self._lease, request)
        size = len(leased.view)
        if request.offset > size:
            raise ObjectError(f"byte {request.offset} of an object with {size} bytes")
        length = min(request.length, size - request.offset)
        codec = self._codec(request, leased) if length else ""
        self._line.tell(Sending(size, length, codec, leased.digest))
        blocks = _blocks(leased.view[request.offset : request.offset + length])
        digest = self._line.send_range(blocks, _nothing, compressor(codec) if codec else None)
        self._line.tell(Done(digest))
        whole = length == min(PIECE, size - request.offset) and not request.offset % PIECE
        if length and whole and not leased.digest:
            self._note(request.object, leased, request.offset, digest)

    def _lease(self, request: Get) -> Deferred[_Leased]:
        store = self._resources.store

        def leased(place: Placement) -> _Leased:
            info = store.info(request.object)
            return _Leased(store.view(place), b"" if info is None else info.digest)

        place = store.lease(
            request.object, self.holder, bringer=request.bringer, timeout=request.timeout
        )
        return place.addCallback(leased)

    def _codec(self, request: Get, leased: _Leased) -> str:
        """Return how to compress an object for one who understands some codecs."""
        if not request.codecs:
            return ""
        codec = self._codecs.get(request.object)
        if codec is None:
            codec = choose((leased.view,), len(leased.view), request.codecs)
            self._codecs[request.object] = codec
        return codec

    def _note(self, object_id: bytes, leased: _Leased, offset: int, digest: bytes) -> None:
        whole = self._resources.digests.note(object_id, len(leased.view), offset, digest)
        if whole:
            reactor, store = self._resources.reactor, self._resources.store
            reactor.callFromThread(store.set_digest, object_id, whole)

    def _release(self, object_id: bytes) -> None:
        self._codecs.pop(object_id, None)
        if self._leases.pop(object_id, None) is not None:
            reactor, store = self._resources.reactor, self._resources.store
            reactor.callFromThread(store.release, object_id, self.holder)


def _nothing(count: int) -> None:
    """Nobody counts here."""


def _blocks(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), BLOCK):
        yield view[start : start + BLOCK]
