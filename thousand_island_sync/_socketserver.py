"""Request handlers of the standard library's `socketserver`, served as they are."""

from __future__ import annotations

import socket as stdlib_socket
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from .errors import ConfigError, ServerNotRunning, SocketError
from .handler import Close, Error, Handler
from .socket import Socket

#: What makes a request handler: the class itself, or a `functools.partial` of it.
RequestHandlerMaker = Callable[[Any, Any, Any], object]

#: Hooks of a `socketserver` server that have no place here, as nothing calls them.
_WITHOUT_A_PLACE = ("get_request", "process_request", "shutdown_request", "service_actions")
#: Where the standard library itself overrides hooks: the mix-ins for threads and processes.
_STANDARD = {"socketserver", "http.server", "wsgiref.simple_server", "xmlrpc.server"}
_ANY_HOST = {"", "0.0.0.0", "::"}


def socketserver_handler(
    RequestHandlerClass: Callable[[Any, Any, Any], object],
    *,
    server: Any = None,
    ignore_hooks: bool = False,
    **attributes: Any,
) -> type[Handler]:
    """Makes a `Handler` that serves a request handler class of the standard library.

    `setup`, `handle` and `finish` run in `handle_connection`, on a thread of the pool, and the
    connection is closed afterwards. The request handler's `request` is the `Socket`,
    `client_address` what its `getpeername()` returns (for those of `http.server` a pair, over a
    Unix socket, too: they take the host from it).

    Args:
        RequestHandlerClass: a subclass of `socketserver.BaseRequestHandler`
            (`StreamRequestHandler`, `http.server`'s, `wsgiref`'s, `xmlrpc`'s), or a callable
            that makes one, such as a `functools.partial`.
        server: what the request handlers call `self.server`: a `socketserver` server that need
            not serve, or any other object. Its `server_address`, `server_name`, `server_port`
            and, for WSGI, `base_environ` are set to what is listened on here. `verify_request`
            of it decides who is served; `handle_error` and `finish_request` are called where
            its class overrides them. Not given: an object with those four attributes.
        ignore_hooks: take a `server` whose class overrides hooks that nothing calls here.
        attributes: further attributes of `self.server`, where `server` is not given.

    Returns:
        A new subclass of `Handler`, for `handler_cls`.

    Raises:
        ConfigError: `RequestHandlerClass` is no such class; `server` overrides hooks that
            nothing calls here, and `ignore_hooks` is false; `server` and `attributes` are given.
    """
    _check_maker(RequestHandlerClass)
    if server is None:
        server = SimpleNamespace(**attributes)
    elif attributes:
        raise ConfigError(
            f"socketserver_handler: {', '.join(sorted(attributes))}: set attributes on the server"
            " that is given, or leave the server out"
        )
    elif not ignore_hooks:
        _check_hooks(server)
    adapter = _Adapter(RequestHandlerClass, server)

    class Adapted(Handler):
        __doc__ = f"Serves {_name(RequestHandlerClass)}; made by `socketserver_handler`."

        def handle_connection(self, socket: Socket) -> Close | Error:
            return adapter.serve(socket)

    Adapted.__name__ = Adapted.__qualname__ = f"{_name(RequestHandlerClass)}Handler"
    return Adapted


def _name(maker: RequestHandlerMaker) -> str:
    of = getattr(maker, "func", maker)  # a partial's
    return getattr(of, "__name__", type(of).__name__)


def _check_maker(maker: Any) -> None:
    takes = (
        "takes a subclass of socketserver.BaseRequestHandler, or a callable that makes one from"
        " (request, client_address, server)"
    )
    if not callable(maker):
        raise ConfigError(f"socketserver_handler: got {maker!r}, {takes}")
    maker = getattr(maker, "func", maker)  # a partial's
    if not isinstance(maker, type):
        return
    import socketserver  # here: who serves none need not wait for it

    if issubclass(maker, Handler):
        raise ConfigError(
            f"socketserver_handler: {maker.__name__} is a Handler already: give it as handler_cls"
        )
    if issubclass(maker, socketserver.DatagramRequestHandler):
        raise ConfigError(
            f"socketserver_handler: {maker.__name__} handles datagrams, and this library serves"
            " streams (TCP, TLS, Unix)"
        )
    if not issubclass(maker, socketserver.BaseRequestHandler):
        raise ConfigError(f"socketserver_handler: got the class {maker.__name__}, {takes}")


def _overrides(server: Any, hook: str) -> bool:
    """Whether a class that is not the standard library's says what a hook does."""
    for class_ in type(server).__mro__:
        if hook in vars(class_):
            return class_.__module__ not in _STANDARD
    return False


def _check_hooks(server: Any) -> None:
    found = [hook for hook in _WITHOUT_A_PLACE if _overrides(server, hook)]
    if found:
        raise ConfigError(
            f"socketserver_handler: {type(server).__name__} overrides {', '.join(found)}, which"
            " nothing calls here; move what they do into the request handler, or give"
            " ignore_hooks=True"
        )


def _is_a(maker: RequestHandlerMaker, module: str, name: str) -> bool:
    """Whether it makes instances of a class of the standard library. (Where the class's module
    was never imported, it does not.)"""
    made = getattr(maker, "func", maker)  # a partial's
    known = getattr(sys.modules.get(module), name, None)
    return known is not None and isinstance(made, type) and issubclass(made, known)


class _Maker:
    """Makes request handlers, each of its own class, with what its connection needs here."""

    def __init__(self, maker: RequestHandlerMaker) -> None:
        self._make = maker
        self._class: Any = getattr(maker, "func", maker)  # a partial's
        self._arguments = getattr(maker, "args", ()), getattr(maker, "keywords", {})
        self._by_wsgi = _is_a(maker, "wsgiref.simple_server", "WSGIRequestHandler")
        sets = isinstance(self._class, type) and self._class
        self._sets_nodelay = bool(getattr(sets, "disable_nagle_algorithm", False))

    def make(self, socket: Socket, address: Any, server: Any) -> None:
        """One, which serves its connection as it is made."""
        over_tls = self._by_wsgi and socket.secure
        # A Unix socket has no TCP_NODELAY: `setup` would raise (xmlrpc's sets it).
        no_delay = self._sets_nodelay and socket.family == stdlib_socket.AF_UNIX
        if not (over_tls or no_delay):
            self._make(socket, address, server)
            return
        arguments, keywords = self._arguments
        given = (*arguments, socket, address, server)
        handler = self._class.__new__(self._class, *given, **keywords)
        if no_delay:
            handler.disable_nagle_algorithm = False
        if over_tls:
            handler.get_environ = partial(self._https_environ, handler)
        try:
            handler.__init__(*given, **keywords)
        finally:
            vars(handler).pop("get_environ", None)  # else it would hold itself

    def _https_environ(self, handler: Any) -> dict[str, Any]:
        """For WSGI over TLS (wsgiref.util.guess_scheme)."""
        environ: dict[str, Any] = self._class.get_environ(handler)
        environ["HTTPS"] = "on"
        return environ


class _Adapter:
    """What the connections of one made class share."""

    def __init__(self, make: RequestHandlerMaker, server: Any) -> None:
        self._make = _Maker(make).make
        self._server = server
        # Those of http.server take the host from the address, which a Unix peer's has not.
        self._by_http = _is_a(make, "http.server", "BaseHTTPRequestHandler")
        self._verify = getattr(server, "verify_request", None)
        self._finish = server.finish_request if _overrides(server, "finish_request") else None
        self._handle_error = server.handle_error if _overrides(server, "handle_error") else None
        self._listening: Any = None  # the address that the server's attributes tell of

    def serve(self, socket: Socket) -> Close | Error:
        """One connection. Thread: its handler's."""
        self._tell_address(socket)
        address: Any = socket.getpeername()
        if self._by_http and not isinstance(address, tuple):
            address = (address, 0)
        try:
            if self._verify is None or self._verify(socket, address):
                if self._finish is not None:
                    self._finish(socket, address)
                else:
                    self._make(socket, address, self._server)
        except Exception as error:
            if self._handle_error is None:
                raise
            self._handle_error(socket, address)  # reports it, as the standard library has it
            if isinstance(error, SocketError):
                raise  # how the connection ended, which is never logged
            return Error(error)
        return Close()

    def _tell_address(self, socket: Socket) -> None:
        address: Any
        try:
            address = socket.connection.server.local_address
        except ServerNotRunning:  # a stop or a suspension has begun
            address = self._listening or socket.getsockname()
        if address == self._listening:
            return
        server = self._server
        host, port = address[:2] if isinstance(address, tuple) else (address, 0)
        server.server_address = address
        # Not getfqdn, as http.server has it: that asks a name server, and may wait for it.
        server.server_name = stdlib_socket.gethostname() if host in _ANY_HOST else host
        server.server_port = port
        if hasattr(server, "setup_environ"):
            server.setup_environ()
        elif not hasattr(server, "base_environ"):
            server.base_environ = {
                "SERVER_NAME": server.server_name,
                "GATEWAY_INTERFACE": "CGI/1.1",
                "SERVER_PORT": str(port),
                "REMOTE_HOST": "",
                "CONTENT_LENGTH": "",
                "SCRIPT_NAME": "",
            }
        self._listening = address
