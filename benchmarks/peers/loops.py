"""asyncio and uvloop, each with a `Protocol` and with streams.

What blocks goes to the loop's executor, as their users must; what computes does not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from .. import work
from ..work import RECEIVE, WORK, answer, may_block
from . import Announce


class _Ping(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(answer(data))


class _Blocking(_Ping):
    """A Protocol whose work may block."""

    def data_received(self, data: bytes) -> None:
        if may_block(data):
            done = asyncio.get_running_loop().run_in_executor(None, answer, data)
            done.add_done_callback(lambda done: self.write(done.result()))
        else:
            self.write(answer(data))


class _Http(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        _, size, keep = work.parse(data)
        for part in work.message(size, keep):
            self.transport.write(part)
        if not keep:
            self.transport.close()


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(RECEIVE):
            if may_block(data):
                writer.write(await loop.run_in_executor(None, answer, data))
            else:
                writer.write(answer(data))
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _http_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(RECEIVE):
            kind, size, keep = work.parse(data)
            if kind == "file":
                await _send_file(writer, size, keep)
            else:
                for part in work.message(size, keep):
                    writer.write(part)
                    await writer.drain()
            if not keep:
                break
    except OSError:
        pass
    finally:
        writer.close()


async def _send_file(writer: asyncio.StreamWriter, size: int, keep: bool) -> None:
    writer.write(work.head(size, keep))
    await writer.drain()
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        with open(WORK.file, "rb") as file:
            await loop.sendfile(writer.transport, file, 0, size)
        return
    for piece in work.pieces(size):  # uvloop has no sendfile
        writer.write(piece)
        await writer.drain()


async def _serve(announce: Announce, streams: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(WORK.threads))
    given: dict[str, Any] = {"backlog": work.BACKLOG, "ssl": work.tls_context()}
    if streams:
        handle = _http_stream if WORK.http else _stream
        server: Any = await asyncio.start_server(handle, work.HOST, 0, **given)
    else:
        blocks = WORK.sleep_ms or WORK.nap_ms or WORK.crunch
        protocol = _Http if WORK.http else _Blocking if blocks else _Ping
        server = await loop.create_server(protocol, work.HOST, 0, **given)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve_protocol(announce: Announce) -> None:
    asyncio.run(_serve(announce, False))


def serve_streams(announce: Announce) -> None:
    asyncio.run(_serve(announce, True))


def _uvloop(announce: Announce, streams: bool) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(announce, streams))


def serve_uvloop_protocol(announce: Announce) -> None:
    _uvloop(announce, False)


def serve_uvloop_streams(announce: Announce) -> None:
    _uvloop(announce, True)
