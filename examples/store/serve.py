# serve.py
"""Starts the store: python serve.py, or thousand-island serve:by_systemd"""

import os

from thousand_island_sync import TLS, ThousandIsland, attach_logger
from thousand_island_sync.transports import TransportOptions

from database import Database
from metrics import Metrics
from store import Shared, Store


def make_server(where: TransportOptions) -> ThousandIsland:
    return ThousandIsland(
        handler_cls=Store,
        handler_options=Shared(Database(os.environ.get("STORE_DATABASE", "store.db"))),
        transport_cls=TLS,
        transport_options={"certfile": "cert.pem", "keyfile": "key.pem", **where},
        port=4000,
        max_connections=1_000,
        max_connections_wait_ms=2_000,
        max_handler_threads=32,
        read_timeout_ms=600_000,
        send_timeout_ms=10_000,
    )


def by_systemd() -> ThousandIsland:
    return make_server({"sockets": "systemd:store"})


if __name__ == "__main__":
    attach_logger("error")
    server = make_server({"host": "127.0.0.1"})
    metrics = Metrics(server)
    server.serve_forever()
    print(metrics.report())
