"""Large values on their way back: mapped from a store on this machine, or fetched from another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final, Protocol

from ipkernel.client.asking import Asking
from ipkernel.client.hosts import Hosts
from ipkernel.client.moving import Mover
from ipkernel.client.outbox import MAX_TEXT
from ipkernel.client.references import References
from ipkernel.client.stored import Stored
from ipkernel.client.waiting import deadline_of, left_until, wait_for
from ipkernel.errors import ConnectError, ObjectError, ObjectLost, StoreFull
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import Finished, Seek, Source

#: Places at which an object is looked for before the search is given up.
TRIES: Final = 8
#: Seconds that the controller may take to answer a question.
ANSWER: Final = 30.0


class Inbox(Protocol):
    """What takes results."""

    def arrived(self, message: Finished, content: memoryview | BaseException) -> None:
        """Take the bytes of a result, or why they cannot be had."""


class Fetcher:
    """Brings objects here.

    Args:
        inbox: Takes the results of tasks.
        hosts: Leads to the stores.
        mover: Moves bytes from other machines.
        references: Counts who uses an object.
        asking: Asks the controller.
    """

    def __init__(
        self, inbox: Inbox, hosts: Hosts, mover: Mover, references: References, asking: Asking
    ) -> None:
        self._inbox = inbox
        self._hosts = hosts
        self._mover = mover
        self.references = references
        self._asking = asking
        self._fetching: dict[int, Transfer] = {}

    # ------------------------------------------------- results of tasks

    def result(self, message: Finished) -> Stored | None:
        """Return what stands for a result; None while it is being fetched.

        Args:
            message: How the task ended; it names the object.
        """
        self.references.hold(message.object)
        if self._hosts.is_near(message.host):
            return Stored(self, message.object, message.length, message.host)
        name = self._hosts.name(message.host)
        transfer = Transfer(f"result from host {name}", message.length)
        self._fetching[message.task] = transfer
        future = self._mover.start(
            lambda: self.bring(message.object, message.host, "the result", transfer), transfer
        )
        future.add_done_callback(lambda done: self._fetched(message, done))
        return None

    def _fetched(self, message: Finished, done: Future[memoryview]) -> None:
        if not done.cancelled():  # else the session is over, and has ended all tasks
            self._inbox.arrived(message, done.exception(0) or done.result(0))
        self._fetching.pop(message.task, None)
        self.references.drop(message.object)

    def map_stored(self, stored: Stored) -> memoryview:
        """Return the bytes of a result that is on this machine."""
        return self.bring(stored.id, stored.host, "the result", Transfer("result", stored.length))

    def is_fetching(self, task: int) -> bool:
        """Tell whether the result of a task is being fetched."""
        return task in self._fetching

    def transfers_of(self, tasks: Iterable[int]) -> list[Transfer]:
        """Return the transfers of the results of these tasks."""
        fetching = self._fetching
        return [fetching[task] for task in tasks if task in fetching] if fetching else []

    def cancel(self, tasks: Iterable[int]) -> None:
        """Fetch the results of these tasks no further."""
        for transfer in self.transfers_of(tasks):
            transfer.cancel()

    # ------------------------------------------------- any object

    def bring(
        self,
        object_id: bytes,
        host: int,
        what: str,
        transfer: Transfer,
        timeout: float | None = None,
    ) -> memoryview:
        """Return the bytes of an object, from a host or from any other that has it. Blocking.

        Args:
            object_id: The object.
            host: Where it is thought to be; 0 if that is not known.
            what: What it is, for messages.
            transfer: Is told of progress, and may be cancelled.
            timeout: Seconds to wait for it at most.

        Raises:
            ObjectLost: Nobody has it any more; the text says why.
            StoreFull: It is on the disk of its host, which has no room to bring it back.
            TimeoutError: It was not here in time.
            TransferCancelled: ``transfer`` was cancelled.
            ControllerLost: The controller, who might know, is gone.
        """
        deadline = deadline_of(timeout)
        failed, problem = 0, ""
        full: StoreFull | None = None
        for _ in range(TRIES):
            if host:
                transfer.done = 0
                try:
                    store = self._hosts.store(host)
                    return store.get(object_id, timeout=left_until(deadline), transfer=transfer)
                except (TransferCancelled, TimeoutError):
                    raise
                except (ObjectError, ConnectError, OSError) as error:
                    if isinstance(error, ConnectError) and self._hosts.is_near(host):
                        self._hosts.distrust(host, error)
                        continue  # it may be reached by the network
                    failed, problem = host, str(error) or type(error).__name__
                    full = error if isinstance(error, StoreFull) else full
            source = self._seek(object_id, failed, problem)
            if source.problem or not source.host:
                problem = source.problem or problem or "no host has it yet"
                break
            host = source.host
        if full is not None:
            raise StoreFull(f"{what} cannot be had now: {full}")
        raise ObjectLost(f"{what} cannot be had: {problem}; make it again")

    def _seek(self, object_id: bytes, failed: int, problem: str) -> Source:
        question = Seek(object_id, failed, problem[:MAX_TEXT])
        answer: Source = wait_for(self._asking.ask((Source, object_id), question), ANSWER)
        return answer

    def bring_all(
        self, wanted: Sequence[tuple[bytes, int, str, int]], timeout: float | None
    ) -> list[memoryview]:
        """Return the bytes of several objects, of which far ones are fetched at the same time.

        Args:
            wanted: For each its id, a host (0 if not known), what to call it, and its size.
            timeout: Seconds for all of them.

        Raises:
            As :meth:`bring`.
        """
        deadline = deadline_of(timeout)
        found: dict[int, memoryview] = {}
        jobs: dict[int, tuple[Callable[[], memoryview], Transfer]] = {}
        for index, (object_id, host, what, size) in enumerate(wanted):
            where = f" from host {self._hosts.name(host)}" if host else ""
            transfer = Transfer(f"get{where}", size)

            def bring(
                object_id: bytes = object_id,
                host: int = host,
                what: str = what,
                transfer: Transfer = transfer,
            ) -> memoryview:
                return self.bring(object_id, host, what, transfer, left_until(deadline))

            if self._hosts.is_near(host):
                found[index] = bring()
            else:
                jobs[index] = bring, transfer
        if jobs:
            arrived = self._mover.run(list(jobs.values()), left_until(deadline))
            found.update(zip(jobs, arrived, strict=True))
        return [found[index] for index in range(len(wanted))]
