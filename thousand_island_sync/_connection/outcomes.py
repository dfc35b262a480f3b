"""What callbacks of a connection return and raise, and what follows from it.

The tables are in the documentation of `Handler`; where a connection goes is in those of
`_connection.states`.
"""

from __future__ import annotations

from typing import Any

from .._base import locks
from .._base.clock import FOREVER, seconds
from .._base.options import MISSING
from .._base.waits import make_way
from ..errors import ServerStopping, SocketClosed, SocketError, SocketTimeout
from ..events import By
from ..handler import IDLE, Close, Continue, Error, SwitchTransport
from .handshaking import Handshaking
from .mailbox import Call
from .result_error import result_error
from .states import BY_HANDLER, BY_PEER, BY_SHUTDOWN, PARKED, RUNNING, Cause


class Outcomes(Handshaking):
    """Calls the handler, and draws the consequences."""

    __slots__ = ()

    def _callback(self, name: str, *message: Any) -> int | None:
        """Runs one that is not a last one; a verdict, or `None` to go on."""
        if message:
            self.no_sample = False
            if self.blocks:
                make_way()
        self._become(RUNNING)
        callback, arguments = getattr(self._handler, name), (*message, self._socket)
        if getattr(callback, "__func__", None) in IDLE:
            return self._settle(None, name)
        try:
            result = self._context.run(callback, *arguments)
        except BaseException as error:
            return self._raised(error, name)
        return self._settle(result, name)

    def _connected(self) -> int | None:
        """`handle_connection`; a verdict, or `None` to go on."""
        if getattr(self._handler.handle_connection, "__func__", None) not in IDLE:
            return self._callback("handle_connection")
        # Most handlers have none. Whoever asked for an end meanwhile has set `alert`.
        self._read_deadline = self._clock() + self.read_timeout
        return None

    def _deliver_message(self) -> int | None:
        assert self._mail is not None
        try:
            message = self._mail.take()
        except IndexError:  # withdrawn meanwhile
            return None
        if self._env.stopping:
            self._mail_left -= 1
        if not isinstance(message, Call):
            return self._callback("handle_info", message)
        self._become(RUNNING)
        if self.blocks:
            make_way()
        try:
            result = self._context.run(self._handler.handle_call, message.message, self._socket)
        except BaseException as error:
            locks.release_all()
            self._call_raised(message, error)
        else:
            message.finish(result, None)
        return self._settle(None, "handle_call")

    def _call_raised(self, call: Call, error: BaseException) -> None:
        call.finish(None, error)

    def _settle(self, result: object, name: str) -> int | None:
        """What a callback returned; a verdict if that ends or switches, else `None`, and the
        connection is PARKED."""
        if self.alert:  # who asks for an end sets it, and so does who waits in the kernel
            self._socket._waiter = 0
            ending = self._asked_to_end()
            if ending is not None:
                return self._finish(ending)
        if result is None or isinstance(result, Continue):
            self._set_deadlines(result, name)
            if self._eof_told and self._socket._write_shut:
                return self._finish(BY_PEER)  # both directions have ended
            self._become(PARKED)
            return None
        if isinstance(result, Close):
            return self._finish(BY_PEER if name == "handle_eof" else BY_HANDLER)
        if isinstance(result, Error):
            return self._finish(Cause.ERROR, result.reason)
        if isinstance(result, SwitchTransport):
            return self._switch_transport(result)
        error = result_error(f"{type(self._handler).__name__}.{name}", result)
        self._log_error(error, name)
        return self._finish(Cause.ERROR, error, By.TRACEBACK)

    def _set_deadlines(self, result: Continue | None, name: str) -> None:
        time_now = self._clock()
        timeout = MISSING if result is None else result.timeout_ms
        if timeout is not MISSING:
            limit = seconds(timeout)  # type: ignore[arg-type]
            if result is not None and result.persistent:
                self.read_timeout = limit
            self._read_deadline = time_now + limit
        elif name in ("handle_connection", "handle_data"):
            self._read_deadline = time_now + self.read_timeout
        if self._eof_told:
            self._read_deadline = FOREVER
        if result is not None and result.deadline_ms is not MISSING:
            self._total_deadline = time_now + seconds(result.deadline_ms)  # type: ignore[arg-type]
            self.alert = self.alert or self._total_deadline != FOREVER

    def _raised(self, error: BaseException, name: str) -> int:
        """What a callback raised; the table in the documentation of `Handler`."""
        socket = self._socket
        own = isinstance(error, SocketError) and error._origin is socket
        ending = self._asked_to_end()
        if not own:
            locks.release_all()
            self._log_error(error, name)
            cause = ending if ending is Cause.LOCAL else Cause.ERROR
            return self._finish(cause, error, By.TRACEBACK)
        if ending is not None:
            return self._finish(ending)
        if isinstance(error, ServerStopping):
            return self._finish(BY_SHUTDOWN)
        if isinstance(error, SocketClosed):
            return self._finish(BY_PEER)
        if isinstance(error, SocketTimeout) and not error._sending:
            return self._finish(Cause.TIMEOUT)
        return self._finish(Cause.ERROR, error)
