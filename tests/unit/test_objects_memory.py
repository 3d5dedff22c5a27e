"""Segments that other processes can map: anonymous, named, and what killed processes left."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest
from zope.interface.verify import verifyObject

from ipkernel.objects import memory as memory_module
from ipkernel.objects import shared
from ipkernel.objects.memory import (
    IMemory,
    ISegment,
    NamedMemory,
    NativeMemory,
    make_memory,
    portable,
)
from ipkernel.objects.shared import Names, create_named, unlink_named

SIZE = 4 * mmap.ALLOCATIONGRANULARITY
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no names without memory")

KINDS = [NamedMemory] + [NativeMemory] * (sys.platform == "linux")


@pytest.fixture(params=KINDS)
def memory(request):
    return request.param()


@pytest.fixture
def segment(memory):
    segment = memory.make(SIZE)
    yield segment
    segment.close()


def map_of(segment) -> mmap.mmap:
    """Map a segment as another process would."""
    what = segment.describe()
    if isinstance(what, int):
        return mmap.mmap(what, segment.size)
    with open(f"/dev/shm/{what}", "r+b") as file:
        return mmap.mmap(file.fileno(), segment.size)


class TestSegments:
    def test_they_keep_to_their_interfaces(self, memory, segment):
        assert verifyObject(IMemory, memory)
        assert verifyObject(ISegment, segment)

    def test_they_are_zeros_that_can_be_written_to(self, segment):
        assert segment.size == len(segment.view) == SIZE
        assert bytes(segment.view) == bytes(SIZE)
        segment.view[1:3] = b"xy"
        assert bytes(segment.view[:4]) == b"\0xy\0"

    @LINUX
    def test_others_can_map_them(self, segment):
        with map_of(segment) as other:
            segment.view[:5] = b"hello"
            assert other[:5] == b"hello"
            other[5:6] = b"!"
            assert bytes(segment.view[:6]) == b"hello!"

    @LINUX
    def test_pages_can_be_given_back(self, memory, segment):
        assert memory.discards
        page = mmap.ALLOCATIONGRANULARITY
        segment.view[:] = b"x" * SIZE
        with map_of(segment) as other:
            segment.discard(page, 2 * page)
            expected = b"x" * page + bytes(2 * page) + b"x" * page
            assert bytes(segment.view) == expected
            assert other[:] == expected

    def test_where_that_is_impossible_nothing_happens(self, monkeypatch, segment):
        monkeypatch.delattr(mmap, "MADV_REMOVE", raising=False)
        segment.view[:] = b"x" * SIZE
        segment.discard(0, SIZE)
        assert bytes(segment.view) == b"x" * SIZE

    def test_a_view_outlives_the_segment(self, memory):
        segment = memory.make(SIZE)
        view = segment.view[10:20]
        segment.close()
        view[:] = b"0123456789"
        assert bytes(view) == b"0123456789"

    def test_so_does_a_buffer_that_was_exported(self, memory):
        numpy = pytest.importorskip("numpy")
        segment = memory.make(SIZE)
        array = numpy.frombuffer(segment.view, dtype="u1")
        segment.close()
        array[3] = 7
        assert array.sum() == 7

    @LINUX
    def test_what_others_have_mapped_outlives_it(self, memory):
        segment = memory.make(SIZE)
        segment.view[:2] = b"ab"
        other = map_of(segment)
        segment.close()
        assert other[:2] == b"ab"
        other.close()


@LINUX
class TestNative:
    def test_it_has_no_name(self):
        segment = NativeMemory().make(SIZE)
        assert "memfd:ipkernel" in os.readlink(f"/proc/self/fd/{segment.describe()}")
        assert not os.get_inheritable(segment.describe())
        segment.close()

    @pytest.mark.parametrize("size", [0, SIZE // 2, 2 * SIZE])
    def test_nobody_can_change_its_length(self, size):
        segment = NativeMemory().make(SIZE)
        with pytest.raises(PermissionError):
            os.ftruncate(segment.describe(), size)
        segment.close()

    def test_a_failure_leaves_no_descriptor(self):
        with pytest.raises((OSError, OverflowError, ValueError)):
            NativeMemory().make(1 << 62)


class TestNamed:
    def test_names_cannot_be_guessed(self):
        memory = NamedMemory()
        segments = [memory.make(SIZE) for _ in range(20)]
        names = {segment.describe() for segment in segments}
        assert len(names) == 20
        tails = {name.rpartition(".")[2] for name in names}
        assert len(tails) == 20 and all(len(tail) == 11 for tail in tails)
        # With its slash; macOS takes no more.
        assert all(len(name) < 31 for name in names)
        for segment in segments:
            segment.close()

    @LINUX
    def test_nobody_else_may_look(self):
        segment = NamedMemory().make(SIZE)
        assert Path("/dev/shm", segment.describe()).stat().st_mode & 0o777 == 0o600
        segment.close()

    @LINUX
    def test_the_name_goes_with_the_segment(self):
        segment = NamedMemory().make(SIZE)
        name = segment.describe()
        segment.close()
        assert not Path("/dev/shm", name).exists()

    @LINUX
    def test_the_standard_library_knows_the_name(self):
        segment = NamedMemory().make(SIZE)
        segment.view[:2] = b"ab"
        other = SharedMemory(segment.describe())
        assert bytes(other.buf[:2]) == b"ab"
        other.close()
        # This release may register whatever is opened, to remove it.
        if sys.version_info < (3, 13):
            resource_tracker.unregister(other._name, "shared_memory")
        segment.close()

    def test_no_process_watches_over_names(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("a process that watches names is started")

        monkeypatch.setattr(resource_tracker, "register", refuse)
        monkeypatch.setattr(resource_tracker, "ensure_running", refuse)
        NamedMemory().make(SIZE).close()

    @POSIX
    def test_a_name_that_exists_is_not_taken(self):
        first = create_named("ipkernel-test", SIZE)
        try:
            with pytest.raises(FileExistsError):
                create_named("ipkernel-test", SIZE)
        finally:
            unlink_named("ipkernel-test")
            unlink_named("ipkernel-test")
            first.close()

    @LINUX
    def test_more_than_there_is_room_for(self, monkeypatch):
        real = os.statvfs("/dev/shm")

        class Little:
            f_bavail = SIZE // real.f_frsize - 1
            f_frsize = real.f_frsize

        monkeypatch.setattr(os, "statvfs", lambda _: Little)
        with pytest.raises(OSError) as caught:
            NamedMemory().make(SIZE)
        assert caught.value.errno == errno.ENOSPC

    @LINUX
    def test_a_failure_leaves_no_name(self, monkeypatch):
        before = set(os.listdir("/dev/shm"))
        mapped = mmap.mmap

        def refuse(fd, size, *args, **kwargs):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(shared.mmap, "mmap", refuse)
        with pytest.raises(OSError, match="Cannot allocate"):
            NamedMemory().make(SIZE)
        monkeypatch.setattr(shared.mmap, "mmap", mapped)
        own = f"ipk{os.getpid():x}."
        left = set(os.listdir("/dev/shm")) - before
        assert not [name for name in left if name.startswith(own)]


def ended_process() -> int:
    """Return the number of a process that does not exist any more."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    return process.pid


@POSIX
class TestLeftovers:
    """Names of the dead; with and without a system that lists names."""

    @pytest.fixture(params=["listed", "ledger"])
    def ledger(self, request, tmp_path):
        if request.param == "listed":
            if sys.platform != "linux":
                pytest.skip("of Linux")
            return None
        return tmp_path

    @pytest.fixture
    def leave(self, ledger):
        """Leave a name behind, as a killed process does."""
        left = []

        def leave(prefix: str) -> str:
            name = prefix + os.urandom(4).hex()
            create_named(name, SIZE).close()
            left.append(name)
            if ledger is not None:
                (ledger / f"{prefix}segments").write_text("\n".join(["nonsense", *left]))
            return name

        yield leave
        for name in left:
            unlink_named(name)

    def exists(self, name: str) -> bool:
        try:
            mapped = create_named(name, SIZE)
        except FileExistsError:
            return True
        mapped.close()
        unlink_named(name)
        return False

    def test_what_the_dead_have_left_is_removed(self, ledger, leave):
        name = leave(f"ipk{ended_process():x}.00000001.")
        assert name in Names(ledger).clean()
        assert not self.exists(name)
        if ledger is not None:
            assert list(ledger.iterdir()) == []

    def test_a_number_that_another_process_has_got(self, ledger, leave):
        name = leave(f"ipk{os.getppid():x}.00000001.")
        assert name in Names(ledger).clean()

    def test_what_the_living_have_stays(self, ledger, leave):
        began = int(psutil.Process(os.getppid()).create_time())
        name = leave(f"ipk{os.getppid():x}.{began:08x}.")
        assert name not in Names(ledger).clean()
        assert self.exists(name)

    def test_what_this_process_has_stays(self, ledger):
        first = NamedMemory(ledger)
        segment = first.make(SIZE)
        assert segment.describe() not in Names(ledger).clean()
        assert self.exists(segment.describe())
        segment.close()

    def test_what_others_have_named_stays(self, ledger, leave):
        for prefix in ("ipkernel.", "psm_", "ipkxyz.00000001.", f"ipk{ended_process():x}.1."):
            name = leave(prefix)
            assert name not in Names(ledger).clean()
            assert self.exists(name)

    def test_what_belongs_to_others_stays(self, ledger, leave, monkeypatch):
        name = leave(f"ipk{ended_process():x}.00000001.")
        monkeypatch.setattr(os, "getuid", lambda: 12345678)
        assert name not in Names(ledger).clean()
        assert self.exists(name)

    def test_what_cannot_be_removed_is_left(self, ledger, leave, monkeypatch):
        name = leave(f"ipk{ended_process():x}.00000001.")

        def refuse(_):
            raise PermissionError

        monkeypatch.setattr(shared, "unlink_named", refuse)
        assert name not in Names(ledger).clean()

    def test_a_new_memory_cleans(self, ledger, leave):
        name = leave(f"ipk{ended_process():x}.00000001.")
        NamedMemory(ledger)
        assert not self.exists(name)

    def test_a_process_that_hides_is_alive(self, ledger, leave, monkeypatch):
        name = leave(f"ipk{os.getppid():x}.00000001.")
        names = Names(ledger)

        def hide(pid):
            raise psutil.AccessDenied(pid)

        monkeypatch.setattr(psutil, "Process", hide)
        assert name not in names.clean()

    def test_the_ledger_goes_with_the_last_name(self, tmp_path):
        memory = NamedMemory(tmp_path)
        segments = [memory.make(SIZE) for _ in range(2)]
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert sorted(file.read_text().split()) == sorted(s.describe() for s in segments)
        segments[0].close()
        assert file.read_text().split() == [segments[1].describe()]
        segments[1].close()
        assert list(tmp_path.iterdir()) == []

    def test_where_nothing_is_listed_there_is_a_ledger(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shared, "_DIRECTORY", tmp_path / "none")
        monkeypatch.setattr(shared.tempfile, "gettempdir", lambda: str(tmp_path))
        segment = NamedMemory().make(SIZE)
        assert len(list(tmp_path.iterdir())) == 1
        segment.close()


class TestChoice:
    def test_it_can_be_forced(self, monkeypatch):
        monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
        assert portable()
        assert isinstance(make_memory(), NamedMemory)

    @LINUX
    def test_native_is_the_default(self, monkeypatch):
        monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
        assert not portable()
        assert isinstance(make_memory(), NativeMemory)

    def test_elsewhere_memory_has_names(self, monkeypatch):
        monkeypatch.delenv("IPKERNEL_PORTABLE", raising=False)
        monkeypatch.setattr(memory_module.sys, "platform", "darwin")
        assert portable()
