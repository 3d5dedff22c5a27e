"""The emulated network itself: who reaches whom."""

from __future__ import annotations

import subprocess

from tests.support.netns import Network, needs_namespaces

LISTEN = (
    "import socket,sys;s=socket.create_server((sys.argv[1],7000));print('up',flush=True);s.accept()"
)
CONNECT = "import socket,sys;socket.create_connection((sys.argv[1],7000),0.5)"


def reaches(net: Network, a: str, b: str, switch: str) -> bool:
    """Tell whether machine ``a`` can connect to machine ``b``."""
    address = net.address(b, switch)
    server = subprocess.Popen(
        net.command(b, "python3", "-c", LISTEN, address), stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        client = net.command(a, "python3", "-c", CONNECT, address)
        return subprocess.run(client, capture_output=True, check=False).returncode == 0
    finally:
        server.kill()
        server.communicate()


@needs_namespaces
def test_machines_reach_each_other_through_a_common_switch_only() -> None:
    with Network({"hub": ["a", "b"], "left": ["a"], "right": ["b"]}) as net:
        assert reaches(net, "left", "hub", "a")
        assert reaches(net, "right", "hub", "b")
        assert not reaches(net, "left", "right", "b")
        net.unplug("left")
        assert not reaches(net, "left", "hub", "a")
        net.plug("left")
        assert reaches(net, "left", "hub", "a")
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert net._tag not in left.stdout
