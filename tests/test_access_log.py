"""One line for each connection at its end."""

import logging
import socket

import pytest

from tests.support import Echo, answers, eventually, receive_all
from thousand_island_sync import TLS, Error, Handler
from thousand_island_sync._command.access_log import LOGGER, AccessLog


@pytest.fixture(autouse=True)
def _records(caplog):
    logging.getLogger("thousand_island_sync").setLevel(logging.ERROR)
    yield
    logging.getLogger("thousand_island_sync").setLevel(logging.NOTSET)


def of(caplog, count=1):
    assert eventually(lambda: len(caplog.records) >= count)
    assert {one.name for one in caplog.records} == {LOGGER}
    assert len(caplog.records) == count
    return caplog.records


class Ends(Handler):
    def handle_data(self, data, sock):
        if data == b"error":
            return Error(ValueError("no"))
        if data == b"close":
            sock.send(b"goodbye")
            sock.close()
        return None


@pytest.mark.parametrize(
    ("data", "reason", "received", "sent"),
    [
        (b"error", "error", 5, 0),
        (b"close", "local_closed", 5, 7),
        (b"wait", "timeout", 4, 0),
        (b"", "peer_closed", 0, 0),
    ],
)
def test_it_says_who_how_long_how_much_and_how_it_ended(
    data, reason, received, sent, serve, client, caplog
):
    server = serve(Ends, name="shop", read_timeout_ms=200)
    with AccessLog([server]):
        sock = client(server)
        host, port = sock.getsockname()
        sock.sendall(data)
        if reason == "peer_closed":
            sock.shutdown(socket.SHUT_WR)
        receive_all(sock)
        (record,) = of(caplog)
    found = vars(record)
    text = f"connection {found['connection_id']} of shop from {host}:{port}: {reason} after "
    assert record.getMessage().startswith(text)
    assert record.getMessage().endswith(f" ms, {received} bytes received, {sent} sent")
    assert record.levelno == logging.INFO
    assert (found["event_name"], found["server_name"]) == ("connection", "shop")
    assert (found["client_address"], found["client_port"]) == (host, port)
    assert (found["reason"], found["bytes_received"], found["bytes_sent"]) == (
        reason,
        received,
        sent,
    )
    assert 0 < found["duration_ms"] < 10_000
    assert found.get("error_type") == ("ValueError" if reason == "error" else None)


def test_a_stop_ends_connections_too(serve, client, caplog):
    server = serve(Echo)
    with AccessLog([server]):
        socks = [client(server) for _ in range(3)]
        for sock in socks:
            assert answers(sock)
        assert server.stop()
        assert {vars(one)["reason"] for one in of(caplog, 3)} == {"shutdown"}


def test_a_failed_handshake_is_one_line_as_well(serve, client, caplog, authority):
    options = {"certfile": authority.chain, "keyfile": authority.key}
    server = serve(Echo, transport_cls=TLS, transport_options=options)
    with AccessLog([server]):
        sock = client(server)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        receive_all(sock)
        (record,) = of(caplog)
    assert (vars(record)["reason"], vars(record)["error_type"]) == ("error", "HandshakeError")


def test_a_unix_peer(serve, tmp_path, caplog):
    server = serve(Echo, host=f"unix:{tmp_path}/s")
    with AccessLog([server]), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/s")
        assert answers(sock)
        sock.close()
        (record,) = of(caplog)
    assert " from a Unix peer: peer_closed after " in record.getMessage()


def test_other_servers_and_other_times_are_not_told_of(serve, client, caplog, record):
    recorder = record("socket.close")
    told, other = serve(Echo), serve(Echo)
    with AccessLog([told]):
        client(other).close()
        recorder.wait_for("socket.close")
    client(told).close()
    recorder.wait_for("socket.close", 2)
    assert caplog.records == []
    assert logging.getLogger(LOGGER).level == logging.NOTSET


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nconnection forged", "\u202egpj.exe"])
def test_the_path_of_a_unix_peer_is_his_own_choice_and_moves_no_cursor(
    name, serve, client, caplog, tmp_path, monkeypatch
):
    class Raises(Handler):
        def handle_data(self, data, sock):
            sock.recv_exactly(1, timeout_ms=1)

        def handle_error(self, reason, sock):
            raise reason

    monkeypatch.chdir(tmp_path)
    server = serve(Raises, host="unix:server")
    with AccessLog([server]), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(name)
        sock.connect(server.local_address)
        sock.sendall(b"x")
        receive_all(sock)
        assert eventually(lambda: any(one.name == LOGGER for one in caplog.records))
    lines = [one.getMessage() for one in caplog.records]
    assert all(line.isprintable() for line in lines), lines
    assert ascii(name)[1:-1] in "".join(lines)
