"""Options of the command line's own. Each is a row here: the flag, the key of the file and the
variable of the environment are made of it, and what it begins is begun.

To add one: its `Option`, and, where it is something that runs beside the servers, a function that
makes a context manager for the list of them. That is entered before the servers start, in the order
of the rows, and left when they have stopped; what it raises while it is entered (an `OSError`, a
`ThousandIslandError`) is one line and exit code 2. Import what it needs inside the function: who
does not give the option does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .._base.option_kinds import read_number, yes_no
from .._base.options import (
    MILLISECONDS,
    MISSING,
    Option,
    is_milliseconds,
    is_number,
    is_text,
    one_of,
    optional,
)
from ..logger import LEVELS
from ..server import ThousandIsland, certificates_of
from .formats import FORMATS

if TYPE_CHECKING:
    from .control import Served

#: Makes what runs beside the servers, of them and of the option's value. `served.control` reloads,
#: stops and drains all of them, as signals do.
Begin = Callable[["Served", Any], AbstractContextManager[object]]


class Extra(NamedTuple):
    """An option of the command line's own.

    Attributes:
        option: its default, its check, its words, how it is read from a line.
        begin: called where its value is not the default.
        bare: what its flag means without a value, `--x`; `MISSING`: it needs one.
    """

    option: Option
    begin: Begin | None = None
    bare: Any = MISSING


_PLACE = "HOST:PORT or unix:PATH"


def _is_interval(value: Any) -> bool:
    return is_number(value) and 0 < value < float("inf")


@contextmanager
def _watch(servers: Sequence[ThousandIsland], interval_ms: float) -> Iterator[None]:
    for server in servers:
        if certificates_of(server).files():
            server.watch_certificates(interval_ms)
    yield


def _admin(served: Served, path: str) -> AbstractContextManager[object]:
    from ..admin import AdminServer

    return AdminServer.controlled_by(served.control, served, path)


def _is_place(value: Any) -> bool:
    if not is_text(value):
        return False
    try:
        _place(value)
    except (ValueError, TypeError):
        return False
    return True


def _place(text: str) -> dict[str, Any]:
    """Options of what listens there: `HOST:PORT`, `[::1]:PORT`, `unix:PATH`.

    Raises:
        ValueError, TypeError: it is none.
    """
    if text.startswith("unix:") and text != "unix:":
        return {"host": text}
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not colon or (":" in host) != bracketed:
        raise ValueError(text)
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(text)
    return {"host": host, "port": int(port)}


def _health(served: Served, place: str) -> AbstractContextManager[object]:
    from ..health import HealthServer

    return HealthServer(*served, **_place(place))


def _agent(served: Served, place: str) -> AbstractContextManager[object]:
    from ..contrib.haproxy import Agent

    return Agent(*served, **_place(place))


def _either(choices: Mapping[str, Any]) -> str:
    return ", ".join(choices)


def _access_log(servers: Sequence[ThousandIsland], _: Any) -> AbstractContextManager[object]:
    from .access_log import AccessLog

    return AccessLog(servers)


EXTRAS: dict[str, Extra] = {
    "log_level": Extra(
        Option(
            "info",
            one_of(*LEVELS),
            _either(LEVELS),
            "what is logged, to standard error: error, info, debug or trace",
            str,
        )
    ),
    "log_format": Extra(
        Option(
            "text",
            one_of(*FORMATS),
            _either(FORMATS),
            "how a line of the log is written: text or json",
            str,
        )
    ),
    "log_access": Extra(
        yes_no(
            False,
            "a line for each connection at its end, whatever the level: peer, duration, bytes each"
            " way, how it ended",
        ),
        _access_log,
    ),
    "setup": Extra(
        Option(
            None,
            optional(is_text),
            "package.module:function",
            "package.module:function, without arguments, that runs before it serves",
            str,
        )
    ),
    "drain_delay_ms": Extra(
        Option(
            0,
            is_milliseconds,
            MILLISECONDS,
            "milliseconds that SIGTERM goes on accepting, while balancers look away",
            read_number,
        )
    ),
    "admin": Extra(
        Option(
            None,
            optional(is_text),
            "the path of a Unix socket's file",
            "path of a Unix socket that answers `ctl` and `top`; its owner and root may ask",
            str,
        ),
        _admin,
    ),
    "health": Extra(
        Option(
            None,
            optional(_is_place),
            _PLACE,
            "HOST:PORT or unix:PATH that answers /livez, /readyz and /info over HTTP",
            str,
        ),
        _health,
    ),
    "agent": Extra(
        Option(
            None,
            optional(_is_place),
            _PLACE,
            "HOST:PORT or unix:PATH that answers the agent-check of HAProxy",
            str,
        ),
        _agent,
    ),
    "watch_certificates": Extra(
        Option(
            None,
            optional(_is_interval),
            "a number of milliseconds, more than 0",
            "look so often, in milliseconds, whether the files of certificates have changed, and"
            " serve the new ones; every 60000 without a number",
            read_number,
        ),
        _watch,
        bare=60_000,
    ),
}
