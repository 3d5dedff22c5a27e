"""Who is told how to reach which store, what clients bring, and relays, as the scheduler sees it."""

from __future__ import annotations

from ipkernel.controller.events import (
    FromClient,
    FromHost,
    HostJoined,
    HostLost,
    SessionDetached,
    SessionOpened,
)
from ipkernel.controller.instructions import DropClient, JoinPeers
from ipkernel.objects.tickets import is_ticket
from ipkernel.wire.messages import (
    Assign,
    Copied,
    EngineJoined,
    Fetch,
    Finished,
    Free,
    HostAccess,
    HostGone,
    NotProvided,
    Provide,
    Reason,
    Relay,
    Seek,
    SessionGone,
    Source,
    decode_reason,
)
from ipkernel.wire.records import StoreAccess
from tests.support.scheduling import OBJECT_SIZE, Cluster

X, Y, Z = (bytes([c]) * 16 for c in b"\xaa\xbb\xcc")


def cluster(hosts: int = 2, engines: int = 1, clients: int = 1) -> Cluster:
    c = Cluster(clients=clients)
    for _ in range(hosts):
        c.add_host(engines, store=True)
    return c


def reason_of(c: Cluster, tid: int, session: int | None = None) -> Reason:
    [payload] = [p for m, p in c.results(session) if m.task == tid]
    return decode_reason(payload)


def kinds(c: Cluster, host: int) -> list[str]:
    return [type(m).__name__ for m, _ in c.to_host(host)]


# ---------------------------------------------------------------------- what is sent


def test_a_client_is_told_how_to_reach_the_stores() -> None:
    c = Cluster(clients=0)
    c.add_host(1, store=True)
    c.add_host(1)  # which has none
    c.handle(SessionOpened(7, c.now, "me", "my-tub"))
    c.add_host(1, store=True)
    first, second = [m for m, _ in c.to_client(7) if isinstance(m, HostAccess)]
    assert (first.host, first.name, first.tub_id, first.pin) == (1, "host-1", "tub-1", "pin-1")
    assert is_ticket(bytes([1]) * 32, "my-tub", first.ticket)
    assert second.host == 3
    assert is_ticket(bytes([3]) * 32, "my-tub", second.ticket)


def test_a_host_is_told_of_another_one_when_it_needs_it() -> None:
    c = cluster(3)
    c.made(X, host=1)
    c.made(Y, host=1)
    c.seek(2, X)
    assert kinds(c, 2) == ["HostAccess", "Source"]
    access, _ = c.to_host(2)[0]
    assert isinstance(access, HostAccess)
    assert access.host == 1
    assert is_ticket(bytes([1]) * 32, "tub-2", access.ticket)
    c.seek(2, Y)
    assert kinds(c, 2) == ["HostAccess", "Source", "Source"]
    assert not c.to_host(3)


def test_everybody_who_was_told_of_a_host_is_told_that_it_is_gone() -> None:
    c = cluster(3)
    c.made(X, host=1)
    c.seek(2, X)
    c.lose_host(1)
    assert kinds(c, 2) == ["HostAccess", "Source", "HostGone"]
    assert not c.to_host(3)
    assert [m for m, _ in c.told if isinstance(m, HostGone)] == [HostGone(1, "connection lost")]


def test_the_end_of_a_host_without_a_store_concerns_nobody() -> None:
    c = Cluster(engines=1)
    c.lose_host(1)
    assert not [m for m, _ in c.told if isinstance(m, HostGone)]


def test_hosts_are_told_when_a_client_is_gone() -> None:
    c = cluster(2, clients=2)
    c.add_host(1)
    c.detach(2)
    for host in (1, 2):
        assert [m for m, _ in c.to_host(host)] == [SessionGone(2)]
    assert not c.to_host(3)


def test_a_secret_key_is_nowhere_to_be_seen() -> None:
    key = b"k" * 32
    access = StoreAccess(pin="p", key=key)
    c = Cluster(clients=1)
    event = HostJoined(1, "h", 1, [], c.now, "tub", access)
    c.handle(event)
    host = c.scheduler.hosts[1]
    for text in (repr(event), repr(host), str(access), repr(c.last), repr(c.to_client(1))):
        assert "kkkk" not in text
        assert key.hex() not in text


def test_engines_are_told_with_their_host() -> None:
    c = cluster(2)
    assert [(m.engine, m.host_id) for m, _ in c.told if isinstance(m, EngineJoined)] == [
        (0, 1),
        (1, 2),
    ]


# ----------------------------------------------------------------- clients that bring


def test_a_client_is_asked_for_what_it_has() -> None:
    c = cluster(2)
    c.made(X)
    [tid] = c.submit(needs=[X], payload=b"", targets=[0])
    c.seek(1, X)
    assert [m for m, _ in c.to_client(1) if isinstance(m, Provide)] == [Provide(X, 1)]
    assert c.sources(1) == [Source(X, OBJECT_SIZE)]
    c.copied(1, X)
    c.release(X)
    c.done(tid)
    assert c.freed(1) == [X]
    assert [m for m, _ in c.to_client(1) if isinstance(m, Free)] == [Free([X])]


def test_a_client_that_cannot_bring_it() -> None:
    c = cluster(1)
    c.made(X)
    c.submit(needs=[X], payload=b"")
    c.seek(1, X)
    c.from_client((NotProvided(X, 1, "no route to host"), b""))
    assert "no route to host" in c.sources(1)[-1].problem


def test_tasks_of_a_client_that_goes_before_it_has_brought_what_they_need() -> None:
    c = cluster(1, clients=2)
    c.submit(1, session=1)
    c.made(X, session=2)
    tids = c.submit(2, needs=[X], payload=b"", session=2)
    c.detach(2)
    c.from_client((Fetch(tids), b""), session=1)
    for tid in tids:
        assert "its client is gone" in reason_of(c, tid, 1).text
    assert not c.scheduler.objects.entries


def test_nothing_is_sent_to_a_client_that_has_gone_in_the_same_turn() -> None:
    c = cluster(1, clients=2)
    c.made(X, session=2)
    c.made(X, host=1, session=1)
    seek = FromClient(2, [(Seek(Y), b""), (Seek(X), b"")], c.now)
    c.handle(seek, SessionDetached(2, [], c.now))
    assert not [m for m, _ in c.to_client(2) if isinstance(m, Source)]


def test_nothing_is_sent_to_a_host_that_has_gone_in_the_same_turn() -> None:
    c = cluster(2)
    c.handle(FromHost(1, [(Seek(Y), b"")], c.now), HostLost(1, "gone", c.now))
    assert not c.sources(1)


def test_a_client_that_sends_what_only_hosts_send_is_dropped() -> None:
    c = cluster(1)
    c.from_client((Copied([X]), b""))
    assert [i for i in c.last if isinstance(i, DropClient)]


# ----------------------------------------------------------------------------- relays


def test_a_relay_is_made_for_a_client_and_for_a_host() -> None:
    c = cluster(2)
    c.from_client((Relay(2), b""))
    assert [(i.host, i.session, i.asker) for i in c.last if isinstance(i, JoinPeers)] == [(2, 1, 0)]
    c.from_host((Relay(2), b""), host=1)
    assert [(i.host, i.session, i.asker) for i in c.last if isinstance(i, JoinPeers)] == [(2, 0, 1)]


def test_there_is_no_relay_to_a_host_that_is_gone() -> None:
    c = cluster(2)
    c.add_host(1)
    c.from_client((Relay(9), b""), (Relay(3), b""))
    answers = [m for m, _ in c.to_client(1) if isinstance(m, Relay)]
    assert [(a.host, a.token, a.problem) for a in answers] == [
        (9, b"", "host 9 is gone"),
        (3, b"", "host host-3 has no store"),
    ]
    c.from_host((Relay(9), b""), host=1)
    [answer] = [m for m, _ in c.to_host(1) if isinstance(m, Relay)]
    assert answer.problem == "host 9 is gone"


def test_assignments_and_results_are_what_they_were() -> None:
    """Fields for objects are empty where there are none."""
    c = Cluster(engines=1)
    [tid] = c.submit()
    [assign] = c.assigned
    assert assign == Assign(tid, 0, assign.kind, 7)
    c.done(tid)
    finished = c.finished(tid)
    assert isinstance(finished, Finished)
    assert (finished.object, finished.length, finished.host) == (b"", 0, 0)
