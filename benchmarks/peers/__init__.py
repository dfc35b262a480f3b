"""The servers that are measured: name -> the module and function that serve it.

Each function is called with `announce`, to be called with its port, and serves until its
process ends. Modules are imported by the process that serves, for nobody needs them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

Announce = Callable[[int], None]

OURS = "ours"

PEERS: dict[str, tuple[str, str]] = {
    OURS: ("ours", "serve"),
    "ours, looping": ("ours", "serve_looping"),
    "ours, a receiver on every event": ("ours", "serve_heard"),
    "ours, logger at trace": ("ours", "serve_logged"),
    "raw threads": ("threads", "serve"),
    "raw threads, pread": ("threads", "serve"),
    "socketserver": ("threads", "serve_socketserver"),
    "thread pool": ("threads", "serve_pool"),
    "asyncio Protocol": ("loops", "serve_protocol"),
    "asyncio streams": ("loops", "serve_streams"),
    "uvloop Protocol": ("loops", "serve_uvloop_protocol"),
    "uvloop streams": ("loops", "serve_uvloop_streams"),
    "gevent": ("by_gevent", "serve"),
    "trio": ("by_trio", "serve"),
    "Twisted": ("by_twisted", "serve"),
    "cheroot": ("wsgi", "serve_cheroot"),
    "waitress": ("wsgi", "serve_waitress"),
    "nginx": ("nginx", "serve"),
}


def load(name: str) -> Callable[[Announce], None]:
    module, function = PEERS[name]
    found: Callable[[Announce], None] = getattr(
        importlib.import_module(f"{__name__}.{module}"), function
    )
    return found
