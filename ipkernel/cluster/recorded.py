"""What ``cluster.json`` says of the programs that another process has started."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ipkernel.errors import ClusterError, ConfigurationError, KernelError

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Recorded(NamedTuple):
    """A program that was started by a launcher.

    Attributes:
        launcher: The launcher's name.
        label: Where it runs, for messages; empty on this host.
        n: How many engines it was to have.
        restarts: How often it was started again.
        failure: Why it is not there any more, as far as that was noted.
        options: The launcher's options.
        record: What the launcher has noted for itself.
        kind: ``"controller"`` or ``"engines"``.
        lost: How it has ended before it was started again; empty if it was ready since.
    """

    launcher: str
    label: str = ""
    n: int = 0
    restarts: int = 0
    failure: str = ""
    options: Mapping[str, Any] = _NOTHING
    record: Mapping[str, Any] = _NOTHING
    kind: str = "engines"
    lost: str = ""

    @classmethod
    def from_dict(cls, content: Any, kind: str = "engines") -> Recorded | None:
        """Return the program that ``content`` describes, or None if it describes none."""
        if not isinstance(content, Mapping) or not isinstance(content.get("launcher"), str):
            return None
        known = {name: content[name] for name in cls._fields if name in content}
        try:
            found = cls(**{**known, "kind": kind})
            return found._replace(n=int(found.n), restarts=int(found.restarts))
        except (TypeError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads."""
        content = {**self._asdict(), "options": dict(self.options), "record": dict(self.record)}
        del content["kind"]
        return content

    @property
    def here(self) -> bool:
        """Whether it is a process of the host that started it, with a pid file.

        Classes within functions cannot be found again; they are taken for such ones.
        """
        return self.launcher == "local" or "<locals>" in self.launcher

    @property
    def title(self) -> str:
        """Name it for people: launcher and place."""
        return title(self.launcher, self.label)

    def find(self, directory: ClusterDirectory) -> Any:
        """Return a launcher for it, to watch and to end it; None if its class makes none.

        Raises:
            ConfigurationError: The launcher is not there any more.
            SecurityError: Others can write to the directory, and so say what is run here.
        """
        from ipkernel.cluster.entries import recorded_launcher

        directory.check()

        found = recorded_launcher(self.kind, self.launcher)
        if not hasattr(found, "from_record"):
            return None
        try:
            return found.from_record(directory, dict(self.record), self.options)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{directory.record_file} does not say where {self.title} is ({error!r})"
            ) from None


def title(launcher: str, label: str) -> str:
    """Name a program for people by its launcher and its place, which often names the launcher."""
    name = launcher.rpartition(":")[2].rpartition(".")[2]
    return (label if name in label.split() else f"{name}, {label}") if label else name


def programs_of(directory: ClusterDirectory) -> list[Recorded]:
    """Return the programs that a cluster's ``cluster.json`` names, the controller first."""
    record = directory.read_record()
    controller = Recorded.from_dict(record.get("controller"), "controller")
    sets = record.get("engines")
    found = (
        [one for s in sets.values() for one in recorded_programs(s)]
        if isinstance(sets, dict)
        else []
    )
    return [controller, *found] if controller is not None else found


def recorded_programs(content: Any) -> tuple[Recorded, ...]:
    """Return the programs that an engine set's part of ``cluster.json`` names."""
    listed = content.get("programs") if isinstance(content, Mapping) else None
    found = [Recorded.from_dict(one) for one in listed] if isinstance(listed, list) else []
    return tuple(one for one in found if one is not None)


def controller_elsewhere(directory: ClusterDirectory) -> tuple[Recorded, str] | None:
    """Return the controller that was launched elsewhere, and where it stands, if it is not over.

    It asks the host or the queue, which may take a second.

    Raises:
        ClusterError: That cannot be asked; the text says why.
    """
    record = directory.read_record().get("controller")
    found = Recorded.from_dict(record, "controller")
    if found is None or found.here:
        return None
    try:
        launcher = found.find(directory)
        state = launcher.state() if launcher is not None and launcher.running else ""
    except (KernelError, OSError) as error:
        raise ClusterError(
            f"the controller of cluster {directory.name} ({found.title}) cannot be looked at: "
            f"{error}"
        ) from None
    return (found, state) if state and launcher.running else None
