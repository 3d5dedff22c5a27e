"""The tables of the scheduler, and the few things that all of its parts do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import MsgspecError, Struct, structs

from ipkernel.controller.archive import Archive, Labels
from ipkernel.controller.demands import Demand, Demands, impossible
from ipkernel.controller.events import Item, Result
from ipkernel.controller.history import History
from ipkernel.controller.instructions import (
    Commit,
    DropClient,
    Instruction,
    SessionEnded,
    ToAllClients,
    ToClient,
    ToHost,
)
from ipkernel.controller.journal import (
    Again,
    Assigned,
    Ended,
    Forgotten,
    HostCame,
    Printed,
    Record,
    SessionClosed,
)
from ipkernel.controller.objects import Directory
from ipkernel.controller.queues import Line, Lines
from ipkernel.controller.registry import Host, Ids
from ipkernel.controller.retention import Retained, Taken
from ipkernel.controller.sessions import Session
from ipkernel.controller.slots import READY, Engine, Ladder
from ipkernel.controller.tasks import ENDS, QUEUED, Origin, Payload, Refused, State, Task
from ipkernel.wire.messages import (
    MAX_LIST,
    Cancelled,
    Failed,
    Fate,
    Finished,
    ForgetFunctions,
    Outcome,
    Output,
    Past,
    Reason,
    Submit,
    decode_reason,
    encode_reason,
)

if TYPE_CHECKING:
    from ipkernel.controller.dependencies import Wait

#: The largest number of digests that one message names.
_DIGESTS = 1 << 14
#: At most so many sessions wait for the result of one task of another session.
MAX_WATCHERS: Final = 64


Question: TypeAlias = tuple[int, int]
"""A request to abort tasks: the session that has asked, and its number for it."""


class Totals(Struct):
    """How many tasks have ended, and how."""

    finished: int = 0
    failed: int = 0
    aborted: int = 0


class Core:
    """Everything that the scheduler knows.

    Attributes:
        tasks: All tasks that have not ended, by id.
        sessions: All sessions with a client or an open task, by number.
        hosts: The hosts that are connected, by number.
        engines: All engines that have an id, by id.
        ids: Engine ids.
        lines: Load-balanced tasks that are ready.
        demands: What some of them ask of engines.
        ladder: Engines with room for them.
        kept: Engines that keep something free for certain tasks.
        pending: Engines with room and direct tasks, to be looked at.
        deep: Engines that run a long task with other tasks behind it.
        draining: Engines that are draining and have something to do, as far as is known.
        parked: Direct tasks of held sessions, by session.
        waits: Tasks that wait for others to end, by id.
        awaited: For each task that others wait for, their ids.
        refused: For each task that engines have rejected, what these said.
        failed: How tasks failed in whose place others are run now.
        history: How the latest tasks ended.
        archive: Submissions of tasks that have ended, to run them again.
        labels: The tasks with each label.
        settled: Of how many of ``ended`` those that wait for them know.
        watchers: Sessions that asked for the result of another one's task, by task.
        askers: Who wants to know how the abort of a task goes, which its host is asked for:
            pairs of a session and its number for the question.
        retained: Results of clients that have gone.
        objects: Large values, wherever they are.
        departed: Sessions that are no more, but have results among ``retained``; what they refer
            to lives as long as those.
        expected: After a restart, who is still to say which objects it has or uses: numbers of
            hosts, and of sessions with a minus.
        reported: Whether one of those has said it, or will not, since that was looked at.
        totals: How many tasks have ended.
        purged: How many of these were forgotten because somebody asked for it.
        began: When the controller was started again with what was in its journal; 0.0 if it was not.
        now: Time of the latest event.
    """

    def __init__(self, task: type[Task], retained: Retained, ladder: Ladder) -> None:
        self.new_task = task
        self.tasks: dict[int, Task] = {}
        self.sessions: dict[int, Session] = {}
        self.hosts: dict[int, Host] = {}
        self.engines: dict[int, Engine] = {}
        self.ids = Ids()
        self.lines = Lines()
        self.demands = Demands()
        self.ladder = ladder
        self.kept: list[Engine] = []
        self.pending: dict[Engine, None] = {}
        self.deep: dict[Engine, None] = {}
        self.draining: dict[Engine, None] = {}
        self.parked: dict[int, list[Task]] = {}
        self.waits: dict[int, Wait] = {}
        self.awaited: dict[int, dict[int, None]] = {}
        self.refused: dict[int, Refused] = {}
        self.failed: dict[int, Failed] = {}
        self.history = History()
        self.archive = Archive()
        self.labels = Labels(self.tasks)
        self.settled = 0
        self.watchers: dict[int, list[int]] = {}
        self.askers: dict[int, list[Question]] = {}
        self.retained = retained
        self.objects = Directory()
        self.departed: set[int] = set()
        self.expected: set[int] = set()
        self.reported = False
        self.totals = Totals()
        self.purged = 0
        self.began = 0.0
        self.now = 0.0
        # what the current call of the scheduler has to say
        self.records: list[Record] = []
        self.ended: list[Result] = []
        self.origins: list[Origin | None] = []  # of each of those
        self.printed: list[tuple[Output, Payload]] = []
        self.forgotten: list[int] = []
        self.unknown: list[int] = []  # tasks that were purged
        self._assigned: dict[int, tuple[list[int], list[int]]] = {}
        self._closed: list[Record] = []
        self._to_hosts: dict[int, list[Item]] = {}
        self._to_clients: dict[int, list[Item]] = {}
        self._to_all: list[Item] = []
        self._answers: dict[Question, list[tuple[int, Fate]]] = {}
        self._rest: list[Instruction] = []

    # ------------------------------------------------------------- what goes out

    def host_items(self, host: int) -> list[Item]:
        """Return the list of what goes to a host, to be appended to."""
        items = self._to_hosts.get(host)
        if items is None:
            items = self._to_hosts[host] = []
        return items

    def assigned_to(self, host: int) -> tuple[list[int], list[int]]:
        """Return the tasks that are assigned to a host, and their engines, to be added to."""
        pair = self._assigned.get(host)
        if pair is None:
            pair = self._assigned[host] = ([], [])
        return pair

    def client_items(self, session: int) -> list[Item]:
        """Return the list of what goes to the client of a session, to be appended to."""
        items = self._to_clients.get(session)
        if items is None:
            items = self._to_clients[session] = []
        return items

    def tell_all(self, item: Item) -> None:
        """Send a message to every client."""
        self._to_all.append(item)

    def instruct(self, instruction: Instruction) -> None:
        """Have something done that is not about messages."""
        self._rest.append(instruction)

    def drop_client(self, session: int, reason: str) -> None:
        """End the connection of a client that broke the rules."""
        self._rest.append(DropClient(session, reason))

    def answer(self, question: Question, task: int, fate: Fate) -> None:
        """Tell a client what became of a task that it wanted aborted."""
        answers = self._answers.get(question)
        if answers is None:
            answers = self._answers[question] = []
        answers.append((task, fate))

    def _send_answers(self) -> None:
        for (number, serial), answers in self._answers.items():
            session = self.sessions.get(number)
            if session is None or not session.attached:
                continue
            items = self.client_items(number)
            for start in range(0, len(answers), MAX_LIST):
                some = answers[start : start + MAX_LIST]
                message = Cancelled(serial, [task for task, _ in some], [fate for _, fate in some])
                items.append((message, b""))
        self._answers = {}

    def take_instructions(self) -> list[Instruction]:
        """Return what was gathered since the last call, what is to be committed first."""
        out: list[Instruction] = []
        if self._answers:
            self._send_answers()
        records = self.records
        if self.printed:
            records.append(Printed(self.printed))
            self.printed = []
        if self._assigned:
            records += [Assigned(host, *pair) for host, pair in self._assigned.items() if pair[0]]
            self._assigned = {}
        if self.ended:
            submitted = [0.0 if one is None else one.submitted for one in self.origins]
            records.append(Ended(self.now, self.ended, submitted))
            self.ended = []
            self.origins = []
            self.settled = 0
        if self.forgotten:
            records.append(Forgotten(self.now, self.forgotten))
            self.forgotten = []
        if self.unknown:
            records.append(Forgotten(self.now, self.unknown, purged=True))
            self.unknown = []
        if self._closed:
            records += self._closed
            self._closed = []
        if records:
            out.append(Commit(records))
            self.records = []
        if self._to_hosts:
            out += [ToHost(host, items) for host, items in self._to_hosts.items() if items]
            self._to_hosts = {}
        if self._to_all:
            out.append(ToAllClients(self._to_all))
            self._to_all = []
        if self._to_clients:
            out += [
                ToClient(session, items) for session, items in self._to_clients.items() if items
            ]
            self._to_clients = {}
        if self._rest:
            out += self._rest
            self._rest = []
        return out

    # ------------------------------------------------------------- ends of tasks

    def deliver(self, message: Finished, payload: Payload, ended: Task | None = None) -> None:
        """Send a result to whom it concerns, or keep it for whoever comes for it.

        Args:
            message: How a task has ended.
            payload: What belongs to it.
            ended: The task, or None if it never was taken in.
        """
        if self.failed and (failed := self.failed.pop(message.task, None)):
            message = structs.replace(message, failed=failed)
        item = (message, payload)
        self.ended.append(item)
        self.origins.append(None if ended is None else ended.origin(self.now))
        task = message.task
        if self.askers and (asked := self.askers.pop(task, None)):
            fate = _fate_of(message, payload)
            for question in asked:
                self.answer(question, task, fate)
        session = self.sessions.get(task >> 40)
        receivers = []
        if session is not None and session.attached:
            receivers.append(session.id)
        if self.watchers:
            receivers += self.watchers.pop(task, ())  # of other sessions, and attached
        for receiver in receivers:
            self.client_items(receiver).append(item)
            if message.object:
                self.objects.refer(receiver, message.object)
        lasts = message.outcome is not Outcome.OK or not receivers
        if ended is not None and lasts and message.failed is None:  # else it was filed by then
            self.file(ended, message.outcome)
        if not receivers:
            self.retain(message, payload)

    def file(self, task: Task, outcome: Outcome) -> None:
        """Keep the submission of a task that has ended, so that it can be run again."""
        digest = task.message.digest
        function = self.sessions[task.session].functions.get(digest) if digest else None
        self.archive.file(task, outcome, function)

    def retain(self, message: Finished, payload: Payload) -> None:
        """Keep a result for whoever comes for it, and the object that it is."""
        if message.object:
            self.objects.refer(message.task, message.object)
        self.forget(self.retained.keep(message, payload, self.now))

    def hand_over(self, session: int, taken: Mapping[int, Taken]) -> None:
        """Send results that were kept here to a client, which uses their objects from now on."""
        items = self.client_items(session)
        for output, result in taken.values():
            items += output
            items.append(result)
            if result[0].object:
                self.objects.refer(session, result[0].object)
        for task in taken:  # not before: with the last result of a session its objects may go
            self.not_retained(task)

    def forget(self, tasks: list[int]) -> None:
        """Note that the results of these tasks are not kept any more."""
        if not tasks:
            return
        self.forgotten += tasks
        for task in tasks:
            self.not_retained(task)

    def not_retained(self, task: int) -> None:
        """Let go of the objects that lived for the result of a task, which was kept here."""
        self.archive.fetched(task)
        self.objects.leave(task)
        session = task >> 40
        if session in self.departed and not self.retained.of_session(session):
            self.departed.discard(session)
            self.objects.leave(session)

    def take_in(self, task: Task) -> None:
        """Put a task among those that have not ended."""
        self.tasks[task.id] = task
        if task.message.label:
            self.labels.add(task.message.label, task.id)

    def reject(self, task: int, outcome: Outcome, reason: Reason, label: str = "") -> None:
        """End a task that never was taken in."""
        payload = encode_reason(reason)
        self.count_end(outcome)
        self.deliver(Finished(task, outcome, -1, 0.0, 0.0, len(payload), 0, label=label), payload)

    def end(self, task: Task, outcome: Outcome, reason: Reason, began: float = 0.0) -> None:
        """End a task that stands in no queue and on no engine any more.

        Args:
            task: The task.
            outcome: How.
            reason: Why.
            began: When an engine had begun it, as far as that is known here; 0.0 for not at all.
        """
        task.state = ENDS[outcome]
        del self.tasks[task.id]
        if task.message.label:
            self.labels.ended(task.message.label)
        if task.message.needs:
            self.objects.need_no_more(task.id, task.message.needs)
        self.count_end(outcome)
        payload = encode_reason(reason)
        engine = max(reason.engine, task.engine)
        size = len(payload)
        finished = Finished(
            task.id,
            outcome,
            engine,
            began,
            self.now,
            size,
            task.attempts,
            label=task.message.label,
            kind=task.message.kind,
        )
        self.deliver(finished, payload, task)
        self.discharge(self.sessions[task.session], 1, task.charge)

    def end_queued(self, task: Task, outcome: Outcome, reason: Reason) -> None:
        """End a task that stands in a queue here, or waits for others."""
        if task.id in self.waits:
            self.stop_waiting(task)
            self.end(task, outcome, reason)
            return
        if task.target < 0:
            line = self.line_of(task)
            self.end(task, outcome, reason)
            self.lines.dropped(line, task)
            return
        session = self.sessions[task.session]
        parked = self.parked.get(task.session, [])
        self.end(task, outcome, reason)
        if session.held and task in parked:
            parked.remove(task)
            return
        engine = self.engines[task.target]
        task.payload = b""
        engine.shelved += 1
        if engine.shelved > 64 + len(engine.direct) // 2:
            live = [t for t in engine.direct if t.state in QUEUED]
            engine.direct.clear()
            engine.direct.extend(live)
            engine.shelved = 0

    def count_end(self, outcome: Outcome) -> None:
        """Count one more task that has ended."""
        state = ENDS[outcome]
        if state is State.FINISHED:
            self.totals.finished += 1
        elif state is State.FAILED:
            self.totals.failed += 1
        else:
            self.totals.aborted += 1

    # ------------------------------------------------------------------ sessions

    def discharge(self, session: Session, tasks: int, size: int) -> None:
        """Note that so many tasks of a session with so many bytes have ended."""
        session.open -= tasks
        session.bytes -= size
        if not session.open:
            self.retire_if_over(session)

    def retire_if_over(self, session: Session) -> None:
        """Forget a session that has no task if its client is gone, and is not waited for."""
        if session.open or session.attached:
            return
        if session.until and (session.until > self.now or self.retained.of_session(session.id)):
            return
        self._retire(session)

    def _retire(self, session: Session) -> None:
        del self.sessions[session.id]
        self.lines.forget(session.id)
        self.parked.pop(session.id, None)
        self._forget_functions(session)
        if self.retained.of_session(session.id):
            self.departed.add(session.id)
        else:
            self.objects.leave(session.id)
        self._closed.append(SessionClosed(session.id, self.now))
        self._rest.append(SessionEnded(session.id))

    def _forget_functions(self, session: Session) -> None:
        gone = set(session.functions)
        for other in self.sessions.values():
            gone.difference_update(other.functions)
        for host in self.hosts.values():
            known = sorted(host.known & gone)
            host.known.difference_update(known)
            for start in range(0, len(known), _DIGESTS):
                message = ForgetFunctions(known[start : start + _DIGESTS])
                self.host_items(host.id).append((message, b""))

    # -------------------------------------------------------------------- queues

    def stop_waiting(self, task: Task) -> None:
        """Let a task wait for others no more."""
        for need in self.waits.pop(task.id).needs:
            for other in need.open:
                children = self.awaited.get(other)
                if children is not None:
                    children.pop(task.id, None)
                    if not children:
                        del self.awaited[other]

    def enqueue(self, line: Line, task: Task) -> None:
        """Put a ready load-balanced task at the end of its line."""
        priority = task.priority
        if priority:
            self.lines.ranked.add(line.session)
        line.plain = line.plain and is_plain(task.message)
        line.level(priority).append(task)
        self.lines.grown(line, 1)

    def note_again(self, task: Task, *past: Past) -> None:
        """Write down how it stands with a task that waits, and which others it knows to have ended."""
        text = task.notes[-1][1] if task.notes else ""
        free = task.id not in self.waits
        targets = task.message.targets if task.target < 0 else []
        told: dict[int, str] = {}
        if self.refused and (refused := self.refused.get(task.id)) is not None:
            told, refused.unwritten = refused.unwritten, told
        self.records.append(
            Again(task.id, self.now, task.attempts, text, targets, list(past), free, told)
        )

    def note_engines(self, host: Host) -> None:
        """Write down which engines a host has."""
        said = {n: e.properties for n, e in host.engines.items() if e.properties}
        engines = sorted(host.engines)
        local = host.facts.local
        self.records.append(
            HostCame(host.id, self.now, host.name, host.pid, host.tub_id, engines, said, local)
        )

    def any_usable(self, targets: Sequence[int]) -> bool:
        """Tell whether tasks may be bound to any of these engines."""
        return any((e := self.engines.get(t)) is not None and e.usable for t in targets)

    def requeue_first(self, task: Task) -> None:
        """Put a task that was on an engine back to the head of its queue.

        The engine that a direct task is bound to must be usable. A task whose objects have been
        lost meanwhile ends instead.
        """
        task.engine = -1
        self.note_again(task)
        needs = task.message.needs
        if needs and (problem := self.objects.problem(needs)):
            self.end(task, Outcome.LOST, Reason("object", problem[:4000]))
            return
        if task.target >= 0:
            engine = self.engines[task.target]
            task.state = State.READY if engine.state == READY else State.WAITING
            if self.sessions[task.session].held:
                self.parked.setdefault(task.session, []).insert(0, task)
            else:
                engine.direct.appendleft(task)
                self.pending[engine] = None
            return
        task.state = State.READY
        self.put_first(task)

    def put_first(self, task: Task) -> None:
        """Put a ready load-balanced task at the head of its line."""
        line = self.line_of(task)
        line.plain = line.plain and is_plain(task.message)
        line.level(task.priority).appendleft(task)
        self.lines.grown(line, 1)

    def line_of(self, task: Task) -> Line:
        """Return the line in which a load-balanced task waits."""
        session = self.sessions[task.session]
        message = task.message
        demand = self.demands.of(message.terms)
        line = self.lines.line(session.id, choice_of(message.targets), task.near, demand)
        line.held = session.held
        return line


def is_plain(message: Submit) -> bool:
    """Tell whether an engine needs to be told no more of a task than what to do."""
    return not message.needs and not message.keep and message.terms is None


def _fate_of(message: Finished, payload: Payload) -> Fate:
    """Return what became of a task that was to be aborted, by how it ended."""
    if message.outcome is not Outcome.ABORTED:
        return Fate.ENDED
    try:
        return decode_reason(payload).fate or Fate.INTERRUPTED
    except MsgspecError:  # engines may say anything
        return Fate.INTERRUPTED


def choice_of(targets: list[int]) -> tuple[int, ...]:
    """Return the engines of a list in order and once each."""
    return tuple(sorted(set(targets))) if targets else ()


def unable(core: Core, choice: Sequence[int], demand: Demand | None) -> Reason | None:
    """Return why no engine could ever run such load-balanced tasks, or None if one could."""
    if choice and not core.any_usable(choice):
        return no_engine(core, list(choice))
    return impossible(core, choice, demand) if demand is not None else None


def no_engine(core: Core, targets: list[int]) -> Reason:
    """Return the reason why a task for these engines cannot run."""
    if len(targets) == 1:
        target = targets[0]
        engine = core.engines.get(target)
        if engine is None:
            text = f"there is no engine {target}"
        elif engine.ending:
            text = f"engine {target} is being stopped"
        elif engine.draining:
            text = f"engine {target} is about to go: {engine.draining}"
        else:
            text = f"engine {target} is dead: {engine.reason or 'it was lost'}"
        return Reason("no-engine", text, engine=target)
    named = ", ".join(map(str, targets[:20])) + (", ..." if len(targets) > 20 else "")
    return Reason("no-engine", f"none of the engines {named} is there")
