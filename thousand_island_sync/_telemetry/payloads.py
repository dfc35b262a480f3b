"""The types of `measurements` and `metadata` of each event, to annotate receivers.

Two names for each event of the catalogue, with which `tests/test_event_catalogue.py` compares
them: those of `handler.error` are `HandlerErrorMeasurements` and `HandlerErrorMetadata`, both in
`events`. Nothing of this is needed to send an event, so it is imported when first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .._base.types import Address, Buffer, File

if TYPE_CHECKING:
    from ..transports.base import Transport

# ---- what is measured -------------------------------------------------------


class Moment(TypedDict):
    """When it was sent, on the clock of `time.monotonic_ns`; all of them have it."""

    monotonic_time_ns: int


class Failure(Moment):
    """The exception."""

    error: BaseException


class Duration(Moment):
    """Nanoseconds that it took, or since it began."""

    duration_ns: int


class ListenerStartMeasurements(Moment):
    """The TCP port; `None` for a Unix socket."""

    port: int | None


class ListenerDrainMeasurements(Moment):
    """Nanoseconds until the stop; `None`: until `stop`, or a `drain` with a delay."""

    delay_ns: int | None


class AcceptorAcceptMeasurements(Moment):
    """Nanoseconds that the client waited, and that its connection took to make."""

    wait_time_ns: int
    startup_time_ns: int


class OpenConnections(Moment):
    """How many connections are open."""

    active_connections: int


class AcceptorShutdownMeasurements(Duration):
    """Its life in nanoseconds, and how many clients it has accepted."""

    accepted: int


class Received(Moment):
    """The bytes."""

    data: bytes


class HandlerShutdownMeasurements(Duration):
    """How the connection ended, and its life in nanoseconds."""

    reason: Literal["peer_closed", "local_closed", "timeout", "shutdown"]


class HandlerErrorMeasurements(Duration):
    """The exception, or what `Error(...)` held, and the connection's life in nanoseconds."""

    error: Any


class SocketHandshakeErrorMeasurements(Failure, Duration):
    """The exception, and nanoseconds until it came."""


class SocketSendMeasurements(Moment):
    """What was given to `send`, and how many bytes went out."""

    data: Buffer | Iterable[Buffer]
    bytes_sent: int


class SocketSendErrorMeasurements(Failure):
    """The exception, how many bytes went out before it, and how many never will."""

    bytes_sent: int
    bytes_lost: int


class SocketSendfileMeasurements(Moment):
    """What was given to `sendfile`, and how many bytes went out."""

    file: File
    offset: int
    length: int | None
    bytes_sent: int


class SocketSendfileErrorMeasurements(SocketSendfileMeasurements, Failure):
    """The same, and the exception."""


class SocketShutdownMeasurements(Moment):
    """Which direction was ended."""

    how: Literal["read", "write", "both"]


class SocketCloseMeasurements(Moment):
    """What the connection has moved."""

    bytes_sent: int
    send_count: int
    bytes_received: int
    recv_count: int


class Load(Moment):
    """Threads that run callbacks, and ready connections that wait for one."""

    busy_threads: int
    waiting_connections: int


# ---- what it is about -------------------------------------------------------


class Nothing(TypedDict):
    """No metadata."""


class OfListener(TypedDict):
    """Where the server listens, or did."""

    local_address: Address


class OfTransport(TypedDict):
    """The transport, its options without keys and passwords."""

    transport_cls: type[Transport]
    transport_options: Mapping[str, Any]


class ListenerStartMetadata(OfTransport, OfListener):
    """What listens, and where."""


class OfAcceptor(TypedDict):
    """The acceptor's number, from 1; 0: the stop, which empties the backlog."""

    acceptor_id: int


class OfPeer(TypedDict):
    """Where the client comes from: `""` and `None` for a Unix peer."""

    remote_address: str
    remote_port: int | None


class AcceptorSpawnErrorMetadata(OfAcceptor, OfPeer):
    """Who has accepted whom."""


class AcceptorShutdownMetadata(OfAcceptor):
    """Which acceptor, and why it ended."""

    reason: str


class OfConnection(TypedDict):
    """The connection's `id`."""

    connection_id: str


class SocketHandshakeErrorMetadata(OfConnection, OfPeer):
    """Which connection, and where it comes from."""


class HandlerStartMetadata(OfConnection, OfAcceptor, OfPeer):
    """Which connection, who accepted it, and where it comes from."""


# ---- the others' names ------------------------------------------------------

ListenerErrorMeasurements = Failure
ListenerErrorMetadata = OfTransport
ListenerShutdownMeasurements = Duration
ListenerShutdownMetadata = OfListener
ListenerSuspendMeasurements = Moment
ListenerSuspendMetadata = OfListener
ListenerResumeMeasurements = Moment
ListenerResumeMetadata = OfListener
ListenerDrainMetadata = OfListener
AcceptorStartMeasurements = Moment
AcceptorStartMetadata = OfAcceptor
AcceptorAcceptMetadata = HandlerStartMetadata
AcceptorAcceptErrorMeasurements = Failure
AcceptorAcceptErrorMetadata = OfAcceptor
AcceptorSpawnErrorMeasurements = Failure
AcceptorLimitReachedMeasurements = OpenConnections
AcceptorLimitReachedMetadata = OfAcceptor
AcceptorLimitClearedMeasurements = OpenConnections
AcceptorLimitClearedMetadata = OfAcceptor
HandlerStartMeasurements = Moment
HandlerAsyncRecvMeasurements = Received
HandlerAsyncRecvMetadata = OfConnection
HandlerShutdownMetadata = OfConnection
HandlerErrorMetadata = OfConnection
SocketHandshakeMeasurements = Duration
SocketHandshakeMetadata = OfConnection
SocketRecvMeasurements = Received
SocketRecvMetadata = OfConnection
SocketRecvErrorMeasurements = Failure
SocketRecvErrorMetadata = OfConnection
SocketSendMetadata = OfConnection
SocketSendErrorMetadata = OfConnection
SocketSendfileMetadata = OfConnection
SocketSendfileErrorMetadata = OfConnection
SocketShutdownMetadata = OfConnection
SocketCloseMetadata = OfConnection
PoolSaturatedMeasurements = Load
PoolSaturatedMetadata = Nothing
PoolRelievedMeasurements = Load
PoolRelievedMetadata = Nothing
