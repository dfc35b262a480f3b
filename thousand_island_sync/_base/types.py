"""Names for types that several public signatures have."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal, Protocol

if sys.version_info >= (3, 12):
    from collections.abc import Buffer as Buffer
elif TYPE_CHECKING:
    from typing_extensions import Buffer as Buffer
else:
    Buffer = bytes | bytearray | memoryview

#: `(host, port)`; of a Unix socket its path, `"@name"` for an abstract one, `""` for none.
Address = tuple[str, int] | str
#: The same as the standard library has it: an IPv6 address has four parts.
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str
#: `ThousandIsland.status`.
Status = Literal["new", "running", "suspended", "draining", "stopping", "stopped"]


class Readable(Protocol):
    """A binary file object, as far as `Socket.sendfile` goes."""

    def read(self, length: int, /) -> bytes: ...


#: What `Socket.sendfile` takes: a path, or a binary file object.
File = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Readable
#: A path to a PEM file, or what is in one.
PEM = str | os.PathLike[str] | bytes
