"""blinker's signal, with the lists of receivers prepared before an event.

`Signal.receivers_for` makes a new set and looks up each receiver, more than a microsecond
for each event. Receivers are connected far less often than events are sent, so they are kept
here as lists, until the next one is connected or disconnected; held as weakly as blinker
holds them. Once a receiver is connected for one server only, blinker is asked for each event.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from blinker import ANY, Signal

from .._base.locks import process_lock
from .receiver_failures import Receiver, ReceiverFailures, reference

if TYPE_CHECKING:
    from ..server import ThousandIsland

M = TypeVar("M")
D = TypeVar("D")
_M = TypeVar("_M", contravariant=True)
_D = TypeVar("_D", contravariant=True)
_Any = dict[str, Any]

_changing = process_lock("events")


class TypedReceiver(Protocol[_M, _D]):
    """What `EventSignal.connect` takes: called on the thread where the event happened, which must
    not be held up for long."""

    def __call__(
        self, server: ThousandIsland, /, *, event: str, measurements: _M, metadata: _D
    ) -> object: ...


class EventSignal(Signal, Generic[M, D]):
    """The signal of one event: a `blinker.Signal` that knows what it tells.

    Args:
        event: its dotted name.
    """

    def __init__(self, event: str) -> None:
        super().__init__(f"The event {event}.")
        self.event = event
        self.failures: ReceiverFailures = ReceiverFailures(event)
        # All of this changes under `_changing`, under which nothing is called.
        self._changes = 0
        self._by_server = False  # whether a receiver is or was connected for one server only
        self._strong: list[Receiver] = []  # those that are not held weakly
        # Who listens, held weakly or not; `None`: not known since the last change.
        self._known: tuple[list[Receiver], list[weakref.ref[Receiver]]] | None = None
        #: The same, where none is held weakly and all listen to any server; or `None`.
        self.simply: list[Receiver] | None = None

    @overload  # type: ignore[override]
    def connect(
        self, receiver: TypedReceiver[M, D], sender: Any = ..., weak: bool = ...
    ) -> TypedReceiver[M, D]: ...
    @overload
    def connect(
        self, receiver: TypedReceiver[_Any, _Any], sender: Any = ..., weak: bool = ...
    ) -> TypedReceiver[_Any, _Any]: ...
    @overload
    def connect(  # type: ignore[overload-overlap]
        self, receiver: TypedReceiver[M, _Any], sender: Any = ..., weak: bool = ...
    ) -> TypedReceiver[M, _Any]: ...
    @overload
    def connect(
        self, receiver: TypedReceiver[_Any, D], sender: Any = ..., weak: bool = ...
    ) -> TypedReceiver[_Any, D]: ...
    def connect(self, receiver: Receiver, sender: Any = ANY, weak: bool = True) -> Receiver:
        """Calls `receiver(server, *, event, measurements, metadata)` for each event from now on.

        Args:
            receiver: what is called, on the thread where the event happened.
            sender: a server, of which alone it hears; not given: all.
            weak: whether it is held weakly: a lambda, or a function inside a function, is gone at
                once unless this is `False`.

        Returns:
            The receiver, so that this may decorate it.

        Thread: any.
        """
        super().connect(receiver, sender, weak)
        self._change_receivers(receiver, [] if weak else [receiver], sender is not ANY)
        return receiver

    def disconnect(self, receiver: Receiver, sender: Any = ANY) -> None:
        """As `Signal.disconnect`."""
        super().disconnect(receiver, sender)
        self._change_receivers(receiver if sender is ANY else None, [], False)
        self.failures.forget(receiver)

    def _change_receivers(
        self, without: Receiver | None, more: list[Receiver], by_server: bool
    ) -> None:
        while True:
            before = self._strong
            # Not under the lock: a receiver may have an `__eq__` of its own.
            strong = [other for other in before if other != without] + more
            with _changing:
                if self._strong is before:
                    self._strong = strong
                    self._by_server |= by_server
                    self._changes += 1
                    self._known = self.simply = None
                    return

    def listeners(self, server: object) -> list[Receiver]:
        """Who listens to an event of `server` at this moment. Thread: any."""
        if self._by_server:
            return self._ask_blinker(server)
        known = self._known
        if known is None:
            changes = self._changes
            known = self._split(self._ask_blinker(server))
            with _changing:
                if changes == self._changes and not self._by_server:
                    self._known = known
                    self.simply = None if known[1] else known[0]
        strong, weak = known
        return strong + [receiver for ref in weak if (receiver := ref()) is not None]

    def _ask_blinker(self, server: object) -> list[Receiver]:
        while True:
            try:
                return list(self.receivers_for(server))
            except RuntimeError:  # another thread connected or disconnected meanwhile
                continue

    def _split(
        self, receivers: list[Receiver]
    ) -> tuple[list[Receiver], list[weakref.ref[Receiver]]]:
        held = self._strong
        strong: list[Receiver] = []
        weak: list[weakref.ref[Receiver]] = []
        for receiver in receivers:
            weakly = None if receiver in held else reference(receiver)
            if weakly is None:
                strong.append(receiver)
            else:
                weak.append(weakly)
        return strong, weak
