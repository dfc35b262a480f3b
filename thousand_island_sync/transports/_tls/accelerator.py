"""Connects the C part of TLS, where it could be compiled: the short cut of `_tls.stream` gets the
addresses of OpenSSL's functions here, after `_tls.proof` has tested them. Without the C, or without
the addresses, `_tls.stream` does everything in Python."""

from __future__ import annotations

from ..._base.compiled import compare, native, warn_of_another_version
from . import private, proof  # noqa: F401 - what follows depends on the second
from .records import BATCH, LARGEST, RECORD
from .states import NOTHING, PART, SOME, WHOLE
from .stream import LARGE

#: The functions of OpenSSL that the C calls.
_CALLED = ("ssl_read", "ssl_write", "bio_read", "bio_write")


def _put_in() -> None:
    names = private.names
    if native is None or names is None:
        return
    try:
        places = tuple(private.place_of(names.ffi, getattr(names, name)) for name in _CALLED)
    except private.Unexpected as error:
        private.do_without(error)
        return
    try:
        compare({"RECORD": RECORD, "LARGEST": LARGEST, "BATCH": BATCH, "LARGE": LARGE})
        native.bind_tls((PART, NOTHING, WHOLE, SOME), places)
    except RuntimeError:
        return  # another interpreter of this process has it
    except (AttributeError, TypeError) as error:
        warn_of_another_version(error)


_put_in()
