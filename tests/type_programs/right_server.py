"""A server with every kind of option, and what it answers."""

from typing import Any, assert_type

from OpenSSL import SSL

from thousand_island_sync import (
    TCP,
    TLS,
    Address,
    Connection,
    Handler,
    Info,
    Prepared,
    Socket,
    Status,
    ThousandIsland,
    Transport,
    TransportOptions,
    attach_logger,
)


class Echo(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


def plain() -> None:
    with ThousandIsland(
        handler_cls=Echo,
        handler_options={"any": "thing"},
        port=0,
        host="127.0.0.1",
        transport_cls=TCP,
        transport_options={"nodelay": False, "socket_options": [(1, 9, 1)], "keepalive_count": 3},
        num_acceptors=2,
        max_connections=100,
        read_timeout_ms=None,
        send_timeout_ms=1.5,
        max_pending_messages=None,
        interrupt_reads=True,
        name="n",
    ) as server:
        attach_logger("info")
        assert_type(server, ThousandIsland)
        assert_type(server.local_port, int)
        assert_type(server.local_address, Address)
        assert_type(server.connections(), list[Connection])
        assert_type(server.info(), Info)
        assert_type(server.info().local_address, Address | None)
        assert_type(server.stop(timeout_ms=None), bool)
        assert_type(server.stop(), bool)
        assert_type(server.wait(10.5), bool)


def encrypted(transport: type[Transport]) -> None:
    options: TransportOptions = {"certfile": b"...", "keyfile": "key.pem", "min_version": "1.3"}
    options["verify"] = "optional"
    server = ThousandIsland(handler_cls=Echo, transport_cls=transport, transport_options=options)
    server.reload_transport()
    server.reload_transport(certfile="new.pem", alpn_protocols=["h2"])
    server.watch_certificates()
    server.watch_certificates(interval_ms=0.5)
    server.serve_forever(server, reload=server.reload_transport, drain_delay_ms=500)
    host = TLS.prepare(certfile="b.pem")
    assert_type(host, Prepared)
    host.reload(crl="revoked.pem")

    def by_name(name: str | None) -> Prepared | SSL.Context | None:
        return host if name == "b.example" else None

    ThousandIsland(handler_cls=Echo, transport_cls=TLS, transport_options=host)
    ThousandIsland(
        handler_cls=Echo,
        transport_cls=TLS,
        transport_options={
            "certfile": "a.pem",
            "sni": {"b.example": host, "*.c.example": {"certfile": "c.pem", "verify": "none"}},
        },
    )
    TLS.prepare(certfile="a.pem", sni=by_name)
    TLS.prepare(**options)


def from_a_file(settings: dict[str, Any]) -> ThousandIsland:
    """What is not known before it is read is checked when it runs."""
    return ThousandIsland(handler_cls=Echo, **settings)


def states(server: ThousandIsland) -> None:
    assert_type(server.status, Status)
    assert_type(server.drain(delay_ms=500), bool)
    assert_type(server.info().draining, bool)
    if server.status == "running":
        server.stop()
