"""The bytes of one connection for which the kernel, or TLS, had no room.

The facts. A peer that does not read fills its own buffer, then the kernel's on this side. A
callback that sends more would have to wait, and hold its thread: a hundred such peers hold a pool.

What others do. Event loops keep the rest in memory, without a limit of their own, and leave it to
the program to check how much that is. nginx stops reading from a peer that does not read.

Our decision. The rest is copied here, up to a limit for the connection and one for the server, and
is sent as the poller reports room (`_connection.outflow`). A connection has no send buffer until
the kernel's buffer is full for the first time.

The thread with the turn to send may have sent a part of its bytes, so what other threads keep
meanwhile must come after all of them. Bytes that were kept before that thread took the turn are
*ahead*: the thread sends those, then its own, and puts the rest of its own right behind those.

All of it is changed under the lock of all send buffers (`UnsentTotal`); only the thread with the
turn takes bytes out. While anything waits, the quick way to send is blocked (`Writer.block`), so
that nothing overtakes it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._base import waits as _waits
from .._base.locks import if_free
from ..errors import SocketError
from ..transports.base import READ, Channel
from . import failures
from .amid_handshake import goes
from .pieces import Pieces
from .room_waits import RoomWaits
from .states import BARRIER, FAILED, GIVEN_AWAY, MAY_SEND, Sends
from .taking import Taking
from .turns import guard

if TYPE_CHECKING:
    from .duplex import Duplex
    from .unsent_total import UnsentTotal
    from .writer import Writer


class _Blocked:
    """A sink that takes nothing: other bytes go first, or sends have ended."""

    def send(self, data: bytes, flags: int, /) -> int:
        return 0


#: The sink of the quick way to send, meanwhile.
BLOCKED = _Blocked()


class SendBuffer:
    """See the module's essay. Thread: any, unless it says so.

    Args:
        stream: the connection's.
        total: the books of all send buffers.

    Attributes:
        ahead: how many bytes come before what the present turn sends, or the next.
        barred: whether the present turn began behind the barrier, even if that is gone since.
        claimed: bytes of room that are reserved for the send that has the turn.
        counted: bytes and number of the sends that were kept without the turn.
        failure: why `sends` is FAILED; `None`: it is not.
        lost: bytes that were dropped at the failure, until an event reports them.
        record: whether TLS holds a record that counts as sent, and waits as well.
        relieved: no more than half of the limit waits any more, and the owner was not told yet.
        sends: whether more may be sent (`states`).
        tries: how often the end of the connection found the turn with another thread.
        taking: how much the peer takes.
        waiting: the threads that wait for room.
    """

    __slots__ = (
        "_pieces",
        "_stream",
        "_total",
        "_watched",
        "ahead",
        "barred",
        "claimed",
        "counted",
        "failure",
        "lost",
        "record",
        "relieved",
        "sends",
        "taking",
        "tries",
        "waiting",
    )

    def __init__(self, stream: Duplex, total: UnsentTotal) -> None:
        self._stream: Duplex | None = stream
        self._total = total
        self._pieces = Pieces(total.spare)
        self._watched = -1  # the descriptor that the driver knows
        self.ahead = self.claimed = self.lost = self.tries = 0
        self.barred = self.record = self.relieved = False
        self.sends: Sends = MAY_SEND
        self.counted = (0, 0)
        self.failure: SocketError | None = None
        self.taking = Taking(total.clock())
        self.waiting = RoomWaits()

    # ---- how much ---------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._pieces.size

    @property
    def waits(self) -> bool:
        """Whether anything waits."""
        return self._pieces.size > 0 or self.record

    @property
    def over_half(self) -> bool:
        """Whether so much waits that messages are not delivered, either."""
        return self.size > self._total.most_each // 2

    def is_member(self) -> bool:
        """Whether the books have it: bytes wait, or a thread waits for room."""
        return self._stream is not None and (self.waits or self.waiting.threads > 0)

    def lacks_total(self, size: int) -> bool:
        """Whether it is the total, not the connection's limit, that lacks room for so many."""
        return self._total.room() < min(size, self._total.most_each - self.size)

    def room(self) -> int:
        """How many more bytes may be kept; may be negative. A hint without the lock of all."""
        return min(self._total.most_each - self.size - self.claimed, self._total.room())

    # ---- keeping ------------------------------------------------------------------

    def keep(
        self,
        views: Sequence[memoryview],
        *,
        whole: bool = False,
        mine: bool = False,
        over: bool = False,
    ) -> int:
        """Copies as much of `views` as has room. How many bytes.

        Args:
            views: what is to be sent.
            whole: all of it, or nothing.
            mine: they are the rest of the send that has the turn, and come before what other
                threads have kept since.
            over: they were claimed, so there is room.
        """
        size = sum(map(len, views))
        with self._total.lock:
            left = count = size if over else min(size, max(0, self.room()))
            if self.sends is FAILED or (whole and count < size):
                return 0
            pieces = self._pieces
            behind = pieces.cut(self.ahead) if mine and self.ahead < pieces.size else None
            for view in views:
                pieces.append(view[:left])
                left -= min(left, len(view))
            if behind is not None:
                pieces.extend(behind)
            if mine:
                self.ahead += count
            self._changed(count)
        return count

    def keep_record(self, there: bool) -> None:
        """Notes whether TLS holds a rest of what counts as sent."""
        if there is not self.record:
            with self._total.lock:
                self.record = there and self.sends is not FAILED
                self._changed(0)

    def count(self, size: int) -> None:
        """A send was kept as a whole, without the turn."""
        with self._total.lock:
            self.counted = self.counted[0] + size, self.counted[1] + 1

    def _changed(self, by: int) -> None:
        """So many more bytes wait or, if negative, fewer. With the lock of all."""
        self._total.changed(self, by)
        if by < 0 and not self.over_half and self.size - by > self._total.most_each // 2:
            self.relieved = True
        stream = self._stream
        if stream is not None:
            stream.writer.block(self.waits or self.sends is not MAY_SEND)

    # ---- going out: with the turn ------------------------------------------------------

    def turn_begins(self, amid_send: bool = False) -> None:
        """All that was kept goes before what this turn sends; or after it, if a part of that was
        sent already, the quick way (`amid_send`)."""
        with self._total.lock:
            barrier = self.sends in BARRIER
            self.barred = barrier and not amid_send
            if amid_send or not barrier:
                self.ahead = 0 if amid_send else self.size

    def on(self, move: dict[Sends, Sends]) -> None:
        """Moves along one of the tables in `states`. Thread: the owner's, perhaps with the turn."""
        with self._total.lock:
            self.sends = move.get(self.sends, self.sends)
            self._changed(0)
        self.waiting.ring()

    def send_ahead(self, channel: Channel) -> bool:
        """Sends what is ahead, and what TLS holds, as far as there is room; whether nothing is
        left of it.

        Raises:
            OSError: as send(2).
        """
        while self._flush(channel):
            with self._total.lock:
                views = self._pieces.first(self.ahead)
            if not views:
                return True
            sent = 0
            try:
                sent = channel.send_gathered(views) if len(views) > 1 else channel.send(views[0])
            finally:
                self._went(sent)
            if not sent:
                return False
        return False

    def tries_ahead(self, writer: Writer) -> bool:
        """As `send_ahead`; where that fails, all that waits is dropped."""
        stream = self._stream
        if stream is None or stream.channel.handshaking:
            return False
        try:
            return self.send_ahead(stream.channel)
        except OSError as cause:
            self.fail(writer.failed("send", cause))
            return False
        except BaseException:  # asynchronous: it is unknown how much was sent
            self.fail(writer.failed("send", InterruptedError(4, "broken off")))
            raise
        finally:
            writer.tell_owner()

    def _flush(self, channel: Channel) -> bool:
        if not channel.unfinished:
            return True
        before = channel.left_behind()
        done = channel.flush()
        if done or channel.left_behind() < before:
            self.moved()
        self.keep_record(not done)
        return done

    def _went(self, count: int) -> None:
        if count:
            self.moved()
        with self._total.lock:
            self._pieces.lent = False
            if count and self.sends is not FAILED:  # else they were counted out
                self.ahead -= count
                self._pieces.drop(count)
                self._changed(-count)

    def moved(self) -> None:
        """The peer has taken something."""
        self.taking.moved(self._total.clock())

    # ---- what drives it ------------------------------------------------------------

    def settle(self) -> None:
        """After a turn, without it: the driver learns what waits, and the connection's owner
        whether it has to wait for that."""
        stream = self._stream
        if stream is None:
            return
        connection = stream.connection
        while True:
            may_go = goes(stream, self) and self.sends is not FAILED
            if may_go and (fd := stream.sock.fileno()) >= 0:
                self._watched = fd
                self.idle(self._total.clock())
                self._total.driver.watch(self, fd, read=stream.channel.send_wants == READ)
                break
            if self._watched < 0:
                break
            self.unwatch()  # then look again: another thread may have kept bytes meanwhile
        news = self.relieved or self.waits is not connection.deaf
        if news or (self.sends in BARRIER and not self.ahead):
            self.relieved = False
            if _waits.current_task() is connection:
                connection.alert = True
            else:
                connection.look_again()

    def unwatch(self) -> None:
        """The driver lets go of the descriptor."""
        fd, self._watched = self._watched, -1
        if fd >= 0:
            self._total.driver.unwatch(self, fd)

    def drive(self) -> bool | None:
        """Sends as far as there is room. Whether that was all; `None`: another thread has the
        turn, and calls `settle` when it gives it back. Thread: the driver's."""
        stream = self._stream
        writer: Writer | None = None if stream is None else stream.writer
        if stream is None or writer is None or self.sends is FAILED or not self.waits:
            return True
        if not writer.try_turn():
            return None
        try:
            self.tries_ahead(writer)
        finally:
            writer.give_turn_back()
        return not self.waits

    # ---- a peer that takes nothing ------------------------------------------------------

    def idle(self, time_now: float) -> float:
        """Seconds for which bytes wait and the peer has taken nothing, not even of what the kernel
        holds."""
        stream, taking = self._stream, self.taking
        if stream is not None:
            with guard:
                gone = stream.sock.fileno() < 0 or stream.state in GIVEN_AWAY
                taking.look(None if gone else stream.sock, time_now, self._total.is_real())
            self._total.stuck(taking.stuck_since)
        return max(0.0, time_now - taking.since)

    def end_as_stuck(self, idle: float) -> bool:
        """Ends the connection, as its peer took nothing for so many seconds. `False`: its sends had
        failed before."""
        stream = self._stream
        return stream is not None and self.fail(failures.stuck(stream.connection, idle))

    def abort(self) -> bool:
        """`Connection.close(abort=True)`. `False`: the lock was not free, and interrupting code
        must not wait for it."""
        stream = self._stream
        if stream is None:
            return True
        error = failures.aborted(stream.connection)
        return if_free(self._total.lock, lambda: self.fail(error))

    def fail(self, error: SocketError) -> bool:
        """Drops what waits, and ends all sends with this error. Whether it was the first."""
        stream = self._stream
        if stream is None:
            return False
        with self._total.lock:
            if self.sends is FAILED:
                return False
            self.failure, self.sends = error, FAILED
            self.lost = self.size + (stream.channel.left_behind() if self.record else 0)
            self._drop()
        self.waiting.ring()
        stream.connection.look_again()
        return True

    def _drop(self) -> None:
        size = self.size
        self._pieces.clear()
        self._total.leave(self.waiting.pooled)
        self.waiting.forget()
        self.ahead = 0
        self.record = False
        self._changed(-size)

    def take_lost(self) -> int:
        """How many bytes were dropped, for the event; 0 the next time."""
        lost, self.lost = self.lost, 0
        return lost

    def let_go(self) -> None:
        """The connection has ended. Thread: its owner's."""
        stream = self._stream
        if stream is None:
            return
        with self._total.lock:
            failure = self.failure or failures.ending(stream.connection, "send")
            # A copy: the traceback of an error that was raised refers back to this object.
            self.failure, self.sends = copy.copy(failure), FAILED
            self._drop()
            self._stream = None
        self.unwatch()  # last: `watch` ignores a buffer that has failed
