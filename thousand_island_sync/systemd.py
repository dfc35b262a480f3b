"""systemd's two protocols, without its library: sockets that it passes (sd_listen_fds(3)), and what
a service tells it (sd_notify(3)).

`transport_options={"sockets": "systemd"}` serves what was passed, so a program need not call
`listen_sockets`. The command line tells systemd of its state by itself; a program of your own calls
`notify`.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from typing import NamedTuple

from ._base import descriptors, fork
from ._base.locks import process_lock
from .errors import ListenError

__all__ = ["listen_sockets", "notify"]

_log = logging.getLogger("thousand_island_sync")

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
_FIRST = 3
#: What a descriptor is called of which systemd does not say (sd_listen_fds(3)).
_UNNAMED = "unknown"
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_PREFIX = "systemd"
#: Milliseconds that a notification waits for room in systemd's socket.
_NOTIFY_MS = 1_000


class _Passed(NamedTuple):
    """A descriptor that systemd has passed."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"descriptor {self.number} ({self.name!r}) of systemd's"


class _Inheritance:
    """What was passed to this process, and which server has what.

    Args:
        first: the number of the first descriptor.

    Attributes:
        passed: the descriptors, which stay open for good.
        refusal: why there is none.
    """

    def __init__(self, first: int = _FIRST) -> None:
        self._first = first
        self._read = False
        self._owners: dict[int, Claim] = {}
        self.passed: list[_Passed] = []
        self.refusal = ""

    def read(self) -> None:
        """Once for the process: the variables are taken out of the environment."""
        with _lock:
            if self._read:
                return
            self._read = True
            pid, count, names, _ = [os.environ.pop(name, None) for name in _VARIABLES]
            self.refusal = _refusal(pid, count)
            if self.refusal or count is None:
                return
            given = names.split(":") if names else []
            for index in range(int(count)):
                name = given[index] if index < len(given) and given[index] else _UNNAMED
                one = _Passed(self._first + index, name)
                try:
                    os.set_inheritable(one.number, False)
                except OSError as error:
                    self.passed.clear()
                    self.refusal = f"{one} is not open ({error.strerror})"
                    return
                self.passed.append(one)

    def named(self, name: str | None) -> list[_Passed]:
        """Those of a name; all of them for `None`."""
        self.read()
        return [one for one in self.passed if name in (None, one.name)]

    def take(self, wanted: list[_Passed]) -> list[Claim]:
        """All of them, for one server.

        Raises:
            ListenError: another one has one of them.
        """
        claims = [Claim(one, self) for one in wanted]
        with _lock:
            taken = [one for one in wanted if one.number in self._owners]
            if not taken:
                self._owners.update((claim.number, claim) for claim in claims)
        if taken:
            raise ListenError(
                errno.EADDRINUSE,
                f"sockets: {taken[0]} is served by another server of this process; stop that one,"
                f' or give each server its own: "systemd:NAME"',
            )
        return claims

    def give_back(self, claim: Claim) -> None:
        """A server serves it no more. Nothing where it has given it back before."""
        with _lock:
            if self._owners.get(claim.number) is claim:
                del self._owners[claim.number]

    def forked(self) -> None:
        """In the child: what a server of the parent's serves is the parent's."""
        for number in self._owners:
            try:
                os.close(number)
            except OSError:
                pass  # other code has closed it
        if self._owners:
            self.refusal = "those that were passed are served by the parent process"
        self.passed = [one for one in self.passed if one.number not in self._owners]
        self._owners = {}


class Claim:
    """A passed socket, as long as one server has it."""

    __slots__ = ("_inheritance", "number")

    def __init__(self, passed: _Passed, inheritance: _Inheritance) -> None:
        self.number = passed.number
        self._inheritance = inheritance

    def release(self) -> None:
        """Another server may have it. Thread: any."""
        self._inheritance.give_back(self)


def _refusal(pid: str | None, count: str | None) -> str:
    """Why nothing was passed, by the variables; empty: something was."""
    if pid is None or count is None or count.strip() == "0":
        return (
            "none was passed to this process (LISTEN_PID and LISTEN_FDS say so); start it by its"
            " socket unit, or give a host and a port"
        )
    if not (pid.isdecimal() and count.isdecimal() and int(count) <= 65_536):
        return f"LISTEN_PID={pid!r} and LISTEN_FDS={count!r} are not what systemd passes"
    if int(pid) != os.getpid():
        return (
            f"they were passed to process {pid}, and this one is {os.getpid()}: a wrapper stands"
            " between; use exec in it"
        )
    return ""


_lock = process_lock("systemd")
_inheritance = _Inheritance()
fork.at_fork(in_child=lambda: _inheritance.forked())


# ---- sockets ------------------------------------------------------------------


def is_asked_for(value: object) -> bool:
    """Whether an option, or a host of the command line, says `systemd` or `systemd:NAME`."""
    return isinstance(value, str) and (value == _PREFIX or bool(_name_of(value)))


def _name_of(value: str) -> str | None:
    prefix, colon, name = value.partition(":")
    return name if prefix == _PREFIX and colon else None


def claim(value: str) -> list[Claim]:
    """What `sockets` asks for, for one server, which releases each.

    Raises:
        ListenError: none was passed, none of that name, another server has it, or it is no
            listening stream socket.
    """
    name = _name_of(value)
    wanted = _inheritance.named(name)
    if not wanted:
        raise _none_of(name)
    for one in wanted:
        _check(one)
    return _inheritance.take(wanted)


def _none_of(name: str | None) -> ListenError:
    known = sorted({one.name for one in _inheritance.passed})
    if not known:
        return ListenError(errno.ENOENT, f"sockets: systemd: {_inheritance.refusal}")
    return ListenError(
        errno.ENOENT,
        f"sockets: systemd passed none of the name {name!r}; it passed"
        f" {', '.join(map(repr, known))} (FileDescriptorName= of the socket unit)",
    )


def _check(one: _Passed) -> None:
    """Raises ListenError: it is no listening stream socket."""
    try:
        with socket.socket(fileno=os.dup(one.number)) as sock:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if sock.type == socket.SOCK_STREAM and listens:
                return
        said, number = "is not a listening stream socket", errno.EINVAL
    except OSError as error:
        said = f"is not a listening stream socket: {error.strerror}"
        number = error.errno or errno.EINVAL
    raise ListenError(
        number, f"sockets: {one} {said}; the socket unit needs ListenStream= and Accept=no"
    )


def listen_sockets(name: str | None = None) -> list[socket.socket]:
    """The listening sockets that systemd has passed to this process, for programs that want more of
    them than `transport_options={"sockets": "systemd"}`.

    Args:
        name: those of this name (`FileDescriptorName=` of the socket unit); `None`: all.

    Returns:
        Copies, close-on-exec set, which are the caller's to close; an empty list where none was
        passed, to this process and of this name. The same at each call: LISTEN_PID, LISTEN_FDS and
        LISTEN_FDNAMES are read once, taken out of the environment, and remembered.

    Raises:
        ListenError: one of them is no listening stream socket, or no descriptor is free.

    Thread: any.
    """
    found: list[socket.socket] = []
    try:
        for one in _inheritance.named(name):
            _check(one)
            found.append(socket.socket(fileno=os.dup(one.number)))
    except BaseException as error:
        for sock in found:
            sock.close()
        if isinstance(error, OSError) and not isinstance(error, ListenError):
            raise ListenError(error.errno or 0, f"sockets: {one}: {error.strerror}") from error
        raise
    return found


# ---- telling it ------------------------------------------------------------------


def notify(*assignments: str) -> bool:
    """Tells systemd of this service: `notify("READY=1", "STATUS=serving")`, in one datagram.

    Args:
        assignments: as sd_notify(3) has them, one each.

    Returns:
        Whether it was sent. `False` where nobody listens (NOTIFY_SOCKET is not set: the service is
        not of `Type=notify`, or it runs by hand), and where it cannot be sent. It never raises, and
        waits a second at most.

    Thread: any.
    """
    try:
        with Notifications() as notifications:
            return notifications.send(*assignments)
    except OSError:  # no descriptor is free
        return False
    except Exception as error:
        _log.warning("notify: nothing was sent: %s: %s", type(error).__name__, error)
        return False


def notify_address() -> str | None:
    """NOTIFY_SOCKET as an address; `None`: nobody listens, or it is of a kind we cannot send to.

    A `vsock:` address, of a service manager outside a virtual machine, is not supported.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return None
    if path.startswith("vsock:"):
        _log.warning("notify: NOTIFY_SOCKET is %s; vsock is not supported", path)
        return None
    if path[0] not in "/@" or len(path) < 2:
        _log.warning("notify: NOTIFY_SOCKET is %r, takes an absolute path or @name", path)
        return None
    return "\0" + path[1:] if path[0] == "@" else path


class Notifications:
    """A socket to systemd, which stays open: a server that has run out of descriptors can still say
    that it is alive. A context manager.

    Raises:
        OSError: no descriptor is free.
    """

    def __init__(self) -> None:
        self._address = notify_address()
        self._sock: socket.socket | None = None
        if self._address is not None:
            with descriptors.thread.no_fork:
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                descriptors.hold(self)
            self._sock.setblocking(False)

    @property
    def are_wanted(self) -> bool:
        """Whether anybody listens."""
        return self._sock is not None

    def send(self, *assignments: str, wait: bool = True) -> bool:
        """Whether it was sent.

        Args:
            assignments: as for `notify`.
            wait: for room, a second at most.

        Raises:
            ValueError, TypeError: it cannot be written so.
        """
        sock, address = self._sock, self._address
        if sock is None or address is None or not assignments:
            return False
        message = os.fsencode("\n".join(assignments))
        for timeout_ms in (_NOTIFY_MS if wait else 0, 0):
            try:
                sock.sendto(message, address)
                return True
            except BlockingIOError:
                if not timeout_ms or not _wait_for_room(sock, address, timeout_ms):
                    return False
            except OSError as error:
                _log.debug("notify: nothing was sent: %s", error.strerror)
                return False
        return False

    def close(self) -> None:
        """Nothing is sent any more. More than once is no harm."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with descriptors.thread.no_fork:
                sock.close()

    def abandon(self) -> None:
        """As `descriptors.Holder`: a forked child is another process than systemd knows."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def __enter__(self) -> Notifications:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _wait_for_room(sock: socket.socket, address: str, timeout_ms: int) -> bool:
    """Whether there is some. Connected, for only then the kernel tells of it (unix(7))."""
    try:
        sock.connect(address)
    except OSError:
        return False
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLOUT)
    return bool(poller.poll(timeout_ms))
