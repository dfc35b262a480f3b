"""Options: every wrong one is told from the constructor, with what would do."""

import socket
import socketserver

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Echo, receive
from thousand_island_sync import TCP, TLS, ConfigError, Handler, ThousandIsland
from thousand_island_sync._connection.handler_check import CALLBACKS, is_slip

WRONG = [
    ({}, "handler_cls", "required"),
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
    ({"host": "unix:/a", "transport_options": {"unix_mode": 600}}, "unix_mode: got 600", "0o600"),
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
    ({"max_unread": None}, "max_unread", "bytes"),
    ({"max_unread": -1}, "max_unread", "-1"),
    ({"name": ""}, "name", "''"),
    ({"read_timeout": 5}, "read_timeout", "did you mean read_timeout_ms"),
    ({"max_conections": 5}, "max_conections", "did you mean max_connections"),
    ({"xyzzy": 5}, "xyzzy", "no such option"),
    ({"certfile": "x"}, "certfile", "belongs in transport_options, and needs transport_cls=TLS"),
    ({"backlog": 5}, "backlog", "belongs in transport_options"),
    ({"ca_file": "x"}, "ca_file", "did you mean ca_certs? It belongs in transport_options, and"),
    ({"certfil": "x"}, "certfil", "did you mean certfile? It belongs in transport_options, and"),
    ({"transport_options": {"certfile": "x"}}, "certfile", "needs transport_cls=TLS"),
    ({"transport_options": {"port": 5}}, "port", "belongs to ThousandIsland itself"),
    (
        {"transport_cls": TLS, "transport_options": {"ca_file": "x"}},
        "ca_file",
        "did you mean transport_options: ca_certs",
    ),
    ({"transport_options": {"keepalive_idle_s": 40_000}}, "keepalive_idle_s", "1 to 32767"),
    ({"transport_options": {"keepalive_count": 200}}, "keepalive_count", "1 to 127"),
    ({"transport_options": {"backlog": 1 << 31}}, "backlog", "1 to 2147483647"),
    ({"transport_options": {"recv_buffer": 1 << 31}}, "recv_buffer", "1 to 2147483647"),
    ({"transport_options": {"user_timeout_ms": -1}}, "user_timeout_ms", "0 to 2147483647"),
    ({"num_acceptors": 10_001}, "num_acceptors", "1 to 10000"),
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


@pytest.mark.parametrize(
    ("given", "says"),
    [(4000, "ThousandIsland(port=4000)"), (Echo, "handler_cls=Echo"), ("a", "handler_cls=...")],
)
def test_an_option_without_its_name_is_told_the_name(given, says):
    with pytest.raises(ConfigError) as caught:
        ThousandIsland(given)
    assert says in str(caught.value)


class Standard(socketserver.BaseRequestHandler):
    """A request handler of the standard library."""


class Awaits(Handler):
    async def handle_data(self, data, socket): ...


class Yields(Handler):
    async def handle_close(self, socket):
        yield


class AwaitsFirst(Handler):
    async def __init__(self, options): ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Standard, "Standard, a request handler of socketserver; give socketserver_handler"),
        (Awaits, "Awaits.handle_data is `async def`; .* write `def`"),
        (Yields, "Yields.handle_close is an asynchronous generator"),
        (AwaitsFirst, "AwaitsFirst.__init__ is `async def`"),
        (Echo(None), "got an instance; give the class itself, Echo"),
        (int, "<class 'int'>, takes a subclass of Handler"),
    ],
)
def test_what_is_no_handler_is_told_what_to_do(given, says):
    with pytest.raises(ConfigError, match=f"handler_cls: .*{says}"):
        ThousandIsland(handler_cls=given)


class Slips(Handler):
    def handle_dta(self, data, socket): ...
    def handle_colse(self, socket): ...
    def handle_errors(self, reason, socket): ...
    def handel_timeout(self, socket): ...


class Fine(Handler):
    """Helpers of its own, and a slip of a callback that is there."""

    handle_datum = "no method"

    def handle_data(self, data, socket): ...
    def handle_dta(self): ...
    def _handle_close(self): ...
    def handle_request(self): ...


def test_a_method_that_is_almost_a_callback_is_a_warning_where_the_server_is_made():
    with pytest.warns(UserWarning, match="is never called") as caught:
        ThousandIsland(handler_cls=Slips)
    said = [str(one.message) for one in caught]
    assert said == [
        f"handler_cls: Slips.{slip} is never called; did you mean {callback}, which the class"
        " does not define?"
        for slip, callback in (
            ("handel_timeout", "handle_timeout"),
            ("handle_colse", "handle_close"),
            ("handle_dta", "handle_data"),
            ("handle_errors", "handle_error"),
        )
    ]
    assert {one.filename for one in caught} == {__file__}


def test_other_methods_are_nobodys_business(recwarn):
    ThousandIsland(handler_cls=Fine)
    assert not recwarn.list


@given(st.sampled_from(sorted(CALLBACKS)), st.data())
def test_every_slip_of_one_letter_or_one_swap_is_seen(callback, data):
    place = data.draw(st.integers(0, len(callback) - 2))
    before, behind = callback[:place], callback[place:]
    letter = data.draw(st.sampled_from("abcxyz_"))
    for slip in (
        before + behind[1:],
        before + letter + behind,
        before + letter + behind[1:],
        before + behind[1] + behind[0] + behind[2:],
    ):
        assert is_slip(slip, callback) == (slip != callback)


def test_what_is_further_away_is_no_slip():
    for name in ("handle_datas_", "handle", "handle_end", "handle_adat", ""):
        assert not is_slip(name, "handle_data"), name
    assert not any(is_slip(one, other) for one in CALLBACKS for other in CALLBACKS)


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


def test_a_host_of_none_is_not_given():
    server = ThousandIsland(handler_cls=Echo, host=None)
    assert server._transport.current.options["host"] == "0.0.0.0"
    options = {"host": "::1"}
    server = ThousandIsland(handler_cls=Echo, host=None, transport_options=options)
    assert server._transport.current.options["host"] == "::1"


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
    assert server._transport.current.options["host"] == "0.0.0.0"
    assert socket.inet_aton("0.0.0.0") == bytes(4)
