"""What every message pays for: it is received, `handle_data` is called, the connection parks.

It is one function, and uses public fields of the other objects, since a call costs as much as
several of these lines. The machine does all that is not the common case. `native/connection.c` has
the same function.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, Final

from .. import events
from .._base.waits import hand_off
from .._scheduler.task import AGAIN, PARK
from .._stream.buffer import CHUNK
from .states import PARKED, RUNNING

if TYPE_CHECKING:
    from .task import ConnectionTask

#: Nothing was received yet.
UNREAD: Final = object()
_DONTWAIT = int(getattr(stdlib_socket, "MSG_DONTWAIT", 0))
_async_recv = events.handler_async_recv


def run(task: ConnectionTask, data: Any = UNREAD, kept: bool = False) -> int:
    """A step of a connection; or the rest of one that has received `data` (`None`: nothing),
    perhaps in an earlier step (`kept`). Returns a verdict. Thread: the owner's."""
    machine = task.machine
    if data is UNREAD:
        if task.alert or machine.state is not PARKED:
            return machine.step()
        try:
            data = machine.source.recv(CHUNK, _DONTWAIT)
        except BlockingIOError:
            return machine.nothing_there()
        except OSError as error:
            return machine.receive_failed(error)
    if not data:
        return machine.nothing_there() if data is None else machine.end_of_stream()
    # Before the call: a thread that takes the descriptor away waits for no callback (`APART`).
    machine.state = RUNNING
    size = 0
    if not kept:
        size, reader = len(data), machine.stream.reader
        if reader.buffer is not None:
            data = reader.received(data)
        else:
            reader.bytes_received += size
            reader.recv_count += 1
    callbacks = machine.callbacks
    if _async_recv.receivers:
        callbacks.tell_arrival(data)
    if task.classified.blocks:
        hand_off()
    try:
        # `handle_data` is looked up each time: user code may replace it.
        result = callbacks.context.run(callbacks.receiver.handle_data, data, machine.socket)
    except BaseException as error:
        return machine.raised(error, "handle_data")
    if result is not None or task.alert:
        return machine.after_data(result, size)
    # Only stored: the timer in the heap stays at its earlier time, fires in vain, and is then set
    # for this time. That is cheaper than moving it with every message.
    task.deadline = callbacks.read_deadline = callbacks.clock() + callbacks.read_timeout
    machine.state = PARKED
    if size < CHUNK and machine.short_proves:
        return PARK
    # The poller reports edges: what arrives, not what is there. So the connection is run again,
    # after the others, until a receive has found nothing.
    return PARK if machine.drained_after(size) else AGAIN
