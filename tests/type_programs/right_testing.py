"""Tests of a user's own handler."""

from typing import assert_type

from thousand_island_sync import Handler, Socket
from thousand_island_sync.testing import (
    EOF,
    Ended,
    Event,
    EventRecorder,
    Step,
    Transcript,
    advance,
    call,
    post,
    serve,
    stop,
)


class Upper(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data.upper())


def test_in_memory() -> None:
    transcript = call(Upper, b"a", advance(10), post("x"), EOF, options=5, read_timeout_ms=100)
    assert_type(transcript, Transcript)
    assert_type(transcript.sent, bytes)
    assert transcript.sent == b"A"
    assert_type(transcript.ended, Ended)
    assert transcript.ended == "peer_closed"
    steps: list[Step] = [b"a", advance(10), stop()]
    assert call(Upper, *steps).ended == "shutdown"


def test_with_sockets() -> None:
    with (
        serve(Upper, expect=ValueError, max_connections=5) as server,
        EventRecorder(server) as told,
    ):
        sock = server.connect(timeout_ms=1_000)
        sock.sendall(b"a")
        assert sock.recv(5) == b"A"
        assert_type(told.wait_for("handler.start", count=1, timeout_ms=1_000), list[Event])
