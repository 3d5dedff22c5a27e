"""The TLS of channels, over two connections that hand each other bytes in memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL.SSL import Error
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from ipkernel.wire import atonce, channeltls
from ipkernel.wire.channeltls import SMALL, ChannelTLS
from ipkernel.wire.identity import Identity
from ipkernel.wire.security import TubTLS

IDENTITIES = Identity.create(), Identity.create()


class Wire(FileDescriptor):
    """A connection whose socket takes as many bytes as there is room for."""

    def __init__(self):
        super().__init__(Clock())
        self.connected = 1
        self.sent = b""
        self.room = 1 << 30
        self.broken = False
        self.asked = 0  # how often the reactor was asked to tell when there is room
        self.lost = False

    def writeSomeData(self, data):
        if self.broken:
            return CONNECTION_LOST
        count = min(len(data), self.room)
        self.room -= count
        self.sent += bytes(data[:count])
        return count

    def startWriting(self):
        self.asked += 1

    def stopWriting(self):
        pass

    def loseConnection(self):
        self.lost = True

    def getPeer(self):
        return None

    getHost = getPeer


class Reader(Protocol):
    def __init__(self):
        self.got = b""
        self.reason = None

    def dataReceived(self, data):
        self.got += data

    def connectionLost(self, reason):
        self.reason = reason


class Counting:
    """An OpenSSL connection that counts what it is asked."""

    def __init__(self, connection):
        self.connection = connection
        self.asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self.connection, name)


def make(identity, is_client, raw):
    tls = ChannelTLS(TLSMemoryBIOFactory(TubTLS(identity), is_client, Factory(), Clock()), Reader())
    tls.reader = tls.wrappedProtocol  # Twisted forgets it at the end
    tls.makeConnection(raw)
    return tls


def pump(*ends):
    """Hand over what both ends have sent until there is nothing more."""
    (a, b), moved = ends, True
    while moved:
        moved = False
        for one, other in ((a, b), (b, a)):
            if one.transport._tempDataBuffer:
                one.transport.doWrite()
            sent, one.transport.sent = one.transport.sent, b""
            if sent:
                other.dataReceived(sent)
                moved = True


@pytest.fixture
def ends():
    return connected()


def connected():
    a, b = make(IDENTITIES[0], True, Wire()), make(IDENTITIES[1], False, Wire())
    pump(a, b)
    a.transport.asked = b.transport.asked = 0
    return a, b


def test_a_small_message_is_sent_without_the_reactor(ends):
    a, b = ends
    a.write(b"to b")
    b.write(b"to a")
    assert (a.transport.asked, b.transport.asked) == (0, 0)
    pump(a, b)
    assert (a.reader.got, b.reader.got) == (b"to a", b"to b")


def test_a_bulk_is_left_to_the_reactor(ends):
    a, b = ends
    data = bytes(range(256)) * (SMALL // 64)
    a.write(data)
    assert a.transport.asked > 0
    assert a.transport.sent == b""
    while a.transport._tempDataBuffer or a.transport.dataBuffer:
        a.transport.doWrite()
    pump(a, b)
    assert b.reader.got == data


def test_what_does_not_fit_follows_and_nothing_overtakes_it(ends):
    a, b = ends
    a.transport.room = 10
    a.write(b"first")
    assert (len(a.transport.sent), a.transport.asked) == (10, 1)
    a.transport.room = 1 << 30
    a.write(b"second")
    assert len(a.transport.sent) == 10  # it waits behind the rest of the first
    a.transport.doWrite()
    a.write(b"third")
    pump(a, b)
    assert b.reader.got == b"firstsecondthird"


def test_a_socket_that_is_gone_is_found_out_by_the_reactor(ends):
    a, _ = ends
    a.transport.broken = True
    a.write(b"nobody gets this")
    assert a.transport.asked == 1
    assert a.transport.doWrite() is CONNECTION_LOST


@pytest.mark.parametrize("attribute", ["connected", "disconnecting"])
def test_nothing_is_sent_on_a_connection_that_ends(ends, attribute):
    a, _ = ends
    setattr(a.transport, attribute, attribute == "disconnecting")
    a.write(b"too late")
    assert a.transport.sent == b""


def test_transports_of_other_kinds_are_only_written_to():
    tls = make(IDENTITIES[0], True, StringTransport())
    assert tls.transport.value().startswith(b"\x16")  # the hello


@pytest.mark.parametrize(("module", "names"), [(channeltls, "_OF_TLS"), (atonce, "_OF_CONNECTION")])
def test_a_twisted_with_other_names_is_left_alone(module, names, monkeypatch):
    monkeypatch.setattr(module, names, (*getattr(module, names), "_renamed"))
    a, b = connected()
    if names == "_OF_TLS":
        monkeypatch.setattr(b, "_take_record", lambda data: pytest.fail("not Twisted's way"))
    a.write(b"to b")
    assert bool(a.transport.asked) == (names == "_OF_CONNECTION")
    pump(a, b)
    assert b.reader.got == b"to b"


def test_openssl_is_asked_once_for_a_single_record(ends):
    a, b = ends
    a.write(b"one")
    counting = b._tlsConnection = Counting(b._tlsConnection)
    pump(a, b)
    assert counting.asked == ["bio_write", "recv"]
    assert b.reader.got == b"one"


def test_several_records_at_once_are_all_read(ends):
    a, b = ends
    for i in range(5):
        a.write(b"%d" % i)
    pump(a, b)
    assert b.reader.got == b"01234"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 400)))
def test_any_cutting_of_the_stream_gives_the_same(messages, cuts):
    a, b = connected()
    for message in messages:
        a.write(message)
    stream = a.transport.sent
    for cut in cuts:
        part, stream = stream[:cut], stream[cut:]
        if part:
            b.dataReceived(part)
    if stream:
        b.dataReceived(stream)
    a.transport.sent = b""
    a.write(b"end")  # in step again, whatever came before
    counting = b._tlsConnection = Counting(b._tlsConnection)
    b.dataReceived(a.transport.sent)
    assert b.reader.got == b"".join([*messages, b"end"])
    assert counting.asked == ["bio_write", "recv"]


def test_the_end_of_tls_is_no_data(ends):
    a, b = ends
    a.write(b"bye")
    a.loseConnection()
    pump(a, b)
    assert b.reader.got == b"bye"
    assert b.transport.lost
    b.connectionLost(Failure(ConnectionDone()))
    assert b.reader.reason.check(ConnectionDone)


def test_a_forged_record_ends_the_connection_and_says_why(ends):
    a, b = ends
    a.write(b"true")
    forged = bytearray(a.transport.sent)
    forged[-1] ^= 1
    b.dataReceived(bytes(forged))
    assert b.transport.lost
    b.dataReceived(bytes(forged))  # and more of it changes nothing
    b.connectionLost(Failure(ConnectionLost()))
    assert b.reader.got == b""
    assert b.reader.reason.check(Error)
    assert "bad record mac" in str(b.reader.reason.value)


def test_nothing_is_delivered_after_an_abort(ends):
    a, b = ends
    a.write(b"late")
    b.transport.abortConnection = lambda: None
    b.abortConnection()
    b.dataReceived(a.transport.sent)
    assert b.reader.got == b""
