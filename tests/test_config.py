"""Options: every wrong one is told from the constructor, with what would do."""

import socket

import pytest

from tests.support import Echo, receive
from thousand_island_sync import TCP, TLS, ConfigError, Handler, ThousandIsland

WRONG = [
    ({}, "handler_cls", "required"),
    ({"handler_cls": Echo(None)}, "handler_cls", "subclass of Handler"),
    ({"handler_cls": int}, "handler_cls", "subclass of Handler"),
    ({"port": -1}, "port", "-1"),
    ({"port": 70_000}, "port", "70000"),
    ({"port": "80"}, "port", "'80'"),
    ({"port": True}, "port", "True"),
    ({"host": ""}, "host", "''"),
    ({"host": 5}, "host", "5"),
    ({"host": "::1", "transport_options": {"host": "::1"}}, "host", "twice"),
    ({"host": "unix:/x", "port": 5}, "port", "unix"),
    ({"transport_cls": int}, "transport_cls", "Transport"),
    ({"transport_cls": TLS}, "certfile", "required"),
    ({"transport_options": 5}, "transport_options", "mapping"),
    ({"transport_options": {"nodelaj": 1}}, "nodelaj", "did you mean transport_options: nodelay"),
    ({"transport_options": {"nodelay": 1}}, "nodelay", "True or False"),
    ({"transport_options": {"backlog": 0}}, "backlog", "0"),
    ({"transport_options": {"socket_options": [1]}}, "socket_options", "level"),
    ({"transport_options": {"sockets": []}}, "sockets", "list"),
    ({"transport_options": {"unix_mode": 0o600}}, "unix_mode", "unix:"),
    ({"transport_options": {"keepalive_idle_s": 0}}, "keepalive_idle_s", "seconds"),
    ({"num_acceptors": 0}, "num_acceptors", "0"),
    ({"num_acceptors": 1.5}, "num_acceptors", "1.5"),
    ({"num_listen_sockets": 2}, "num_listen_sockets", "reuse_port"),
    (
        {
            "num_listen_sockets": 3,
            "num_acceptors": 2,
            "transport_options": {"reuse_port": True},
        },
        "num_listen_sockets",
        "num_acceptors",
    ),
    ({"max_connections": 0}, "max_connections", "0"),
    ({"max_connections": None}, "max_connections", "None"),
    ({"max_connections_wait_ms": -5}, "max_connections_wait_ms", "milliseconds"),
    ({"max_handler_threads": 0}, "max_handler_threads", "0"),
    ({"read_timeout_ms": "60"}, "read_timeout_ms", "milliseconds"),
    ({"read_timeout_ms": float("nan")}, "read_timeout_ms", "nan"),
    ({"read_timeout_ms": float("inf")}, "read_timeout_ms", "None for no limit"),
    ({"handshake_timeout_ms": -1}, "handshake_timeout_ms", "-1"),
    ({"send_timeout_ms": []}, "send_timeout_ms", "[]"),
    ({"shutdown_timeout_ms": "x"}, "shutdown_timeout_ms", "'x'"),
    ({"interrupt_reads": 1}, "interrupt_reads", "True or False"),
    ({"max_pending_messages": 0}, "max_pending_messages", "0"),
    ({"name": ""}, "name", "''"),
    ({"read_timeout": 5}, "read_timeout", "did you mean read_timeout_ms"),
    ({"max_conections": 5}, "max_conections", "did you mean max_connections"),
    ({"xyzzy": 5}, "xyzzy", "no such option"),
]


@pytest.mark.parametrize(("options", "name", "says"), WRONG)
def test_a_wrong_option_is_told_with_its_name_and_what_it_takes(options, name, says):
    if options:
        options = {"handler_cls": Echo, **options}
    with pytest.raises(ConfigError) as caught:
        ThousandIsland(**options)
    assert isinstance(caught.value, ValueError)
    assert name in str(caught.value)
    assert says in str(caught.value)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        ThousandIsland(Echo)


def test_the_limits_are_taken():
    ThousandIsland(
        handler_cls=Echo,
        handler_options=object(),
        port=65_535,
        host="::",
        transport_cls=TCP,
        transport_options={"nodelay": False},
        num_acceptors=1,
        max_connections=1,
        max_connections_wait_ms=None,
        max_handler_threads=1,
        read_timeout_ms=None,
        handshake_timeout_ms=None,
        send_timeout_ms=0.5,
        shutdown_timeout_ms=None,
        interrupt_reads=True,
        max_pending_messages=None,
        name="n",
    )


def test_handlers_get_their_options(serve, client):
    class Tells(Handler):
        def handle_data(self, data, socket):
            socket.send(self.options["reply"])

    server = serve(Tells, handler_options={"reply": b"given"})
    sock = client(server)
    sock.sendall(b"x")
    assert receive(sock, 5) == b"given"


def test_the_default_host_is_every_ipv4_interface_and_the_default_port_4000():
    server = ThousandIsland(handler_cls=Echo)
    assert server._config.port == 4000
    assert server._transport.options["host"] == "0.0.0.0"
    assert socket.inet_aton("0.0.0.0") == bytes(4)
