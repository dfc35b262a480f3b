"""Looking into a server that runs, and changing it, over a Unix socket: `AdminServer`.

`thousand-island ctl PATH info` asks it; docs/howto/operations.md has the commands.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

from ._admin.commands import Commands, Control, begin, check_servers, running
from ._admin.lines import LineServer
from ._admin.stacks import CallbackWatch
from ._base import addresses
from ._base.listen_errors import listen_error, no_thread
from .errors import ConfigError, ServerNotRunning, ThousandIslandError
from .logger import LogLevel, change_level
from .server import ThousandIsland

__all__ = ["AdminServer"]


class _OfServers:
    """Reloads, drains and stops servers one by one, as a user's program would."""

    def __init__(self, servers: Sequence[ThousandIsland]) -> None:
        self._servers = servers

    def reload(self, *, certificates: bool) -> None:
        for server in self._servers:
            server.reload_transport()

    def stop(self) -> None:
        for server in self._servers:
            begin(server.stop, "stop")

    def drain(self) -> None:
        for server in self._servers:
            begin(server.drain, "drain")

    def log_level(self, level: LogLevel) -> None:
        change_level(level)


class AdminServer:
    """Answers questions about servers, and changes them, over a Unix socket: a context manager.

    It has threads of its own, so it answers while every callback blocks. The file's mode is 0600
    before it listens, and only processes of our own user, and root's, are answered.

    Args:
        servers: one or more; they need not have been started.
        path: the socket's file. A stale file is replaced; a relative path is made absolute.

    Raises:
        ConfigError: there is no server, one of them is not a `ThousandIsland`, or `path` is not a
            path.

    Thread: any.
    """

    def __init__(self, *servers: ThousandIsland, path: str | os.PathLike[str]) -> None:
        self._set_up(servers, path, _OfServers(servers))

    @classmethod
    def controlled_by(
        cls, control: Control, servers: Sequence[ThousandIsland], path: str
    ) -> AdminServer:
        """One whose commands change more than servers: the command line's."""
        made = cls.__new__(cls)
        made._set_up(servers, path, control)
        return made

    def _set_up(
        self, servers: Sequence[ThousandIsland], path: str | os.PathLike[str], control: Control
    ) -> None:
        check_servers("AdminServer", servers)
        text = path if isinstance(path, str) else _path_of(path)
        if not text or text.startswith("@") or "\0" in text:
            raise ConfigError(f"path: got {path!r}, takes the path of a Unix socket's file")
        self._path = addresses.unix_name(addresses.absolute(f"unix:{text.removeprefix('unix:')}"))
        self._servers = tuple(servers)
        self._control = control
        self._lines: LineServer | None = None
        self._watch: CallbackWatch | None = None

    def start(self) -> AdminServer:
        """Listens and starts its threads.

        Returns:
            This object.

        Raises:
            ListenError: the path cannot be used, for example because a live server answers there.
            ThousandIslandError: it was started already, or no thread can be started.
        """
        if self._lines is not None:
            raise ThousandIslandError("AdminServer: started already; call stop() first")
        name = f"{self._servers[0].name}-admin"
        watch = CallbackWatch(lambda: running(self._servers), f"{name}-watch")
        lines = LineServer(self._path, Commands(self._servers, self._control, watch).answer, name)
        try:
            lines.open()
            try:
                watch.start()
            except BaseException:
                lines.close()
                raise
        except OSError as error:
            raise listen_error(error, f"unix:{self._path}", 0) from error
        except RuntimeError as error:
            raise no_thread("AdminServer", error) from error
        self._lines, self._watch = lines, watch
        return self

    def stop(self) -> None:
        """Closes the socket, removes its file and ends the threads; answers that are on their way
        go out, for a second at most. On one that was not started it does nothing."""
        lines, watch = self._lines, self._watch
        self._lines = self._watch = None
        if lines is not None and watch is not None:
            lines.close()
            watch.stop()

    def __enter__(self) -> AdminServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def local_address(self) -> str:
        """The path of its socket.

        Raises:
            ServerNotRunning: not started.
        """
        if self._lines is None:
            raise ServerNotRunning("AdminServer: not started; call start() first")
        return self._path


def _path_of(path: os.PathLike[str]) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ConfigError(
            f"path: got {type(path).__name__}, takes the path of a Unix socket's file"
        ) from None
