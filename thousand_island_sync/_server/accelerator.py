"""The hot path in C, where it could be compiled.

A few methods are paid for by every message. They are written in Python, where they are
explained, and are accelerated: methods in C (the folder `native`, an essay at the head of
`module.c`) do the common case and call the Python for all others. They take its place
here, once, when the package is imported. Where there is no C compiler at the installation,
or no epoll, or no GIL, or `THOUSAND_ISLAND_PURE=1` is set, the Python does all of it, and
whatever is tested is tested both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import events
from .._base import waits
from .._base.clock import now
from .._base.compiled import compare, native, warn_of_another_version
from .._connection.states import State
from .._connection.task import STAY_STEPS, ConnectionTask
from .._scheduler.blocking_estimate import SAMPLE_SHIFT
from .._scheduler.poller import HANGUP, MOST
from .._scheduler.run_queue import ALONE
from .._scheduler.tendency import HAND_OFF_COST
from .._stream.buffer import CHUNK
from .._stream.payload import JOINED_MOST
from .._stream.states import CLOSED, OPEN
from ..socket import Socket
from ..transports.tcp import TCPChannel

#: What the C is given to work on, by the names that it has for them.
_GIVEN: dict[str, Any] = {
    "Connection": ConnectionTask,
    "Socket": Socket,
    "OPEN": OPEN,
    "CLOSED_STATE": CLOSED,
    "TCPChannel": TCPChannel,
    "PARKED": State.PARKED,
    "RUNNING": State.RUNNING,
    "async_recv": events.handler_async_recv.receivers,
    "socket_recv": events.socket_recv.receivers,
    "socket_send": events.socket_send.receivers,
    "hand_off": waits.hand_off,
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
}
#: What is in C: the class, the method, and what it takes, for `inspect` and `help`.
ACCELERATED: list[tuple[type, str, str]] = [
    (ConnectionTask, "run", "($self, /)"),
    (ConnectionTask, "receive", "($self, /)"),
    (ConnectionTask, "stay", "($self, timeout, wanted, /)"),
    (Socket, "send", "($self, /, data, flags=0, *, timeout_ms=...)"),
    (Socket, "recv", "($self, /, length=65536, flags=0, *, timeout_ms=...)"),
]
#: Of those the C calls the Python, by name, where it is not the common case.
CALLED = ("send", "recv")


def put_in() -> None:
    """Puts the methods in C in, if they are there and wanted; called once."""
    global in_c
    if native is None:
        return
    rows = [row for row in ACCELERATED if row[1] != "receive"]  # which is `run`
    originals.update({name.lstrip("_"): getattr(class_, name) for class_, name, _ in rows})
    try:
        native.bind(**_GIVEN, **{name: originals[name] for name in CALLED})
        compare(_NUMBERS)
    except RuntimeError:
        return  # another interpreter of this process has it
    except (AttributeError, TypeError) as error:
        warn_of_another_version(error)
        return
    for class_, name, takes in ACCELERATED:
        documentation = f"{name}{takes}\n--\n\n{getattr(class_, name).__doc__ or ''}"
        setattr(class_, name, native.accelerator(class_, name, documentation))
    in_c = True


#: Whether the hot path is C.
in_c = False
#: Then: the methods in Python, by name without a leading underscore.
originals: dict[str, Callable[..., Any]] = {}
