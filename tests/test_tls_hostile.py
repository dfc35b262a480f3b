"""Handshakes that are cut or corrupted at every byte, while a good client goes on."""

import contextlib
import datetime
import socket
import ssl

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import Echo, eventually, journal, receive, reset
from tests.test_tls import tls
from thousand_island_sync import HandshakeError

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Slicer:
    """A client whose handshake is in our hands: what it would send is cut or corrupted.

    Args:
        meddle: gets the number of bytes sent so far and the next flight; gives the
            bytes to send instead, and whether to go on.
    """

    def __init__(self, context, meddle):
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._meddle = meddle
        self.sent = 0

    def run(self, sock):
        """Whether the handshake was finished, on our side."""
        while True:
            done = False
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            flight, more = self._meddle(self.sent, self._out.read())
            self.sent += len(flight)
            sock.sendall(flight)
            if done or not more:
                return done
            data = sock.recv(65_536)
            if not data:
                return False
            self._in.write(data)


def whole(sent, flight):
    return flight, True


def cut_at(length):
    def meddle(sent, flight):
        return flight[: max(0, length - sent)], sent + len(flight) < length

    return meddle


def flip(position, mask):
    def meddle(sent, flight):
        changed = bytearray(flight)
        if sent <= position < sent + len(flight):
            changed[position - sent] ^= mask
        return bytes(changed), True

    return meddle


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request):
    return request.param


@pytest.fixture
def world(serve, client, authority, version):
    """A server, a good client that is connected to it, and how to make bad ones."""

    class World:
        def __init__(self):
            self.handler = journal(Echo)
            self.server = tls(serve, authority, self.handler, handshake_timeout_ms=300)
            self.context = authority.client_context(version)
            self.good = self.context.wrap_socket(client(self.server), server_hostname="localhost")
            self.asked = 0

        def bad(self, meddle):
            with contextlib.closing(socket.create_connection(self.server.local_address)) as sock:
                sock.settimeout(10)
                with contextlib.suppress(OSError):  # ssl.SSLError is one
                    Slicer(self.context, meddle).run(sock)
                reset(sock)

        def the_good_one_goes_on(self):
            self.asked += 1
            request = b"%08d" % self.asked
            self.good.sendall(request)
            assert receive(self.good, 8) == request

        def length(self):
            """Bytes of a client's whole handshake."""
            slicer = Slicer(self.context, whole)
            with contextlib.closing(socket.create_connection(self.server.local_address)) as sock:
                assert slicer.run(sock)
            return slicer.sent

        def all_ended(self, count):
            """Each of them once, and none is left but the good one."""
            assert eventually(lambda: self.server.info().active_connections == 1)
            assert eventually(lambda: self.handler.names().count("end") == count)
            lasts = [name for name in self.handler.names() if name in ("error", "close")]
            assert len(lasts) == count

    made = World()
    yield made
    made.good.close()


def test_cut_at_every_byte(world):
    length = world.length()
    for position in range(length):
        world.bad(cut_at(position))
        if position % 16 == 0:
            world.the_good_one_goes_on()
    world.the_good_one_goes_on()
    world.all_ended(length + 1)
    errors = [what for name, what in world.handler.lines if name == "error"]
    assert errors
    assert all(isinstance(error, HandshakeError) for error in errors)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 700), mask=st.integers(1, 255))
def test_corrupted_anywhere(world, position, mask):
    world.bad(flip(position, mask))
    world.the_good_one_goes_on()
    assert eventually(lambda: world.server.info().active_connections == 1)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(garbage=st.binary(min_size=1, max_size=3_000))
def test_garbage(world, garbage):
    world.bad(lambda sent, flight: (garbage, False))
    world.the_good_one_goes_on()
    assert eventually(lambda: world.server.info().active_connections == 1)


# ---- certificates of clients that will not do -------------------------------


def days(count):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=count)


@pytest.mark.parametrize(
    ("dates", "says"),
    [
        ({"not_after": days(-3.5), "not_before": days(-9)}, "certificate expired 3 days ago"),
        ({"not_after": days(9), "not_before": days(2)}, "is not valid before 2"),
    ],
)
def test_a_certificate_out_of_its_time_is_told_with_its_date(dates, says, serve, authority, client):
    handler = journal()
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, handler, more)
    context = authority.client_context(ssl.TLSVersion.TLSv1_2)
    authority.ca.issue_cert("late@example.org", **dates).configure_cert(context)
    with pytest.raises(OSError):
        context.wrap_socket(client(server), server_hostname="localhost")
    assert handler.ended()
    assert says in str(handler.lines[0][1])


def test_an_unknown_authority_is_told(serve, authority, client):
    handler = journal()
    more = {"ca_certs": authority.ca_pem, "verify": "optional"}
    server = tls(serve, authority, handler, more)
    context = authority.client_context(ssl.TLSVersion.TLSv1_2)
    trustme.CA().issue_cert("stranger@example.org").configure_cert(context)
    with pytest.raises(OSError):
        context.wrap_socket(client(server), server_hostname="localhost")
    assert handler.ended()
    assert "ca_certs" in str(handler.lines[0][1])


def test_a_client_that_refuses_our_expired_certificate_says_so(serve, authority, client):
    handler = journal()
    issued = authority.ca.issue_cert("localhost", not_after=days(-3.5), not_before=days(-9))
    ours = {
        "certfile": issued.cert_chain_pems[0].bytes(),
        "keyfile": issued.private_key_pem.bytes(),
    }
    with pytest.warns(UserWarning, match="expired"):
        server = tls(serve, authority, handler, ours)
    with pytest.raises(ssl.SSLError, match="expired"):
        authority.client_context().wrap_socket(client(server), server_hostname="localhost")
    assert handler.ended()
    assert "our certificate expired 3 days ago" in str(handler.lines[0][1])


# ---- what comes together with the last of a handshake ------------------------


@pytest.mark.parametrize("ends", [False, True], ids=["open", "ended"])
def test_d11_a_request_in_one_packet_with_the_end_of_the_handshake(ends, serve, authority, client):
    """The event for it was that of the handshake: no other will come."""
    handler = journal(Echo)
    server = tls(serve, authority, handler)
    sock = client(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = authority.client_context(ssl.TLSVersion.TLSv1_3)
    talk = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        with contextlib.suppress(ssl.SSLWantReadError):
            talk.do_handshake()
            break
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65_536))
    talk.write(b"hello")
    sock.sendall(outgoing.read())
    if ends:
        sock.shutdown(socket.SHUT_WR)
    data = b""
    while data != b"hello":
        with contextlib.suppress(ssl.SSLWantReadError):
            data += talk.read(5)
            continue
        incoming.write(sock.recv(65_536))
    if ends:
        assert handler.ended()
        assert handler.names() == ["close", "end"]


def test_a_reset_that_comes_with_the_end_of_the_handshake_is_seen(serve, authority, client):
    handler = journal(Echo)
    server = tls(serve, authority, handler)
    context = authority.client_context(ssl.TLSVersion.TLSv1_3)
    for _ in range(50):
        with socket.create_connection(server.local_address) as sock:
            sock.settimeout(10)
            assert Slicer(context, whole).run(sock)
            reset(sock)
    assert eventually(lambda: handler.names().count("end") == 50)
