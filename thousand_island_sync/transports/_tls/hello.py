"""Decisions on a client's hello: which host it wants, and whether it gets session tickets.

The facts. If `OP_NO_TICKET` is set beforehand, OpenSSL still sends two tickets in TLS 1.3, of
another kind. If the callback for server names sets it, OpenSSL sends none: that is its own rule
for contexts without tickets, in `final_server_name`. But this works only once. If OpenSSL answers
the first hello with a HelloRetryRequest, a second hello comes, and the option must be newly set
there. The answer shows which of the two hellos it belongs to.

OpenSSL holds the session while that callback runs, and the channel holds its lock. For a resumed
session of TLS 1.2, OpenSSL gives the server name for which the session was made, not the one that
the client has sent (SSL_get_servername(3)).

Our decision. If there are to be no tickets and a context has answered the first hello with a retry,
a new session starts from the beginning, and expects the second hello; the first answer is dropped.
The user's `sni` function runs without the lock: nothing else touches a session whose first hello
has not been answered (`Notes.hello`). It is called once for each connection. If OpenSSL does not
give the name that the client sent, it is read from the client's bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import SSL

from . import gaps
from .reasons import Notes, note_fault


@dataclass(frozen=True, slots=True)
class Built:
    """A context, and what must be set on a connection besides."""

    context: SSL.Context
    mode: int
    min_version: int


#: Finds the context for a server name (in lower case; `None`: the client sent none).
Chooser = Callable[[str | None], Built | None]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a context answers first hellos.

    Attributes:
        chooser: chooses another context by the server name.
        asks_user: whether the chooser runs user code.
        tickets: whether session tickets are sent.
        watched: whether to note that a certificate was sent, which a resumed session does not
            do. That callback runs for every step, and costs a sixth of a handshake.
    """

    chooser: Chooser | None
    asks_user: bool
    tickets: bool
    watched: bool


def follow(context: SSL.Context, policy: Policy) -> None:
    """Has a context that was not used yet answer by a policy."""
    context.set_app_data(policy)
    if policy.chooser is not None or not policy.tickets:
        context.set_tlsext_servername_callback(_answer)
    if policy.watched:
        context.set_info_callback(_note_certificate)


def _note_certificate(connection: SSL.Connection, where: int, result: int) -> None:
    if connection.get_state_string().endswith(b"write certificate"):
        notes = connection.get_app_data()
        if isinstance(notes, Notes):
            notes.sent_certificate = True


def was_resumed(connection: SSL.Connection, notes: Notes) -> bool | None:
    """Whether a finished handshake has resumed a session; `None`: unknown."""
    resumed = gaps.resumed(connection)
    if resumed is None and notes.policy is not None and notes.policy.watched:
        return not notes.sent_certificate
    return resumed


def policy_of(context: SSL.Context) -> Policy | None:
    """The policy of a context; `None` for a user's own context."""
    policy = context.get_app_data()
    return policy if isinstance(policy, Policy) else None


def _answer(connection: SSL.Connection) -> None:
    notes = connection.get_app_data()
    assert isinstance(notes, Notes)
    try:
        # By now the context may be the chosen one: a second hello is answered as the first was.
        policy = notes.policy
        assert isinstance(policy, Policy)
        notes.hellos += 1
        if not policy.tickets and notes.hellos == notes.last_hello:
            connection.set_options(SSL.OP_NO_TICKET)
        if policy.chooser is not None:
            _choose(connection, notes, policy.chooser, policy.asks_user)
    except BaseException as error:
        notes.error = error
        _refuse(connection)


def _refuse(connection: SSL.Connection) -> None:
    connection.set_context(SSL.Context(SSL.TLS_SERVER_METHOD))  # it has no certificate


def _choose(connection: SSL.Connection, notes: Notes, chooser: Chooser, asks_user: bool) -> None:
    name = sent_name(connection, notes)
    if notes.choice is None:
        text = _readable(name)
        chosen = notes.outside(chooser, text) if asks_user else chooser(text)
        notes.choice = (name, chosen)
    chosen = notes.choice[1]
    if chosen is None:
        return
    assert isinstance(chosen, Built)
    if connection.get_protocol_version() < chosen.min_version:
        notes.reason = f"no shared protocol version (see min_version of {_readable(name)})"
        _refuse(connection)
        return
    connection.set_context(chosen.context)
    connection.set_verify(chosen.mode, note_fault)


def _readable(name: bytes | None) -> str | None:
    if name is None:
        return None
    if len(name) > 255 or b"\0" in name:  # OpenSSL does not check it for a resumed session
        raise ValueError("the client sent a server name that is not valid")
    return name.decode("ascii").lower().rstrip(".")


def check(connection: SSL.Connection, notes: Notes) -> str | None:
    """Why a handshake that OpenSSL accepts is refused, if it is; sets `Notes.name`."""
    resumed = was_resumed(connection, notes)
    policy, choice = notes.policy, notes.choice
    chooses = policy is not None and policy.chooser is not None
    older = connection.get_protocol_version() < SSL.TLS1_3_VERSION
    if chooses or (older and resumed is not False):
        name = sent_name(connection, notes)
        if chooses and (choice is None or choice[0] != name):
            return "the client changed its server name during the handshake"
        notes.name = (name,)
    if policy is not None and not policy.tickets and resumed:
        return "a session was resumed, although resumption is off"
    notes.hello, notes.choice, notes.context = b"", None, None
    return None


def sent_name(connection: SSL.Connection, notes: Notes) -> bytes | None:
    """The server name as the client has sent it, in the middle of the handshake."""
    if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
        return connection.get_servername()
    return server_name(notes.hello)


_HANDSHAKE, _CLIENT_HELLO, _SERVER_HELLO = 22, 1, 2
_SERVER_NAME, _HOST_NAME = 0, 0
#: The random of a ServerHello that asks for another ClientHello (RFC 8446, 4.1.3).
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def is_retry(answer: bytes) -> bool:
    """Whether a server's first answer is a HelloRetryRequest: after the header of a record (5
    bytes), that of a message (4) and a version (2) comes the random."""
    return answer[:1] == b"\x16" and answer[5:6] == b"\x02" and answer[11:43] == _RETRY


class _Bytes:
    """Reads values with their length before them (RFC 8446, 3.4)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends too early")
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def server_name(hello: bytes) -> bytes | None:
    """The host name in the first ClientHello of some records; `None`: there is none (RFC 8446,
    4.1.2; RFC 6066, 3). OpenSSL has accepted the hello before."""
    try:
        records, said = _Bytes(hello), b""
        while records:
            if records.number(1) != _HANDSHAKE:
                break
            records.take(2)
            said += records.vector(2)
        message = _Bytes(said)
        if message.number(1) != _CLIENT_HELLO:
            return None
        fields = _Bytes(message.vector(3))
        fields.take(2 + 32)
        for size in (1, 2, 1):  # the session's id, cipher suites, compression methods
            fields.vector(size)
        extensions = _Bytes(fields.vector(2))
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _SERVER_NAME:
                names = _Bytes(_Bytes(content).vector(2))
                while names:
                    kind, name = names.number(1), names.vector(2)
                    if kind == _HOST_NAME:
                        return name
    except ValueError:
        pass
    return None
