"""What errors say to the user who caused them: what happened, where, and what to do; in the trade's
words, and never a secret."""

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.markdown import ROOT
from tests.support import eventually
from thousand_island_sync import (
    TLS,
    ConfigError,
    Handler,
    Lines,
    MailboxFull,
    ServerNotRunning,
    SocketError,
    ThousandIsland,
    ThousandIslandError,
    events,
)
from thousand_island_sync._base.options import MISSING
from thousand_island_sync._server.config import OPTIONS
from thousand_island_sync.transports.tls import TLS_OPTIONS

# ---- options ------------------------------------------------------------------

SECRET = "hunter2"


class Settings:
    """A user's, with a password in its repr."""

    def __repr__(self):
        return f"Settings(password={SECRET!r})"


#: What a user may give in the wrong place, and what its error says instead of the value.
HIDDEN = [
    ({"password": SECRET}, "a value of type dict, which is not shown"),
    (SECRET.encode(), "a value of type bytes, which is not shown"),
    (bytearray(SECRET.encode()), "a value of type bytearray, which is not shown"),
    ([SECRET.encode()], "[a value of type bytes, which is not shown]"),
    ((Settings(),), "(a value of type Settings, which is not shown)"),
    (Settings(), "a value of type Settings, which is not shown"),
    (f"-----BEGIN PRIVATE KEY-----\n{SECRET}", "the text of a PEM file, which is not shown"),
]


def refusals():
    """Each option with each of those values that it does not take."""
    for table, home in ((OPTIONS, "server"), (TLS_OPTIONS, "transport")):
        for name, option in table.items():
            for number, (value, shown) in enumerate(HIDDEN):
                if not option.check(value):
                    yield pytest.param(home, name, value, shown, id=f"{home}-{name}-{number}")


@pytest.mark.parametrize(("home", "name", "value", "shown"), [*refusals()])
def test_an_option_s_error_names_it_and_the_type_and_what_it_takes_and_no_secret(
    home, name, value, shown
):
    options = {name: value} if home == "server" else {"transport_options": {name: value}}
    if home == "transport":
        options["transport_cls"] = TLS
    with pytest.raises(ConfigError) as caught:
        ThousandIsland(handler_cls=Handler, **options)
    said = str(caught.value)
    option = (OPTIONS if home == "server" else TLS_OPTIONS)[name]
    if option.secret:
        shown = f"a value of type {type(value).__name__}, which is not shown"
    assert said == f"{'transport_options: ' * (home == 'transport')}{name}: got {shown}, takes " + (
        option.takes
    )
    assert SECRET not in said


def test_there_is_a_refusal_for_almost_every_option():
    anything = {"handler_cls", "handler_options", "transport_options", "context"}
    paths = {"certfile", "keyfile", "ca_certs", "crl", "password"}
    refused = {param.values[1] for param in refusals()}
    assert refused >= {*OPTIONS, *TLS_OPTIONS} - anything - paths


def test_a_long_value_is_cut_short():
    with pytest.raises(ConfigError) as caught:
        ThousandIsland(handler_cls=Handler, port="4" * 5_000)
    assert len(str(caught.value)) < 300
    assert "44..., takes a port number" in str(caught.value)


@pytest.mark.parametrize("name", [*OPTIONS, *TLS_OPTIONS])
def test_what_an_option_takes_can_follow_takes(name):
    option = {**OPTIONS, **TLS_OPTIONS}[name]
    assert option.takes
    assert option.takes[-1] not in ".;,"
    assert option.default is MISSING or not re.search(r"\bno\b(?! limit)", option.takes)


# ---- a server -------------------------------------------------------------------


def of_a_new_server():
    return ThousandIsland(handler_cls=Handler, port=0)


NOT_STARTED = [
    (lambda server: server.local_port, "the server is new: it has no address; call start()"),
    (lambda server: server.suspend(), "suspend: the server is new; call start() first"),
    (lambda server: server.resume(), "resume: the server is new; call start() first"),
]


@pytest.mark.parametrize(("call", "says"), NOT_STARTED)
def test_a_server_that_is_not_started_says_so_and_what_to_call(call, says):
    with pytest.raises(ServerNotRunning, match=re.escape(says)):
        call(of_a_new_server())


TIMES = [
    (lambda server: server.stop(timeout_ms="5"), "stop: timeout_ms: got '5', takes a number of"),
    (lambda server: server.drain(delay_ms=-1), "drain: delay_ms: got -1, takes a number of"),
]


@pytest.mark.parametrize(("call", "says"), TIMES)
def test_a_time_that_is_none_says_which_and_its_unit(call, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        call(of_a_new_server())
    assert "milliseconds, 0 or more, or None for no limit" in str(caught.value)


def test_a_second_start_says_what_to_do_instead(serve):
    server = serve(Handler)
    with pytest.raises(ThousandIslandError, match="start: the server is running already; call"):
        server.start()


# ---- a socket -------------------------------------------------------------------


def sends_a_text_file(socket):
    with tempfile.TemporaryFile("w+") as file:
        socket.sendfile(file)


#: What a callback may do wrong, and the whole of what it is told; PEER stands for the address.
CALLS = [
    (lambda socket: socket.recv(-1), "recv: length: got -1, takes 0 or more"),
    (
        lambda socket: socket.recv(timeout_ms=5),
        "[Errno 110] recv PEER: timed out after 5 ms; no data received (see read_timeout_ms,"
        " settimeout, or timeout_ms of the call)",
    ),
    (
        lambda socket: socket.recv(timeout_ms=0),
        "[Errno 11] recv PEER: would block; no data received",
    ),
    (
        lambda socket: socket.recv(timeout_ms="1"),
        "timeout_ms: got '1', takes milliseconds, 0 or more",
    ),
    (lambda socket: socket.recv_until("\n"), "recv_until: delimiter: got str, takes bytes"),
    (
        lambda socket: socket.recv_until(b""),
        "recv_until: delimiter: got b'', takes one byte or more",
    ),
    (lambda socket: socket.send("text"), "send: got str, takes bytes; encode it first"),
    (
        lambda socket: socket.send(5),
        "send: got int, takes a bytes-like or an iterable of them",
    ),
    (
        lambda socket: socket.sendfile("/dev/null", offset=-1),
        "sendfile: offset: got -1, takes 0 or more",
    ),
    (
        lambda socket: socket.sendfile("/"),
        "[Errno 21] Is a directory: '/'",
    ),
    (
        lambda socket: socket.sendfile(Path("/")),
        "[Errno 21] Is a directory: '/'",
    ),
    (
        lambda socket: socket.makefile("r", buffering=0),
        "makefile: buffering: got 0, which needs a binary mode, such as 'rb'",
    ),
    (sends_a_text_file, "sendfile: the file is open in text mode, takes a binary one"),
    (
        lambda socket: socket.settimeout(-1),
        "settimeout: got -1.0, takes seconds, 0 or more, or None",
    ),
    (
        lambda socket: socket.shutdown("all"),
        'shutdown: how: got \'all\', takes "read", "write", "both", SHUT_RD, SHUT_WR or SHUT_RDWR',
    ),
    (
        lambda socket: socket.tls_info(),
        "tls_info() needs TLS; this connection is not encrypted",
    ),
    (
        lambda socket: socket.connection.call("x"),
        "call: a callback of the same connection would wait for itself; call the handler's"
        " method, or use post()",
    ),
    (
        lambda socket: socket.connection.post("x", delay_ms=-1),
        "post: delay_ms: got -1, takes a number of milliseconds, 0 or more",
    ),
    (
        lambda socket: (socket.close(), socket.recv()),
        "[Errno 9] recv: this socket (PEER) was closed locally",
    ),
    (
        lambda socket: (socket.close(), socket.send(b"x")),
        "[Errno 9] send: this socket (PEER) was closed locally",
    ),
]


@pytest.mark.parametrize(("call", "says"), CALLS, ids=range(len(CALLS)))
def test_a_call_of_a_socket_says_which_call_which_peer_and_why(call, says, serve, client):
    told = []

    class Misuses(Handler):
        def handle_connection(self, socket):
            host, port = socket.getpeername()
            try:
                call(socket)
            except Exception as error:
                told.append(str(error).replace(f"{host}:{port}", "PEER"))

    client(serve(Misuses))
    assert eventually(lambda: told)
    assert told == [says]


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_a_full_mailbox_says_whose_it_is(delay_ms, serve, client):
    told = []

    class Posts(Handler):
        def handle_connection(self, socket):
            for _ in range(2):
                socket.connection.post("x", delay_ms=delay_ms)
            with pytest.raises(MailboxFull) as full:
                socket.connection.post("x", delay_ms=delay_ms)
            told.append(str(full.value))

        def handle_data(self, data, socket):
            thread = threading.Thread(target=self.calls, args=(socket.connection,))
            thread.start()
            thread.join()

        def calls(self, connection):
            with pytest.raises(MailboxFull) as full:
                connection.call("x")
            told.append(str(full.value))

        def handle_info(self, message, socket):
            socket.send(b"x")

    sock = client(serve(Posts, max_pending_messages=2))
    host, port = sock.getsockname()
    assert eventually(lambda: told)
    if delay_ms:  # the places are kept meanwhile
        sock.sendall(b"x")
        assert eventually(lambda: len(told) == 2)
    assert told == [
        f"{call}: {host}:{port}: 2 messages wait for this connection already, which is the limit"
        " (max_pending_messages); post less, or raise it"
        for call in ("post", "call")[: len(told)]
    ]


def test_a_delimiter_that_is_text_is_told_what_to_be():
    with pytest.raises(ConfigError) as caught:
        Lines("\n")
    assert str(caught.value) == (
        r"Lines: delimiter: got '\n', takes bytes, one or more, such as b" + r'"\n"'
    )


def test_an_event_that_is_misspelled_is_found():
    code = "from thousand_island_sync import events\nevents.handler_eror"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    suggestion = done.stderr.rpartition("Did you mean")[2]  # worded anew in 3.15
    assert "handler_error'" in suggestion


def test_a_misspelled_event_of_a_module_that_was_replaced_is_not_there(monkeypatch):
    monkeypatch.delitem(sys.modules, events.__name__)
    assert not hasattr(events, "handler_eror")


def test_a_connection_that_has_ended_names_the_peer(serve, client):
    kept = []

    class Keeps(Handler):
        def handle_connection(self, socket):
            kept.append(socket.connection)
            socket.close()

    server = serve(Keeps)
    client(server)
    assert eventually(lambda: kept and server.info().active_connections == 0)
    host, port = kept[0].peername
    for call in (lambda: kept[0].send(b"x"), lambda: kept[0].post("x"), lambda: kept[0].call("x")):
        with pytest.raises(SocketError, match=rf"{host}:{port}\)? (has ended|was closed)"):
            call()
