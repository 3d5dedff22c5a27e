"""Files and directories read as payloads and written again: everything, or nothing."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import TransferError
from ipkernel.objects import filetree, unfinished
from ipkernel.objects.archive import Entry, EntryKind, Packer, Part, spell
from ipkernel.objects.filetree import Source, destination, place_of
from ipkernel.objects.filewriter import TreeWriter
from ipkernel.objects.transfer import Transfer, TransferCancelled

NANOSECONDS = 1_234_567_890_123_456_789

both_ways = pytest.mark.parametrize("nameless", [True, False])


def copy(source, wanted, overwrite=True, nameless=None, size=1 << 16, transfer=None):
    """Read and write at once, as the two ends of a flow do."""
    with TreeWriter(wanted, overwrite, transfer or Transfer(), nameless=nameless) as writer:
        for payload in Source(str(source)).payloads(Transfer(), size):
            writer.feed(memoryview(bytes(payload)))
        return writer.finish()


def snapshot(top):
    """Everything below a directory: names, kinds, modes, times, contents."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            mode = 0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
            found[os.path.relpath(path, top)] = (kind, mode, status.st_mtime_ns, content)
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory: empty, and with a home directory of its own."""
    directory = tmp_path / "here"
    directory.mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return directory


@pytest.fixture
def tree(tmp_path):
    """A directory with what one finds in directories."""
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "a.txt").write_bytes(b"first")
    (top / "empty.txt").write_bytes(b"")
    (top / "sub" / "big.bin").write_bytes(os.urandom(300_000))
    (top / "sub" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "sub" / "run.sh").chmod(0o755)
    (top / "link").symlink_to("sub/big.bin")
    (top / "sub" / "up").symlink_to("../a.txt")
    (top / "directory").symlink_to("sub")
    (top / "dangling").symlink_to("sub/nothing")
    (top / "\udcff odd ü").write_bytes(b"odd")
    (top / "a.txt").chmod(0o400)
    os.utime(top / "a.txt", ns=(NANOSECONDS, NANOSECONDS))
    os.utime(top / "sub", ns=(NANOSECONDS, NANOSECONDS + 1))
    return top


class TestDestination:
    def test_nothing_said_is_the_current_directory(self, here):
        assert destination(None, "f") == str(here / "f")

    def test_a_new_name(self, here):
        assert destination("new", "f") == str(here / "new")
        assert destination("a/b", "f") == str(here / "a" / "b")

    def test_a_directory_is_put_into(self, here):
        (here / "d").mkdir()
        assert destination("d", "f") == str(here / "d" / "f")
        assert destination("", "f") == destination(".", "f") == str(here / "f")

    def test_a_slash_says_directory(self, here):
        assert destination("new/", "f") == str(here / "new" / "f")

    def test_home(self, here):
        assert destination("~", "f") == os.path.join(os.environ["HOME"], "f")
        assert destination("~/g", "f") == os.path.join(os.environ["HOME"], "g")


class TestPlace:
    def test_it_is_the_same_before_and_after(self, here):
        for wanted in (None, "new", "new/", "a/b", ""):
            before = place_of(wanted, "f")
            os.makedirs(destination(wanted, "f"), exist_ok=True)
            assert place_of(wanted, "f") == before
            assert len(before) == 16

    def test_it_is_another_in_another_directory(self, here, monkeypatch):
        before = [place_of(wanted, "f") for wanted in (None, "new", "", "/abs/f")]
        (here / "sub").mkdir()
        monkeypatch.chdir(here / "sub")
        after = [place_of(wanted, "f") for wanted in (None, "new", "", "/abs/f")]
        assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, False, True]

    def test_by_whatever_way_one_gets_there(self, here, tmp_path, monkeypatch):
        before = place_of("f", "f")
        (tmp_path / "link").symlink_to(here)
        monkeypatch.chdir(tmp_path / "link")
        assert place_of("f", "f") == place_of(str(tmp_path / "link" / "f"), "f") == before


class TestFile:
    @both_ways
    @pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
    def test_everything_of_it_arrives(self, here, nameless, size):
        content = os.urandom(size)
        (here / "f").write_bytes(content)
        (here / "f").chmod(0o640)
        os.utime(here / "f", ns=(NANOSECONDS, NANOSECONDS))
        path = copy(here / "f", "g", nameless=nameless)
        assert path == str(here / "g")
        assert (here / "g").read_bytes() == content
        status = os.stat(path)
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_mtime_ns == NANOSECONDS
        assert sorted(os.listdir(here)) == ["f", "g"]

    @both_ways
    def test_it_replaces_another(self, here, nameless):
        (here / "f").write_bytes(b"new")
        (here / "g").write_bytes(b"old")
        copy(here / "f", "g", nameless=nameless)
        assert (here / "g").read_bytes() == b"new"
        assert sorted(os.listdir(here)) == ["f", "g"]

    @both_ways
    def test_or_not(self, here, nameless):
        (here / "f").write_bytes(b"new")
        (here / "g").write_bytes(b"old")
        with pytest.raises(FileExistsError) as caught:
            copy(here / "f", "g", overwrite=False, nameless=nameless)
        assert caught.value.filename == str(here / "g")
        assert (here / "g").read_bytes() == b"old"
        assert sorted(os.listdir(here)) == ["f", "g"]

    @both_ways
    def test_one_that_somebody_else_makes_meanwhile_is_not_replaced_either(self, here, nameless):
        (here / "f").write_bytes(b"new")
        with TreeWriter("g", False, Transfer(), nameless=nameless) as writer:
            for payload in Source(str(here / "f")).payloads(Transfer()):
                writer.feed(payload)
            (here / "g").write_bytes(b"old")
            with pytest.raises(FileExistsError) as caught:
                writer.finish()
        assert caught.value.filename == str(here / "g")
        assert (here / "g").read_bytes() == b"old"
        assert sorted(os.listdir(here)) == ["f", "g"]

    @both_ways
    def test_directories_are_made(self, here, nameless):
        (here / "f").write_bytes(b"x")
        assert copy(here / "f", "a/b/c", nameless=nameless) == str(here / "a" / "b" / "c")
        assert copy(here / "f", "d/e/", nameless=nameless) == str(here / "d" / "e" / "f")

    @both_ways
    def test_nothing_is_left_when_it_does_not_go_on(self, here, nameless):
        (here / "f").write_bytes(bytes(200_000))
        with TreeWriter("a/b/c", True, Transfer(), nameless=nameless) as writer:
            payloads = Source(str(here / "f")).payloads(Transfer(), 1 << 16)
            writer.feed(next(payloads))
            assert (here / "a" / "b").is_dir()
        assert os.listdir(here) == ["f"]

    @both_ways
    def test_damage_is_noticed(self, here, nameless):
        (here / "f").write_bytes(bytes(1000))
        (here / "g").write_bytes(b"old")
        with pytest.raises(TransferError, match="g has arrived damaged"):
            with TreeWriter("g", True, Transfer(), nameless=nameless) as writer:
                for payload in Source(str(here / "f")).payloads(Transfer()):
                    damaged = bytearray(payload)
                    damaged[500] ^= 1
                    writer.feed(memoryview(damaged))
        assert (here / "g").read_bytes() == b"old"
        assert sorted(os.listdir(here)) == ["f", "g"]

    @both_ways
    def test_a_full_disk_is_named_and_leaves_nothing(self, here, nameless, monkeypatch):
        def full(fd, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (here / "f").write_bytes(b"x")
        monkeypatch.setattr(unfinished.os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            copy(here / "f", "d/g", nameless=nameless)
        assert caught.value.filename == str(here / "d" / "g")
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(here) == ["f"]

    @both_ways
    def test_it_cannot_replace_a_directory(self, here, nameless):
        (here / "f").write_bytes(b"x")
        (here / "d" / "f").mkdir(parents=True)
        with pytest.raises(IsADirectoryError):
            copy(here / "f", "d", nameless=nameless)

    @both_ways
    def test_a_name_in_the_way_of_a_directory_is_named(self, here, nameless):
        (here / "f").write_bytes(b"x")
        (here / "g").write_bytes(b"x")
        with pytest.raises(NotADirectoryError) as caught:
            copy(here / "f", "g/h/i", nameless=nameless)
        assert caught.value.filename.startswith(str(here / "g"))
        assert sorted(os.listdir(here)) == ["f", "g"]

    def test_systems_without_nameless_files_do_with_hidden_ones(self, here, monkeypatch):
        original = os.open

        def refuse(path, flags, *args, **options):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no")
            return original(path, flags, *args, **options)

        (here / "f").write_bytes(b"x")
        monkeypatch.setattr(unfinished.os, "open", refuse)
        copy(here / "f", "g", nameless=True)
        assert sorted(os.listdir(here)) == ["f", "g"]

    def test_progress_is_counted_on_both_sides(self, here):
        (here / "f").write_bytes(bytes(100_000))
        read, written = Transfer(), Transfer()
        with TreeWriter("g", True, written) as writer:
            for payload in Source(str(here / "f")).payloads(read, 1 << 14):
                writer.feed(payload)
            writer.finish()
        assert read.done == written.done == Source(str(here / "f")).size() == 100_000

    def test_it_may_be_cancelled_on_either_side(self, here):
        (here / "f").write_bytes(bytes(100_000))
        cancelled = Transfer()
        cancelled.cancel()
        with pytest.raises(TransferCancelled):
            list(Source(str(here / "f")).payloads(cancelled))
        with pytest.raises(TransferCancelled):
            copy(here / "f", "g", transfer=cancelled)
        assert os.listdir(here) == ["f"]


class TestTree:
    @both_ways
    @pytest.mark.parametrize("size", [1 << 13, 1 << 20])
    def test_everything_arrives(self, here, tree, nameless, size):
        before = snapshot(tree)
        assert copy(tree, None, nameless=nameless, size=size) == str(here / "tree")
        assert snapshot(here / "tree") == before
        assert os.listdir(here) == ["tree"]

    def test_it_goes_into_a_directory_that_is_there(self, here, tree):
        (here / "d").mkdir()
        assert copy(tree, "d") == str(here / "d" / "tree")
        assert copy(tree, "new") == str(here / "new")
        assert snapshot(here / "new") == snapshot(here / "d" / "tree")

    def test_what_is_there_is_replaced_and_the_rest_stays(self, here, tree):
        (here / "tree" / "sub").mkdir(parents=True)
        (here / "tree" / "sub" / "mine").write_bytes(b"mine")
        (here / "tree" / "a.txt").write_bytes(b"old")
        before = snapshot(tree)
        copy(tree, None)
        after = snapshot(here / "tree")
        assert after.pop("sub/mine")[3] == b"mine"
        assert after == before
        assert os.listdir(here) == ["tree"]

    @pytest.mark.parametrize("name", ["sub/run.sh", "sub"])
    def test_nothing_is_replaced_where_something_cannot_be(self, here, tree, name):
        (here / "tree" / "sub").mkdir(parents=True)
        (here / "tree" / "a.txt").write_bytes(b"old")
        if name == "sub":  # a file where a directory is to be
            (here / "tree" / "sub").rmdir()
            (here / "tree" / "sub").write_bytes(b"file")
        else:
            (here / "tree" / name).mkdir()
        before = snapshot(here)
        with pytest.raises((IsADirectoryError, NotADirectoryError)) as caught:
            copy(tree, None)
        assert caught.value.filename == str(here / "tree" / name)
        assert snapshot(here) == before

    def test_or_not(self, here, tree):
        (here / "tree").mkdir()
        with pytest.raises(FileExistsError):
            copy(tree, None, overwrite=False)
        assert os.listdir(here / "tree") == []
        copy(tree, "another", overwrite=False)

    def test_directories_that_may_not_be_written_to_arrive_as_such(self, here, tree):
        (tree / "sub").chmod(0o555)
        try:
            copy(tree, None)
            assert stat.S_IMODE(os.stat(here / "tree" / "sub").st_mode) == 0o555
            assert len(os.listdir(here / "tree" / "sub")) == 4
        finally:
            (tree / "sub").chmod(0o755)
            (here / "tree" / "sub").chmod(0o755)

    def test_nothing_is_left_when_it_does_not_go_on(self, here, tree):
        with TreeWriter("a/b", True, Transfer()) as writer:
            for payload in Source(str(tree)).payloads(Transfer(), 1 << 13):
                writer.feed(payload)
            assert os.listdir(here) == ["a"]
        assert os.listdir(here) == []

    def test_a_file_cannot_be_replaced_by_it(self, here, tree):
        (here / "tree").write_bytes(b"x")
        with pytest.raises(NotADirectoryError):
            copy(tree, None)
        assert (here / "tree").read_bytes() == b"x"

    @pytest.mark.parametrize("name", ["sub", "a.txt"])
    def test_nothing_is_written_through_a_link_that_is_there(self, here, tree, tmp_path, name):
        outside = tmp_path / "outside"
        outside.mkdir()
        (here / "tree").mkdir()
        (here / "tree" / name).symlink_to(outside if name == "sub" else outside / "f")
        if name == "sub":
            with pytest.raises(NotADirectoryError):
                copy(tree, None)
        else:
            copy(tree, None)
            assert not (here / "tree" / name).is_symlink()
        assert os.listdir(outside) == []

    @settings(max_examples=15, deadline=None)
    @given(
        files=st.dictionaries(
            st.lists(st.sampled_from("abcd"), min_size=1, max_size=4).map(tuple),
            st.binary(max_size=3000),
            max_size=12,
        ),
        size=st.integers(300, 5000),
    )
    def test_any_tree_arrives(self, files, size, tmp_path_factory):
        top = tmp_path_factory.mktemp("any")
        (top / "tree").mkdir()
        for names, content in files.items():
            path = top.joinpath("tree", *(f"{name}_" for name in names[:-1]), names[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        copy(top / "tree", str(top / "copy"), size=size)
        assert snapshot(top / "copy") == snapshot(top / "tree")


class TestLinks:
    def test_one_that_leads_out_is_followed(self, here, tree, tmp_path):
        (tmp_path / "outside" / "d").mkdir(parents=True)
        (tmp_path / "outside" / "f").write_bytes(b"out")
        (tmp_path / "outside" / "d" / "g").write_bytes(b"deep")
        (tree / "file").symlink_to(tmp_path / "outside" / "f")
        (tree / "there").symlink_to("../outside/d")
        copy(tree, None)
        assert not (here / "tree" / "file").is_symlink()
        assert (here / "tree" / "file").read_bytes() == b"out"
        assert (here / "tree" / "there" / "g").read_bytes() == b"deep"
        assert not (here / "tree" / "there").is_symlink()

    def test_one_that_leads_out_to_nothing_is_named(self, here, tree):
        (tree / "lost").symlink_to("/nowhere/at/all")
        with pytest.raises(FileNotFoundError, match="leads to /nowhere/at/all") as caught:
            copy(tree, None)
        assert caught.value.filename == str(tree / "lost")
        assert os.listdir(here) == []

    def test_one_that_leads_round_in_circles_is_named(self, here, tmp_path):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
        with pytest.raises(TransferError, match="leads back to where it is"):
            copy(tmp_path / "a", None)

    def test_a_link_to_what_is_sent_is_taken_for_it(self, here, tree):
        (here / "l").symlink_to(tree)
        assert Source(str(here / "l")).name == "l"
        copy(here / "l", "new")
        assert snapshot(here / "new") == snapshot(tree)

    def test_links_that_lead_out_only_together_are_refused(self, here):
        packer = Packer(1 << 16)
        for kind, path, target in [
            (EntryKind.DIRECTORY, ["r"], ""),
            (EntryKind.DIRECTORY, ["r", "a"], ""),
            (EntryKind.LINK, ["r", "a", "b"], ".."),
            (EntryKind.LINK, ["r", "out"], "a/b/../../here"),
        ]:
            packer.add(Part.ENTRY, Entry(kind, [*map(spell, path)], target=spell(target)))
        with pytest.raises(TransferError, match="'r/out' leads out of the tree"):
            with TreeWriter(None, True, Transfer()) as writer:
                writer.feed(packer.take())
                writer.finish()
        assert os.listdir(here) == []

    def test_a_file_cannot_be_written_through_a_link_that_was_sent(self, here, tmp_path):
        (tmp_path / "outside").mkdir()
        packer = Packer(1 << 16)
        for kind, path, target in [
            (EntryKind.DIRECTORY, ["r"], ""),
            (EntryKind.LINK, ["r", "l"], "d"),
            (EntryKind.FILE, ["r", "l", "f"], ""),
        ]:
            packer.add(Part.ENTRY, Entry(kind, [*map(spell, path)], target=spell(target)))
        with pytest.raises(TransferError, match="not in a directory that was sent"):
            with TreeWriter(None, True, Transfer()) as writer:
                writer.feed(packer.take())

    def test_the_same_name_twice_is_refused(self, here):
        packer = Packer(1 << 16)
        packer.add(Part.ENTRY, Entry(EntryKind.DIRECTORY, [b"r"]))
        for _ in range(2):
            packer.add(Part.ENTRY, Entry(EntryKind.FILE, [b"r", b"f"]))
            packer.add(Part.END, filetree.xxh3_128().digest())
        with pytest.raises(FileExistsError):
            with TreeWriter(None, True, Transfer()) as writer:
                writer.feed(packer.take())
        assert os.listdir(here) == []


class TestSource:
    def test_what_is_not_there_is_named(self, here):
        with pytest.raises(FileNotFoundError) as caught:
            Source(str(here / "nothing"))
        assert caught.value.filename == str(here / "nothing")

    def test_what_may_not_be_read_is_named(self, here, monkeypatch):
        (here / "f").write_bytes(b"x")
        (here / "f").chmod(0)
        if os.access(here / "f", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(PermissionError) as caught:
            Source(str(here / "f"))
        assert caught.value.filename == str(here / "f")

    def test_no_name_is_not_the_current_directory(self, here):
        with pytest.raises(FileNotFoundError):
            Source("")

    @pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file is known to fail")
    def test_what_fails_while_it_is_read_is_named(self):
        with pytest.raises(OSError, match="/proc/self/mem") as caught:
            list(Source("/proc/self/mem").payloads(Transfer()))
        assert caught.value.errno == errno.EIO

    def test_sockets_and_pipes_are_refused(self, here):
        os.mkfifo(here / "pipe")
        with pytest.raises(TransferError, match="pipe is neither a file nor a directory"):
            Source(str(here / "pipe"))
        (here / "d").mkdir()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("d/s")
            with pytest.raises(TransferError, match="d/s: it is neither a file nor a directory"):
                list(Source(str(here / "d")).payloads(Transfer()))

    def test_size_is_that_of_all_files(self, tree):
        total = sum(entry[2].st_size for entry in _files(tree))
        assert Source(str(tree)).size() == total

    def test_the_root_directory_has_a_name(self):
        assert Source("/").name == "root"

    def test_a_file_that_grows_is_sent_as_it_is_read(self, here):
        (here / "f").write_bytes(bytes(100_000))
        with TreeWriter("g", True, Transfer()) as writer:
            grown = False
            for payload in Source(str(here / "f")).payloads(Transfer(), 1 << 14):
                writer.feed(payload)
                if not grown:
                    with open(here / "f", "ab") as file:
                        file.write(b"more")
                    grown = True
            writer.finish()
        assert (here / "g").read_bytes() == bytes(100_000) + b"more"

    @pytest.mark.parametrize("left", [0, 50_000])
    def test_a_file_that_becomes_shorter_is_not_sent(self, here, left):
        (here / "f").write_bytes(bytes(100_000))
        with TreeWriter("g", True, Transfer()) as writer:
            payloads = Source(str(here / "f")).payloads(Transfer(), 1 << 14)
            writer.feed(next(payloads))
            os.truncate(here / "f", left)
            with pytest.raises(TransferError, match=f"f: it was cut from 100000 to {left} bytes"):
                for payload in payloads:
                    writer.feed(payload)
        assert os.listdir(here) == ["f"]


def _files(top):
    for directory, _, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield directory, name, status
