"""Reading and writing of one TLS connection, with less around each call.

The facts. `Connection.recv` of pyOpenSSL allocates as many bytes as it may get, asks OpenSSL
for an error although there was none, and asks the context for what callbacks of Python may
have raised; `send` does the last two. That is two fifths of what a small message costs.

Our decision. The same functions of OpenSSL are called through pyOpenSSL's private names, with
a buffer for each thread; whatever is not bytes goes the way that pyOpenSSL goes, so its errors
are the same. Where a name is gone, its public calls do: slower, and nothing else.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from OpenSSL import SSL

#: What one call reads at most: a record (RFC 8446, 5.1).
RECORD = 16_384

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)
_ssl_read: Any = getattr(_lib, "SSL_read", None)
_ssl_write: Any = getattr(_lib, "SSL_write", None)
_ssl_pending: Any = getattr(_lib, "SSL_pending", None)
_new: Any = getattr(_ffi, "new", None)
_bytes_of: Any = getattr(_ffi, "buffer", None)


class Records(Protocol):
    """What a channel reads from and writes to. Errors are `OpenSSL.SSL.Error`s."""

    def read(self, length: int) -> bytes: ...

    def write(self, data: Any) -> int: ...

    def pending(self) -> int: ...


class PublicRecords:
    """By pyOpenSSL's own calls."""

    __slots__ = ("_connection", "pending", "write")

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self.write = connection.send
        self.pending = connection.pending

    def read(self, length: int) -> bytes:
        return self._connection.recv(min(length, RECORD))


class _Here(threading.local):
    buffer: Any = None


_here = _Here()


class PrivateRecords:
    """By OpenSSL's functions underneath. One thread at a time, as for all of a connection."""

    __slots__ = ("_connection", "_ssl")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ssl = connection._ssl

    def read(self, length: int) -> bytes:
        buffer = _here.buffer
        if buffer is None:
            buffer = _here.buffer = _new("char[]", RECORD)
        count = _ssl_read(self._ssl, buffer, length if length < RECORD else RECORD)
        if count <= 0:
            raise self._failure(count)
        found: bytes = _bytes_of(buffer, count)[:]
        return found

    def write(self, data: Any) -> int:
        if type(data) is not bytes:
            sent: int = self._connection.send(data)
            return sent
        count: int = _ssl_write(self._ssl, data, len(data))
        if count <= 0:
            raise self._failure(count)
        return count

    def pending(self) -> int:
        count: int = _ssl_pending(self._ssl)
        return count

    def _failure(self, result: int) -> SSL.Error:
        try:
            self._connection._raise_ssl_error(self._ssl, result)
        except SSL.Error as error:
            return error
        return SSL.Error([("", "", "OpenSSL says neither bytes nor why")])


def _has_private_names() -> bool:
    called = (_ssl_read, _ssl_write, _ssl_pending, _new, _bytes_of)
    return all(called) and hasattr(SSL.Connection, "_raise_ssl_error")


#: Whether the quick way is there.
QUICK = _has_private_names()


def records_of(connection: SSL.Connection) -> Records:
    """The quick way, or the public one."""
    if QUICK and getattr(connection, "_ssl", None) is not None:
        return PrivateRecords(connection)
    return PublicRecords(connection)
