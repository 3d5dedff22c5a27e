"""The engine's ends of file transfers: tasks that write files which a client sends, or read others."""

from __future__ import annotations

from ipkernel.engine.flows import Opening, exception_of
from ipkernel.objects.chunks import Flag
from ipkernel.objects.filetree import Source, place_of
from ipkernel.objects.filewriter import TreeWriter
from ipkernel.objects.flow import FlowFailed, closing
from ipkernel.objects.transfer import Transfer

__all__ = ["receive", "send"]


def receive(master: bytes, name: str, wanted: str | None, overwrite: bool) -> str:
    """Write what a client sends.

    Args:
        master: The key that the client has made.
        name: What it is called there.
        wanted: Where the client wants it, see :func:`~ipkernel.objects.filetree.destination`.
        overwrite: Whether what is there may be replaced.

    Returns:
        Its absolute path.

    Raises:
        OSError: It cannot be written; the text names the file.
        TransferError: The client has given up, or what came is damaged.
        UnknownObject: The client is gone.
    """
    opening = Opening(master, place=place_of(wanted, name))
    with closing(opening.reader()) as flow, TreeWriter(wanted, overwrite, Transfer()) as writer:
        opening.tell()
        while not flow.ended:
            try:
                chunk = flow.read()
            except FlowFailed as problem:
                raise exception_of(problem.error) from None
            with chunk.payload:
                if chunk.flags & Flag.DONE:  # by another engine of this host
                    return bytes(chunk.payload).decode("utf-8", "surrogateescape")
                writer.feed(chunk.payload)
            if not flow.ended:
                flow.free()
        path = writer.finish()
        flow.free()  # the client is told last: everything is in its place
    return path


def send(master: bytes, path: str) -> str:
    """Send a file or directory to a client.

    Args:
        master: The key that the client has made.
        path: Where it is.

    Returns:
        Its absolute path.

    Raises:
        OSError: It cannot be read; the text names the file.
        TransferError: The client has given up, or it cannot be sent.
        UnknownObject: The client is gone.
    """
    source = Source(path)
    opening = Opening(master, source.size())
    with closing(opening.writer()) as flow:
        opening.tell()
        for payload in source.payloads(Transfer()):
            flow.write([payload])
        flow.write([], Flag.LAST)
        flow.drain()
    return source.path
