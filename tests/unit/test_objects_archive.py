"""Files as parts: packing, unpacking, and what is not believed."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipkernel.errors import TransferError
from ipkernel.objects import archive
from ipkernel.objects.archive import Entry, EntryKind, Packer, Part, Unpacker

FILE, DIRECTORY, LINK = EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.LINK
DIGEST = bytes(16)


def part(kind: int, content: bytes) -> bytes:
    return struct.pack("<BI", kind, len(content)) + content


def entry(kind, *path: str, target: str = "") -> bytes:
    names = [archive.spell(name) for name in path]
    made = Entry(kind, names, target=archive.spell(target))
    return part(Part.ENTRY, msgspec.msgpack.encode(made))


def data(content: bytes) -> bytes:
    return part(Part.DATA, content)


END = part(Part.END, DIGEST)


def unpack(*payloads: bytes):
    unpacker = Unpacker()
    events = [e for payload in payloads for e in unpacker.feed(memoryview(payload))]
    unpacker.finish()
    return events


class TestNames:
    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "/etc", "a\0b", "../x"])
    def test_what_leads_elsewhere_is_no_name(self, name):
        with pytest.raises(TransferError, match="leads somewhere else"):
            archive.name_of(archive.spell(name), windows=False)

    @pytest.mark.parametrize("name", ["a", "...", "..a", "a b", "é", "a\\b", "C:", "\udcff", "NUL"])
    def test_everything_else_is_one(self, name):
        assert archive.name_of(archive.spell(name), windows=False) == name

    @pytest.mark.parametrize(
        "name", ["a\\b", "C:", "a:stream", "NUL", "nul.txt", "com1", "a.", "a ", "a?", "a\nb"]
    )
    def test_windows_cannot_have_them_all(self, name):
        with pytest.raises(TransferError, match="on Windows"):
            archive.name_of(archive.spell(name), windows=True)

    @pytest.mark.parametrize("name", ["a", "null", "COM", "console.txt", ".a", "é"])
    def test_windows_can_have_most(self, name):
        assert archive.name_of(archive.spell(name), windows=True) == name

    @given(st.binary(min_size=1, max_size=20))
    def test_names_that_are_no_text_survive(self, raw):
        try:
            name = archive.name_of(raw, windows=False)
        except TransferError:
            return
        assert archive.spell(name) == raw


class TestLinks:
    @pytest.mark.parametrize(
        ("depth", "target"),
        [
            (0, "a"),
            (0, "./a/../b"),
            (1, "../a"),
            (2, "../../a/b"),
            (0, "a//b"),
            (0, "a/.."),
            (0, "."),
        ],
    )
    def test_within(self, depth, target):
        assert not archive.leads_out(depth, target)

    @pytest.mark.parametrize(
        ("depth", "target"),
        [(0, "/a"), (0, ".."), (0, "a/../.."), (1, "../../a"), (2, "../../../a"), (0, "../a")],
    )
    def test_out(self, depth, target):
        assert archive.leads_out(depth, target)

    def test_a_link_into_the_tree_is_accepted(self):
        unpack(entry(DIRECTORY, "r") + entry(LINK, "r", "l", target="x/y"))

    @pytest.mark.parametrize("target", ["", "..", "/etc/passwd", "../r", "a\0b"])
    def test_others_are_not(self, target):
        with pytest.raises(TransferError, match="leads out of the tree"):
            unpack(entry(DIRECTORY, "r") + entry(LINK, "r", "l", target=target))


class TestOrder:
    def test_a_file(self):
        events = unpack(entry(FILE, "f") + data(b"ab"), data(b"c") + END)
        assert [kind for kind, _ in events] == [Part.ENTRY, Part.DATA, Part.DATA, Part.END]
        assert b"".join(bytes(c) for k, c in events if k is Part.DATA) == b"abc"

    def test_a_tree(self):
        payload = (
            entry(DIRECTORY, "r")
            + entry(DIRECTORY, "r", "d")
            + entry(FILE, "r", "d", "f")
            + END
            + entry(FILE, "r", "g")
            + END
        )
        assert len(unpack(payload)) == 6

    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            (entry(FILE, "a", "b"), "cannot be the first"),
            (entry(LINK, "a", target="b"), "cannot be the first"),
            (entry(DIRECTORY, "r") + entry(FILE, "s", "f"), "not in a directory that was sent"),
            (entry(DIRECTORY, "r") + entry(FILE, "f"), "not in a directory that was sent"),
            (entry(DIRECTORY, "r") + entry(DIRECTORY, "r", "d", "e"), "not in a directory"),
            (entry(FILE, "f") + END + entry(FILE, "f", "g"), "not in a directory"),
            (entry(FILE, ".."), "leads somewhere else"),
            (entry(FILE, "/etc/passwd"), "leads somewhere else"),
            (entry(DIRECTORY, "r") + entry(FILE, "r", ".."), "leads somewhere else"),
            (data(b"x"), "kind 2 cannot be where it is"),
            (END, "kind 3 cannot be where it is"),
            (entry(DIRECTORY, "r") + data(b"x"), "kind 2 cannot be where it is"),
            (entry(FILE, "f") + entry(FILE, "g"), "kind 1 cannot be where it is"),
            (entry(FILE, "f") + part(Part.END, b"short"), "kind 3 cannot be where it is"),
            (part(9, b""), "kind 9 cannot be where it is"),
            (part(Part.ENTRY, b"rubbish"), "description is damaged"),
            (b"\1\0", "cut off"),
            (struct.pack("<BI", Part.DATA, 5) + b"abcd", "bytes too many"),
            (b"", "not complete"),
            (entry(FILE, "f") + data(b"x"), "not complete"),
        ],
    )
    def test_what_cannot_be_is_refused(self, payload, why):
        with pytest.raises(TransferError, match=why):
            unpack(payload)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_taken_or_refused_clearly(self, payload):
        try:
            unpack(payload)
        except TransferError:
            return

    @pytest.mark.parametrize(
        "content",
        [
            [9, [b"a"], 0o644, 0, 0, b""],
            [1, [], 0o644, 0, 0, b""],
            [1, [b"a"], 0o4755, 0, 0, b""],
            [1, [b"a"], -1, 0, 0, b""],
            [1, [b"a" * 1025], 0o644, 0, 0, b""],
            [1, [b"a"] * 513, 0o644, 0, 0, b""],
            [1, [b"a"], 0o644, 0, -1, b""],
            [1, ["../a"], 0o644, 0, 0, b""],
        ],
    )
    def test_descriptions_are_bounded(self, content):
        with pytest.raises(TransferError, match="damaged|leads somewhere else"):
            unpack(part(Part.ENTRY, msgspec.msgpack.encode(content)))


class TestPacking:
    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.tuples(st.binary(min_size=1, max_size=30), st.binary(max_size=400)), max_size=8
        ),
        st.integers(200, 700),
    )
    def test_there_and_back(self, files, size):
        packer, payloads = Packer(size), []

        def flush():
            payloads.append(bytes(packer.take()))

        def add(kind, content):
            if not packer.add(kind, content):
                flush()
                assert packer.add(kind, content)

        add(Part.ENTRY, Entry(DIRECTORY, [b"root"]))
        for number, (name, content) in enumerate(files):
            raw = b"%d" % number + name.replace(b"/", b"_").replace(b"\0", b"_")
            add(Part.ENTRY, Entry(FILE, [b"root", raw], 0o600, number, len(content)))
            left = content
            while left:
                room = packer.room()
                if room is None:
                    flush()
                    continue
                count = min(len(left), len(room))
                room[:count] = left[:count]
                packer.wrote(count)
                left = left[count:]
            add(Part.END, DIGEST)
        flush()
        events = unpack(*payloads)
        assert all(len(payload) <= size for payload in payloads)
        found: list[bytes] = []
        for kind, content in events[1:]:
            if kind is Part.ENTRY:
                found.append(b"")
            elif kind is Part.DATA:
                found[-1] += bytes(content)
        assert found == [content for _, content in files]

    def test_what_never_fits_is_an_error(self):
        with pytest.raises(ValueError, match="too long"):
            Packer(64).add(Part.ENTRY, Entry(FILE, [b"x" * 100]))

    def test_memory_is_used_again(self):
        packer = Packer(100)
        packer.add(Part.END, DIGEST)
        first = packer.take()
        packer.add(Part.END, b"x" * 16)
        assert bytes(first[-16:]) == b"x" * 16
