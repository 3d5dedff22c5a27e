"""%px and its like, in a real IPython shell, against a controller in memory."""

from __future__ import annotations

import asyncio

import pytest

from ipkernel import errors
from ipkernel.client.magics import activate, parse_targets
from ipkernel.client.result import AsyncResult
from tests.support.clients import rc
from tests.support.fakecontroller import FakeController

__all__ = ["rc"]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    yield InteractiveShell(config=config, ipython_dir=str(tmp_path))


@pytest.fixture
def fake():
    return FakeController(engines=2)


@pytest.fixture
def magics(shell, rc):
    return activate(rc.direct_view(), shell=shell)


def test_line(shell, magics, rc, capsys):
    shell.run_line_magic("px", "a = 5")
    assert rc[:]["a"] == [5, 5]
    shell.run_line_magic("px", "a + 1")
    assert capsys.readouterr().out == "Out[0:2]: 6\nOut[1:2]: 6\n"


def test_cell_with_options(shell, magics, rc, capsys):
    shell.run_cell_magic("px", "-t 1 -o kept --verbose", "print('there')\nb = 1")
    out = capsys.readouterr().out
    assert out == "Parallel execution on engine(s): 1\n[stdout:1] there\n"
    assert isinstance(shell.user_ns["kept"], AsyncResult)
    assert "b" in rc[1].keys() and "b" not in rc[0].keys()
    shell.run_cell_magic("px", "--no-stream -e", "print('there')")
    assert capsys.readouterr().out == "[stdout:0] there\n[stdout:1] there\n"


def test_local(shell, magics, rc):
    shell.run_cell_magic("px", "--local", "c = 4")
    assert shell.user_ns["c"] == 4
    assert rc[0]["c"] == 4


def test_not_waiting_and_result(shell, magics, fake, capsys):
    fake.held = True
    result = shell.run_cell_magic("px", "--noblock", "print('late')")
    assert isinstance(result, AsyncResult) and not result.done()
    fake.release()
    shell.run_line_magic("pxresult", "-o again")
    assert capsys.readouterr().out == "[stdout:0] late\n[stdout:1] late\n"
    assert shell.user_ns["again"] is result


def test_result_before_anything(shell, magics):
    with pytest.raises(errors.ClusterError, match="%px first"):
        shell.run_line_magic("result", "")


def test_errors_are_raised_after_output(shell, magics, capsys):
    with pytest.raises(errors.CompositeError, match="ZeroDivisionError"):
        shell.run_cell_magic("px", "", "print('before')\n1/0")
    assert capsys.readouterr().out.count("before") == 2


def test_config(shell, magics, capsys):
    shell.run_line_magic(
        "pxconfig", "-a -t 0 --verbose --progress-after 5 --signal-on-interrupt SIGTERM"
    )
    assert (magics.block, magics.verbose, magics.progress_after) == (False, True, 5.0)
    assert magics.view.targets == 0 and magics.signal_on_interrupt == "SIGTERM"
    assert magics.stream
    result = shell.run_line_magic("px", "1")
    assert isinstance(result, AsyncResult)
    assert capsys.readouterr().out == "Async parallel execution on engine(s): 0\n"


def test_autopx(shell, magics, rc, capsys):
    shell.run_line_magic("autopx", "")
    shell.run_cell("d = 7")
    assert rc[:]["d"] == [7, 7] and "d" not in shell.user_ns
    shell.run_cell("%autopx")
    shell.run_cell("d = 8")
    assert shell.user_ns["d"] == 8 and rc[0]["d"] == 7
    assert capsys.readouterr().out == "%autopx enabled\n%autopx disabled\n"


def test_autopx_leaves_the_magics_alone(shell, magics, rc, capsys):
    shell.run_line_magic("autopx", "")
    shell.run_cell("%pxconfig --targets 0")
    shell.run_cell("%px d = 7")
    shell.run_cell("%%px -t 1\nd = 8")
    shell.run_cell("")
    shell.run_cell("autopx")
    assert rc[:]["d"] == [7, 8]
    assert capsys.readouterr().out == "%autopx enabled\n%autopx disabled\n"


def test_autopx_takes_cells_that_await_as_well(shell, magics, rc, capsys):
    """Notebooks give these to ``run_cell_async``, with what they have made of them already."""
    shell.run_line_magic("autopx", "")
    for cell in ("d = 7", "%autopx", "d = 8"):
        made = shell.transform_cell(cell)
        asyncio.run(shell.run_cell_async(cell, transformed_cell=made))
    assert shell.user_ns["d"] == 8 and rc[:]["d"] == [7, 7]
    assert capsys.readouterr().out == "%autopx enabled\n%autopx disabled\n"


def test_autopx_can_run_a_cell_here_too(shell, magics, rc):
    shell.run_line_magic("autopx", "")
    shell.run_cell("%%px --local\nd = id(print)")
    assert shell.user_ns["d"] == id(print) and "d" in rc[0].keys()
    shell.run_cell("e = 1")
    assert "e" not in shell.user_ns


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (
            "%px --targets 0 print(1)",
            "ValueError: %px takes no options: begin a cell with %%px and",
        ),
        ("%px --group-outputs=type a b", "ValueError: %px takes no options: begin a cell with"),
        ("%pxresult", "ClusterError: there is no result yet: run something with %px first"),
        ("%pxconfig -t [0,", "ValueError: --targets=[0, is not understood: use such as 0, [0,2]"),
        ("%pxconfig -t 9", "InvalidEngineID: there is no engine 9: there are 0, 1"),
        ("%%px -t 9\n1", "InvalidEngineID: there is no engine 9: there are 0, 1"),
    ],
)
def test_mistakes_are_told_in_one_line(shell, magics, capsys, cell, line):
    assert not shell.run_cell(cell).success
    (shown,) = capsys.readouterr().out.splitlines()
    assert shown.startswith(line)


def test_what_looks_like_an_option_may_be_python(shell, magics, rc):
    rc[:]["t"] = 3
    assert shell.run_cell("%px -t if t else 0").success
    assert not shell.run_cell("%px -x +").success


def test_a_lost_controller_and_an_interrupt_are_told_in_one_line(
    shell, magics, rc, capsys, monkeypatch
):
    def wait(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(magics, "_wait", wait)
    assert not shell.run_cell("%px 1").success
    rc.close()
    assert not shell.run_cell("%px 1").success
    interrupted, lost = capsys.readouterr().out.splitlines()
    assert interrupted == "KeyboardInterrupt"
    assert lost.startswith("ControllerLost: ")


def test_a_cell_that_fails_here_is_shown_once(shell, magics, rc, capsys):
    assert not shell.run_cell("%%px --local\ng = 1\nassert g == 2").success
    out = capsys.readouterr().out
    assert out.count("AssertionError") == out.count("Traceback (most recent call last)") + 1 == 2
    assert out.splitlines()[-1] == "It failed here; the engines did not run it."
    assert "g" not in rc[0].keys()


def test_suffix(shell, rc):
    activate(rc[0], "0", shell=shell)
    shell.run_line_magic("px0", "e = 1")
    assert "e" in rc[0].keys() and "e" not in rc[1].keys()
    assert shell.find_line_magic("px") is None


def test_interrupt_is_passed_on(shell, magics, fake, monkeypatch, capsys):
    fake.held = True
    waited = []

    def wait(self, timeout=None, return_when=None):
        waited.append(timeout)
        if len(waited) == 1:
            raise KeyboardInterrupt
        fake.release()
        return True

    monkeypatch.setattr(AsyncResult, "wait", wait)
    shell.run_cell_magic("px", "--no-stream", "f = 1")
    assert fake.signals == [("SIGINT", [0, 1])]
    assert "sending SIGINT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("all", "all"),
        ("0", 0),
        ("-1", -1),
        ("[0,2]", [0, 2]),
        ("0,2", (0, 2)),
        ("::2", slice(None, None, 2)),
        ("1:", slice(1, None)),
    ],
)
def test_targets(text, value):
    assert parse_targets(text) == value


@pytest.mark.parametrize("text", ["x", "'a'", "1.5", "a:b", "[1,'x']", ""])
def test_targets_that_mean_nothing(text):
    with pytest.raises(ValueError, match="--targets"):
        parse_targets(text)


def test_outside_ipython(rc, monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)  # other tests leave a shell
    with pytest.raises(errors.ClusterError, match="needs IPython"):
        rc.activate()


def test_a_second_ctrl_c_cancels_what_the_engines_do(fake, rc, shell, capsys, monkeypatch):
    """The first one interrupts them, and nobody is asked anything."""
    magics = activate(rc[:], shell=shell)
    fake.held = True
    waits = []

    def wait(result, timeout=None):
        waits.append((timeout, result._offers))
        raise KeyboardInterrupt

    monkeypatch.setattr("ipkernel.client.result.AsyncResult.wait", wait)
    with pytest.raises(KeyboardInterrupt):
        magics.px("a = 1")
    assert waits == [(magics.progress_after, False), (5.0, False)]
    assert [name for name, _ in fake.signals] == ["SIGINT"]
    shown = capsys.readouterr()
    assert "cancelled: 2 dequeued" in shown.out
    assert "press Ctrl-C" not in shown.err


def test_engines_that_do_not_react_to_ctrl_c_go_on(fake, rc, shell, capsys, monkeypatch):
    magics = activate(rc[:], shell=shell)
    fake.held = True
    presses = [True, False]

    def wait(result, timeout=None):
        if presses.pop(0):
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr("ipkernel.client.result.AsyncResult.wait", wait)
    with pytest.raises(KeyboardInterrupt):
        magics.px("a = 1")
    assert "the engines go on" in capsys.readouterr().out
    assert len(fake.queue) == 2
