"""Every error of a certificate, a key or a list begins with the option to be changed, says what was
found, and shows no key."""

import datetime
import itertools
import os

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.x509.oid import NameOID

from tests.support import running
from tests.test_tls import encrypted
from thousand_island_sync import TLS, ConfigError
from thousand_island_sync._base import whole_file


def pem_of(key):
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def self_signed(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(key.public_key()).serial_number(1).not_valid_before(now)
    made = made.not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256())
    return made.public_bytes(s.Encoding.PEM)


@pytest.fixture(scope="module")
def known(authority):
    """What options may hold, by name."""
    weak = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
    return {
        "chain": authority.chain,
        "key": authority.key,
        "other key": trustme.CA().issue_cert("localhost").private_key_pem.bytes(),
        "locked": encrypted(authority.key, b"secret"),
        "damaged": authority.chain.replace(b"MII", b"???", 1),
        "damaged key": authority.key.replace(b"\nM", b"\n?", 1),
        "weak": self_signed(weak),
        "weak key": pem_of(weak),
        "no TLS key": pem_of(x25519.X25519PrivateKey.generate()),
        "text": b"hello",
    }


FAULTS = [
    ({"keyfile": None}, "keyfile: is not given, and in {chain} (certfile) there is no private key"),
    ({"keyfile": "chain"}, "keyfile: no usable PEM private key in {chain}; there is a certificate"),
    ({"keyfile": "text"}, "keyfile: no usable PEM private key in {text}; one begins with"),
    ({"keyfile": "damaged key"}, "keyfile: no usable PEM private key in {damaged key}"),
    ({"keyfile": "other key"}, "keyfile: the key in {other key} does not belong to the certifi"),
    ({"keyfile": "no TLS key"}, "keyfile: the key in {no TLS key} is of a kind that TLS cannot us"),
    ({"keyfile": "locked"}, "keyfile: the key in {locked} is encrypted; give its password"),
    ({"keyfile": "locked", "password": ""}, "keyfile: the key in {locked} is encrypted"),
    ({"keyfile": "locked", "password": "wrong"}, "password: a wrong password for the key in {lo"),
    ({"certfile": "key"}, "certfile: no PEM certificate in {key}; there is a private key"),
    ({"certfile": "text"}, "certfile: no PEM certificate in {text}; one begins with"),
    ({"certfile": "damaged"}, "certfile: no PEM certificate in {damaged}; what is there cannot be"),
    (
        {"certfile": "weak", "keyfile": "weak key"},
        "certfile: the certificate in {weak} cannot be served: ee key too small",
    ),
    ({"ca_certs": "text", "verify": "required"}, "ca_certs: no PEM certificate in {text}"),
    ({"ca_certs": "damaged", "verify": "required"}, "ca_certs: no PEM certificate in {damaged}"),
    ({"crl": "chain"}, "crl: no PEM revocation list in {chain}"),
]


@pytest.mark.parametrize("host", ["server", "sni"])
@pytest.mark.parametrize("given_as", ["bytes", "file"])
@pytest.mark.parametrize(("wrong", "says"), FAULTS, ids=lambda value: str(value)[:40])
def test_d16_the_error_names_the_option(wrong, says, given_as, host, known, tmp_path):
    numbers = itertools.count()
    where = {}

    def give(name):
        data = known.get(name, name)
        if name in where and given_as == "file":
            return tmp_path / where[name].strip("'")
        if given_as == "bytes" or not isinstance(data, bytes):
            where[name] = "the given bytes"
            return data
        path = tmp_path / f"{next(numbers)}.pem"
        path.write_bytes(data)
        where[name] = repr(str(path))
        return path

    options = {"certfile": "chain", "keyfile": "key", **wrong}
    options = {name: give(value) for name, value in options.items()}
    if host == "sni":
        right = {"certfile": known["chain"], "keyfile": known["key"]}
        options = {**right, "sni": {"a.example": options}}
    with pytest.raises(ConfigError) as caught:
        TLS.prepare(**options)
    said = str(caught.value)
    begin = "sni: a.example: " if host == "sni" else ""
    for name, place in where.items():
        says = says.replace("{" + str(name) + "}", place)
    # The end of what is looked for may be cut off inside a name.
    assert said.startswith(begin + says.partition("{")[0]), said
    for secret in ("PRIVATE KEY-----\n", "secret", "wrong", known["key"].decode()[60:90]):
        assert secret not in said.replace("a wrong password", "")


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca_certs", "crl"])
@pytest.mark.parametrize("path", ["missing.pem", "."])
def test_d16_a_file_that_cannot_be_read(option, path, authority, tmp_path):
    options = {**authority.options, option: str(tmp_path / path)}
    with pytest.raises(ConfigError, match=f"^{option}: cannot read"):
        TLS.prepare(**options)


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca_certs", "crl", "keylog_file"])
@pytest.mark.parametrize("path", ["a\0b", "", b""])
def test_d16_what_is_no_path(option, path, authority):
    with pytest.raises(ConfigError, match=f"^transport_options: {option}: got "):
        TLS.prepare(**{**authority.options, option: path})


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca_certs", "crl"])
def test_a_pipe_that_nobody_writes_is_not_waited_for_for_good(
    option, authority, tmp_path, monkeypatch
):
    monkeypatch.setattr(whole_file, "WITHIN_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=f"^{option}: .*nobody has written to within 0.05 s"):
        TLS.prepare(**{**authority.options, option: str(tmp_path / "pipe")})


def test_a_certificate_may_come_out_of_a_pipe(authority, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with running(lambda: (tmp_path / "pipe").write_bytes(authority.chain)):
        TLS.prepare(certfile=tmp_path / "pipe", keyfile=authority.key)


@pytest.mark.parametrize("option", ["certfile", "keyfile", "ca_certs", "crl"])
def test_pem_given_as_text_is_not_shown(option, authority):
    options = {"certfile": authority.chain, "keyfile": authority.key, "verify": "none"}
    text = authority.key.decode()
    with pytest.raises(ConfigError) as found:
        TLS.prepare(**{**options, option: text})
    assert str(found.value).startswith(f"{option}: got the text of a PEM file, which is not shown")
    error = found.value
    while error is not None:
        assert text.split("\n")[1][:20] not in str(error)
        error = error.__cause__ or error.__context__


def test_a_key_beside_its_certificate_and_one_that_is_not_encrypted(authority):
    both = authority.chain + authority.key
    assert TLS.prepare(certfile=both)
    assert TLS.prepare(certfile=both, password="of another key")
