"""The frame around every test: a home of its own, and a check that it left nothing behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
_OWN = tempfile.mkdtemp(prefix="ipkernel-tests-")

# Set before anything of the project is imported; child processes inherit all of it. The temporary
# directory is the session's own: the leak check sees what tests leave there, and what other
# programs of this machine do with theirs is not taken for a leak.
os.environ["IPKERNEL_TEST_COOKIE"] = secrets.token_hex(16)
os.environ["HOME"] = os.environ["USERPROFILE"] = os.path.join(_OWN, "home")
os.environ["IPYTHONDIR"] = os.path.join(_OWN, "home", ".ipython")
os.environ["TMPDIR"] = os.environ["TEMP"] = os.environ["TMP"] = os.path.join(_OWN, "tmp")
# Engines must be able to import the module in which a test's functions are written.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
for _name in ("IPP_CLUSTER_ID", "IPP_PROFILE_DIR", "IPP_CONNECTION_INFO"):
    os.environ.pop(_name, None)
for _name in ("home", "tmp"):
    os.makedirs(os.path.join(_OWN, _name), mode=0o700)
tempfile.tempdir = os.environ["TMPDIR"]

from tests.support import leaks  # noqa: E402  (the environment comes first)


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest's own ``tmp_path`` directories out of the directory that is watched.

    A shell that starts tests in the background has them ignore Ctrl-C, which some of them are about.
    """
    settings.register_profile("patient", parent=settings.default, deadline=None)
    settings.load_profile("patient")  # no test asserts how long something took
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        config.option.basetemp = os.path.join(_OWN, "pytest")


def pytest_unconfigure() -> None:
    """Remove the session's home and temporary files."""
    shutil.rmtree(_OWN, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _warm_up() -> None:
    """Open what a process opens only once, so that it is not the first test's leak."""
    from multiprocessing import resource_tracker

    import twisted.internet.reactor  # noqa: F401  (opens its wake-up socket pair)

    if os.name == "posix":
        resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a thread, a descriptor or a temporary file behind."""
    machine = "integration" in request.path.relative_to(ROOT).parts
    before = leaks.take(machine=machine)
    yield
    left = leaks.wait_until_clean(before, machine=machine)
    if left:
        leaks.end_leftovers(before)
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
