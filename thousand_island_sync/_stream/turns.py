"""The turns to receive and to send, as locks that are held over waits (`_base.locks`), and the
lock of the descriptor, which is held for a moment."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .._base import waits
from .._base.locks import process_lock

if TYPE_CHECKING:
    from .duplex import Duplex

#: Held while a thread that is not the owner uses a descriptor, and around its close.
guard = process_lock("socket.guard")
#: Seconds after which a send that waits for room checks whether its connection was ended to free
#: its thread, if more threads wait than may.
LOOK_SENDING_S = 0.1
#: The same for a send that waits until an upgrade begins.
LOOK_BARRED_S = 0.01
_LOST_S = 0.5  # seconds after which a turn is taken for lost


def is_mine(turn: Any) -> bool:
    """Whether this thread has it: it was interrupted in the middle of a call."""
    return turn is not None and bool(turn._is_owned())


def comes_back(turn: Any, stream: Duplex) -> bool:
    """Waits until no thread has the turn, and ends the waits of the thread that has it. `False`: it
    was not given back in time; perhaps an exception came when it was taken, and it is lost."""
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
        return  # this thread has it, in a call that this one interrupts
    if not turn.acquire(False):
        waits.before_wait()
        turn.acquire()
    held.callback(turn.release)
