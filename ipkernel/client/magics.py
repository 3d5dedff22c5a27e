"""``%px`` and its like: source text from an IPython prompt or notebook on the engines of a view."""

from __future__ import annotations

import ast
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from ipkernel.client.directview import DirectView
from ipkernel.errors import ClusterError, IPythonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipkernel.client.result import AsyncResult


#: Seconds that engines have to say how they took an interrupt.
REACTION = 5.0

F = TypeVar("F", bound="Callable[..., Any]")

_COMMON = [
    argument("-b", "--block", dest="block", action="store_true", default=None,
             help="wait for the engines"),
    argument("-a", "--noblock", dest="block", action="store_false",
             help="do not wait; use %%pxresult later"),
    argument("--stream", dest="stream", action="store_true", default=None,
             help="print output as it comes (the default)"),
    argument("--no-stream", dest="stream", action="store_false",
             help="print output when all is done"),
    argument("-t", "--targets", default=None, help="such as 0, [0,2], ::2 or all"),
    argument("--verbose", dest="verbose", action="store_true", default=None,
             help="say what is run where"),
    argument("--no-verbose", dest="verbose", action="store_false", help="do not"),
    argument("--progress-after", dest="progress_after", type=float, default=None,
             help="seconds after which a progress bar is shown; -1 for never"),
    argument("--signal-on-interrupt", dest="signal_on_interrupt", default=None,
             help="signal for the engines when waiting is interrupted (SIGINT)"),
]  # fmt: skip
_OUTPUT = [
    argument("-r", dest="groupby", action="store_const", const="order",
             help="group output by the order of the engines"),
    argument("-e", dest="groupby", action="store_const", const="engine",
             help="group output by engine"),
    argument("--group-outputs", dest="groupby", choices=["engine", "order", "type"],
             default="type", help="how to group output"),
    argument("-o", "--out", dest="save_name", default=None,
             help="store the AsyncResult under this name"),
]  # fmt: skip
_LOCAL = [argument("--local", action="store_true", help="run the cell here, too")]


def _options(options: list[Any]) -> Callable[[F], F]:
    """Return a decorator that gives a magic these options."""

    def decorate(function: F) -> F:
        decorated: Any = function
        for option in reversed(options):
            decorated = option(decorated)
        decorated = magic_arguments()(decorated)
        return cast("F", decorated)

    return decorate


def parse_targets(text: str) -> Any:
    """Return what ``--targets`` means: an id, a list, a slice or ``"all"``.

    Raises:
        ValueError: It means nothing.
    """
    text = text.strip()
    if text == "all":
        return text
    try:
        if ":" in text:
            parts = [int(part) if part.strip() else None for part in text.split(":")]
            return slice(*parts)
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        value = None
    if isinstance(value, int) or (
        isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value)
    ):
        return value
    raise ValueError(f"--targets={text} is not understood: use such as 0, [0,2], ::2 or all")


def _is_option(line: str) -> bool:
    """Whether a line begins with an option of ``%%px``, and is not Python all the same."""
    word = next(iter(line.split(maxsplit=1)), "").partition("=")[0]
    if not any(word in option.args for option in _OUTPUT + _COMMON + _LOCAL):
        return False
    try:
        ast.parse(line.strip())
    except SyntaxError:
        return True
    return False


@contextmanager
def in_one_line() -> Iterator[None]:
    """Within it, IPython shows errors that users or clusters cause in one line, without our frames."""
    try:
        yield
    except (IPythonError, ValueError, KeyboardInterrupt) as error:
        if not hasattr(error, "_render_traceback_"):  # others show what engines said
            name = type(error).__name__
            line = f"{name}: {error}" if str(error) else name
            error._render_traceback_ = lambda *args: [line]  # type: ignore[union-attr]
        raise


class ParallelMagics:
    """The magics of one view.

    Args:
        shell: The IPython shell.
        view: Where source text is run.
        suffix: Appended to the names of the magics.
    """

    def __init__(self, shell: Any, view: DirectView, suffix: str = "") -> None:
        self.shell = shell
        self.view = view
        self.suffix = suffix
        self.block = True
        self.stream = True
        self.verbose = False
        self.progress_after = 2.0
        self.signal_on_interrupt = "SIGINT"
        self.last: AsyncResult | None = None
        #: The shell's own ways to run a cell, by name, while everything is run on the engines.
        self._local: dict[str, Callable[..., Any]] = {}
        self._stays_here = False
        self._names: frozenset[str] = frozenset()

    def register(self) -> None:
        """Make the magics known to the shell, under their names with the suffix."""
        names = {
            "px": (self.px, self.cell_px),
            "autopx": (self.autopx, None),
            "pxresult": (self.pxresult, None),
            "result": (self.pxresult, None),
            "pxconfig": (self.pxconfig, None),
        }
        self._names = frozenset(name + self.suffix for name in names)
        for name, (line, cell) in names.items():
            self.shell.register_magic_function(line, "line", name + self.suffix)
            if cell is not None:
                self.shell.register_magic_function(cell, "cell", name + self.suffix)

    def _view_of(self, targets: str | None) -> DirectView:
        if targets is None:
            return self.view
        return self.view.client.direct_view(parse_targets(targets))

    @_options(_OUTPUT + _COMMON + _LOCAL)
    def cell_px(self, line: str = "", cell: str = "") -> Any:
        """Run the cell on the engines: ``%%px [options]``."""
        options: Any = parse_argstring(self.cell_px, line)
        if options.local:
            with self._here():
                ran = self.shell.run_cell(cell, store_history=False)
            failure = ran.error_before_exec or ran.error_in_exec
            if failure is not None:  # it was shown
                failure._render_traceback_ = lambda *args: [
                    "It failed here; the engines did not run it."
                ]
                raise failure
        with in_one_line():
            return self._run(cell, options)

    def px(self, line: str = "") -> Any:
        """Run one line on the engines: ``%px a = 5``. Options need a cell: ``%%px --targets 0``."""
        with in_one_line():
            if _is_option(line):
                name = f"%px{self.suffix}"
                raise ValueError(f"{name} takes no options: begin a cell with %{name} and them")
            return self._run(line, None)

    def _run(self, code: str, options: Any) -> Any:
        def chosen(name: str) -> Any:
            value = getattr(options, name, None)
            return getattr(self, name) if value is None else value

        view = self._view_of(getattr(options, "targets", None))
        block = chosen("block")
        if chosen("verbose"):
            how = "Parallel" if block else "Async parallel"
            print(f"{how} execution on engine(s): {view.targets}")
        result = view.execute(code, silent=False, block=False)
        result._offers = not block  # Ctrl-C interrupts the engines
        self.last = result
        name = getattr(options, "save_name", None)
        if name:
            self.shell.user_ns[name] = result
        if not block:
            return result
        stream = chosen("stream")
        self._wait(view, result, stream, chosen("progress_after"), chosen("signal_on_interrupt"))
        # Also what engines printed before one of them failed is shown before that is raised.
        result.display_outputs(getattr(options, "groupby", None) or "type", result_only=stream)
        result.get()
        return None

    def _wait(
        self, view: DirectView, result: AsyncResult, stream: bool, patience: float, sig: str
    ) -> None:
        with result.stream_output() if stream else nullcontext():
            try:
                if not result.wait(patience):
                    result.wait_interactive()
            except KeyboardInterrupt:
                print(f"Received keyboard interrupt: sending {sig} to the engines")
                view.client.send_signal(sig, view._engines())
                # Give them a moment to say how they took it; a second Ctrl-C means it.
                try:
                    over = result.wait(REACTION)
                except KeyboardInterrupt:
                    print(f"cancelled: {result.abort()}")
                    raise
                if not over:
                    print("the engines go on; the client's abort() cancels what they do")
                    raise

    @_options(_OUTPUT)
    def pxresult(self, line: str = "") -> None:
        """Wait for the last ``%px`` and show its output: ``%pxresult [options]``."""
        options: Any = parse_argstring(self.pxresult, line)
        with in_one_line():
            if self.last is None:
                raise ClusterError("there is no result yet: run something with %px first")
            if options.save_name:
                self.shell.user_ns[options.save_name] = self.last
            self.last.display_outputs(options.groupby or "type")
            self.last.get()

    @_options(_COMMON)
    def pxconfig(self, line: str = "") -> None:
        """Set what holds for the following ``%px``: ``%pxconfig [options]``."""
        options: Any = parse_argstring(self.pxconfig, line)
        if options.targets is not None:
            with in_one_line():
                self.view = self._view_of(options.targets)
        for name in ("block", "stream", "verbose", "progress_after", "signal_on_interrupt"):
            value = getattr(options, name)
            if value is not None:
                setattr(self, name, value)

    def autopx(self, line: str = "") -> None:
        """Switch running everything on the engines on or off, but for these magics: ``%autopx``."""
        if self._local:
            for name, run in self._local.items():
                setattr(self.shell, name, run)
            self._local = {}
            print("%autopx disabled")
            return
        # A notebook takes the second way for cells with a top-level await, and the first for others.
        self._local = {name: getattr(self.shell, name) for name in ("run_cell", "run_cell_async")}
        self.shell.run_cell = self._run_remotely
        self.shell.run_cell_async = self._run_remotely_async
        print("%autopx enabled")

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Within it, cells are run here even if ``%autopx`` is on."""
        self._stays_here = True
        try:
            yield
        finally:
            self._stays_here = False

    def _redirected(self, raw_cell: str) -> str:
        """Return what the shell is to run for a cell, through ``%%px`` unless it is one of ours.

        It goes through the shell itself, so that errors and history are as for any other cell.
        """
        word = next(iter(raw_cell.split(maxsplit=1)), "")
        ours = word.startswith("%") and word.lstrip("%") in self._names
        if ours or self._stays_here or raw_cell.strip() == f"autopx{self.suffix}":
            return raw_cell
        return f"%%px{self.suffix}\n{raw_cell}"

    def _run_remotely(self, raw_cell: str, *args: Any, **kwargs: Any) -> Any:
        return self._local["run_cell"](self._redirected(raw_cell), *args, **kwargs)

    async def _run_remotely_async(self, raw_cell: str, *args: Any, **kwargs: Any) -> Any:
        cell = self._redirected(raw_cell)
        if cell != raw_cell:  # what the caller has made of it already is not what is run
            kwargs["transformed_cell"] = self.shell.transform_cell(cell)
            kwargs["preprocessing_exc_tuple"] = None
        return await self._local["run_cell_async"](cell, *args, **kwargs)


def activate(view: DirectView, suffix: str = "", shell: Any = None) -> ParallelMagics:
    """Make the magics work on a view.

    Args:
        view: Where source text is run.
        suffix: Appended to the names of the magics.
        shell: The IPython shell; by default the one that is running.

    Raises:
        ClusterError: No IPython is running.
    """
    if shell is None:
        from IPython import get_ipython

        shell = get_ipython()
    if shell is None:
        raise ClusterError("%px needs IPython or a notebook, and none is running")
    magics = ParallelMagics(shell, view, suffix)
    magics.register()
    return magics
