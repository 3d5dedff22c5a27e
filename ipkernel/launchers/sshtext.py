"""What went wrong on the way to a host, in a sentence that says what to do about it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from ipkernel.launchers.sshoptions import HostEntry

#: What ssh says when a host has none of the keys that it was shown.
_DENIED: Final = (
    r"permission denied \(|no supported authentication|too many authentication failures"
)
#: What it says of keys that it cannot use.
_UNUSED: Final = re.compile(
    r"identity file .* not accessible|permissions \d+ for .* are too open|^load key", re.IGNORECASE
)
#: What it says while a host, or the network, is down: later there may be a way again.
_REFUSED: Final = r"connection refused"
_SILENT: Final = r"(connection|operation) timed out|timed out during banner|connection timeout"
_NO_ROUTE: Final = r"no route to host|network is unreachable|host is down"
_AWAY: Final = re.compile(
    f"{_REFUSED}|{_SILENT}|{_NO_ROUTE}|temporary failure in name resolution|"
    r"kex_exchange|connection (closed|reset)",
    re.IGNORECASE,
)
#: What ssh says (any case), and what that means. The first one that is found counts.
_SAYINGS: Final[tuple[tuple[str, str], ...]] = (
    (
        r"could not resolve hostname",
        (
            "there is no host of this name: check it in 'hosts', or give its address with 'HostName' "
            "in ssh's configuration"
        ),
    ),
    (
        r"remote host identification has changed",
        (
            "its host key is not the one that ssh knows: find out why, and only if that is in order "
            "remove the old one with 'ssh-keygen -R {host}'"
        ),
    ),
    (
        r"host key verification failed|no [\w-]+ host key is known|host key .* not known",
        (
            "its host key is not known: log in once by hand to check it ('ssh {login}'), or write "
            "host_keys = accept-new in [ssh]"
        ),
    ),
    (
        _DENIED,
        (
            "it does not let {user} log in without a password: check the name, put your public key "
            "there ('ssh-copy-id {login}'), or name the right key with key = FILE in [ssh]"
        ),
    ),
    (
        _REFUSED,
        "it takes no ssh connections on port {port}: start its ssh server, or name the right port",
    ),
    (
        _SILENT,
        (
            "it did not answer within {timeout:g} s: check that it is up and that no firewall is "
            "between, or raise connect_timeout in [ssh]"
        ),
    ),
    (
        _NO_ROUTE,
        "there is no way to it over the network: check its address, and that it is up",
    ),
    (
        r"bad configuration option|bad owner or permissions|can't open user config",
        "ssh does not like its configuration: {line}",
    ),
    (
        r"not recognized as an internal or external command|commandnotfoundexception",
        (
            "it is a Windows host, and those are not supported: only hosts with a POSIX shell are "
            "(on Windows that is inside WSL)"
        ),
    ),
    (
        r"this account is currently not available|this service allows sftp",
        "its account does not permit commands: {line}",
    ),
)
#: What ssh says when a connection that was there is gone.
_LOST: Final = re.compile(
    r"timeout, server .* not responding|connection to .* closed|client_loop|broken pipe|"
    r"connection reset|packet_write|kex_exchange|connection closed",
    re.IGNORECASE,
)


def explain(lines: Sequence[str], entry: HostEntry, code: int | None) -> str:
    """Say why ssh has ended before the host was ready to take orders.

    Args:
        lines: What it wrote to its standard error.
        entry: The host.
        code: Its exit code.
    """
    for line in lines:
        for pattern, meaning in _SAYINGS:
            if re.search(pattern, line, re.IGNORECASE):
                unused = [one.strip() for one in lines if _UNUSED.search(one)]
                why = f" (ssh: {unused[0]})" if unused and pattern == _DENIED else ""
                return _filled(meaning, entry, line) + why
    said = f": {lines[-1].strip()}" if lines else ", without a word"
    if code == 255:
        return f"the ssh connection ended before anything could be started{said}"
    return (
        f"it does not run commands as expected (exit code {code}){said}; "
        f"try 'ssh {_login(entry)} echo hello'"
    )


def is_away(lines: Sequence[str]) -> bool:
    """Tell whether ssh has found no way to a host at present, which may be another thing later.

    Args:
        lines: What it wrote to its standard error.
    """
    return any(_AWAY.search(line) for line in lines)


def explain_loss(lines: Sequence[str], entry: HostEntry) -> str:
    """Say that a connection was lost which had worked."""
    found = [line.strip() for line in lines if _LOST.search(line)]
    if any("not responding" in line for line in found):
        silent = 3 * math.ceil(entry.alive_interval)
        return f"the connection was lost: it has not answered for {silent} s"
    return f"the connection was lost{f' ({found[-1]})' if found else ''}"


def explain_setup(event: dict[str, Any], entry: HostEntry, lines: Sequence[str]) -> str:
    """Say which of the user's commands has failed."""
    number = int(event.get("at", 0)) + 1
    said = f": {lines[-1].strip()}" if lines else ""
    return (
        f"command {number} of 'setup' has failed there with code {event.get('code')}{said}; "
        f"try it in 'ssh {_login(entry)}'"
    )


def no_python(entry: HostEntry) -> str:
    """Say that there is no Python of that name."""
    return (
        f"there is no {entry.python!r}: install Python there, or write python = PATH for this "
        f"host in [ssh], or a 'setup' that makes it available"
    )


def old_python(version: str, oldest: tuple[int, int], entry: HostEntry) -> str:
    """Say that Python is too old."""
    return (
        f"its {entry.python!r} is Python {version}, and ipkernel needs {oldest[0]}.{oldest[1]} or "
        f"newer: write python = PATH of a newer one for this host in [ssh]"
    )


def wrong_version(there: str, here: str, executable: str) -> str:
    """Say that ipkernel is missing, or another version."""
    install = f"'{executable} -m pip install ipkernel=={here}'"
    remedy = f"run {install} there, write python = PATH of another Python, or push = yes in [ssh]"
    if not there:
        return f"ipkernel is not installed for {executable}: {remedy}"
    return f"{executable} has ipkernel {there}, and this is {here}: {remedy}"


def missing_needs(missing: Sequence[str], executable: str) -> str:
    """Say that ipkernel is there, but not all that it needs."""
    return (
        f"{executable} has no {', '.join(missing)}, which ipkernel needs: "
        f"run '{executable} -m pip install ipkernel' there"
    )


def no_tunnel(line: str, entry: HostEntry) -> str:
    """Say that there can be no tunnel."""
    said = f" ({line})" if line else ""
    return (
        f"its ssh server does not open a tunnel to the controller{said}: have it permit "
        f"AllowTcpForwarding, or have the controller listen where the host reaches it "
        f"(controller_ip) and write tunnel = no in [ssh]"
    )


def _login(entry: HostEntry) -> str:
    return f"{entry.user}@{entry.host}" if entry.user else entry.host


def _filled(meaning: str, entry: HostEntry, line: str) -> str:
    return meaning.format(
        host=entry.host,
        login=_login(entry),
        user=f"user {entry.user!r}" if entry.user else "you",
        port=entry.port or "22 (or the one in ssh's configuration)",
        timeout=entry.connect_timeout,
        line=line.strip(),
    )
