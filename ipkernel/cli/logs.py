"""``ipcluster logs``."""

from __future__ import annotations

import argparse
import codecs
import os
import sys
import time
from pathlib import Path

from ipkernel.cli import common
from ipkernel.cli.tables import size, span, table
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.recorded import programs_of
from ipkernel.errors import ClusterError

_POLL = 0.2
_CHUNK = 65536


def logs_command(options: argparse.Namespace) -> int:
    """List the logs of a cluster, or show the end of one of them."""
    directory = common.directory_of(options)
    if not directory.exists:
        raise ClusterError(
            f"there is no cluster {directory.name} ({directory.path} does not exist)"
        )
    directory.check()
    if not options.name:
        return _list(directory)
    path = find_log(directory, options.name)
    show_tail(path, options.lines)
    if options.follow:
        follow(path)
    return common.OK


def _files(directory: ClusterDirectory) -> list[Path]:
    try:
        found = [p for p in directory.log.iterdir() if p.suffix in (".log", ".err")]
    except OSError:
        return []
    return sorted(found, key=lambda p: (len(p.stem), p.name))


def _list(directory: ClusterDirectory) -> int:
    rows = []
    for path in _files(directory):
        status = path.stat()
        age = time.time() - status.st_mtime
        rows.append((path.name, size(status.st_size), f"{span(age)} ago"))
    if rows:
        print(f"logs in {directory.log}:")
        print(table(("NAME", "SIZE", "CHANGED"), rows, indent="  ", right="SIZE"))
    else:
        print(f"there are no logs in {directory.log}")
    if away := logs_elsewhere(directory):
        print("on other hosts, while the cluster runs:")
        print("\n".join(f"  {one}" for one in away))
    return common.OK


def logs_elsewhere(directory: ClusterDirectory) -> list[str]:
    """Return where the logs of programs are that ssh has started: hosts, each with a directory."""
    return [
        f"{one.label}: {one.record['directory']}/log"
        for one in programs_of(directory)
        if one.record.get("directory")
    ]


def find_log(directory: ClusterDirectory, words: list[str]) -> Path:
    """Return the log file that the words on the command line mean.

    Args:
        directory: The cluster's directory.
        words: The name of a log with or without suffix; ``engine`` and an id; or an id alone.

    Raises:
        ClusterError: There is no such log; the text says which there are.
    """
    name = words[-1]
    if len(words) == 2 and words[0] in ("engine", "ipengine"):
        name = f"ipengine-{words[1]}"
    elif len(words) == 1 and name.isdecimal():
        name = f"ipengine-{name}"
    elif len(words) != 1:
        raise ClusterError(f"give one log, or 'engine' and an id, not {' '.join(words)!r}")
    files = {path.name: path for path in _files(directory)}
    for candidate in (name, f"{name}.log", f"{name}.err"):
        if candidate in files:
            return files[candidate]
    known = ", ".join(files) or "none"
    away = "".join(f"; on {one}" for one in logs_elsewhere(directory))
    number = name.removeprefix("ipengine-")
    what = f"cluster {directory.name} has no log {name!r} here"
    if number != name and number.isdecimal():  # its log begins with the first line
        what = f"no engine {number} of cluster {directory.name} has printed anything here"
    raise ClusterError(f"{what}; there are: {known}{away}")


def show_tail(path: Path, lines: int) -> None:
    """Print the last lines of a file."""
    with path.open("rb") as file:
        left = file.seek(0, 2)
        data = b""
        while left and data.count(b"\n") <= lines:
            step = min(_CHUNK, left)
            left -= step
            file.seek(left)
            data = file.read(step) + data
    chosen = data.splitlines(keepends=True)[-lines:] if lines else []
    sys.stdout.write(b"".join(chosen).decode("utf-8", "replace"))
    sys.stdout.flush()


def follow(path: Path) -> None:
    """Print what is appended to a file, also after it was rotated, until Ctrl-C."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    file = path.open("rb")
    try:
        file.seek(0, 2)
        while True:
            data = file.read(_CHUNK)
            if data:
                sys.stdout.write(decoder.decode(data))
                sys.stdout.flush()
                continue
            time.sleep(_POLL)
            if _replaced(file.fileno(), path, file.tell()):
                file.close()
                file = path.open("rb")
    except KeyboardInterrupt:
        pass
    finally:
        file.close()


def _replaced(descriptor: int, path: Path, position: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev) or there.st_size < position
