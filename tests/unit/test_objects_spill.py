"""Files without names for objects that do not fit into memory."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from ipkernel.objects import spill as spill_module
from ipkernel.objects.spill import Spill, default_directory, default_spill_limit


@pytest.fixture
def spill(tmp_path):
    spill = Spill(1 << 20, tmp_path, reserve=0)
    yield spill
    spill.close()


def free(monkeypatch, count: int) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())._replace(free=count)
    monkeypatch.setattr(spill_module.shutil, "disk_usage", lambda _: usage)


def read(spill: Spill, file: int, offset: int, size: int) -> bytes:
    target = bytearray(size)
    spill.read(file, offset, memoryview(target))
    return bytes(target)


class TestFiles:
    def test_what_is_written_can_be_read(self, spill):
        spill.write(1, 0, memoryview(b"first"))
        spill.write(1, 100, memoryview(b"second"))
        spill.write(2, 0, memoryview(b"third"))
        assert read(spill, 1, 100, 6) == b"second"
        assert read(spill, 1, 0, 5) == b"first"
        assert read(spill, 2, 0, 5) == b"third"

    def test_in_pieces(self, spill, monkeypatch):
        monkeypatch.setattr(spill_module, "_PIECE", 1000)
        data = os.urandom(10_500)
        spill.write(1, 64, memoryview(data))
        assert read(spill, 1, 64, len(data)) == data

    def test_nothing(self, spill):
        spill.write(1, 0, memoryview(b""))
        assert read(spill, 1, 0, 0) == b""

    def test_they_have_no_names(self, spill, tmp_path):
        spill.write(1, 0, memoryview(b"x" * 100))
        assert list(tmp_path.iterdir()) == []

    def test_what_was_never_written_cannot_be_read(self, spill):
        spill.write(1, 0, memoryview(b"x"))
        with pytest.raises(OSError, match="shorter"):
            read(spill, 1, 0, 2)

    def test_a_removed_file_begins_anew(self, spill):
        spill.write(1, 0, memoryview(b"x"))
        spill.remove(1)
        spill.remove(1)
        with pytest.raises(OSError, match="shorter"):
            read(spill, 1, 0, 1)

    def test_many_threads(self, spill, monkeypatch):
        monkeypatch.setattr(spill_module, "_PIECE", 512)
        data = [os.urandom(10_000) for _ in range(8)]
        found: list[bytes] = [b""] * 8

        def work(n):
            spill.write(n % 2, n * 10_000, memoryview(data[n]))
            found[n] = read(spill, n % 2, n * 10_000, 10_000)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == data


class TestFullDisk:
    def test_others_keep_their_share(self, tmp_path, monkeypatch):
        spill = Spill(1 << 20, tmp_path, reserve=1000)
        free(monkeypatch, 1100)
        spill.write(1, 0, memoryview(bytes(100)))
        with pytest.raises(OSError) as caught:
            spill.write(1, 100, memoryview(bytes(101)))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path)
        spill.close()

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
    def test_the_system_says_so(self, spill, tmp_path):
        spill.write(1, 0, memoryview(b"x"))
        spill._files[1]._file.close()
        spill._files[1]._file = open("/dev/full", "r+b", buffering=0)
        with pytest.raises(OSError) as caught:
            spill.write(1, 0, memoryview(b"x"))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path)

    def test_a_directory_that_is_gone(self, tmp_path):
        spill = Spill(1 << 20, tmp_path / "none", reserve=0)
        with pytest.raises(FileNotFoundError, match="none"):
            spill.write(1, 0, memoryview(b"x"))


class TestClosing:
    def test_nothing_can_be_done_afterwards(self, spill):
        spill.write(1, 0, memoryview(b"x"))
        spill.close()
        with pytest.raises(OSError, match="closed"):
            spill.write(1, 0, memoryview(b"x"))
        with pytest.raises(OSError, match="closed"):
            read(spill, 1, 0, 1)

    def test_whoever_is_at_work_stops(self, spill, monkeypatch):
        monkeypatch.setattr(spill_module, "_PIECE", 100)
        spill.write(1, 0, memoryview(b"x"))
        file = spill._files[1]
        real, seeks = file._seek, []

        def seek(offset):
            seeks.append(offset)
            real(offset)
            if len(seeks) == 2:
                threading.Thread(target=close).start()

        def close():
            spill.close()
            closed.set()

        closed = threading.Event()
        file._seek = seek
        with pytest.raises(OSError, match="closed"):
            while True:
                spill.write(1, 0, memoryview(bytes(300)))
        assert closed.wait(30)


class TestDefaults:
    def test_a_directory_of_ones_own(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert default_directory() == tmp_path
        assert Spill(1).directory == tmp_path

    def test_a_large_directory(self, monkeypatch):
        monkeypatch.delenv("TMPDIR", raising=False)
        monkeypatch.setattr(spill_module.os, "access", lambda *_: True)
        assert default_directory() == Path("/var/tmp")

    def test_that_does_not_exist(self, monkeypatch):
        monkeypatch.delenv("TMPDIR", raising=False)
        monkeypatch.setattr(spill_module.os, "access", lambda *_: False)
        assert default_directory() == Path(tempfile.gettempdir())

    @pytest.mark.parametrize(("there", "limit"), [(10_000, 400), (500, 250), (0, 0)])
    def test_the_limit(self, monkeypatch, there, limit):
        free(monkeypatch, there)
        assert default_spill_limit(100) == limit
