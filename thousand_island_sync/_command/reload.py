"""SIGHUP: what the files say by now."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from .._server.certificate_watch import load
from ..server import ThousandIsland, certificates_of
from .build import is_tls
from .errors import UsageError
from .line import Line
from .logs import Logs
from .settings import Settings, collect
from .table import TABLE

_log = logging.getLogger("thousand_island_sync")

#: What new connections get; everything else needs a restart.
_CERTIFICATES = ("certfile", "keyfile", "password", "ca_certs", "crl", "sni")


class Reload:
    """Loads certificates again, and what can change of the options. Thread: the main one.

    Args:
        line: the command line, which stays.
        servers: what is served.
        settings: the options that hold.
        logs: whose level may change.
    """

    def __init__(
        self, line: Line, servers: Sequence[ThousandIsland], settings: Settings, logs: Logs
    ) -> None:
        self._line = line
        self._servers = servers
        self._logs = logs
        self._was_tls = is_tls(settings)
        #: The values that hold, by name.
        self._hold = {name: settings.value(name) for name in TABLE}

    def __call__(self) -> None:
        try:
            now = collect(self._line, os.environ)
        except UsageError as error:
            _log.error("not reloaded, all stays as it is: %s", error)
            return
        changed = {name: now.value(name) for name in TABLE if now.value(name) != self._hold[name]}
        if "log_level" in changed:
            level = self._hold["log_level"] = changed.pop("log_level")
            self._logs.write(level)
        self._load_certificates(changed, is_tls(now))
        if changed:
            _log.warning(
                "changed since it was started, and heeded after a restart: %s", ", ".join(changed)
            )

    def _load_certificates(self, changed: dict[str, Any], is_tls_now: bool) -> None:
        """Takes out of `changed` what is heeded."""
        given = {}
        if self._was_tls and is_tls_now:
            given = {name: changed.pop(name) for name in _CERTIFICATES if name in changed}
        for server in self._servers:
            certificates = certificates_of(server)
            if given:
                load(lambda server=server: self._change(server, given))  # type: ignore[misc]
            elif certificates.files():
                load(certificates.reload)

    def _change(self, server: ThousandIsland, given: dict[str, Any]) -> None:
        server.reload_transport(**given)
        self._hold.update(given)
