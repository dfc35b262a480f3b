"""The metadata of events about a connection.

Receivers get a dict with what the catalogue says and no more. A line of the log says more of the
connection, so the dict carries that along, without its key.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol


class By(enum.Enum):
    """What has reported something before its event."""

    EVENT = "another event"
    TRACEBACK = "a log record with the traceback"


class Peered(Protocol):
    """A connection, as far as it is asked here."""

    @property
    def id(self) -> str: ...
    @property
    def peer_address(self) -> Any: ...


class About(dict[str, Any]):
    """The metadata of an event of a connection; to receivers a dict like any other.

    Args:
        connection: whose event it is.
        by: what has reported it already: `attach_logger` writes no second line.
        moved: bytes received and sent, if the connection ends.
        more: the metadata beside its id.

    Attributes:
        peer_address: as the system gave it.
    """

    __slots__ = ("by", "moved", "peer_address")

    def __init__(
        self,
        connection: Peered,
        by: By | None = None,
        moved: tuple[int, int] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(connection_id=connection.id, **more)
        self.peer_address: Any = connection.peer_address
        self.by: By | None = by
        self.moved: tuple[int, int] | None = moved
