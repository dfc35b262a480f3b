"""Libraries that want a blocking socket, with their own clients, on every wire that they can.

`tox -e libraries` installs them, but for those that nobody maintains, or that are large; elsewhere
those that are missing are skipped. A library's server is not run: what it does with an accepted
socket is done with a `Socket`.
"""

import contextlib
import importlib
import logging
import os
import socketserver
import ssl
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

from tests.support import eventually, receive, receive_all
from tests.test_socketserver import answer_to
from tests.test_tls import tls
from thousand_island_sync import (
    Close,
    ConfigError,
    Continue,
    Handler,
    socketserver_handler,
)

pytestmark = [
    # Theirs, not ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


#: Tried by hand, and run where they are installed.
BY_HAND = {"django", "kmip"}


def library(name):
    """A module of a library."""
    if os.environ.get("REQUIRE_LIBRARIES") and name.partition(".")[0] not in BY_HAND:
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture
def errors(record):
    return record("handler.error")


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]


# ---- cheroot ----------------------------------------------------------------


class Room:
    can_add_keepalive_connection = True


class ByCheroot(Handler):
    """An HTTP connection of cheroot's."""

    def handle_connection(self, socket):
        gateway = self.options
        socket.settimeout(gateway.timeout)
        connection = library("cheroot.server").HTTPConnection(
            gateway, socket, library("cheroot.makefile").MakeFile
        )
        while connection.communicate():
            pass
        return Close()


@pytest.fixture
def gateway():
    wsgi = library("cheroot.wsgi")
    made = wsgi.Server(("127.0.0.1", 0), application, numthreads=1, timeout=10)
    made.ready, made._connections = True, Room()
    made.error_log = lambda *arguments, **named: None
    yield made
    made.requests = None


def test_cheroot_answers(wire, gateway, errors):
    server = wire.serve(ByCheroot, handler_options=gateway)
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert receive_all(client).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not errors.told


def test_cheroot_answers_408_to_half_a_request(wire, gateway, errors):
    """It knows a timeout by `args[0]`."""
    gateway.timeout = 0.2
    server = wire.serve(ByCheroot, handler_options=gateway)
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHos")
        assert receive_all(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert not errors.told


# ---- Pyro5 ------------------------------------------------------------------


class ByPyro(Handler):
    """A daemon of Pyro5's for the one connection."""

    def handle_connection(self, socket):
        with library("Pyro5.server").Daemon(connected_socket=socket) as daemon:
            daemon.register(self.options, "adder")
            daemon.requestLoop()
        return Close()


def test_pyro_calls_and_a_message_without_payload(wire, errors):
    """Its payload is read by `recv(0, MSG_WAITALL)`."""
    protocol = library("Pyro5.protocol")

    @library("Pyro5.server").expose
    class Adder:
        def add(self, one, other):
            return one + other

    server = wire.serve(ByPyro, handler_options=Adder)
    sock = wire.connect(server)
    with library("Pyro5.client").Proxy("adder", connected_socket=sock) as there:
        assert there.add(2, 3) == 5
        assert there.add("x" * 100_000, "y") == "x" * 100_000 + "y"
        connection = there._pyroConnection
        ping = protocol.SendingMessage(protocol.MSG_PING, 0, 5, 1, b"")
        connection.send(ping.data)
        assert protocol.recv_stub(connection, [protocol.MSG_PING]).seq == 5
    sock.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- rpyc -------------------------------------------------------------------


class ByRpyc(Handler):
    def handle_connection(self, socket):
        stream = library("rpyc.core.stream").SocketStream(socket)
        self.options._connect(library("rpyc.core.channel").Channel(stream), {}).serve_all()
        return Close()


def test_rpyc_calls(wire, errors):
    rpyc = library("rpyc")

    class Adder(rpyc.Service):
        def exposed_add(self, one, other):
            return one + other

    server = wire.serve(ByRpyc, handler_options=Adder())
    stream = library("rpyc.core.stream").SocketStream(wire.connect(server))
    with closing(rpyc.connect_stream(stream)) as there:
        assert there.root.add(2, 3) == 5
        assert there.root.add("x" * 100_000, "y") == "x" * 100_000 + "y"
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- thrift -----------------------------------------------------------------


class ByThrift(Handler):
    """Answers each message with its name and its number, by Thrift's transports."""

    def handle_connection(self, socket):
        kinds = library("thrift.Thrift")
        transport = library("thrift.transport.TSocket").TSocket()
        transport.setHandle(socket)
        framed = library("thrift.transport.TTransport").TFramedTransport(transport)
        protocol = library("thrift.protocol.TBinaryProtocol").TBinaryProtocol(framed)
        try:
            while True:
                name, _, number = protocol.readMessageBegin()
                text = protocol.readString()
                protocol.writeMessageBegin(name, kinds.TMessageType.REPLY, number)
                protocol.writeString(text.upper())
                framed.flush()
        except library("thrift.transport.TTransport").TTransportException:
            return Close()  # the end of the stream


def test_thrift_reads_and_writes_messages(wire, errors):
    kinds = library("thrift.Thrift")
    server = wire.serve(ByThrift)
    transport = library("thrift.transport.TSocket").TSocket()
    transport.setHandle(wire.connect(server))
    framed = library("thrift.transport.TTransport").TFramedTransport(transport)
    protocol = library("thrift.protocol.TBinaryProtocol").TBinaryProtocol(framed)
    for number, text in enumerate(["one", "two" * 50_000]):
        protocol.writeMessageBegin("say", kinds.TMessageType.CALL, number)
        protocol.writeString(text)
        framed.flush()
        assert protocol.readMessageBegin() == ("say", kinds.TMessageType.REPLY, number)
        assert protocol.readString() == text.upper()
    framed.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- WSGI -------------------------------------------------------------------


def test_flask_by_wsgiref(wire, errors):
    flask = library("flask")
    app = flask.Flask("tests")

    @app.post("/<name>")
    def hello(name):
        told = flask.request
        return f"{told.scheme} {name} {len(told.data)} {told.environ['SERVER_PORT']}"

    class Silent(library("wsgiref.simple_server").WSGIRequestHandler):
        def log_message(self, *arguments):
            pass

    server = wire.serve(socketserver_handler(Silent, get_app=lambda: app))
    port = 0 if wire.name == "unix" else server.local_port
    with closing(wire.connect(server)) as client:
        request = b"POST /there HTTP/1.0\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        said = answer_to(request, client)
    assert said == f"{'https' if wire.secure else 'http'} there 100000 {port}"
    assert not errors.told


def test_werkzeugs_request_handler(wire, errors):
    """What it asks its server for are attributes here; `ssl_context` is what makes it say https."""
    serving = library("werkzeug.serving")

    class Silent(serving.WSGIRequestHandler):
        def log(self, *arguments):
            pass

    server = wire.serve(
        socketserver_handler(
            Silent,
            app=application,
            ssl_context=wire.context(),
            multithread=True,
            multiprocess=False,
            passthrough_errors=False,
            _server_version="tests",
        )
    )
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET /here HTTP/1.0\r\n\r\n")
        head, _, body = receive_all(client).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK")), head
    assert body == b"https" if wire.secure else b"http"
    assert not errors.told


def test_django_by_its_request_handler(wire, errors):
    settings = library("django.conf").settings
    if not settings.configured:
        settings.configure(DEBUG=True, ROOT_URLCONF="tests.test_libraries", ALLOWED_HOSTS=["*"])
        library("django").setup()
    wsgi = library("django.core.wsgi").get_wsgi_application()

    class Silent(library("django.core.servers.basehttp").WSGIRequestHandler):
        def log_message(self, *arguments):
            pass

    server = wire.serve(socketserver_handler(Silent, get_app=lambda: wsgi))
    with closing(wire.connect(server)) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        said = receive_all(client)
    assert said.startswith(b"HTTP/1.1 200 OK"), said
    assert said.endswith(b"True" if wire.secure else b"False")
    assert not errors.told


def urls():
    from django.http import HttpResponse
    from django.urls import path

    return [path("hello", lambda request: HttpResponse(str(request.is_secure())))]


def __getattr__(name):
    if name == "urlpatterns":  # Django's, of this module
        return urls()
    raise AttributeError(name)


def test_radicale(wire, errors, tmp_path):
    """It is a WSGIRequestHandler; of its server it wants the application alone."""
    radicale = library("radicale")
    request_handler = library("radicale.server").RequestHandler
    configuration = library("radicale.config").load()
    configuration.update(
        {
            "storage": {"filesystem_folder": str(tmp_path)},
            "auth": {"type": "none"},
            "logging": {"level": "critical"},
        },
        "tests",
    )
    app = radicale.Application(configuration)
    schemes = []

    def notes_scheme(environ, start_response):
        schemes.append(environ["wsgi.url_scheme"])
        return app(environ, start_response)

    server = wire.serve(socketserver_handler(request_handler, get_app=lambda: notes_scheme))
    body = b'<propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>'
    with closing(wire.connect(server)) as client:
        client.sendall(
            b"PROPFIND / HTTP/1.0\r\nAuthorization: Basic YTph\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert b" 207 " in receive_all(client).partition(b"\r\n")[0]
    assert schemes == ["https" if wire.secure else "http"]
    assert not errors.told


# ---- websockets -------------------------------------------------------------


class ByWebsockets(Handler):
    """Echoes, by a connection of websockets', which receives on a thread of its own."""

    def handle_connection(self, socket):
        protocol = library("websockets.server").ServerProtocol()
        server = SimpleNamespace(socket_closed=threading.Event())
        connection = library("websockets.sync.server").ServerConnection(socket, protocol, server)
        connection.handshake()
        for message in connection:
            connection.send(message)
        return Close()


def test_websockets_echo(wire, errors):
    connect = library("websockets.sync.client").connect
    server = wire.serve(ByWebsockets)
    with connect("ws://localhost/", sock=wire.connect(server)) as there:
        for message in ("hello", b"\x00" * 200_000, "again"):
            there.send(message)
            assert there.recv(10) == message
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- paramiko ---------------------------------------------------------------


class ByParamiko(Handler):
    """An SSH server of paramiko's; its threads go on with the socket after the callback."""

    def handle_connection(self, socket):
        paramiko = library("paramiko")

        class Anybody(paramiko.ServerInterface):
            def check_auth_password(self, username, password):
                return paramiko.AUTH_SUCCESSFUL

            def check_channel_request(self, kind, number):
                return paramiko.OPEN_SUCCEEDED

        transport = paramiko.Transport(socket)
        transport.add_server_key(self.options)
        transport.start_server(event=threading.Event(), server=Anybody())
        threading.Thread(target=echo_in_channels, args=(transport,)).start()
        return Continue(paused=True)


def echo_in_channels(transport):
    while transport.is_active():
        channel = transport.accept(0.1)
        with contextlib.suppress(EOFError, OSError):  # the client has gone
            while channel and (data := channel.recv(10_000)):
                channel.sendall(data)
    transport.close()


def test_paramiko_serves_and_holds_no_thread_of_the_pool(wire, errors):
    paramiko = library("paramiko")
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    server = wire.serve(ByParamiko, handler_options=paramiko.ECDSAKey.generate())
    transport = paramiko.Transport(wire.connect(server))
    try:
        transport.connect(username="anybody", password="any")
        for data in (b"one", b"two" * 10_000):
            with transport.open_session(timeout=10) as channel:
                channel.sendall(data)
                assert receive(channel, len(data)) == data
                assert server.info().busy_threads == 0
    finally:
        transport.close()
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- pynetdicom -------------------------------------------------------------


class ByPynetdicom(Handler):
    """An association of DICOM's; its thread goes on with the socket after the callback."""

    def handle_connection(self, socket):
        association(socket, socket.getpeername(), self.options)
        return Continue(paused=True)


class ByPynetdicomOverTLS(Handler):
    """It asks for pending bytes only of what is an `ssl.SSLSocket`: so it gets one. From then on
    the connection is its own."""

    def handle_connection(self, socket):
        peer = socket.getpeername()
        served, context = self.options
        association(context.wrap_socket(socket, server_side=True), peer, served)


def association(socket, peer, server):
    library("pynetdicom.transport").RequestHandler(socket, peer, server)


@pytest.fixture
def dicom():
    """What a request handler of pynetdicom's calls its server."""
    verification = "1.2.840.10008.1.1"
    entity = library("pynetdicom").AE()
    entity.add_supported_context(verification)
    served = entity.make_server(("127.0.0.1", 0))
    socketserver.TCPServer.server_close(served)
    client = library("pynetdicom").AE()
    client.add_requested_context(verification)
    yield served, client
    for one in served.active_associations:
        one.join(10)


def asks_for_echoes(client, server, **options):
    there = client.associate("127.0.0.1", server.local_port, **options)
    assert there.is_established
    for _ in range(3):
        assert there.send_c_echo().Status == 0
    busy = server.info().busy_threads
    there.release()
    return busy


def test_pynetdicom_serves_and_holds_no_thread_of_the_pool(serve, dicom, errors):
    served, client = dicom
    server = serve(ByPynetdicom, handler_options=served)
    assert asks_for_echoes(client, server) == 0
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


def test_hooks_of_pynetdicoms_server_are_named(dicom):
    """It would be told of nothing: so its request handler is served, as above."""
    served, _ = dicom
    with pytest.raises(ConfigError, match="get_request, process_request"):
        socketserver_handler(library("pynetdicom.transport").RequestHandler, server=served)


def test_pynetdicom_over_tls_has_a_socket_of_the_standard_library(
    serve, dicom, errors, authority, tmp_path
):
    served, client = dicom
    path = tmp_path / "both.pem"
    path.write_bytes(authority.chain + authority.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = serve(ByPynetdicomOverTLS, handler_options=(served, context))
    asks_for_echoes(client, server, tls_args=(authority.client_context(), "localhost"))
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told


# ---- clients: the server calls home -----------------------------------------


class ByRedis(Handler):
    """A client of redis-py's asks the peer, by whom it was called."""

    def handle_connection(self, socket):
        redis = library("redis")

        class Home(redis.Connection):
            def _connect(self):
                socket.settimeout(self.socket_timeout)
                return socket

        connection = Home(socket_timeout=5, lib_name=None, lib_version=None, protocol=2)
        pool = redis.ConnectionPool()
        pool.make_connection = lambda: connection
        there = redis.Redis(connection_pool=pool)
        asked = there.pipeline(transaction=False).set("a", 1).get("a").execute()
        self.options += [asked, there.ping()]
        there.close()
        connection.disconnect()


def test_redis_asks_who_has_called(wire, errors):
    library("redis")  # or this is skipped
    told = []
    server = wire.serve(ByRedis, handler_options=told)
    with closing(wire.connect(server)) as peer, peer.makefile("rb") as requests:
        answers = {b"SET": b"+OK\r\n", b"GET": b"$1\r\n1\r\n", b"PING": b"+PONG\r\n"}
        while header := requests.readline():
            parts = [requests.readline() for _ in range(2 * int(header[1:]))]
            peer.sendall(answers[parts[1].strip()])
    assert told == [[True, b"1"], True]
    assert not errors.told


class ByPaho(Handler):
    """A client of paho's, by select(2) on the descriptor and `pending()`."""

    def handle_connection(self, socket):
        mqtt = library("paho.mqtt.client")
        number, noted = self.options

        class Home(mqtt.Client):
            def _create_socket(self):
                return socket

        client = Home(mqtt.CallbackAPIVersion.VERSION2, "home")
        client.on_message = lambda client, data, message: noted.append(message.payload)
        client.connect("anybody")
        while len(noted) < number and client.loop(10) == mqtt.MQTT_ERR_SUCCESS:
            pass
        client.disconnect()


def test_paho_gets_each_message_of_one_record(wire, errors):
    library("paho.mqtt.client")  # or this is skipped
    number, noted = 300, []
    server = wire.serve(ByPaho, handler_options=(number, noted))
    with closing(wire.connect(server)) as peer:
        assert receive(peer, 1) == b"\x10"  # CONNECT
        receive(peer, receive(peer, 1)[0])
        messages = b"".join(b"\x30\x06\x00\x01t%03d" % one for one in range(number))
        peer.sendall(b"\x20\x02\x00\x00" + messages)
        assert receive_all(peer) == b"\xe0\x00"  # DISCONNECT
    assert noted == [b"%03d" % one for one in range(number)]
    assert not errors.told


# ---- PyKMIP -----------------------------------------------------------------


class ByKmip(Handler):
    """A session of PyKMIP's, which asks an `ssl.SSLSocket` for everything."""

    def handle_connection(self, socket):
        session = library("kmip.services.server.session").KmipSession
        session(self.options, socket, socket.getpeername(), enable_tls_client_auth=False).run()
        return Close()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what it still imports of cryptography
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_kmip_answers(version, serve, authority, secure, errors, tmp_path):
    engine_of = library("kmip.services.server.engine")
    logging.getLogger("kmip").setLevel(logging.CRITICAL)
    engine = engine_of.KmipEngine(policies={}, database_path=str(tmp_path / "db"))
    options = {"ca_certs": authority.ca_pem, "verify": "required"}
    server = tls(serve, authority, ByKmip, options, handler_options=engine)
    enums = library("kmip.core.enums")
    proxy = library("kmip.services.kmip_client").KMIPProxy()
    context = authority.client_context(getattr(ssl.TLSVersion, version))
    issued = authority.ca.issue_cert("someone@example.org", common_name="someone")
    issued.configure_cert(context)
    with secure(server, context) as sock:
        proxy.socket = sock
        proxy.protocol = library("kmip.services.kmip_protocol").KMIPProtocol(sock)
        result = proxy.query(query_functions=[enums.QueryFunction.QUERY_OPERATIONS])
        assert result.result_status.value == enums.ResultStatus.SUCCESS
        assert enums.Operation.CREATE.value in [one.value for one in result.operations]
    assert eventually(lambda: server.info().active_connections == 0)
    assert not errors.told
