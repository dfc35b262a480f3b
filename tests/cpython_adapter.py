"""Puts this library under the standard library's `socketserver`, in the process that imports this.

    python -m tests.cpython_adapter tcp test.test_socketserver [-v] [part of a test's name ...]

runs a test module of the Python that runs it: its servers bind their sockets as ever, and a
`ThousandIsland` accepts from them and runs their request handlers, by `socketserver_handler`.
Datagrams are left to the standard library. With `tls` for `tcp`, the servers speak TLS and the
clients of the tests, which know nothing of it, are given sockets that do.

What a server class does in `get_request`, `shutdown_request` and `service_actions`, which have no
place with us, is done here around the callback, for the tests look whether it was done.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import socketserver
import ssl
import sys
import threading
import unittest
from collections.abc import Iterator
from typing import Any

import trustme

from thousand_island_sync import (
    TCP,
    TLS,
    Close,
    Error,
    Handler,
    Socket,
    ThousandIsland,
    socketserver_handler,
)

#: Servers that speak TLS by themselves, in `get_request`: by `wrap_socket` of our `Socket`.
OWN_TLS = {"SecureTCPServer", "TestHTTPServer"}
#: What is not run, and why: a part of a test's name, over which transport.
LEFT_OUT = {
    "MiscTestCase.test_threads_reaped": "looks at the list of threads that the mix-in keeps",
    "test.test_imaplib.Remote": "asks servers on the internet",
    "test.test_logging.SMTPHandlerTest": "has an asynchronous server",
}
LEFT_OUT_OVER_TLS = {
    # TLS inside TLS is what the client in these tests would have to speak.
    "test.test_imaplib.NewIMAPSSLTests": "TLS of its own; the run over TCP has it",
    "test.test_imaplib.ThreadedNetworkedTestsSSL": "TLS of its own; the run over TCP has it",
    "starttls": "TLS of its own; the run over TCP has it",
    "test.test_httpservers.CGIHTTPServerTestCase": "a child cannot write to an encrypted socket",
}

_standard_init = socketserver.TCPServer.__init__
_standard_activate = socketserver.TCPServer.server_activate
_standard_close = socketserver.TCPServer.server_close
_standard = {
    name: getattr(socketserver.BaseServer, name)
    for name in ("serve_forever", "shutdown", "handle_request")
}
_plain_socket = socket.socket

#: How many connections were served, and how many of them over TLS.
served = {"in all": 0, "over TLS": 0}
_counting = threading.Lock()
_secure_addresses: set[Any] = set()


class Listening:
    """A server's listening socket: `accept` gives what we have accepted."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.here = threading.local()
        self.close_server = lambda: None

    def accept(self) -> tuple[Any, Any]:
        return self.here.accepted

    def close(self) -> None:
        self.close_server()
        self.sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class Under:
    """What serves in the place of one server of the standard library's."""

    def __init__(self, server: Any, transport: str) -> None:
        self.server = server
        self.listening = Listening(server.socket)
        self.turns = threading.Condition()
        self.allowed = 0.0  # connections that may be served now
        self.over = False
        self.shutdown_asked = threading.Event()
        self.shut_down = threading.Event()
        self.results: list[BaseException | None] = []
        secure = transport == "tls" and type(server).__name__ not in OWN_TLS
        options: dict[str, Any] = {"sockets": [server.socket]}
        if secure:
            options.update(certificate())
            _secure_addresses.add(known(server.socket.getsockname()))
        self.island = ThousandIsland(
            handler_cls=handler_for(self),
            transport_cls=TLS if secure else TCP,
            transport_options=options,
            num_acceptors=1,
            read_timeout_ms=None,
            interrupt_reads=True,
        ).start()
        self.listening.close_server = self.close

    def wait_for_turn(self) -> bool:
        with self.turns:
            self.turns.wait_for(lambda: self.allowed > 0 or self.over)
            self.allowed -= 1
            return not self.over

    def tell(self, error: BaseException | None) -> None:
        with self.turns:
            self.results.append(error)
            self.turns.notify_all()

    def handle_one(self) -> None:
        """`handle_request`: one connection."""
        with self.turns:
            before = len(self.results)
            self.allowed += 1
            self.turns.notify_all()
            limits = (self.server.timeout, self.listening.sock.gettimeout())
            limit = min((one for one in limits if one is not None), default=None)
            if not self.turns.wait_for(lambda: len(self.results) > before, limit):
                self.allowed -= 1
                self.server.handle_timeout()
                return
            error = self.results[before]
        if error is not None and not isinstance(error, Exception):
            threaded = isinstance(self.server, socketserver.ThreadingMixIn)
            forks = isinstance(self.server, getattr(socketserver, "ForkingMixIn", ()))
            if threaded:  # its thread would have ended of it
                threading.excepthook(threading.ExceptHookArgs((type(error), error, None, None)))
            elif not forks:
                raise error

    def serve(self, poll_interval: float) -> None:
        self.shut_down.clear()
        self.allow(float("inf"))
        while not self.shutdown_asked.wait(poll_interval):
            self.server.service_actions()
        self.allow(0)
        self.shutdown_asked.clear()
        self.shut_down.set()

    def allow(self, count: float) -> None:
        with self.turns:
            self.allowed = count
            self.turns.notify_all()

    def shutdown(self) -> None:
        self.shutdown_asked.set()
        self.shut_down.wait()

    def close(self) -> None:
        with self.turns:
            self.over = True
            self.turns.notify_all()
        self.island.stop(5_000)


def handler_for(under: Under) -> type[Handler]:
    """What serves a connection of a server."""
    server = under.server
    Adapted = socketserver_handler(server.RequestHandlerClass, server=server, ignore_hooks=True)

    class Served(Adapted):  # type: ignore[misc, valid-type]
        def handle_connection(self, socket: Socket) -> Close | Error:
            if not under.wait_for_turn():
                return Close()
            error: BaseException | None = None
            with _counting:
                served["in all"] += 1
                served["over TLS"] += socket.secure
            try:
                return self.serve(socket)
            except BaseException as raised:
                error = raised
                raise
            finally:
                under.tell(error)

        def serve(self, socket: Socket) -> Close | Error:
            under.listening.here.accepted = socket, socket.getpeername()
            request, address = server.get_request()
            try:
                if request is socket:
                    result: Close | Error = super().handle_connection(socket)
                    return result
                finish_by_itself(server, request, address)  # it has made another one of ours
                return Close()
            finally:
                server.shutdown_request(request)

    return Served


def finish_by_itself(server: Any, request: Any, address: Any) -> None:
    """As `BaseServer._handle_request_noblock`."""
    if not server.verify_request(request, address):
        return
    try:
        server.finish_request(request, address)
    except Exception:
        server.handle_error(request, address)


# ---- TLS for clients that know nothing of it --------------------------------

_made: list[dict[str, Any]] = []


def certificate() -> dict[str, Any]:
    if not _made:
        issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        _made.append({"certfile": chain, "keyfile": issued.private_key_pem.bytes()})
    return _made[0]


def known(address: Any) -> Any:
    """By what a server is known: its port, or its path."""
    return address[1] if isinstance(address, tuple) else address


class Client(socket.socket):
    """A socket that speaks TLS once it is connected to a server that does."""

    _secure: ssl.SSLSocket | None = None

    def connect(self, address: Any) -> None:
        super().connect(address)
        if self.type & socket.SOCK_STREAM and known(self.getpeername()) in _secure_addresses:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            copied = _plain_socket(fileno=os.dup(self.fileno()))
            copied.settimeout(self.gettimeout())
            self._secure = context.wrap_socket(copied)

    def settimeout(self, value: float | None) -> None:
        super().settimeout(value)
        if self._secure is not None:
            self._secure.settimeout(value)

    def _real_close(self, *arguments: Any) -> None:
        if self._secure is not None:
            self._secure.close()
        super()._real_close(*arguments)  # type: ignore[misc]


def _over_tls(name: str) -> Any:
    def call(self: Client, *arguments: Any, **named: Any) -> Any:
        target = _plain_socket if self._secure is None else None
        if target is not None:
            return getattr(target, name)(self, *arguments, **named)
        return getattr(self._secure, name)(*arguments, **named)

    return call


for _name in ("send", "sendall", "sendfile", "recv", "recv_into"):
    setattr(Client, _name, _over_tls(_name))


# ---- in the place of socketserver's ----------------------------------------


def put_under(transport: str) -> None:
    """From now on, servers of streams are served by us."""

    def is_ours(server: Any) -> bool:
        return isinstance(getattr(server, "under", None), Under)

    def activate(server: Any) -> None:
        _standard_activate(server)
        if server.socket_type == socket.SOCK_STREAM:
            server.under = Under(server, transport)
            server.socket = server.under.listening

    def close(server: Any) -> None:
        if is_ours(server):
            server.under.close()
        _standard_close(server)

    def serve_forever(server: Any, poll_interval: float = 0.5) -> None:
        if is_ours(server):
            server.under.serve(poll_interval)
        else:
            _standard["serve_forever"](server, poll_interval)

    def shutdown(server: Any) -> None:
        if is_ours(server):
            server.under.shutdown()
        else:
            _standard["shutdown"](server)

    def handle_request(server: Any) -> None:
        if is_ours(server):
            server.under.handle_one()
        else:
            _standard["handle_request"](server)

    socketserver.TCPServer.server_activate = activate  # type: ignore[method-assign]
    socketserver.TCPServer.server_close = close  # type: ignore[method-assign]
    socketserver.BaseServer.serve_forever = serve_forever  # type: ignore[method-assign]
    socketserver.BaseServer.shutdown = shutdown  # type: ignore[method-assign]
    socketserver.BaseServer.handle_request = handle_request  # type: ignore[method-assign]
    if transport == "tls":
        socket.socket = Client  # type: ignore[misc]


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from tests_in(one)
        else:
            yield one


def main(transport: str, name: str, *arguments: str) -> int:
    left_out = {**LEFT_OUT, **(LEFT_OUT_OVER_TLS if transport == "tls" else {})}
    put_under(transport)
    log = logging.getLogger("thousand_island_sync")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    module = importlib.import_module(name)
    importlib.import_module("test.support").verbose = 0
    wanted = [one for one in arguments if not one.startswith("-")]
    suite = unittest.TestSuite()
    for test in tests_in(unittest.defaultTestLoader.loadTestsFromModule(module)):
        if any(part in test.id() for part in left_out):
            continue
        if not wanted or any(part in test.id() for part in wanted):
            suite.addTest(test)
    result = unittest.TextTestRunner(verbosity=2 if "-v" in arguments else 1).run(suite)
    count, secure = served["in all"], served["over TLS"]
    print(f"{name}: {result.testsRun} tests, {count} connections served, {secure} over TLS")
    enough = count > 0 and (transport == "tcp" or secure > 0)
    return 0 if result.wasSuccessful() and enough else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
