"""Options from all their sources: which one wins, what is told about mistakes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipkernel.cluster import configuration, sources, spec
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.sources import load_file, misspelt_variables, read_settings, variable_of
from ipkernel.errors import ConfigurationError, SecurityError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in [name for name in os.environ if name.startswith(sources.PREFIX)]:
        if name != "IPKERNEL_TEST_COOKIE":
            monkeypatch.delenv(name)
    return tmp_path / "ipython"


@pytest.fixture
def directory(home):
    return ClusterDirectory.named("big").create()


def write(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def user(home, directory):
    """Write the user's file."""
    return lambda text: write(home / "ipcluster.ini", text)


@pytest.fixture
def own(directory):
    """Write the cluster's file."""
    return lambda text: write(directory.path / "ipcluster.ini", text)


def test_nothing_is_given(directory):
    found = load(directory)
    assert found.files == ()
    assert found.value("cluster", "n") is None
    assert found.value("cluster", "engines") == ["local"]
    assert found.value("cluster", "engine_timeout") == 60.0
    assert found.origin("cluster", "engine_timeout") == "default"
    assert found.section("environment") == {}
    assert found.section("slots") == {
        "cwd": "",
        "memory": 0,
        "affinity": "none",
        "output_limit": 0,
        "environment": {},
        "resources": {},
        "host_resources": {},
    }
    assert {row.origin for row in found.rows(everything=True)} == {"default"}


def test_defaults_belong_to_nobody(directory):
    load(directory).value("cluster", "engines").append("x")
    load(directory).section("cluster")["hosts"].append("x")
    assert load(directory).value("cluster", "engines") == ["local"]
    assert load(directory).value("cluster", "hosts") == []


def test_precedence(directory, user, own, monkeypatch):
    """Each source wins over those behind it, and says so."""

    def now(**given):
        found = load(directory, given=given)
        return found.value("cluster", "n"), found.origin("cluster", "n")

    assert now() == (None, "default")
    path = user("\n[cluster]\nn = 1\n")
    assert now() == (1, f"{path}:3")
    path = own("[cluster]\nn = 2\n")
    assert now() == (2, f"{path}:2")
    monkeypatch.setenv("IPKERNEL_N", "3")
    assert now() == (3, "environment IPKERNEL_N")
    assert now(n=4) == (4, "keyword")
    assert now(n=None) == (3, "environment IPKERNEL_N")
    monkeypatch.setenv("IPKERNEL_N", "")
    assert now() == (2, f"{path}:2")


def test_sections_are_merged_option_by_option(directory, user, own):
    user("[environment]\nA = 1\nB = 1\n[slots]\nmemory = 1GB\n[[environment]]\nX = 1\nY = 1\n")
    own("[environment]\nB = 2\nC = 2\n[slots]\ncwd = /x\n[[environment]]\nY = 2\n")
    found = load(directory, given={"environment": {"C": "3"}, "slots": {"affinity": "auto"}})
    assert found.section("environment") == {"A": "1", "B": "2", "C": "3"}
    assert found.section("slots") == {
        "cwd": "/x",
        "memory": 10**9,
        "affinity": "auto",
        "output_limit": 0,
        "environment": {"X": "1", "Y": "2"},
        "resources": {},
        "host_resources": {},
    }
    assert found.section("slots")["environment"] == {
        row.option: row.value for row in found.rows() if row.section == "slots.environment"
    }
    assert found.value("slots.environment", "Y") == "2"
    assert found.origin("slots.environment", "X").endswith("ipcluster.ini:7")
    assert found.files == (
        directory.path / "ipcluster.ini",
        directory.path.parent / "ipcluster.ini",
    )


def test_environment_of_other_sections(directory, monkeypatch):
    monkeypatch.setenv("IPKERNEL_SLOTS_MEMORY", "1GB")
    monkeypatch.setenv("IPKERNEL_SSH_USER", "me")
    monkeypatch.setenv("IPKERNEL_ENGINE_ARGS", "--a, '--b=1,2'")
    monkeypatch.setenv("IPKERNEL_CONTROLLER_LOCATION", "a, # b")
    found = load(directory)
    assert found.value("slots", "memory") == 10**9
    assert found.value("ssh", "user") == "me"
    assert found.origin("ssh", "user") == "environment IPKERNEL_SSH_USER"
    assert found.value("cluster", "engine_args") == ["--a", "--b=1,2"]
    assert found.value("cluster", "controller_location") == "a, # b"
    assert load(directory, given={"ssh": {"user": "you"}}).value("ssh", "user") == "you"


def test_variables_of_the_program_itself_are_no_options(directory, monkeypatch):
    monkeypatch.setenv("IPKERNEL_CLUSTER", "/a/b")
    monkeypatch.setenv("IPKERNEL_SLOTS", "{}")
    monkeypatch.setenv("IPKERNEL_PORTABLE", "1")
    assert {row.origin for row in load(directory).rows(everything=True)} == {"default"}
    assert misspelt_variables() == {}


def test_misspelt_variables(monkeypatch):
    monkeypatch.setenv("IPKERNEL_HOTS", "a")
    monkeypatch.setenv("IPKERNEL_SSH_USR", "a")
    monkeypatch.setenv("IPKERNEL_N", "3")
    assert misspelt_variables() == {
        "IPKERNEL_HOTS": "IPKERNEL_HOSTS",
        "IPKERNEL_SSH_USR": "IPKERNEL_SSH_USER",
    }


def test_names_of_variables():
    assert variable_of("cluster", "controller_ip") == "IPKERNEL_CONTROLLER_IP"
    assert variable_of("windows-hpc", "job") == "IPKERNEL_WINDOWS_HPC_JOB"


def test_no_two_options_share_a_variable():
    names = [
        variable_of(section, name)
        for section in spec.section_names()
        for name in spec.find_section(section).options
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[clster]\nn = 1", 1, r"unknown section [clster]; did you mean 'cluster'?"),
        ("[cluster]\nhots = a", 2, "unknown option 'hots' in [cluster]; did you mean 'hosts'?"),
        ("[ssh]\nhots = a", 2, "unknown option 'hots' in [ssh]; did you mean 'hosts'?"),
        ("[slots]\n[[env]]\nA = 1", 2, "unknown section 'env' in [slots]; there are: environment"),
        ("[slots]\n[[environment]]\n[[[x]]]", 3, "unknown section 'x' in [slots.environment]"),
        ("[slots]\n[[environmnt]]", 2, "did you mean 'environment'?"),
        ("[cluster]\n[[x]]\ny = 1", 2, "unknown section 'x' in [cluster]; there are none"),
        ("n = 4", 1, "'n' stands in no section: write a line such as [cluster] above it"),
        (
            "[cluster]\nn = five",
            2,
            "'n' in [cluster] must be a whole number from 0 to 4096, not 'five'",
        ),
        ("[cluster]\nn = 5, 6", 2, "must be a whole number from 0 to 4096, not '5, 6'"),
        ("[cluster]\n\nlog_level = loud", 3, "must be debug, info, warning, error or critical"),
        (
            "[cluster]\ncontroller_location = a, b",
            2,
            "must be a text, not 'a, b'; write a text that has commas in quotes",
        ),
        ("[cluster]\nengines = slrm", 2, "there is no launcher 'slrm' for the engines; did you"),
        ("[cluster]\nengines = local:", 2, "'engines' in [cluster] must be names of launchers"),
        ("[slots]\nmemory = lots", 2, "'memory' in [slots] must be a size"),
        ("[cluster]\nn = %(m)s", 2, "refers to %(m)s"),
        ('[environment]\n"A=B" = 1', 2, "'A=B' cannot be an environment variable"),
        ("[environment]\nX = pb://abc@tcp:1.2.3.4:5/x", 2, "'X' has a FURL, which is a secret"),
        ("[cluster]\nengine_args = a, pb://x", 2, "has a FURL"),
        ("[slots]\nenvironment = A", 2, "is no option but a section: write [[environment]] in a"),
        ("[cluster]\nn = 1\nn = 2", 3, "'n' is there twice, first in line 2"),
    ],
)
def test_mistakes_in_a_file(directory, own, text, line, what):
    path = own(text)
    with pytest.raises(ConfigurationError) as caught:
        load(directory)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert what in str(caught.value)


def test_file_that_is_not_safe(directory, own, user):
    path = own("[cluster]\nn = 1")
    path.chmod(0o666)
    with pytest.raises(SecurityError, match=f"others can write to {path}"):
        load(directory)
    path.unlink()
    path = user("")
    path.chmod(0o660)
    with pytest.raises(SecurityError, match=f"others can write to {path}"):
        load(directory)


def test_a_left_over_header_of_a_launcher_that_is_gone_does_no_harm(directory, own):
    own("[pigeon]\n# speed = 3\n[[inner]]\n[cluster]\nn = 2\n")
    assert load(directory).value("cluster", "n") == 2
    own("[pigeon]\nspeed = 3\n")
    with pytest.raises(ConfigurationError, match=r"line 1: unknown section \[pigeon\]"):
        load(directory)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("IPKERNEL_N", "x", "environment variable IPKERNEL_N: 'n' in [cluster] must be a whole"),
        ("IPKERNEL_HOSTS", "'a", "environment variable IPKERNEL_HOSTS: 'hosts' in [cluster] must"),
        ("IPKERNEL_SLOTS_AFFINITY", "x", "IPKERNEL_SLOTS_AFFINITY: 'affinity' in [slots] must be"),
    ],
)
def test_mistakes_in_the_environment(directory, monkeypatch, name, text, what):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError, match=re.escape(what)):
        load(directory)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"n": -1}, "n must be a whole number from 0 to 4096, not -1"),
        (
            {"engine_timeout": 0},
            "engine_timeout must be a number of seconds above 0, or such as 90s",
        ),
        ({"hots": ["a"]}, "unknown option 'hots'; did you mean 'hosts'?"),
        ({"slots": "x"}, "slots must be a mapping with options of [slots], not 'x'"),
        (
            {"controller_options": 3},
            "controller_options must be a mapping with options of [controller]",
        ),
        ({"slots": {"environment": "A=1"}}, "'environment' in [slots] is no option but a section"),
        ({"n": {"a": 1}}, "n must be a whole number from 0 to 4096, not {'a': 1}"),
        ({"hosts": {}}, "hosts must be a list of texts, separated by commas, not {}"),
        ({"slrum": {"queue": "a"}}, "unknown section [slrum]; did you mean 'slurm'?"),
        ({"ssh": {"hots": ["a"]}}, "unknown option 'hots' in [ssh]; did you mean 'hosts'?"),
        ({"slots": {"memory": "x"}}, "'memory' in [slots] must be a size"),
        ({"environment": {"A": 1}}, "'A' in [environment] must be a text, not 1"),
        ({"environment": {"": "1"}}, "'' cannot be an environment variable"),
        ({"slots": {"environment": {"A=": "1"}}}, "'A=' cannot be an environment variable"),
        ({"engines": "slrm"}, "there is no launcher 'slrm' for the engines"),
        ({"slots": {"environment": {"a": {"b": "c"}}}}, "unknown section 'a' in"),
    ],
)
def test_mistakes_of_programs(directory, given, what):
    with pytest.raises(ConfigurationError, match=re.escape(what)):
        load(directory, given=given)


def test_what_programs_give(directory):
    found = load(
        directory,
        given={
            "n": 2,
            "engines": [object, ("local", 3)],
            "controller_args": ("--a",),
            "spill_dir": directory.path,
            "environment": {"A": None, "B": "1"},
            "ssh": {"hosts": ["a"], "a": {"port": 22}, "b.example": {"port": 23}},
        },
    )
    assert found.value("cluster", "engines") == [object, ("local", 3)]
    assert found.value("cluster", "controller_args") == ["--a"]
    assert found.value("cluster", "spill_dir") == str(directory.path)
    assert found.section("environment") == {"B": "1"}
    assert found.section("ssh")["a"]["port"] == 22
    assert found.section("ssh")["a"]["user"] is None
    assert found.value("ssh.a", "port") == 22
    assert found.value("ssh.b.example", "port") == 23


def test_unknown_names_are_asked_for(directory):
    found = load(directory)
    with pytest.raises(ConfigurationError, match=r"unknown option 'm' in \[cluster\]; there are"):
        found.value("cluster", "m")
    with pytest.raises(ConfigurationError, match=r"unknown section \[q\]"):
        found.origin("q", "n")
    with pytest.raises(ConfigurationError, match=r"unknown option 'a' in \[cluster.x.y\]"):
        found.value("cluster.x.y", "a")
    with pytest.raises(ConfigurationError, match=r"unknown section \[q\]"):
        found.section("q")


def test_paths_in_a_file_are_relative_to_it(directory, own, user, home):
    user("[cluster]\nspill_dir = spill\n")
    assert load(directory).value("cluster", "spill_dir") == str(home / "spill")
    own("[cluster]\nspill_dir = %(cluster_dir)s/%(cluster)s\n")
    assert load(directory).value("cluster", "spill_dir") == str(directory.path / "big")
    own("[cluster]\nspill_dir =\n")
    assert load(directory).value("cluster", "spill_dir") == ""


def test_quoted_text_of_a_list_is_one_item(directory, own):
    own('[cluster]\nengine_args = "a, b"\nhosts = a\ncontroller_args = ""\n')
    found = load(directory)
    assert found.value("cluster", "engine_args") == ["a, b"]
    assert found.value("cluster", "hosts") == ["a"]
    assert found.value("cluster", "controller_args") == []


def test_a_user_without_a_name(directory, own, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    own("[environment]\nX = %(user)s")
    assert load(directory).section("environment") == {"X": str(os.getuid())}


# -- hosts and engines ------------------------------------------------------------------------


def chosen(directory, **given):
    found = load(directory, given=given)
    return found.value("cluster", "engines"), found.section("ssh")["hosts"]


def test_hosts_mean_ssh(directory, own, user, monkeypatch):
    assert chosen(directory) == (["local"], [])
    assert chosen(directory, hosts="a:4, b") == (["ssh"], ["a:4", "b"])
    assert chosen(directory, hosts=["a"], engines="local:2, SSH") == (["local:2", "ssh"], ["a"])
    assert chosen(directory, hosts=["a"], engines=[("ssh", 2)])[0] == [("ssh", 2)]
    assert chosen(directory, hosts=["a"], engines=[Strange])[0] == [Strange]
    assert chosen(directory, hosts=["a"], ssh={"hosts": ["b"]}) == (["ssh"], ["b"])
    user("[cluster]\nengines = local:2\n")
    assert chosen(directory, hosts=["a"]) == (["ssh"], ["a"])
    own("[cluster]\nhosts = c, d\n")
    assert chosen(directory) == (["ssh"], ["c", "d"])
    assert chosen(directory, engines="local") == (["local"], ["c", "d"])
    assert chosen(directory, hosts=["a"]) == (["ssh"], ["a"])
    monkeypatch.setenv("IPKERNEL_HOSTS", "e")
    assert chosen(directory) == (["ssh"], ["e"])
    user("[cluster]\nengines = ssh:8, local\n")
    assert chosen(directory) == (["ssh:8", "local"], ["e"])


def test_origin_of_ssh_is_that_of_the_hosts(directory, own):
    path = own("[cluster]\nhosts = c, d\n")
    found = load(directory)
    assert found.origin("cluster", "engines") == f"{path}:2"
    assert found.origin("ssh", "hosts") == f"{path}:2"
    assert "ssh.hosts" in {f"{row.section}.{row.option}" for row in found.rows()}


def test_hosts_without_ssh_are_a_contradiction(directory, own):
    with pytest.raises(
        ConfigurationError, match=r"hosts are for .* ssh, but engines is local \(key"
    ):
        load(directory, given={"hosts": ["a"], "engines": "local"})
    path = own("[cluster]\nengines = local:3\nhosts = a\n")
    with pytest.raises(ConfigurationError, match=rf"but engines is local \({path}:2\)"):
        load(directory)
    assert load(directory, given={"engines": "ssh"}).section("ssh")["hosts"] == ["a"]


def test_no_hosts_after_all(directory, user, own):
    user("[cluster]\nhosts = a, b\n")
    own("[cluster]\nhosts =\n")
    assert chosen(directory) == (["local"], [])
    assert chosen(directory, hosts=[]) == (["local"], [])


# -- launchers' options -----------------------------------------------------------------------


class Strange:
    """A class that is no known launcher."""

    SPEC = "# How many.\ntimes = integer(0, 9, default=3)\nnames = string_list(default=list())"


def test_options_of_launchers(directory, own):
    own("[ssh]\nuser = me\n")
    found = load(directory)
    assert found.launcher_options("ssh", Strange)["user"] == "me"
    assert found.launcher_options("some:Strange", Strange) == {"times": 3, "names": []}
    assert found.launcher_options("local", object) == {}


# -- texts of the command line ----------------------------------------------------------------


def test_options_of_the_controller_go_with_its_launcher(tmp_path):
    given = {**read_settings(["controller.restart=no"]), "controller": "ssh"}
    found = load(ClusterDirectory(tmp_path / "c"), given=given)
    assert found.value("controller", "restart") is False
    assert found.value("cluster", "controller") == "ssh"
    found = load(ClusterDirectory(tmp_path / "c"), given={"controller_options": {"restart": True}})
    assert found.value("controller", "restart") is True


def test_settings():
    texts = [
        "n=4",
        "cluster.hosts = a:2, b",
        "slots.memory=2GB",
        "slots.environment.GPU={slot}",
        "slots.resources.gpu=1",
        "controller.scheme=LRU",
        "controller.journal=power",
        "controller.keep_results=1.5h",
        "controller.keep_results_size=2GB",
        "controller.host_grace=5",
        "controller.restart_grace=30",
        "slots.host_resources.memory=2.5",
        "ssh.user=me=you",
        "ssh.a.port=22",
        "ssh.node1.example.port=23",
        "environment.A=",
        "n=5",
    ]
    assert read_settings(texts) == {
        "n": 5,
        "hosts": ["a:2", "b"],
        "controller_options": {
            "scheme": "lru",
            "journal": "power",
            "keep_results": 5400.0,
            "keep_results_size": "2GB",
            "host_grace": 5.0,
            "restart_grace": 30.0,
        },
        "slots": {
            "memory": 2 * 10**9,
            "environment": {"GPU": "{slot}"},
            "resources": {"gpu": 1.0},
            "host_resources": {"memory": 2.5},
        },
        "ssh": {"user": "me=you", "a": {"port": 22}, "node1.example": {"port": 23}},
        "environment": {"A": ""},
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("n", "'n' sets nothing: write SECTION.OPTION=VALUE"),
        ("=4", "sets nothing"),
        ("slots.=4", "sets nothing"),
        ("m=4", "'m=4': unknown option 'm' in [cluster]"),
        ("n=four", "'n=four': 'n' in [cluster] must be a whole number"),
        ("slts.memory=1", "unknown section [slts]; did you mean 'slots'?"),
        ("slots.env.A=1", "unknown section 'env' in [slots]"),
        ("hosts='a", "'hosts' in [cluster] must be a list of texts"),
    ],
)
def test_wrong_settings(text, what):
    with pytest.raises(ConfigurationError, match=re.escape(what)):
        read_settings([text])


# -- anything at all --------------------------------------------------------------------------

LINES = st.sampled_from(
    ["[cluster]", "[ssh]", "[slots]", "[[environment]]", "[[a]]", "[environment]", "[DEFAULT]", "[x]",
     "n = 3", "n = x", "hosts = a, b", "hosts = '", "engines = ssh", "engines = local:2", "user = me",
     "memory = 1GB", "memory = %(n)s", "cluster = %(cluster)s", "x = 1", "x = %(x)s", "", "# z", "=",
     "n =", "port = 3", "spill_dir = ~/%(user)s", "A = pb://x", "log_level = debug", "__many__ = 1",
     "[__many__]", "[local]"]
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(LINES, max_size=12).map("\n".join), st.text(max_size=60), st.binary()))
def test_any_file_is_read_or_refused_with_its_place(directory, content):
    path = directory.path / "ipcluster.ini"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    path.chmod(0o600)
    try:
        load_file(path, directory)
    except ConfigurationError as error:
        assert re.match(rf"{re.escape(str(path))}, line \d+: .", str(error))
        return
    try:
        found = load(directory)
    except ConfigurationError as error:
        assert "hosts are for the launcher ssh" in str(error)
        return
    for row in found.rows(everything=True):
        assert found.value(row.section, row.option) == row.value
        assert found.origin(row.section, row.option) == row.origin
        assert row.origin == "default" or row.origin.startswith(f"{path}:")


# -- what it costs ----------------------------------------------------------------------------


def loaded_modules(code):
    """Return which modules that take long to import were loaded by a program."""
    watched = ("configobj", "twisted", "psutil", "importlib.metadata", "ipkernel.cluster.inifile")
    program = f"import sys\n{code}\nprint([m for m in {watched!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_without_a_file_nothing_is_loaded(home):
    code = """
from ipkernel.cluster.configuration import load
from ipkernel.cluster.directory import ClusterDirectory
found = load(ClusterDirectory.named(), given={"n": 4, "engines": "local", "spill_limit": "4GB"})
for name in ("cluster", "environment", "slots"):
    found.section(name)
found.launcher_options("local", object)
import ipkernel
ipkernel.Cluster(n=2)
"""
    assert loaded_modules(code) == "[]"
    write((home.mkdir() or home) / "ipcluster.ini", "[cluster]\nn = 3\n")
    assert "configobj" in loaded_modules(code)


def test_files_of_a_cluster(directory, home):
    own, user = configuration.files(directory)
    assert (own, user) == (directory.path / "ipcluster.ini", home / "ipcluster.ini")
    assert configuration.files(ClusterDirectory(home)) == [user]
