"""The bookkeeping of a store, without any input or output: writing, leases, freeing, waiting."""

from __future__ import annotations

import pytest

from ipkernel.errors import StoreFull, TransferError, UnknownObject
from ipkernel.objects.entries import ObjectExists
from ipkernel.objects.interfaces import TRANSIENT, ObjectInfo, Placement
from tests.support.objects import PAGE, Books

A, B, C, D = (bytes([letter]) * 16 for letter in b"ABCD")


class TestWriting:
    def test_an_object_gets_a_place(self):
        books = Books()
        wait = books.create(A, 20)
        assert books.answers[wait] == Placement(1, 0, 20)
        assert books.catalog.info(A) == ObjectInfo(20, False, b"", True, 0)
        books.do(books.catalog.seal(A, b"digest"))
        assert books.catalog.info(A) == ObjectInfo(20, True, b"digest", True, 0)

    @pytest.mark.parametrize("sealed", [False, True])
    def test_an_id_is_used_once(self, sealed):
        books = Books()
        books.create(A)
        if sealed:
            books.do(books.catalog.seal(A))
        assert A.hex() in books.error(books.create(A), ObjectExists)

    def test_only_what_is_being_written_can_be_sealed(self):
        books = Books()
        with pytest.raises(UnknownObject, match=A.hex()):
            books.catalog.seal(A)

    def test_sealing_twice_does_nothing(self):
        books = Books()
        books.put(A)
        assert books.catalog.seal(A) == []

    def test_what_waits_for_room_cannot_be_sealed(self):
        books = Books(disk=1024)
        books.put(A, 200)
        books.create(B, 200)
        with pytest.raises(UnknownObject):
            books.catalog.seal(B)

    def test_an_abandoned_object_is_gone(self):
        books = Books()
        books.create(A)
        books.do(books.catalog.abandon(A))
        assert books.catalog.info(A) is None
        assert books.used() == 0

    def test_a_sealed_object_cannot_be_abandoned(self):
        books = Books()
        books.put(A)
        assert books.catalog.abandon(A) == []
        assert books.catalog.info(A).sealed

    def test_a_digest_can_be_noted_later(self):
        books = Books()
        books.put(A)
        books.catalog.set_digest(A, b"d")
        books.catalog.set_digest(B, b"d")
        assert books.catalog.info(A).digest == b"d"
        assert books.catalog.info(B) is None

    def test_a_cancelled_request_for_room_is_forgotten(self):
        books = Books(disk=1024)
        books.put(A, 200)
        wait = books.create(B, 200)
        reader = books.lease(B)
        books.do(books.catalog.cancel(wait))
        assert wait not in books.answers
        books.error(reader, TransferError)
        assert books.catalog.info(B) is None
        books.finish()
        assert books.used() == 0


class TestLeases:
    def test_a_sealed_object_is_leased_at_once(self):
        books = Books()
        place = books.put(A)
        assert books.answers[books.lease(A)] == place
        assert books.catalog.is_leased(A, "h")

    def test_a_lease_waits_for_the_writer(self):
        books = Books()
        place = books.answers[books.create(A)]
        first, second = books.lease(A, "x"), books.lease(A, "y")
        assert not {first, second} & set(books.answers)
        books.do(books.catalog.seal(A))
        assert books.answers[first] == books.answers[second] == place
        assert books.catalog.info(A).leases == 2

    def test_an_unknown_object_cannot_be_leased(self):
        books = Books()
        assert A.hex() in books.error(books.lease(A), UnknownObject)

    def test_unless_somebody_brings_it(self):
        books = Books()
        wait = books.lease(A, bringer=7)
        place = books.put(A)
        assert books.answers[wait] == place

    def test_a_bringer_that_is_gone_brings_nothing(self):
        books = Books()
        wait, other = books.lease(A, bringer=7), books.lease(A, bringer=8)
        books.do(books.catalog.session_gone(7))
        assert "session 7 is gone" in books.error(wait, UnknownObject)
        assert other not in books.answers

    def test_nor_for_those_who_come_later(self):
        books = Books()
        books.do(books.catalog.session_gone(7))
        assert "session 7 is gone" in books.error(books.lease(A, bringer=7), UnknownObject)
        place = books.put(B)
        assert books.answers[books.lease(B, bringer=7)] == place

    def test_what_is_transient_goes_with_its_session(self):
        books = Books()
        books.put(A, owner=7 + TRANSIENT)
        books.put(B, owner=7)
        books.put(C, owner=8 + TRANSIENT)
        gone = books.ask(books.catalog.wait_freed, A)
        books.do(books.catalog.session_gone(7))
        assert books.answers[gone] is True
        assert set(books.catalog.ids()) == {B, C}
        assert set(books.catalog.stats().owners) == {7, 8}
        assert "session 7 is gone" in books.error(
            books.create(A, owner=7 + TRANSIENT), UnknownObject
        )
        books.put(A, owner=7)

    def test_what_is_transient_and_being_written_goes_too(self):
        books = Books()
        books.create(A, owner=7 + TRANSIENT)
        books.do(books.catalog.session_gone(7))
        assert books.catalog.ids() == []
        books.do(books.catalog.seal(A))
        assert books.catalog.stats().used == 0

    def test_those_who_wait_for_an_abandoned_object_are_told(self):
        books = Books()
        early = books.lease(A, bringer=7)
        books.create(A)
        waits = [early, books.lease(A), books.ask(books.catalog.when_sealed, A)]
        gone = books.ask(books.catalog.wait_freed, A)
        books.do(books.catalog.abandon(A))
        for wait in waits:
            assert "gave up" in books.error(wait, TransferError)
        assert books.answers[gone] is True

    def test_leases_are_counted(self):
        books = Books()
        books.put(A)
        books.lease(A)
        books.lease(A)
        books.free(A)
        books.release(A)
        assert books.used() == PAGE
        books.release(A)
        assert books.used() == 0

    def test_releasing_what_is_not_held_does_nothing(self):
        books = Books()
        books.put(A)
        books.lease(A, "x")
        books.release(A, "y")
        books.release(B, "x")
        assert books.catalog.is_leased(A, "x")

    def test_a_holder_that_is_gone_holds_nothing(self):
        books = Books()
        books.put(A)
        books.put(B)
        books.lease(A)
        books.lease(A)
        books.lease(B)
        books.lease(B, "other")
        books.free(A, B)
        books.do(books.catalog.drop("h"))
        assert books.used() == PAGE
        books.release(B, "other")
        assert books.used() == 0

    def test_a_holder_that_is_gone_waits_for_nothing(self):
        books = Books()
        wait = books.lease(A, bringer=1)
        books.do(books.catalog.drop("h"))
        assert "h is gone" in books.error(wait, TransferError)
        books.put(A)
        assert books.catalog.info(A).leases == 0

    def test_a_holder_that_is_gone_writes_nothing(self):
        books = Books()
        books.create(A, writer="h")
        books.create(B, writer="other")
        wait = books.lease(A, "reader")
        books.do(books.catalog.drop("h"))
        assert "writer h is gone" in books.error(wait, TransferError)
        assert books.catalog.info(A) is None
        assert books.catalog.info(B) is not None

    def test_a_cancelled_wait_gets_no_lease(self):
        books = Books()
        books.create(A)
        wait = books.lease(A)
        books.do(books.catalog.cancel(wait))
        books.do(books.catalog.seal(A))
        assert wait not in books.answers
        assert books.catalog.info(A).leases == 0


class TestFreeing:
    def test_a_freed_object_is_unknown_and_its_room_is_free(self):
        books = Books()
        books.put(A, 256)
        books.free(A, B)
        assert books.catalog.info(A) is None
        assert books.used() == 0
        books.error(books.lease(A), UnknownObject)

    def test_its_bytes_stay_until_the_last_lease_ends(self):
        books = Books()
        place = books.put(A)
        books.lease(A)
        books.free(A)
        books.error(books.lease(A), UnknownObject)
        assert books.put(B) != place
        books.release(A)
        assert books.put(C) == place

    def test_a_freed_object_is_written_to_its_end(self):
        books = Books()
        place = books.answers[books.create(A)]
        wait = books.lease(A)
        books.free(A)
        assert "freed" in books.error(wait, UnknownObject)
        assert books.put(B) != place
        books.error(books.create(A), ObjectExists)
        books.do(books.catalog.seal(A))
        assert books.put(C) == place

    def test_a_freed_object_can_be_abandoned(self):
        books = Books()
        books.create(A)
        books.free(A)
        books.do(books.catalog.abandon(A))
        assert books.used() == 0

    def test_the_id_can_be_used_again_while_the_old_bytes_are_read(self):
        books = Books()
        old = books.put(A)
        books.lease(A)
        books.free(A)
        new = books.put(A)
        assert new != old
        assert books.answers[books.lease(A)] == new

    def test_then_neither_goes_before_all_leases_have_ended(self):
        # A release does not say which of the two it means.
        books = Books()
        books.put(A)
        books.lease(A)
        books.free(A)
        books.put(A)
        books.lease(A)
        books.free(A)
        books.release(A)
        assert books.used() == 2 * PAGE
        books.release(A)
        assert books.used() == 0

    def test_who_waits_until_it_is_gone_is_told(self):
        books = Books()
        books.put(A)
        books.lease(A)
        wait = books.ask(books.catalog.wait_freed, A)
        assert wait not in books.answers
        books.free(A)
        assert books.answers[wait] is True
        assert books.answers[books.ask(books.catalog.wait_freed, A)] is True

    def test_what_waits_for_room_can_be_freed(self):
        books = Books(disk=1024)
        books.put(A, 256)
        wait = books.create(B, 256)
        books.free(B)
        books.error(wait, UnknownObject)
        books.finish()
        assert books.used() == 0


class TestWhenSealed:
    def test_it_waits_for_what_is_not_known(self):
        books = Books()
        wait = books.ask(books.catalog.when_sealed, A)
        books.create(A, 20)
        assert wait not in books.answers
        books.do(books.catalog.seal(A))
        assert books.answers[wait] == ObjectInfo(20, True, b"", True, 0)

    def test_it_is_told_at_once_what_is_there(self):
        books = Books()
        books.put(A, 20)
        assert books.answers[books.ask(books.catalog.when_sealed, A)].sealed

    def test_it_is_told_when_there_is_no_room(self):
        books = Books()
        wait = books.ask(books.catalog.when_sealed, A)
        books.create(A, 1000)
        books.error(wait, StoreFull)

    def test_a_session_that_is_gone_does_not_end_it(self):
        books = Books()
        wait = books.ask(books.catalog.when_sealed, A)
        books.do(books.catalog.session_gone(1))
        assert wait not in books.answers


def test_stats():
    books = Books(disk=1024)
    books.put(A, 30, owner=1)
    books.create(B, 60, owner=2, writer="writer")
    books.lease(A, "reader")
    books.lease(C, bringer=1)
    books.put(D, 10)
    books.free(D)
    stats = books.catalog.stats()
    assert (stats.limit, stats.used, stats.idle) == (256, 96, 16)
    assert (stats.objects, stats.leased, stats.waiting) == (2, 96, 1)
    assert stats.owners == {2: 64, 1: 32}
    assert stats.holders == {"writer": 64, "reader": 32}
    assert (stats.disk_limit, stats.disk_used) == (1024, 0)
