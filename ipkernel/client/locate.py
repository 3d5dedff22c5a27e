"""From what users write to the FURL of a controller's door."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ipkernel.callers import users_level
from ipkernel.errors import ConfigurationError, ConnectError

if TYPE_CHECKING:
    from ipkernel.wire.furl import Furl

#: Options of other systems that mean nothing here; they are ignored.
_MEANINGLESS = frozenset({"context", "debug", "ipython_dir"})
_TUNNELS = frozenset({"sshserver", "sshkey", "password", "paramiko"})


@attrs.frozen
class Place:
    """Where a controller's doors are.

    Attributes:
        furl: Of the client door.
        security: The directory with the FURL files of the other roles, or None.
        file: The file that the FURL is from, or None.
    """

    furl: Furl
    security: Path | None = None
    file: Path | None = None

    def look_again(self) -> Furl:
        """Return the FURL of the client door as it is now: a controller may have written a new one.

        Raises:
            ConnectError: The file is gone, or there is no FURL in it.
            SecurityError: Other users could read it.
        """
        from ipkernel.wire.furl import read_furl

        return self.furl if self.file is None else read_furl(self.file)

    def other(self, role: str) -> Furl:
        """Return the FURL of another role.

        Raises:
            ConnectError: It is not known.
            SecurityError: Its file could be read by other users.
        """
        from ipkernel.wire.furl import read_furl

        if self.security is None:
            raise ConnectError(
                f"this needs the {role} FURL, which is not known to a client that was made from a "
                "FURL alone: give the cluster's name or directory"
            )
        return read_furl(self.security / f"ipcontroller-{role}.furl")


def locate(
    connection_info: Any = None,
    *,
    url_file: str | os.PathLike[str] | None = None,
    furl_file: str | os.PathLike[str] | None = None,
    cluster_dir: str | os.PathLike[str] | None = None,
    cluster: Any = None,
    profile: str | None = None,
    profile_dir: str | os.PathLike[str] | None = None,
    cluster_id: str | None = None,
) -> Place:
    """Find the client door that the arguments of a client mean.

    Args:
        connection_info: A FURL, the path of a FURL file or of a cluster directory, or the name of a
            cluster.
        url_file: The path of a FURL file.
        furl_file: The same.
        cluster_dir: The path of a cluster directory.
        cluster: The name of a cluster, or a Cluster.
        profile: An older word for the name.
        profile_dir: An older word for the directory.
        cluster_id: Completes ``profile``.

    Raises:
        ConnectError: There is no such FURL file, or no FURL in it.
        SecurityError: Other users could read it.
        ConfigurationError: The arguments contradict each other.
    """
    path = furl_file or url_file
    given = [connection_info, path, cluster_dir or profile_dir, cluster]
    if sum(argument is not None and argument != "" for argument in given) > 1:
        raise ConfigurationError(
            "say once where the cluster is: by a FURL, a FURL file, a directory or a name"
        )
    if path:
        return _from_file(Path(path).expanduser())
    if connection_info is not None and connection_info != "":
        return _from_text(os.fspath(connection_info))
    directory = getattr(cluster, "directory", None)
    if directory is not None:
        return _from_directory(Path(os.fspath(directory)))
    named = cluster_id or (
        os.environ.get("IPP_CLUSTER_ID") if not (cluster or profile or cluster_dir) else None
    )
    from ipkernel.cluster.directory import find_directory

    found = find_directory(
        cluster, cluster_dir=cluster_dir or profile_dir, cluster_id=named, profile=profile
    )
    return _from_directory(Path(os.fspath(found)))


def _from_text(text: str) -> Place:
    from ipkernel.wire.furl import Furl

    if text.startswith("pb://"):
        return Place(Furl.parse(text))
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_directory(path)
    if path.exists() or path.suffix == ".furl" or os.sep in text:
        return _from_file(path)
    from ipkernel.cluster.directory import find_directory

    return _from_directory(Path(os.fspath(find_directory(text))))


def _from_file(path: Path) -> Place:
    from ipkernel.wire.furl import read_furl

    if path.name == "cluster.json":
        return _from_directory(path.parent)
    return Place(read_furl(path), path.absolute().parent, path.absolute())


def _from_directory(path: Path) -> Place:
    from ipkernel.wire.furl import read_furl

    security = path / "security"
    file = security / "ipcontroller-client.furl"
    if not file.exists():
        raise ConnectError(
            f"no cluster is running in {path}: there is no {file.relative_to(path)} in it; "
            "start one with 'ipcluster start' or ipkernel.Cluster()"
        )
    return Place(read_furl(file), security.absolute(), file.absolute())


def check_other_options(options: dict[str, Any]) -> None:
    """Ignore options that mean nothing here, and refuse the others.

    Raises:
        ConfigurationError: An option asks for what is not there.
        TypeError: There is no such option.
    """
    for name, value in options.items():
        if name in _TUNNELS:
            if value:
                raise ConfigurationError(
                    f"{name}= is not needed: connections are encrypted; forward the controller's "
                    "port with ssh if it cannot be reached directly"
                )
        elif name in _MEANINGLESS:
            if value:
                warnings.warn(f"Client({name}=...) has no meaning here", stacklevel=users_level())
        else:
            raise TypeError(f"Client() has no argument {name!r}")


def check_reconnect(seconds: Any) -> float:
    """Return how long a client may try to reach a controller that it has lost.

    Raises:
        ConfigurationError: It is no number of seconds.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not 0 <= seconds < float("inf")
    ):
        raise ConfigurationError(f"reconnect= is a number of seconds from 0, not {seconds!r}")
    return float(seconds)
