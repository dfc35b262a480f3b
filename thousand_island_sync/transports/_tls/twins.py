"""The two calls of a TLS channel that every message pays for, in C, where it could be
compiled: see `_server.twins`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._base.compiled import compare, native, warn_of_another_version
from ..base import READ
from . import private, proof  # noqa: F401 - what follows depends on the second
from .channel import TLSChannel, _Sink
from .records import BATCH, LARGEST, RECORD, PrivateRecords
from .wire import LARGE, Wire

__all__ = ["TLSChannel", "originals"]

#: The methods in Python, where their twins run.
originals: dict[str, Callable[..., Any]] = {}

#: What the twins call of OpenSSL.
_CALLED = ("ssl_read", "ssl_write", "bio_read", "bio_write")


def _put_in() -> None:
    names = private.names
    if native is None or names is None:
        return
    try:
        functions = {name: private.place_of(names.ffi, getattr(names, name)) for name in _CALLED}
    except private.Unexpected as error:
        private.do_without(error)
        return
    originals.update({"recv": TLSChannel.recv, "sink_send": _Sink.send})
    try:
        recv, send = native.bind_tls(
            Wire=Wire,
            TLSChannel=TLSChannel,
            PrivateRecords=PrivateRecords,
            Sink=_Sink,
            READ=READ,
            **functions,
            **originals,
        )
        compare({"RECORD": RECORD, "LARGEST": LARGEST, "BATCH": BATCH, "LARGE": LARGE})
    except RuntimeError:
        return  # another interpreter of this process has it
    except (AttributeError, TypeError) as error:
        warn_of_another_version(error)
        return
    TLSChannel.recv = recv  # type: ignore[method-assign]
    _Sink.send = send  # type: ignore[method-assign]


_put_in()
