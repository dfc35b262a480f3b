"""Nothing of pyOpenSSL's private names is trusted. Each is changed here: gone, of another type,
raising, giving another result. Each time TLS goes by the public calls, a client is served all
the same, and there is one warning."""

import contextlib
import dataclasses
import ssl
import subprocess
import sys
import textwrap
import warnings

import pytest
from OpenSSL import SSL

from tests.programs import ROOT
from tests.support import Echo, exchange, go_by
from tests.test_tls import tls
from thousand_island_sync.transports._tls import gaps, private, proof, records

FUNCTIONS = {name: real for name, (real, _) in private._FUNCTIONS.items()}
MEMORY = ("new", "from_buffer", "buffer", "cast", "addressof", "typeof")
OWN = ("_ssl", "_into_ssl", "_from_ssl")


class Changed:
    """Another thing, but for some of its attributes; `None`: it has none of that name."""

    def __init__(self, real, **changes):
        self._real, self._changes = real, changes

    def __getattr__(self, name):
        if name not in self._changes:
            return getattr(self._real, name)
        if self._changes[name] is None:
            raise AttributeError(name)
        return self._changes[name]


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What is known here, before anything was warned of; what a test makes of it is its own."""
    go_by(monkeypatch, "quick")
    monkeypatch.setattr(private, "_told", False)
    known = private.names
    yield known
    records.bind(known)


def said_of(prove):
    """The warnings that trying it out gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prove()
    assert all(one.category is RuntimeWarning for one in caught)
    return [str(one.message) for one in caught]


def serves(serve, authority, secure):
    """Whether a client is served, in both directions, with both versions."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        server = tls(serve, authority, Echo)
        sock = secure(server, authority.client_context(version))
        data = bytes(range(251)) * 400
        assert exchange(sock, data, len(data)) == data
        with contextlib.suppress(OSError):
            sock.unwrap()
    return True


def assert_does_without(said, serve, authority, secure):
    assert len(said) == 1, said
    assert "is not as it is known here" in said[0]
    assert private.names is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert serves(serve, authority, secure)


def test_this_pyopenssl_is_as_it_is_known(serve, authority, secure):
    assert said_of(proof.prove) == []
    assert private.names is not None
    assert proof.TICKETS_CAN_BE_OFF
    assert proof.tickets_can_be_off()
    assert serves(serve, authority, secure)


@pytest.mark.parametrize("change", ["gone", "another type", "another C type"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_openssls(name, change, serve, authority, secure):
    thing = {"gone": None, "another type": print, "another C type": SSL._lib.SSL_free}[change]
    module = Changed(SSL, _lib=Changed(SSL._lib, **{FUNCTIONS[name]: thing}))
    said = said_of(lambda: proof.prove(module))
    assert_does_without(said, serve, authority, secure)
    assert FUNCTIONS[name] in said[0]


@pytest.mark.parametrize("change", ["gone", "another type", "raises"])
@pytest.mark.parametrize("name", [name for name in MEMORY if name != "addressof"])
def test_what_makes_memory(name, change, serve, authority, secure):
    def raises(*arguments):
        raise TypeError("takes other arguments")

    thing = {"gone": None, "another type": "text", "raises": raises}[change]
    module = Changed(SSL, _ffi=Changed(SSL._ffi, **{name: thing}))
    said = said_of(lambda: proof.prove(module))
    assert_does_without(said, serve, authority, secure)


@pytest.mark.parametrize("name", ["_lib", "_ffi"])
def test_a_module_without_them(name, serve, authority, secure):
    said = said_of(lambda: proof.prove(Changed(SSL, **{name: None})))
    assert_does_without(said, serve, authority, secure)
    assert name in said[0]


#: Of each function, what it might do instead. (OpenSSL 4 leaves no error for `clear_errors`.)
OTHERWISE = {
    "ssl_read": lambda real: lambda of, to, size: real(of, to, max(1, size // 2)),
    "ssl_write": lambda real: lambda of, from_, size: 0,
    "ssl_pending": lambda real: lambda of: 0,
    "ssl_set_bio": lambda real: lambda of, one, other: None,
    "bio_read": lambda real: lambda of, to, size: real(of, to, min(size, 40)),
    "bio_write": lambda real: lambda of, from_, size: real(of, from_, size) - 1,
    "bio_held": lambda real: lambda of, place: 0,
    "bio_new": lambda real: lambda kind: None,
    "bio_memory": lambda real: lambda: None,
    "set_groups": lambda real: lambda of, text: 1,
    "session_reused": lambda real: lambda of: 1,
}


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, "raises") for name in FUNCTIONS] + [(name, "otherwise") for name in OTHERWISE],
)
def test_a_function_that_does_something_else(
    name, how, serve, authority, secure, restored, monkeypatch
):
    def raises(*arguments):
        raise TypeError("takes other arguments")

    function = raises if how == "raises" else OTHERWISE[name](getattr(restored, name))
    other = dataclasses.replace(restored, **{name: function})
    monkeypatch.setattr(private, "find", lambda module: other)
    said = said_of(proof.prove)
    assert_does_without(said, serve, authority, secure)


class Owned:
    """Say, a wrapper that owns its pointer."""


@pytest.mark.parametrize("change", ["a wrapper", "nothing", "another C type"])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("when", ["at first use", "later"])
def test_a_pointer_of_a_connections(
    when, name, change, serve, authority, secure, restored, monkeypatch
):
    """As of first use, and of one connection after many."""
    things = {
        "a wrapper": Owned(),
        "nothing": None,
        "another C type": SSL._ffi.new("char[]", 10),
    }
    real = private.check_connection

    def check(ffi, connection):
        real(ffi, Changed(connection, **{name: things[change]}))

    monkeypatch.setattr(private, "check_connection", check)
    if when == "at first use":
        said = said_of(proof.prove)
    else:
        connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
        said = said_of(lambda: records.records_of(connection))
        assert isinstance(records.records_of(connection), records.PublicRecords)
    assert_does_without(said, serve, authority, secure)
    assert name in said[0]


@pytest.mark.parametrize("call", ["set_groups", "resumed"])
def test_a_pointer_that_only_a_gap_needs(call, serve, authority, secure, monkeypatch):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    if call == "set_groups":
        said = said_of(lambda: gaps.set_groups(Changed(context, _context=5), b"X25519"))
    else:
        connection = Changed(SSL.Connection(context), _ssl=None)
        said = said_of(lambda: gaps.resumed(connection))
    assert_does_without(said, serve, authority, secure)


@pytest.mark.parametrize("change", ["gone", "raises", "says nothing"])
def test_how_errors_are_made(change, serve, authority, secure, monkeypatch):
    def raises(self, ssl, result):
        raise TypeError("takes other arguments")

    real = SSL.Connection._raise_ssl_error
    things = {"gone": None, "raises": raises, "says nothing": lambda self, ssl, result: None}

    def failure(self, result, done=0):
        self._connection = Changed(self._connection, _raise_ssl_error=things[change])
        try:
            return made(self, result, done)
        finally:
            self._connection = self._connection._real

    made = records.PrivateRecords.failure
    monkeypatch.setattr(records.PrivateRecords, "failure", failure)
    assert_does_without(said_of(proof.prove), serve, authority, secure)
    assert SSL.Connection._raise_ssl_error is real


def test_there_is_one_warning_however_often_it_is_found():
    def often():
        for _ in range(3):
            private.do_without("this")
            proof.prove(Changed(SSL, _lib=None))

    assert len(said_of(often)) == 1


def test_where_warnings_are_errors_no_handshake_fails_of_it(
    serve, authority, secure, caplog, monkeypatch
):
    def check(ffi, connection):
        raise private.Unexpected("another day")

    server = tls(serve, authority, Echo)
    monkeypatch.setattr(private, "check_connection", check)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sock = secure(server, authority.client_context())
        assert exchange(sock, b"hello", 5) == b"hello"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "another day" in caplog.text


def test_tickets_that_cannot_be_switched_off(serve, authority, secure, monkeypatch):
    """Then OpenSSL is told beforehand: clients that only write may lose an end, all else holds."""
    monkeypatch.setattr(proof, "follow", lambda context, policy: None)
    assert not proof.tickets_can_be_off()

    def broken(*arguments):
        raise SSL.Error([("", "", "no")])

    monkeypatch.setattr(proof._Pair, "do_handshake", broken)
    assert not proof.tickets_can_be_off()
    monkeypatch.setattr(proof, "TICKETS_CAN_BE_OFF", False)
    server = tls(serve, authority, Echo, {"session_tickets": False})
    sock = secure(server, authority.client_context())
    assert exchange(sock, b"hello", 5) == b"hello"


PROGRAM = """
import warnings
from OpenSSL import SSL

real = SSL.Connection.__init__
class Owned:
    def __init__(self, bio):
        self.bio = bio
def init(self, *arguments, **options):
    real(self, *arguments, **options)
    self._into_ssl, self._from_ssl = Owned(self._into_ssl), Owned(self._from_ssl)
def bio_write(self, data):
    return SSL._lib.BIO_write(self._into_ssl.bio, bytes(data), len(data))
def bio_read(self, size):
    room = SSL._ffi.new("char[]", size)
    count = SSL._lib.BIO_read(self._from_ssl.bio, room, size)
    if count <= 0:
        raise SSL.WantReadError()
    return SSL._ffi.buffer(room, count)[:]
SSL.Connection.__init__ = init
SSL.Connection.bio_write, SSL.Connection.bio_read = bio_write, bio_read

import socket, ssl, trustme
from thousand_island_sync import TLS, Handler, ThousandIsland

class Echo(Handler):
    def handle_data(self, data, socket):
        socket.send(data)

ca = trustme.CA()
issued = ca.issue_cert("localhost")
pem = issued.private_key_and_cert_chain_pem.bytes()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ca.configure_trust(context)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    options = {"certfile": pem}
    server = ThousandIsland(
        port=0, host="127.0.0.1", handler_cls=Echo, transport_cls=TLS, transport_options=options
    )
    with server:
        for _ in range(3):
            plain = socket.create_connection(server.local_address)
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"served")
                print(client.recv(6))
print(len(caught), caught[0].category.__name__)
print(caught[0].message)
"""


def test_g19_another_type_under_a_private_name_in_a_process_of_its_own():
    """Every handshake failed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    lines = done.stdout.splitlines()
    assert lines[:4] == ["b'served'"] * 3 + ["1 RuntimeWarning"], done.stdout + done.stderr
    assert "_into_ssl is a Owned of Python's, not BIO *" in lines[4]
