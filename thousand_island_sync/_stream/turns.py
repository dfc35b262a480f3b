"""The turns to receive and to send, as locks that are held over waits (`_base.locks`), and the
lock of the descriptor, which is held for a moment."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .._base import waits
from .._base.locks import process_lock

if TYPE_CHECKING:
    from .duplex import Duplex

#: Held around what another thread than the owner does to a descriptor, and around its close.
guard = process_lock("socket.guard")
#: Seconds after which a send that waits for room looks whether its connection was ended for others'
#: sake, where more threads wait than may.
LOOK_SENDING_S = 0.1
#: And for one that waits for an upgrade to begin.
LOOK_BARRED_S = 0.01
_LOST_S = 0.5  # seconds after which a turn is taken for lost


def is_mine(turn: Any) -> bool:
    """Whether this thread has it: it was interrupted in the middle of a call."""
    return turn is not None and bool(turn._is_owned())


def comes_back(turn: Any, stream: Duplex) -> bool:
    """Waits until nobody has it; the waits of whoever does are ended. `False`: it is not given
    back; lost, as an exception came when it was taken, or not."""
    if not turn.acquire(False):
        stream.shut_both()
        waits.before_wait()
        if not turn.acquire(timeout=_LOST_S):
            return False
    turn.release()
    return True


def hold(turn: Any, held: contextlib.ExitStack) -> None:
    """Takes it, however long that lasts."""
    if turn._is_owned():
        return  # by a call of this thread's, amid which this one is made; it gets no further
    if not turn.acquire(False):
        waits.before_wait()
        turn.acquire()
    held.callback(turn.release)
