"""Give a running cluster more engines, or fewer, once or again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipkernel.cluster.adapting import Grow, Load, Policy, Rules, Shrink
from ipkernel.cluster.fleet import Fleet, Picture
from ipkernel.errors import ClusterError, KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.running import RunningCluster

logger = logging.getLogger(__name__)


class Scaler:
    """Changes the number of engines of one cluster.

    Args:
        cluster: The cluster.
        drain: Whether engines that are ended finish first what they have begun.
        limit: Seconds that this may take; 0 for as long as it takes.
    """

    def __init__(self, cluster: RunningCluster, *, drain: bool = True, limit: float = 0.0) -> None:
        self._cluster = cluster
        self._drain = drain
        self._limit = limit
        self._fleet = Fleet(cluster)

    def look(self) -> Picture:
        """Return what there is now; see :meth:`Fleet.look`."""
        return self._fleet.look()

    def to(self, n: int) -> tuple[int, int]:
        """Have so many engines: there, starting, or in a queue.

        Returns:
            How many there were, and how many are more (or fewer, below 0).
        """
        picture = self.look()
        before = picture.load.total
        load, decision = picture.load, None
        if n:
            decision = Policy(Rules(n, n, idle_after=0.0)).decide(0.0, load)
        elif load.total:  # a policy has a maximum of at least 1
            decision = Shrink(load.coming, tuple(one.engine for one in load.engines))
        if decision is None:
            self.release(picture)
        return before, self.do(decision, picture)

    def do(self, decision: Grow | Shrink | None, picture: Picture) -> int:
        """Do what was decided; return by how many engines there are more."""
        if isinstance(decision, Grow):
            self._cluster._grow(decision.count)
            return decision.count
        if isinstance(decision, Shrink):
            return -self._shrink(decision, picture)
        return 0

    def release(self, picture: Picture) -> None:
        """End programs elsewhere that had to stay for their objects when their engines went.

        Args:
            picture: What there is now.
        """
        hosts = picture.status.hosts
        if any(one.label and not one.engines and not one.sole for one in hosts):
            self._cluster._release_unused()

    def _shrink(self, decision: Shrink, picture: Picture) -> int:
        left = decision.coming
        for job in picture.jobs[::-1]:  # a job is cancelled only as a whole
            if 0 < job.n <= left:
                logger.info("%s (%s engines) is not needed any more", job.title, job.n)
                job.end()
                left -= job.n
        engines = decision.engines
        if engines:
            self._cluster._stop_some(engines, drain=self._drain, limit=self._limit)
        return decision.coming - left + len(engines)


class Adapting:
    """A cluster that has as many engines as its tasks need, until :meth:`stop`.

    It can be used in ``with``, whose end stops it. The engines stay as they are then.

    Args:
        cluster: The cluster, which runs.
        rules: The bounds.
        interval: Seconds between two looks at it.
        scaler: Changes it.
        told: Called, in another thread, with a sentence for each change and each problem.

    Attributes:
        rules: As given.
        problem: Why it has ended by itself; empty as long as it has not.
    """

    def __init__(
        self,
        cluster: RunningCluster,
        rules: Rules,
        interval: float,
        scaler: Scaler,
        told: Callable[[str], object] | None = None,
    ) -> None:
        self.rules = rules
        self.problem = ""
        self._cluster = cluster
        self._policy = Policy(rules)
        self._interval = interval
        self._scaler = scaler
        self._told = told
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ipkernel-adapting", daemon=True)
        self._thread.start()

    def __enter__(self) -> Adapting:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<Adapting {self.rules.minimum} to {self.rules.maximum} engines, {state}>"

    @property
    def running(self) -> bool:
        """Whether it still looks after the cluster."""
        return self._thread.is_alive() and not self._over.is_set()

    def stop(self, timeout: float = 5.0) -> None:
        """Leave the cluster as it is from now on.

        Args:
            timeout: Seconds to wait for a change that is under way; it goes on without being
                waited for then.
        """
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, by :meth:`stop` or because the cluster has; say whether."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._once()
            except ClusterError as error:
                if not self._cluster.running:
                    self.problem = str(error)
                    self._over.set()
                    return
                self._tell(f"cannot adapt the cluster: {error}")
            except (KernelError, TimeoutError, OSError) as error:
                self._tell(f"cannot adapt the cluster: {error}")
            self._over.wait(self._interval)

    def _once(self) -> None:
        picture = self._scaler.look()
        load = picture.load
        decision = self._policy.decide(time.monotonic(), load)
        if decision is None or self._over.is_set():
            self._scaler.release(picture)
            return
        changed = self._scaler.do(decision, picture)
        if changed:
            self._tell(_sentence(changed, load))

    def _tell(self, text: str) -> None:
        logger.info("%s", text)
        if self._told is not None:
            self._told(text)


def _sentence(changed: int, load: Load) -> str:
    now = load.total + changed
    many = f"{abs(changed)} {'more' if changed > 0 else 'fewer'}"
    engines = "1 engine" if now == 1 else f"{now} engines"
    tasks = "1 task" if load.tasks == 1 else f"{load.tasks} tasks"
    return f"{engines}: {many}, for {tasks}"


def check_interval(interval: Any) -> float:
    """Return the seconds between two looks.

    Raises:
        ConfigurationError: It is not a positive number.
    """
    from ipkernel.cluster.options import check_seconds

    return check_seconds("interval", interval)
