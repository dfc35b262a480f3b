"""Telemetry: one blinker signal for each event, and the guard around its receivers.

Each signal is an attribute, its name with `_` for `.` (`events.handler_start`);
`events.ALL` maps the dotted name to the signal, `events.CATALOGUE` to its description. A
receiver is called as `receiver(server, *, event, measurements, metadata)`, on the thread
where the event happened. That may be any thread of the server, so a receiver must be quick.

blinker holds receivers weakly. A lambda, or a function inside a function, is gone
at once unless it is connected with `connect(receiver, weak=False)`.

Senders test `if signal.receivers:` first, so an event without receivers costs one truth
test. An exception of a receiver is logged, with its traceback the first time. The receiver
stays connected, and neither the server nor the other receivers notice. On a thread of the
user's (in `start`, `stop`, ...), an exception that is not an `Exception`, such as Ctrl-C, is
passed on to the caller after the other receivers were called.
"""

# ruff: noqa: F405
from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._base import fork, reports, waits
from ._base.clock import now_ns
from ._base.locks import outside
from ._telemetry.about import About as About
from ._telemetry.about import By as By
from ._telemetry.catalogue import CATALOGUE as CATALOGUE
from ._telemetry.catalogue import EventDescription as EventDescription
from ._telemetry.catalogue import differences
from ._telemetry.signals import EventSignal as EventSignal
from ._telemetry.signals import TypedReceiver as TypedReceiver

if TYPE_CHECKING:
    from ._telemetry.payloads import *  # noqa: F403

#: The dotted name of every event -> its signal, a `blinker.Signal`.
ALL: Mapping[str, EventSignal[Any, Any]] = {name: EventSignal(name) for name in CATALOGUE}

listener_start: EventSignal[ListenerStartMeasurements, ListenerStartMetadata] = ALL[
    "listener.start"
]
listener_error: EventSignal[ListenerErrorMeasurements, ListenerErrorMetadata] = ALL[
    "listener.error"
]
listener_shutdown: EventSignal[ListenerShutdownMeasurements, ListenerShutdownMetadata] = ALL[
    "listener.shutdown"
]
listener_suspend: EventSignal[ListenerSuspendMeasurements, ListenerSuspendMetadata] = ALL[
    "listener.suspend"
]
listener_resume: EventSignal[ListenerResumeMeasurements, ListenerResumeMetadata] = ALL[
    "listener.resume"
]
listener_drain: EventSignal[ListenerDrainMeasurements, ListenerDrainMetadata] = ALL[
    "listener.drain"
]
acceptor_start: EventSignal[AcceptorStartMeasurements, AcceptorStartMetadata] = ALL[
    "acceptor.start"
]
acceptor_accept: EventSignal[AcceptorAcceptMeasurements, AcceptorAcceptMetadata] = ALL[
    "acceptor.accept"
]
acceptor_accept_error: EventSignal[AcceptorAcceptErrorMeasurements, AcceptorAcceptErrorMetadata] = (
    ALL["acceptor.accept_error"]
)
acceptor_spawn_error: EventSignal[AcceptorSpawnErrorMeasurements, AcceptorSpawnErrorMetadata] = ALL[
    "acceptor.spawn_error"
]
acceptor_limit_reached: EventSignal[
    AcceptorLimitReachedMeasurements, AcceptorLimitReachedMetadata
] = ALL["acceptor.limit_reached"]
acceptor_limit_cleared: EventSignal[
    AcceptorLimitClearedMeasurements, AcceptorLimitClearedMetadata
] = ALL["acceptor.limit_cleared"]
acceptor_shutdown: EventSignal[AcceptorShutdownMeasurements, AcceptorShutdownMetadata] = ALL[
    "acceptor.shutdown"
]
handler_start: EventSignal[HandlerStartMeasurements, HandlerStartMetadata] = ALL["handler.start"]
handler_async_recv: EventSignal[HandlerAsyncRecvMeasurements, HandlerAsyncRecvMetadata] = ALL[
    "handler.async_recv"
]
handler_shutdown: EventSignal[HandlerShutdownMeasurements, HandlerShutdownMetadata] = ALL[
    "handler.shutdown"
]
handler_error: EventSignal[HandlerErrorMeasurements, HandlerErrorMetadata] = ALL["handler.error"]
socket_handshake: EventSignal[SocketHandshakeMeasurements, SocketHandshakeMetadata] = ALL[
    "socket.handshake"
]
socket_handshake_error: EventSignal[
    SocketHandshakeErrorMeasurements, SocketHandshakeErrorMetadata
] = ALL["socket.handshake_error"]
socket_recv: EventSignal[SocketRecvMeasurements, SocketRecvMetadata] = ALL["socket.recv"]
socket_recv_error: EventSignal[SocketRecvErrorMeasurements, SocketRecvErrorMetadata] = ALL[
    "socket.recv_error"
]
socket_send: EventSignal[SocketSendMeasurements, SocketSendMetadata] = ALL["socket.send"]
socket_send_error: EventSignal[SocketSendErrorMeasurements, SocketSendErrorMetadata] = ALL[
    "socket.send_error"
]
socket_sendfile: EventSignal[SocketSendfileMeasurements, SocketSendfileMetadata] = ALL[
    "socket.sendfile"
]
socket_sendfile_error: EventSignal[SocketSendfileErrorMeasurements, SocketSendfileErrorMetadata] = (
    ALL["socket.sendfile_error"]
)
socket_shutdown: EventSignal[SocketShutdownMeasurements, SocketShutdownMetadata] = ALL[
    "socket.shutdown"
]
socket_close: EventSignal[SocketCloseMeasurements, SocketCloseMetadata] = ALL["socket.close"]
pool_saturated: EventSignal[PoolSaturatedMeasurements, PoolSaturatedMetadata] = ALL[
    "pool.saturated"
]
pool_relieved: EventSignal[PoolRelievedMeasurements, PoolRelievedMetadata] = ALL["pool.relieved"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The types of measurements and metadata: they are imported when first used."""
        if name.endswith(("Measurements", "Metadata")):
            from ._telemetry import payloads

            if hasattr(payloads, name):
                return getattr(payloads, name)
        # With both, Python's traceback asks "Did you mean".
        problem = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(problem, name=name, obj=sys.modules.get(__name__))


_checks = reports.enabled()
#: Servers whose events are not sent.
_silent: set[object] = set()


@contextlib.contextmanager
def none_of(server: object) -> Iterator[None]:
    """Meanwhile this server's events are not sent. Thread: any."""
    _silent.add(server)
    try:
        yield
    finally:
        _silent.discard(server)


@outside("a receiver")
def emit(
    signal: EventSignal[Any, Any],
    server: object,
    measurements: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    """Calls every receiver of `signal` that listens to `server`.

    Raises:
        BaseException: a receiver raised it, it is not an `Exception`, and the thread is not one of
            the server's.

    Thread: one of the server's, or a user's that calls the server; never under a lock.
    """
    if signal.is_muted or (_silent and server in _silent):
        return
    event = signal.event
    measurements["monotonic_time_ns"] = now_ns()
    if _checks:
        for found in differences(event, measurements, metadata):
            reports.report(found)
    passed_on: BaseException | None = None
    forks = fork.forks
    for receiver in signal.simply or signal.listeners(server):
        try:
            receiver(server, event=event, measurements=measurements, metadata=metadata)
        except BaseException as error:
            if forks != fork.forks:
                fork.came_back(forks, f"a receiver of {event}", error)
            if isinstance(error, Exception) or waits.current_worker() is not None:
                signal.failures.note(receiver, error)
            elif passed_on is None:
                passed_on = error
        if forks != fork.forks:
            fork.came_back(forks, f"a receiver of {event}")
    if passed_on is not None:
        try:
            raise passed_on
        finally:
            passed_on = None  # its traceback refers to this frame: break the cycle
