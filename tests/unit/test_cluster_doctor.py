"""The doctor's checks, one by one, with made-up circumstances."""

from __future__ import annotations

import os
import socket

import pytest

from ipkernel.cluster import doctor
from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.cluster.doctor import OK, PROBLEM, WARNING


def only(findings):
    """Return the one finding of a check."""
    (found,) = findings
    return found


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), PROBLEM), ((3, 11), OK), ((3, 13), OK), ((3, 14), WARNING), ((4, 0), WARNING)],
)
def test_versions_of_python(version, level):
    found = only(doctor.python_version(version))
    assert found.level == level
    assert ".".join(map(str, version)) in found.text
    assert bool(found.advice) == (level != OK)


def test_all_packages_are_there():
    assert only(doctor.packages(doctor.PACKAGES)) == doctor.Finding(
        "packages", OK, f"all {len(doctor.PACKAGES)} packages that are needed can be imported"
    )


def test_broken_packages_are_all_named():
    def load(name):
        if name == "b":
            raise ImportError("No module named 'b'")
        if name == "c":
            raise SystemError("libssl.so.3 is missing")

    found = list(doctor.packages(("a", "b", "c"), load))
    assert [one.level for one in found] == [PROBLEM, PROBLEM]
    assert found[0].text == "cannot import b: No module named 'b'"
    assert found[1].text == "cannot import c: libssl.so.3 is missing"
    assert "pip install" in found[0].advice


@pytest.mark.parametrize(
    ("limit", "level"), [(256, WARNING), (1023, WARNING), (1024, OK), (1 << 20, OK), (-1, OK)]
)
def test_open_files(limit, level):
    found = only(doctor.open_files(lambda: limit))
    assert found.level == level
    assert str(limit) in found.text or found.text == "no limit of open files"


@pytest.mark.skipif(os.name != "posix", reason="this system has no such limit")
def test_the_limit_of_this_process():
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert str(allowed) in only(doctor.open_files()).text


def test_a_directory_that_does_not_exist_yet(tmp_path):
    found = only(doctor.directories(ClusterDirectory(tmp_path / "a" / "b" / "cluster_x")))
    assert found.level == OK
    assert found.text == f"{tmp_path / 'a' / 'b' / 'cluster_x'} will be made when it is needed"


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = only(doctor.directories(ClusterDirectory(tmp_path / "cluster_x")))
    assert (found.level, found.text) == (PROBLEM, f"cannot make {tmp_path / 'cluster_x'}")
    assert "IPYTHONDIR" in found.advice


def test_a_directory_in_order(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    found = only(doctor.directories(directory))
    assert found == doctor.Finding(
        "directory", OK, f"{directory.path} is yours, and closed to others"
    )


@pytest.mark.skipif(os.name != "posix", reason="this system has no such permissions")
def test_a_directory_open_to_others(tmp_path):
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    directory.security.chmod(0o755)
    found = only(doctor.directories(directory))
    assert found.level == PROBLEM
    assert f"chmod 700 {directory.security}" in found.text


def test_a_directory_that_cannot_be_written_to(tmp_path, monkeypatch):
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = only(doctor.directories(directory))
    assert (found.level, found.text) == (PROBLEM, f"cannot write to {directory.path}")


@pytest.mark.parametrize(("free", "level"), [(0, WARNING), (499_999_999, WARNING), (10**12, OK)])
def test_room_for_logs(tmp_path, free, level):
    asked = []

    def look(path):
        asked.append(path)
        return free

    directory = ClusterDirectory(tmp_path / "not" / "there" / "cluster_x")
    found = only(doctor.space(directory, look))
    assert found.level == level
    assert asked == [str(tmp_path)]
    assert f"{free / 1e9:.1f} GB" in found.text


def test_real_room(tmp_path):
    assert only(doctor.space(ClusterDirectory(tmp_path))).check == "disk"


@pytest.mark.parametrize(
    ("addresses", "level"),
    [
        (["192.0.2.1"], OK),
        (["127.0.1.1", "192.0.2.1", "192.0.2.1"], OK),
        (["2001:db8::1"], OK),
        (["127.0.1.1"], WARNING),
        (["::1", "127.0.0.1"], WARNING),
    ],
)
def test_where_a_name_leads(addresses, level):
    found = only(doctor.name_resolution("alpha", lambda name: addresses))
    assert found.level == level
    assert found.text == f"alpha is {', '.join(dict.fromkeys(addresses))}"
    assert ("--location" in found.advice) == (level == WARNING)


def test_a_name_that_leads_nowhere():
    def resolve(name):
        raise socket.gaierror(-2, "Name or service not known")

    found = only(doctor.name_resolution("alpha", resolve))
    assert found.level == WARNING
    assert found.text == "the name 'alpha' cannot be resolved: Name or service not known"


def test_an_address_is_its_own_name():
    assert only(doctor.name_resolution("127.0.0.1")).text == "127.0.0.1 is 127.0.0.1"


def test_leftovers(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    assert only(doctor.leftovers()).level == OK
    private = ClusterDirectory.private().create()
    os.utime(private.path, (0, 0))
    found = only(doctor.leftovers())
    assert found.level == WARNING
    assert found.advice == "remove them: ipcluster clean"
    private.remove()
    assert only(doctor.leftovers()).level == OK


def test_a_configuration_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "none"))
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    configured, found = doctor.configuration(directory)
    assert found == doctor.Finding("configuration", OK, "no file, defaults only")
    file = directory.path / "ipcluster.ini"
    file.write_text("[cluster]\ncontroller_port = 7001\n")
    configured, found = doctor.configuration(directory)
    assert found == doctor.Finding("configuration", OK, f"{file} can be used")
    assert configured.value("cluster", "controller_port") == 7001


def test_a_configuration_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "none"))
    directory = ClusterDirectory(tmp_path / "cluster_x").create()
    file = directory.path / "ipcluster.ini"
    file.write_text("[cluster]\ncontroler_port = 7001\n")
    configured, found = doctor.configuration(directory)
    assert configured is None
    assert found.level == PROBLEM
    assert f"{file}, line 2" in found.text and "controller_port" in found.text
