"""Failures of TLS, by their ids in the catalogue (docs/explanation/reliability.md). Others are
where what they concern is tested: test_tls, test_tls_hosts, test_tls_hostile, test_tls_programs."""

import contextlib
import errno
import functools
import logging
import os
import pty
import random
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback

import pytest

from tests.programs import ROOT, UNCHECKED, Script
from tests.support import (
    Echo,
    echoes,
    eventually,
    exchange,
    free_port,
    journal,
    memory_kib,
    receive,
    receive_all,
    reset,
    running,
)
from tests.test_tls import encrypted
from tests.test_tls import tls as serve_tls
from thousand_island_sync import (
    TLS,
    Close,
    ConfigError,
    Handler,
    HandshakeError,
    SocketClosed,
    SocketTimeout,
    SwitchTransport,
    ThousandIsland,
    ThousandIslandError,
    attach_logger,
)

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


@pytest.fixture
def tls(serve, authority):
    """Serves a handler over TLS."""

    return functools.partial(serve_tls, serve, authority)


# ---- D1: timeouts -------------------------------------------------------------


@VERSIONS
def test_d1_a_timeout_of_recv_fires_in_its_time(version, tls, authority, secure):
    took, errors = [], []

    class Waits(journal()):
        def handle_connection(self, socket):
            began = time.monotonic()
            try:
                socket.recv(timeout_ms=500)
            except SocketTimeout as error:
                took.append(time.monotonic() - began)
                errors.append(error)
                raise

    secure(tls(Waits), authority.client_context(version))
    assert Waits.ended()
    assert 0.5 <= took[0] < 0.6
    assert isinstance(errors[0], TimeoutError)
    assert Waits.names() == ["timeout", "end"]


@VERSIONS
def test_d1_both_directions_full_at_once(version, tls, authority, secure):
    """What a record of one direction waits for may be in the other: neither stands still."""
    data = os.urandom(3_000_000)
    sock = secure(tls(Echo), authority.client_context(version))
    assert exchange(sock, data, len(data)) == data


# ---- D2: parts of sends -------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "pieces"], ids=str)
def test_d2_much_data_to_a_slow_reader_is_exact(version, kind, tls, authority, secure):
    data = os.urandom(1_000_000) * 20

    class Sends(Handler):
        def handle_data(self, asked, socket):
            whole = [data[:7_000_000], data[7_000_000:]] if kind == "pieces" else kind(data)
            assert socket.send(whole) == len(data)
            return Close()

    sock = secure(tls(Sends), authority.client_context(version))
    sock.sendall(b"x")
    pause = threading.Event()
    received = bytearray()
    while part := sock.recv(1_000_000):
        received += part
        if len(received) < 500_000:
            pause.wait(0.001)
    assert received == data


# ---- D3: errors are ours ------------------------------------------------------


@VERSIONS
def test_d3_each_end_of_a_peer_is_one_of_ours(version, tls, authority, secure):
    seen = []

    class Reads(Handler):
        def handle_connection(self, socket):
            socket.send(b"ready")
            try:
                while socket.recv():
                    pass
                seen.append("truncated" if socket.truncated else "end")
            except ThousandIslandError as error:
                seen.append(error)
            socket.close()
            try:
                socket.recv()
            except SocketClosed as error:
                seen.append(error)

    server = tls(Reads)

    def visit(end):
        seen.clear()
        sock = secure(server, authority.client_context(version))
        assert receive(sock, 5) == b"ready"
        if version is ssl.TLSVersion.TLSv1_3:
            sock.sendall(b"x")  # its tickets are read by now, so a close is no reset
        end(sock)
        assert eventually(lambda: len(seen) == 2), seen
        assert isinstance(seen[1], SocketClosed)
        return seen[0]

    def send_close_notify(sock):
        sock.unwrap()

    def just_close(sock):
        socket.socket.shutdown(sock, socket.SHUT_WR)

    assert visit(send_close_notify) == "end"
    assert visit(just_close) == "truncated"
    told = visit(reset)
    assert isinstance(told, SocketClosed)
    assert isinstance(told, ConnectionResetError)


def test_d3_no_exception_of_openssl_comes_out(tls, authority, client, record):
    recorder = record("socket.handshake_error", "handler.error")
    server = tls(Echo)
    for sent in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x15\x03\x01\0\2\2(",
        b"\x16",
    ):
        with client(server) as sock:
            sock.sendall(sent)
            with contextlib.suppress(ConnectionError):
                sock.shutdown(socket.SHUT_WR)
                receive_all(sock)
    told = recorder.wait_for("handler.error", 4)
    for one in told:
        error = one.measurements["error"]
        assert isinstance(error, HandshakeError)
        assert "127.0.0.1" in str(error)
    reasons = " ".join(str(one.measurements["error"]) for one in told)
    assert "plain HTTP" in reasons


@VERSIONS
@pytest.mark.parametrize("end", ["FIN", "RST", "garbage"])
def test_d3_a_send_after_the_end_meets_a_peer_that_has_gone(version, end, tls, authority, secure):
    """Whatever ended the session, OpenSSL has no words for what comes later."""
    caught = []

    class Sends(Handler):
        def handle_data(self, data, socket):
            socket.send(data)

        def last(self, *arguments):
            for _ in range(3):
                try:
                    arguments[-1].send(b"too late")
                except ThousandIslandError as error:
                    caught.append(error)

        handle_close = handle_error = last

    server = tls(Sends)
    sock = secure(server, authority.client_context(version))
    echoes(sock)
    if end == "RST":
        reset(sock)
    else:
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        if end == "garbage":
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        raw.shutdown(socket.SHUT_WR)
        raw.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert caught
    assert all(isinstance(error, SocketClosed) for error in caught), caught


# ---- D4: several threads ------------------------------------------------------


@VERSIONS
def test_d4_one_thread_waits_in_recv_and_another_sends(version, tls, authority, secure):
    slowest = []

    class Both(Handler):
        def handle_connection(self, socket):
            sender = threading.Thread(target=self.send, args=(socket,))
            sender.start()
            while data := socket.recv():
                assert not data.strip(b"c")
            sender.join(10)
            return Close()

        def send(self, socket):
            for number in range(10_000):
                began = time.monotonic()
                socket.send(b"%06d\n" % number)
                slowest.append(time.monotonic() - began)

    sock = secure(tls(Both), authority.client_context(version))
    wanted = b"".join(b"%06d\n" % number for number in range(10_000))
    assert exchange(sock, b"c" * 20_000, len(wanted)) == wanted
    sock.unwrap()
    assert sorted(slowest)[-10] < 0.25  # a send that waits for the receiver waits for ever


# ---- D5: callbacks of OpenSSL that fail ---------------------------------------


@pytest.mark.heavy
def test_d5_what_fails_for_one_client_is_never_raised_in_another(tls, authority, record):
    recorder = record("socket.handshake_error")

    def choose(name):
        if name == "b.example":
            raise LookupError("only for b.example")

    server = tls(
        Echo,
        {
            "sni": choose,
            "alpn_protocols": ["echo"],
            "ca_certs": authority.ca_pem,
            "verify": "optional",
        },
    )
    good = authority.client_context()
    good.set_alpn_protocols(["echo"])
    bad_alpn = authority.client_context()
    bad_alpn.set_alpn_protocols(["other"])
    kinds = [("localhost", good), ("b.example", good), ("localhost", good), ("localhost", bad_alpn)]
    over, failures, served = threading.Event(), [], []

    def visits(seed):
        name, context = kinds[seed % 4]
        while not over.is_set():
            try:
                with socket.create_connection(server.local_address, timeout=10) as sock:
                    with context.wrap_socket(sock, server_hostname=name) as wrapped:
                        wrapped.sendall(b"x")
                        if wrapped.recv(1) != b"x":
                            raise ConnectionError("no echo")
                served.append(seed)
            except OSError as error:
                if seed % 2 == 0:
                    failures.append(error)

    with running(*[functools.partial(visits, seed) for seed in range(8)], within=10):
        over.wait(3)
        over.set()
    assert not failures
    assert {seed % 2 for seed in served} == {0}
    reasons = {str(one.measurements["error"]).partition(": ")[2] for one in recorder.told}
    assert any("LookupError" in reason for reason in reasons)
    assert any("protocol" in reason for reason in reasons)


# ---- D7, D9, D10, D11 ---------------------------------------------------------


def test_d7_also_with_tls_13(tls, authority, client):
    """A client with a certificate comes back three times, with its newest session."""
    server = tls(Echo, {"ca_certs": authority.ca_pem, "verify": "required"})
    context = authority.client_context(ssl.TLSVersion.TLSv1_3, with_certificate=True)
    session, resumed = None, []
    for _ in range(4):
        sock = context.wrap_socket(client(server), server_hostname="localhost", session=session)
        echoes(sock)  # the tickets come with it
        session = sock.session
        resumed.append(sock.session_reused)
        sock.close()
    assert resumed == [False, True, True, True]


@VERSIONS
def test_d9_a_peer_that_never_answers_does_not_hold_up_a_close(version, tls, authority, secure):
    took = []

    class Closes(Handler):
        def handle_data(self, data, socket):
            began = time.monotonic()
            socket.close()
            socket.close()
            took.append(time.monotonic() - began)

    server = tls(Closes)
    sock = secure(server, authority.client_context(version))
    sock.sendall(b"x")
    assert eventually(lambda: took)
    assert took[0] < 0.05
    assert eventually(lambda: server.info().active_connections == 0)
    assert sock.recv(1) == b"", "close_notify came: no error"


@pytest.mark.memory
def test_d10_an_idle_connection_takes_little(authority, tmp_path):
    (tmp_path / "chain.pem").write_bytes(authority.chain + authority.key)
    options = f"transport_options={{'certfile': '{tmp_path}/chain.pem'}}"
    arguments = ("-m", "tests.served", "Echo", "transport_cls=TLS", options)
    with Script(*arguments, environment=UNCHECKED) as script:
        context = authority.client_context()
        with contextlib.ExitStack() as stack:

            def connect(count):
                for _ in range(count):
                    sock = socket.create_connection(("127.0.0.1", int(script.port)), timeout=10)
                    wrapped = context.wrap_socket(sock, server_hostname="localhost")
                    stack.enter_context(wrapped)
                    echoes(wrapped)

            connect(20)
            before = script.ask("facts")
            connect(100)
            after = script.ask("facts")
    assert after["active_connections"] == 120
    assert (after["memory_kib"] - before["memory_kib"]) / 100 <= 40
    assert after["threads"] <= before["threads"] + 4, "none for each"


@VERSIONS
def test_d11_decrypted_bytes_are_not_forgotten(version, tls, authority, secure):
    """Ten thousand bytes in one record, read ten at a time, in a callback and between."""
    seen = bytearray()

    class Small(Handler):
        def handle_connection(self, socket):
            for _ in range(500):
                seen.extend(socket.recv(10))

        def handle_data(self, data, socket):
            seen.extend(data)
            socket.send(b"%d\n" % len(seen))

    data = os.urandom(10_000)
    sock = secure(tls(Small), authority.client_context(version))
    sock.sendall(data)
    assert receive(sock, 6) == b"10000\n"
    assert seen == data


@VERSIONS
@pytest.mark.parametrize("who", ["Connection.close", "Socket.close", "stop"])
@pytest.mark.parametrize("state", ["parked", "in recv", "busy", "at any moment"])
def test_d9_an_end_from_outside_is_clean_too(version, who, state, tls, authority, client):
    """The client reads what was sent and a close_notify: no truncation, no alert."""
    socks, busy = [], threading.Event()

    class Serves(Handler):
        def handle_connection(self, socket):
            socks.append(socket)
            socket.send(b"<")
            if state == "in recv":
                while socket.recv():
                    pass
            if state == "busy":
                busy.wait(0.05)
                socket.recv(timeout_ms=5_000)

        def handle_data(self, data, socket):
            socket.send(data)

        def handle_eof(self, socket):
            socks.append("handle_eof")
            return Close()

    context = authority.client_context(version)
    chance = random.Random(9)
    server = tls(Serves, interrupt_reads=True)
    for _ in range(30 if state == "at any moment" else 3):
        socks.clear()
        if server.status == "stopped":
            server.start()
        sock = context.wrap_socket(
            client(server), server_hostname="localhost", suppress_ragged_eofs=False
        )
        assert sock.recv(1) == b"<"
        if state == "at any moment":
            sock.sendall(b"x" * chance.randrange(1, 30_000))
        threading.Event().wait(chance.random() * 0.002)
        if who == "stop":
            server.stop(2_000)
        elif who == "Socket.close":
            socks[0].close()
        else:
            socks[0].connection.close()
        while data := sock.recv(65_536):
            assert not data.strip(b"x")
        assert "handle_eof" not in socks
        sock.close()


def test_d9_a_send_that_comes_just_after_our_goodbye_meets_a_closed_socket(tls, authority, secure):
    caught = []

    class Sends(Handler):
        def handle_data(self, data, socket):
            socket._stream.channel.send_close_notify()  # what a close by another thread does first
            for _ in range(2):
                with pytest.raises(SocketClosed) as error:
                    socket.send(b"late")
                caught.append(error.value.errno)

    sock = secure(tls(Sends), authority.client_context())
    sock.sendall(b"x")
    assert eventually(lambda: caught == [errno.EPIPE] * 2), caught


# ---- D12, D13 -----------------------------------------------------------------


def test_d13_health_probes_are_counted_and_not_logged(tls, client, record, caplog):
    """No failed handshakes: a hundred of them are no ERROR lines with `attach_logger()`."""
    recorder = record("socket.handshake_error", "handler.error", "handler.shutdown")
    caplog.set_level(logging.INFO, "thousand_island_sync")
    attach_logger("info")
    server = tls(Echo)
    caplog.clear()
    for number in range(100):
        sock = client(server)
        reset(sock) if number % 2 else sock.close()
    recorder.wait_for("handler.shutdown", 100)
    assert recorder.names() == ["handler.shutdown"] * 100
    assert caplog.records == []
    assert eventually(lambda: server.info().active_connections == 0)
    assert server.info().probes_total == 100


def test_d13_who_has_spoken_is_no_probe(tls, client, record):
    recorder = record("socket.handshake_error")
    server = tls(Echo)
    for _ in range(20):
        with client(server) as sock:
            sock.sendall(b"\x16\x03\x01")
    assert len(recorder.wait_for("socket.handshake_error", 20)) == 20
    assert server.info().probes_total == 0
    for one in recorder.of("socket.handshake_error"):
        assert one.metadata["remote_address"] == "127.0.0.1"
        assert one.metadata["remote_port"] > 0
        assert "127.0.0.1" in str(one.measurements["error"])


@pytest.mark.parametrize("how", ["garbage", "silence"])
def test_d13_a_handshake_that_fails_is_one_line_of_the_attached_logger(
    how, tls, client, record, caplog
):
    recorder = record("socket.close")
    attach_logger()
    server = tls(Echo, handshake_timeout_ms=50 if how == "silence" else 5_000)
    sock = client(server)
    if how == "garbage":
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    recorder.wait_for("socket.close")
    server.stop()
    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert told.message.startswith("socket.handshake_error ")


# ---- D14: secrets -------------------------------------------------------------


def everything_said_of(value, depth=0):
    """`str` and `repr` of a value and of all that can be reached from it by public names."""
    yield from (str(value), repr(value))
    if depth > 3 or isinstance(value, (str, bytes, int, float, type(None))):
        return
    if isinstance(value, BaseException):
        yield "".join(traceback.format_exception(value))
        yield from everything_said_of(value.args, depth + 1)
        for cause in (value.__cause__, value.__context__):
            if cause is not None:
                yield from everything_said_of(cause, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from everything_said_of(key, depth + 1)
            yield from everything_said_of(item, depth + 1)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from everything_said_of(item, depth + 1)
    elif type(value).__module__.startswith("thousand_island_sync"):
        for name in dir(value):
            # What gives the user's own mapping back to the user is no leak.
            own = ("given", "transport_options", "current")
            if not name.startswith("_") and name not in own:
                with contextlib.suppress(Exception):
                    attribute = getattr(value, name)
                    if not callable(attribute):
                        yield from everything_said_of(attribute, depth + 1)


def test_d14_no_secret_in_any_repr_error_event_or_log_line(
    tls, authority, secure, client, record, caplog
):
    """A server with a password, keys and hosts lives its whole life, failures included, with
    every event recorded and everything logged; what is said anywhere is walked."""
    recorder = record()
    caplog.set_level(logging.DEBUG)
    attach_logger("trace")
    password = "correct-horse-battery"
    locked = encrypted(authority.key, password.encode())
    other = authority.ca.issue_cert("b.example")
    other_key = other.private_key_pem.bytes()
    host = {"certfile": other.cert_chain_pems[0].bytes(), "keyfile": other_key}
    more = {"keyfile": locked, "password": password, "sni": {"b.example": host}}
    said = []

    class Everything(Handler):
        def __init__(self, options):
            super().__init__(options)
            said.extend(everything_said_of(self))

        def handle_data(self, data, socket):
            said.extend(everything_said_of(socket))
            said.extend(everything_said_of(socket.connection))
            if data == b"fail":
                raise ValueError(socket)
            socket.send(data)

    server = tls(Everything, more)
    for name in ("localhost", "b.example"):
        with secure(server, authority.client_context(), name) as sock:
            echoes(sock)
            sock.sendall(b"fail")
            receive_all(sock)
    with client(server) as sock:
        sock.sendall(b"no TLS\r\n")
        receive_all(sock)
    wrong = [
        {"password": "not-" + password},
        {"password": None},
        {"keyfile": other_key},
        {"certfile": locked},
        {"passwort": password},
        {"sni": {"not a host": host}},
        {"sni": [host | {"password": password}]},
        {"sni": {"a.example": [host | {"password": password}]}},
        {"sni": {"a.example": host | {"password": password, "min_version": other_key}}},
        {"alpn_protocols": other_key},
        {"ciphers": other_key},
        {"keylog_file": "/nowhere/" + "x" * 10},
    ]
    given = {**authority.options, **more}
    for change in wrong:
        for call in (
            lambda change=change: server.reload_transport(**change),
            lambda change=change: TLS.prepare(**{**given, **change}),
            lambda change=change: ThousandIsland(
                handler_cls=Echo, transport_cls=TLS, transport_options={**given, **change}
            ),
        ):
            with pytest.raises(ConfigError) as caught:
                call()
            said.extend(everything_said_of(caught.value))
    said.extend(everything_said_of(server))
    said.extend(everything_said_of(TLS.prepare(**given)))
    said.extend(everything_said_of(SwitchTransport(TLS, given)))
    server.suspend()
    server.resume()
    server.stop()
    for told in recorder.told:
        said.extend(everything_said_of(told.measurements))
        said.extend(everything_said_of(told.metadata))
    said.extend(one.getMessage() + (one.exc_text or "") for one in caplog.records)
    assert len(said) > 500
    # A ValueError that names an option's wrong *name* may say it; its value is the secret.
    parts = {password}
    for pem in (locked, authority.key, other_key):
        parts.update(re.findall(r"^[A-Za-z0-9+/=]{40,}$", pem.decode(), re.MULTILINE))
    assert len(parts) >= 8
    for text in said:
        for part in parts:
            assert part not in text, text[:300]
        assert "PRIVATE KEY-----" not in text, text[:300]


# ---- D15, D16 -----------------------------------------------------------------


def test_d15_an_encrypted_key_without_its_password_never_prompts(authority, tmp_path):
    """With a terminal at hand: the command line must not ask it anything."""
    (tmp_path / "chain.pem").write_bytes(authority.chain)
    (tmp_path / "key.pem").write_bytes(encrypted(authority.key, b"secret"))
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "thousand_island_sync", "--port", "0"]
            + ["--certfile", str(tmp_path / "chain.pem"), "--keyfile", str(tmp_path / "key.pem")],
            cwd=ROOT,
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=20,
            start_new_session=True,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 2
    assert "encrypted" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [{"certfile": b""}, {"keyfile": b"x"}, {"min_version": "3"}, {"verify": "required"}, {"x": 1}],
    ids=lambda change: next(iter(change)),
)
def test_d16_what_is_wrong_is_found_before_a_port_is_bound(change, authority):
    port = free_port()
    with pytest.raises(ConfigError, match=next(iter(change))):
        ThousandIsland(
            handler_cls=Echo,
            host="127.0.0.1",
            port=port,
            transport_cls=TLS,
            transport_options={**authority.options, **change},
        )
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.memory
def test_d8_a_thousand_reloads_take_no_memory(authority, tmp_path):
    """With clients connecting all the while; what is open goes on."""
    pairs = [
        {"certfile": one.cert_chain_pems[0].bytes(), "keyfile": one.private_key_pem.bytes()}
        for one in (authority.ca.issue_cert("localhost") for _ in range(2))
    ]
    context = authority.client_context()
    with ThousandIsland(
        handler_cls=Echo,
        host="127.0.0.1",
        port=0,
        transport_cls=TLS,
        transport_options=authority.options,
    ) as server:

        def connect():
            sock = socket.create_connection(server.local_address, timeout=10)
            return context.wrap_socket(sock, server_hostname="localhost")

        with connect() as all_along:
            for number in range(200):
                server.reload_transport(**pairs[number % 2])
            before = memory_kib()
            for number in range(1_000):
                server.reload_transport(**pairs[number % 2])
                if number % 10 == 0:
                    with connect() as sock:
                        echoes(sock)
                        serial = sock.getpeercert()["serialNumber"]
                    with connect() as sock:
                        assert sock.getpeercert()["serialNumber"] == serial
            echoes(all_along)
            assert memory_kib() - before < 4_000
