"""What libraries that were written for `socket.socket` and `ssl.SSLSocket` ask of a `Socket`."""

import contextlib
import copy
import datetime
import errno
import io
import ipaddress
import os
import pickle
import select
import socket as stdlib_socket
import ssl
from contextlib import closing

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from tests.support import go_by, receive, receive_all
from tests.test_tls import tls
from thousand_island_sync import (
    TLS,
    Close,
    Handler,
    SocketClosed,
    SocketError,
    SocketTimeout,
    SwitchTransport,
)
from thousand_island_sync.transports._tls.agreed import decoded

OF_TLS = [
    *("do_handshake", "version", "cipher", "shared_ciphers", "selected_alpn_protocol"),
    *("getpeercert", "pending"),
]


class Asks(Handler):
    """Tells what a function says of its socket, or how it failed."""

    def handle_connection(self, socket):
        try:
            said = repr(self.options(socket))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        socket.send(said.encode())
        return Close()


def said_of(question, wire, **options):
    server = wire.serve(Asks, handler_options=question, **options)
    with closing(wire.connect(server)) as client:
        return receive_all(client).decode()


# ---- socket.socket ----------------------------------------------------------


class Leaves(Handler):
    def handle_connection(self, socket):
        with socket as same:
            same.sendall(b"inside")
            assert same is socket
        assert socket.fileno() == -1
        self.options.append("closed")


def test_a_socket_is_a_context_manager_that_closes_it(wire):
    noted = []
    server = wire.serve(Leaves, handler_options=noted)
    with closing(wire.connect(server)) as client:
        assert receive_all(client) == b"inside"
    assert server.stop(5_000)
    assert noted == ["closed"]


class GivesAway(Handler):
    def handle_connection(self, socket):
        with socket:
            os.close(socket.detach())
        self.options.append("gave it away")


def test_what_was_given_away_is_not_closed_again(wire):
    noted = []
    server = wire.serve(GivesAway, handler_options=noted)
    with closing(wire.connect(server)) as client, contextlib.suppress(OSError):
        receive_all(client)
    assert server.stop(5_000)
    assert noted == ["gave it away"]


def timeouts(socket):
    found = [socket.timeout]
    for value in (None, 0.0, 2.5):
        socket.settimeout(value)
        found.append(socket.timeout)
    return found


def test_timeout_is_what_gettimeout_says(wire):
    assert said_of(timeouts, wire) == "[None, None, 0.0, 2.5]"


def times_out(socket):
    socket.settimeout(0.05)
    try:
        socket.recv(1)
    except TimeoutError as error:
        return error.args, error.errno == errno.ETIMEDOUT, "after 50 ms" in str(error)


def test_a_timeout_has_the_argument_of_the_standard_library(wire):
    """By which cheroot, and many others, tell it from an error of the connection."""
    assert said_of(times_out, wire) == "(('timed out',), True, True)"


def would_block(socket):
    socket.setblocking(False)
    try:
        socket.recv(1)
    except BlockingIOError as error:
        return error.args[0] == error.errno == errno.EAGAIN, isinstance(error, SocketTimeout)


def test_one_that_must_not_wait_has_that_of_blocking_io_error(wire):
    assert said_of(would_block, wire) == "(True, True)"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_timeout_that_is_copied_says_the_same(again):
    error = SocketTimeout(errno.ETIMEDOUT, "recv 192.0.2.1:5: timed out after 5 ms")
    error.bytes_sent = 7
    copied = again(error)
    assert str(copied) == str(error)
    assert (copied.args, copied.errno, copied.bytes_sent) == (("timed out",), 110, 7)


def copies(socket):
    refused = set()
    for original in (socket, socket.connection):
        for copying in (copy.copy, copy.deepcopy, pickle.dumps, lambda it: pickle.dumps(it, 0)):
            with pytest.raises(TypeError) as error:
                copying(original)
            refused.add(str(error.value).split(":")[0])
    return sorted(refused)


def test_neither_a_socket_nor_its_connection_can_be_copied(wire):
    refused = ["a Connection cannot be copied or pickled", "a Socket cannot be copied or pickled"]
    assert said_of(copies, wire) == repr(refused)


class ByRawFile(Handler):
    """Reads by the standard library's own raw file, as cheroot does."""

    def handle_connection(self, socket):
        with io.BufferedReader(stdlib_socket.SocketIO(socket, "rb")) as file:
            line = file.readline()
        socket.send(line.upper())
        return Close()


def test_the_raw_file_of_the_standard_library_reads_and_closes(wire):
    server = wire.serve(ByRawFile)
    with closing(wire.connect(server)) as client:
        client.sendall(b"hello\n")
        assert receive_all(client) == b"HELLO\n"


# ---- ssl.SSLSocket ----------------------------------------------------------


def found_of_tls(socket):
    return [name for name in OF_TLS if hasattr(socket, name)]


def test_the_names_of_ssl_are_there_over_tls_only(wire):
    assert said_of(found_of_tls, wire) == repr(OF_TLS if wire.secure else [])


def without_tls(socket):
    return socket.version()


def test_else_it_says_why(wire):
    said = said_of(without_tls, wire)
    assert said == "'TLSv1.3'" if wire.name == "tls1.3" else "TLSv1.3" not in said
    if not wire.secure:
        assert said.startswith(
            "AttributeError: version: only a TLS connection has it; this is <Socket "
        )


class Upgrades(Handler):
    def handle_data(self, data, socket):
        assert not hasattr(socket, "version")
        socket.send(b"go")
        return SwitchTransport(TLS, self.options)

    def handle_upgrade(self, socket):
        socket.send(socket.version().encode())
        return Close()


def test_they_come_with_an_upgrade(serve, client, authority):
    server = serve(Upgrades, handler_options=authority.options)
    sock = client(server)
    sock.sendall(b"STARTTLS\n")
    assert receive(sock, 2) == b"go"
    context = authority.client_context()
    with context.wrap_socket(sock, server_hostname="localhost") as secure:
        assert receive_all(secure) == secure.version().encode()


def agreed_on(socket):
    assert socket.do_handshake() is None
    assert socket.shared_ciphers() == [socket.cipher()]
    return socket.version(), socket.cipher(), socket.selected_alpn_protocol(), socket.getpeercert()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_what_was_agreed_on_is_what_the_client_says(version, serve, authority, secure):
    options = {"alpn_protocols": ["h2"]}
    server = tls(serve, authority, Asks, options, handler_options=agreed_on)
    context = authority.client_context(getattr(ssl.TLSVersion, version))
    context.set_alpn_protocols(["h2"])
    with secure(server, context) as sock:
        mine = (sock.version(), sock.cipher(), sock.selected_alpn_protocol(), None)
        assert receive_all(sock).decode() == repr(mine)


def certificates(socket):
    return socket.getpeercert(), socket.getpeercert(True) == socket.getpeercert(binary_form=True)


def test_the_certificate_of_a_client_is_as_the_standard_library_gives_it(
    serve, authority, secure, tmp_path
):
    options = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, Asks, options, handler_options=certificates)
    context = authority.client_context()
    issued = authority.ca.issue_cert("client@example.org", "192.0.2.7", common_name="client")
    issued.configure_cert(context)
    path = tmp_path / "client.pem"
    issued.cert_chain_pems[0].write_to_path(str(path))
    with secure(server, context) as sock:
        assert receive_all(sock).decode() == repr((ssl._ssl._test_decode_cert(str(path)), True))


def rich_certificate():
    """One with everything that `ssl` decodes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Ostholstein"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Eutin"),
            x509.NameAttribute(NameOID.STREET_ADDRESS, "Markt 1"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bücher & Söhne"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "a"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "17"),
            x509.NameAttribute(NameOID.SURNAME, "b"),
            x509.NameAttribute(NameOID.GIVEN_NAME, "c"),
            x509.NameAttribute(NameOID.TITLE, "d"),
            x509.NameAttribute(NameOID.USER_ID, "e"),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "someone@example.org"),
            x509.NameAttribute(NameOID.COMMON_NAME, "device 4"),
            x509.NameAttribute(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), "unknown"),
        ]
    )
    uri = x509.UniformResourceIdentifier
    moment = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.timezone.utc)
    alternatives = [
        x509.DNSName("device.example"),
        x509.RFC822Name("device@example.org"),
        uri("urn:device:4"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::ab:1")),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "f")])),
    ]
    access = x509.AccessDescription
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0xABC)
        .not_valid_before(moment)
        .not_valid_after(moment + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(alternatives), False)
        .add_extension(
            x509.AuthorityInformationAccess(
                [
                    access(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/")),
                    access(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://ca.example/")),
                ]
            ),
            False,
        )
        .add_extension(
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint([uri("http://crl.example/1")], None, None, None),
                    x509.DistributionPoint([uri("http://crl.example/2")], None, None, None),
                ]
            ),
            False,
        )
        .sign(key, hashes.SHA256())
    )


def test_a_certificate_is_decoded_as_the_standard_library_does(tmp_path):
    certificate = rich_certificate()
    path = tmp_path / "rich.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert decoded(certificate) == ssl._ssl._test_decode_cert(str(path))


def test_one_without_extensions_too(tmp_path):
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    certificate = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    assert decoded(certificate) == ssl._ssl._test_decode_cert(str(path))


# ---- pending ----------------------------------------------------------------


def read_by_select(socket, count):
    """As libraries do that wait by select(2): `websockets`, `pynetdicom`, `redis`."""
    found = []
    while count:
        if not socket.pending():
            assert select.select([socket], [], [], 5)[0], "select() waits, and pending() is 0"
        data = socket.recv(100)
        found.append(len(data))
        count -= len(data)
    return found


class Selects(Handler):
    """Reads four records of 250 bytes a hundred bytes at a time."""

    def handle_connection(self, socket):
        if self.options:
            socket.fileno()
        socket.send(b"go")

    def handle_data(self, data, socket):
        assert len(data) == 1, data
        socket.send(repr(read_by_select(socket, 999)).encode())
        return Close()


@pytest.mark.parametrize("way", ["quick", "public"])
@pytest.mark.parametrize("shown", [True, False], ids=["descriptor-shown", "descriptor-hidden"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_pending_tells_select_what_is_here_already(
    way, shown, version, serve, authority, secure, monkeypatch
):
    """Whether the records come one by one or, before `fileno()` is asked for, all at once."""
    go_by(monkeypatch, way)
    server = tls(serve, authority, Selects, handler_options=shown)
    with secure(server, authority.client_context(getattr(ssl.TLSVersion, version))) as sock:
        assert receive(sock, 2) == b"go"
        sock.sendall(b"x")
        for size in (249, 250, 250, 250):
            sock.sendall(b"y" * size)
        told = eval(receive_all(sock).decode())
    assert sum(told) == 999
    assert told[:3] == [100, 100, 49]


class InMemory:
    """A client whose records the test has in its hands."""

    def __init__(self, sock, context):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.run(self.session.do_handshake)
        sock.sendall(self.outgoing.read())

    def run(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65_536))

    def read(self, length):
        return self.run(self.session.read, length)

    def record(self, data):
        self.session.write(data)
        return self.outgoing.read()


class Halves(Handler):
    """Is sent a record in two halves."""

    def handle_connection(self, socket):
        socket.unread(b"before")
        before = socket.pending()
        assert socket.recv(3) + socket.recv() == b"before"
        socket.send(b"go")
        assert socket.recv() == b"first"
        # What has come of the second record is no byte yet.
        nothing = socket.pending()
        socket.send(b"on")
        assert socket.recv(2) == b"se"
        socket.send(f"{before} {nothing} {socket.pending()}".encode())
        return Close()


def test_a_part_of_a_record_is_nothing_yet(serve, client, authority):
    server = tls(serve, authority, Halves)
    peer = InMemory(client(server), authority.client_context())
    assert peer.read(2) == b"go"
    first, second = peer.record(b"first"), peer.record(b"second")
    peer.sock.sendall(first + second[:9])
    assert peer.read(2) == b"on"
    peer.sock.sendall(second[9:])
    assert peer.read(100) == b"6 0 4"


class Garbled(Handler):
    def handle_data(self, data, socket):
        assert data == b"x"
        for _ in range(3):
            self.options.append(socket.pending())
        with pytest.raises(SocketError, match="TLS: "):
            socket.recv()


def test_a_broken_record_is_nothing_and_the_next_receive_tells(serve, client, authority):
    noted = []
    server = tls(serve, authority, Garbled, handler_options=noted)
    peer = InMemory(client(server), authority.client_context())
    peer.sock.sendall(peer.record(b"x") + b"\x17\x03\x03\x00\x20" + bytes(32))
    while peer.sock.recv(65_536):
        pass
    assert server.stop(5_000)
    assert noted == [0, 0, 0]


class Closes(Handler):
    def handle_connection(self, socket):
        version, cipher = socket.version(), socket.cipher()
        socket.close()
        assert (socket.version(), socket.cipher()) == (version, cipher)
        for ask in (socket.pending, socket.do_handshake):
            with pytest.raises(SocketClosed):
                ask()
        self.options.append("asked")


def test_after_the_close_facts_answer_and_calls_raise(serve, client, authority, secure):
    noted = []
    server = tls(serve, authority, Closes, handler_options=noted)
    with secure(server, authority.client_context()) as sock:
        assert receive_all(sock) == b""
    assert server.stop(5_000)
    assert noted == ["asked"]
