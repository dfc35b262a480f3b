"""Every event as data: what it tells, in which types, and at which level it is logged.

`events` makes its signals from this, `attach_logger` its levels, the documentation its table,
and debug mode compares each event that is sent with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, UnionType
from typing import Any

#: What a value is: a type, or a union of types; and what it means.
Meaning = tuple[type | UnionType, str]


@dataclass(frozen=True, slots=True)
class EventDescription:
    """One event.

    Attributes:
        name: its dotted name.
        level: the level of `attach_logger` at which it is written: `"error"`, `"info"`,
            `"debug"` or `"trace"`.
        measurements: key -> (type, meaning) of what is measured.
        metadata: key -> (type, meaning) of what the event is about.
        description: when it is sent, in one sentence.
    """

    name: str
    level: str
    measurements: Mapping[str, Meaning]
    metadata: Mapping[str, Meaning]
    description: str


_TIME: Meaning = (int, "when it was sent, on the clock of `time.monotonic_ns`")
_ERROR: Meaning = (BaseException, "the exception")
_DURATION: Meaning = (int, "nanoseconds that it took")
_LIFETIME: Meaning = (int, "nanoseconds since it began")
_CONNECTION: Meaning = (str, "the connection's `id`")
_ACCEPTOR: Meaning = (int, "the acceptor's number, from 1; 0: the stop, which empties the backlog")
_HOST: Meaning = (str, 'the peer\'s address; `""` for a Unix peer')
_PORT: Meaning = (int | None, "the peer's port; `None` for a Unix peer")
_ADDRESS: Meaning = (tuple | str, '`(host, port)`, a Unix path, or `"@name"`')
_TRANSPORT: Meaning = (type, "the class of the transport")
_OPTIONS: Meaning = (Mapping, "the transport's options, keys and passwords left out")
_BYTES_SENT: Meaning = (int, "bytes that went out before it failed")
_WAITING: Meaning = (int, "ready connections that wait for a thread")
_BUSY: Meaning = (int, "threads that run callbacks")
_FILE: Meaning = (object, "the path or file object that was given")

_PEER = {"remote_address": _HOST, "remote_port": _PORT}
_OF_CONNECTION = {"connection_id": _CONNECTION}
_FILE_PART = {
    "file": _FILE,
    "offset": (int, "where in the file it begins"),
    "length": (int | None, "bytes that were asked for; `None`: to the end"),
    "bytes_sent": (int, "bytes that went out"),
}


def _event(
    name: str,
    level: str,
    measurements: dict[str, Meaning],
    metadata: dict[str, Meaning],
    description: str,
) -> tuple[str, EventDescription]:
    return name, EventDescription(
        name,
        level,
        MappingProxyType({**measurements, "monotonic_time_ns": _TIME}),
        MappingProxyType(metadata),
        description,
    )


#: The dotted name of every event -> its description.
CATALOGUE: Mapping[str, EventDescription] = MappingProxyType(
    dict(
        (
            _event(
                "listener.start",
                "info",
                {"port": (int | None, "the TCP port; `None` for a Unix socket")},
                {
                    "transport_cls": _TRANSPORT,
                    "transport_options": _OPTIONS,
                    "local_address": _ADDRESS,
                },
                "The server listens and serves.",
            ),
            _event(
                "listener.error",
                "error",
                {"error": _ERROR},
                {"transport_cls": _TRANSPORT, "transport_options": _OPTIONS},
                "The server cannot listen on the address; or every acceptor has died again and"
                " again, and is restarted every few seconds: meanwhile the status is `suspended`.",
            ),
            _event(
                "listener.shutdown",
                "info",
                {"duration_ns": _LIFETIME},
                {"local_address": _ADDRESS},
                "A stop has closed the listening sockets.",
            ),
            _event(
                "listener.suspend",
                "info",
                {},
                {"local_address": _ADDRESS},
                "`suspend()` has closed the listening sockets.",
            ),
            _event(
                "listener.resume",
                "info",
                {},
                {"local_address": _ADDRESS},
                "`resume()` listens again.",
            ),
            _event(
                "listener.drain",
                "info",
                {
                    "delay_ns": (
                        int | None,
                        "nanoseconds until it stops, at the latest; `None`: when somebody says so",
                    )
                },
                {"local_address": _ADDRESS},
                "`drain()` has begun: the server still accepts, and will stop.",
            ),
            _event(
                "acceptor.start",
                "debug",
                {},
                {"acceptor_id": _ACCEPTOR},
                "An acceptor thread begins to accept.",
            ),
            _event(
                "acceptor.accept",
                "debug",
                {
                    "wait_time_ns": (int, "nanoseconds that the acceptor waited for the client"),
                    "startup_time_ns": (int, "nanoseconds from the accept to this event"),
                },
                {"acceptor_id": _ACCEPTOR, **_OF_CONNECTION, **_PEER},
                "A client was accepted; its handler is made next.",
            ),
            _event(
                "acceptor.accept_error",
                "error",
                {"error": _ERROR},
                {"acceptor_id": _ACCEPTOR},
                "accept(2) failed, or an acceptor died.",
            ),
            _event(
                "acceptor.spawn_error",
                "error",
                {"error": (BaseException, "the exception; `ConnectionOverflow` at the limit")},
                {"acceptor_id": _ACCEPTOR, **_PEER},
                "An accepted client was closed unserved: at the limit, or as its handler could not"
                " be made.",
            ),
            _event(
                "acceptor.limit_reached",
                "debug",
                {"active_connections": (int, "open connections")},
                {"acceptor_id": _ACCEPTOR},
                "The last of `max_connections` is taken; clients wait from now on.",
            ),
            _event(
                "acceptor.limit_cleared",
                "debug",
                {"active_connections": (int, "open connections")},
                {"acceptor_id": _ACCEPTOR},
                "There is room for connections again.",
            ),
            _event(
                "acceptor.shutdown",
                "debug",
                {
                    "duration_ns": _LIFETIME,
                    "accepted": (int, "clients that it accepted"),
                },
                {"acceptor_id": _ACCEPTOR, "reason": (str, "why it ended")},
                "An acceptor thread ends.",
            ),
            _event(
                "handler.start",
                "debug",
                {},
                {**_OF_CONNECTION, "acceptor_id": _ACCEPTOR, **_PEER},
                "A connection's handler was made.",
            ),
            _event(
                "handler.async_recv",
                "trace",
                {"data": (bytes, "what `handle_data` gets next")},
                _OF_CONNECTION,
                "Bytes came while no callback ran.",
            ),
            _event(
                "handler.shutdown",
                "debug",
                {
                    "reason": (
                        str,
                        '`"peer_closed"`, `"local_closed"`, `"timeout"` or `"shutdown"`',
                    ),
                    "duration_ns": _LIFETIME,
                },
                _OF_CONNECTION,
                "A connection ended in another way than by an error.",
            ),
            _event(
                "handler.error",
                "error",
                {
                    "error": (object, "the exception, or what `Error(...)` held"),
                    "duration_ns": _LIFETIME,
                },
                _OF_CONNECTION,
                "A connection ended by an error.",
            ),
            _event(
                "socket.handshake",
                "trace",
                {"duration_ns": _DURATION},
                _OF_CONNECTION,
                "The handshake is done, on TCP at once; again for an upgrade.",
            ),
            _event(
                "socket.handshake_error",
                "error",
                {"error": _ERROR, "duration_ns": _DURATION},
                {**_OF_CONNECTION, **_PEER},
                "A handshake failed or took too long.",
            ),
            _event(
                "socket.recv",
                "trace",
                {"data": (bytes, "what was received")},
                _OF_CONNECTION,
                "A `recv...` of a callback has returned bytes.",
            ),
            _event(
                "socket.recv_error",
                "trace",
                {"error": _ERROR},
                _OF_CONNECTION,
                "A `recv...` of a callback has failed.",
            ),
            _event(
                "socket.send",
                "trace",
                {
                    "data": (object, "what was given to be sent"),
                    "bytes_sent": (int, "bytes that went out"),
                },
                _OF_CONNECTION,
                "A `send` has returned.",
            ),
            _event(
                "socket.send_error",
                "trace",
                {
                    "error": _ERROR,
                    "bytes_sent": _BYTES_SENT,
                    "bytes_lost": (int, "bytes that counted as sent and were dropped"),
                },
                _OF_CONNECTION,
                "A `send` has failed, or bytes that counted as sent could not go out.",
            ),
            _event(
                "socket.sendfile",
                "trace",
                _FILE_PART,
                _OF_CONNECTION,
                "A `sendfile` has returned.",
            ),
            _event(
                "socket.sendfile_error",
                "trace",
                {**_FILE_PART, "error": _ERROR},
                _OF_CONNECTION,
                "A `sendfile` has failed, by the file or by the connection.",
            ),
            _event(
                "socket.shutdown",
                "trace",
                {"how": (str, '`"read"`, `"write"` or `"both"`')},
                _OF_CONNECTION,
                "`shutdown()` was called.",
            ),
            _event(
                "socket.close",
                "trace",
                {
                    "bytes_sent": (int, "bytes sent in all"),
                    "send_count": (int, "calls that sent them"),
                    "bytes_received": (int, "bytes received in all"),
                    "recv_count": (int, "receives that brought them"),
                },
                _OF_CONNECTION,
                "The connection is closed; only `handle_end` follows.",
            ),
            _event(
                "pool.saturated",
                "error",
                {"busy_threads": _BUSY, "waiting_connections": _WAITING},
                {},
                "A ready connection finds no thread: all of `max_handler_threads` are busy.",
            ),
            _event(
                "pool.relieved",
                "debug",
                {"busy_threads": _BUSY, "waiting_connections": _WAITING},
                {},
                "Ready connections find a thread again.",
            ),
        )
    )
)


def differences(
    event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any]
) -> list[str]:
    """The differences between an event and its description, if there are any. Thread: any."""
    described = CATALOGUE[event]
    found = []
    for where, given, wanted in (
        ("measurements", measurements, described.measurements),
        ("metadata", metadata, described.metadata),
    ):
        missing, more = wanted.keys() - given.keys(), given.keys() - wanted.keys()
        if missing or more:
            found.append(
                f"{event}: {where}: missing {sorted(missing)}, not described {sorted(more)}"
            )
        for key in wanted.keys() & given.keys():
            value, type_ = given[key], wanted[key][0]
            if type_ is bytes:  # a user's own transport may give what is like them
                type_ = bytes | bytearray | memoryview
            if not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
                found.append(f"{event}: {where}: {key} is {type(value).__name__}, not {type_}")
    return found
