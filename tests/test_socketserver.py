"""docs/socketserver.md: request handlers of the standard library, unchanged, and real clients."""

import http.client
import http.server
import socketserver
import subprocess
import threading
import xmlrpc.client
from contextlib import closing
from functools import partial
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.programs import program, python_blocks
from tests.support import receive, receive_all
from thousand_island_sync import ThousandIsland

PAGE = "docs/socketserver.md"


def names_in(block):
    names = {}
    exec(compile(block, PAGE, "exec"), names)
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
    server = wire.serve(
        BY_CLASS["Adapted"], handler_options=BY_CLASS["Upper"], interrupt_reads=True
    )
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
    server = serve(BY_CLASS["Adapted"], handler_options=partial(Files, directory=str(tmp_path)))
    url = f"http://127.0.0.1:{server.local_port}"
    found = subprocess.run(
        [curl, "-sS", f"{url}/large", f"{url}/small", f"{url}/large"],
        capture_output=True,
        timeout=60,
    )
    assert found.stdout == b"\xa5" * 3_000_000 + b"hello" + b"\xa5" * 3_000_000, found.stderr
    assert server.info().accepted_total == 1  # the connection was kept
    assert not errors.told


def test_many_clients_of_one_request_handler_at_once(wire, errors):
    server = wire.serve(BY_CLASS["Adapted"], handler_options=BY_CLASS["Upper"])
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


def test_what_a_request_handler_raises_is_told_with_the_connection(serve, client, errors):
    server = serve(BY_CLASS["Adapted"], handler_options=Fails)
    with closing(client(server)) as sock:
        sock.sendall(b"hello")
        assert receive_all(sock) == b""
    (told,) = errors.wait_for("handler.error")
    assert repr(told.measurements["error"]) == "ValueError(b'hello')"


def test_the_timeout_of_a_request_handler_holds(wire):
    server = wire.serve(BY_CLASS["Adapted"], handler_options=Impatient)
    with closing(wire.connect(server)) as client:
        assert receive(client, 8) == b"too late"


def test_calls_by_the_server_that_xmlrpc_brings(serve, errors):
    server = serve(BY_SERVER["Adapted"], handler_options=BY_SERVER["calls"])
    url = f"http://127.0.0.1:{server.local_port}/RPC2"
    with xmlrpc.client.ServerProxy(url) as there:
        assert there.pow(2, 10) == 1_024
        with pytest.raises(xmlrpc.client.Fault, match="not supported"):
            there.gone()
        assert there.pow(3, 4) == 81
    assert not errors.told


def test_an_application_by_wsgiref(serve, errors):
    def application(environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode(), b" %d" % len(body)]

    class Silent(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    unserved = make_server("127.0.0.1", 0, application, handler_class=Silent)
    unserved.server_close()
    server = serve(BY_SERVER["Adapted"], handler_options=unserved)
    for _ in range(2):
        with closing(http.client.HTTPConnection("127.0.0.1", server.local_port)) as there:
            there.request("POST", "/here", b"x" * 100_000)
            answer = there.getresponse()
            assert (answer.status, answer.read()) == (200, b"/here 100000")
    assert not errors.told
