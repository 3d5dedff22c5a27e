"""The client: a connection to a cluster, and where views come from."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ipkernel import errors
from ipkernel.client import metadata as meta
from ipkernel.client.aborting import Aborting
from ipkernel.client.balancedview import LoadBalancedView
from ipkernel.client.closing import close
from ipkernel.client.directview import BroadcastView, DirectView
from ipkernel.client.interrupting import interruptible
from ipkernel.client.locate import Place, check_other_options, check_reconnect, locate
from ipkernel.client.questions import Questions
from ipkernel.client.result import AsyncResult
from ipkernel.client.values import Values
from ipkernel.client.waiting import deadline_of, left_until, wait_for_any, wait_for_one
from ipkernel.serialize.functions import FunctionCache

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ipkernel.client.connection import Connection
    from ipkernel.client.executor import ViewExecutor

#: Seconds after which a thread that computes lets the others run, while clients are open.
SWITCH_INTERVAL = 0.0005
#: Seconds that a controller which was lost is tried for.
RECONNECT = 60.0
#: The name of results that are made only to wait for; no function can have it.
_WAIT = "<wait>"


class Client(Questions, Values, Aborting):
    """A connection to a cluster.

    Indexing gives views: ``rc[0]``, ``rc[:]``, ``rc[[1, 3]]``. All methods may be called from any
    thread, but those that wait not from a reactor's.

    Args:
        connection_info: A FURL, the path of a FURL file or of a cluster directory, or the name of a
            cluster. By default the cluster ``default`` in ``$IPYTHONDIR``.
        url_file: The path of a FURL file.
        furl_file: The same.
        cluster_dir: The path of a cluster directory.
        cluster: The name of a cluster, or a ``Cluster``.
        profile: An older word for the name.
        profile_dir: An older word for the directory.
        cluster_id: Completes ``profile``.
        timeout: Seconds that connecting may take.
        reconnect: For so many seconds a controller that was lost is tried for, while everything
            waits; 0 gives up at once. What is pending then ends with ControllerLost.
        switch_interval: How long, in seconds, one thread may hold the interpreter while clients are
            open (see :func:`sys.setswitchinterval`); None leaves it alone. While clients are open,
            the garbage collector also looks less often, unless it was set up that way already.
        extra: Options of other systems that have no meaning here.

    Attributes:
        block: The initial value of ``block`` for views.
        cluster: The ``Cluster`` that started it, or None.

    Raises:
        ConnectError: There is no controller; the text says why.
        SecurityError: A file with secrets could be read by other users.
        ConfigurationError: The arguments contradict each other.
    """

    #: Why it cannot be an argument.
    _stays_here: ClassVar = (
        "a client stays in its process: a task that submits others makes a client of its own"
    )

    def __init__(
        self,
        connection_info: Any = None,
        *,
        url_file: str | os.PathLike[str] | None = None,
        furl_file: str | os.PathLike[str] | None = None,
        cluster_dir: str | os.PathLike[str] | None = None,
        cluster: Any = None,
        profile: str | None = None,
        profile_dir: str | os.PathLike[str] | None = None,
        cluster_id: str | None = None,
        timeout: float = 10,
        reconnect: float = RECONNECT,
        switch_interval: float | None = SWITCH_INTERVAL,
        **extra: Any,
    ) -> None:
        check_other_options(extra)
        check_reconnect(reconnect)
        place = locate(
            connection_info,
            url_file=url_file,
            furl_file=furl_file,
            cluster_dir=cluster_dir,
            cluster=cluster,
            profile=profile,
            profile_dir=profile_dir,
            cluster_id=cluster_id,
        )
        from ipkernel.client.connection import Connection
        from ipkernel.client.reactor_thread import run_in_reactor, start_reactor

        reactor = start_reactor()
        connection = run_in_reactor(
            reactor,
            lambda: Connection.open(reactor, place.look_again, timeout, reconnect),
            "connecting to a controller",
        )
        self._place: Place = place
        self._adopt(connection, reactor, switch_interval)
        self.cluster: Any = cluster if hasattr(cluster, "directory") else None
        self._activate_first()

    @classmethod
    def connect(cls, connection_info: Any = None, **options: Any) -> Deferred[Client]:
        """Make a client in a Twisted program, in whose reactor's thread nothing may wait.

        Args:
            connection_info: As for the class.
            options: Keyword arguments of the class.

        Returns:
            A Deferred that fires with the client.

        Raises:
            As the class, where the place is wrong; the Deferred fails with ConnectError.
        """
        from twisted.internet import reactor
        from twisted.internet.defer import ensureDeferred

        from ipkernel.client.connection import Connection

        timeout = options.pop("timeout", 10)
        reconnect = check_reconnect(options.pop("reconnect", RECONNECT))
        interval = options.pop("switch_interval", SWITCH_INTERVAL)
        place = locate(connection_info, **options)

        async def open_client() -> Client:
            connection = await Connection.open(reactor, place.look_again, timeout, reconnect)
            client = cls.__new__(cls)
            client._place = place
            client._adopt(connection, reactor, interval)
            client.cluster = None
            return client

        return ensureDeferred(open_client())

    def _adopt(self, connection: Connection, reactor: Any, switch_interval: float | None) -> None:
        from ipkernel.client.reactor_thread import client_opened

        self._connection = connection
        self._session = connection.session
        self._session.objects.client = weakref.ref(self)
        self._reactor = reactor
        self._functions = FunctionCache()
        self.block = False
        client_opened(switch_interval)
        # Also runs when the last reference goes and when the program ends.
        self._finalizer = weakref.finalize(self, close, connection, reactor)

    def _activate_first(self) -> None:
        """Make ``%px`` work in IPython, unless an earlier client has done so."""
        if "IPython" not in sys.modules:
            return
        from IPython import get_ipython

        shell = get_ipython()
        if shell is not None and shell.find_line_magic("px") is None:
            self.activate()

    # ------------------------------------------------- state

    @property
    def ids(self) -> list[int]:
        """The ids of the engines that are ready, in order."""
        return list(self._session.engines.ids)

    def __len__(self) -> int:
        return len(self._session.engines.ids)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[DirectView]:
        return iter([self[engine] for engine in self.ids])

    def __getitem__(self, key: int | slice | Sequence[int]) -> DirectView:
        return self.direct_view(key)

    def __repr__(self) -> str:
        if not self._finalizer.alive:
            return "<Client: closed>"
        lost = "" if self.connected else ", not connected"
        engines = "1 engine" if len(self) == 1 else f"{len(self)} engines"
        return f"<Client of cluster {self._connection.cluster!r}: {engines}{lost}>"

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the controller now.

        If not, it is being tried for, or the client is closed or has given up: calls raise
        ControllerLost then.
        """
        return self._session.failure is None and not self._session.contact.lost

    @property
    def session(self) -> int:
        """The number of this client's session with the controller."""
        return self._session.number

    @property
    def profile(self) -> str:
        """The cluster's name."""
        return self._connection.cluster

    @property
    def outstanding(self) -> set[int]:
        """The ids of the tasks that are pending."""
        return set(self._session.pending)

    @property
    def history(self) -> Sequence[int]:
        """The ids of all tasks of this client, oldest first."""
        return self._session.history

    @property
    def results(self) -> dict[int, Any]:
        """The results, or exceptions, of ended tasks whose AsyncResult is still held, by id."""
        return {task: record.load()[1] for task, record in self._session.held().items()}

    @property
    def metadata(self) -> dict[int, meta.Metadata]:
        """The metadata of pending tasks, and of ended ones whose AsyncResult is held, by id."""
        records = {**self._session.held(), **self._session.pending}
        known = self._session.engines.known
        return {task: meta.describe(record, known) for task, record in records.items()}

    @property
    def _ids(self) -> list[int]:
        return self.ids

    @property
    def _engines(self) -> dict[int, str]:
        known = self._session.engines.known
        return {engine: f"{known[engine].host}:{known[engine].pid}" for engine in self.ids}

    # ------------------------------------------------- views

    def _targets_of(self, targets: Any) -> int | list[int]:
        """Return the engine or engines that a user means."""
        ids = self.ids
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return ids
        if isinstance(targets, slice):
            return ids[targets]
        if isinstance(targets, (str, bytes, bool)):
            raise TypeError(f"targets cannot be {targets!r}")
        if isinstance(targets, Iterable):
            return [self._engine_of(target, ids) for target in targets]
        return self._engine_of(targets, ids)

    def _engine_of(self, target: Any, ids: list[int]) -> int:
        try:
            number: int = target.__index__()
        except AttributeError:
            raise TypeError(
                f"targets must be engine ids, a slice or 'all'; not {target!r}"
            ) from None
        if number < 0:
            if -number > len(ids):
                raise errors.InvalidEngineID(f"there is no engine {number}: {self._which(ids)}")
            return ids[number]
        if number not in ids:
            known = self._session.engines.known.get(number)
            if known is None:
                raise errors.InvalidEngineID(f"there is no engine {number}: {self._which(ids)}")
            if known.state == "dead":
                raise errors.InvalidEngineID(str(known))
        return number

    @staticmethod
    def _which(ids: list[int]) -> str:
        return f"there are {', '.join(map(str, ids))}" if ids else "there are no engines"

    def _build_targets(self, targets: Any) -> tuple[list[int], list[int]]:
        found = self._targets_of(targets)
        engines = [found] if isinstance(found, int) else found
        return engines, engines

    def direct_view(self, targets: Any = "all", **flags: Any) -> DirectView:
        """Return a view whose calls go to each of its engines.

        Args:
            targets: An engine id, a list, a slice, or ``"all"`` for those that there are at the
                moment of each call.
            flags: Initial values of flags.

        Raises:
            InvalidEngineID: There is no such engine (also an IndexError).
        """
        chosen = targets if isinstance(targets, str) else self._targets_of(targets)
        if isinstance(chosen, str) and chosen != "all":
            raise TypeError(f"targets must be engine ids, a slice or 'all'; not {chosen!r}")
        return DirectView(self, chosen, **flags)

    def load_balanced_view(self, targets: Any = None, **flags: Any) -> LoadBalancedView:
        """Return a view whose calls go to whichever engine is free.

        Args:
            targets: The engines to choose from; None for all.
            flags: Initial values of flags.

        Raises:
            InvalidEngineID: There is no such engine (also an IndexError).
        """
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return LoadBalancedView(self, None, **flags)
        chosen = self._targets_of(targets)
        return LoadBalancedView(self, [chosen] if isinstance(chosen, int) else chosen, **flags)

    def broadcast_view(
        self, targets: Any = "all", is_coalescing: bool = False, **flags: Any
    ) -> BroadcastView:
        """Return a direct view for many engines; see :meth:`direct_view`."""
        chosen = targets if isinstance(targets, str) else self._targets_of(targets)
        return BroadcastView(self, chosen, is_coalescing=is_coalescing, **flags)

    def executor(self, targets: Any = None) -> ViewExecutor:
        """Return an executor of :mod:`concurrent.futures` on a load-balanced view."""
        from ipkernel.client.executor import ViewExecutor

        return ViewExecutor(self.load_balanced_view(targets))

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView:
        """Make ``%px`` and its like work in IPython; return the view that they use.

        Args:
            targets: The view's engines.
            suffix: Appended to the names of the magics.
        """
        view = self.direct_view(targets)
        self._activate(view, suffix)
        return view

    def _activate(self, view: DirectView, suffix: str) -> None:
        from ipkernel.client.magics import activate

        activate(view, suffix)

    # ------------------------------------------------- waiting

    def _results_of(self, jobs: Any, *, each: bool = False) -> list[Future[Any]]:
        """Return the futures that a user means by jobs: one for all ids, or one for each."""
        if jobs is None:
            jobs = list(self._session.pending)
        if isinstance(jobs, (str, int, Future)):
            jobs = [jobs]
        futures: list[Future[Any]] = []
        ids = []
        for job in jobs:
            if isinstance(job, Future):
                futures.append(job)
            else:
                ids.append(self._task_id(job))
        records = [record for record in map(self._session.find, ids) if record is not None]
        for some in [[record] for record in records] if each else [records]:
            if some:
                result = AsyncResult(self._session, each, _WAIT, owner=self)
                self._session.watch(some, result)
                futures.append(result)
        return futures

    def wait(
        self, jobs: Any = None, timeout: float | None = -1, return_when: str | None = None
    ) -> Any:
        """Wait for tasks to end; nothing is raised for those that fail.

        Args:
            jobs: Task ids, indices in the history, results or other futures, one or a list; None
                for all that are pending.
            timeout: Seconds; None or negative is for ever.
            return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION``.

        Returns:
            Without ``return_when`` whether all have ended; with it two sets, as from
            :func:`concurrent.futures.wait`: what has ended and what has not. Results and futures
            are in them as they were given, and a result of one task for each task that was named.

        Raises:
            ValueError: There is no such ``return_when``.
        """
        deadline = deadline_of(timeout)
        futures = self._results_of(jobs, each=return_when is not None)
        ours = [future for future in futures if isinstance(future, AsyncResult)]
        try:
            with interruptible(self, ours):
                if return_when is not None:
                    return wait_for_any(futures, return_when, deadline)
                return all(wait_for_one(future, left_until(deadline)) for future in futures)
        finally:
            for future in ours:  # else each look at pending tasks would leave something there
                if future._fname == _WAIT and not future.done():
                    self._session.unwatch(future)

    def wait_interactive(
        self, jobs: Any = None, interval: float = 1.0, timeout: float | None = -1.0
    ) -> None:
        """Wait for tasks with a progress bar; arguments as for :meth:`wait`.

        Args:
            jobs: What to wait for.
            interval: Seconds between updates.
            timeout: Seconds; None or negative is for ever.
        """
        ours = [f for f in self._results_of(jobs) if isinstance(f, AsyncResult)]
        if ours:
            AsyncResult.join(*ours).wait_interactive(interval, timeout)

    def wait_for_engines(
        self,
        n: int | None = None,
        *,
        timeout: float | None = -1,
        block: bool = True,
        interactive: bool | None = None,
        widget: object = None,
    ) -> Any:
        """Wait until there are engines.

        Args:
            n: How many; None for as many as the cluster was started with, or one.
            timeout: Seconds; None or negative is for ever.
            block: Wait here; otherwise return a future.
            interactive: Show a progress bar; by default if somebody looks.
            widget: True for a notebook's widget, False for text, None to choose.

        Raises:
            TimeoutError: There are fewer; the text says what is known of each.
            EngineError: An engine has ended for good meanwhile.
            ControllerLost: The connection to the controller is gone.
        """
        from ipkernel.client.startup import wait_for_engines

        if n is None:
            n = getattr(self.cluster, "n", None) or 1
        return wait_for_engines(self, n, timeout, block, interactive, widget)

    # ------------------------------------------------- control

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the namespaces of engines.

        Args:
            targets: Which; None for all.
            block: Wait until it is done; by default as ``block``.
        """
        view = self.direct_view("all" if targets is None else targets)
        return view.clear(block=self.block if block is None else block)

    def send_signal(self, sig: int | str, targets: Any = None, block: bool | None = None) -> None:
        """Send a signal to engines.

        Args:
            sig: Its number or name, such as ``"SIGINT"``.
            targets: Which; None for all.
            block: Has no effect; the signal is sent when this returns.

        Raises:
            ValueError: There is no such signal.
            EngineError: It could not be sent; the text says why.
        """
        from ipkernel.client import control

        control.send_signal(self, sig, targets)

    def shutdown(
        self,
        targets: Any = "all",
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> None:
        """End engines for good, start them afresh, or end the whole cluster.

        Args:
            targets: Which engines.
            restart: Start them again under the same ids.
            hub: End the controller and all host daemons too.
            block: Has no effect; the engines are gone when this returns.

        Raises:
            ConnectError: The admin FURL, which ending needs, is not known to this client.
            EngineError: It could not be done; the text says why.
        """
        from ipkernel.client import control

        control.shutdown(self, targets, restart, hub)

    # ------------------------------------------------- doors

    def _call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        from ipkernel.client.reactor_thread import run_in_reactor

        return run_in_reactor(
            self._reactor,
            lambda: self._connection.call(method, request, timeout),
            f"asking the controller ({method})",
        )

    def _call_admin(self, method: str, request: bytes, timeout: float = 30.0) -> bytes | None:
        from ipkernel.client.reactor_thread import run_in_reactor

        furl = self._place.other("admin")
        return run_in_reactor(
            self._reactor,
            lambda: self._connection.call_admin(furl, method, request, timeout),
            f"asking the controller ({method})",
        )

    def _abandon(self, why: str) -> None:
        """Try no more to reach the controller, which has ended for good."""
        if self._finalizer.alive and self._reactor.running:
            self._reactor.callFromThread(self._connection.abandon, why)

    def _check_open(self) -> None:
        failure = self._session.failure
        if failure is not None:
            raise failure

    # ------------------------------------------------- the end

    def close(self, linger: float | None = None) -> None:
        """Close the connection; tasks that were submitted go on.

        Results that are still pending raise ControllerLost; another client can get them with
        ``get_result``. Large results that are here but were not looked at yet stay usable; references
        do not.

        Args:
            linger: Has no effect; what was submitted is sent first.
        """
        self._session.keep_results()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
