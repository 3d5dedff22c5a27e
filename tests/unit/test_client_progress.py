"""Bars for what takes long, and who gets to see them."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from twisted.internet.task import Clock

from ipkernel.client import progress
from ipkernel.client.progress import SelfShown, TransferBar, wait_showing
from ipkernel.objects.transfer import Transfer, TransferCancelled
from ipkernel.wire.messages import HostGone, Moving
from tests.support.fakecontroller import HOST, FakeController


class Bar:
    """Stands in for tqdm: remembers what it was told."""

    made: list[Bar] = []

    def __init__(self, total, unit, description, widget=None, initial=0):
        self.total, self.unit, self.description = total, unit, description
        self.shown = initial
        self.closed = False
        self.postfix = ""
        self.made.append(self)

    def update(self, count):
        self.shown += count

    def set_postfix_str(self, text):
        self.postfix = text

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def bars(monkeypatch):
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(progress, "make_bar", Bar)
    return Bar.made


def test_the_sum_of_several_transfers_is_shown(bars):
    bar = TransferBar()
    bar.show([])
    assert not bars, "nothing to show yet"
    first = Transfer("result from host a", 100)
    first.done = 10
    bar.show([first])
    second = Transfer("more", 50)
    first.done, second.done = 100, 20
    bar.show([second])
    (shown,) = bars
    assert (shown.total, shown.shown, shown.unit) == (150, 120, "B")
    assert shown.description == "result from host a"
    second.done = 60  # more than was announced
    bar.show([])
    assert shown.shown == 150
    bar.close()
    assert shown.closed


def test_a_transfer_shows_itself_after_a_second(bars):
    clock = Clock()
    with SelfShown("put", 1000, shown=True, clock=clock.seconds) as transfer:
        transfer.advance(100)
        assert not bars
        clock.advance(progress.SHOW_AFTER)
        transfer.advance(100)
        assert [(b.total, b.shown) for b in bars] == [(1000, 200)]
        transfer.advance(800)
    assert bars[0].shown == 1000 and bars[0].closed


def test_a_hidden_transfer_only_counts(bars):
    clock = Clock()
    with SelfShown("put", 10, shown=False, clock=clock.seconds) as transfer:
        clock.advance(5)
        transfer.advance(4)
        transfer.cancel()
        with pytest.raises(TransferCancelled):
            transfer.advance(4)
    assert not bars and transfer.done == 8


class Waits:
    """Stands in for wait_until: the answers one after the other, and what they were asked."""

    def __init__(self, monkeypatch, *answers):
        self.answers = list(answers)
        self.limits = []
        monkeypatch.setattr(progress, "wait_until", self)

    def __call__(self, condition, ready, timeout=None):
        self.limits.append(timeout)
        return self.answers.pop(0)


def test_waiting_shows_a_bar_only_if_it_takes_long(bars, monkeypatch):
    transfer = Transfer("x", 10)
    quick = Waits(monkeypatch, True)
    assert wait_showing(threading.Condition(), bool, None, lambda: [transfer], True)
    assert quick.limits == [progress.SHOW_AFTER] and not bars
    slow = Waits(monkeypatch, False, False, True)
    assert wait_showing(threading.Condition(), bool, None, lambda: [transfer], True)
    assert slow.limits == [progress.SHOW_AFTER, progress.LOOK, progress.LOOK]
    assert len(bars) == 1 and bars[0].closed


def test_waiting_keeps_its_time_limit(bars, monkeypatch):
    waits = Waits(monkeypatch, False)
    assert not wait_showing(threading.Condition(), bool, 0.5, list, True)
    assert waits.limits[0] <= 0.5 and len(waits.limits) == 1
    hidden = Waits(monkeypatch, False)
    assert not wait_showing(threading.Condition(), bool, 7.0, list, False)
    assert hidden.limits == [7.0] and not bars


def test_the_bar_is_closed_when_the_wait_is_interrupted(bars, monkeypatch):
    answers = iter([False])

    def interrupted(*args):
        for answer in answers:
            return answer
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "wait_until", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_showing(threading.Condition(), bool, None, lambda: [Transfer("x", 1)], True)
    assert bars[0].closed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_who_looks(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.delenv("IPP_NONINTERACTIVE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not progress.interactive()
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.interactive()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress.interactive()
    monkeypatch.setenv("IPP_NONINTERACTIVE", "1")
    assert not progress.interactive()
    monkeypatch.delenv("IPP_NONINTERACTIVE")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.interactive()


def test_clients_can_turn_it_on_and_off(monkeypatch):
    monkeypatch.setattr("ipkernel.client.moving.interactive", lambda: True)
    fake = FakeController(1)
    client = fake.client()
    mover = client._session.objects.mover
    assert client.progress is None and mover.visible
    client.progress = False
    assert not mover.visible
    monkeypatch.setattr("ipkernel.client.moving.interactive", lambda: False)
    client.progress = True
    assert mover.visible
    client.close()


def test_waiting_for_a_far_result_shows_its_transfer(bars, monkeypatch):
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.001)
    monkeypatch.setattr(progress, "LOOK", 0.001)
    fake = FakeController(1, near=False)
    client = fake.client()
    client.progress = True
    store = fake.host_store
    store.gate.clear()
    result = client[0].apply_async(bytes, 1 << 20)
    assert store.entered.wait(10)
    show = TransferBar.show

    def shown(self, transfers):
        show(self, transfers)
        store.gate.set()

    monkeypatch.setattr(TransferBar, "show", shown)
    assert len(result.get()) == 1 << 20
    assert bars[0].description == "result from host h" and bars[0].total > 1 << 20
    assert bars[0].closed
    client.close()


def test_waiting_for_a_task_shows_what_its_host_fetches(bars, monkeypatch):
    fake = FakeController(1)
    client = fake.client()
    client.progress = True
    client.put(b"x" * (1 << 20))
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.001)  # not before: the put may take that long
    monkeypatch.setattr(progress, "LOOK", 0.001)
    fake.held = True
    result = client[0].apply_async(len, "abc")
    fake.session.received([(Moving(bytes(16), 20, 100, HOST), b"")])
    fake.session.received([(Moving(bytes(16), 20, 1000, HOST + 1), b"")])
    show = TransferBar.show

    def shown(self, transfers):
        show(self, transfers)
        fake.release()

    monkeypatch.setattr(TransferBar, "show", shown)
    assert result.get() == 3
    assert [(bar.description, bar.total, bar.shown) for bar in bars] == [
        ("object to host h", 100, 20)
    ]
    client.close()


def test_what_hosts_fetch_is_listed_until_its_end():
    fake = FakeController(2)
    client = fake.client()
    result = client[:].apply_async(len, "abc")

    def hear(host, done):
        fake.session.received([(Moving(bytes(16), done, 100, host), b"")])
        return [(one.what, one.done) for one in client.transfers()]

    first, second = "object to host h", "object to host number 77"
    assert hear(HOST, 20) == [(first, 20)]
    assert hear(77, 1) == [(first, 20), (second, 1)]
    assert hear(HOST, 30) == [(first, 30), (second, 1)]
    assert hear(HOST, 100) == [(second, 1)]
    assert hear(HOST, 100) == [(second, 1)], "of this one nothing was heard"
    fake.session.received([(HostGone(77, "it was stopped"), b"")])
    assert not client.transfers() and result.transfer is None
    hear(HOST, 20)
    client.close()
    assert not client.transfers()


def test_bars_of_tqdm(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    bar = progress.make_bar(5_000_000, "B", "put", initial=1_000_000)
    bar.total = 10_000_000
    bar.update(1_500_000)
    bar.close()
    text = sys.stderr.getvalue()
    assert "put" in text and "2.50M/10.0M" in text
