"""Identities, FURLs, their files, locations."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.errors import ConnectError, SecurityError
from ipkernel.wire.furl import Furl, local_location, read_furl, write_furl
from ipkernel.wire.identity import Identity, base32, write_private

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
WHO = Identity.create()
FURL = Furl(WHO.tub_id, WHO.pin, ("tcp:127.0.0.1:4711", "tcp:[::1]:4711"), "s3cret")


@pytest.fixture
def private(tmp_path):
    directory = tmp_path / "security"
    directory.mkdir(mode=0o700)
    return directory


def test_an_identity_names_its_certificate():
    der = WHO.certificate.public_bytes(serialization.Encoding.DER)
    assert WHO.tub_id == base32(hashlib.sha1(der).digest())
    assert WHO.pin == base32(hashlib.sha256(der).digest())
    assert (len(WHO.tub_id), len(WHO.pin)) == (32, 52)
    assert WHO.key.curve.name == "secp256r1"


def test_foolscap_computes_the_same_tub_id():
    from foolscap.crypto import digest32

    der = WHO.certificate.public_bytes(serialization.Encoding.DER)
    colons = hashlib.sha1(der).hexdigest().upper()
    digest = ":".join(colons[i : i + 2] for i in range(0, 40, 2)).encode()
    assert digest32(digest) == WHO.tub_id


def test_identities_differ_and_do_not_show_their_key():
    assert Identity.create().tub_id != WHO.tub_id
    assert "PRIVATE" not in repr(WHO) and "key" not in repr(WHO)


def test_pem_round_trip():
    again = Identity.from_pem(WHO.pem)
    assert (again.tub_id, again.pin) == (WHO.tub_id, WHO.pin)


def test_a_foreign_key_is_refused():
    other = Identity.create().pem
    mixed = (
        WHO.pem[: WHO.pem.index(b"-----BEGIN PRIVATE")] + other[other.index(b"-----BEGIN PRI") :]
    )
    with pytest.raises(ValueError, match="does not belong"):
        Identity.from_pem(mixed)


def test_load_or_create_keeps_it(private):
    path = private / "controller.pem"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).pin == first.pin
    assert Identity.load(path).pin == first.pin
    assert os.listdir(private) == ["controller.pem"]


@posix
def test_the_file_is_private(private):
    path = private / "controller.pem"
    Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
def test_files_that_others_can_read_are_refused(private):
    path = private / "controller.pem"
    Identity.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(SecurityError, match="chmod 600"):
        Identity.load(path)
    path.chmod(0o600)
    private.chmod(0o750)
    with pytest.raises(SecurityError, match="chmod 700"):
        Identity.load(path)


def test_missing_and_broken_identities_have_one_line(private):
    with pytest.raises(ConnectError, match="No such file"):
        Identity.load(private / "none.pem")
    write_private(private / "bad.pem", b"hello")
    with pytest.raises(ConnectError, match="does not hold an identity"):
        Identity.load(private / "bad.pem")
    with pytest.raises(ConnectError, match="cannot write"):
        Identity.load_or_create(private / "no" / "dir.pem")


def test_write_private_does_not_replace_unasked(private):
    write_private(private / "x", b"1")
    with pytest.raises(FileExistsError):
        write_private(private / "x", b"2", replace=False)
    assert (private / "x").read_bytes() == b"1"
    write_private(private / "x", b"2")
    assert (private / "x").read_bytes() == b"2"
    assert os.listdir(private) == ["x"]


# ------------------------------------------------------------------------- FURLs


def test_furl_round_trip():
    text = str(FURL)
    assert text == f"pb://{WHO.tub_id}{WHO.pin}@tcp:127.0.0.1:4711,tcp:[::1]:4711/s3cret"
    assert Furl.parse(f"  {text}\n") == FURL
    assert FURL.plain == f"pb://{WHO.tub_id}@tcp:127.0.0.1:4711,tcp:[::1]:4711/s3cret"
    assert FURL.location == "127.0.0.1:4711, [::1]:4711"


def test_stock_foolscap_understands_it():
    from foolscap.furl import decode_furl

    assert decode_furl(str(FURL)) == (WHO.tub_id, list(FURL.hints), "s3cret")


def test_the_secret_is_not_shown():
    assert "s3cret" not in repr(FURL)
    with pytest.raises(ConnectError) as caught:
        Furl.parse(str(FURL).replace("@", "!"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "pb://short@tcp:1.2.3.4:5/x",
        pytest.param(f"pb://{WHO.tub_id}@tcp:127.0.0.1:1/nopin", id="nopin"),
        str(FURL) + "/more",
        str(FURL).replace("tcp:127.0.0.1:4711", "tcp:127.0.0.1:4711,,"),
        str(FURL).replace("tcp:[::1]:4711", "nonsense"),
        str(FURL).replace("pb:", "http:"),
        str(FURL) * 100,
    ],
)
def test_what_is_not_a_furl_is_refused(text):
    with pytest.raises(ConnectError):
        Furl.parse(text)


@given(st.text(max_size=200))
def test_any_text_is_a_furl_or_a_connect_error(text):
    try:
        assert str(Furl.parse(text)) == text.strip()
    except ConnectError:
        pass


def test_no_hints_is_a_furl_that_leads_nowhere():
    furl = Furl(WHO.tub_id, WHO.pin, (), "x")
    assert Furl.parse(str(furl)) == furl
    assert furl.location == "nowhere"


def test_furl_files(private):
    path = private / "ipcontroller-client.furl"
    write_furl(path, FURL)
    assert read_furl(path) == FURL
    assert os.listdir(private) == [path.name]
    write_furl(path, Furl(WHO.tub_id, WHO.pin, (), "other"))
    assert read_furl(str(path)).swissnum == "other"


@posix
def test_furl_files_of_others_are_refused(private):
    path = private / "x.furl"
    write_furl(path, FURL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(SecurityError, match="open to other users"):
        read_furl(path)


def test_bad_furl_files_have_one_line(private):
    with pytest.raises(ConnectError, match="there is no FURL file"):
        read_furl(private / "none.furl")
    for content in (b"", b"hello", b"\xff\xfe", b"x" * 10_000):
        write_private(private / "bad.furl", content)
        with pytest.raises(ConnectError, match=r"bad\.furl: this is not a FURL"):
            read_furl(private / "bad.furl")


# --------------------------------------------------------------------- locations


def test_locations():
    assert local_location("127.0.0.1", 80) == ["tcp:127.0.0.1:80"]
    assert local_location("::1", 80) == ["tcp:[::1]:80"]
    everything = local_location("0.0.0.0", 80)
    assert everything[-1] == "tcp:127.0.0.1:80"
    assert len(set(everything)) == len(everything)
    assert not any("[" in hint for hint in everything)
    assert set(everything) <= set(local_location("::", 80))
    for hint in local_location("::", 80):
        assert Furl.parse(str(Furl(WHO.tub_id, WHO.pin, (hint,), "x"))).hints == (hint,)
