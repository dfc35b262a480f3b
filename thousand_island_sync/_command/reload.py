"""SIGHUP, and `ctl reload`: what the files say by now.

One at a time, and nobody waits for another's turn in a signal: whoever comes while one goes on
leaves what he wants, and it is done once more afterwards, with what the files say then.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .._base.latch import Latch
from .._server.certificate_watch import load
from ..errors import ConfigError, ThousandIslandError
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
#: Seconds that who asks waits for the answer.
_ANSWER_S = 30.0


class _Asked:
    """A reload that was asked for; `refusals` say what stays as it was, once it is done."""

    def __init__(self, certificates: bool) -> None:
        self.certificates = certificates
        self.done = Latch()
        self.refusals: list[str] = []


class Reload:
    """Loads certificates again, and what can change of the options. Thread: any.

    Args:
        line: the command line, which stays.
        servers: what is served.
        settings: the options that hold.
        logs: whose level may change.

    Attributes:
        around: makes a context manager for each reload.
    """

    def __init__(
        self, line: Line, servers: Sequence[ThousandIsland], settings: Settings, logs: Logs
    ) -> None:
        self.around: Callable[[], AbstractContextManager[object]] = nullcontext
        self._line = line
        self._servers = servers
        self._logs = logs
        self._was_tls = is_tls(settings)
        #: The values that hold, by name.
        self._hold = {name: settings.value(name) for name in TABLE}
        self._asked: deque[_Asked] = deque()
        self._turn = deque([None])  # taken by the one who reloads

    def __call__(self) -> None:
        """As SIGHUP asks for it. What is wrong is in the log."""
        self._ask(_Asked(certificates=False))

    def now(self, certificates: bool) -> None:
        """Returns when it is done.

        Args:
            certificates: whether only they, of the files that hold.

        Raises:
            ThousandIslandError: some of it is refused, and stays as it was.
        """
        asked = _Asked(certificates)
        self._ask(asked)
        if not asked.done.wait(_ANSWER_S):
            raise ThousandIslandError(
                "reload: another reload is still running; try again when it has ended"
            )
        if asked.refusals:
            raise ConfigError("; ".join(asked.refusals))

    def _ask(self, asked: _Asked) -> None:
        self._asked.append(asked)
        while self._asked:
            try:
                self._turn.pop()
            except IndexError:
                return  # who has it looks again when he has given it back
            try:
                self._reload_asked()
            finally:
                self._turn.append(None)

    def _reload_asked(self) -> None:
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        refusals: list[str] = []
        try:
            with self.around():
                if all(one.certificates for one in asked):
                    self._load_certificates({}, refusals)
                elif asked:
                    self._reload(refusals)
        finally:
            for one in asked:
                one.refusals = refusals
                one.done.open()

    def _reload(self, refusals: list[str]) -> None:
        try:
            now = collect(self._line, os.environ)
        except UsageError as error:
            refusals.append(str(error))
            _log.error("not reloaded, all stays as it is: %s", error)
            return
        changed = {name: now.value(name) for name in TABLE if now.value(name) != self._hold[name]}
        if "log_level" in changed:
            level = self._hold["log_level"] = changed.pop("log_level")
            self._logs.write(level)
        given = {}
        if self._was_tls and is_tls(now):
            given = {name: changed.pop(name) for name in _CERTIFICATES if name in changed}
        self._load_certificates(given, refusals)
        if changed:
            _log.warning(
                "changed since it was started, and heeded after a restart: %s", ", ".join(changed)
            )

    def _load_certificates(self, given: dict[str, Any], refusals: list[str]) -> None:
        for server in self._servers:
            certificates = certificates_of(server)
            refusal = None
            if given:
                refusal = load(lambda of=server: self._reload_server(of, given))  # type: ignore[misc]
            elif certificates.files():
                refusal = load(certificates.reload)
            if refusal is not None:
                refusals.append(refusal)

    def _reload_server(self, server: ThousandIsland, given: dict[str, Any]) -> None:
        server.reload_transport(**given)
        self._hold.update(given)
