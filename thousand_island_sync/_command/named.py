"""Objects that the command line names: `package.module:name`."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .._connection.handler_check import is_request_handler
from ..handler import Handler
from ..server import ThousandIsland
from ..socket import Socket
from .errors import UsageError, nearest, one_line


class Echo(Handler):
    """Sends back what it gets."""

    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


class Target:
    """What is served: a handler, or what a function makes.

    Attributes:
        name: as it was written; `echo`: nothing was.
        handler_cls: the handler, or `None`.
    """

    def __init__(self, name: str | None) -> None:
        """Imports it.

        Raises:
            UsageError: it cannot be, or is neither.
        """
        self.name = name or "echo"
        self.handler_cls: type[Handler] | None = None
        self._make: Callable[[], Any] | None = None
        found = Echo if name is None else find(name)
        if isinstance(found, type) and issubclass(found, Handler):
            self.handler_cls = found
        else:
            self._make = _maker(self.name, found)

    def make(self) -> list[ThousandIsland]:
        """Calls the function.

        Raises:
            UsageError: it raised, or returned something else.
        """
        assert self._make is not None
        made = call(self.name, self._make)
        servers = list(made) if isinstance(made, list | tuple) else [made]
        if not servers or not all(isinstance(one, ThousandIsland) for one in servers):
            raise UsageError(
                f"{self.name}: returned {_shown(made)}, takes a ThousandIsland, or a list of them"
            )
        if len({id(one) for one in servers}) < len(servers):
            raise UsageError(f"{self.name}: returned the same ThousandIsland twice")
        return servers


def _shown(made: Any) -> str:
    if isinstance(made, list | tuple):
        kinds = sorted({type(one).__name__ for one in made})
        return f"a {type(made).__name__} of {', '.join(kinds)}" if kinds else "an empty list"
    return "None" if made is None else f"one of {type(made).__name__}"


def _maker(name: str, found: Any) -> Callable[[], Any]:
    if is_request_handler(found):
        raise UsageError(
            f"{name}: is a request handler of socketserver; wrap it in your module,"
            f" Wrapped = socketserver_handler({found.__name__}), and name Wrapped"
        )
    if isinstance(found, ThousandIsland):
        raise UsageError(f"{name}: is a server; give the name of a function that returns it")
    if isinstance(found, type) or not callable(found):
        raise UsageError(
            f"{name}: is neither a subclass of thousand_island_sync.Handler nor a function that"
            " returns a ThousandIsland"
        )
    return without_arguments(name, found)


def without_arguments(name: str, found: Any) -> Callable[[], Any]:
    """A function that can be called so.

    Raises:
        UsageError: it is none, or needs arguments.
    """
    if not callable(found):
        raise UsageError(f"{name}: is not a function")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{name}: is `async def`, takes a plain function")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UsageError(f"{name}: cannot be called without arguments: {one_line(error)}") from None
    except ValueError:
        pass  # of C, without a signature
    return found  # type: ignore[no-any-return]


def call(name: str, function: Callable[[], Any]) -> Any:
    """Raises UsageError: it raised."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name}: raised {type(error).__name__}: {one_line(error)}") from error


def find(name: str) -> Any:
    """What a name names; the working folder can be imported from.

    Raises:
        UsageError: it cannot be imported, or is not there.
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise UsageError(f"{name}: takes package.module:HandlerClass")
    _import_from_the_working_folder()
    found: Any = _import(name, module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            near = nearest(part, dir(found))
            raise UsageError(f"{name}: {one_line(error)}{near}") from error
    return found


def _import_from_the_working_folder() -> None:
    try:
        here = os.getcwd()
    except OSError:
        return  # there is none any more
    if here not in sys.path:
        sys.path.insert(0, here)


def _import(name: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        near = ""
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            near = _nearest_module(error.name)
        raise UsageError(f"{name}: {one_line(error)}{near}") from error
    except ImportError as error:
        raise UsageError(f"{name}: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{name}: importing it raised {type(error).__name__}: {one_line(error)}"
        ) from error


def _nearest_module(missing: str) -> str:
    """Of the package that it would be in, or of the working folder."""
    package, _, last = missing.rpartition(".")
    try:
        places: Iterable[str] = sys.modules[package].__path__ if package else [os.getcwd()]
    except (KeyError, AttributeError, OSError):
        return ""
    return nearest(last, [module.name for module in pkgutil.iter_modules(places)])
