"""Of several that start one cluster at the same time, on whatever hosts, one does it."""

from __future__ import annotations

from typing import Final

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.pidfile import AlreadyRunning, PidFile
from ipkernel.errors import ClusterError

#: The file, in a cluster's state directory, that names who starts it.
_NAME: Final = "starting.json"


def claim(directory: ClusterDirectory) -> PidFile | None:
    """Take the right to start a cluster, or to replace its controller.

    Without it one that begins takes the host daemon of another one, which has no controller yet, for
    left over.

    Args:
        directory: The cluster's directory, which is there.

    Returns:
        What is to be removed when the cluster runs; None if the file cannot be written.

    Raises:
        ClusterError: Somebody else is starting the cluster.
    """
    file = PidFile(directory.state / _NAME)
    try:
        file.claim(directory.name, "a start of the cluster")
    except AlreadyRunning:
        who = file.read() or {}
        host = f" on host {who.get('host')}" if file.state() == "elsewhere" else ""
        raise ClusterError(
            f"cluster {directory.name} is being started already, by process {who.get('pid')}{host}: "
            f"wait until it is ready, or if that process is gone for good, remove {file.path}"
        ) from None
    except OSError:
        return None
    return file
