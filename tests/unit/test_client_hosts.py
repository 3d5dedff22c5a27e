"""Which stores a client can use, and what it keeps for hosts to ask for."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from ipkernel.client import hosts as hosts_module
from ipkernel.client import waiting
from ipkernel.client.hosts import Hosts
from ipkernel.client.moving import Mover
from ipkernel.client.outbox import Outbox
from ipkernel.errors import ConnectError, ObjectLost, TransferError
from ipkernel.wire.messages import HostGone, NotProvided, Provide
from tests.support.fakestore import FakeConnector

OWNER = 9


@pytest.fixture
def connector():
    return FakeConnector(near=[1], far=[2, 3])


@pytest.fixture
def hosts(connector):
    hosts = Hosts(connector)
    for host in (1, 2, 3):
        hosts.learn(connector.access(host))
    return hosts


# ---------------------------------------------------------------- hosts


def test_near_and_far(hosts, connector):
    assert hosts.is_near(1) and not hosts.is_near(2) and not hosts.is_near(99)
    assert hosts.near([2, 1, 3]) == (1, connector.stores[1])
    assert hosts.near([2, 3]) is None
    assert hosts.store(2) is connector.stores[2]
    assert hosts.store(1) is connector.stores[1]
    assert connector.opened == [(1, True), (2, False)], "each is opened once"


def test_names(hosts, connector):
    assert hosts.name(2) == "n2"
    assert hosts.name(77) == "number 77"


def test_a_neighbour_that_cannot_be_reached_is_far(hosts, connector):
    connector.refuse.add(1)
    assert hosts.near([1]) is None
    connector.refuse.clear()
    assert not hosts.is_near(1)
    assert hosts.store(1) is connector.stores[1]
    assert connector.opened == [(1, True), (1, False)]


def test_distrust_closes(hosts, connector):
    store = hosts.store(1)
    hosts.distrust(1, ConnectError("broken"))
    assert store.closed and not hosts.is_near(1)


def test_hosts_that_are_gone(hosts, connector):
    store = hosts.store(2)
    assert hosts.lose(HostGone(2, "its power failed")) is store
    assert hosts.lose(HostGone(3)) is None
    with pytest.raises(ObjectLost, match="host n2 is gone: its power failed"):
        hosts.store(2)
    with pytest.raises(ObjectLost, match="host n3 is gone$"):
        hosts.store(3)
    with pytest.raises(ObjectLost, match="host number 44 is gone"):
        hosts.store(44)
    assert hosts.named([2, 1, 3]) == [1]


def test_a_host_that_is_reached_in_a_new_way(hosts, connector):
    store = hosts.store(2)
    assert hosts.learn(connector.access(2)) is None, "nothing new"
    hosts.distrust(1, ConnectError("broken"))
    assert hosts.learn(connector.access(2, "new")) is store
    assert hosts.name(2) == "new" and hosts.store(2) is store
    assert hosts.learn(connector.access(1, "new")) is None and hosts.is_near(1)


def test_without_a_connector_there_is_no_store(connector):
    hosts = Hosts(None)
    hosts.learn(connector.access(1))
    assert not hosts.is_near(1)
    with pytest.raises(ObjectLost):
        hosts.store(1)


def test_hosts_of_which_nothing_was_told_yet_are_waited_for(connector, monkeypatch):
    hosts = Hosts(connector)
    asked = []

    def told_meanwhile(condition, ready, timeout):
        asked.append(timeout)
        hosts.learn(connector.access(1))
        assert not ready()
        hosts.lose(HostGone(2))
        assert ready()
        return True

    monkeypatch.setattr(hosts_module, "wait_until", told_meanwhile)
    assert hosts.named([1, 2]) == [1]
    assert hosts.named([1, 2]) == [1]
    assert asked == [hosts_module.PATIENCE], "and only once"


def test_the_reactor_waits_for_no_host(connector, monkeypatch):
    monkeypatch.setattr(waiting, "reactor_threads", {threading.get_ident()})
    monkeypatch.setattr(hosts_module, "reactor_threads", {threading.get_ident()})
    assert Hosts(connector).named([5]) == []


def test_closing_closes_stores(hosts, connector):
    store = hosts.store(1)
    hosts.close()
    assert store.closed
    with pytest.raises(ObjectLost, match="this client is closed"):
        hosts.store(2)


# ---------------------------------------------------------------- outbox


class Posting:
    """An outbox with what it has said to the controller."""

    def __init__(self, hosts):
        self.mover = Mover()
        self.said = []
        self.outbox = Outbox(OWNER, hosts, self.mover, self.said.append)

    def provide(self, object_id, host=2):
        self.outbox.provide(Provide(object_id, host)).result(10)


@pytest.fixture
def posting(hosts):
    posting = Posting(hosts)
    yield posting
    posting.outbox.clear()
    posting.mover.close(10)


ID = b"i" * 16


def test_objects_are_provided_without_a_copy(posting, connector):
    data = bytearray(b"abc" * 1000)
    outgoing = posting.outbox.add(ID, [b"head", memoryview(data)], 3004, "push")
    assert posting.outbox.unsent == 3004 and not outgoing.left
    assert posting.outbox.waiting() == [outgoing]
    posting.provide(ID)
    store = connector.stores[2]
    assert store.objects[ID] == b"head" + data
    assert store.pieces[ID][1].obj is data
    assert store.owners[ID] == OWNER
    assert outgoing.left and posting.outbox.unsent == 0 and not posting.said
    assert outgoing.transfer.done == 3004 and outgoing.transfer.what == "push to host n2"
    assert posting.outbox.waiting() == [] and len(posting.outbox) == 1


def test_it_is_provided_again_when_a_host_is_lost(posting, connector):
    posting.outbox.add(ID, [b"x"], 1)
    posting.provide(ID, 2)
    posting.provide(ID, 3)
    assert connector.stores[3].objects[ID] == b"x"


def test_what_the_user_may_have_changed_is_not_provided_again(posting, connector):
    outgoing = posting.outbox.add(ID, [b"x"], 1)
    posting.provide(ID, 2)
    assert posting.outbox.wait([outgoing], 0)
    posting.provide(ID, 3)
    (answer,) = posting.said
    assert (answer.object, answer.host) == (ID, 3) and "may have changed it" in answer.problem
    assert ID not in connector.stores[3].objects


def test_failures_are_told(posting, connector, hosts):
    outgoing = posting.outbox.add(ID, [b"x"], 1)
    connector.stores[2].failure = TransferError("cut")
    posting.provide(ID, 2)
    hosts.lose(HostGone(3, "gone"))
    posting.provide(ID, 3)
    posting.provide(b"?" * 16, 2)
    assert [(m.host, m.problem) for m in posting.said] == [
        (2, "cut"),
        (3, "host n3 is gone: gone"),
        (2, "its client does not have it any more"),
    ]
    assert not outgoing.left
    assert all(isinstance(message, NotProvided) for message in posting.said)


def test_free_lets_go_of_the_data(posting):
    outgoing = posting.outbox.add(ID, [b"x"], 1)
    posting.outbox.free([b"?" * 16, ID])
    assert outgoing.left and outgoing.pieces == () and not posting.outbox.unsent
    assert posting.outbox.pieces(ID) is None
    posting.provide(ID)
    assert "does not have it any more" in posting.said[0].problem


def test_free_ends_a_transfer(posting, connector):
    store = connector.stores[2]
    store.gate.clear()
    outgoing = posting.outbox.add(ID, [b"x"], 1)
    future = posting.outbox.provide(Provide(ID, 2))
    assert store.entered.wait(10)
    posting.outbox.free([ID])
    future.result(10)
    assert outgoing.transfer.cancelled and ID not in store.objects


def test_waiting_until_it_has_left(posting, connector):
    store = connector.stores[2]
    store.gate.clear()
    outgoing = posting.outbox.add(ID, [b"x"], 1)
    assert not posting.outbox.wait([outgoing], 0) and not outgoing.told
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting_for_it = pool.submit(posting.outbox.wait, [outgoing], 20)
        future = posting.outbox.provide(Provide(ID, 2))
        store.gate.set()
        assert waiting_for_it.result(20) is True
        future.result(10)
    assert outgoing.told


def test_few_are_provided_at_a_time(posting, connector):
    store = connector.stores[2]
    store.gate.clear()
    ids = [bytes([i]) * 16 for i in range(5)]
    for object_id in ids:
        posting.outbox.add(object_id, [b"x"], 1)
    futures = [posting.outbox.provide(Provide(object_id, 2)) for object_id in ids]
    assert store.entered.wait(10)
    assert len(store.puts) <= 2
    store.gate.set()
    for future in futures:
        future.result(10)
    assert sorted(store.objects) == ids
