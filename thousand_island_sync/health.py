"""Whether a process is alive and ready for clients, over HTTP: `HealthServer`.

For the probes of Kubernetes, for load balancers and for people with `curl`;
docs/howto/operations.md says how to set them up.
"""

from __future__ import annotations

from http import HTTPStatus

from ._admin.commands import summary
from ._health.beside import BesideServers
from ._health.http import Page, Pages
from ._health.readiness import LOOK_S, Readiness
from .server import ThousandIsland

__all__ = ["HealthServer"]


class HealthServer(BesideServers):
    """Answers `GET` and `HEAD` of these paths, each with JSON: a context manager.

    - `/livez`: 200 until the process ends, or this is stopped.
    - `/readyz`: 200 and `{"ready": true}` while every server takes clients; else 503 and
      `{"ready": false, "reason": ...}`: `starting`, `draining` (stopping and stopped, too),
      `suspended`, `limit` (there are `max_connections`), or `no free thread`, once every thread
      of a pool has been in callbacks for 2 s.
    - `/info`: what `info()` gives, with the server's `name`; of several servers the sums, with
      those of each under `servers`.
    - `/metrics`: 404 without the extra `prometheus`.

    It has a listener and one thread of its own, which never waits for the servers. So it answers
    while every callback blocks, outside the servers' limits, and after a stop. A request may have
    4 KiB and take 2 s. It checks no permissions: listen where only your own systems can connect.

    Args:
        servers: one or more; they need not have been started.
        host: as the option of `TCP`: a name, an address, or `unix:PATH`.
        port: TCP port; 0 takes a free one, which `local_address` has; a Unix socket has none.

    Raises:
        ConfigError: there is no server, or one of them is not a `ThousandIsland`; `host` or `port`
            has a wrong value.

    Thread: any.
    """

    _kind = "health"

    def __init__(self, *servers: ThousandIsland, host: str = "127.0.0.1", port: int = 0) -> None:
        ready = Readiness(servers)
        pages = {
            "/livez": lambda: Page(HTTPStatus.OK, {"alive": True}),
            "/readyz": lambda: _ready(ready.why_not()),
            "/info": lambda: Page(HTTPStatus.OK, summary(servers)),
            "/metrics": _no_metrics,
        }
        super().__init__(servers, host, port, Pages(pages), (LOOK_S, ready.look))


def _ready(reason: str | None) -> Page:
    if reason is None:
        return Page(HTTPStatus.OK, {"ready": True})
    return Page(HTTPStatus.SERVICE_UNAVAILABLE, {"ready": False, "reason": reason})


def _no_metrics() -> Page:
    needs = "/metrics needs the extra: pip install 'thousand_island_sync[prometheus]'"
    return Page(HTTPStatus.NOT_FOUND, {"error": needs})
