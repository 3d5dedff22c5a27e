"""A client that does jobs: run as ``python -m tests.integration.hosts_jobs FURL-FILE ENGINES``.

It reads lines of JSON, ``[job, [arguments]]``, and prints one line for each, with the value or the error.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import ipkernel
from ipkernel.objects.ref import ObjectRef
from tests.integration.faults_support import noted

#: What jobs leave for the next ones.
kept: dict[str, Any] = {}
#: Seconds within which everything here ends.
LONG = 100


# ---------------------------------------------------------------- on engines


def fill(count: int, value: int) -> Any:
    """Return bytes that cannot be compressed; those of the same value are equal."""
    import numpy

    return numpy.random.Generator(numpy.random.SFC64(value)).bytes(count)


def digest(data: Any) -> str:
    """Return a digest of bytes or an array."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)


def hold(data: Any) -> int:
    """Keep something on an engine."""
    kept["held"] = data
    return os.getpid()


def stay(path: str, host: str) -> str:
    """Leave a file with this host's name behind, and on one of the hosts never return."""
    here = socket.gethostname()
    open(f"{path}-{here}", "w").close()
    while here == host:
        time.sleep(0.05)
    return here


# ---------------------------------------------------------------- for clients


def engines(rc: Any) -> list[int]:
    """Return the engines."""
    return rc.ids  # type: ignore[no-any-return]


def hosts(rc: Any) -> dict[str, int]:
    """Return the engine of each host."""
    return dict(zip(rc[:].apply_sync(socket.gethostname), rc.ids, strict=True))


def lost_and_run_again(rc: Any, engine: int, host: str, path: str) -> tuple[list[str], str]:
    """Have a host lost; return where tasks ran that may be repeated, and why another could not."""
    view = rc.load_balanced_view(retries=1)
    repeated = [view.apply_async(stay, path, host) for _ in range(2)]
    while not os.path.exists(f"{path}-{host}"):
        time.sleep(0.01)
    bound = rc[engine].apply_async(os.getpid)
    open(path, "w").close()
    try:
        bound.get(LONG)
    except ipkernel.error.EngineError as error:
        return sorted(one.get(LONG) for one in repeated), str(error)
    raise AssertionError("a task was run on an engine that runs another one for ever")


def note_all(rc: Any, first: int, count: int, path: str) -> list[int]:
    """Have any engines note numbers in a file, and others make small objects; return the numbers."""
    view = rc.load_balanced_view()
    noting = [
        view.apply_async(noted, number, path, 0.005) for number in range(first, first + count)
    ]
    filling = [rc[:].apply_async(fill, 100_000, number) for number in range(4)]
    for number, result in enumerate(filling):
        assert result.get(LONG) == [fill(100_000, number)] * len(rc.ids)
    return [result.get(LONG) for result in noting]


def pids(rc: Any) -> list[int]:
    """Return the process ids of the engines."""
    return rc[:].apply_async(os.getpid).get(LONG)  # type: ignore[no-any-return]


def make(rc: Any, size: int) -> str:
    """Make an array of random bytes; return its digest."""
    import numpy

    block = numpy.frombuffer(fill(1 << 24, 1), dtype=numpy.uint64)
    array = numpy.empty(size // 8, dtype=numpy.uint64)
    for number, start in enumerate(range(0, len(array), len(block))):
        part = array[start : start + len(block)]
        numpy.add(block[: len(part)], number, out=part)
    kept["array"] = array
    return digest(array)


def drop(rc: Any, *names: str) -> None:
    """Let go of what was kept."""
    for name in names:
        del kept[name]


def push(rc: Any, targets: Any = 0) -> None:
    """Push the array."""
    rc[targets].push({"x": kept["array"]}, block=True)


def pull(rc: Any) -> str:
    """Pull it; return its digest."""
    return digest(rc[0].pull("x", block=True))


def forget_on(rc: Any, engine: int) -> None:
    """Have an engine forget it."""
    rc[engine].execute("del x", block=True)


def forget(rc: Any) -> None:
    """Have all engines forget it."""
    rc[:].execute("del x", block=True)


def digests(rc: Any, targets: Any = None) -> list[str]:
    """Return the digests of what engines have, by default of all."""
    return rc[targets or rc.ids].apply_sync(_digest_of_x)  # type: ignore[no-any-return]


def _digest_of_x() -> str:
    import __main__

    return digest(__main__.x)


def result_of(rc: Any, engine: int, size: int) -> None:
    """Have an engine make an object, and keep a reference to it."""
    kept["ref"] = rc[engine].apply_ref(fill, size, 3).get(60)


def use(rc: Any, engine: int) -> str:
    """Use the reference on an engine."""
    return rc[engine].apply_async(digest, kept["ref"]).get(60)  # type: ignore[no-any-return]


def use_anywhere(rc: Any, count: int) -> list[Any]:
    """Use it on any engine, one time after the other; return where."""
    view = rc.load_balanced_view()
    found = []
    for _ in range(count):
        result = view.apply_async(digest, kept["ref"])
        found.append([result.get(60), result.engine_id])
    return found


def get(rc: Any) -> str:
    """Get what the reference stands for."""
    return digest(kept["ref"].get(60))


def put(rc: Any, engine: int, size: int, name: str = "ref") -> None:
    """Put an object on an engine's host, and keep a reference to it under a name."""
    kept[name] = rc.put(fill(size, 4), targets=engine)


def put_when_possible(rc: Any, engine: int, size: int, seconds: float) -> None:
    """Put an object on an engine's host, trying it again while there is no room."""
    data = fill(size, 5)
    until = time.monotonic() + seconds
    while True:
        try:
            kept["ref"] = rc.put(data, targets=engine)
            return
        except ipkernel.errors.StoreFull:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def fetch_unknown(rc: Any) -> None:
    """Ask for an object that nobody has."""
    rc.fetch(ObjectRef(os.urandom(16), 1 << 20, "somewhere"))


def use_unknown(rc: Any) -> None:
    """Have an engine use an object that nobody has."""
    rc[0].apply_async(digest, ObjectRef(os.urandom(16), 1 << 20, "somewhere")).get(60)


def seize(rc: Any, engine: int, size: int) -> int:
    """Have an engine hold an object that nobody else needs; return its process id."""
    import numpy

    ref = rc.put(numpy.frombuffer(fill(size, 6), dtype=numpy.uint8), targets=engine)
    pid = rc[engine].apply_async(hold, ref).get(60)
    ref.free()
    return pid  # type: ignore[no-any-return]


def work(rc: Any, engine: int = 0) -> int:
    """Have an engine do something small, to see that everything works."""
    return rc[engine].apply_async(abs, -1).get(60)  # type: ignore[no-any-return]


def await_engines(rc: Any, count: int) -> None:
    """Wait until there are so many engines."""
    rc.wait_for_engines(count, timeout=30, interactive=False)


def begin_counting(rc: Any) -> None:
    """Make small calls in a thread until :func:`counted`."""
    over = threading.Event()
    kept["over"], kept["count"] = over, 0

    def count() -> None:
        view = rc[rc.ids[-1]]
        while not over.is_set():
            kept["count"] += view.apply_async(abs, -1).get(30)

    kept["thread"] = threading.Thread(target=count)
    kept["thread"].start()


def count(rc: Any) -> int:
    """Return how many small calls were made so far."""
    return kept["count"]  # type: ignore[no-any-return]


def end_counting(rc: Any) -> None:
    """Make no more small calls."""
    kept["over"].set()
    kept["thread"].join()


# ---------------------------------------------------------------- the program


def main(furl_file: str, count: str) -> None:
    """Do jobs until the standard input ends."""
    with ipkernel.Client(furl_file=furl_file, timeout=30) as rc:
        rc.wait_for_engines(int(count), timeout=30, interactive=False)
        rc.progress = False
        serve(rc, globals())


def serve(rc: Any, jobs: Mapping[str, Any]) -> None:
    """Say that we are ready; do jobs, known by their names, until the standard input ends."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job, arguments = json.loads(line)
        print(json.dumps(_answer(rc, jobs[job], arguments)), flush=True)


def _answer(rc: Any, job: Any, arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"value": job(rc, *arguments)}
    except Exception as error:  # noqa: BLE001 - told to the test
        return {"kind": type(error).__name__, "text": str(error)}


if __name__ == "__main__":
    # Engines import the functions of this module by its name.
    importlib.import_module("tests.integration.hosts_jobs").main(*sys.argv[1:])
