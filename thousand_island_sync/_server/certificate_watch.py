"""Loading certificates again while the server runs: when their files change, or when asked to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._base.clock import seconds
from .._base.options import is_number
from .._base.supervised import Supervised
from ..errors import ConfigError
from ..transports.tls import TLS, Prepared
from .current_transport import CurrentTransport

_log = logging.getLogger("thousand_island_sync")

#: Options that are files which may be renewed.
_FILES = ("certfile", "keyfile", "ca_certs", "crl")
#: What tells that a file has changed; `None`: it is not there.
_Stamp = tuple[int, int, int] | None


class Certificates:
    """Those of one server, the ones of `sni` included. Thread: any.

    Args:
        transport: has the options that hold.
    """

    def __init__(self, transport: CurrentTransport) -> None:
        self._transport = transport

    def files(self) -> list[str]:
        """Paths of their files, of the CAs and of the CRL; what was given as bytes has none."""
        return [path for options in self._hosts() for path in _paths(options)]

    def _hosts(self) -> Iterator[Mapping[str, Any]]:
        """The options of the server, and of each host."""
        current = self._transport.current
        if not isinstance(current, TLS):
            return
        own = current if current.prepared is None else current.prepared.current
        yield own.options
        sni = own.options["sni"]
        if isinstance(sni, Mapping):
            for entry in sni.values():
                yield entry.current.options if isinstance(entry, Prepared) else entry

    def reload(self) -> None:
        """Loads all of them again, in place: what `TLS.prepare` made is changed itself.

        Raises:
            ConfigError: what is bad, and the old ones stay; what is good has been loaded.
        """
        current = self._transport.current
        own = getattr(current, "prepared", None)
        options = current.options if own is None else own.current.options
        sni = options.get("sni")
        errors: list[ConfigError] = []
        loads: list[Callable[[], None]] = []
        if isinstance(sni, Mapping):
            loads += [entry.reload for entry in sni.values() if isinstance(entry, Prepared)]
        loads.append(own.reload if own is not None else lambda: self._transport.reload({}))
        for load in loads:
            try:
                load()
            except ConfigError as error:
                errors.append(error)
        if errors:
            raise ConfigError("; ".join(map(str, errors)))


def _paths(options: Mapping[str, Any]) -> Iterator[str]:
    for name in _FILES:
        given = options.get(name)
        if given is not None and not isinstance(given, bytes) and given != "system":
            yield os.fspath(given)


class CertificateWatch:
    """Looks at the files of a server's certificates every so often, once asked to, on a thread
    that ends with the server; a server that is started again has another.

    An error in the files is logged, once for each state of the files, and the old
    certificates stay in use. A certificate and its key are rarely written at the same
    moment: so after a failure each later change is tried.

    Args:
        certificates: of the server.
        wait: waits so many seconds for the end of the server; whether it has ended.
        name: of the server.
    """

    def __init__(
        self, certificates: Certificates, wait: Callable[[float], bool], name: str
    ) -> None:
        self._certificates = certificates
        self._wait = wait
        self._name = name
        self._interval: float | None = None
        self._seen: dict[str, _Stamp] = {}
        self._present: object = None  # whose turn it is, of threads that were begun

    def ask(self, interval_ms: float) -> None:
        """Has it look so often from the next `begin` on.

        Raises:
            ConfigError: no interval, or no files.
        """
        if not (is_number(interval_ms) and 0 < interval_ms < float("inf")):
            raise ConfigError(
                f"watch_certificates: interval_ms: got {interval_ms!r}, takes milliseconds, more"
                " than 0"
            )
        if not self._certificates.files():
            raise ConfigError(
                "watch_certificates: this server has no certificate files; give TLS a certfile"
                " that is a path"
            )
        self._interval = seconds(interval_ms)
        self._seen = self._stamps()

    def begin(self) -> None:
        """Looks from now on, if it was asked to; an earlier thread leaves it to the new one.
        Thread: any."""
        if self._interval is None:
            return
        turn = self._present = object()
        thread = Supervised(lambda: self._run(turn), f"{self._name}-certificates")
        try:
            thread.start()
        except RuntimeError as error:
            _log.error("certificates are not watched: no thread can be started: %s", error)

    def _run(self, turn: object) -> None:
        while self._interval is not None and not self._wait(self._interval):
            if self._present is not turn:
                return
            self._reload_if_changed()

    def _reload_if_changed(self) -> None:
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            load(self._certificates.reload)

    def _stamps(self) -> dict[str, _Stamp]:
        return {path: _stamp(path) for path in self._certificates.files()}


def load(reload: Callable[[], None]) -> str | None:
    """Calls it, and logs what comes of it: what is wrong, or `None`. Thread: any."""
    try:
        reload()
    except ConfigError as error:
        _log.error("certificates not reloaded, the old ones stay in use: %s", error)
        return str(error)
    except Exception as error:
        _log.exception("certificates not reloaded, the old ones stay in use")
        return f"{type(error).__name__}: {error}"
    _log.info("certificates reloaded")
    return None


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
