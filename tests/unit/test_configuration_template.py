"""Commented configuration files: everything in them is right, and can be read back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ipkernel.cluster import spec
from ipkernel.cluster.configuration import DEFAULT, load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.inifile import parse
from ipkernel.cluster.sources import load_file, settings_by_place
from ipkernel.cluster.template import setting, template
from ipkernel.errors import ConfigurationError


def read(text):
    return {place: entry.value for place, entry in parse(text.encode(), {}).entries.items()}


@pytest.fixture
def loaded(tmp_path):
    """Return a function that returns what a text in a file of a cluster means."""

    def load_text(text):
        path = tmp_path / "ipcluster.ini"
        path.write_bytes(text.encode())
        path.chmod(0o600)
        found = load_file(path, ClusterDirectory(tmp_path))
        return {place: value.value for place, value in found.items()}

    return load_text


def test_nothing_is_set_in_a_template(loaded):
    text = template("cluster 'x'")
    assert text.startswith("# Options of cluster 'x'.")
    assert loaded(text) == {}
    assert all(len(line) <= 90 for line in text.splitlines())
    assert text.isascii()


def uncommented(text):
    return re.sub(r"(?m)^#(?=\S)(?!$)", "", text)


def test_all_in_a_template_is_its_default(loaded):
    text = uncommented(template("cluster 'x'"))
    found = loaded(text)
    names = {place[:2] for place in found}
    for section in spec.section_names():
        known = spec.find_section(section)
        for name, option in known.options.items():
            if name != spec.MANY:
                assert found.pop((section, name)) == option.default
                assert (section, name) in names
    assert found == {}


def test_every_option_has_help_type_and_default():
    text = template("cluster 'x'")
    assert (
        "# Number of engines. By default one for each core. (a whole number from 0 to 4096)\n#n =\n"
    ) in text
    assert "#log_level = INFO\n" in text
    assert "#engine_timeout = 60\n" in text
    assert "#engines = local\n" in text
    assert "\n[[environment]]\n" in text


def test_what_is_set(loaded):
    given = {
        "n": 4,
        "hosts": ["a:4", "b"],
        "engine_args": ["--x=a,b"],
        "environment": {"A": "1, 2 # 3", "B": "%(home)s"},
        "slots": {"memory": "2GB", "environment": {"GPU": "{slot}"}},
    }
    places = settings_by_place(given)
    found = loaded(template("cluster 'x'", places))
    assert found == places
    assert found["slots", "memory"] == 2_000_000_000


def test_options_of_several_hosts(loaded):
    places = {
        ("ssh", "hosts"): ["a", "b"],
        ("ssh", "user"): "me",
        ("ssh", "a", "user"): "you",
        ("ssh", "b", "port"): 22,
    }
    found = loaded(template("cluster 'x'", places))
    assert found == places


def test_unknown_section():
    with pytest.raises(ConfigurationError, match=r"unknown section \[nix\]"):
        template("cluster 'x'", {("nix", "a"): 1})


def test_broken_plugin_does_no_harm(monkeypatch, loaded):
    def find(name):
        if name == "local":
            raise ConfigurationError("launcher 'local' cannot be loaded: no module")
        return spec.CORE.get(name, spec.Section("", {}))

    monkeypatch.setattr(spec, "find_section", find)
    text = template("cluster 'x'")
    assert "# [local]: launcher 'local' cannot be loaded: no module\n" in text
    assert loaded(text) == {}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a", "x = a"),
        ("", 'x = ""'),
        ("a, b", 'x = "a, b"'),
        (" a", 'x = " a"'),
        ("#", 'x = "#"'),
        ('"a"', "x = '\"a\"'"),
        ("a\nb", "x = '''a\nb'''"),
        ("%(y)s", "x = %(%)s(y)s"),
        (4, "x = 4"),
        (2.50, "x = 2.5"),
        (60.0, "x = 60"),
        (1 / 3, "x = 0.3333333333333333"),
        (True, "x = yes"),
        (False, "x = no"),
        ([], "x = ,"),
        (["a"], "x = a"),
        (["a, b"], 'x = "a, b"'),
        ([""], 'x = "",'),
        (["a", "b c"], "x = a, b c"),
        ([1, 2], "x = 1, 2"),
    ],
)
def test_lines(value, line):
    found = setting("x", value).replace('"""', "'''")
    assert found == line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "a\r\nb"),
        ("x", "\0"),
        ("x", "\udc80"),
        ("x", "\"\"\" '''"),
        ("x", ["'\"", "b"]),
        ("x", ["a\nb", "c"]),
        ("'\"", "a"),
        ("", "a"),
        ("a\nb", "a"),
    ],
)
def test_what_cannot_be_written_is_refused(name, value):
    with pytest.raises(ConfigurationError, match="cannot be written in an INI file"):
        setting(name, value)


TEXTS = st.text(
    alphabet=st.one_of(st.sampled_from(" ,'\"#%()[]=\n\r\t\\"), st.characters()), max_size=12
)


@settings(deadline=None)
@given(TEXTS, st.one_of(TEXTS, st.lists(TEXTS, max_size=4)))
@example("x", ["'", '"'])
@example("x", "%(%)s(")
@example("DEFAULT", "x")
def test_any_value_that_can_be_written_is_read_back(name, value):
    try:
        text = setting(name, value)
    except ConfigurationError:
        return
    ((place, found),) = read(text).items()
    assert place == (name,)
    if isinstance(value, list) and len(value) == 1 and value[0]:
        found = [found]
    assert found == value


PLAIN = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=12)


@settings(deadline=None)
@given(PLAIN)
def test_all_but_strange_values_can_be_written(value):
    assume(not ("'''" in value and '"""' in value))
    assert read(setting("x", value)) == {("x",): value}


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(0, 4096),
        "controller_port": st.integers(0, 65535),
        "controller_location": PLAIN,
        "engine_args": st.lists(PLAIN.filter(lambda text: "'" not in text), max_size=3),
        "store_memory": st.sampled_from(["4GB", "50%", 0]),
        "engine_timeout": st.floats(0.001, 1e9),
        "log_level": st.sampled_from(["DEBUG", "INFO"]),
        "environment": st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), PLAIN),
        "slots": st.fixed_dictionaries(
            {}, optional={"memory": st.integers(0, 1 << 40), "cwd": PLAIN}
        ),
        "ssh": st.fixed_dictionaries(
            {}, optional={"user": PLAIN, "hosts": st.lists(st.sampled_from(["a:3", "b"]))}
        ),
    },
)


@settings(deadline=None)
@given(SETTINGS)
def test_a_template_with_any_settings_means_those_settings(given_settings):
    places = settings_by_place(given_settings)
    try:
        text = template("cluster 'x'", places)
    except ConfigurationError as error:
        assert "cannot be written" in str(error)
        return
    if "pb://" in text:
        return
    from ipkernel.cluster.sources import _from_content

    path = Path("/nowhere/ipcluster.ini")
    found = _from_content(parse(text.encode(), {}), path)
    expected = {place: str(v) if place[-1] == "store_memory" else v for place, v in places.items()}
    assert {place: value.value for place, value in found.items()} == expected


def test_an_empty_option_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    (tmp_path / "ipcluster.ini").write_text("[cluster]\nn = 3\nengines = local:2\n")
    (tmp_path / "ipcluster.ini").chmod(0o600)
    directory = ClusterDirectory.named("x").create()
    (directory.path / "ipcluster.ini").write_text("[cluster]\nn =\ncontroller_ip =\n")
    (directory.path / "ipcluster.ini").chmod(0o600)
    found = load(directory)
    assert found.value("cluster", "n") is None
    assert found.value("cluster", "controller_ip") == ""
    assert found.origin("cluster", "n") == f"{directory.path}/ipcluster.ini:2"
    assert found.origin("cluster", "hosts") == DEFAULT
