"""The acceptors' threads, of all listening sockets of one listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._base.clock import now
from .._base.locks import lock
from .._base.supervised import Supervised, say
from ..errors import ThousandIslandError
from .accept_turns import SharedWakeUp
from .acceptor import Acceptor
from .admission import Admission
from .shared_socket import SharedSocket
from .shortage import Shortage

#: The least time between two reports that no acceptor serves, in seconds.
_TOLD_S = 60.0
#: Seconds that closing waits for acceptors that are in a receiver.
_RECEIVERS_S = 0.1


class Acceptors:
    """Starts acceptors, ends them, and forgets them when their threads have ended.

    They are woken by a descriptor that they poll beside the listening socket. `shutdown` on the
    listening socket would wake them, too, but end it for every process that shares it.

    Args:
        name: prefix of the threads' names.
        blocked: whether a thread waits for the caller, which so must not wait for that thread.
        nobody: called when no acceptor serves; all are restarted later.
    """

    def __init__(
        self,
        name: str,
        blocked: Callable[[int], bool],
        nobody: Callable[[ThousandIslandError], None],
    ) -> None:
        self._name = name
        self._blocked = blocked
        self._nobody = nobody
        self._lock = lock("listener")
        self._members: list[Acceptor] = []
        self._threads: dict[Acceptor, Supervised] = {}
        self._leaving: list[tuple[Acceptor, Supervised | None]] = []
        self._wake_up: SharedWakeUp | None = None
        self._told_at = -_TOLD_S

    # ---- starting -----------------------------------------------------------------

    def start(
        self,
        count: int,
        sockets: Sequence[SharedSocket],
        admission: Admission,
        shortage: Shortage,
    ) -> None:
        """Starts so many, spread over the sockets. If it fails, `end` and `leave` undo what was
        done.

        Raises:
            RuntimeError: no thread can be started.
            OSError: no descriptor is free.
        """
        wake_up = self._wake_up = SharedWakeUp()
        for index in range(count):
            shared = sockets[index % len(sockets)]
            acceptor = Acceptor(index + 1, shared, admission, shortage, wake_up, self._name)
            with self._lock:
                self._members.append(acceptor)
            self._start(acceptor)

    def _start(self, acceptor: Acceptor) -> None:
        thread = Supervised(
            lambda: self._run(acceptor),
            f"{self._name}-acceptor-{acceptor.number}",
            lambda error: acceptor.died(error, self._one_less),
        )
        try:
            for wake_up in acceptor.wake_ups():
                wake_up.hold(acceptor)
            with self._lock:
                self._threads[acceptor] = thread
            thread.start()
        except BaseException:
            if thread.give_up():
                self._let_go(acceptor)
                with self._lock:
                    self._threads.pop(acceptor, None)
            raise

    def _let_go(self, acceptor: Acceptor) -> None:
        for wake_up in acceptor.wake_ups():
            wake_up.release(acceptor)

    def _run(self, acceptor: Acceptor) -> None:
        """Thread: the acceptor's."""
        acceptor.run()
        acceptor.gone.open()
        self._let_go(acceptor)

    # ---- while they serve -----------------------------------------------------------

    def serve(self) -> bool:
        """Whether at least one serves. Thread: any."""
        return any(acceptor.serves() for acceptor in list(self._members))

    def ensure(self) -> None:
        """Restarts the threads that have died. Thread: any."""
        for thread in list(self._threads.values()):
            thread.ensure()

    def _one_less(self) -> None:
        """An acceptor does not serve for a while. Thread: its own."""
        if self.serve() or now() < self._told_at + _TOLD_S:
            return
        self._told_at = now()
        error = ThousandIslandError(
            "no acceptor serves: each has died again and again, as the log says, so no client is"
            " accepted; all are restarted every few seconds"
        )
        say(str(error), None)
        self._nobody(error)

    # ---- ending ---------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Tells them to end; call `wait_for_release` next."""
        with self._lock:
            members = list(self._members)
        for acceptor in members:
            acceptor.use.end(reason)
        if self._wake_up is not None:
            self._wake_up.wake()

    def wait_for_release(self, until: float) -> None:
        """Waits until none uses the listening sockets any more; and a moment longer for them to
        end, as all do that are not in a receiver.

        Args:
            until: how long to wait, on the monotonic clock.
        """
        with self._lock:
            members = list(self._members)
        for acceptor in members:
            acceptor.use.released.wait(until - now())
        until = min(until, now() + _RECEIVERS_S)
        for acceptor in members:
            thread = self._threads.get(acceptor)
            if thread is None or not thread.is_alive():
                continue
            if not thread.waits_for_caller(self._blocked):
                acceptor.gone.wait(until - now())

    def leave(self) -> None:
        """Makes room for new ones. `gone` waits for those that were told to end."""
        with self._lock:
            gone, self._members = self._members, []
            self._leaving += [(one, self._threads.pop(one, None)) for one in gone]
        self._forget_the_gone()
        wake_up, self._wake_up = self._wake_up, None
        if wake_up is not None:
            wake_up.release()

    def gone(self, until: float) -> bool:
        """Whether all that left have ended, except those that wait for the caller."""
        everybody = True
        for _, thread in self._leaving:
            gone = thread is None or thread.wait(until, self._blocked)
            everybody = gone and everybody
        self._forget_the_gone()
        return everybody

    def _forget_the_gone(self) -> None:
        for acceptor, thread in list(self._leaving):
            if thread is None or not thread.is_alive():
                self._let_go(acceptor)
                self._leaving.remove((acceptor, thread))
