"""TLS, proved by programs that nobody here wrote: openssl s_client and curl."""

import io
import re
import subprocess
from typing import ClassVar

import pytest
import trustme
from OpenSSL import SSL

from tests.programs import newer_openssl, program
from tests.support import Echo, eventually, go_by, journal
from tests.test_tls import tls
from tests.test_tls_hosts import Site
from thousand_island_sync import Close, Handler


class Hello(Handler):
    """Answers a request with who asks, and closes."""

    def handle_data(self, data, socket):
        certificate = socket.peer_certificate()
        body = b"nobody" if certificate is None else str(certificate.serial_number).encode()
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        socket.send([head, body])
        return Close()


@pytest.fixture
def s_client(authority, tmp_path):
    """Runs `openssl s_client`; what it printed, both streams."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.ca_pem)

    def run(server, *arguments, lines=b"", name="localhost", openssl="openssl"):
        command = [program(openssl), "s_client", "-connect", f"127.0.0.1:{server.local_port}"]
        command += ["-CAfile", str(ca), "-servername", name, *arguments]
        result = subprocess.run(command, input=lines, capture_output=True, timeout=30)
        return (result.stdout + result.stderr).decode("utf-8", "replace")

    return run


# ---- openssl s_client -------------------------------------------------------


def test_versions(serve, authority, s_client):
    server = tls(serve, authority, Echo)
    assert re.search(r"Protocol *: TLSv1\.2", s_client(server, "-tls1_2"))
    assert "TLSv1.3, Cipher is TLS_AES" in s_client(server, "-tls1_3")
    for old in ("-tls1", "-tls1_1"):
        # SECLEVEL=0: it is our refusal that is tested, not the client's.
        said = s_client(server, old, "-cipher", "ALL:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said
    strict = tls(serve, authority, Echo, {"min_version": "1.3"})
    assert "Cipher is (NONE)" in s_client(strict, "-tls1_2")


@pytest.mark.parametrize(
    "weak", ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "aNULL", "3DES"]
)
def test_weak_ciphers_are_off(weak, serve, authority, s_client):
    server = tls(serve, authority, Echo)
    said = s_client(server, "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0")
    assert "Cipher is (NONE)" in said or "no cipher match" in said


def test_alpn_and_names(serve, authority, s_client):
    site = Site("b.example")
    server = tls(
        serve,
        authority,
        Echo,
        {
            "alpn_protocols": ["h2", "http/1.1"],
            "sni": {"b.example": {**site.options, "alpn_protocols": ["b"]}},
        },
    )
    assert "ALPN protocol: h2" in s_client(server, "-alpn", "http/1.1,h2")
    assert "ALPN protocol: b" in s_client(server, "-alpn", "a,b", name="b.example")
    assert "Verify return code: 0" in s_client(server)
    assert "Verify return code: 0" not in s_client(server, name="b.example")
    assert "Cipher is (NONE)" in s_client(server, "-alpn", "neither")


class Lines(Handler):
    """Sends that end in the middle of a record, at its end, and beyond several."""

    sizes = (1, 400, 512, 513, 4_000, 5_000, 16_384, 16_385, 100_000, 300_000)

    def handle_data(self, data, socket):
        for size in self.sizes:
            line = b"%0*d" % (size, size)
            assert socket.send(line + b"\n") == size + 1
        socket.sendfile(io.BytesIO(b"%0*d\n" % (400_000, 1)))
        return Close()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "public"])
def test_a_client_that_takes_small_records_gets_all_of_it(
    quick, version, serve, authority, s_client, monkeypatch
):
    """RFC 6066, 4: what devices with little memory ask for. One call of SSL_write(3) then
    writes one small record, whatever it is given."""
    go_by(monkeypatch, "quick" if quick else "public")
    server = tls(serve, authority, Lines)
    said = s_client(server, version, "-quiet", "-maxfraglen", "512", lines=b"all\n")
    numbers = [line for line in said.splitlines() if line.isdecimal()]
    assert [len(line) for line in numbers] == [*Lines.sizes, 400_000]
    assert [int(line.lstrip("0")) for line in numbers] == [*Lines.sizes, 1]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_is_resumed(version, serve, authority, s_client, tmp_path):
    server = tls(serve, authority, Hello)
    session = str(tmp_path / "session")
    # TLS 1.3's ticket comes with what is read: so it reads until we close.
    first = s_client(server, version, "-sess_out", session, "-ign_eof", lines=b"hello\n")
    assert "Reused" not in first
    again = s_client(server, version, "-sess_in", session, "-ign_eof", lines=b"hello\n")
    assert "Reused, TLSv1" in again


def test_d12_a_client_cannot_renegotiate(serve, authority, s_client):
    Base = journal(Echo)
    server = tls(serve, authority, Base)
    said = s_client(server, "-tls1_2", lines=b"R\nR\nR\n")
    assert "RENEGOTIATING" in said
    assert re.search("no renegotiation|unexpected message|handshake failure", said)
    assert Base.ended()
    assert "end" in Base.names()
    assert eventually(lambda: server.info().active_connections == 0)


class Notes(Handler):
    """Notes the group that was agreed on."""

    groups: ClassVar[list[str]] = []

    def handle_connection(self, socket):
        self.groups[:] = [socket.tls_info().group]
        socket.send(b"done")
        return Close()


def test_the_post_quantum_group_is_agreed_with_a_client_that_has_it(serve, authority, s_client):
    said = s_client(tls(serve, authority, Notes), "-ign_eof", openssl=newer_openssl())
    assert "Negotiated TLS1.3 group: X25519MLKEM768" in said
    assert Notes.groups == ["X25519MLKEM768"]


def test_and_with_the_client_of_the_openssl_that_serves(serve, authority, client):
    server = tls(serve, authority, Notes)
    sock = client(server)
    sock.settimeout(None)
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
    connection.set_connect_state()
    connection.do_handshake()
    assert connection.recv(4) == b"done"
    assert Notes.groups == ["X25519MLKEM768"]
    assert connection.get_group_name() == "X25519MLKEM768"


def test_and_a_classical_one_with_others(serve, authority, s_client):
    said = s_client(tls(serve, authority, Echo), "-groups", "X25519")
    assert re.search(r"(Temp Key|group): X25519\b", said)  # newer ones print it otherwise


# ---- curl -------------------------------------------------------------------


@pytest.fixture
def curl(authority, tmp_path):
    ca = tmp_path / "curl-ca.pem"
    ca.write_bytes(authority.ca_pem)

    def run(server, *arguments, url="https://localhost:{port}/"):
        command = [program("curl"), "-sS", "--cacert", str(ca), "--ipv4", *arguments]
        command.append(url.format(port=server.local_port))
        return subprocess.run(command, capture_output=True, timeout=30)

    return run


def write_client(ca, folder, name):
    issued = ca.issue_cert("someone@example.org")
    path = folder / name
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


def test_curl_with_a_client_certificate(serve, authority, curl, tmp_path):
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    Base = journal(Hello)
    server = tls(serve, authority, Base, more)
    mine = write_client(authority.ca, tmp_path, "mine.pem")
    theirs = write_client(trustme.CA(), tmp_path, "theirs.pem")
    result = curl(server, "--cert", mine)
    assert (result.returncode, result.stdout.isdigit()) == (0, True), result.stderr
    assert curl(server).returncode != 0
    assert curl(server, "--cert", theirs).returncode != 0
    assert eventually(lambda: Base.names().count("error") == 2)
    said = [str(what) for name, what in Base.lines if name == "error"]
    assert "showed no certificate" in said[0]
    assert "not in ca_certs" in said[1]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_verifies_the_chain_and_the_name(version, serve, authority, curl):
    server = tls(serve, authority, Hello)
    version_only = ["--tlsv" + version, "--tls-max", version]
    assert curl(server, *version_only).stdout == b"nobody"
    other = curl(
        server,
        *version_only,
        "--resolve",
        f"other.example:{server.local_port}:127.0.0.1",
        url="https://other.example:{port}/",
    )
    assert other.returncode != 0
    assert b"other.example" in other.stderr
