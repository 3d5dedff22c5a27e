"""Reading INI files: values with their lines, clear errors, no surprises whatever is in them."""

from __future__ import annotations

import os
import re
import signal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipkernel.cluster import inifile
from ipkernel.cluster.inifile import WrongLine, parse, read_file, read_safely, read_value
from ipkernel.errors import ConfigurationError, SecurityError


def read(text, **names):
    """Return the values of a text by place."""
    data = text if isinstance(text, bytes) else text.encode()
    return {place: entry.value for place, entry in parse(data, names).entries.items()}


def wrong(text):
    """Return line and text of the error that a text causes."""
    with pytest.raises(WrongLine) as caught:
        read(text)
    return caught.value.line, str(caught.value)


def test_values_and_their_lines():
    text = """
# a comment
[a]
x = 1   # another
y=two words

[[b]]
list = one, "two, three" , 'four # five', six
[c]
"""
    content = parse(text.encode(), {})
    assert content.entries == {
        ("a", "x"): ("1", 4),
        ("a", "y"): ("two words", 5),
        ("a", "b", "list"): (["one", "two, three", "four # five", "six"], 8),
    }
    assert content.sections == {("a",): 3, ("a", "b"): 7, ("c",): 9}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("  ", ""),
        ("# comment", ""),
        ('""', ""),
        ("a", "a"),
        ("a b  # c, d", "a b"),
        ("a#b", "a"),
        ('"a#b"', "a#b"),
        ('"a, b"', "a, b"),
        ("'say \"hi\"'", 'say "hi"'),
        ("it's", "it's"),
        ("a,", ["a"]),
        (",", []),
        ("a, b,", ["a", "b"]),
        ("\"a\" , b c,'d'", ["a", "b c", "d"]),
        ('"", x', ["", "x"]),
        ("'''a\"b'c'''", "a\"b'c"),
        ("50%", "50%"),
        ("a=b=c", "a=b=c"),
        ("[x]", "[x]"),
        ('"b" # "a","c"', "b"),
        ("/p/%j.out", "/p/%j.out"),
    ],
)
def test_values(text, value):
    assert read(f"x = {text}") == {("x",): value}
    assert read_value(text) == value


@pytest.mark.parametrize("text", ['"a', "'a", 'a, "b', "a,,b", ", a", '"a" b', "a\ny = 2", "%(x)s"])
def test_values_that_are_none(text):
    with pytest.raises(ValueError):
        read_value(text)


def test_several_lines():
    text = "[a]\nx = '''one\n# two\n\n'''  # three\ny = 2\nz = \"\"\"a'''b\"\"\"\n"
    content = parse(text.encode(), {})
    assert content.entries[("a", "x")] == ("one\n# two\n\n", 2)
    assert content.entries[("a", "y")] == ("2", 6)
    assert content.entries[("a", "z")] == ("a'''b", 7)


def test_names_in_quotes():
    assert read("\"a = b\" = 1\n'c' = 2\nme@host = 3") == {
        ("a = b",): "1",
        ("c",): "2",
        ("me@host",): "3",
    }


def test_windows_lines_and_byte_order_mark():
    assert read(b"\xef\xbb\xbf[a]\r\nx = 1\r\n") == {("a", "x"): "1"}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[a\n", 1, "is no section"),
        ("x = 1\n[]", 2, "is no section"),
        ("[ ]", 1, "is no section"),
        ("[a] b", 1, "is no section"),
        ("[[a]", 1, "more '\\[' than '\\]', or fewer"),
        ("[a]]", 1, "more '\\[' than '\\]', or fewer"),
        ("[[a]]", 1, "'a' is nested too deeply"),
        ("[a]\n[[[b]]]", 2, "'b' is nested too deeply"),
        ("[a]\n[b]\n[a]", 3, "'a' is there twice, first in line 1"),
        ("[a]\nx = 1\n[[x]]\n", 3, "'x' is there twice, first in line 2"),
        ("[a]\n[[x]]\n[b]\n[a]\n", 4, "there twice"),
        ("[a]\nx = 1\ny = 1\nx = 2", 4, "'x' is there twice, first in line 2"),
        ("x\n", 1, "'x' is neither 'name = value' nor"),
        ("= 3", 1, "neither"),
        ('"x = 3', 1, "neither"),
        ("y = 2\n" + "z" * 90, 2, r"'zzz+\.\.\.' is neither"),
        ('x = "a', 1, "the value of 'x' has quotes that do not match"),
        ("x = a,,b", 1, "or an empty item"),
        ("x = '''a\nb\n", 1, "begins with ''' and does not end"),
        ("x = '''a\nb''' c\n", 2, "something behind the closing '''"),
        ("x = 1\ny = %(z)s", 2, r"refers to %\(z\)s, which is neither in this section"),
        ("x = %(x)s", 1, "refers to itself"),
        ("x = 1\ny = %(z)s\nz = %(y)s", 2, "refers to itself"),
        ("x = a, b\ny = %(x)s", 2, "refers to a list"),
        ("DEFAULT = 3", 1, "is the name of a section"),
        ("[a]\nx = \0", 2, "null character"),
        (b"\n\nx = \xff", 3, "byte 0xff is not UTF-8"),
        (b"\xff\xfex\0", 1, "in UTF-16: save it as UTF-8"),
        (b"\xfe\xff\0x", 1, "in UTF-16"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, line, what):
    at, said = wrong(text)
    assert at == line
    assert re.search(what, said), said


def test_references():
    text = """
    [DEFAULT]
    base = /data   # where it is
    [a]
    name = x
    path = %(base)s/%(name)s/%(user)s
    list = %(name)s, "%(name)s, 2"
    [[b]]
    path = %(name)s
    own = %(cluster)s
    """
    found = read(text, user="me", cluster="big")
    assert found == {
        ("a", "name"): "x",
        ("a", "path"): "/data/x/me",
        ("a", "list"): ["x", "x, 2"],
        ("a", "b", "path"): "x",
        ("a", "b", "own"): "big",
    }


def test_a_files_own_names_come_first():
    text = "[DEFAULT]\nuser = somebody\n[a]\nx = %(user)s\n[cluster]\ncluster = c\ny = %(cluster)s"
    found = read(text, user="me", cluster="big")
    assert (found["a", "x"], found["cluster", "y"]) == ("somebody", "c")


def test_a_section_is_no_value_to_refer_to():
    assert read("[cluster]\nx = %(cluster)s", cluster="big") == {("cluster", "x"): "big"}


def test_names_are_what_they_are():
    found = read("x = %(home)s/%(cluster)s", home="/a %(n)s %b", cluster="%(cluster)s")
    assert found == {("x",): "/a %(n)s %b/%(cluster)s"}


def test_an_own_name_that_refers_to_nothing():
    text = "[DEFAULT]\nuser = %(nobody)s\n[a]\nx = 1\ny = %(user)s"
    assert read(text.removesuffix("\ny = %(user)s"), user="me") == {("a", "x"): "1"}
    assert wrong(text)[0] == 5


def test_literal_percent():
    assert read("x = %(%)s(y)s and %(%)s") == {("x",): "%(y)s and %"}


def test_long_chains_of_references_are_errors():
    text = "\n".join(f"x{i} = %(x{i + 1})s" for i in range(5000)) + "\nx5000 = 1"
    assert wrong(text)[1].endswith("refers to itself, or by way of too many others")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
@pytest.mark.parametrize(
    "line",
    [
        "x = " + '"a",' * 500 + '"',
        "x = " + '"a",' * 500 + '"b" c',
        "x = a # " + '"a",' * 500,
        "x = " + "'a' , " * 500 + "#'",
        "x = " + " " * 5000 + "'",
        "x = " + "a " * 5000 + '"',
        "x = " + "a," * 5000 + "'",
        "[" * 5000,
        "[" + " " * 5000 + "x",
        "[ " * 500 + "a" + " ]" * 500 + "x",
        "x" + " " * 5000,
        "=" * 5000,
        "x = '''" + "''" * 5000,
        "x = " + "%(" * 3000,
    ],
)
def test_no_line_takes_long(line):
    """A misprint in a list must not cost minutes, as it does with patterns that backtrack."""

    def stop(number, frame):
        raise AssertionError("it takes too long")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 10.0)
    try:
        parse(line.encode(), {})
    except WrongLine:
        pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# -- anything at all --------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["[a]", "[[b]]", "[[[c]]]", "[DEFAULT]", "[", "]", "x", "y", "=", " = ", ",", "#", "'", '"', "'''",
     '"""', "%(x)s", "%(y)s", "%(", ")s", "%", "\n", "\n\n", "\r", "\r\n", " ", "\t", "\x0b", "\x1c",
     "\x85", "\u2028", "1", "a b", "\\", "é", "\ufeff", "x = 1\n", "y = a, b\n", "DEFAULT", "__many__"]
)  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
@example("[__many__]\nx=%(y)s")
@example("[a]\n__many__ = 1")
def test_anything_is_either_read_or_refused_with_its_line(content):
    data = content if isinstance(content, bytes) else content.encode()
    try:
        found = parse(data, {"user": "me"})
    except WrongLine as error:
        assert 1 <= error.line <= data.count(b"\n") + 1
        return
    lines = data.decode("utf-8").removeprefix("\ufeff").split("\n")
    for place, entry in found.entries.items():
        assert place[-1] in lines[entry.line - 1]
        assert isinstance(entry.value, str) or all(isinstance(one, str) for one in entry.value)
    for place, line in found.sections.items():
        assert place[-1] in lines[line - 1]


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_is_read_is_what_configobj_reads(text):
    """Where both accept a value, they agree, but for ConfigObj's mistakes with comments."""
    from configobj import ConfigObj, ConfigObjError

    if any(mark in text for mark in ("#", "%(", "[", "\ufeff")):
        return
    try:
        mine = read(text)
        theirs = ConfigObj(text.split("\n"), interpolation=False)
    except (WrongLine, ConfigObjError):
        return
    assert {place[0]: value for place, value in mine.items()} == dict(theirs)


# -- files ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ipcluster.ini"


def test_read_file(path):
    assert read_file(path, {}) is None
    path.write_text("[a]\nx = 1\n")
    path.chmod(0o644)
    assert read_file(path, {}).entries == {("a", "x"): ("1", 2)}
    path.write_text("[a]\nx\n")
    with pytest.raises(ConfigurationError, match=rf"^{path}, line 2: 'x' is neither"):
        read_file(path, {})


@pytest.mark.parametrize("mode", [0o620, 0o666, 0o602])
def test_file_that_others_can_write_to(path, mode):
    path.write_text("")
    path.chmod(mode)
    text = rf"others can write to {path} \(mode {mode:04o}\).*run 'chmod go-w {path}'"
    with pytest.raises(SecurityError, match=text):
        read_file(path, {})


def test_file_of_somebody_else(path, monkeypatch):
    path.write_text("")
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(SecurityError, match=f"{path} belongs to user"):
        read_file(path, {})


def test_no_file(path):
    path.mkdir()
    with pytest.raises(ConfigurationError, match=f"{path} is no file|cannot read {path}"):
        read_file(path, {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(path):
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigurationError, match="is no file"):
        read_file(path, {})


def test_file_that_cannot_be_opened(path):
    path.symlink_to(path)
    with pytest.raises(ConfigurationError, match=f"cannot read {path}: "):
        read_file(path, {})


def test_file_that_may_not_be_read(path, monkeypatch):
    path.write_text("")

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError, match=f"cannot read {path}: Permission denied"):
        read_file(path, {})


def test_a_link_is_followed(path, tmp_path):
    real = tmp_path / "real"
    path.symlink_to(real)
    with pytest.raises(
        ConfigurationError, match=f"{path} is a link to something that is not there"
    ):
        read_safely(path)
    real.write_text("x")
    real.chmod(0o666)
    with pytest.raises(SecurityError):
        read_safely(path)
    real.chmod(0o600)
    assert read_safely(path) == b"x"


def test_file_that_is_too_long(path):
    path.write_bytes(b"#" * (inifile.MAX_SIZE + 1))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="more than 1000000 bytes"):
        read_file(path, {})
