"""What can be configured: ipkernel's own sections, and those that launchers describe."""

from __future__ import annotations

import inspect
import re
from importlib import metadata

import pytest

from ipkernel import launchers
from ipkernel.cluster import spec
from ipkernel.cluster.base import ClusterBase
from ipkernel.cluster.checks import checked, expected
from ipkernel.cluster.spec import MANY, find_section, nearest, read_spec, section_names
from ipkernel.errors import ConfigurationError


class Plugin:
    """A launcher of another package."""

    SPEC = """
        # How many
        # times.
        times = integer(0, 9, default=3)
        names = string_list(default=list())
        other = size
        # One host.
        [[__many__]]
            # Its port.
            port = integer(default=None)
    """


class Point:
    """An entry point."""

    group = launchers.GROUP

    def __init__(self, name, found):
        self.name = name
        self._found = found

    def load(self):
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.fixture
def plugins(monkeypatch):
    """Install launchers of another package."""

    def install(**found):
        points = [Point(name.replace("_", ".", 1), what) for name, what in found.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points)

    return install


def test_the_options_of_a_cluster_are_its_arguments():
    arguments = inspect.signature(ClusterBase).parameters
    assert set(spec.CLUSTER.options) <= set(arguments)
    for name in spec.CLUSTER.options:
        assert arguments[name].default is None, f"{name}: only a None can be told from a value"


def every_option():
    for name in section_names():
        section = find_section(name)
        for inner in (section, *section.sections.values()):
            for option, what in inner.options.items():
                yield f"{name}.{option}", what


@pytest.mark.parametrize(("name", "option"), list(every_option()))
def test_every_option_is_described_and_has_a_default_that_fits(name, option):
    assert option.help
    assert "of the kind" not in expected(option.check)
    assert name.endswith(MANY) or re.fullmatch(r"\w+\.[a-z][a-z0-9_]*", name)
    if option.default is not None:
        assert checked(option.check, option.default) == option.default


def test_a_plugins_section(plugins):
    plugins(engines_pigeon=Plugin)
    assert section_names()[-1] == "pigeon"
    section = find_section("pigeon")
    assert section.options == {
        "times": spec.Option("integer(0, 9, default=3)", 3, "How many times."),
        "names": spec.Option("string_list(default=list())", [], ""),
        "other": spec.Option("size", None, ""),
    }
    inner = section.section("any.example")
    assert inner.help == "One host."
    assert inner.option("port") == spec.Option("integer(default=None)", None, "Its port.")
    assert inner.option("prt") is None
    assert inner.section("x") is None


def test_controller_and_engines_share_a_section(plugins):
    other = type("Other", (), {"SPEC": "# Where.\nplace = string(default='')"})
    plugins(engines_pigeon=Plugin, controller_pigeon=other)
    assert list(find_section("pigeon").options) == ["place", "times", "names", "other"]


def test_launcher_without_options(plugins):
    plugins(engines_plain=object)
    assert find_section("plain").options == {}


@pytest.mark.parametrize("kind", [ImportError, AttributeError, ZeroDivisionError])
def test_plugin_that_cannot_be_loaded(plugins, kind):
    plugins(engines_broken=kind("no module"))
    with pytest.raises(ConfigurationError, match="launcher 'broken' cannot be loaded: no module"):
        find_section("broken")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = nonsense", "there is no check 'nonsense'"),
        ("a = integer(default=x)", "is no check"),
        ("a = integer\na = integer", "Duplicate"),
        ("[[[x]]]", "nested"),
        ("a", "Invalid line"),
    ],
)
def test_wrong_descriptions(text, what):
    with pytest.raises(
        ConfigurationError, match=rf"the options of launcher 'x' are wrong: .*{what}"
    ):
        read_spec("x", text)


def test_unknown_section():
    with pytest.raises(ConfigurationError, match=r"unknown section \[clster\]; did you mean 'clus"):
        find_section("clster")
    with pytest.raises(ConfigurationError, match=r"unknown section \[x\]; there are: cluster, env"):
        find_section("x")


def test_nearest():
    assert nearest("Hots", ["hosts", "n"]) == "; did you mean 'hosts'?"
    assert nearest("q", ["a", MANY, "b"]) == "; there are: a, b"
    assert nearest("q", []) == "; there are none"
