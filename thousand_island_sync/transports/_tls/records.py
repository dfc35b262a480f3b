"""Reading and writing through OpenSSL's memory, with less work around each call.

The facts. `Connection.recv` of pyOpenSSL allocates as many bytes as it may get, asks OpenSSL
for an error although there was none, and asks the context for exceptions of Python callbacks;
`send` does the last two. That is two fifths of the cost of a small message.

Our decision. The same functions of OpenSSL are called through pyOpenSSL's private names, with
a buffer for each thread. A result that is not bytes is passed to pyOpenSSL's own error handling,
so the errors are the same. If the private names are not as expected (`_tls.private`), pyOpenSSL's
public calls are used: they are slower, and do the same.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from OpenSSL import SSL

from . import private
from .private import Names

#: What one call reads or writes at most: a record (RFC 8446, 5.1).
RECORD = 16_384
#: A record with all that encryption adds (RFC 5246, 6.2.3, allows the most), and its header.
LARGEST = RECORD + 2_048 + 5
#: Records that are encrypted together at most, where there is room for them.
BATCH = 8

#: OpenSSL's functions and cffi's, once `bind` has them.
_ssl_read: Any = None
_ssl_write: Any = None
_ssl_pending: Any = None
_ssl_set_bio: Any = None
_bio_read: Any = None
_bio_write: Any = None
_bio_held: Any = None
_bio_new: Any = None
_bio_memory: Any = None
_new: Any = None
_from: Any = None
_bytes_of: Any = None
_cast: Any = None


def bind(names: Names) -> None:
    """Sets what `PrivateRecords` calls. Global names, as they are looked up for each message."""
    known = {name: getattr(names, name.removeprefix("_"), None) for name in _BOUND}
    ffi = names.ffi
    known.update(_new=ffi.new, _from=ffi.from_buffer, _bytes_of=ffi.buffer, _cast=ffi.cast)
    globals().update(known, _here=_Here())


_BOUND = (
    *("_ssl_read", "_ssl_write", "_ssl_pending", "_ssl_set_bio"),
    *("_bio_read", "_bio_write", "_bio_held", "_bio_new", "_bio_memory"),
)


class Records(Protocol):
    """What a channel reads and writes. Errors are `OpenSSL.SSL.Error`s."""

    def put(self, data: bytes) -> None:
        """Gives OpenSSL what has come from the peer."""

    def read(self, length: int, fetched: bytes = b"") -> bytes:
        """Decrypted bytes of one record, after a `put` of `fetched`."""

    def get(self) -> Any:
        """What is to be sent to the peer: bytes-like, valid until the next call on this thread."""

    def seal(self, data: Any) -> Any:
        """Encrypts the data of `BATCH` records at most, and returns what `get` then gives."""

    def empty(self) -> bool:
        """After a `read`: whether nothing is left of what was put. `False` if it cannot tell."""

    def shrink(self) -> bool:
        """After a `get`, and when `empty`: frees the memory that large records took. `False` if it
        cannot."""

    def places(self) -> tuple[Any, ...]:
        """The addresses of OpenSSL's session and its two buffers, and an object that keeps them
        alive, until the next `shrink`; `()`: they are not known."""


def _no_memory() -> MemoryError:
    return MemoryError("OpenSSL has no memory for what has come")


def _interrupted() -> SSL.Error:
    """OpenSSL wants to read before it goes on, but some records are encrypted already and cannot
    be taken back. It only happens with a user's own context that lets clients renegotiate."""
    return SSL.Error([("", "", "the peer renegotiates in the middle of a send")])


class PublicRecords:
    """With pyOpenSSL's public calls."""

    __slots__ = ("_connection",)

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def put(self, data: bytes) -> None:
        self._connection.bio_write(data)

    def read(self, length: int, fetched: bytes = b"") -> bytes:
        if fetched:
            self.put(fetched)
        return self._connection.recv(min(length, RECORD))

    def get(self) -> Any:
        pieces = []
        try:
            while True:
                pieces.append(self._connection.bio_read(LARGEST))
        except SSL.WantReadError:
            return b"".join(pieces)

    def seal(self, data: Any) -> Any:
        done = 0
        while done < len(data):
            try:
                done += self._connection.send(data[done : done + RECORD])
            except SSL.WantReadError:
                if done:
                    raise _interrupted() from None
                raise
        return self.get()

    def empty(self) -> bool:
        return False

    def shrink(self) -> bool:
        return False

    def places(self) -> tuple[Any, ...]:
        return ()


def _place(pointer: Any) -> int:
    return int(_cast("uintptr_t", pointer))


class _Here(threading.local):
    buffer: Any = None
    large: Any = None
    pointer: Any = None


_here = _Here()


def _buffer() -> Any:
    buffer = _here.buffer
    if buffer is None:
        buffer = _here.buffer = _new("char[]", LARGEST)
    return buffer


class PrivateRecords:
    """With OpenSSL's functions. One thread at a time, as for all of a connection."""

    __slots__ = ("_connection", "_in", "_out", "_ssl")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._ssl = connection._ssl
        self._in, self._out = connection._into_ssl, connection._from_ssl

    def put(self, data: bytes) -> None:
        if _bio_write(self._in, data, len(data)) != len(data):
            raise _no_memory()

    def read(self, length: int, fetched: bytes = b"") -> bytes:
        # As `put`, without its call: this runs for every message.
        if fetched and _bio_write(self._in, fetched, len(fetched)) != len(fetched):
            raise _no_memory()
        buffer = _here.buffer or _buffer()
        count = _ssl_read(self._ssl, buffer, length if length < RECORD else RECORD)
        if count <= 0:
            raise self.failure(count)
        found: bytes = _bytes_of(buffer, count)[:]
        return found

    def get(self) -> Any:
        buffer = _here.buffer or _buffer()
        count = _bio_read(self._out, buffer, LARGEST)
        if count <= 0:
            return b""
        sealed = _bytes_of(buffer, count)
        return sealed if count < LARGEST else self._with_the_rest(sealed)

    def seal(self, data: Any) -> Any:
        size = len(data)
        if size > RECORD or type(data) is not bytes:
            return self._seal_many(data, size)
        count = _ssl_write(self._ssl, data, size)
        if count != size:
            if count <= 0:
                raise self.failure(count)
            return self._seal_many(data, size, count)
        # As `get`, without its call: this runs for every message.
        buffer = _here.buffer or _buffer()
        count = _bio_read(self._out, buffer, LARGEST)
        sealed = _bytes_of(buffer, count)
        return sealed if count < LARGEST else self._with_the_rest(sealed)

    def _seal_many(self, data: Any, size: int, done: int = 0) -> Any:
        """Encrypts several records: the data is too large for one, or the client takes only small
        records (RFC 6066, 4), of which each call writes one."""
        with _from(data) as start:
            while done < size:
                count = _ssl_write(self._ssl, start + done, min(RECORD, size - done))
                if count <= 0:
                    raise self.failure(count, done)
                done += count
        if size <= RECORD:
            return self.get()
        large = _here.large
        if large is None:
            large = _here.large = _new("char[]", BATCH * LARGEST)
        count = _bio_read(self._out, large, BATCH * LARGEST)
        sealed = _bytes_of(large, count)
        return sealed if count < BATCH * LARGEST else self._with_the_rest(sealed)

    def _with_the_rest(self, piece: Any) -> bytes:
        """All that is to be sent, after a first piece that filled its buffer."""
        first: bytes = piece[:]
        return first + bytes(self.get())

    def empty(self) -> bool:
        pointer = _here.pointer
        if pointer is None:
            pointer = _here.pointer = _new("char**")
        return not _bio_held(self._in, pointer) and not _ssl_pending(self._ssl)

    def shrink(self) -> bool:
        connection = self._connection
        new_in, new_out = _bio_new(_bio_memory()), _bio_new(_bio_memory())
        if not new_in or not new_out:
            return False
        # OpenSSL owns both from here on, and frees the old ones.
        _ssl_set_bio(self._ssl, new_in, new_out)
        connection._into_ssl, connection._from_ssl = new_in, new_out
        self._in, self._out = new_in, new_out
        return True

    def places(self) -> tuple[Any, ...]:
        return (_place(self._ssl), _place(self._in), _place(self._out), self._ssl)

    def failure(self, result: int, done: int = 0) -> SSL.Error:
        """The error of a call that returned `result`. `done`: bytes of the same send that were
        encrypted before."""
        try:
            self._connection._raise_ssl_error(self._ssl, result)
        except SSL.WantReadError as error:
            return _interrupted() if done else error
        except SSL.Error as error:
            return error
        return SSL.Error([("", "", "OpenSSL says neither bytes nor why")])


def records_of(connection: SSL.Connection) -> Records:
    """`PrivateRecords` if they may be used, else `PublicRecords`."""
    names = private.names
    if names is None:
        return PublicRecords(connection)
    try:
        private.check_connection(names.ffi, connection)
    except private.Unexpected as error:
        private.do_without(error)
        return PublicRecords(connection)
    return PrivateRecords(connection)
