"""A TCP proxy for servers that cannot be reached: they dial in, too, and each client is joined with
one of them.

Neither side holds a thread. A side is paused while more than half of the other's send buffer waits,
so a quick side is held to the pace of a slow one, and each pair takes a bounded amount of memory.

    python examples/tcp_proxy.py --port 4060 --upstream-port 4061
    nc 127.0.0.1 4061          # the upstream server, once for each client that it will serve
    nc 127.0.0.1 4060          # a client
"""

import argparse
import threading
from collections import deque
from typing import Any

from thousand_island_sync import (
    Close,
    Connection,
    Continue,
    Handler,
    Result,
    SendBufferFull,
    Socket,
    SocketClosed,
    ThousandIsland,
)

#: Bytes of one connection that may wait for its peer; and so many hold up the other side.
MAX_UNSENT = 262_144
HALF = MAX_UNSENT // 2
#: Milliseconds between two looks whether the last bytes have gone out.
LOOK_MS = 20
#: A message for a side: no more will come for its peer.
END = object()


class Exchange:
    """Joins each client with an upstream connection, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Side]] = {"client": deque(), "upstream": deque()}

    def join(self, side: "Side") -> None:
        """Finds it another side, or has it wait for one."""
        kinds = {"client": "upstream", "upstream": "client"}
        with self._lock:
            others = self._waiting[kinds[side.kind]]
            while others and others[0].own.closed:
                others.popleft()
            if not others:
                self._waiting[side.kind].append(side)
                return
            other = others.popleft()
            side.other, other.other = other.own, side.own
        other.own.resume()


class Side(Handler):
    """One end of a joined pair."""

    own: Connection
    other: Connection | None = None

    def __init__(self, options: tuple[str, Exchange]) -> None:
        super().__init__(options)
        self.kind, self.exchange = options

    def handle_connection(self, socket: Socket) -> Result:
        self.own = socket.connection
        self.exchange.join(self)
        return Continue(paused=self.other is None)

    def handle_data(self, data: bytes, socket: Socket) -> Result | None:
        assert self.other is not None
        late = b""
        try:
            self.other.send(data)
        except SocketClosed:
            return Close()
        except SendBufferFull:  # so much waits for all clients together: `max_unsent_total`
            late = data
        if late or self.other.unsent > HALF:
            self.other.post(late)  # messages wait, too, while more than half of a buffer does
            return Continue(paused=True)
        return None

    def handle_eof(self, socket: Socket) -> Result:
        assert self.other is not None
        try:
            self.other.post(END)
        except SocketClosed:
            return Close()
        return Continue()  # the other direction goes on

    def handle_info(self, message: Any, socket: Socket) -> None:
        """What the other side posts: there is room again, or no more will come."""
        assert self.other is not None
        if message is not END:
            socket.send(message)  # nothing, as a rule
            self.other.resume()
        elif socket.unsent:
            self.own.post(END, LOOK_MS)
        else:
            socket.shutdown("write")

    def handle_end(self, socket: Socket) -> None:
        if self.other is not None:
            self.other.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=4060, help="for clients")
    parser.add_argument("--upstream-port", type=int, default=4061, help="for upstream servers")
    given = parser.parse_args(arguments)
    exchange = Exchange()
    upstream, clients = (
        ThousandIsland(
            handler_cls=Side,
            handler_options=(kind, exchange),
            host="127.0.0.1",
            port=port,
            read_timeout_ms=None,
            max_unsent=MAX_UNSENT,
        ).start()
        for kind, port in (("upstream", given.upstream_port), ("client", given.port))
    )
    print("upstream servers dial", upstream.local_port, flush=True)
    print("listening on", clients.local_port, flush=True)
    clients.serve_forever(upstream)


if __name__ == "__main__":
    main()
