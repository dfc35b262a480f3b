"""Tests pyOpenSSL once, when TLS is first used: whether its private names still do what the library
expects, and how session tickets are turned off.

Two sessions talk through memory, one of them through the private names. The results are compared
with those of the public calls. If any differs, or an exception comes, the process uses the public
calls from then on, and warns once: with a later pyOpenSSL TLS may be slower, but never wrong. The
test takes three handshakes, some ten milliseconds.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from . import gaps, private
from . import records as _tls_records
from .hello import Policy, follow
from .private import Unexpected
from .reasons import Notes
from .records import RECORD, PrivateRecords, PublicRecords

#: Round trips of a handshake: two, or three with a second hello.
_ROUNDS = 3
_SIZES = (1, 300, RECORD, 3 * RECORD + 1)


class _Pair:
    """A server's session and a client's, which talk through memory.

    Args:
        context: the server's.
        before: the pair whose session the client is to resume.
    """

    def __init__(self, context: SSL.Context, before: _Pair | None = None) -> None:
        self.server = SSL.Connection(context)
        self.server.set_app_data(Notes(threading.Lock(), context, context.get_app_data()))
        self.server.set_accept_state()
        if before is None:
            self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        else:
            self.client = SSL.Connection(before.client.get_context())
            session = before.client.get_session()
            if session is not None:
                self.client.set_session(session)
        self.client.set_connect_state()

    def do_handshake(self) -> None:
        """With public calls. What the server sends after the handshake is not carried over."""
        for _ in range(_ROUNDS):
            self._step(self.client)
            self.carry(self.client, self.server)
            if self._step(self.server):
                return
            self.carry(self.server, self.client)
        raise Unexpected("a handshake does not come to its end")

    @staticmethod
    def _step(one: SSL.Connection) -> bool:
        """Whether its part is done."""
        try:
            one.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    @staticmethod
    def carry(from_: SSL.Connection, to: SSL.Connection) -> int:
        """Moves bytes from one to the other. How many."""
        data = bytes(PublicRecords(from_).get())
        if data:
            to.bio_write(data)
        return len(data)


def _certified() -> SSL.Context:
    """A server's context, with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "thousand-island")])
    when = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(when).not_valid_after(when + datetime.timedelta(1))
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(made.sign(key, hashes.SHA256()))
    context.use_privatekey(key)
    context.set_session_id(b"thousand-island")
    return context


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Unexpected(f"{what}: it gave other results than the public calls")


def _raised(call: Callable[[], object]) -> type | None:
    """The type of what it raised."""
    try:
        call()
    except Exception as error:
        return type(error)
    return None


def try_out() -> None:
    """Tests a handshake, messages in both directions, and a resumed session.

    Raises:
        Exception: something is not as expected.
    """
    context = _certified()
    _expect("groups", gaps.set_groups(context, b"P-256"), True)
    pair = _Pair(context)
    pair.do_handshake()
    _expect("groups", pair.server.get_group_name(), "secp256r1")
    _expect("a new session", gaps.resumed(pair.server), False)
    records = _tls_records.records_of(pair.server)
    if not isinstance(records, PrivateRecords):
        raise Unexpected("a connection has other pointers")
    other = SSL.Context(SSL.TLS_SERVER_METHOD)
    _expect("unknown groups", gaps.set_groups(other, b"no-such-group"), False)
    # An error that `set_groups` left in OpenSSL's queue would be raised here.
    _expect("ERR_clear_error", _raised(lambda: records.read(1)), SSL.WantReadError)
    for _ in range(2):
        for size in _SIZES:
            _receive(pair, records, bytes(range(251)) * (size // 251) + bytes(size % 251))
            _send(pair, records, bytes(size))
        _leave_some(pair, records)
        _expect("BIO_new", records.shrink(), True)
        _expect("addresses", all(records.places()), True)
    _end(pair, records)
    again = _Pair(context, pair)
    again.do_handshake()
    _expect("a resumed session", gaps.resumed(again.server), True)


def _receive(pair: _Pair, records: PrivateRecords, data: bytes) -> None:
    for start in range(0, len(data), RECORD):
        piece = data[start : start + RECORD]
        pair.client.send(piece)
        fetched = bytes(PublicRecords(pair.client).get())
        _expect("SSL_read", records.read(RECORD, fetched), piece)
    _expect("SSL_read, of nothing", _raised(lambda: records.read(1)), SSL.WantReadError)
    _expect("SSL_pending, BIO_get_mem_data", records.empty(), True)
    pair.client.send(data[:RECORD])
    records.put(bytes(PublicRecords(pair.client).get()))
    _expect("BIO_write", pair.server.recv(RECORD), data[:RECORD])


def _send(pair: _Pair, records: PrivateRecords, data: bytes) -> None:
    for given in (data, memoryview(data)):
        pair.client.bio_write(bytes(records.seal(given)))
        _expect("SSL_write", _all_of(pair.client, len(data)), data)
    pair.server.send(data[:RECORD])
    pair.client.bio_write(bytes(records.get()))
    _expect("BIO_read", _all_of(pair.client, len(data[:RECORD])), data[:RECORD])
    _expect("BIO_read, of nothing", len(records.get()), 0)


def _all_of(client: SSL.Connection, size: int) -> bytes:
    """All bytes that have come: `size` of them if all is well."""
    parts, left = [], size
    while left > 0:
        parts.append(client.recv(RECORD))
        left -= len(parts[-1])
    return b"".join(parts)


def _leave_some(pair: _Pair, records: PrivateRecords) -> None:
    """Bytes that wait decrypted, and bytes that wait encrypted."""
    pair.client.send(b"left here")
    _expect("SSL_read", records.read(4, bytes(PublicRecords(pair.client).get())), b"left")
    _expect("SSL_pending", records.empty(), not pair.server.pending())
    pair.client.send(b"as it came")
    records.put(bytes(PublicRecords(pair.client).get()))
    _expect("SSL_read", records.read(RECORD), b" here")
    _expect("BIO_get_mem_data", records.empty(), False)
    _expect("SSL_read", records.read(RECORD), b"as it came")
    _expect("SSL_pending, BIO_get_mem_data", records.empty(), True)


def _end(pair: _Pair, records: PrivateRecords) -> None:
    pair.client.shutdown()
    records.put(bytes(PublicRecords(pair.client).get()))
    _expect("SSL_read, of the end", _raised(lambda: records.read(1)), SSL.ZeroReturnError)
    _expect("the end", _raised(lambda: pair.server.recv(1)), SSL.ZeroReturnError)


def tickets_can_be_off() -> bool:
    """Whether a server sends nothing after a handshake if its policy has no tickets."""
    context = _certified()
    follow(context, Policy(None, False, False, False))
    pair = _Pair(context)
    try:
        pair.do_handshake()
    except Exception:
        return False
    return not _Pair.carry(pair.server, pair.client)


def prove(module: Any = SSL) -> None:
    """Uses the private names of `OpenSSL.SSL` if all of them are as expected."""
    try:
        names = private.find(module)
        _tls_records.bind(names)
        private.use(names)
        try_out()
    except Unexpected as error:
        private.do_without(error)
    except Exception as error:
        private.do_without(f"{type(error).__name__}: {error}")


prove()
#: `False`: OpenSSL sends tickets of another kind all the same (`_tls.hello`).
TICKETS_CAN_BE_OFF = tickets_can_be_off()
