"""The hot path in C, where it could be compiled.

Every message runs a few methods. They are written and explained in Python, in base types that
have an equal in C (the folder `native`, with an essay at the head of `module.c`). The C does the
common case, and calls the Python for all others. `_base.compiled.in_c` chooses between the two
where a base type is declared. This module gives the C the objects that it works on, once, when the
package is imported. Without a C compiler at the installation, without epoll or the GIL, or with
`THOUSAND_ISLAND_PURE=1`, the Python does all of it. All tests run both ways.
"""

from __future__ import annotations

from typing import Any

from .. import events
from .._base.clock import now
from .._base.compiled import compare, native, warn_of_another_version
from .._base.patched import patched_by
from .._connection.states import State
from .._connection.task import STAY_STEPS
from .._scheduler.blocking_estimate import SAMPLE_SHIFT
from .._scheduler.poller import HANGUP, MOST
from .._scheduler.run_queue import ALONE
from .._scheduler.runner import STAYS
from .._scheduler.tendency import HAND_OFF_COST
from .._stream.buffer import CHUNK
from .._stream.payload import JOINED_MOST
from .._stream.states import CLOSED, OPEN

#: What the C is given to work on, by the names that it has for them.
_GIVEN: dict[str, Any] = {
    "OPEN": OPEN,
    "CLOSED_STATE": CLOSED,
    "PARKED": State.PARKED,
    "RUNNING": State.RUNNING,
    "async_recv": events.handler_async_recv.receivers,
    "socket_recv": events.socket_recv.receivers,
    "socket_send": events.socket_send.receivers,
    "monotonic": now,
}
#: And what both have written down.
_NUMBERS = {
    "CHUNK": CHUNK,
    "ALONE": ALONE,
    "STAY_STEPS": STAY_STEPS,
    "LOOK_MOST": MOST,
    "SAMPLE_SHIFT": SAMPLE_SHIFT,
    "HAND_OFF_NS": round(HAND_OFF_COST * 1e9),
    "JOINED_MOST": JOINED_MOST,
    "HANGUP": HANGUP,
    "STAYS": STAYS,
}


def bind() -> None:
    """Gives the C the objects that it works on; called once."""
    global in_c
    if native is None:
        return
    try:
        compare(_NUMBERS)
        native.bind(**_GIVEN)
    except RuntimeError:
        return  # another interpreter of this process has it
    except (AttributeError, TypeError) as error:
        if patched_by() is None and hasattr(native, "Connection"):  # its types are in place
            raise ImportError(
                f"thousand_island_sync: the compiled module does not fit the Python ({error});"
                " install again, from the same source, or set THOUSAND_ISLAND_PURE=1"
            ) from error
        warn_of_another_version(error)
        return
    in_c = True


#: Whether the hot path is C.
in_c = False
