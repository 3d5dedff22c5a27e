"""Searches and leases of a host in any order of events, with a real store."""

from __future__ import annotations

import gc

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipkernel.errors import TransferError
from ipkernel.wire.messages import Copied, Free, HostAccess, HostGone, Seek, Source
from tests.support.objectscene import Require, Scene, oid

IDS = [oid(n) for n in range(1, 4)]
SIZE = 5000
HOLDERS = ["engine:1:1", "engine:2:1"]
some_id = st.sampled_from(IDS)


class Host(RuleBasedStateMachine):
    """Whatever comes in which order: who has leases is who was given them, and nobody waits in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.seen = 0
        #: Questions that the controller has not answered.
        self.asked: list[bytes] = []
        self.open: list[tuple[str, Require]] = []
        self.held: dict[str, list[bytes]] = {holder: [] for holder in HOLDERS}

    # what has come of it

    def look(self) -> None:
        for message in self.scene.sent[self.seen :]:
            if isinstance(message, Seek):
                self.asked.append(message.object)
            else:
                assert isinstance(message, Copied)
                for object_id in message.objects:
                    info = self.scene.store.info(object_id)
                    assert info is not None and info.sealed
        self.seen = len(self.scene.sent)
        for holder, one in list(self.open):
            if one.open:
                continue
            self.open.remove((holder, one))
            self.held[holder] += [placed.object for placed in one.placed or ()]

    @property
    def fetching(self) -> list[int]:
        return [n for n, fetch in enumerate(self.scene.fetches) if not fetch.done.called]

    # what happens

    @rule(ids=st.lists(some_id, min_size=1, max_size=3), holder=st.sampled_from(HOLDERS))
    def require(self, ids: list[bytes], holder: str) -> None:
        self.open.append((holder, self.scene.require(*ids, holder=holder)))
        self.look()

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), host=st.sampled_from([0, 2, 3, 9]), problem=st.booleans())
    def answer(self, data: st.DataObject, host: int, problem: bool) -> None:
        object_id = data.draw(st.sampled_from(self.asked))
        self.asked.remove(object_id)
        if problem:
            self.scene.say(Source(object_id, problem="lost"))
        else:
            self.scene.say(Source(object_id, SIZE, host))
        self.look()

    @precondition(lambda self: self.fetching)
    @rule(data=st.data(), well=st.booleans())
    def fetched(self, data: st.DataObject, well: bool) -> None:
        fetch = self.scene.fetches[data.draw(st.sampled_from(self.fetching))]
        if well:
            fetch.succeed()
        else:
            fetch.fail(TransferError("cut"))
        self.look()

    @rule(object_id=some_id)
    def brought(self, object_id: bytes) -> None:
        if self.scene.store.info(object_id) is None and not self.fetching:
            self.scene.has(object_id)
        self.look()

    @rule(object_id=some_id)
    def freed(self, object_id: bytes) -> None:
        self.scene.say(Free([object_id]))
        self.look()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.open))[1].deferred.cancel()
        self.look()

    @rule(holder=st.sampled_from(HOLDERS), data=st.data())
    def released(self, holder: str, data: st.DataObject) -> None:
        if self.held[holder]:
            object_id = data.draw(st.sampled_from(self.held[holder]))
            self.held[holder].remove(object_id)
            self.scene.store.release(object_id, holder)
        self.look()

    @rule(holder=st.sampled_from(HOLDERS))
    def died(self, holder: str) -> None:
        for owner, one in list(self.open):
            if owner == holder:
                one.deferred.cancel()
        self.look()
        self.scene.objects.drop(holder, [])
        self.held[holder] = []
        self.look()

    @rule(host=st.sampled_from([2, 3]))
    def lost_host(self, host: int) -> None:
        self.scene.say(HostGone(host))
        self.look()

    @rule()
    def lost_controller(self) -> None:
        self.scene.objects.disconnected()
        self.look()
        assert not self.open
        self.asked.clear()
        self.scene.objects.joined(1)
        for host in (2, 3):
            self.scene.say(HostAccess(host, f"n{host}", "tub", "pin"))
        self.look()

    # what always holds

    @invariant()
    def leases_are_those_that_were_given(self) -> None:
        holders = self.scene.store.stats().holders
        for holder in HOLDERS:
            waiting = any(owner == holder for owner, _ in self.open)
            if not waiting:
                assert bool(holders.get(holder)) == bool(self.held[holder])

    @invariant()
    def whoever_waits_is_looked_after(self) -> None:
        if self.open:
            assert len(self.scene.objects.searches)

    def teardown(self) -> None:
        self.lost_controller()
        for number in self.fetching:
            self.scene.fetches[number].fail()
        for holder in HOLDERS:
            self.died(holder)
        self.scene.store.free_all()
        assert self.scene.quiet()
        assert self.scene.store.stats().used == 0
        self.scene.close()
        gc.collect()


Host.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestHost = Host.TestCase
