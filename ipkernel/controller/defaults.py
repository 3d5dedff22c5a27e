"""What a controller does if nothing else is said; for whoever starts one, and cheap to import."""

from __future__ import annotations

from typing import Final

#: Seconds after which work is stuck on which nobody makes progress.
WATCHDOG: Final = 60.0
#: Seconds within which a host may come back whose connection is lost.
HOST_GRACE: Final = 2.0
#: The same when the controller was started again.
RESTART_GRACE: Final = 10.0
#: Which engine may get the next load-balanced task, see :mod:`ipkernel.controller.schemes`; the first by default.
SCHEMES: Final = ("leastload", "lru", "plainrandom", "twobin", "weighted")
