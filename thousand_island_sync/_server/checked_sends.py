"""Bytes that wait to be sent and are forgotten: a part of `checked`.

A thread that ends a turn to send has the driver watch what waits, unless another thread waits for
room with the turn, or the bytes must stay (an upgrade comes first), or the connection fails. If
none of that is true for a while, the buffer was forgotten: its peer would wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._base.clock import now
from .._base.reports import report
from .._stream.amid_handshake import goes
from .._stream.duplex import Duplex
from .._stream.send_buffer import SendBuffer
from .._stream.writer import Writer

if TYPE_CHECKING:
    from .checked import CheckedConnection


class ForgottenSends:
    """Looks for them. Thread: the listener's.

    Args:
        patience: seconds, and looks, for which one must have been seen so.
    """

    __slots__ = ("_patience", "_seen")

    def __init__(self, patience: tuple[float, int]) -> None:
        self._patience = patience
        self._seen: dict[SendBuffer, tuple[float, int]] = {}

    def look(self, tasks: Iterable[CheckedConnection]) -> None:
        """Of all connections."""
        before, self._seen = self._seen, {}
        for task in tasks:
            stream: Duplex | None = task.machine.stream
            writer: Writer | None = None if stream is None else stream.writer
            buffer = None if writer is None else writer.buffer
            if stream is None or buffer is None or not _waits_unseen(stream, buffer):
                continue
            if task.env.unsent.driver.watches(buffer):
                continue
            since, looks = before.get(buffer, (now(), 0))
            self._seen[buffer] = (since, looks + 1)
            patience_s, patient_looks = self._patience
            if looks >= patient_looks and now() - since >= patience_s:
                report(
                    f"{buffer.size} bytes of connection {task.id} wait to go out, and nobody"
                    " watches for room"
                )


def _waits_unseen(stream: Duplex, buffer: SendBuffer) -> bool:
    excused = buffer.failure is not None or buffer.waiting.threads
    return goes(stream, buffer) and not excused and stream.sock.fileno() >= 0
