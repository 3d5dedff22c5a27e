"""Many small records as a flow: collected into chunks by a thread that writes while the caller goes on.

A chunk is closed when the thread gets round to it, which is at once unless the window is full or the
chunk before is still being written. So a record that somebody waits for goes out alone, and where
nobody waits they travel by the thousand; no timer is involved.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ipkernel.objects.chunks import Flag, length_of, pack, unpack
from ipkernel.objects.flow import FlowReader, FlowWriter
from ipkernel.objects.interfaces import Buffer

__all__ = ["RecordReader", "RecordWriter"]

#: The most bytes and records of one chunk; a record that is larger is a chunk of its own.
BATCH_BYTES: Final = 1 << 20
BATCH: Final = 1000
#: Records from this many bytes on are not copied: who sends one waits until it is written.
LARGE: Final = 8 << 20


class RecordWriter:
    """Sends records through a flow. For one thread at a time, except :meth:`stop`.

    Args:
        flow: Where they go.
        name: What the thread is called.
        idle: Called by the thread after every chunk.
    """

    def __init__(
        self,
        flow: FlowWriter,
        name: str = "ipkernel-stream",
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._flow = flow
        self._idle = idle
        self._changed = threading.Condition()
        self._records: list[Sequence[Buffer]] = []
        self._bytes = 0
        self._ending = False
        self._error: bytes | None = None
        self._failure: BaseException | None = None
        self._written = 0
        self._sent = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, pieces: Sequence[Buffer]) -> None:
        """Send a record; waits while a whole chunk is ready and has not been taken.

        Args:
            pieces: Its bytes; they may be changed when this returns.

        Raises:
            FlowStopped: The reader does not want any more.
            Exception: As :meth:`FlowWriter.write`, or as given to :meth:`stop`.
        """
        size = length_of(pieces)
        large = size >= LARGE
        if large or (len(pieces) == 1 and type(pieces[0]) is bytes):
            record = pieces
        else:
            record = (b"".join(pieces),)
        with self._changed:
            while self._records and (
                self._bytes + size > BATCH_BYTES or len(self._records) >= BATCH
            ):
                self._check()
                self._changed.wait()
            self._check()
            self._records.append(record)
            self._bytes += size
            self._sent += 1
            mine = self._sent
            self._changed.notify_all()
            while large and self._written < mine:  # it was not copied
                self._check()
                self._changed.wait()

    def finish(self, error: bytes | None = None) -> None:
        """Send what is left and the end, and wait until the reader has used all of it.

        Args:
            error: The error that has ended the records, or None.

        Raises:
            Exception: As :meth:`send`.
        """
        with self._changed:
            self._error = error
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self._check()

    def stop(self, reason: BaseException) -> None:
        """End it; every call raises ``reason``. From any thread."""
        self._flow.stop(reason)
        with self._changed:
            if self._failure is None:
                self._failure = reason
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and free what is in the store; to be called at the end in any case."""
        self.stop(InterruptedError("this stream was closed"))
        self._thread.join()
        self._flow.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while self._write_next():
                if self._idle is not None:
                    self._idle()
            self._flow.drain()
        except BaseException as failure:  # noqa: BLE001 - it is for the thread that sends
            self.stop(failure)

    def _write_next(self) -> bool:
        """Write a chunk of what there is; tell whether there will be more."""
        with self._changed:
            while not (self._records or self._ending or self._failure):
                self._changed.wait()
            self._check()
            records, self._records = self._records, []
            self._bytes = 0
            taken = self._sent
            ending = self._ending
            self._changed.notify_all()
        last = ending and self._error is None
        if records or last:
            self._flow.write(pack(records), Flag.LAST if last else Flag.NONE)
        if ending and self._error is not None:
            self._flow.write([self._error], Flag.LAST | Flag.ERROR)
        with self._changed:
            self._written = taken
            self._changed.notify_all()
        return not ending


class RecordReader:
    """Takes records out of a flow, one after the other. For one thread at a time.

    What is interrupted while it waits can be done again, and no record is lost or comes twice.

    Args:
        flow: Where they come from.
    """

    def __init__(self, flow: FlowReader) -> None:
        self._flow = flow
        #: A chunk's number and the records of it that were not taken yet.
        self._batch: tuple[int, deque[memoryview]] = (-1, deque())

    @property
    def ended(self) -> bool:
        """Whether all records were taken."""
        return self._flow.ended and self._batch[0] < self._flow.index and not self._batch[1]

    def take(self) -> memoryview:
        """Return the next record, when it is there; its memory belongs to no store.

        Raises:
            EOFError: There is none any more.
            Exception: As :meth:`FlowReader.read`.
        """
        flow = self._flow
        while True:
            index, records = self._batch
            if index == flow.index:  # it was read, but it could not be freed
                flow.free()
            if records:
                return records.popleft()
            chunk = flow.read()
            # Copied: what somebody keeps of it must not keep the store full.
            with chunk.payload:
                memory = memoryview(bytearray(chunk.payload))
            self._batch = (flow.index, deque(unpack(memory)))
