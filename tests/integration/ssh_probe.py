"""A program that the ssh launcher starts in tests: it tells what it has, and does what it is told.

Its first argument says how it is to be: ``quiet`` ends with its input, ``deaf`` ends by force only,
``broken`` does not come up.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def tell(event: str, **fields: object) -> None:
    """Print an event."""
    print(json.dumps({"event": event, **fields}), flush=True)


def main(how: str, directory: str) -> int:
    """Be the program."""
    print("no event", flush=True)
    if how == "broken":
        print("this is why", file=sys.stderr)
        return 3
    signal.signal(signal.SIGUSR1, lambda *_: tell("signalled"))
    if how == "deaf":
        signal.signal(signal.SIGTERM, lambda *_: tell("terminated"))
    (Path(directory) / "log" / "probe.log").write_text("a log\n")
    path = [one for one in sys.path if "packages-" in one]
    tell("ready", environment=dict(os.environ), arguments=sys.argv, path=path, pid=os.getpid())
    while os.read(0, 4096) or how == "deaf":
        time.sleep(0.01)
    tell("stopping")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
