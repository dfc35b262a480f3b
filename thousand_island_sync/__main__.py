"""The command line: `python -m thousand_island_sync [package.module:HandlerClass]`.

Serves echo, or a handler of the user's, until Ctrl-C or SIGTERM. Whatever the user got
wrong is one line on standard error and exit code 2.
"""

from __future__ import annotations

from ._server import hangup

if __name__ == "__main__":
    hangup.survive()  # from here on, whatever is imported meanwhile

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from . import events
from ._base import addresses
from ._connection.handler_check import is_request_handler
from ._server.certificate_watch import CertificateWatch
from ._server.flags import WITH_FLAGS, add_flags, flag, given_options, nearest
from ._telemetry.line_writer import LineHandler, LineWriter, close_all
from .errors import ThousandIslandError
from .handler import Handler
from .logger import LEVELS, attach_logger, detach_logger
from .server import ThousandIsland
from .socket import Socket
from .transports import TCP, TLS, TransportOptions

_LOGGING = {"error": logging.WARNING, "info": logging.INFO}
#: Flags that are no options of the server, and options that are files which may be renewed.
_OTHER_FLAGS = ("--watch-certificates", "--log-level", "--help")
_FILES = ("certfile", "keyfile", "ca_certs", "crl")
#: Seconds between two looks at the certificates.
_WATCH_S = 10.0
#: The option for that, and its beginnings, which will do (argparse).
_WATCH = ["--watch-certificates"[:length] for length in range(3, 21)]


class Echo(Handler):
    """Sends back what it gets."""

    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


class _UsageError(Exception):
    """What the user got wrong, as one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (--help shows the options)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m thousand_island_sync",
        usage="%(prog)s [package.module:HandlerClass] [options]",
        description="Serve a handler over TCP, TLS or a Unix socket; echo unless one is named.",
    )
    parser.add_argument(
        "handler",
        nargs="?",
        metavar="package.module:HandlerClass",
        help="a subclass of Handler; found from the current directory, too",
    )
    parser.add_argument(
        "--watch-certificates",
        nargs="?",
        type=float,
        const=_WATCH_S,
        metavar="SECONDS",
        help="look whether these files have changed, every 10 seconds unless it says otherwise,"
        " and serve the new ones; SIGHUP does so at once, watched or not",
    )
    parser.add_argument(
        "--log-level", choices=tuple(LEVELS), default="info", help="what is logged (%(default)s)"
    )
    add_flags(parser, host="127.0.0.1")
    return parser


def _handler(name: str | None) -> type[Handler]:
    if name is None:
        return Echo
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise _UsageError(f"{name}: takes package.module:HandlerClass")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise _UsageError(f"{name}: {error}") from error
    except Exception as error:
        raise _UsageError(f"{name}: importing it raised {type(error).__name__}: {error}") from error
    if is_request_handler(found):
        raise _UsageError(
            f"{name}: is a request handler of socketserver; name what"
            f" socketserver_handler({class_name}) makes"
        )
    if not (isinstance(found, type) and issubclass(found, Handler)):
        raise _UsageError(f"{name}: is not a subclass of thousand_island_sync.Handler")
    return found


def _server(given: argparse.Namespace) -> ThousandIsland:
    own, transport = given_options(given)
    needs = [name for name in transport if name not in TCP.OPTIONS]
    if given.watch_certificates is not None:
        needs.append("watch_certificates")
    if needs and "certfile" not in transport:
        raise _UsageError(f"{flag(needs[0])}: needs --certfile")
    if given.watch_certificates is not None and not given.watch_certificates > 0:
        raise _UsageError("--watch-certificates: takes seconds, more than 0")
    return ThousandIsland(
        handler_cls=_handler(given.handler),
        transport_cls=TLS if needs else TCP,
        transport_options=cast(TransportOptions, transport),
        **own,
    )


def _with_seconds(arguments: Sequence[str] | None) -> list[str]:
    """A bare `--watch-certificates` gets its seconds: what follows it may be the handler."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for place, word in enumerate(given):
        if word in _WATCH and not _is_number("".join(given[place + 1 :][:1])):
            given[place] = f"{word}={_WATCH_S}"
    return given


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class _OnceItServes(logging.Filter):
    """Leaves `listener.error` out until the server has started: what keeps it from that is
    the one line that the command line ends with."""

    serves = False

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.args[0] if isinstance(record.args, tuple) and record.args else None
        return self.serves or told != "listener.error"


def _serve(arguments: Sequence[str] | None, errors: LineWriter, output: LineWriter) -> None:
    parser = _parser()
    given, others = parser.parse_known_args(_with_seconds(arguments))
    if others:
        near = nearest(others[0], [*map(flag, WITH_FLAGS), *_OTHER_FLAGS])
        raise _UsageError(f"{others[0]}: there is no such argument{near} (--help shows them)")
    lines = LineHandler(errors)
    logging.basicConfig(
        level=_LOGGING.get(given.log_level, logging.DEBUG),
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[lines],
    )
    try:
        server = _server(given)
        once_it_serves = _OnceItServes()
        lines.addFilter(once_it_serves)
        hangup.survive()  # whatever was imported may have had other plans
        attach_logger(given.log_level)
        _serve_until_stopped(server, given, output, once_it_serves)
    finally:
        detach_logger()
        logging.getLogger().removeHandler(lines)


def _serve_until_stopped(
    server: ThousandIsland,
    given: argparse.Namespace,
    output: LineWriter,
    once_it_serves: _OnceItServes,
) -> None:
    # By the event, as signals are handled by then: who reads the line may send one.
    def announce(server: ThousandIsland, *, metadata: dict[str, Any], **event: Any) -> None:
        once_it_serves.serves = True
        where = addresses.show(metadata["local_address"])
        output.put(f"serving {given.handler or 'echo'} on {where}; Ctrl-C stops it")

    events.listener_start.connect(announce, sender=server)
    _, transport = given_options(given)
    files = [transport[name] for name in _FILES if transport.get(name) not in (None, "system")]
    if not files:
        server.serve_forever()
        return
    with (
        CertificateWatch(server.reload_transport, files, given.watch_certificates) as watch,
        hangup.asks(watch.ask),
    ):
        server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 after a stop, 2 for whatever the user got wrong.
    """
    with hangup.survived():
        errors, output = LineWriter(sys.stderr), LineWriter(sys.stdout)
        try:
            _serve(arguments, errors, output)
        except (_UsageError, ThousandIslandError, OSError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            errors.put(f"thousand_island_sync: {' '.join(text.split())}")
            return 2
        finally:
            close_all(errors, output)
        return 0


if __name__ == "__main__":
    try:
        code: int = main()
    finally:
        hangup.ignore()
    sys.exit(code)
