# IPython is typed in part only: what its classes take is not what they say.
# mypy: disable-error-code="no-untyped-call,attr-defined,override,assignment,arg-type,return-value"
"""IPython inside an engine: cells, magics and displays without a terminal and without files.

Importing this module imports IPython, so it is imported when the first cell arrives.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
from IPython.core import interactiveshell
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.history import HistoryManager
from IPython.core.inputtransformer2 import leading_empty_lines
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type

from ipkernel.engine.current import state
from ipkernel.engine.namespace import UserNamespace
from ipkernel.serialize.payload import dumps_bytes
from ipkernel.wire.messages import Stream

__all__ = ["EngineShell", "start_shell"]


class ResultHook(DisplayHook):
    """Keeps the formatted value of the last expression instead of printing it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.captured: dict[str, Any] | None = None

    def write_output_prompt(self) -> None:
        """There is no prompt: the client makes its own."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        """Keep the mime bundle of a result."""
        self.captured = {"data": dict(format_dict), "metadata": dict(md_dict or {})}

    def compute_format_data(self, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the mime bundle of a result, which always has a text."""
        data, metadata = super().compute_format_data(result)
        if "text/plain" not in data:
            data = {**data, "text/plain": _why_no_text(result)}
        return data, metadata

    def finish_displayhook(self) -> None:
        """Nothing was written, so nothing is to be flushed."""
        self._is_active = False


class LivePublisher(DisplayPublisher):
    """Sends what is displayed to the client at once."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        """Publish a mime bundle.

        Args:
            data: Representations by mime type.
            metadata: By mime type as well.
            transient: What is not to be stored, such as ``display_id``.
            update: True to replace the display with the same ``display_id``.
            kwargs: Ignored; of other versions of IPython.
        """
        bundle: dict[str, Any] = {
            "data": data,
            "metadata": metadata or {},
            "transient": transient or {},
        }
        if update:
            bundle["update"] = True
        self._send(bundle)

    def clear_output(self, wait: bool = False) -> None:
        """Ask the client to clear what it has shown of this task."""
        self._send({"data": {}, "metadata": {}, "transient": {}, "clear": True, "wait": wait})

    def _send(self, bundle: dict[str, Any]) -> None:
        if state.loop is None or state.forked:
            return
        payload = msgspec.msgpack.encode(bundle, enc_hook=_plain)
        state.loop.publish(Stream.DISPLAY, payload)


def _why_no_text(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - it is the user's
        name = type(value).__name__
        return f"<{name} object without a text: its repr() raised {type(error).__name__}>"


def _plain(value: Any) -> Any:
    """What MessagePack cannot carry: numbers of numpy and the like, else their text."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return repr(value)


class NoHistory(HistoryManager):
    """A history in memory: no file, no thread."""

    def __init__(self, shell: Any = None, **kwargs: Any) -> None:
        super().__init__(shell=shell, hist_file=":memory:", enabled=False, **kwargs)


class CellNames(CachingCompiler):
    """Names cells in tracebacks as users know them, or after the file that they are from."""

    def __init__(self) -> None:
        super().__init__()
        self.filename: str | None = None
        self.counted = True
        self._uncounted = 0

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """Return the name to compile a cell under.

        Args:
            raw_code: The source as it was sent.
            transformed_code: The source as Python.
            number: The execution count.
        """
        if self.filename is not None:
            return self.filename
        if self.counted:
            return f"Cell In[{number}]"
        self._uncounted += 1
        return f"<cell {self._uncounted}>"


class CellFailed(Exception):
    """A cell raised; ``error`` is what, with the traceback of user code alone."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(type(error)))
        self.error = error


class EngineShell(InteractiveShell):
    """The one shell of an engine."""

    displayhook_class = Type(ResultHook)
    display_pub_class = Type(LivePublisher)
    compiler_class = Type(CellNames)

    #: IPython warns about a SystemExit unless it is about to exit.
    exit_now = True

    def init_profile_dir(self, profile_dir: Any) -> None:
        """An engine makes no profile directory in the user's home."""
        self.profile_dir = None

    def init_history(self) -> None:
        """Keep the history in memory."""
        self.history_manager = NoHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_virtualenv(self) -> None:
        """The engine runs in the environment that it was started in."""

    def init_completer(self) -> None:
        """Nobody completes anything here, and the completer takes long to import."""
        self.Completer = None

    def init_prompts(self) -> None:
        """Leave ``sys.ps1`` unset: scripts take it as a sign of a terminal."""

    @property
    def db(self) -> dict[str, Any]:
        """A key-value store, for magics that want one; in memory."""
        if self._db is None:
            self._db = {}
        return self._db

    @db.setter
    def db(self, value: Any) -> None:
        self._db = value

    def enable_gui(self, gui: Any = None) -> None:
        """Accept ``%gui``, ``%matplotlib`` and ``%pylab``; there is no event loop to run."""

    def system_piped(self, cmd: str) -> None:
        """Run a shell command; what it prints comes in order with what Python prints.

        Args:
            cmd: The command, with ``{python}`` and ``$variables`` to be filled in.
        """
        command = self.var_expand(cmd, depth=1)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # The command inherits descriptors 1 and 2, which lead to the client anyway.
        code = subprocess.call(command, shell=True)  # noqa: S602 - the user's own command
        # As a shell has it: a signal counts from 128.
        self.user_ns["_exit_code"] = code if code >= 0 else 128 - code
        if code and self.system_raise_on_error:
            raise subprocess.CalledProcessError(code, command)

    system = system_piped

    def showtraceback(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing: the error is the task's result.

        Args:
            args: Ignored; what IPython passes.
            kwargs: Ignored as well.
        """

    showsyntaxerror = showtraceback
    _showtraceback = showtraceback

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        filename: str | None = None,
        store_history: bool = True,
    ) -> dict[str, Any]:
        """Run a cell and return what its client is told.

        Args:
            code: The source, magics included.
            silent: No result, no history.
            filename: The file that the source is from; it is then what ``__file__`` says and
                what tracebacks show.
            store_history: Count the cell and keep its source.

        Returns:
            ``execution_count``, ``result`` (None, or the mime bundle of the last expression)
            and ``outputs``, which is empty: displays are sent while the cell runs.

        Raises:
            CellFailed: The cell raised, or is not Python.
        """
        count = self.execution_count
        names = self.compile
        names.filename = filename
        names.counted = store_history and not silent
        self.displayhook.captured = None
        missing = object()
        previous = self.user_ns.get("__file__", missing)
        if filename is not None:
            self.user_ns["__file__"] = filename
        cleanup = self.input_transformer_manager.cleanup_transforms
        if filename is not None:  # lines keep the numbers that they have in the file
            self.input_transformer_manager.cleanup_transforms = [
                step for step in cleanup if step is not leading_empty_lines
            ]
        try:
            outcome = self.run_cell(code, store_history=names.counted, silent=silent)
        finally:
            names.filename = None
            self.input_transformer_manager.cleanup_transforms = cleanup
            if filename is not None and previous is missing:
                self.user_ns.pop("__file__", None)
            elif filename is not None:
                self.user_ns["__file__"] = previous
        if outcome.error_before_exec is not None:
            raise CellFailed(outcome.error_before_exec.with_traceback(None))
        if outcome.error_in_exec is not None:
            raise CellFailed(_of_user_code(outcome.error_in_exec))
        captured, self.displayhook.captured = self.displayhook.captured, None
        return {"execution_count": count, "result": _sendable(captured), "outputs": []}

    def ask_exit(self) -> None:
        """``exit`` ends the cell; engines are ended with ``shutdown``."""
        raise SystemExit


def _of_user_code(error: BaseException) -> BaseException:
    """Cut IPython's own frames off the start of a traceback."""
    traceback = start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != interactiveshell.__file__:
        start = start.tb_next
    while start is not None and start.tb_frame.f_code.co_filename == interactiveshell.__file__:
        start = start.tb_next
    return error.with_traceback(start if start is not None else traceback)


def _sendable(bundle: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave those representations out that cannot be pickled."""
    if bundle is None:
        return None
    data = {}
    for mime, value in bundle["data"].items():
        try:
            dumps_bytes(value)
        except Exception:  # noqa: BLE001, S112 - any object may hide in a user's representation
            continue
        data[mime] = value
    return {"data": data, "metadata": bundle["metadata"]}


def start_shell(namespace: UserNamespace) -> EngineShell:
    """Make the shell in the engine's namespace and let ``get_ipython()`` find it.

    Args:
        namespace: The user's.
    """
    before = set(namespace.names)
    EngineShell._instance = None
    shell = EngineShell.instance(
        user_module=namespace.module, user_ns=namespace.names, colors="nocolor"
    )
    namespace.hide(set(namespace.names) - before)
    return shell
