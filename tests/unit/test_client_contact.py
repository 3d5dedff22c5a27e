"""What is said while the controller cannot be reached."""

import concurrent.futures
import io

import pytest

from ipkernel import errors
from ipkernel.client import progress
from ipkernel.client.contact import Contact
from tests.support.fakecontroller import FakeController


class Hand:
    """A clock that stands still."""

    now = 100.0

    def __call__(self):
        return self.now


def test_it_says_since_when_and_why():
    clock = Hand()
    contact = Contact(clock)
    assert not contact.lost
    assert str(contact) == ""
    contact.lose("the cable was cut")
    clock.now += 3.2
    contact.lose("again")  # it is the first loss that counts
    assert contact.lost
    assert str(contact) == "the controller is lost since 3 s (the cable was cut); trying again"
    contact.find()
    assert str(contact) == ""
    contact.lose("again")
    assert str(contact) == "the controller is lost since 0 s (again); trying again"


@pytest.fixture
def fake():
    return FakeController(held=True)


def test_timeouts_mention_it(fake):
    rc = fake.client()
    result = rc[0].apply_async(int)
    with pytest.raises(TimeoutError) as info:
        result.get(0)
    assert "lost" not in str(info.value)
    fake.session.contact.lose("the cable was cut")
    with pytest.raises(TimeoutError, match=r"pending; the controller is lost since \d+ s \(the ca"):
        result.get(0)
    with pytest.raises(TimeoutError, match=r"Currently ready: 2; the controller is lost since"):
        rc.wait_for_engines(3, timeout=0)
    fake.session.contact.find()
    fake.release()
    assert result.get(1) == 0
    rc.close()


def test_clients_tell_whether_they_are_connected(fake):
    rc = fake.client()
    assert rc.connected
    assert repr(rc) == "<Client of cluster 'fake': 2 engines>"
    assert repr(FakeController(engines=1).client()) == "<Client of cluster 'fake': 1 engine>"
    fake.session.contact.lose("the cable was cut")
    assert not rc.connected
    assert repr(rc) == "<Client of cluster 'fake': 2 engines, not connected>"
    fake.session.lost(lambda: errors.ControllerLost("for good"))
    assert not rc.connected
    assert not fake.session.contact.lost, "nobody tries any more"
    rc.close()


def test_progress_bars_show_it(fake, monkeypatch):
    shown = []

    class Bar:
        total = 0.0

        def update(self, count):
            pass

        def set_postfix_str(self, text):
            shown.append(text)

        def close(self):
            shown.append("closed")

    monkeypatch.setattr(progress, "make_bar", lambda *args, **kwargs: Bar())
    rc = fake.client()
    result = rc[:].apply_async(int)
    fake.session.contact.lose("the cable was cut")
    result.wait_interactive(interval=0.01, timeout=0.05)
    assert shown[0] == "the controller is lost since 0 s (the cable was cut); trying again"
    fake.session.contact.find()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(result.wait_interactive, 0.01, 30)
        fake.release()
        waiting.result(30)
    assert shown[-1] == "closed"
    rc.close()


def test_tqdm_can_show_it():
    file = io.StringIO()
    from tqdm import tqdm

    bar = tqdm(total=2, file=file)
    bar.set_postfix_str("the controller is lost since 3 s")
    bar.close()
    assert "the controller is lost since 3 s" in file.getvalue()


@pytest.mark.parametrize("reconnect", [-1, float("nan"), float("inf"), "60", None, True])
def test_reconnect_is_a_number_of_seconds(reconnect, tmp_path):
    from ipkernel import Client

    with pytest.raises(errors.ConfigurationError, match="reconnect= is a number of seconds"):
        Client(str(tmp_path), reconnect=reconnect)
