"""docs/howto/socketserver.md: request handlers of the standard library, unchanged, and real
clients."""

import functools
import http.client
import http.server
import socketserver
import subprocess
import threading
import xmlrpc.client
from contextlib import closing
from functools import partial
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest

from tests.markdown import python_blocks
from tests.pages import run_python
from tests.programs import program
from tests.support import eventually, receive, receive_all
from thousand_island_sync import ConfigError, Handler, ThousandIsland, socketserver_handler

PAGE = "docs/howto/socketserver.md"


def names_in(block):
    names = run_python(PAGE, block, {})
    assert isinstance(names["server"], ThousandIsland)
    return names


BY_CLASS, BY_SERVER, BY_METHOD = map(names_in, python_blocks(PAGE))


@pytest.fixture
def errors(record):
    return record("handler.error")


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


class Fails(socketserver.BaseRequestHandler):
    def handle(self):
        raise ValueError(self.request.recv(5))


class Impatient(socketserver.StreamRequestHandler):
    timeout = 0.05

    def handle(self):
        with pytest.raises(TimeoutError):
            self.rfile.readline()
        self.wfile.write(b"too late")


def test_a_request_handler_runs_as_it_is(wire, errors):
    server = wire.serve(socketserver_handler(BY_CLASS["Upper"]), interrupt_reads=True)
    with closing(wire.connect(server)) as client:
        for _ in range(3):
            client.sendall(b"hal")
            client.sendall(b"lo\nthere\n")
            assert receive(client, 12) == b"HALLO\nTHERE\n"
        assert server.stop(5_000)
        assert receive_all(client) == b""
    assert not errors.told


def test_it_ends_as_a_method_too(wire, errors):
    server = wire.serve(BY_METHOD["Upper"])
    with closing(wire.connect(server)) as client:
        client.sendall(b"hal")
        client.sendall(b"lo\nthere\n")
        assert receive(client, 12) == b"HALLO\nTHERE\n"
        assert server.stop(5_000)
    assert not errors.told


def test_files_by_http_server_to_curl(serve, tmp_path, errors):
    curl = program("curl")
    (tmp_path / "large").write_bytes(b"\xa5" * 3_000_000)
    (tmp_path / "small").write_text("hello")
    server = serve(socketserver_handler(partial(Files, directory=str(tmp_path))))
    url = f"http://127.0.0.1:{server.local_port}"
    found = subprocess.run(
        [curl, "-sS", f"{url}/large", f"{url}/small", f"{url}/large"],
        capture_output=True,
        timeout=60,
    )
    assert found.stdout == b"\xa5" * 3_000_000 + b"hello" + b"\xa5" * 3_000_000, found.stderr
    assert server.info().accepted_total == 1  # the connection was kept
    assert not errors.told


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200, "hello from " + self.address_string())
        self.end_headers()


def test_http_server_over_every_wire(wire, errors):
    server = wire.serve(socketserver_handler(Hello))
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        host = "" if wire.name == "unix" else "127.0.0.1"
        assert receive_all(client).startswith(f"HTTP/1.0 200 hello from {host}\r\n".encode())
    assert not errors.told


def test_many_clients_of_one_request_handler_at_once(wire, errors):
    server = wire.serve(socketserver_handler(BY_CLASS["Upper"]))
    lines = b"".join(b"line %d\n" % number for number in range(2_000))
    clients = [wire.connect(server) for _ in range(12)]
    senders = [threading.Thread(target=client.sendall, args=(lines,)) for client in clients]
    for sender in senders:
        sender.start()
    for client in clients:
        assert receive(client, len(lines)) == lines.upper()
    for sender in senders:
        sender.join(10)
    assert not errors.told


@pytest.mark.parametrize("is_partial", [False, True])
def test_request_handlers_are_of_their_own_class(is_partial, wire, errors):
    made = []

    class NoDelay(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def __init__(self, *arguments, greeting=b"hi"):
            self.greeting = greeting
            super().__init__(*arguments)

        def handle(self):
            made.append((type(self), sorted(vars(self))))
            self.wfile.write(self.greeting)

    given = partial(NoDelay, greeting=b"ho") if is_partial else NoDelay
    server = wire.serve(socketserver_handler(given))
    with closing(wire.connect(server)) as client:
        assert receive_all(client) == (b"ho" if is_partial else b"hi")
    assert [kind for kind, _ in made] == [NoDelay]
    assert ("disable_nagle_algorithm" in made[0][1]) is (wire.name == "unix")
    assert not errors.told


def test_wsgi_handlers_are_of_their_own_class_and_hold_nothing_of_ours(wire, errors):
    made = []

    class Quiet(WSGIRequestHandler):
        def handle(self):
            made.append(self)
            super().handle()

        def log_message(self, format, *arguments):
            pass

    def application(environ, start):
        start("200 OK", [])
        return [environ["wsgi.url_scheme"].encode()]

    server = wire.serve(socketserver_handler(Quiet, get_app=lambda: application))
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert receive_all(client).endswith(b"https" if wire.secure else b"http")
    assert type(made[0]) is Quiet
    assert eventually(lambda: "get_environ" not in vars(made[0]))
    assert not errors.told


def test_what_a_request_handler_raises_is_told_with_the_connection(serve, client, errors):
    server = serve(socketserver_handler(Fails))
    with closing(client(server)) as sock:
        sock.sendall(b"hello")
        assert receive_all(sock) == b""
    (told,) = errors.wait_for("handler.error")
    assert repr(told.measurements["error"]) == "ValueError(b'hello')"


def test_the_timeout_of_a_request_handler_holds(wire):
    server = wire.serve(socketserver_handler(Impatient))
    with closing(wire.connect(server)) as client:
        assert receive(client, 8) == b"too late"


def test_calls_by_the_server_that_xmlrpc_brings(wire, errors):
    """It asks for TCP_NODELAY, which a Unix socket has not."""
    server = wire.serve(
        socketserver_handler(BY_SERVER["SimpleXMLRPCRequestHandler"], server=BY_SERVER["calls"])
    )

    class Transport(xmlrpc.client.Transport):
        def make_connection(self, host):
            connection = http.client.HTTPConnection(host)
            connection.sock = wire.connect(server)
            return connection

    with xmlrpc.client.ServerProxy("http://localhost", transport=Transport()) as there:
        assert there.pow(2, 10) == 1_024
        with pytest.raises(xmlrpc.client.Fault, match="not supported"):
            there.gone()
        assert there.pow(3, 4) == 81
    assert not errors.told


# ---- WSGI -------------------------------------------------------------------


class Silent(WSGIRequestHandler):
    def log_message(self, *args):
        pass


def tells_environ(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("PATH_INFO", "SERVER_PORT", "wsgi.url_scheme")
    return [" ".join([*(environ[name] for name in names), str(len(body))]).encode()]


def wsgi_server(*, bound):
    """As the standard library has it, and as a program that lets us bind leaves it."""
    unserved = WSGIServer(("127.0.0.1", 0), Silent, bind_and_activate=bound)
    unserved.server_close()
    unserved.set_app(tells_environ)
    return unserved


def answer_to(request, sock):
    sock.sendall(request)
    head, _, body = receive_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK"), head
    return body.decode()


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "not-bound"])
def test_an_application_by_wsgiref(wire, errors, bound):
    server = wire.serve(socketserver_handler(Silent, server=wsgi_server(bound=bound)))
    port = 0 if wire.name == "unix" else server.local_port
    scheme = "https" if wire.secure else "http"
    for _ in range(2):
        with closing(wire.connect(server)) as client:
            request = b"POST /here HTTP/1.0\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
            assert answer_to(request, client) == f"/here {port} {scheme} 100000"
    assert not errors.told


@pytest.mark.parametrize("maker", [Silent, partial(Silent)], ids=["class", "partial"])
def test_an_application_without_a_server_object(maker, wire, errors):
    server = wire.serve(socketserver_handler(maker, get_app=lambda: tells_environ))
    port = 0 if wire.name == "unix" else server.local_port
    with closing(wire.connect(server)) as client:
        said = answer_to(b"GET / HTTP/1.0\r\n\r\n", client)
    assert said == f"/ {port} {'https' if wire.secure else 'http'} 0"
    assert not errors.told


# ---- self.server ------------------------------------------------------------


class TellsServer(socketserver.BaseRequestHandler):
    def handle(self):
        server = self.server
        self.request.sendall(f"{server.server_address} {server.server_port}".encode())
        self.request.sendall(f" {server.greeting}".encode())


def test_self_server_has_the_address_that_is_listened_on(wire, errors):
    server = wire.serve(socketserver_handler(TellsServer, greeting="hello"))
    port = 0 if wire.name == "unix" else server.local_port
    with closing(wire.connect(server)) as client:
        assert receive_all(client).decode() == f"{server.local_address} {port} hello"
    assert not errors.told


class Guarded(socketserver.ThreadingTCPServer):
    """Serves nobody, and notes what it is told."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Fails, bind_and_activate=False)
        self.server_close()
        self.answer = answer
        self.noted = []

    def verify_request(self, request, client_address):
        self.noted.append(("verify_request", client_address))
        return self.answer

    def handle_error(self, request, client_address):
        self.noted.append(("handle_error", client_address))


def test_verify_request_decides_who_is_served(wire, errors):
    guard = Guarded(answer=False)
    server = wire.serve(socketserver_handler(Fails, server=guard))
    with closing(wire.connect(server)) as client:
        assert receive_all(client) == b""
    assert [what for what, _ in guard.noted] == ["verify_request"]
    assert not errors.told


def test_handle_error_is_told_and_nothing_is_logged(serve, client, errors, caplog):
    guard = Guarded(answer=True)
    server = serve(socketserver_handler(Fails, server=guard))
    with closing(client(server)) as sock:
        name = sock.getsockname()
        sock.sendall(b"hello")
        assert receive_all(sock) == b""
    assert guard.noted == [("verify_request", name), ("handle_error", name)]
    (told,) = errors.wait_for("handler.error")
    assert repr(told.measurements["error"]) == "ValueError(b'hello')"
    assert not caplog.records


class Finishes(socketserver.TCPServer):
    """Makes request handlers with an argument more."""

    def finish_request(self, request, client_address):
        request.sendall(b"finished by the server")


def test_finish_request_is_called_where_it_is_overridden(serve, client):
    unserved = Finishes(("127.0.0.1", 0), Fails, bind_and_activate=False)
    unserved.server_close()
    server = serve(socketserver_handler(Fails, server=unserved))
    with closing(client(server)) as sock:
        assert receive_all(sock) == b"finished by the server"


# ---- mistakes ---------------------------------------------------------------


class Pools(socketserver.TCPServer):
    def process_request(self, request, client_address): ...

    def service_actions(self): ...


def test_hooks_that_nothing_calls_are_named():
    unserved = Pools(("127.0.0.1", 0), Fails, bind_and_activate=False)
    unserved.server_close()
    with pytest.raises(ConfigError, match=r"Pools overrides process_request, service_actions"):
        socketserver_handler(Fails, server=unserved)
    socketserver_handler(Fails, server=unserved, ignore_hooks=True)


class Datagrams(socketserver.DatagramRequestHandler):
    pass


class Ready(Handler):
    pass


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (None, {}, "got None, takes a subclass of socketserver.BaseRequestHandler"),
        (int, {}, "got the class int, takes a subclass"),
        (partial(int), {}, "got the class int, takes a subclass"),
        (Datagrams, {}, "Datagrams handles datagrams"),
        (Ready, {}, "Ready is a Handler already: give it as handler_cls"),
        (Fails, {"server": object(), "greeting": 1}, "greeting: set attributes on the server"),
    ],
)
def test_what_is_wrong_is_said(given, options, said):
    with pytest.raises(ConfigError, match=said):
        socketserver_handler(given, **options)


def test_a_request_handler_by_itself_is_told_how_to_be_served():
    with pytest.raises(ConfigError, match=r"give socketserver_handler\(Fails\)"):
        ThousandIsland(handler_cls=Fails)


@pytest.mark.parametrize("maker", [Fails, functools.partial(Fails)])
def test_the_made_class_is_named_for_what_it_serves(maker):
    made = socketserver_handler(maker)
    assert issubclass(made, Handler)
    assert made.__name__ == "FailsHandler"
    assert "Fails" in made.__doc__
