"""A connection, as its parts see it."""

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
    """A connection as a task of the scheduler, through which its parts call each other."""

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
        """`None`: it was never used."""

    @property
    def asked(self) -> bool:
        """Whether `Connection.close()` was called."""

    def close_inbox(self) -> None:
        """The inbox takes nothing more; see `ConnectionTask.close_inbox`."""

    def receive(self) -> int:
        """The rest of a step: it receives what has come."""

    def received(self, data: Any, kept: bool = False, /) -> int:
        """The rest of a step that has received `data`: see `delivery.run`."""

    def why_to_end(self) -> Cause | None:
        """The cause, if the connection was asked to end."""

    def came_back(self, name: str, error: BaseException | None = None) -> None:
        """A callback has returned or raised. In a forked child the connection ends there."""


def tell_arrival(whose: Served, data: Any) -> None:
    """Sends the event for bytes that go to `handle_data`."""
    about = events.About(whose.client)
    events.emit(events.handler_async_recv, whose.env.server, {"data": data}, about)
