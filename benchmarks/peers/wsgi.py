"""cheroot and waitress, with a WSGI application, where the protocol is HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import work
from ..work import WORK
from . import Announce


def _application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    _, kind, text = environ["PATH_INFO"].split("/")
    size = int(text)
    start_response("200 OK", [("Content-Length", text), ("Content-Type", "text/plain")])
    if kind == "file":
        if "wsgi.file_wrapper" in environ:
            file = open(WORK.file, "rb")  # noqa: SIM115 - the server closes it
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
            return wrapped
        return work.pieces(size)
    return [bytes(work.body(size))]


def serve_cheroot(announce: Announce) -> None:
    import cheroot.wsgi

    server = cheroot.wsgi.Server(
        (work.HOST, 0), _application, numthreads=WORK.threads, request_queue_size=work.BACKLOG
    )
    server.prepare()
    announce(server.bind_addr[1])
    server.serve()


def serve_waitress(announce: Announce) -> None:
    import waitress

    server = waitress.create_server(
        _application, host=work.HOST, port=0, threads=WORK.threads, backlog=work.BACKLOG
    )
    announce(server.effective_port)
    server.run()
