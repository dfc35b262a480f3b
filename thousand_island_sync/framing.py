"""Framing: where one message of a stream ends and the next begins.

Set `framing` on a handler's class, or on `self`, and `handle_data` gets exactly one frame each
time, however the bytes came.
"""

from __future__ import annotations

import errno
import re
import struct
from typing import Any, Final

from ._base.options import is_bool
from .errors import ConfigError, LimitExceeded

__all__ = ["Framing", "LengthPrefix", "Lines"]

#: One unsigned number of `struct`'s, with pad bytes perhaps.
_UNSIGNED = re.compile(r"[@=<>!]?(?:\d*x)*1?[BHILQN](?:\d*x)*")


class Framing:
    """Finds frames in a stream. Subclass it for a protocol of your own, and define `find`.

    Connections that share a framing call it one after the other, on any thread of the pool: keep
    no state of one connection on it.

    Attributes:
        limit: `int`, bytes; optional in a framing of your own. It bounds the bytes that wait for
            the end of a frame. Without it, `max_unread` does.
    """

    def find(self, buffer: bytearray, start: int) -> tuple[int, int, int] | None:
        """Finds the first frame. Called after each piece that arrives, and after each frame.

        Args:
            buffer: the bytes that wait, beginning with the frame. Only read it, and keep no
                `memoryview` of it.
            start: how many bytes earlier calls have searched without success; 0 for a new frame.

        Returns:
            `(begin, end, next)`: where the payload begins, where it ends, and where the next
            frame begins, in bytes from the front. They must fulfil 0 <= begin <= end <= next,
            next > 0, and lie within the buffer. `None`: more bytes are needed.

        Raises:
            LimitExceeded: the peer's frame is too long; leads to `handle_error`, not logged.
            Exception: any other leads to `handle_error`, too, and is logged.

        Thread: the one that runs the connection, in the connection's context.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no find(buffer, start)")


def not_a_framing(given: object) -> str:
    """What is wrong with the value of `framing`; `""`: nothing."""
    if isinstance(given, type) and issubclass(given, Framing):
        return f"that is the class; set {given.__name__}(...)"
    if isinstance(given, Framing) or (
        callable(getattr(type(given), "find", None))
        and not isinstance(given, (str, bytes, bytearray, type))
    ):
        return ""
    return f"got {type(given).__name__}, takes a Framing such as Lines(), or None"


class Lines(Framing):
    """A framing whose frames end with a delimiter, such as lines.

    Args:
        delimiter: `bytes`, one or more. `b"\\n"` leaves the `\\r` of a line that ends with both.
        limit: the most bytes of a frame without its delimiter; a longer one is `LimitExceeded`.
        keep_end: whether frames keep their delimiter.

    Raises:
        ConfigError: an argument has a wrong value.
    """

    def __init__(
        self, delimiter: bytes = b"\n", limit: int = 65_536, keep_end: bool = False
    ) -> None:
        if not isinstance(delimiter, (bytes, bytearray)) or not delimiter:
            raise ConfigError(
                f'Lines: delimiter: got {delimiter!r}, takes bytes, one or more, such as b"\\n"'
            )
        if not is_bool(keep_end):
            raise ConfigError(f"Lines: keep_end: got {keep_end!r}, takes True or False")
        self.delimiter: Final = bytes(delimiter)
        self.limit: Final = _checked_limit("Lines", limit)
        self.keep_end: Final = bool(keep_end)
        self.overhead: Final = len(self.delimiter) - 1
        self.parameters: Final = (self.delimiter, self.limit, self.keep_end)

    def __repr__(self) -> str:
        return f"Lines({self.delimiter!r}, limit={self.limit}, keep_end={self.keep_end})"

    def find(self, buffer: bytearray, start: int) -> tuple[int, int, int] | None:
        """See `Framing.find`. Raises LimitExceeded: more than `limit` bytes without a delimiter."""
        delimiter, limit = self.delimiter, self.limit
        size = len(delimiter)
        end = buffer.find(delimiter, start - size + 1 if start >= size else 0)
        if end > limit or (end < 0 and len(buffer) > limit and self._is_longer(buffer)):
            raise LimitExceeded(errno.EMSGSIZE, f"no {delimiter!r} within {limit} bytes (limit)")
        if end < 0:
            return None
        return 0, end + size if self.keep_end else end, end + size

    def _is_longer(self, buffer: bytearray) -> bool:
        """Whether it is over the limit even if its last bytes begin a delimiter."""
        over = len(buffer) - self.limit
        return over >= len(self.delimiter) or not any(
            buffer.endswith(self.delimiter[:begun]) for begun in range(over, len(self.delimiter))
        )


class LengthPrefix(Framing):
    """A framing whose frames follow their length, a number of bytes that does not count itself.

    Args:
        format: a `struct` format of one unsigned number, such as `">I"` (four bytes, the most
            significant first).
        limit: the most bytes of a frame without its prefix. A larger number is `LimitExceeded` at
            once, without waiting for the frame.

    Raises:
        ConfigError: an argument has a wrong value.
    """

    def __init__(self, format: str = ">I", limit: int = 1_048_576) -> None:
        try:
            if not isinstance(format, str) or not _UNSIGNED.fullmatch("".join(format.split())):
                raise ValueError
            self._struct: Final = struct.Struct(format)
        except (ValueError, struct.error):
            raise ConfigError(
                f"LengthPrefix: format: got {format!r}, takes a struct format of one unsigned"
                ' number, such as ">I"'
            ) from None
        self.format: Final = format
        self.limit: Final = _checked_limit("LengthPrefix", limit)
        self.overhead: Final = self._struct.size - 1
        self.parameters: Final = (self.format, self.limit)

    def __repr__(self) -> str:
        return f"LengthPrefix({self.format!r}, limit={self.limit})"

    def payload_of(self, data: bytes) -> bytes | None:
        """The payload, if `data` is one whole frame and nothing else."""
        begin = self._struct.size
        if len(data) < begin:
            return None
        (length,) = self._struct.unpack_from(data)
        if begin + length != len(data) or length > self.limit:
            return None
        return data[begin:]

    def find(self, buffer: bytearray, start: int) -> tuple[int, int, int] | None:
        """See `Framing.find`. Raises LimitExceeded: the number is more than `limit`."""
        begin = self._struct.size
        if len(buffer) < begin:
            return None
        (length,) = self._struct.unpack_from(buffer)
        if length > self.limit:
            raise LimitExceeded(
                errno.EMSGSIZE, f"a frame of {length} bytes, takes at most {self.limit} (limit)"
            )
        end = begin + length
        return None if end > len(buffer) else (begin, end, end)


def _checked_limit(where: str, limit: Any) -> int:
    if not isinstance(limit, int) or is_bool(limit) or limit < 0:
        raise ConfigError(f"{where}: limit: got {limit!r}, takes a number of bytes, 0 or more")
    return int(limit)
