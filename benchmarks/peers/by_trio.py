"""trio. What blocks goes to its threads."""

from __future__ import annotations

import functools
from typing import Any

import trio

from .. import work
from ..work import RECEIVE, WORK, answer, may_block
from . import Announce


async def _ping(stream: Any) -> None:
    try:
        while data := await stream.receive_some(RECEIVE):
            if may_block(data):
                await stream.send_all(await trio.to_thread.run_sync(answer, data))
            else:
                await stream.send_all(answer(data))
    except trio.BrokenResourceError:
        pass


async def _http(stream: Any) -> None:
    try:
        keep = True
        while keep and (data := await stream.receive_some(RECEIVE)):
            kind, size, keep = work.parse(data)
            if kind == "file":
                await stream.send_all(work.head(size, keep))
                for piece in work.pieces(size):
                    await stream.send_all(piece)
            else:
                for part in work.message(size, keep):
                    await stream.send_all(part)
    except trio.BrokenResourceError:
        pass


async def _serve(announce: Announce) -> None:
    trio.to_thread.current_default_thread_limiter().total_tokens = WORK.threads
    handle = _http if WORK.http else _ping
    context = work.tls_context()
    opened = functools.partial(trio.open_tcp_listeners, 0, host=work.HOST, backlog=work.BACKLOG)
    if context is None:
        listeners: list[Any] = list(await opened())
        announce(listeners[0].socket.getsockname()[1])
    else:
        plain = await opened()
        announce(plain[0].socket.getsockname()[1])
        listeners = [trio.SSLListener(one, context) for one in plain]

    async def guarded(stream: Any) -> None:
        async with stream:
            await handle(stream)

    await trio.serve_listeners(guarded, listeners)


def serve(announce: Announce) -> None:
    trio.run(_serve, announce)
