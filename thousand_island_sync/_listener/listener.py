"""The listening sockets of one run: opened, spread over acceptors, closed.

Opening, suspending and resuming happen on the calling thread.
"""

from __future__ import annotations

import errno
from typing import Any

from .._base import addresses
from .._base.listen_errors import listen_error
from ..errors import ListenError
from ..transports.base import ListenSocket, Transport
from . import backlog_size
from .acceptors import Acceptors
from .admission import Admission
from .backlog import Backlog
from .inline_accept import Scheduler
from .shared_socket import SharedSocket
from .shortage import Shortage

_BACKLOG = 1_024


class Listener:
    """The listening side of one run. Thread: one at a time, unless a method says otherwise.

    Args:
        count: listening sockets to open.
        num_acceptors: threads that accept, spread over them.
        acceptors: has those threads.
        admission: admits the clients.
        scheduler: the pool's.
        name: prefix of the names of threads.

    Attributes:
        address: what it listens on, as users see it; `None`: it does not listen.
        listened: the same; while suspended, the address before that.
    """

    def __init__(
        self,
        count: int,
        num_acceptors: int,
        acceptors: Acceptors,
        admission: Admission,
        scheduler: Scheduler,
        name: str,
    ) -> None:
        self._count = count
        self._num_acceptors = num_acceptors
        self._acceptors = acceptors
        self._admission = admission
        self._scheduler = scheduler
        self._name = name
        self._shortage = Shortage()
        self._sockets: list[ListenSocket] = []
        self._shared: list[SharedSocket] = []
        self._most = _BACKLOG
        self._backlog: Backlog | None = None  # of a `close` that is under way
        self.address: Any = None
        self.listened: Any = None

    # ---- opening ------------------------------------------------------------------

    def open(self, transport: Transport, port: int) -> None:
        """Binds and listens; nothing is left behind if that fails.

        Raises:
            ListenError: the address is not available, or no descriptor is left.
        """
        try:
            self._sockets = transport.listen(port, self._count)
        except ListenError:
            raise
        except (UnicodeError, OverflowError) as error:  # no name that could resolve
            refused = OSError(errno.EINVAL, str(error))
            raise listen_error(refused, transport.options.get("host", ""), port) from error
        except OSError as error:
            raise listen_error(error, transport.options.get("host", ""), port) from error
        self._most = int(transport.options.get("backlog", _BACKLOG))
        self.address = self.listened = addresses.pair(self._sockets[0].address)
        self._shortage.keep_spare()

    def start_acceptors(self) -> None:
        """If it fails, `close` undoes what was done.

        Raises:
            RuntimeError: no thread can be started.
            OSError: no descriptor is free.
        """
        for sock in self._sockets:
            self._shared.append(SharedSocket(sock, self._admission, self._scheduler))
        count = max(self._num_acceptors, len(self._shared))  # systemd may have passed many
        self._acceptors.start(count, self._shared, self._admission, self._shortage)

    # ---- while it is open -----------------------------------------------------------

    def serves(self) -> bool:
        """Whether at least one acceptor serves (`Acceptors.serve`). Thread: any."""
        return self._acceptors.serve()

    def backlog(self) -> backlog_size.Sizes:
        """How many clients wait in the kernel, and how many may. Thread: any."""
        return backlog_size.of_all([listening.socket for listening in list(self._sockets)])

    def look_again(self) -> None:
        """Has acceptors check whether the pool still accepts the clients. Thread: any."""
        for shared in self._shared:
            shared.look_again()

    def ensure_acceptors(self) -> None:
        """Restarts acceptors whose threads have died. Thread: any."""
        self._acceptors.ensure()

    # ---- closing ------------------------------------------------------------------

    def close(self, reason: str, deadline: float) -> Backlog:
        """Stops accepting: acceptors end, the backlog is taken in, the sockets close. Runs no user
        code. If an exception interrupts it, the next call does the rest.

        Args:
            reason: for the event `acceptor.shutdown`.
            deadline: when to stop waiting for acceptors. One that is in a receiver does not use
                the listening socket, so `close` waits for it only a moment.

        Returns:
            The clients of the backlog, to be settled.
        """
        self._acceptors.end(reason)
        for shared in self._shared:
            shared.close_inline(deadline)
        self._admission.limit.wake_all()
        self._acceptors.wait_for_release(deadline)
        backlog = self._backlog = self._backlog or Backlog(self._admission, 0, self._name)
        for sock in list(self._sockets):
            sock.hide()
            if not sock.inherited:
                backlog.take(sock.socket, self._most)
            sock.close()
            self._sockets.remove(sock)
        self.address = None
        self._shared.clear()
        self._acceptors.leave()
        self._backlog = None
        return backlog

    def close_sockets(self) -> None:
        """Closes the sockets if no acceptor was started."""
        while self._sockets:
            self._sockets.pop().close()
        self.address = None
        self._shortage.drop_spare()

    def leave(self, until: float) -> bool:
        """The last call. Whether the acceptors have ended, as `Acceptors.gone`."""
        self._shortage.drop_spare()
        return self._acceptors.gone(until)
