"""Serving, from the first import to the last line of the log."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress

from .._base import addresses
from .._server import hangup
from .._server.serving import HANGUP, check, serve_until_signalled
from .._telemetry.line_writer import LineWriter
from ..errors import ServerNotRunning
from ..server import ThousandIsland
from .check import prepare
from .control import Control, Served
from .cut import tell as tell_of_the_cut
from .extras import EXTRAS
from .line import Line
from .logs import Logs
from .named import call, find
from .reload import Reload
from .service import Service
from .settings import Settings
from .signals import Signals, calls

_log = logging.getLogger("thousand_island_sync")


def serve(
    line: Line, settings: Settings, errors: LineWriter, output: LineWriter, signals: Signals
) -> int:
    """Serves until it is stopped.

    Returns:
        The exit code: 0 if every connection ended by itself, else 1.

    Raises:
        UsageError, ThousandIslandError, OSError: what is wrong, or an address cannot be had.
    """
    signals.will_serve()
    with Logs(errors, settings.value("log_level"), settings.value("log_format")) as logs:
        _, servers = prepare(line.handler, settings)
        signals.raise_again()
        logs.hide_failed_starts()
        hangup.survive()  # whatever was imported may have had other plans
        reload = Reload(line, servers, settings, logs)
        served = Served(servers)
        served.control = Control(served, reload, logs, settings.value("drain_delay_ms"))
        check(ThousandIsland, tuple(servers), None, settings.value("drain_delay_ms"))
        return 0 if _serve(served, settings, signals, logs, output) else 1


def _serve(
    servers: Served,
    settings: Settings,
    signals: Signals,
    logs: Logs,
    output: LineWriter,
) -> bool:
    def started() -> None:
        signals.raise_again()
        logs.it_serves()
        if settings.unknown_variables:
            _log.warning("%s", settings.about_unknown_variables())
        signals.are_heeded()
        with suppress(ServerNotRunning):  # it was stopped meanwhile
            output.put(" ".join(addresses.show(server.local_address) for server in servers))
        service.ready()
        hangup.repeat()

    heeded = calls()
    if HANGUP is not None:
        heeded[HANGUP] = servers.control.hang_up
    with ExitStack() as stack:
        service = stack.enter_context(Service(servers))
        servers.control.around_reloads(service.reloading)
        for name, extra in EXTRAS.items():
            value = settings.value(name)
            if extra.begin is not None and value != extra.option.default:
                stack.enter_context(extra.begin(servers, value))
        setup = settings.value("setup")
        if setup is not None:
            call(setup, find(setup))
        signals.raise_again()
        delay = settings.value("drain_delay_ms")
        whole = serve_until_signalled(servers, heeded, delay, started)
        if not whole:
            tell_of_the_cut(servers)
        return whole
