"""What of TLS is in C, where it could be compiled: the short cut of `_tls.stream`, which is told
here where OpenSSL's functions are, once `_tls.proof` has seen them work. Without that, and without
the C, everything goes the long way."""

from __future__ import annotations

from ..._base.compiled import compare, native, warn_of_another_version
from . import private, proof  # noqa: F401 - what follows depends on the second
from .records import BATCH, LARGEST, RECORD
from .states import NOTHING, PART, SOME, WHOLE
from .stream import LARGE

#: What the C calls of OpenSSL.
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
