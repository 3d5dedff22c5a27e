"""The options of the ssh launcher, and what they say about each host."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from attrs import asdict, field, frozen

from ipkernel.errors import ConfigurationError
from ipkernel.launchers.interfaces import Share

_HOST: Final = re.compile(
    r"(?:(?P<user>[^\s@:,-][^\s@:,]*)@)?(?P<name>\[[0-9a-fA-F:.%\w]+\]|[\w.][\w.-]*)(?::(?P<n>\d+))?"
)
_EXAMPLE: Final = "write hosts = a.example:4, me@b.example:2"
MOST: Final = 4096


class _Option(NamedTuple):
    check: str
    default: Any
    help: str


#: Options that [ssh] has for all hosts and that each host's own section may replace.
_OF_HOST: Final[dict[str, _Option]] = {
    "engines": _Option(
        "integer(min=1, max=4096)", 1, "Engines of a host whose entry has no number."
    ),
    "user": _Option("string", "", "User name there. By default what ssh's configuration says."),
    "port": _Option("integer(min=0, max=65535)", 0, "Port of its ssh server. 0: as ssh has it."),
    "key": _Option("string", "", "File with the private key to log in with."),
    "python": _Option("string", "python3", "Python there: a name, or a path such as ~/venv/bin/python."),
    "setup": _Option(
        "force_list",
        [],
        "Commands for the shell before Python is started, such as 'module load python', "
        "'source ~/venv/bin/activate'.",
    ),
    "shell": _Option(
        "string", "", "Shell for them, such as 'bash -l'. By default bash, or sh if there is none."
    ),
    "tunnel": _Option(
        'option("auto", "yes", "no")',
        "auto",
        "Whether the host reaches the controller through the ssh connection. auto: if it does "
        "not otherwise.",
    ),
    "push": _Option(
        'option("yes", "no")',
        "no",
        "yes: bring ipkernel along for hosts on which it is not installed.",
    ),
    "directory": _Option(
        "string", "", "Directory there for files of programs while they run. By default ~/.ipython/ssh."
    ),
    "connect_timeout": _Option("seconds", 15.0, "Seconds that logging in may take."),
    "start_timeout": _Option(
        "seconds", 60.0, "Seconds that 'setup', checks and copying may take after that."
    ),
    "alive_interval": _Option(
        "seconds", 5.0, "Seconds after which a silent host is asked; after three it is lost."
    ),
    "ssh_config": _Option("string", "", "Configuration file for ssh instead of ~/.ssh/config."),
    "ssh_options": _Option(
        "force_list", [], "Further options for ssh, such as 'ProxyJump=gate.example'."
    ),
    "host_keys": _Option(
        'option("config", "strict", "accept-new")',
        "config",
        "What to do about unknown host keys: strict refuses them, accept-new takes them, config "
        "is what ssh's configuration says (if it says to ask: refuse).",
    ),
    "ssh": _Option("string", "ssh", "The ssh program of this host."),
}  # fmt: skip

_OF_SECTION: Final[dict[str, _Option]] = {
    "hosts": _Option(
        "force_list",
        [],
        "The hosts, each with the number of its engines: a.example:4, me@b.example:2.",
    ),
    "controller_host": _Option(
        "string", "", "The host for controller = ssh, such as me@head.example."
    ),
}


def _spec() -> str:
    lines = []
    for name, option in {**_OF_SECTION, **_OF_HOST}.items():
        lines += [f"# {option.help}", f"{name} = {_check(option.check, _default(option.default))}"]
    lines += ["# Options of one host by its name, instead of those above.", "[[__many__]]"]
    for name, option in _OF_HOST.items():
        lines += [f"# {option.help}", f"{name} = {_check(option.check, 'default=None')}"]
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if isinstance(value, list):
        return "default=list()"
    return f'default="{value}"' if isinstance(value, str) else f"default={value}"


def _check(check: str, default: str) -> str:
    kind, _, rest = check.partition("(")
    return f"{kind}({', '.join(filter(None, (rest.removesuffix(')'), default)))})"


#: For the configuration.
SPEC: Final = _spec()


@frozen
class HostEntry:
    """What is known about one host before anybody has been there.

    Attributes:
        host: Its name, as ssh is told it.
        n: Its number of engines, None for what is left.
        others: As the options of the same names.
    """

    host: str
    n: int | None
    engines: int
    user: str
    port: int
    key: str
    python: str
    setup: tuple[str, ...] = field(converter=tuple, repr=False)  # may hold secrets
    shell: str
    tunnel: str
    push: str
    directory: str
    connect_timeout: float
    start_timeout: float
    alive_interval: float
    ssh_config: str
    ssh_options: tuple[str, ...] = field(converter=tuple)
    host_keys: str
    ssh: str

    @property
    def label(self) -> str:
        """Name it for messages."""
        return f"host {self.host}"

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads."""
        return asdict(self)

    def record(self) -> dict[str, Any]:
        """Return what is needed to go there again; ``setup`` may have secrets and stays here."""
        kept = {**self.to_dict(), "setup": (), "tunnel": "no", "push": "no"}
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> HostEntry:
        """Return the entry that :meth:`to_dict` has described."""
        return cls(**content)

    def command(self, *before: str) -> list[str]:
        """Return the ssh command line up to and with the host.

        Args:
            before: Further options; they stand ahead of all others.
        """
        words = [self.ssh, "-T", "-x", "-a", *before]
        if self.ssh_config:
            words += ["-F", os.path.abspath(os.path.expanduser(self.ssh_config))]
        for option in self.ssh_options:
            words += ["-o", option]
        if self.host_keys != "config":
            words += ["-o", f"StrictHostKeyChecking={_POLICIES[self.host_keys]}"]
        for option in (
            "BatchMode=yes",
            f"ConnectTimeout={math.ceil(self.connect_timeout)}",
            f"ServerAliveInterval={math.ceil(self.alive_interval)}",
            "ServerAliveCountMax=3",
            "LogLevel=INFO",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "RemoteCommand=none",
        ):
            words += ["-o", option]
        words += ["-p", str(self.port)] if self.port else []
        words += ["-l", self.user] if self.user else []
        words += ["-i", os.path.abspath(os.path.expanduser(self.key))] if self.key else []
        return [*words, "--", self.host]


_POLICIES: Final = {"strict": "yes", "accept-new": "accept-new"}


def read_hosts(options: Mapping[str, Any]) -> list[HostEntry]:
    """Return the entries of all hosts that a section names.

    Raises:
        ConfigurationError: Something in it cannot be understood.
    """
    hosts = _texts("hosts", options.get("hosts"))
    entries = [read_host(text, options) for text in hosts]
    if not entries:
        raise ConfigurationError(f"[ssh] names no hosts: {_EXAMPLE}")
    names = [entry.host for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"[ssh] hosts names {name!r} {names.count(name)} times: name it once, with the "
                f"number of all its engines"
            )
    for name, value in options.items():
        # Sections of hosts that are not among these now, may stay where they are.
        if name not in {*_OF_SECTION, *_OF_HOST, *names} and not isinstance(value, Mapping):
            raise ConfigurationError(
                f"[ssh] has {name!r}, which is neither an option nor a section of a host"
            )
    return entries


def read_controller(options: Mapping[str, Any]) -> HostEntry:
    """Return the entry of the host for the controller.

    Raises:
        ConfigurationError: There is none, or something in it cannot be understood.
    """
    text = options.get("controller_host")
    if not text:
        raise ConfigurationError(
            "controller = ssh needs a host: write controller_host = head.example in [ssh]"
        )
    return read_host(text, options)


def read_host(text: Any, options: Mapping[str, Any]) -> HostEntry:
    """Return the entry of one host.

    Args:
        text: Such as ``"me@a.example:4"``.
        options: The section that it stands in.

    Raises:
        ConfigurationError: One of both cannot be understood.
    """
    match = _HOST.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ConfigurationError(f"[ssh] hosts has {text!r}, which is no host: {_EXAMPLE}")
    name = match["name"].strip("[]")
    own = options.get(name) or {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(f"[ssh] {name} must be a section with options of that host")
    for option in own:
        if option not in _OF_HOST:
            raise ConfigurationError(
                f"[ssh] [[{name}]] has the unknown option {option!r}; "
                f"there are: {', '.join(_OF_HOST)}"
            )
    values = {
        option: _value(option, own.get(option), options.get(option), name) for option in _OF_HOST
    }
    n = int(match["n"]) if match["n"] else own.get("engines")
    if n is not None and not 1 <= int(n) <= MOST:
        raise ConfigurationError(
            f"[ssh] hosts has {text!r}: the number after the colon is how many engines the host "
            f"has, from 1 to {MOST}"
        )
    values["user"] = match["user"] or values["user"]
    return HostEntry(host=name, n=None if n is None else int(n), **values)


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if value is None:
        return []
    if not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise ConfigurationError(f"[ssh] {name} is {value!r}, but must be a list of texts")
    return list(value)


def _value(name: str, own: Any, common: Any, host: str) -> Any:
    """Return the value of an option: the host's own, the section's, or the default."""
    where = f"[ssh] [[{host}]]" if own is not None else "[ssh]"
    check, default, _ = _OF_HOST[name]
    value = own if own is not None else common if common is not None else default
    if isinstance(default, list):
        return tuple([value] if isinstance(value, str) else _texts(name, value))
    from ipkernel.cluster.checks import BadValue, checked

    if check == "string":
        if not isinstance(value, str | os.PathLike) or "\n" in str(value):
            raise ConfigurationError(f"{where} {name} is {value!r}, but must be a line of text")
        return str(value)
    if value == default:
        return default
    if isinstance(value, bool) and check.startswith("option"):
        value = "yes" if value else "no"
    try:
        return checked(check, value)
    except BadValue as error:
        raise ConfigurationError(f"{where} {name} is {value!r}, but must be {error}") from None


def plan_hosts(n: int | None, options: Mapping[str, Any]) -> list[Share]:
    """Split engines over hosts: each has as many as its entry says, or a fair part.

    Args:
        n: How many engines altogether, None for what the entries say.
        options: The section.

    Returns:
        A share for each host that is to have engines.

    Raises:
        ConfigurationError: There are no hosts, or they are not to have so many engines.
    """
    entries = read_hosts(options)
    if n is None:
        counts = [entry.n or entry.engines for entry in entries]
    else:
        counts = _spread(n, [entry.n for entry in entries])
    return [
        Share(count, entry.label, entry.to_dict())
        for count, entry in zip(counts, entries, strict=True)
        if count
    ]


def _spread(n: int, limits: list[int | None]) -> list[int]:
    """Deal engines out to hosts in turn, to each no more than its limit."""
    if None not in limits and n > sum(limit or 0 for limit in limits):
        raise ConfigurationError(
            f"{n} engines are wanted, but the hosts of [ssh] take {sum(limit or 0 for limit in limits)}: "
            f"raise the numbers after the colons, or leave one out"
        )
    counts = [0] * len(limits)
    left = n
    while left:
        for index, limit in enumerate(limits):
            if left and (limit is None or counts[index] < limit):
                counts[index] += 1
                left -= 1
    return counts
