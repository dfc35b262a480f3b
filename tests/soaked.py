"""What `tests.soak` serves: everything that the stress test does, and failures on purpose."""

from __future__ import annotations

from thousand_island_sync import Close, Socket

from .test_stress import Everything


class Expected(ConnectionError):
    """Raised on purpose: no failure of the soak."""


class Soaked(Everything):
    def do_f(self, data: bytes, socket: Socket) -> None:
        raise Expected("on purpose")

    def do_s(self, data: bytes, socket: Socket) -> Close:
        socket.send(b"%08d" % 300_000)
        socket.sendfile(self.options)
        return Close()

    def do_n(self, data: bytes, socket: Socket) -> None:
        socket.send(bytes(50_000_000))

    MODES = Everything.MODES | {b"f": do_f, b"s": do_s, b"n": do_n}

    def do(self, mode: bytes, data: bytes, socket: Socket) -> Close | None:
        if mode not in self.MODES:
            raise Expected("garbage")
        return super().do(mode, data, socket)
