"""What can keep a cluster from working on this host, looked at before anybody wonders.

Each check is a function that yields findings and raises nothing; :func:`examine` runs them all.
What they look at (addresses, limits, packages) comes in as arguments where tests need it to.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ipkernel._version import __version__
from ipkernel.cluster.directory import ClusterDirectory, all_directories, ipython_dir
from ipkernel.errors import KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.configuration import Configuration
    from ipkernel.cluster.entries import Entry

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

#: Packages without which nothing runs, in the order in which they are told.
PACKAGES: Final = (
    "twisted",
    "foolscap",
    "OpenSSL",
    "cryptography",
    "zope.interface",
    "attrs",
    "msgspec",
    "cloudpickle",
    "IPython",
    "psutil",
    "setproctitle",
    "xxhash",
    "configobj",
)
#: The versions of Python that ipkernel is tested with.
TESTED: Final = ((3, 11), (3, 13))
#: Open files that a controller or a host daemon of some size needs.
FILES: Final = 1024
#: Bytes of a file system that logs and spilled objects soon fill.
SPACE: Final = 500_000_000
#: Seconds that name resolution or a connection on this host may take.
PATIENCE: Final = 5.0


class Finding(NamedTuple):
    """What one check has found.

    Attributes:
        check: What was looked at.
        level: :data:`OK`, :data:`WARNING` or :data:`PROBLEM`.
        text: What is the case, as a sentence.
        advice: What to do about it; empty if nothing.
    """

    check: str
    level: str
    text: str
    advice: str = ""


def examine(
    directory: ClusterDirectory, *, hosts: Sequence[str] | None = None
) -> Iterator[Finding]:
    """Look at this host, at a cluster directory on it, and at the hosts that ssh leads to.

    Args:
        directory: The cluster's directory, whether it exists or not.
        hosts: The hosts, such as ``["a:4", "me@b"]``. None for those that the configuration
            names if engines are started there; an empty list for none.

    Yields:
        What was found, check by check, as soon as it is known.
    """
    yield from python_version(sys.version_info[:2])
    yield from packages(PACKAGES)
    yield from open_files()
    yield from directories(directory)
    configured, found = configuration(directory, hosts)
    yield found
    yield from space(directory)
    here = directory.exists and directory.alive()
    away = directory.exists and not here and (yield from runs_elsewhere(directory))
    if configured is not None and not away:
        yield from place(configured, running=here)
    yield from leftovers()
    if here or away:
        yield from cluster(directory)
    if configured is not None and (hosts is None or hosts):
        yield from other_hosts(directory, configured, running=here or away, given=bool(hosts))


def python_version(version: tuple[int, ...]) -> Iterator[Finding]:
    """Tell whether this Python can run ipkernel."""
    text = f"Python {'.'.join(map(str, version))}, ipkernel {__version__}, {sys.platform}"
    first, last = TESTED
    if version < first:
        yield Finding("python", PROBLEM, text, "ipkernel needs Python 3.11 or newer")
    elif version > last:
        tested = ".".join(map(str, last))
        yield Finding("python", WARNING, text, f"tested are versions up to {tested}")
    else:
        yield Finding("python", OK, text)


def packages(
    names: Sequence[str], load: Callable[[str], object] = importlib.import_module
) -> Iterator[Finding]:
    """Tell which of the packages that are needed cannot be imported."""
    failed = []
    for name in names:
        try:
            load(name)
        except Exception as error:  # noqa: BLE001 - whatever a broken package raises
            failed.append(name)
            advice = "install it: python -m pip install --upgrade ipkernel"
            yield Finding("packages", PROBLEM, f"cannot import {name}: {error}", advice)
    if not failed:
        yield Finding("packages", OK, f"all {len(names)} packages that are needed can be imported")


def open_files(limit: Callable[[], int] | None = None) -> Iterator[Finding]:
    """Tell how many files a process may have open, where there is such a limit."""
    if limit is None:
        try:
            import resource
        except ImportError:  # Windows has no such limit
            return

        def limit() -> int:
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    allowed = limit()
    text = f"a process may open {allowed} files" if allowed >= 0 else "no limit of open files"
    if 0 <= allowed < FILES:
        yield Finding(
            "open files", WARNING, text, f"each engine needs 4 of them: 'ulimit -n {4 * FILES}'"
        )
    else:
        yield Finding("open files", OK, text)


def directories(directory: ClusterDirectory) -> Iterator[Finding]:
    """Tell whether the cluster directory is there, writable, and closed to others."""
    parent = directory.path.parent
    if not directory.exists:
        while not parent.exists():
            parent = parent.parent
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding("directory", OK, f"{directory.path} will be made when it is needed")
        else:
            advice = "set IPYTHONDIR, or use --cluster-dir, for a place that is yours"
            yield Finding("directory", PROBLEM, f"cannot make {directory.path}", advice)
        return
    try:
        directory.check()
    except KernelError as error:
        yield Finding("directory", PROBLEM, str(error))
        return
    if not os.access(directory.path, os.W_OK | os.X_OK):
        advice = "check its owner, its permissions, and how it is mounted"
        yield Finding("directory", PROBLEM, f"cannot write to {directory.path}", advice)
        return
    yield Finding("directory", OK, f"{directory.path} is yours, and closed to others")


def configuration(
    directory: ClusterDirectory, hosts: Sequence[str] | None = None
) -> tuple[Configuration | None, Finding]:
    """Return the configuration, or None if it is not in order, and what is the case.

    Args:
        directory: The cluster's directory.
        hosts: The hosts for engines, in place of what it says itself; see :func:`examine`.
    """
    from ipkernel.cluster.configuration import files, load

    given = {"hosts": list(hosts), "engines": ["ssh"]} if hosts else {}
    try:
        configured = load(directory, given=given)
    except KernelError as error:
        return None, Finding(
            "configuration", PROBLEM, str(error), "edit it: 'ipcluster config edit' checks it"
        )
    names = ", ".join(str(path) for path in files(directory) if path.exists())
    return configured, Finding(
        "configuration", OK, f"{names} can be used" if names else "no file, defaults only"
    )


def space(
    directory: ClusterDirectory, free: Callable[[str], int] = lambda p: shutil.disk_usage(p).free
) -> Iterator[Finding]:
    """Tell whether there is room for logs."""
    place = directory.path
    while not place.exists():
        place = place.parent
    left = free(str(place))
    text = f"{left / 1e9:.1f} GB free at {place}"
    if left < SPACE:
        yield Finding("disk", WARNING, text, "logs and spilled objects need more")
    else:
        yield Finding("disk", OK, text)


def runs_elsewhere(directory: ClusterDirectory) -> Generator[Finding, None, bool]:
    """Tell if it is not known whether the controller runs on another host; return whether it does."""
    from ipkernel.cluster.recorded import controller_elsewhere

    try:
        return controller_elsewhere(directory) is not None
    except KernelError as error:
        advice = "if it is gone for good: 'ipcluster clean'"
        yield Finding("controller", PROBLEM, str(error), advice)
        return False


def place(configured: Configuration, *, running: bool) -> Iterator[Finding]:
    """Tell whether this host can have the controller, if it is to have it.

    Args:
        configured: The cluster's options.
        running: Whether it runs here.
    """
    try:
        if not running and controller_entry(configured) is not None:
            return
    except KernelError as error:
        yield Finding("controller", PROBLEM, str(error))
        return
    location = configured.value("cluster", "controller_location")
    yield from name_resolution(location or socket.gethostname())
    if not running:
        interface = configured.value("cluster", "controller_ip") or "127.0.0.1"
        yield from listening(interface, configured.value("cluster", "controller_port"))


def controller_entry(configured: Configuration) -> Entry | None:
    """Return what is to start the controller if that is to be on another host.

    Raises:
        ConfigurationError: There is no such launcher.
    """
    from ipkernel.cluster.entries import one_entry, starts_elsewhere

    name = configured.value("cluster", "controller")
    entry = one_entry("controller", name, configured.launcher_options)
    return entry if starts_elsewhere(entry.launcher) else None


def name_resolution(
    name: str, resolve: Callable[[str], Sequence[str]] | None = None
) -> Iterator[Finding]:
    """Tell whether a host name leads anywhere, and whether other hosts can use it."""
    try:
        addresses = list(dict.fromkeys((resolve or _addresses)(name)))
    except OSError as error:
        text = f"the name {name!r} cannot be resolved: {error.strerror or error}"
        yield Finding("name", WARNING, text, "other hosts need an address: give --location")
        return
    text = f"{name} is {', '.join(addresses)}"
    if all(address.startswith("127.") or address == "::1" for address in addresses):
        advice = "other hosts cannot use that: give --location where engines are elsewhere"
        yield Finding("name", WARNING, text, advice)
    else:
        yield Finding("name", OK, text)


def _addresses(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def listening(interface: str, port: int) -> Iterator[Finding]:
    """Tell whether a controller could listen, and whether connections to it are let through."""
    what = f"{interface} port {port}" if port else f"{interface}"
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        with socket.create_server((interface, port), family=family) as server:
            address = server.getsockname()[:2]
            if address[0] in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound to
                address = ("::1" if family == socket.AF_INET6 else "127.0.0.1", address[1])
            with socket.create_connection(address, PATIENCE):
                server.settimeout(PATIENCE)
                server.accept()[0].close()
    except OSError as error:
        text = f"a controller cannot be reached on {what}: {error.strerror or error}"
        yield Finding("port", PROBLEM, text, "choose another --ip or --port; look at the firewall")
    else:
        yield Finding("port", OK, f"a controller can listen on {what} and be reached")


def leftovers() -> Iterator[Finding]:
    """Tell what dead clusters have left behind."""
    left = [directory for directory in all_directories() if directory.left_over()]
    if left:
        text = f"{len(left)} directories of dead clusters in {ipython_dir()}"
        yield Finding("leftovers", WARNING, text, "remove them: ipcluster clean")
    else:
        yield Finding("leftovers", OK, "dead clusters have left nothing")


def cluster(directory: ClusterDirectory) -> Iterator[Finding]:
    """Tell how a cluster that runs is."""
    from ipkernel.cluster import doors
    from ipkernel.wire.records import Status

    try:
        # By the door, not by the short way: whether it can be reached is what is asked here.
        status = doors.ask_monitor(
            directory, f"asking cluster {directory.name} for its state", "status", None, Status
        )
    except (KernelError, TimeoutError) as error:
        yield Finding("controller", PROBLEM, str(error), "see 'ipcluster logs ipcontroller'")
        return
    text = f"runs as pid {status.pid} on {status.host} at {status.location}"
    if status.version != __version__:
        advice = "restart the cluster, or use the same ipkernel everywhere"
        yield Finding("controller", WARNING, f"{text}, with ipkernel {status.version}", advice)
    else:
        yield Finding("controller", OK, text)
    if status.journal:
        advice = "see 'ipcluster logs ipcontroller'"
        yield Finding("journal", PROBLEM, f"the journal: {status.journal}", advice)
    if not status.hosts:
        advice = "see 'ipcluster status' and 'ipcluster logs ipdaemon'"
        yield Finding("hosts", WARNING, "no host daemon has joined", advice)
    for host in status.hosts:
        if not host.connected:
            text = f"host {host.host} (daemon pid {host.pid}) is not connected"
            yield Finding("hosts", PROBLEM, text, "see its ipdaemon.log")
    for engine in status.engines:
        if engine.state != "ready":
            why = f": {engine.reason}" if engine.reason else ""
            text = f"engine {engine.engine} on {engine.host} is {engine.state}{why}"
            advice = f"see 'ipcluster logs engine {engine.engine}'"
            yield Finding("engines", WARNING, text, advice)
    ready = sum(engine.state == "ready" for engine in status.engines)
    yield Finding("engines", OK, f"{ready} of {len(status.engines)} are ready")


def other_hosts(
    directory: ClusterDirectory,
    configured: Configuration,
    *,
    running: bool = False,
    given: bool = False,
) -> Iterator[Finding]:
    """Tell how the hosts are on which engines, or the controller, are started by way of ssh.

    Args:
        directory: The cluster's directory.
        configured: Its options.
        running: Whether its controller runs.
        given: Whether somebody has said which hosts; else those count as well that it uses.
    """
    from ipkernel.cluster.doctorhosts import examine_hosts, hosts_in_use, hosts_of

    try:
        entries = hosts_of(configured)
        if running and not given:
            known = {entry.host for entry in entries}
            entries += [one for one in hosts_in_use(directory) if one.host not in known]
        controller = controller_entry(configured)
    except KernelError as error:
        yield Finding("hosts", PROBLEM, str(error))
        return
    if entries or (controller is not None and controller.name == "ssh" and not running):
        yield from examine_hosts(
            directory, configured, entries, controller=controller, running=running
        )
