"""Views that address engines one by one: the same call, or a part of the data, for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ipkernel.client.baseview import View, name_of
from ipkernel.client.feeding import ItemStream, attach, dump_with_streams
from ipkernel.client.mapping import MapCalls, load_items
from ipkernel.client.mapresult import AsyncMapResult
from ipkernel.client.partition import APART, dist_of, indexable
from ipkernel.client.properties import Describing
from ipkernel.client.reply import ExecuteReply
from ipkernel.client.result import AsyncResult
from ipkernel.client.wholes import first_of
from ipkernel.serialize.calls import CallPayload
from ipkernel.serialize.payload import dumps_with_needs
from ipkernel.wire.messages import Kind

if TYPE_CHECKING:
    from ipkernel.client.importer import ImportRecorder


def _payload(value: Any) -> CallPayload:
    pieces, needs = dumps_with_needs(value)
    return CallPayload(b"", b"", pieces, needs)


class DirectView(Describing, View):
    """Engines that all get every call.

    With an integer as target results are single values, else lists with one value per engine. With
    ``"all"`` the view stands for the engines that there are at the moment of a call.
    """

    def _checked(self, targets: Any) -> Any:
        return targets if targets == "all" else self.client._targets_of(targets)

    @property
    def _single(self) -> bool:
        return isinstance(self._targets, int)

    def _engines(self) -> list[int]:
        targets = self._targets
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return self.client.ids
        return [targets] if isinstance(targets, int) else list(targets)

    def _resolve(self, targets: Any) -> tuple[list[int], bool]:
        """Return the engines of a call and whether its result is a single value."""
        if targets is None:
            engines, single = self._engines(), self._single
        else:
            checked = self.client._targets_of(targets)
            single = isinstance(checked, int)
            engines = [checked] if isinstance(checked, int) else checked
        if not engines:
            self._no_engines()
        return engines, single

    def _send(
        self,
        kind: Kind,
        call: CallPayload,
        fname: str,
        targets: Any = None,
        label: str | None = None,
        convert: Callable[[Any, Any], Any] | None = None,
        keep: bool = False,
        streams: Sequence[ItemStream] = (),
    ) -> AsyncResult:
        """Submit the same task to each engine."""
        engines, single = self._resolve(targets)
        result = AsyncResult(self._session, single, fname, owner=self.client)
        if streams:
            attach(streams, result, len(engines))
        result._convert = convert
        label = self.label if label is None else label
        if single:
            self._session.submit(
                result, kind, call, engines[0], (), self.retries, label, keep, self._asked()
            )
        else:
            self._session.submit_same(
                result, kind, call, engines, label, self.retries, keep, self._terms
            )
        self._note(result)
        return result

    def _submit_call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str | None = None,
        keep: bool | None = None,
    ) -> AsyncResult:
        call, streams = dump_with_streams(func, args, kwargs, self.client._functions)
        keep = self.keep if keep is None else keep
        return self._send(Kind.APPLY, call, name_of(func), label=label, keep=keep, streams=streams)

    def _places(self) -> tuple[list[tuple[int, Sequence[int]]], bool]:
        engines, single = self._resolve(None)
        return [(engine, ()) for engine in engines], single

    def _submit_map(self, func: Any, sequences: Sequence[Any], options: MapCalls) -> AsyncMapResult:
        engines, _ = self._resolve(None)
        whole = [indexable(sequence) for sequence in options.sources(sequences)]
        length = min(map(len, whole))
        count = min(length, len(engines))
        dist = options.dist
        numbers = [dist.part(range(length), index, count) for index in range(count)]
        apart = options.keep and options.elementwise
        if apart:  # a task for each item, on the engine whose part it belongs to
            owners = sorted((i, index) for index, part in enumerate(numbers) for i in part)
            numbers, engines = [range(i, i + 1) for i, _ in owners], [engines[o] for _, o in owners]
        result = AsyncMapResult(
            self._session,
            APART if apart else dist,
            [len(part) for part in numbers],
            options.ordered,
            name_of(func),
            return_exceptions=options.return_exceptions,
            owner=self.client,
        )
        if options.elementwise and options.return_exceptions:
            result._convert = load_items
        calls = (
            (
                options.encode(
                    func,
                    [sequence[part[0] : part[-1] + 1 : part.step] for sequence in whole],
                    part,
                    self.client._functions,
                ),
                engine,
            )
            for part, engine in zip(numbers, engines, strict=False)
        )
        self._session.submit_each(
            result,
            options.kind,
            calls,
            (),
            options.retries,
            options.label,
            options.keep,
            self._asked(),
        )
        self._note(result)
        return result

    # ------------------------------------------------- source text

    def execute(
        self,
        code: str,
        silent: bool = True,
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Run source text on each engine, as a cell of IPython (magics included).

        Args:
            code: The source.
            silent: Neither count it as an input nor return the last expression's value.
            targets: Engines; by default the view's.
            block: Wait for it; by default as the view does. With ``silent=False`` what is printed
                is then shown as it comes.
            label: A name for the tasks.

        Returns:
            An :class:`AsyncResult` of :class:`~ipkernel.client.reply.ExecuteReply`.

        Raises:
            TypeError: ``code`` is no text.
            RemoteError: Waiting for it, and the code raised an exception on the only engine.
            CompositeError: The same, on one or more of several engines.
        """
        if not isinstance(code, str):
            raise TypeError(f"the code to execute must be a str, not {type(code).__name__}")
        options = {"silent": silent, "filename": None, "store_history": not silent}
        return self._execute(code, options, targets, block, label)

    def run(
        self,
        filename: str | os.PathLike[str],
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Run a file of this machine on each engine.

        Args:
            filename: Its path.
            targets: Engines; by default the view's.
            block: Wait for it; by default as the view does.
            label: A name for the tasks.

        Raises:
            OSError: The file cannot be read.
        """
        import tokenize

        path = os.path.abspath(os.path.expanduser(os.fspath(filename)))
        with tokenize.open(path) as file:
            code = file.read()
        options = {"silent": True, "filename": path, "store_history": False}
        return self._execute(code, options, targets, block, label)

    def _execute(
        self,
        code: str,
        options: dict[str, Any],
        targets: Any,
        block: bool | None,
        label: str | None,
    ) -> AsyncResult:
        result = self._send(
            Kind.EXECUTE, _payload((code, options)), "execute", targets, label, ExecuteReply
        )
        if self.block if block is None else block:
            if options["silent"]:
                result.wait()
            else:
                with result.stream_output():
                    result.wait()
                result.display_outputs(result_only=True)
            result.get()
        return result

    # ------------------------------------------------- namespace

    def push(
        self,
        ns: Mapping[str, Any],
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """Put values into the engines' namespaces.

        Args:
            ns: Values by name; a dotted name sets an attribute.
            targets: Engines; by default the view's.
            block: Wait until it is done; by default as the view does.
            track: Has no effect; see ``AsyncResult.wait_for_send``.
            label: A name for the tasks.

        Raises:
            TypeError: ``ns`` is no mapping of strings to values.
            SerializationError: A value cannot be sent; the text names it.
        """
        if not isinstance(ns, Mapping) or not all(isinstance(name, str) for name in ns):
            raise TypeError("push() needs a dictionary with names as keys")
        result = self._send(Kind.PUSH, _payload(dict(ns)), "push", targets, label)
        return self._finish(result, block)

    def update(self, ns: Mapping[str, Any]) -> Any:
        """As :meth:`push`."""
        return self.push(ns)

    def pull(
        self,
        names: str | Iterable[str],
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """Get values from the engines' namespaces.

        Args:
            names: A name or expression, or several.
            targets: Engines; by default the view's.
            block: Wait for the values; by default as the view does.
            label: A name for the tasks.

        Returns:
            For one name its value, for several a list; from several engines a list of these.
        """
        single = isinstance(names, str)
        wanted = [names] if isinstance(names, str) else list(names)
        if not all(isinstance(name, str) for name in wanted):
            raise TypeError("pull() needs names: strings")
        result = self._send(Kind.PULL, _payload((wanted, single)), "pull", targets, label)
        return self._finish(result, block)

    def get(self, key_s: str | Iterable[str]) -> Any:
        """Return values from the engines' namespaces; as ``pull(..., block=True)``."""
        return self.pull(key_s, block=True)

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.push({key: value}, block=True)

    def keys(self, targets: Any = None) -> Any:
        """Return the names in the engines' namespaces."""
        return self._send(Kind.KEYS, _payload(None), "keys", targets).get()

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the engines' namespaces."""
        return self._finish(self._send(Kind.CLEAR, _payload(None), "clear", targets), block)

    # ------------------------------------------------- parts of data

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: str = "b",
        flatten: bool = False,
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> Any:
        """Give each engine a part of a sequence.

        Args:
            key: The name for the part.
            seq: The sequence.
            dist: ``"b"`` for contiguous parts, ``"r"`` for round robin.
            flatten: Where a part has one item, push the item itself.
            targets: Engines; by default the view's.
            block: Wait until it is done; by default as the view does.
            track: Has no effect; see ``AsyncResult.wait_for_send``.
            label: A name for the tasks.
        """
        engines, single = self._resolve(targets)
        parts = dist_of(dist).parts(seq, len(engines))

        def calls() -> Iterable[tuple[CallPayload, int]]:
            for engine, part in zip(engines, parts, strict=True):
                flat = first_of(part) if flatten and len(part) == 1 else part
                yield _payload({key: flat}), engine

        result = AsyncResult(self._session, single, "scatter", owner=self.client)
        label = self.label if label is None else label
        self._session.submit_each(result, Kind.PUSH, calls(), (), self.retries, label)
        self._note(result)
        return self._finish(result, block)

    def gather(
        self,
        key: str,
        dist: str = "b",
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """Put the parts of a sequence together; the inverse of :meth:`scatter`.

        With ``return_exceptions`` the exception of an engine that fails stands for its part.

        Returns:
            An :class:`AsyncMapResult` or its value. Parts that are numpy's arrays, pandas' tables and
            columns, pyarrow's ones, bytearrays, memoryviews or ``array.array`` make one such; of
            texts and bytes there is a list; of anything else a list of all items.
        """
        engines, _ = self._resolve(targets)
        result = AsyncMapResult(
            self._session,
            dist_of(dist),
            fname="gather",
            return_exceptions=return_exceptions,
            owner=self.client,
        )
        call = _payload(([key], True))
        label = self.label if label is None else label
        self._session.submit_same(result, Kind.PULL, call, engines, label, self.retries)
        self._note(result)
        return self._finish(result, block)

    # ------------------------------------------------- files

    def send_file(
        self,
        local: str | os.PathLike[str],
        remote: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = True,
        block: bool | None = None,
    ) -> Any:
        """Send a file, or a directory with all that is in it, to each engine.

        It arrives complete or not at all; of a directory that exists already, what has other names
        stays. Permissions and times of modification come along. Links that stay within a directory
        arrive as links; what others lead to is sent in their place. Engines of one host that have the
        same current directory get it once.

        Args:
            local: Its path here.
            remote: Where to; relative to the engine's current directory, ``~`` is the home directory
                there. If it is a directory, or ends with a slash, the file is put into it. Directories
                that do not exist are made. By default the current directory.
            overwrite: Whether what is there may be replaced.
            block: Wait until it is done; by default as the view does.

        Returns:
            A :class:`~ipkernel.client.fileresult.FileResult` of its absolute path on the engine, or of one
            for each engine; or that path.

        Raises:
            OSError: It cannot be read here; or, waiting for it, cannot be written there: then it is
                also a RemoteError.
            FileExistsError: It is there already, and ``overwrite`` is not set (from the engine).
            TransferError: It could not be moved.
        """
        from ipkernel.client.files import send_file

        return send_file(self, local, remote, overwrite, self.block if block is None else block)

    def receive_file(
        self,
        remote: str | os.PathLike[str],
        local: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = True,
        block: bool | None = None,
    ) -> Any:
        """Get a file, or a directory with all that is in it, from each engine; see :meth:`send_file`.

        Args:
            remote: Its path there; relative to the engine's current directory.
            local: Where to, as ``remote`` for :meth:`send_file`. ``{engine}`` in it is replaced by the
                engine's id; without that, what comes from several engines is put into directories
                called by their ids.
            overwrite: Whether what is here may be replaced.
            block: Wait until it is done; by default as the view does.

        Returns:
            A :class:`~ipkernel.client.fileresult.FileResult` of its absolute path here, or of one for each
            engine; or that path.

        Raises:
            OSError: Waiting for it, it cannot be written here; or cannot be read there: then it is
                also a RemoteError.
            TransferError: It could not be moved.
        """
        from ipkernel.client.files import receive_file

        return receive_file(self, remote, local, overwrite, self.block if block is None else block)

    # ------------------------------------------------- imports and pickling

    def sync_imports(self, local: bool = True, quiet: bool = False) -> ImportRecorder:
        """Return a context whose import statements are run on the engines as well.

        Args:
            local: Import here, too.
            quiet: Do not print what is imported.
        """
        from ipkernel.client.importer import ImportRecorder

        return ImportRecorder(self, local, quiet)

    @property
    def importer(self) -> ImportRecorder:
        """A context whose import statements are run on the engines as well."""
        return self.sync_imports()

    def use_cloudpickle(self) -> AsyncResult:
        """Pickle with cloudpickle, here and on the engines (the default)."""
        return self._use("use_cloudpickle")

    def use_pickle(self) -> AsyncResult:
        """Pickle with Python's pickle, here and on the engines: functions go by name only."""
        return self._use("use_pickle")

    def use_dill(self) -> AsyncResult:
        """Pickle with dill, here and on the engines.

        Raises:
            ImportError: It is not installed here.
        """
        return self._use("use_dill")

    def _use(self, name: str) -> AsyncResult:
        from ipkernel.serialize import payload

        function = getattr(payload, name)
        function()
        self.client._functions.clear()
        return self.apply_async(function)

    def activate(self, suffix: str = "") -> None:
        """Make ``%px`` and its like work on this view, in IPython.

        Args:
            suffix: Appended to the names of the magics.
        """
        self.client._activate(self, suffix)


class BroadcastView(DirectView):
    """A direct view for many engines; every call is one message to the controller.

    Args:
        client: Whose view it is.
        targets: The engines.
        is_coalescing: Accepted for compatibility; results keep the order of the targets.
        flags: Initial values of flags.
    """

    _flags: ClassVar[tuple[str, ...]] = (*View._flags, "is_coalescing")

    def __init__(self, client: Any, targets: Any = None, **flags: Any) -> None:
        self.is_coalescing = False
        super().__init__(client, targets, **flags)
