"""What an engine does for each kind of task: a payload in, the pieces of a result out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ipkernel.engine import interrupts
from ipkernel.engine.current import state, uninterrupted
from ipkernel.engine.namespace import UserNamespace
from ipkernel.objects.ref import resolving
from ipkernel.serialize import failure
from ipkernel.serialize.dependent import rejects
from ipkernel.serialize.functions import FunctionStore, load_call
from ipkernel.serialize.payload import dumps, loads
from ipkernel.serialize.retrying import Retry
from ipkernel.wire.messages import METHODS, Kind

if TYPE_CHECKING:
    from ipkernel.engine.shell import EngineShell
    from ipkernel.serialize.calls import Call
    from ipkernel.serialize.payload import Pieces

__all__ = ["Work"]

#: What a value that cannot be sent is to the user.
RESULT = "the result"
#: The file of our own that calls the user's code for a kind of task, where it is not this one.
_OURS: dict[int, str] = dict.fromkeys(
    (Kind.PUSH, Kind.PULL), UserNamespace.pull.__code__.co_filename
)


class Work:
    """Runs tasks in a namespace.

    Args:
        namespace: The user's.
        store: The functions that were sent ahead.

    Attributes:
        kinds: For each :class:`~ipkernel.wire.messages.Kind` a function of the payload and
            the function's digest that returns the pieces of the result.
        opened: The flags of :class:`~ipkernel.engine.interrupts.Interrupts`. A task is opened
            for interrupts when its payload is loaded, not before: loading may import modules, and
            Python loses exceptions that are raised at some places there. An interrupt that has
            arrived by then is raised then.
        values: The objects that the next payload refers to, by id; None when it needs none.
        retry: Set when items of a chunk have failed in a way after which it is to be run again.
    """

    def __init__(self, namespace: UserNamespace, store: FunctionStore | None = None) -> None:
        self.namespace = namespace
        self.opened = [False, False]
        self.store = store if store is not None else FunctionStore()
        self.kinds: dict[int, Callable[[Any, bytes], Pieces]] = {
            Kind.APPLY: self.apply,
            Kind.MAP: self.map,
            Kind.EXECUTE: self.execute,
            Kind.PUSH: self.push,
            Kind.PULL: self.pull,
            Kind.KEYS: self.keys,
            Kind.CLEAR: self.clear,
        }
        self.values: Mapping[bytes, memoryview] | None = None
        self.retry = False
        self._shell: EngineShell | None = None

    def _call(self, payload: Any, digest: bytes) -> Call:
        """Load a call; what it refers to becomes the values, and is then forgotten here."""
        values = self.values
        if values is None:
            return load_call(payload, self.store, digest)
        self.values = None
        with resolving(values):
            return load_call(payload, self.store, digest)

    def _load(self, payload: Any) -> Any:
        """Load a value; see :meth:`_call`."""
        values = self.values
        if values is None:
            return loads(payload)
        self.values = None
        with resolving(values):
            return loads(payload)

    def apply(self, payload: Any, digest: bytes) -> Pieces:
        """Call a function."""
        func, args, kwargs = self._call(payload, digest)
        opened = self.opened
        opened[0] = True
        if opened[1]:
            self._interrupt()
        return dumps(func(*args, **kwargs), RESULT)

    def map(self, payload: Any, digest: bytes) -> Pieces:
        """Call a function for each item of a chunk.

        The call's arguments are the list of sequences and, optionally, whether exceptions are
        to be returned in place of results.
        """
        func, args, kwargs = self._call(payload, digest)
        self._open()
        sequences, *rest = args
        if rest[0] if rest else kwargs.get("return_exceptions", False):
            return dumps(
                [self._item(func, items) for items in zip(*sequences, strict=False)], RESULT
            )
        if len(sequences) == 1:
            return dumps([func(item) for item in sequences[0]], RESULT)
        return dumps([func(*items) for items in zip(*sequences, strict=False)], RESULT)

    def _open(self) -> None:
        """From here on the task may be interrupted, or has been."""
        self.opened[0] = True
        if self.opened[1]:
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        self.opened[1] = False
        raise KeyboardInterrupt

    def _item(self, func: Callable[..., Any], items: tuple[Any, ...]) -> Any:
        try:
            return func(*items)
        except Exception as error:
            if rejects(error):  # the chunk goes to another engine
                raise
            if isinstance(error, Retry):
                self.retry = True
                error = error.error
            return failure.ItemFailure(failure.encode(self.describe(error, Kind.MAP)))

    def execute(self, payload: Any, digest: bytes) -> Pieces:
        """Run source text through IPython."""
        code, options = self._load(payload)
        self._open()
        return dumps(self.shell.execute(code, **options))

    def push(self, payload: Any, digest: bytes) -> Pieces:
        """Put values into the namespace."""
        values = self._load(payload)
        self._open()
        self.namespace.push(values)
        return dumps(None)

    def pull(self, payload: Any, digest: bytes) -> Pieces:
        """Return values of names or expressions: a list, or the one value."""
        names, single = self._load(payload)
        self._open()
        values = self.namespace.pull(names)
        return dumps(values[0] if single else values)

    def keys(self, payload: Any, digest: bytes) -> Pieces:
        """Return the names in the namespace."""
        return dumps(self.namespace.keys())

    def clear(self, payload: Any, digest: bytes) -> Pieces:
        """Empty the namespace."""
        self._open()
        self.namespace.clear()
        return dumps(None)

    @property
    def shell(self) -> EngineShell:
        """The IPython shell, made when it is first needed: importing it takes a while."""
        if self._shell is None:
            with uninterrupted():  # modules that are half imported would stay so
                from ipkernel.engine.shell import start_shell

                self._shell = start_shell(self.namespace)
        return self._shell

    def describe(self, error: BaseException, kind: int) -> failure.ErrorInfo:
        """Return an exception as data, with where it happened and without our own frames."""
        where = {
            "engine": state.engine,
            "host": state.host,
            "pid": state.pid,
            "method": METHODS.get(kind, "apply"),  # type: ignore[call-overload]
        }
        if kind == Kind.EXECUTE and self._shell is not None:
            from ipkernel.engine.shell import CellFailed

            if isinstance(error, CellFailed):
                _end_at_user_code(error.error)
                return failure.describe(error.error, engine_info=where)
        _end_at_user_code(error)
        return failure.describe(error, engine_info=where, hide_until=_OURS.get(kind, __file__))


def _end_at_user_code(error: BaseException) -> None:
    """Take the frame of what has raised an interrupt, our signal handler, off its traceback."""
    if not isinstance(error, KeyboardInterrupt):
        return
    tb = error.__traceback__
    while tb is not None:
        if tb.tb_next is not None and tb.tb_next.tb_frame.f_code.co_filename == interrupts.__file__:
            tb.tb_next = None
        tb = tb.tb_next
