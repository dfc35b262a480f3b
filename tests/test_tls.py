"""TLS: certificates, verification, ALPN, upgrades, and handshakes that go wrong."""

import re
import socket
import ssl
import threading
import time

import pytest
import trustme

from tests.support import Echo, eventually, journal, receive, receive_all, reset
from thousand_island_sync import (
    TCP,
    TLS,
    Close,
    ConfigError,
    Handler,
    HandshakeError,
    NotSupported,
    SocketTimeout,
    SwitchTransport,
    ThousandIsland,
)
from thousand_island_sync.testing import hostile


class Tells(Handler):
    """Sends what it knows about the handshake."""

    def handle_connection(self, socket):
        info = socket.tls_info()
        certificate = socket.peer_certificate()
        subject = certificate.serial_number if certificate else None
        socket.send(
            repr((info.version, info.alpn, info.server_name, info.resumed, subject)).encode()
        )


def tls(serve, authority, handler_cls=Tells, more=None, **options):
    return serve(
        handler_cls,
        transport_cls=TLS,
        transport_options={**authority.options, **(more or {})},
        **options,
    )


def told(sock):
    return eval(sock.recv(1000))


# ---- the handshake ----------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
def test_what_was_agreed_is_told(version, name, serve, authority, secure):
    server = tls(serve, authority)
    sock = secure(server, authority.client_context(version))
    assert told(sock) == (name, None, "localhost", False, None)


def test_min_version_refuses_older_clients(serve, authority, secure, record):
    recorder = record("socket.handshake_error")
    server = tls(serve, authority, more={"min_version": "1.3"})
    with pytest.raises(ssl.SSLError):
        secure(server, authority.client_context(ssl.TLSVersion.TLSv1_2))
    (told_,) = recorder.wait_for("socket.handshake_error")
    assert "no shared protocol version" in str(told_.measurements["error"])


def test_alpn_is_chosen_in_the_servers_order_and_others_are_refused(serve, authority, secure):
    server = tls(serve, authority, more={"alpn_protocols": ["h2", "http/1.1"]})
    for offered, chosen in ((["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)):
        context = authority.client_context()
        if offered:
            context.set_alpn_protocols(offered)
        assert told(secure(server, context))[1] == chosen
    context = authority.client_context()
    context.set_alpn_protocols(["spdy"])
    with pytest.raises(ssl.SSLError):
        secure(server, context)
    # That refusal stayed with its own connection.
    assert told(secure(server, authority.client_context()))[1] is None


def test_required_certificates(serve, authority, secure):
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, more=more)
    sock = secure(server, authority.client_context(with_certificate=True))
    assert told(sock)[4] is not None
    for context in (authority.client_context(), stranger(authority)):
        with pytest.raises((ssl.SSLError, OSError)):
            secure(server, context).recv(10)


def stranger(authority):
    context = authority.client_context()
    trustme.CA().issue_cert("stranger@example.org").configure_cert(context)
    return context


def test_optional_certificates(serve, authority, secure):
    more = {"ca_certs": authority.ca_pem, "verify": "optional"}
    server = tls(serve, authority, more=more)
    assert told(secure(server, authority.client_context()))[4] is None
    sock = secure(server, authority.client_context(with_certificate=True))
    assert told(sock)[4] is not None
    with pytest.raises((ssl.SSLError, OSError)):
        secure(server, stranger(authority)).recv(10)


def resumptions(server, context, client):
    """Whether each of three connections, with the session of the one before, resumed it."""
    session, found = None, []
    for _ in range(3):
        sock = context.wrap_socket(client(server), server_hostname="localhost", session=session)
        found.append(told(sock)[3])
        session = sock.session
        sock.close()
    return found


def test_d7_a_client_with_a_certificate_resumes_its_session(serve, authority, client):
    more = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, more=more)
    context = authority.client_context(ssl.TLSVersion.TLSv1_2, with_certificate=True)
    assert resumptions(server, context, client) == [False, True, True]


def test_sni_gives_each_host_its_own_certificate_and_verification(serve, authority, secure):
    other = trustme.CA()
    issued = other.issue_cert("*.b.example")
    b = {
        "certfile": b"".join(part.bytes() for part in issued.cert_chain_pems),
        "keyfile": issued.private_key_pem.bytes(),
        "ca_certs": other.cert_pem.bytes(),
        "verify": "required",
    }
    server = tls(serve, authority, more={"sni": {"*.b.example": b}})
    assert told(secure(server, authority.client_context(), "a.example"))[2] == "a.example"
    context = ssl.create_default_context()
    other.configure_trust(context)
    other.issue_cert("me@b.example").configure_cert(context)
    assert told(secure(server, context, "X.b.example"))[4] is not None
    nobody = ssl.create_default_context()
    other.configure_trust(nobody)
    with pytest.raises((ssl.SSLError, OSError)):
        secure(server, nobody, "x.b.example").recv(10)


def test_an_sni_callable_that_raises_fails_that_handshake_alone(serve, authority, secure, record):
    recorder = record("socket.handshake_error")

    def choose(name):
        if name == "a.example":
            raise KeyError(name)

    server = tls(serve, authority, more={"sni": choose})
    with pytest.raises((ssl.SSLError, OSError)):
        secure(server, authority.client_context(), "a.example").recv(10)
    assert told(secure(server, authority.client_context(), "b.example"))[2] == "b.example"
    said = str(recorder.wait_for("socket.handshake_error")[0].measurements["error"])
    assert re.search(r"the sni callable raised KeyError \(\S+test_tls\.py, line \d+\)$", said)


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (lambda: {"certfile": "x"}, "sni: the callable returned dict, takes what TLS.prepare made"),
        (lambda: TLS.prepare(certfile="/no/such/file"), "certfile: cannot read '/no/such/file'"),
    ],
)
def test_what_an_sni_callable_got_wrong_is_told(returns, says, serve, authority, secure, record):
    recorder = record("socket.handshake_error")
    server = tls(serve, authority, more={"sni": lambda name: returns()})
    with pytest.raises((ssl.SSLError, OSError)):
        secure(server, authority.client_context(), "a.example").recv(10)
    said = str(recorder.wait_for("socket.handshake_error")[0].measurements["error"])
    assert f"the sni callable failed: {says}" in said


def test_a_prepared_set_is_swapped_for_later_handshakes(serve, authority, secure):
    prepared = TLS.prepare(**authority.options)
    server = serve(Echo, transport_cls=TLS, transport_options=prepared)

    def serial():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = secure(server, context)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        return sock.getpeercert(binary_form=True)

    before = serial()
    new = authority.ca.issue_cert("localhost")
    prepared.reload(certfile=new.cert_chain_pems[0].bytes(), keyfile=new.private_key_pem.bytes())
    renewed = serial()
    assert renewed != before
    with pytest.raises(ConfigError):
        prepared.reload(certfile=b"nonsense")
    assert serial() == renewed


def test_reload_transport_serves_the_new_certificate_to_new_connections(serve, authority, secure):
    server = tls(serve, authority, Echo)
    old = secure(server, authority.client_context())
    new = authority.ca.issue_cert("localhost")
    with pytest.raises(ConfigError):
        server.reload_transport(certfile="/no/such/file")
    server.reload_transport(
        certfile=new.cert_chain_pems[0].bytes(), keyfile=new.private_key_pem.bytes()
    )
    late = secure(server, authority.client_context())
    assert late.getpeercert(binary_form=True) != old.getpeercert(binary_form=True)
    old.sendall(b"x")
    assert old.recv(1) == b"x"


# ---- handshakes that go wrong ----------------------------------------------


def test_d8_no_handshake_fails_while_certificates_are_reloaded(serve, authority, secure, client):
    server = tls(serve, authority, Echo)
    pairs = [
        {"certfile": issued.cert_chain_pems[0].bytes(), "keyfile": issued.private_key_pem.bytes()}
        for issued in (authority.ca.issue_cert("localhost") for _ in range(2))
    ]
    open_all_along = secure(server, authority.client_context())
    over = threading.Event()
    failures, handshakes = [], []

    def visit():
        context = authority.client_context()
        while not over.is_set():
            try:
                with socket.create_connection(server.local_address, timeout=10) as sock:
                    with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                        wrapped.sendall(b"x")
                        assert wrapped.recv(1) == b"x"
                        handshakes.append(1)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        server.reload_transport(**pairs[number % 2])
        if number % 50 == 0:
            with pytest.raises(ConfigError):
                server.reload_transport(certfile=b"nonsense")
    seen = len(handshakes)
    assert eventually(lambda: len(handshakes) > seen + 3)
    over.set()
    for thread in threads:
        thread.join(20)
    assert not failures
    open_all_along.sendall(b"still")
    assert receive(open_all_along, 5) == b"still"


def test_silent_and_dribbling_clients_hold_no_thread_and_end_in_time(
    serve, authority, client, secure
):
    Base = journal(Echo)
    server = tls(serve, authority, Base, max_handler_threads=2, handshake_timeout_ms=400)
    silent = [client(server) for _ in range(20)]
    before = time.monotonic()
    good = secure(server, authority.client_context())
    good.sendall(b"x")
    assert good.recv(1) == b"x"
    assert time.monotonic() - before < 0.3
    dribbled = hostile.dribble(server.local_address, b"\x16\x03\x01" + bytes(500), every_ms=20)
    assert dribbled.ended in ("eof", "reset")
    for sock in silent:
        assert receive_all(sock) == b""
    assert time.monotonic() - before < 1.5
    assert eventually(lambda: server.info().active_connections == 1)
    errors = [what for name, what in Base.lines if name == "error"]
    assert len(errors) == 21
    assert all(isinstance(error, HandshakeError) for error in errors)
    assert any("handshake_timeout_ms" in str(error) for error in errors)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP"),
        (b"\0" * 100, "did not speak TLS"),
    ],
)
def test_d3_a_client_that_does_not_speak_tls_is_told_so(sent, says, serve, authority, client):
    Base = journal()
    server = tls(serve, authority, Base)
    sock = client(server)
    sock.sendall(sent)
    assert Base.ended()
    assert says in str(Base.lines[0][1])


def test_half_a_handshake_costs_its_own_connection_only(serve, authority, client, secure):
    Base = journal(Echo)
    server = tls(serve, authority, Base)
    for _ in range(10):
        sock = client(server)
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        reset(sock)
    good = secure(server, authority.client_context())
    good.sendall(b"x")
    assert good.recv(1) == b"x"
    assert eventually(lambda: Base.names().count("error") == 10)


# ---- the end ----------------------------------------------------------------


def ends_abruptly(sock):
    sock.close()


def ends_by_close_notify(sock):
    sock.unwrap()


@pytest.mark.parametrize(
    ("end", "truncated"), [(ends_abruptly, True), (ends_by_close_notify, False)]
)
def test_d3_an_end_without_close_notify_is_truncated(serve, authority, secure, end, truncated):
    Base = journal()
    seen = []

    class Looks(Base):
        def handle_close(self, socket):
            seen.append(socket.truncated)
            super().handle_close(socket)

    server = tls(serve, authority, Looks)
    # TLS 1.2: with 1.3 the session tickets lie unread here, and an abrupt close is a reset.
    end(secure(server, authority.client_context(ssl.TLSVersion.TLSv1_2)))
    assert Looks.ended()
    assert (Looks.names(), seen) == (["close", "end"], [truncated])


def test_d9_our_end_is_clean_and_does_not_wait(serve, authority, secure, stopwatch):
    server = tls(serve, authority, Echo)
    sock = secure(server, authority.client_context())
    sock.suppress_ragged_eofs = False
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    assert server.stop() is True
    assert sock.recv(1) == b""
    assert stopwatch() < 2


def test_many_small_pieces_leave_in_full_records(serve, authority, secure):
    pieces = [b"piece %d\n" % number for number in range(20_000)] + [bytes(200_000), b"the last"]

    class Pieces(Handler):
        def handle_connection(self, socket):
            assert socket.send(pieces) == socket.stats().bytes_sent
            return Close()

    server = serve(Pieces, transport_cls=TLS, transport_options=authority.options)
    sock = secure(server, authority.client_context())
    records = []
    while data := sock.recv(65_536):  # one record's bytes at most
        records.append(data)
    assert b"".join(records) == b"".join(pieces)
    assert len(records) < 2 * sum(map(len, records)) / 16_384


def test_d2_a_send_that_timed_out_leaves_the_stream_exact(serve, authority, secure):
    """A record that OpenSSL holds is finished before the next is begun."""
    counts = []

    class Sends(Handler):
        def handle_connection(self, socket):
            socket.settimeout(0.05)
            for letter in b"abcdefgh":
                try:
                    counts.append(socket.send(bytes([letter]) * 3_000_000))
                except SocketTimeout as error:
                    counts.append(error.bytes_sent)
            socket.settimeout(None)
            socket.send(b"END")
            socket.close()

    server = tls(serve, authority, Sends)
    sock = secure(server, authority.client_context())
    got = bytearray()
    while data := sock.recv(1 << 16):
        got += data
        if len(got) < 2_000_000:
            threading.Event().wait(0.01)
    expected = b"".join(bytes([97 + i]) * count for i, count in enumerate(counts)) + b"END"
    assert bytes(got) == expected


# ---- STARTTLS ---------------------------------------------------------------


class Upgrades(Handler):
    def handle_data(self, data, socket):
        if data.startswith(b"STARTTLS\n"):
            assert not socket.secure
            socket.unread(b"left")
            socket.send(b"go\n")
            return SwitchTransport(TLS, self.options, timeout_ms=self.timeout_ms)
        socket.send(b"<" + data + b">")
        return None

    def handle_upgrade(self, socket):
        assert socket.secure
        socket.send(b"secure")

    timeout_ms = 5_000


def test_an_upgrade_in_mid_connection_drops_injected_plaintext(serve, authority, client):
    server = serve(Upgrades, handler_options=authority.options)
    sock = client(server)
    sock.sendall(b"plain")
    assert receive(sock, 7) == b"<plain>"
    sock.sendall(b"STARTTLS\ninjected")
    assert receive(sock, 3) == b"go\n"
    wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    assert receive(wrapped, 6) == b"secure"
    wrapped.sendall(b"secret")
    assert receive(wrapped, 8) == b"<secret>"
    wrapped.close()


def test_a_failed_upgrade_ends_once_in_handle_error(serve, authority, client, record):
    recorder = record("socket.handshake", "socket.handshake_error", "handler.error")
    Base = journal(Upgrades)
    server = serve(Base, handler_options=authority.options)
    sock = client(server)
    sock.sendall(b"STARTTLS\n")
    assert receive(sock, 3) == b"go\n"
    sock.sendall(b"no TLS at all, but long enough to see")
    assert Base.ended()
    assert Base.names() == ["error", "end"]
    assert isinstance(Base.lines[0][1], HandshakeError)
    recorder.wait_for("handler.error")
    assert recorder.names() == ["socket.handshake", "socket.handshake_error", "handler.error"]


def test_the_time_after_an_upgrade(serve, authority, client):
    Base = journal(Upgrades)
    Base.timeout_ms = 100
    server = serve(Base, handler_options=authority.options)
    sock = client(server)
    sock.sendall(b"STARTTLS\n")
    assert receive(sock, 3) == b"go\n"
    wrapped = authority.client_context().wrap_socket(sock, server_hostname="localhost")
    assert receive_all(wrapped) == b"secure"
    assert Base.ended()
    assert Base.names() == ["timeout", "end"]
    wrapped.close()


def test_back_from_tls_is_not_supported(serve, authority, secure):
    Base = journal()

    class Back(Base):
        def handle_connection(self, socket):
            return SwitchTransport(TCP, {})

    server = tls(serve, authority, Back)
    secure(server, authority.client_context())
    assert Back.ended()
    assert isinstance(Back.lines[0][1], NotSupported)


# ---- wrong options ----------------------------------------------------------


@pytest.fixture
def files(tmp_path, authority):
    (tmp_path / "cert.pem").write_bytes(authority.chain)
    (tmp_path / "key.pem").write_bytes(authority.key)
    (tmp_path / "empty.pem").write_bytes(b"")
    return tmp_path


def encrypted(key, password):
    from cryptography.hazmat.primitives import serialization as s

    loaded = s.load_pem_private_key(key, None)
    return loaded.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(password)
    )


def test_d15_files_and_an_encrypted_key(serve, authority, files, secure):
    (files / "locked.pem").write_bytes(encrypted(authority.key, b"secret"))
    server = serve(
        Tells,
        transport_cls=TLS,
        transport_options={
            "certfile": files / "cert.pem",
            "keyfile": str(files / "locked.pem"),
            "password": "secret",
        },
    )
    assert told(secure(server, authority.client_context()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"certfile": "missing.pem"}, "certfile: cannot read"),
        ({"certfile": "empty.pem"}, "no PEM certificate"),
        ({"certfile": "key.pem"}, "no PEM certificate"),
        ({"keyfile": "missing.pem"}, "keyfile: cannot read"),
        ({"keyfile": "cert.pem"}, "no usable PEM private key"),
        ({"keyfile": "other"}, "does not belong to the certificate"),
        ({"keyfile": "locked"}, "encrypted"),
        ({"keyfile": "locked", "password": "wrong"}, "password: a wrong password"),
        ({"verify": "required"}, "ca_certs"),
        ({"verify": "sometimes"}, "verify"),
        ({"ca_certs": "empty.pem", "verify": "required"}, "ca_certs"),
        ({"ciphers": "NO-SUCH-CIPHER"}, "ciphers"),
        ({"min_version": "1.0"}, "min_version"),
        ({"alpn_protocols": "h2"}, "alpn_protocols"),
        ({"sni": {"not a host": {}}}, "host names"),
        ({"sni": {"a.example": {}}}, "certfile"),
        ({"sni": {"a.example": {"backlog": 5}}}, "backlog"),
        ({"sni": 5}, "sni"),
        ({"crl": "empty.pem"}, "crl"),
        ({"keylog_file": "/no/such/directory/file"}, "keylog_file"),
        ({"context": object()}, "OpenSSL.SSL.Context"),
        ({"certifle": "x"}, "did you mean transport_options: certfile"),
    ],
)
def test_d16_wrong_tls_options_are_found_by_the_constructor(options, says, authority, files):
    given = {**authority.options, **options}
    for name, value in options.items():
        if str(value).endswith(".pem"):
            given[name] = str(files / value)
        elif value == "other":
            given[name] = authority.ca.issue_cert("other").private_key_pem.bytes()
        elif value == "locked":
            given[name] = encrypted(authority.key, b"secret")
    with pytest.raises(ConfigError) as caught:
        ThousandIsland(handler_cls=Echo, transport_cls=TLS, transport_options=given)
    assert says in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_ready_context_excludes_the_other_options(serve, authority, secure):
    options = {"context": authority.server_context()}
    server = serve(Echo, transport_cls=TLS, transport_options=options)
    sock = secure(server, authority.client_context())
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    with pytest.raises(ConfigError, match="excludes certfile"):
        TLS.prepare(context=authority.server_context(), certfile=authority.chain)


def test_an_expired_certificate_is_served_with_a_warning(authority):
    import datetime

    expired = authority.ca.issue_cert(
        "localhost", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    )
    with pytest.warns(UserWarning, match="expired on 2020-01-01"):
        TLS.prepare(
            certfile=expired.cert_chain_pems[0].bytes(), keyfile=expired.private_key_pem.bytes()
        )


def test_d14_keys_and_passwords_are_shown_nowhere(serve, authority, record):
    recorder = record("listener.start")
    locked = encrypted(authority.key, b"geheim")
    more = {"keyfile": locked, "password": "geheim"}
    server = tls(serve, authority, more=more)
    texts = [repr(server), repr(server._transport.current), repr(recorder.told)]
    texts.append(repr(TLS.prepare(certfile=authority.chain, **more)))
    texts.append(repr(SwitchTransport(TLS, more)))
    for text in texts:
        assert "geheim" not in text
        assert "PRIVATE" not in text
        assert locked.decode()[40:80] not in text


def test_keys_for_a_sniffer(serve, authority, secure, tmp_path):
    path = tmp_path / "keys"
    server = tls(serve, authority, more={"keylog_file": path})
    told(secure(server, authority.client_context()))
    assert b"SECRET" in path.read_bytes()


def test_a_listener_that_dies_under_tls_leaves_nothing(authority):
    for _ in range(3):
        server = ThousandIsland(
            handler_cls=Echo,
            transport_cls=TLS,
            transport_options=authority.options,
            host="127.0.0.1",
            port=0,
        )
        server.start()
        with socket.create_connection(server.local_address, 5):
            server.stop(1_000)
