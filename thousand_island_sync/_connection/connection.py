"""One connection: a state machine that is run in steps and says how it goes on.

The facts. A connection belongs to one thread at a time, its owner: the one that runs
it. What others want of it (a message, an end, a stop) they leave where the owner will
look, then have the scheduler run it; they never act on it in place. `run` does one
step, which is at most one message and one piece of data, and returns a verdict: park
until an event or the deadline, run again, done. It knows no thread, so it is tested
with a pool that is a list, a channel that is a script, and a clock that is a number.

`alert` is the one flag that leads off the hot path. Whoever leaves something sets it
afterwards; the owner clears it before it looks. So what is left is seen, at worst once
too often. Where it goes and how it ends is in the tables of `_connection.states`, nowhere else.

A read deadline that has passed is believed only after a receive found nothing: bytes
win. The total deadline is looked at first: it holds however many bytes come.

At a stop a connection delivers what has arrived, until one receive finds nothing or
1 MiB, then gets `handle_shutdown`. One that is younger than 200 ms and has said
nothing gets until that age: its request may be on the way.
"""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Callable

from .. import events
from .._base.clock import FOREVER, seconds
from .._base.options import MISSING
from .._base.waits import hung_up, make_way
from .._scheduler.task import AGAIN, DONE, PARK
from .._stream.receiving import CHUNK
from ..errors import HandshakeError, SocketClosed
from ..transports.base import WRITE, EndedInSilence
from .outcomes import Outcomes
from .states import BY_PEER, BY_SHUTDOWN, HANDSHAKING, NEW, PARKED, RUNNING, Cause

_DONTWAIT = int(getattr(stdlib_socket, "MSG_DONTWAIT", 0))
_async_recv = events.handler_async_recv

#: Bytes that a stop still delivers to one connection.
_DRAIN_MOST = 1 << 20
#: Steps of a stay after which it is measured whether callbacks still block.
STAY_STEPS = 256
#: Seconds that a silent new connection gets at a stop, counted from its accept.
_YOUNG_S = 0.2


class Lifecycle(Outcomes):
    """Runs one connection from its first step to its last."""

    __slots__ = ()

    # ---- the hot path ---------------------------------------------------------

    def run(self) -> int:
        """One step. Each line of the first half is paid for every message: what can be
        looked up once (`_source`) was, at the start; not `handle_data`, which may change."""
        if self.alert or self._state is not PARKED:
            return self._step()
        try:
            data = self._source.recv(CHUNK, _DONTWAIT)
        except BlockingIOError:
            return self._nothing_there()
        except OSError as error:
            return self._receive_failed(error)
        if not data:
            return self._nothing_there() if data is None else self._end_of_stream()
        self._state = RUNNING
        size = len(data)
        socket = self._socket
        socket._bytes_received += size
        socket._recv_count += 1
        if socket._buffer is not None:
            data = socket._behind_unread(data)
        if _async_recv.receivers:
            self._tell_arrival(data)
        if self.blocks:
            make_way()
        try:
            result = self._context.run(self._handler.handle_data, data, socket)
        except BaseException as error:
            return self._raised(error, "handle_data")
        if result is None and not self.alert:
            self._read_deadline = self.deadline = self._clock() + self.read_timeout
            self._state = PARKED
            if size < CHUNK and self._short_proves:
                return PARK
            return PARK if self._drained_after(size) else AGAIN
        return self._after_data(result, size)

    def _after_data(self, result: object, size: int) -> int:
        """The verdict after `handle_data`, where it is not just to park."""
        verdict = self._settle(result, "handle_data")
        return self._go_on(self._drained_after(size)) if verdict is None else verdict

    def _drained_after(self, size: int) -> bool:
        """Whether nothing is left to receive: a short read proves it, but not where the
        end of the stream came with it, nor where a channel keeps bytes of its own."""
        channel = self._socket._channel
        if self.hung_up:
            return False
        if channel.kernel_waits:
            return size < CHUNK
        return self._socket._closed or channel.drained()

    def may_stay(self) -> bool:
        return (
            self._state is PARKED and not self.alert and self._mail is None and self._short_proves
        )

    def stay(self, timeout: float, wanted: Callable[[float], bool]) -> tuple[int, bool]:
        """`run` with a wait in the kernel, again and again. Other threads do the same at
        this moment, and each holds the GIL for as long as these lines take: so they are few.
        """
        socket, clock = self._socket, self._clock
        wait_recv = socket._channel.wait_recv
        in_context, handler = self._context.run, self._handler
        for _ in range(STAY_STEPS):
            if self.alert:
                return AGAIN, True
            try:
                data = wait_recv(CHUNK, timeout)
            except OSError as error:
                return self._receive_failed(error), True
            if data is None:
                return self._nothing_there(), False
            size = len(data)
            socket._bytes_received += size
            socket._recv_count += 1
            if self.alert or not size or socket._buffer is not None:
                return self._came_early(data), True
            self._state = RUNNING
            if _async_recv.receivers:
                self._tell_arrival(data)
            began = clock()
            try:
                result = in_context(handler.handle_data, data, socket)
            except BaseException as error:
                return self._raised(error, "handle_data"), True
            if result is not None or self.alert:
                return self._after_data(result, size), True
            ended = clock()
            self._read_deadline = self.deadline = ended + self.read_timeout
            self._state = PARKED
            if size == CHUNK:
                return AGAIN, True
            if wanted(ended - began):
                break
        return PARK, True

    # ---- the other steps ------------------------------------------------------

    def _step(self) -> int:
        self.no_sample = True
        if self._state is NEW:
            return DONE if self._begin() else self._watched(self._shake_hands())
        if self._no_room is not None:
            return self._nobody_watches(self._no_room)
        if self._state is HANDSHAKING:
            return self._shake_hands()
        # Cleared before looking: what is left from now on sets it again.
        self.alert = self._total_deadline != FOREVER or self._env.stopping
        ending = self._asked_to_end()
        if ending is not None:
            return self._finish(ending)
        if self._clock() >= self._total_deadline:
            return self._finish(Cause.TIMEOUT)
        if self._mail_waits():
            verdict = self._deliver_message()
            if verdict is not None:
                return verdict
            if self._socket._closed:
                return self._finish(Cause.LOCAL)
        return self._read()

    def _watched(self, verdict: int) -> int:
        """The verdict of the first step. Only who waits after it goes into the poller: of
        short connections most have ended."""
        if verdict == PARK and not self.attached:
            try:
                self._env.pool.attach(self)
            except OSError as error:
                return self._nobody_watches(error)
        return verdict

    def _shake_hands(self) -> int:
        if self.alert:
            ending = self._asked_to_end()
            if ending is not None:
                return self._finish(ending)
        channel = self._socket._channel
        try:
            done = channel.handshake()
        except HandshakeError as error:
            if isinstance(error, EndedInSilence) and not self._socket._bytes_received:
                return self._finish(BY_PEER)
            error.args = (f"{self.peer_shown()}: {error}",)
            return self._handshake_failed(error)
        if done:
            return self._hands_shaken()
        if self._env.stopping:
            return self._finish(BY_SHUTDOWN)
        deadline = self._handshake_at + self._env.handshake_timeout
        if self._clock() >= deadline:
            limit = _in_ms(self._env.handshake_timeout)
            return self._handshake_failed(
                HandshakeError(
                    f"the handshake with {self.peer_shown()} was not finished within {limit}"
                    " (handshake_timeout_ms)"
                ),
                Cause.TIMEOUT,
            )
        self.wants_write = channel.recv_wants == WRITE
        self.deadline = deadline
        return PARK

    def _hands_shaken(self) -> int:
        self.wants_write = False
        if events.socket_handshake.receivers:
            events.emit(
                events.socket_handshake,
                self._env.server,
                {"duration_ns": self._handshake_took()},
                {"connection_id": self.id},
            )
        self._handshake_at = 0.0  # a number less to keep
        self._become(RUNNING)
        if self._env.stopping:
            self.alert = True
        switch, self._switch = self._switch, None
        if switch is None:
            verdict = self._connected()
        else:
            given = switch.timeout_ms
            timeout = self.read_timeout if given is MISSING else seconds(given)  # type: ignore[arg-type]
            self._read_deadline = self._clock() + timeout
            verdict = self._callback("handle_upgrade")
        if verdict is not None:
            return verdict
        if self.alert:
            return self._go_on(False)
        # The first bytes have come, as a rule.
        self.no_sample = False
        self._become(PARKED)
        return Lifecycle.run(self)  # the same step goes on

    def _read(self) -> int:
        """Delivers what has arrived: what a call read and left over, or the next bytes."""
        socket = self._socket
        channel = socket._channel
        data: bytes | None = None if socket._buffer is None else socket._take_fresh()
        size = 0
        if not data:
            if socket._eof:
                return self._end_of_stream()
            try:
                data = channel.recv(CHUNK)
            except OSError as error:
                return self._receive_failed(error)
            if data is None:
                return self._nothing_there()
            if not data:
                return self._end_of_stream()
            size = len(data)
            socket._bytes_received += size
            socket._recv_count += 1
            if socket._buffer is not None:
                data = socket._behind_unread(data)
        self._become(RUNNING)
        if self._env.stopping:
            self._drained += len(data)
            if self._drained > _DRAIN_MOST:
                return self._finish(BY_SHUTDOWN)
        if events.handler_async_recv.receivers:
            self._tell_arrival(data)
        # As in `run`: by way of `_callback` a short connection costs 3 % more.
        self.no_sample = False
        if self.blocks:
            make_way()
        try:
            result = self._context.run(self._handler.handle_data, data, socket)
        except BaseException as error:
            return self._raised(error, "handle_data")
        verdict = self._settle(result, "handle_data")
        if verdict is not None:
            return verdict
        return self._go_on(size > 0 and self._drained_after(size))

    def _came_early(self, data: bytes) -> int:
        """What was received before the step that would ask for it."""
        if data:
            self._socket._add_fresh(data)
        else:
            self._socket._eof = True
        return self._step()

    def _tell_arrival(self, data: bytes) -> None:
        events.emit(
            events.handler_async_recv,
            self._env.server,
            {"data": data},
            {"connection_id": self.id},
        )

    def _nothing_there(self) -> int:
        """A receive found nothing, so the deadlines are believed."""
        self.no_sample = True  # no callback was run
        time_now = self._clock()
        if time_now >= min(self._read_deadline, self._total_deadline):
            return self._finish(Cause.TIMEOUT)
        if self._mail_waits():
            return self._again()
        if self._env.stopping:
            young_until = self._accepted_at + _YOUNG_S
            if self._socket._bytes_received or time_now >= young_until:
                return self._finish(BY_SHUTDOWN)
            self._become(PARKED)
            self.deadline = min(young_until, self._read_deadline, self._total_deadline)
            return PARK
        # A TLS session that must answer before it reads on.
        self.wants_write = self._socket._channel.recv_wants == WRITE
        return self._park()

    def _end_of_stream(self) -> int:
        ending = self._asked_to_end()
        if ending is not None:
            return self._finish(ending)  # it is we who ended the reads
        socket = self._socket
        socket._eof = True
        if socket._channel.truncated or socket._was_reset:
            return self._finish(BY_PEER)
        if self._eof_told:
            if self._has_left():
                return self._finish(BY_PEER)
            if self._mail_waits():
                return self._again()
            return self._finish(BY_SHUTDOWN) if self._env.stopping else self._park()
        self._eof_told = True
        verdict = self._callback("handle_eof")
        return verdict if verdict is not None else self._go_on(True)

    def _has_left(self) -> bool:
        """Whether the peer has reset what we still could send on, or closed a Unix socket."""
        try:
            error = self._sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR)
            return error != 0 or hung_up(self._sock.fileno())
        except OSError:
            return True

    def _receive_failed(self, error: OSError) -> int:
        failure = self._socket._failed("receiving from", error)
        if self._socket._cut or self._asked:
            return self._finish(BY_SHUTDOWN)
        if self._socket._closed:
            return self._finish(Cause.LOCAL)
        if isinstance(failure, SocketClosed):
            return self._finish(BY_PEER)
        return self._finish(Cause.ERROR, failure)

    # ---- between callbacks ----------------------------------------------------

    def _go_on(self, drained: bool) -> int:
        """After a callback that ends nothing: is there more to look at?"""
        socket = self._socket
        buffer = socket._buffer
        if (
            not drained
            or socket._closed
            or self._asked
            or (socket._eof and not self._eof_told)
            or (buffer is not None and buffer.fresh)
            or self._mail_waits()
            or self._env.stopping
        ):
            return self._again()
        return self._park()

    def _mail_waits(self) -> bool:
        mail = self._mail
        return mail is not None and mail.waiting() > 0 and self._mail_left > 0

    def _again(self) -> int:
        self.alert = True
        self._become(PARKED)
        return AGAIN

    def _park(self) -> int:
        self._become(PARKED)
        self.deadline = min(self._read_deadline, self._total_deadline)
        return PARK


def _in_ms(limit: float) -> str:
    return f"{limit * 1000:g} ms"
