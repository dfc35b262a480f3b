"""Faults of receivers, of files, of peers inside TLS, and of ourselves; odd uses."""

import errno
import io
import os
import queue
import select
import socket
import ssl
import threading

import pytest

from tests.support import (
    Echo,
    Recorder,
    eventually,
    is_held,
    journal,
    receive,
    receive_all,
    reset,
    task_of,
)
from thousand_island_sync import (
    TCP,
    TLS,
    Close,
    ConfigError,
    Continue,
    Error,
    Handler,
    NotSupported,
    SocketClosed,
    SocketError,
    SocketTimeout,
    SwitchTransport,
    events,
)
from thousand_island_sync._base import waits
from thousand_island_sync._base.unread import read_away, unread_bytes
from thousand_island_sync._connection.task import ConnectionTask
from thousand_island_sync._scheduler.task import Task
from thousand_island_sync.transports import Channel

# ---- ourselves --------------------------------------------------------------


def test_a_bug_of_ours_costs_one_connection(serve, client, monkeypatch, caplog):
    server = serve(Echo)
    good, bad = client(server), client(server)
    for sock in (good, bad):  # past their first steps, which end by looking for bytes
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
    victim = next(task_of(one) for one in server.connections() if one.peername == bad.getsockname())
    run = ConnectionTask.run

    def broken(self):
        if self is victim:
            raise MemoryError
        return run(self)

    monkeypatch.setattr(ConnectionTask, "run", broken)
    bad.sendall(b"x")
    assert eventually(lambda: server.info().active_connections == 1)
    assert "a bug in thousand_island_sync" in caplog.text
    good.sendall(b"y")
    assert receive(good, 1) == b"y"
    assert eventually(lambda: server.info().active_connections == 1)


def test_the_bare_task_must_be_filled_in():
    task = Task(0)
    for call in (task.run, task.broke):
        with pytest.raises(NotImplementedError):
            call()
    task.stop_begins()


def test_waiting_where_the_platform_has_no_poll(monkeypatch):
    monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    bell, ringer = socket.socketpair()
    with ours, theirs, bell, ringer:
        assert waits.wait_for(ours.fileno(), write=True, timeout=1)
        assert not waits.wait_for(ours.fileno(), write=False, timeout=0.01)
        ringer.send(b"x")
        assert waits.wait_for(ours.fileno(), write=False, timeout=1, also=bell.fileno())


def test_a_closed_descriptor_has_nothing_unread():
    ours, theirs = socket.socketpair()
    theirs.send(b"x" * 10)
    assert unread_bytes(ours)
    assert read_away(ours, 5) == (10, False)
    assert not unread_bytes(ours)
    ours.close()
    theirs.close()
    assert not unread_bytes(ours)
    assert read_away(ours, 5) == (0, False)


def test_a_muted_event_is_not_sent(serve, client):
    seen = []

    def receiver(server, **rest):
        seen.append(server)

    events.handler_start.connect(receiver)
    try:
        with events.handler_start.muted():
            server = serve(Echo)
            sock = client(server)
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        assert seen == []
    finally:
        events.handler_start.disconnect(receiver)


def test_receivers_may_come_and_go_while_events_are_sent(serve, client):
    server = serve(Echo)
    over = threading.Event()

    def churn():
        while not over.is_set():
            Recorder(("handler.start", "socket.close")).close()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        client(server).close()
    assert eventually(lambda: server.info().accepted_total == 100)
    over.set()
    for thread in threads:
        thread.join()


# ---- what callbacks return --------------------------------------------------


def test_results_show_themselves_and_keep_secrets():
    assert repr(Continue(timeout_ms=5)).startswith("Continue(timeout_ms=5")
    assert repr(Close()) == "Close()"
    assert repr(Error("why")) == "Error('why')"
    assert "secret" not in repr(SwitchTransport(TLS, {"password": "secret"}))
    with pytest.raises(ConfigError):
        Continue(persistent=True)
    with pytest.raises(ConfigError):
        Continue(timeout_ms=5, persistent=1)
    with pytest.raises(ConfigError):
        SwitchTransport(TLS, {}, timeout_ms=-1)


@pytest.mark.parametrize(
    ("switch", "error"),
    [
        (SwitchTransport(int, {}), TypeError),
        (SwitchTransport(TLS, {}), ConfigError),
        (SwitchTransport(TLS, 5), ConfigError),
        (SwitchTransport(TCP, {"nodelaj": 1}), ConfigError),
    ],
    ids=["no transport", "no certificate", "no mapping", "unknown option"],
)
def test_a_switch_that_cannot_be_is_handle_error(switch, error, serve, client):
    Base = journal()

    class Switches(Base):
        def handle_connection(self, socket):
            return switch

    client(serve(Switches))
    assert Switches.ended()
    assert isinstance(Switches.lines[0][1], error)


def test_switching_to_plain_tcp_again_is_an_upgrade_too(serve, client):
    class Switches(Handler):
        def handle_connection(self, socket):
            return SwitchTransport(TCP, {})

        def handle_upgrade(self, socket):
            socket.send(b"upgraded")

    assert receive(client(serve(Switches)), 8) == b"upgraded"


# ---- sending ----------------------------------------------------------------


def test_flags_of_a_send(serve, client):
    seen = []

    class Sends(Handler):
        def handle_connection(self, sock):
            seen.append(sock.send(b"more", socket.MSG_MORE))
            seen.append(sock.send(b"x" * 50_000_000, socket.MSG_DONTWAIT))
            with pytest.raises(SocketTimeout):
                while True:
                    sock.send(b"y" * 50_000_000, socket.MSG_DONTWAIT)
            seen.append("done")

    client(serve(Sends))
    assert eventually(lambda: seen[-1:] == ["done"])
    assert seen[0] == 4
    assert 0 < seen[1] < 50_000_000


def test_flags_of_a_receive(serve, client):
    seen = []

    class Receives(Handler):
        def handle_connection(self, sock):
            seen.append(sock.recv_until(b"\n"))
            seen.append(sock.recv(3, socket.MSG_DONTWAIT))
            seen.append(sock.recv(3, socket.MSG_PEEK))
            seen.append(sock.recv(3, socket.MSG_TRUNC & 0))
            seen.append(sock.recv(100, socket.MSG_WAITALL))
            seen.append(sock.recv(1, socket.MSG_PEEK))
            with pytest.raises(SocketError):
                sock.recv(1, socket.MSG_OOB)
            seen.append("done")

    sock = client(serve(Receives))
    sock.sendall(b"line\nabcdefrest")
    sock.shutdown(1)
    assert eventually(lambda: seen[-1:] == ["done"])
    assert seen[:-1] == [b"line\n", b"abc", b"def", b"def", b"rest", b""]


def test_many_buffers_to_a_slow_reader_arrive_in_order(serve, client):
    pieces = [bytes([65 + n % 26]) * 100_000 for n in range(100)]

    class Sends(Handler):
        def handle_connection(self, socket):
            socket.send(pieces)
            return Close()

    assert receive_all(client(serve(Sends))) == b"".join(pieces)


def test_a_send_waits_for_its_turn_no_longer_than_its_time(serve, client):
    seen = []

    class Sends(Handler):
        def handle_connection(self, socket):
            first = threading.Thread(target=self.fill, args=(socket,))
            first.start()
            assert eventually(lambda: is_held(socket._writer._sending))
            try:
                socket.send(b"x", timeout_ms=30)
            except SocketTimeout as error:
                seen.append(error.bytes_sent)
            first.join()
            seen.append("done")

        def fill(self, socket):
            with pytest.raises(SocketTimeout):
                socket.send(b"y" * 50_000_000, timeout_ms=300)

    client(
        serve(Sends, max_unsent=0)
    )  # it would be kept, where there is room, and wait for nothing
    assert eventually(lambda: seen == [0, "done"])


def test_a_close_from_another_thread_ends_a_send_that_waits(serve, client):
    sockets, seen = queue.SimpleQueue(), queue.SimpleQueue()

    class Sends(Handler):
        def handle_connection(self, socket):
            sockets.put(socket)
            try:
                socket.send(bytes(50_000_000))
            except SocketClosed as error:
                seen.put(error.bytes_sent)

    sock = client(serve(Sends))
    assert receive(sock, 1) == b"\0"  # so it has begun
    sockets.get(timeout=5).close()
    assert 0 < seen.get(timeout=5) < 50_000_000


def test_files_that_only_read(serve, client, tmp_path):
    class Stream:
        """Neither seekable nor with a descriptor."""

        def __init__(self):
            self.left = [b"one", b"two"]

        def read(self, count):
            return self.left.pop(0) if self.left else b""

    read, write = os.pipe()

    class Sends(Handler):
        def handle_connection(self, socket):
            assert socket.sendfile(Stream()) == 6
            with open(read, "rb") as pipe, pytest.raises(OSError):
                socket.sendfile(pipe, offset=5)
            return Close()

    sock = client(serve(Sends))
    assert receive_all(sock) == b"onetwo"
    os.close(write)


def test_a_file_that_fails_is_its_own_error(serve, client):
    seen = []

    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def read(self, count=-1):
            raise OSError(errno.EIO, "the disk is gone")

    class Sends(Handler):
        def handle_connection(self, socket):
            try:
                socket.sendfile(Broken())
            except OSError as error:
                seen.append(error)
            socket.send(b"usable")
            return Close()

    assert receive_all(client(serve(Sends))) == b"usable"
    assert seen[0].errno == errno.EIO
    assert not isinstance(seen[0], SocketError)


def test_a_makefile_that_must_not_wait(serve, client):
    seen = []

    class Reads(Handler):
        def handle_connection(self, socket):
            socket.setblocking(False)
            raw = socket.makefile("rb", buffering=0)
            seen.append(raw.readinto(bytearray(5)))
            seen.append((raw.fileno() == socket.fileno(), raw.name == socket.fileno()))
            writer = socket.makefile("wb", buffering=0)
            while writer.write(b"x" * 10_000_000) is not None:
                pass
            seen.append("full")

    client(serve(Reads))
    assert eventually(lambda: seen[-1:] == ["full"])
    assert seen == [None, (True, True), "full"]


# ---- TLS --------------------------------------------------------------------


@pytest.fixture
def tls(serve, authority, client):
    """A TLS server of a handler, and a client that has shaken hands with it."""
    wrapped = []

    def start(handler_cls, **more):
        server = serve(
            handler_cls, transport_cls=TLS, transport_options={**authority.options, **more}
        )
        plain = client(server)
        context = authority.client_context(ssl.TLSVersion.TLSv1_2)
        raw = plain.dup()
        sock = context.wrap_socket(plain, server_hostname="localhost")
        wrapped.extend((sock, raw))
        return server, sock, raw

    yield start
    for sock in wrapped:
        sock.close()


def test_garbage_inside_tls_is_handle_error(tls, caplog):
    Base = journal(Echo)
    _, sock, raw = tls(Base)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    raw.sendall(b"\x17\x03\x03\x00\x05abcde")
    assert Base.ended()
    assert Base.names() == ["error", "end"]
    error = Base.lines[0][1]
    assert isinstance(error, SocketError)
    assert error.errno == errno.EPROTO
    assert not caplog.records


def test_a_reset_inside_tls_is_handle_close(tls):
    Base = journal(Echo)
    _, sock, raw = tls(Base)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    raw.close()
    reset(sock)
    assert Base.ended()
    assert Base.names() == ["close", "end"]


def test_sending_over_tls_to_a_peer_that_has_gone(tls):
    Base = journal()
    go = threading.Event()

    class Sends(Base):
        def handle_connection(self, socket):
            go.wait(5)
            while True:
                socket.send(b"x" * 100_000)

    _, sock, raw = tls(Sends)
    raw.close()
    reset(sock)
    go.set()
    assert Sends.ended()
    assert Sends.names() == ["close", "end"]


def test_shutdown_over_tls_says_goodbye_and_flags_are_refused(tls):
    seen = []

    class Half(Handler):
        def handle_connection(self, sock):
            for call in (
                lambda: sock.recv(1, socket.MSG_OOB),
                lambda: sock.send(b"x", socket.MSG_OOB),
            ):
                with pytest.raises(NotSupported):
                    call()
            sock.shutdown("write")
            seen.append(sock.recv())

    _, sock, _ = tls(Half)
    sock.suppress_ragged_eofs = False
    assert sock.recv(1) == b""
    sock.sendall(b"after our goodbye")
    assert eventually(lambda: seen == [b"after our goodbye"])


def test_waiting_reads_over_tls_are_interrupted_and_may_still_send(serve, authority, client):
    class Waits(Handler):
        def handle_connection(self, socket):
            while True:
                socket.send(socket.recv())

        def handle_shutdown(self, socket):
            socket.send(b"bye")

    for interrupt_reads in (True, False):
        server = serve(
            Waits,
            transport_cls=TLS,
            transport_options=authority.options,
            interrupt_reads=interrupt_reads,
        )
        context = authority.client_context()
        with context.wrap_socket(client(server), server_hostname="localhost") as sock:
            sock.sendall(b"ping")
            assert sock.recv(4) == b"ping"
            if interrupt_reads:
                assert server.stop(5_000) is True
            else:
                server.connections()[0].close()
            assert receive_all(sock) == b"bye"


def test_more_tls_options(serve, authority, client, tmp_path):
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from OpenSSL import SSL

    now = datetime.datetime.now(datetime.timezone.utc)
    key = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    issuer = x509.load_pem_x509_certificate(authority.ca_pem).subject
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(now)
        .next_update(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    more = {
        "ca_certs": authority.ca_pem,
        "verify": "required",
        "crl": revoked.public_bytes(serialization.Encoding.PEM),
        "ciphers": "TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE+AESGCM",
        "session_tickets": False,
    }
    plain = SSL.Context(SSL.TLS_SERVER_METHOD)
    plain.use_certificate(x509.load_pem_x509_certificate(authority.chain))
    plain.use_privatekey(serialization.load_pem_private_key(authority.key, None))
    answers = {
        "a.example": TLS.prepare(**authority.options),
        "b.example": plain,
        "localhost": None,
        "127.0.0.1": 5,
    }
    server = serve(
        Echo,
        transport_cls=TLS,
        transport_options={**authority.options, **more, "sni": answers.get},
    )
    for name in ("a.example", "b.example", "localhost"):
        context = authority.client_context(with_certificate=True)
        with context.wrap_socket(client(server), server_hostname=name) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    TLS.prepare(**authority.options, ca_certs="system", verify="optional")


def test_sni_of_prepared_sets(authority):
    prepared = TLS.prepare(**authority.options)
    made = TLS.prepare(**authority.options, sni={"a.example": prepared, "*.b.example": prepared})
    names = made.current.options["sni"]
    assert set(names) == {"a.example", "*.b.example"}
    with pytest.raises(ConfigError, match=r"TLS\.prepare"):
        TLS.prepare(**authority.options, sni={"a.example": 5})


def test_a_prepared_set_with_a_host_of_the_server(serve, authority, client):
    server = serve(
        Echo,
        transport_cls=TLS,
        transport_options=TLS.prepare(**authority.options),
        host="127.0.0.1",
    )
    context = authority.client_context()
    with context.wrap_socket(client(server), server_hostname="localhost") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


# ---- a transport of one's own -----------------------------------------------


class Rot13(Channel):
    """Everything by hand, nothing quick: only what a channel must have."""

    def __init__(self, sock):
        sock.setblocking(False)
        self._sock = sock

    def handshake(self):
        return True

    def recv(self, length, flags=0):
        try:
            return self._turn(self._sock.recv(min(length, 7)))
        except BlockingIOError:
            return None

    def send(self, data, flags=0):
        try:
            return self._sock.send(self._turn(bytes(data)))
        except BlockingIOError:
            return 0

    def shutdown(self, how):
        self._sock.shutdown(how)

    @staticmethod
    def _turn(data):
        import codecs

        return codecs.encode(data.decode("latin-1"), "rot13").encode("latin-1")


class Rot13Transport(TCP):
    def channel(self, sock):
        return Rot13(sock)


def test_a_users_own_channel_needs_little(serve, client, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"from a file")
    seen = []

    class Talks(Handler):
        def handle_connection(self, socket):
            socket.send([b"hello ", b"there "])
            socket.sendfile(path)
            with pytest.raises(NotSupported):
                socket.send(b"x", 1)
            with pytest.raises(NotSupported):
                socket.tls_info()

        def handle_data(self, data, socket):
            seen.append(data)
            socket.send(data.upper())

    server = serve(Talks, transport_cls=Rot13Transport)
    sock = client(server)
    assert receive(sock, 23) == b"uryyb gurer sebz n svyr"
    sock.sendall(b"nopqrstuvwxyz")
    assert receive(sock, 13) == b"NOPQRSTUVWXYZ"
    assert b"".join(seen) == b"abcdefghijklm"
