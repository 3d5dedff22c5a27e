"""A client's large values in real stores: through shared memory, through TLS, and by a relay."""

from __future__ import annotations

import socket
import threading

import pytest

from ipkernel.client.client import Client
from ipkernel.client.engines import Engines
from ipkernel.client.session import Session
from ipkernel.client.stores import Stores
from ipkernel.errors import ConnectError, ObjectLost
from ipkernel.objects import dialing, new_object_id
from ipkernel.wire.addresses import machine_id
from ipkernel.wire.identity import Identity
from ipkernel.wire.messages import (
    Finished,
    HostAccess,
    Kind,
    ObjectMade,
    Outcome,
    Provide,
    Relay,
    Release,
    Seek,
    Source,
)
from ipkernel.wire.records import EngineInfo
from tests.support.datascene import data_scene
from tests.support.localstores import Served
from tests.unit.test_client_session import call

BIG = bytes(range(256)) * 8192
HOST = 4


class Wired:
    """A session without a controller, whose client has real ways to stores.

    Attributes:
        said: What would have been sent to the controller.
        answer: Is called with each message, in the thread that sends it.
    """

    def __init__(self) -> None:
        self.identity = Identity.create()
        self.said = []
        self.answer = lambda message: None
        self.stores = Stores(self.identity, ["tcp:127.0.0.1:1"], lambda h: self.objects.relay(h))
        engines = Engines([EngineInfo(engine=0, host="n1", host_id=HOST)])
        self._pumping = threading.RLock()
        self.session = Session(3, self.pump, engines, self.stores)
        self.objects = self.session.objects
        self.objects.mover.interactive = False

    def pump(self) -> None:
        with self._pumping:
            for message, _ in self.session.take():
                self.said.append(message)
                self.answer(message)
            self.session.sent(self.session.queued_bytes)

    def hear(self, *messages) -> None:
        self.session.received([(message, b"") for message in messages])

    def put(self, value=BIG):
        return self.objects.put([value], len(value), [0])

    def submit(self, value=BIG):
        from ipkernel.client.asyncresult import AsyncResult

        result = AsyncResult(self.session, True)
        self.session.submit(result, Kind.APPLY, call(value), 0)
        return result

    def of(self, kind):
        return [message for message in self.said if type(message) is kind]


@pytest.fixture
def wired():
    wired = Wired()
    yield wired
    wired.session.lost(lambda: ConnectError("over"))
    wired.objects.close(10)


@pytest.fixture(params=[True, False], ids=["native", "portable"])
def served(request):
    served = Served(native=request.param)
    yield served
    served.close()


@pytest.fixture
def scene():
    with data_scene() as scene:
        yield scene


def near_access(served, wired, **changes):
    from ipkernel.objects.tickets import make_ticket

    ticket = make_ticket(served.key, wired.identity.tub_id)
    fields = {"local": served.server.address, "machine": machine_id(), "ticket": ticket}
    return HostAccess(HOST, "n1", "t", "p", **{**fields, **changes})


# ---------------------------------------------------------------- this machine


def test_values_go_through_shared_memory(wired, served):
    wired.hear(near_access(served, wired))
    ref = wired.put()
    assert wired.objects.hosts.is_near(HOST)
    assert bytes(wired.objects.fetcher.bring_all([(ref.id, HOST, "x", 1)], None)[0]) == BIG
    (made,) = wired.of(ObjectMade)
    assert (made.host, made.length, made.owner) == (HOST, len(BIG), 3)
    assert served.info(ref.id).sealed


def test_results_are_mapped_and_given_back(wired, served):
    from ipkernel.serialize.payload import dumps_bytes

    wired.hear(near_access(served, wired))
    payload = dumps_bytes(BIG)
    result = wired.submit("small")
    one = new_object_id()
    served.client("engine").put(one, [payload], len(payload), owner=3)
    task = result.msg_ids[0]
    wired.hear(Finished(task, Outcome.OK, 0, 1.0, 2.0, 0, 1, one, len(payload), HOST))
    assert result.done() and served.leases(one) == 0
    assert result.get() == BIG
    wired.pump()
    assert wired.of(Release)[-1].objects == [one]


def test_another_machine_is_not_near(wired, served):
    for changes in ({"machine": "elsewhere"}, {"local": ""}, {"local": "nonsense"}):
        assert not wired.stores.is_near(near_access(served, wired, **changes))


def test_a_wrong_ticket_is_no_neighbour(wired, served):
    wired.hear(near_access(served, wired, ticket=b"x" * 32))
    result = wired.submit()
    (outgoing,) = result._outgoing
    assert outgoing.size > len(BIG), "it is in the outbox then"
    assert not wired.objects.hosts.is_near(HOST)


# ---------------------------------------------------------------- other machines


def test_values_go_over_tls(wired, scene):
    wired.hear(scene.access(wired.identity, host=HOST))
    assert not wired.objects.hosts.is_near(HOST)
    ref = wired.put()
    assert scene.bytes_of(ref.id) == BIG
    assert bytes(wired.objects.fetcher.bring_all([(ref.id, HOST, "x", 1)], None)[0]) == BIG


def test_hosts_ask_for_what_is_in_the_outbox(wired, scene):
    wired.hear(scene.access(wired.identity, host=HOST))
    result = wired.submit()
    (made,) = wired.of(ObjectMade)
    assert made.host == 0 and not result.sent
    wired.hear(Provide(made.object, HOST))
    assert result.wait_for_send(20)
    assert BIG in scene.bytes_of(made.object)
    assert result._outgoing[0].transfer.route == "direct"


def test_far_results_arrive_by_themselves(wired, scene):
    from ipkernel.serialize.payload import dumps_bytes

    wired.hear(scene.access(wired.identity, host=HOST))
    payload = dumps_bytes(BIG)
    one = new_object_id()
    scene.keep(one, payload)
    result = wired.submit("small")
    task = result.msg_ids[0]
    wired.hear(Finished(task, Outcome.OK, 0, 1.0, 2.0, 0, 1, one, len(payload), HOST))
    assert result.get(20) == BIG
    assert wired.objects.references.waiting == 1 or one not in wired.objects.references


def test_a_lost_result_is_looked_for_elsewhere(wired, scene):
    from ipkernel.serialize.payload import dumps_bytes

    wired.hear(scene.access(wired.identity, host=HOST))
    payload = dumps_bytes(BIG)
    one = new_object_id()
    scene.keep(one, payload)

    def answer(message):
        if type(message) is Seek:
            there = HOST if len(wired.of(Seek)) == 1 else 0
            wired.hear(Source(one, 5, there, "" if there else "all copies are lost"))

    wired.answer = answer
    for expected in ("value", "lost"):
        result = wired.submit("small")
        task = result.msg_ids[0]
        wired.hear(Finished(task, Outcome.OK, 0, 1.0, 2.0, 0, 1, one, len(payload), 77))
        if expected == "value":
            assert result.get(20) == BIG
        else:
            with pytest.raises(ObjectLost, match="all copies are lost"):
                result.get(20)
    first, second = wired.of(Seek)
    assert (first.failed, first.problem) == (77, "host number 77 is gone")
    assert second.failed == 77


# ---------------------------------------------------------------- through the controller


def test_hosts_that_cannot_be_dialled_are_reached_by_a_relay(wired, scene, monkeypatch):
    dialled = []

    def dial_relay(hints, token):
        dialled.append((list(hints), token))
        ours, theirs = socket.socketpair()
        scene.call(scene.port.accept_socket, theirs)
        return ours

    monkeypatch.setattr(dialing, "dial_relay", dial_relay)
    wired.hear(scene.access(wired.identity, host=HOST, hints=[]))

    def answer(message):
        if type(message) is Relay:
            wired.hear(Relay(message.host, b"t" * 32))

    wired.answer = answer
    ref = wired.put()
    assert scene.bytes_of(ref.id) == BIG
    assert dialled[0] == (["tcp:127.0.0.1:1"], b"t" * 32)
    assert wired.of(Relay)[0] == Relay(HOST)


def test_a_relay_that_is_refused_says_why(wired, scene):
    wired.hear(scene.access(wired.identity, host=HOST, hints=[]))
    wired.answer = lambda message: (
        wired.hear(Relay(message.host, b"", "relaying is turned off"))
        if type(message) is Relay
        else None
    )
    with pytest.raises(ConnectError, match="relaying is turned off"):
        wired.put()
    assert not wired.of(ObjectMade)


def test_relays_end_with_the_session(wired):
    ended = []

    def ask():
        try:
            wired.objects.relay(HOST)
        except ConnectError as error:
            ended.append(str(error))

    asked = threading.Event()
    wired.answer = lambda message: asked.set()
    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    wired.session.lost(lambda: ConnectError("the controller is gone"))
    thread.join(10)
    assert ended == ["the controller is gone"]


def test_clients_have_all_of_it():
    assert {"put", "fetch", "free", "transfers", "progress"} <= set(dir(Client))
