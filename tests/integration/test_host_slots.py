"""Real host daemons whose engines have places, limits and little time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from ipkernel.wire.messages import Draining, Measured, Started
from tests.support.hostcontroller import HostController
from tests.support.reactor import inreactor, reactor

pytestmark = pytest.mark.timeout(120)
both = pytest.mark.parametrize("how", ["native", "portable"])
binds = hasattr(os, "sched_getaffinity")


def start(how: str, slots: dict[str, Any], *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "IPKERNEL_PORTABLE": "1" if how == "portable" else "0",
        "IPKERNEL_SLOTS": json.dumps(slots),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ipkernel.cli.ipdaemon", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def with_daemon(count: int = 2, **places: Any) -> Callable[..., Any]:
    """Run a test with a controller and a daemon; the test's ``options`` are the latter's."""

    def decorate(test: Callable[..., Any]) -> Any:
        async def wrapped(how: str, tmp_path: Path) -> None:
            directory = tmp_path / "security"
            directory.mkdir(mode=0o700)
            controller = HostController(reactor(), directory)
            await controller.listen()
            slots = {
                name: value.replace("TMP", str(tmp_path)) if isinstance(value, str) else value
                for name, value in places.items()
            }
            options = ["--cluster-dir", str(tmp_path / "cluster"), *OPTIONS[test.__name__]]
            words = ["--furl-file", str(controller.furl_file), "-n", str(count), *options]
            process = start(how, slots, *words)
            try:
                await controller.engines(count)
                await test(controller, process, tmp_path)
            finally:
                if process.poll() is None:
                    process.terminate()
                await deferToThread(process.communicate, timeout=60)
                await controller.close()

        wrapped.__name__ = test.__name__
        return inreactor(wrapped)

    return decorate


OPTIONS: dict[str, list[str]] = {
    "test_places": [
        "--label", "slurm job 17", "--launcher", "slurm", "--restarts", "2",
        "--engine-ids", "5,0", "--log-size", "4096", "--log-backups", "1",
    ],
    "test_the_limit_of_memory": [],
    "test_the_end_of_the_walltime": ["--walltime", "7", "--drain-margin", "6"],
}  # fmt: skip


def look() -> dict[str, Any]:
    names = ("PLACE", "WHO", "IPKERNEL_SLOTS")
    cores = sorted(os.sched_getaffinity(0)) if binds else []
    return {"cwd": os.getcwd(), "cores": cores, **{n: os.environ.get(n) for n in names}}


@both
@with_daemon(
    cwd="TMP/work-{slot}",
    affinity="auto" if binds else "none",
    environment={"PLACE": "s{slot}", "WHO": "e{engine}"},
)
async def test_places(controller: HostController, process: Any, tmp_path: Path) -> None:
    hello = controller.hellos[0]
    assert (hello.label, hello.launcher, hello.restarts) == ("slurm job 17", "slurm", 2)
    assert (hello.engines, hello.left) == ([5, 0], 0.0)
    for slot, engine in enumerate([5, 0]):
        seen = await controller.result(controller.submit(look, engine=engine))
        assert (seen["PLACE"], seen["WHO"]) == (f"s{slot}", f"e{engine}")
        assert seen["IPKERNEL_SLOTS"] is None
        assert Path(seen["cwd"]) == tmp_path / f"work-{slot}"
        if binds:
            mine = sorted(os.sched_getaffinity(0))
            assert seen["cores"] == (mine[slot * len(mine) // 2 : (slot + 1) * len(mine) // 2])
    for number in range(40):
        await controller.result(controller.submit(print, f"{number:1000}", engine=5))
    logs = tmp_path / "cluster" / "log"
    names = sorted(path.name for path in logs.glob("ipengine-5.log*"))
    assert names == ["ipengine-5.log", "ipengine-5.log.1"]
    assert all(path.stat().st_size < 4096 + 1100 for path in logs.glob("ipengine-5.log*"))

    def used() -> dict[int, Any]:
        found = [m.processes for m, _ in controller.messages if isinstance(m, Measured)]
        return {vitals.engine: vitals for vitals in found[-1]} if found else {}

    await controller.until(lambda: set(used()) == {-1, 0, 5})
    assert all(vitals.memory > 1_000_000 and vitals.files > 2 for vitals in used().values())


def devour(path: str) -> None:
    open(path, "w").close()
    held = []
    while True:
        held.append(b"x" * 10_000_000)


@both
@with_daemon(count=1, memory=400_000_000)
async def test_the_limit_of_memory(
    controller: HostController, process: Any, tmp_path: Path
) -> None:
    controller.submit(devour, str(tmp_path / "begun"))
    await controller.until(lambda: controller.left, 60.0)
    [left] = controller.left
    assert left.restarting and left.loss is not None
    assert "more than its limit of 400.0 MB (slots.memory), and was ended" in left.reason
    assert left.reason.startswith("it used ") and left.loss.memory > 400_000_000
    await controller.engines(2)
    assert await controller.result(controller.submit(pow, 2, 3)) == 8


def work_on(path: str) -> None:
    import time

    open(path, "w").close()
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["native"])
@with_daemon(count=1)
async def test_the_end_of_the_walltime(
    controller: HostController, process: Any, tmp_path: Path
) -> None:
    assert 0.0 < controller.hellos[0].left <= 7.0
    task = controller.submit(work_on, str(tmp_path / "begun"))
    await controller.until(lambda: any(isinstance(m, Started) for m, _ in controller.messages))
    await controller.until(lambda: controller.left, 60.0)
    said = [m.reason for m, _ in controller.messages if isinstance(m, Draining)]
    assert said == ["the batch job's walltime is nearly over"]
    [left] = controller.left
    assert (left.reason, left.excused) == ("the batch job's walltime is over", True)
    assert (left.restarting, left.started) == (False, [task])
    out, err = await deferToThread(process.communicate, timeout=60)
    assert (process.returncode, err) == (0, b"")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events[-2:] == ["draining", "stopping"]


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({"cwd": "/no/such/place"}, "slots.cwd: /no/such/place is not a directory on "),
        ({"memory": "much"}, "IPKERNEL_SLOTS cannot be understood: "),
        ({"affinity": "65000"}, "slots.affinity: "),
    ],
)
def test_what_a_host_cannot_do_it_says_at_once(
    slots: dict[str, Any], said: str, tmp_path: Path
) -> None:
    process = start("native", slots, "--furl-file", str(tmp_path / "none"), "-n", "1")
    out, err = process.communicate(timeout=60)
    [event] = [json.loads(line) for line in out.splitlines()]
    assert (process.returncode, event["event"]) == (1, "error"), err
    assert event["message"].startswith(said)
