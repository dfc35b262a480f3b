"""Bytes on their way in: the one place that waits for them, and where they are kept.

`_stream.receiving` has the calls that users see; all of them end here.
"""

from __future__ import annotations

import errno
import os
from threading import get_ident

from .._base import waits
from .._base.clock import FOREVER, now
from .._base.options import MISSING
from ..errors import SocketError
from ..transports.base import WRITE
from .buffer import ReadBuffer
from .core import LOOK_S, SocketCore


class Arrivals(SocketCore):
    """Waiting for bytes, and the buffer of those that no call has returned."""

    __slots__ = ()

    def _receive(
        self,
        doing: str,
        length: int,
        timeout: float,
        deadline: float,
        met: int | None = None,
        flags: int = 0,
    ) -> bytes:
        """Bytes from the channel, waiting; holds `_stream.receiving`.

        `timeout` is the whole call's; where it makes several receives, or has waited before,
        `deadline` says when it ends, else `FOREVER`. `met`: what a receive has met already,
        an errno or 0 for the end of the stream; the kernel tells of a reset but once. `flags`:
        MSG_PEEK, or none.
        """
        channel = self._channel
        if self._interrupted:
            raise self._stopping_error(doing)
        try:
            data: bytes | None = None
            if met == 0:
                data = b""
            elif met is not None and met != errno.EAGAIN:
                raise OSError(met, os.strerror(met))
            # Once this callback has waited, the next bytes are probably not there either.
            elif self._connection.attached or timeout == 0 or not channel.kernel_waits:
                data = channel.recv(length, flags) if flags else channel.recv(length)
            if data is None:
                early = met == errno.EAGAIN
                data = self._wait_for_bytes(doing, length, timeout, deadline, early, flags)
        except SocketError:
            raise
        except OSError as error:
            raise self._failed(doing, error) from error
        if data:
            if not flags:
                self._bytes_received += len(data)
                self._recv_count += 1
        else:
            if self._interrupted:
                raise self._stopping_error(doing)
            if self._closed:
                raise self._closed_error(doing)
            if self._cut:
                raise self._gone(doing, "cut")
            if self._was_reset:
                raise self._gone(doing, "the peer has gone")
            self._eof = self._connection.alert = True
        return data

    def _wait_for_bytes(
        self,
        doing: str,
        length: int,
        timeout: float,
        deadline: float,
        early: bool,
        flags: int,
    ) -> bytes:
        """`early`: a wait in the kernel came back with nothing. If that was before its time, the
        descriptor does not block: O_NONBLOCK is shared with whoever got it or a copy of it
        (open(2)), and is theirs. So poll(2) waits for the rest.
        """
        connection, channel = self._connection, self._channel
        if timeout == 0:
            raise self._nothing_came(doing, timeout)
        connection.take_out()
        waits.give_way()
        kernel_waits = channel.kernel_waits and not flags and waits.current_task() is connection
        while True:
            if self._closed:
                raise self._closed_error(doing)
            interrupt = bell = connection.interrupt()
            if bell is not None:
                if self._bytes_received != self._answered:
                    bell = None  # a request is under way: it may be finished
                elif connection.stopping:
                    raise self._stopping_error(doing)
            if self._interrupted:
                raise self._stopping_error(doing)
            left = timeout if deadline == FOREVER else self._left(deadline)
            if left <= 0:
                raise self._nothing_came(doing, timeout)
            if deadline == FOREVER and timeout != FOREVER:
                deadline = now() + timeout
            left = min(left, LOOK_S)
            channel.heed()
            if kernel_waits and bell is None and not early:
                data = channel.wait_recv(length, left)
                early = data is None
                if (
                    interrupt is None
                    and timeout == connection.read_timeout
                    and not connection.attached
                    and self._default_timeout is MISSING
                ):
                    self._waiter = get_ident()
                    connection.alert = True  # the callback's end forgets it
                    if channel.exposed or self._closed:  # detached, or about to be
                        self._waiter = 0
            elif channel.shaking:
                self._wait_for_hands(doing, left)
                data = None
            else:
                write = channel.recv_wants == WRITE
                waits.wait_for(self._sock.fileno(), write=write, timeout=left, also=bell)
                # A TLS session that met the end of an interrupted read could send no more.
                data = None if self._interrupted else channel.recv(length, flags)
            if data is not None:
                return data

    def _nothing_came(self, doing: str, timeout: float) -> SocketError:
        return self._timed_out(
            doing, timeout, "nothing came", "read_timeout_ms, settimeout, or timeout_ms of the call"
        )

    def _keep(self, data: bytes, seen: int) -> None:
        """Keeps what no call has returned; `seen` of it, in front, a callback knows."""
        if data:
            self._buffer = ReadBuffer(data, len(data) - min(seen, len(data)))
            self._waiter = 0
            self._connection.alert = True

    def _add_fresh(self, data: bytes) -> None:
        """Bytes that no callback has seen, behind what is there. Thread: the owner's."""
        if self._buffer is None:
            self._keep(data, 0)
        else:
            self._buffer.add(data)
            self._waiter = 0

    def _take(self, length: int) -> bytes:
        buffer = self._buffer
        assert buffer is not None
        data = buffer.take(length)
        if not len(buffer):
            self._buffer = None
        return data

    def _take_fresh(self) -> bytes:
        """All that waits here, if some of it no callback has seen. Thread: the owner's."""
        buffer = self._buffer
        if buffer is None or not buffer.fresh:
            return b""
        self._buffer = None
        return buffer.take(len(buffer))

    def _behind_unread(self, data: bytes) -> bytes:
        """New bytes, with what was put back in front. Thread: the owner's."""
        buffer, self._buffer = self._buffer, None
        assert buffer is not None
        return buffer.take(len(buffer)) + data

    def _drop_read(self) -> int:
        """An upgrade: plaintext is never taken for encrypted. How many bytes. Thread: the
        owner's."""
        buffer, self._buffer = self._buffer, None
        return 0 if buffer is None else len(buffer)
