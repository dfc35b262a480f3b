"""Servers, from what is served and the options that were given."""

from __future__ import annotations

from typing import Any, cast

from ..errors import ConfigError
from ..server import ThousandIsland, certificates_of
from ..transports import TCP, TLS, TransportOptions
from ..transports.tls import TLS_OPTIONS
from .errors import UsageError
from .named import Target
from .settings import Settings
from .table import Home, flag

#: A host that is no address: sockets that systemd passes.
_SYSTEMD = "systemd"


def servers(target: Target, settings: Settings) -> list[ThousandIsland]:
    """Makes them; opens nothing.

    Raises:
        UsageError: an option needs another, or does not go with a function that makes servers.
        ConfigError: an option is wrong.
    """
    made = _made(target, settings)
    watch = settings.given.get("watch_certificates")
    if watch is None or watch.value is None:
        return made
    if not any(certificates_of(server).files() for server in made):
        raise UsageError(f"{watch.where}: needs {_named_like(watch.where, 'certfile')}")
    return made


def _made(target: Target, settings: Settings) -> list[ThousandIsland]:
    if target.handler_cls is not None:
        return [_server(target, settings)]
    for home in (Home.SERVER, Home.TRANSPORT):
        for given in settings.of(home).values():
            raise UsageError(
                f"{given.where}: {target.name} makes its servers with options of its own; leave it"
                " out, or name a handler"
            )
    return target.make()


def transport_options(settings: Settings) -> dict[str, Any]:
    """Those given; of TLS only where it is used.

    Raises:
        UsageError: one is of TLS, and there is no certificate.
    """
    given = settings.of(Home.TRANSPORT)
    if settings.value("certfile") is not None:
        return {name: one.value for name, one in given.items()}
    for name, one in given.items():
        if name not in TCP.OPTIONS and not _is_default(name, one.value):
            raise UsageError(f"{one.where}: needs {_named_like(one.where, 'certfile')}")
    return {name: one.value for name, one in given.items() if name in TCP.OPTIONS}


def _is_default(name: str, value: Any) -> bool:
    default = TLS_OPTIONS[name].default
    return bool(value == default) or (default == () and value == [])


def _named_like(where: str, name: str) -> str:
    return flag(name) if where.startswith("--") else name


def is_systemd(host: str) -> bool:
    return host == _SYSTEMD or host.startswith(f"{_SYSTEMD}:")


def is_tls(settings: Settings) -> bool:
    return settings.value("certfile") is not None


def _server(target: Target, settings: Settings) -> ThousandIsland:
    transport = transport_options(settings)
    own = {name: one.value for name, one in settings.of(Home.SERVER).items()}
    host = settings.value("host")
    if is_systemd(host):
        own.pop("host")
        transport["sockets"] = host
    elif transport.get("sockets", None) is None:
        own["host"] = host
    try:
        return ThousandIsland(
            handler_cls=cast(Any, target.handler_cls),
            transport_cls=TLS if is_tls(settings) else TCP,
            transport_options=cast(TransportOptions, transport),
            **own,
        )
    except ConfigError as error:
        raise UsageError(_with_its_place(str(error), settings)) from None


def _with_its_place(text: str, settings: Settings) -> str:
    """Where the option that an error begins with was given, unless that was on the line."""
    name, _, rest = text.removeprefix("transport_options: ").partition(":")
    given = settings.given.get(name)
    if given is None or given.where.startswith("--"):
        return text
    return f"{given.where}:{rest}" if given.where.endswith(name) else f"{given.where}: {text}"
