"""A connection, as the objects see it that it is made of."""

from __future__ import annotations

from typing import Any, Protocol

from .. import events
from .._scheduler.task import Classified
from .._stream.duplex import Owner
from .client import Client
from .environment import Environment
from .inbox import Inbox
from .states import Cause


class Served(Owner, Protocol):
    """The task of the scheduler's that a connection is, and what its parts ask of each other by way
    of it."""

    fd: int
    classified: Classified
    deadline: float
    hung_up: bool
    no_sample: bool
    reads: bool
    machine: Any
    wants_write: bool
    write_edges: bool

    @property
    def env(self) -> Environment: ...
    @property
    def client(self) -> Client: ...

    @property
    def inbox(self) -> Inbox: ...
    @property
    def known_inbox(self) -> Inbox | None:
        """`None`: nobody has asked for it."""

    @property
    def asked(self) -> bool:
        """Whether somebody wants it to end."""

    def close_inbox(self) -> None:
        """Nobody may leave anything any more; once it has ended, nothing leads from there to it."""

    def receive(self) -> int:
        """The step goes on with what has come."""

    def received(self, data: Any, kept: bool = False, /) -> int:
        """The step goes on with this: see `delivery.run`."""

    def why_to_end(self) -> Cause | None:
        """What somebody wants, if an end."""

    def came_back(self, name: str, error: BaseException | None = None) -> None:
        """A callback has returned or raised, perhaps in a forked child, where it ends."""


def tell_arrival(whose: Served, data: Any) -> None:
    """Bytes go to `handle_data` that no event has told of."""
    about = events.About(whose.client)
    events.emit(events.handler_async_recv, whose.env.server, {"data": data}, about)
