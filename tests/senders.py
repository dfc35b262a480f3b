"""Which thread sends each event, for the page of events; `tests/test_senders.py` looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Sender(NamedTuple):
    """A kind of thread.

    Attributes:
        words: what it is.
        pattern: a regular expression for its name behind the server's; empty: it has any name.
    """

    words: str
    pattern: str


_ACCEPTOR = Sender("an acceptor's thread", r"-acceptor-\d+")
_HANDLER = Sender("a handler thread", r"-handler-\d+")
_STOP = Sender("a thread that a stop has started", "-stop-events")
_SUSPEND = Sender("a thread that a suspend has started", "-backlog")
_DRAIN = Sender("a thread that a drain has started", "-drain-events")
_POOL = Sender("a thread that is there for that", "-events")
_CALLER = Sender("the thread that makes the call", "")

#: The dotted name of every event -> the threads that send it.
SENDERS: Mapping[str, tuple[Sender, ...]] = {
    "listener.start": (_CALLER,),
    "listener.error": (_CALLER, _ACCEPTOR),
    "listener.shutdown": (_STOP,),
    "listener.suspend": (_CALLER,),
    "listener.resume": (_CALLER,),
    "listener.drain": (_DRAIN,),
    "acceptor.start": (_ACCEPTOR,),
    "acceptor.accept": (_ACCEPTOR, _STOP, _SUSPEND),
    "acceptor.accept_error": (_ACCEPTOR,),
    "acceptor.spawn_error": (_ACCEPTOR, _HANDLER, _STOP, _SUSPEND),
    "acceptor.limit_reached": (_ACCEPTOR, _STOP, _SUSPEND),
    "acceptor.limit_cleared": (_HANDLER,),
    "acceptor.shutdown": (_ACCEPTOR,),
    "handler.start": (_HANDLER,),
    "handler.async_recv": (_HANDLER,),
    "handler.shutdown": (_HANDLER,),
    "handler.error": (_HANDLER,),
    "socket.handshake": (_HANDLER,),
    "socket.handshake_error": (_HANDLER,),
    "socket.recv": (_CALLER,),
    "socket.recv_error": (_CALLER,),
    "socket.send": (_CALLER,),
    "socket.send_error": (_CALLER, _HANDLER),
    "socket.sendfile": (_CALLER,),
    "socket.sendfile_error": (_CALLER,),
    "socket.shutdown": (_CALLER,),
    "socket.close": (_HANDLER,),
    "pool.saturated": (_POOL,),
    "pool.relieved": (_POOL,),
}
