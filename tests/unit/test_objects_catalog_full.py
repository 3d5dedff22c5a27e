"""A store that is full: what is moved to disk and comes back, and what is refused."""

from __future__ import annotations

from ipkernel.errors import ObjectLost, StoreFull, UnknownObject
from ipkernel.objects.allocator import Region
from ipkernel.objects.entries import CloseSegment, Discard, ReadIn, RemoveFile, WriteOut
from ipkernel.objects.interfaces import ObjectInfo, Placement
from tests.support.objects import PAGE, Books

A, B, C, D = (bytes([letter]) * 16 for letter in b"ABCD")


class TestFull:
    def test_what_is_too_large_for_all_of_the_memory(self):
        books = Books(disk=10_000)
        books.put(A)
        text = books.error(books.create(B, 257), StoreFull)
        assert "257 bytes" in text and "256 bytes" in text and "store_memory" in text
        assert not books.jobs
        assert books.catalog.info(B) is None

    def test_what_does_not_fit_beside_the_others(self):
        books = Books()
        books.put(A, 96, owner=3)
        books.put(B, 64, owner=4)
        books.lease(A, "engine:1:0")
        text = books.error(books.create(C, 128), StoreFull)
        assert "\n" not in text
        for part in (
            "an object of 128 bytes does not fit into this host's store of 256 bytes",
            "160 bytes are in use (96 bytes by session 3, 64 bytes by session 4)",
            "96 bytes of it being read or written (96 bytes by engine:1:0)",
            "free references and let go of received values that are no longer needed",
            "store_memory",
        ):
            assert part in text

    def test_clients_are_called_by_the_beginning_of_their_tubs_name(self):
        books = Books()
        books.put(A, 96, owner=3)
        books.lease(A, "ib4t6faebrmguujf35ksset62zmrfhd4")
        text = books.error(books.create(C, 256), StoreFull)
        assert "(96 bytes by client ib4t6fae)" in text

    def test_only_the_largest_are_named(self):
        books = Books()
        for number, object_id in enumerate((A, B, C, D, b"E" * 16), 1):
            books.put(object_id, PAGE * (1 + (number == 5)), owner=number)
        text = books.error(books.create(b"F" * 16, 256), StoreFull)
        assert (
            "(32 bytes by session 5, 16 bytes by session 1, 16 bytes by session 2, 2 more)" in text
        )

    def test_memory_that_the_system_does_not_have(self):
        books = Books()
        books.no_memory = "Cannot allocate memory"
        wait = books.create(A)
        assert "Cannot allocate memory" in books.error(wait, StoreFull)
        books.no_memory = ""
        assert books.put(B) == Placement(2, 0, PAGE)

    def test_freeing_makes_room(self):
        books = Books()
        books.put(A, 256)
        books.error(books.create(B, 16), StoreFull)
        books.free(A)
        assert isinstance(books.answers[books.create(B, 16)], Placement)

    def test_warm_memory_is_given_back_when_others_need_it(self):
        books = Books(384)
        books.put(A, 256)
        books.free(A)
        books.put(B, 128)
        assert books.other == []
        books.put(C, 128)
        assert books.other == [CloseSegment(1)]

    def test_pages_between_others_are_given_back(self):
        books = Books(warm=0)
        places = [books.put(bytes([n]) * 16, 64) for n in range(4)]
        books.free(bytes([0]) * 16, bytes([2]) * 16)
        assert isinstance(books.answers[books.create(A, 128)], Placement)
        assert books.other == [
            Discard(Region(place.segment, place.offset, 64)) for place in (places[0], places[2])
        ]


class TestSpilling:
    def full(self, **options) -> Books:
        books = Books(disk=4096, **options)
        for object_id in (A, B, C, D):
            books.put(object_id, 64)
        return books

    def test_the_least_recently_used_goes_to_disk(self):
        books = self.full()
        books.lease(A)
        books.release(A)
        wait = books.create(b"E" * 16, 60)
        assert wait not in books.answers
        (job,) = books.jobs
        assert isinstance(job, WriteOut)
        assert job.placement.size == 64
        assert books.catalog.info(B).in_memory
        books.finish()
        assert not books.catalog.info(B).in_memory
        assert books.answers[wait] == Placement(job.placement.segment, job.placement.offset, 60)

    def test_not_more_than_needed(self):
        books = self.full()
        books.create(b"E" * 16, 100)
        assert len(books.jobs) == 2

    def test_what_is_leased_or_written_stays(self):
        books = self.full()
        for object_id in (A, B, C):
            books.lease(object_id)
        books.free(D)
        books.create(D, 64)
        books.error(books.create(b"E" * 16, 64), StoreFull)
        assert not books.jobs

    def test_nothing_is_moved_if_that_does_not_suffice(self):
        books = self.full()
        books.lease(A)
        books.error(books.create(b"E" * 16, 256), StoreFull)
        assert not books.jobs

    def test_requests_are_served_in_turn(self):
        books = self.full()
        large = books.create(b"E" * 16, 256)
        small = books.create(b"F" * 16, 16)
        for _ in range(3):
            books.finish()
        assert not {large, small} & set(books.answers)
        books.finish()
        assert isinstance(books.answers[large], Placement)
        books.error(small, StoreFull)

    def test_a_spilled_object_comes_back_once_for_all(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.do(books.catalog.abandon(b"E" * 16))
        waits = [books.lease(A, "x"), books.lease(A, "y")]
        (job,) = books.jobs
        assert isinstance(job, ReadIn)
        assert not set(waits) & set(books.answers)
        assert not books.catalog.info(A).in_memory
        books.finish()
        assert {books.answers[wait] for wait in waits} == {job.placement}
        assert books.catalog.info(A) == ObjectInfo(64, True, b"", True, 2)
        assert books.catalog.stats().disk_used == 0

    def test_bringing_one_back_moves_others_out(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.do(books.catalog.seal(b"E" * 16))
        wait = books.lease(A)
        assert isinstance(books.finish(), WriteOut)
        assert isinstance(books.finish(), ReadIn)
        assert isinstance(books.answers[wait], Placement)
        assert not books.catalog.info(B).in_memory

    def test_a_lease_while_it_is_moved_keeps_it(self):
        books = self.full()
        wait = books.create(b"E" * 16, 64)
        reader = books.lease(A)
        assert isinstance(books.answers[reader], Placement)
        books.finish()
        assert books.catalog.info(A).in_memory
        assert wait not in books.answers
        books.finish()
        assert isinstance(books.answers[wait], Placement)
        assert not books.catalog.info(B).in_memory

    def test_a_lease_that_ends_while_it_is_moved(self):
        books = self.full()
        wait = books.create(b"E" * 16, 64)
        books.lease(A)
        books.release(A)
        books.finish()
        assert not books.catalog.info(A).in_memory
        assert isinstance(books.answers[wait], Placement)

    def test_freed_while_it_is_moved(self):
        books = self.full()
        wait = books.create(b"E" * 16, 64)
        books.free(A)
        assert wait not in books.answers, "its bytes are still read"
        books.finish()
        assert isinstance(books.answers[wait], Placement)
        assert books.catalog.stats().disk_used == 0

    def test_freed_while_it_comes_back(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.do(books.catalog.abandon(b"E" * 16))
        reader = books.lease(A)
        books.free(A)
        books.error(reader, UnknownObject)
        assert books.used() == 256
        books.finish()
        assert books.used() == 192
        assert books.catalog.stats().disk_used == 0

    def test_freed_while_it_waits_to_come_back(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.do(books.catalog.seal(b"E" * 16))
        reader = books.lease(A)
        books.free(A)
        books.error(reader, UnknownObject)
        books.finish()
        assert not books.jobs

    def test_freed_on_disk(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.free(A)
        assert books.catalog.stats().disk_used == 0

    def test_a_full_disk_loses_nothing(self):
        books = self.full()
        wait = books.create(b"E" * 16, 64)
        books.finish(problem="No space left on device")
        text = books.error(wait, StoreFull)
        assert "could not be moved to disk: No space left on device" in text
        assert books.catalog.info(A).in_memory
        assert isinstance(books.answers[books.lease(A)], Placement)
        assert books.catalog.stats().disk_used == 0

    def test_a_failure_concerns_the_first_request_only(self):
        books = self.full()
        first, second = books.create(b"E" * 16, 64), books.create(b"F" * 16, 64)
        books.finish(problem="Input/output error")
        books.error(first, StoreFull)
        books.finish()
        assert isinstance(books.answers[second], Placement)

    def test_the_limit_of_the_disk_is_kept(self):
        books = Books(disk=64)
        books.put(A, 128)
        books.put(B, 64)
        books.put(C, 64)
        wait = books.create(D, 64)
        books.finish()
        assert books.catalog.info(A).in_memory, "it does not fit on the disk"
        assert not books.catalog.info(B).in_memory
        assert isinstance(books.answers[wait], Placement)
        text = books.error(books.create(b"E" * 16, 64), StoreFull)
        assert "64 bytes of 64 bytes on disk" in text

    def test_what_cannot_be_read_back_is_said(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.do(books.catalog.abandon(b"E" * 16))
        wait = books.lease(A)
        books.finish(problem="Input/output error")
        assert "Input/output error" in books.error(wait, ObjectLost)
        again = books.lease(A)
        books.finish()
        assert isinstance(books.answers[again], Placement)

    def test_no_room_to_come_back(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        for object_id in (B, C, D):
            books.lease(object_id)
        books.error(books.lease(A), StoreFull)
        books.do(books.catalog.abandon(b"E" * 16))
        wait = books.lease(A)
        books.finish()
        assert isinstance(books.answers[wait], Placement)

    def test_few_copies_at_a_time(self):
        books = Books(16 * PAGE, disk=4096)
        for number in range(16):
            books.put(bytes([number]) * 16)
        wait = books.create(A, 16 * PAGE)
        most = 0
        while books.jobs:
            most = max(most, len(books.jobs))
            books.finish()
        assert most == 4
        assert isinstance(books.answers[wait], Placement)

    def test_where_pages_cannot_be_given_back_more_is_moved(self):
        books = Books(256, disk=4096, discards=False)
        for number in range(4):
            books.put(bytes([number]) * 16, 64)
        books.free(bytes([0]) * 16, bytes([2]) * 16)
        wait = books.create(A, 128)
        books.finish()
        assert isinstance(books.answers[wait], Placement)

    def test_files_are_given_back(self):
        books = self.full()
        books.create(b"E" * 16, 64)
        books.finish()
        books.free(A)
        books.do(books.catalog.tidy())
        books.do(books.catalog.tidy())
        assert RemoveFile(1) in books.other
        assert books.catalog.idle == 0
