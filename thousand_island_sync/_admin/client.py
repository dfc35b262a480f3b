"""The client of an admin socket, for `ctl` and `top`."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn

from .._base import addresses
from .._base.printable import one_line
from .commands import VERSION, near

#: Seconds that an answer may take; of a reload that is waited for, no limit.
_ANSWER_S = 10.0
GOOD, REFUSED, UNREACHABLE = 0, 1, 2
#: Command -> the words that follow it, each with the key that it is.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "info": (),
    "workers": (),
    "connections": (),
    "close": ("id",),
    "suspend": (),
    "resume": (),
    "drain": (),
    "reload": (),
    "stop": (),
    "dump": (),
    "log-level": ("level",),
}
_SWITCHES = {"reload": ("--wait", "--certificates")}
USAGE = (
    "PATH info|workers|connections|close ID|suspend|resume|drain|reload [--wait]"
    " [--certificates]|stop|dump|log-level LEVEL"
)


class Unreachable(Exception):
    """There is no answer, or not one of this protocol. The text says from where, and why."""


class WrongWords(Exception):
    """What is wrong with a command line, as one line."""


class Admin:
    """A connection to an admin socket; a context manager.

    Args:
        path: of the socket.

    Raises:
        Unreachable: nobody listens there.
    """

    def __init__(self, path: str) -> None:
        self._path = path.removeprefix(addresses.UNIX_PREFIX)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(_ANSWER_S)
        try:
            self._sock.connect(self._path)
        except (OSError, ValueError) as error:
            self._sock.close()
            self._failed(error)
        self._file = self._sock.makefile("rb")

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            Unreachable: there is none.
        """
        self._sock.settimeout(None if more.get("wait") else _ANSWER_S)
        line = json.dumps({"v": VERSION, "do": do, **more}).encode() + b"\n"
        try:
            try:
                self._sock.sendall(line)
            except BrokenPipeError:
                pass  # who is refused is told before it asks
            answer = json.loads(self._file.readline())
        except (OSError, ValueError) as error:
            self._failed(error)
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise Unreachable(
                f"{self._path}: it is not an admin socket (its answer is of another kind)"
            )
        return answer

    def _failed(self, error: Exception) -> NoReturn:
        if isinstance(error, TimeoutError):
            said = f"no answer within {_ANSWER_S:.0f} s"
        elif isinstance(error, OSError):
            said = error.strerror or str(error)
        elif isinstance(error, json.JSONDecodeError):
            said = "it closed without an answer, or is not an admin socket"
        else:
            said = str(error)
        raise Unreachable(f"cannot reach {self._path}: {said}") from error

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._sock.close()


def say_what_is_wrong(text: object) -> int:
    """One line on standard error, and the exit code."""
    print(f"thousand-island: {one_line(str(text))}", file=sys.stderr, flush=True)
    return UNREACHABLE


def ctl(words: Sequence[str]) -> int:
    """`thousand-island ctl PATH ...`: prints the answer as one line of JSON.

    Returns:
        The exit code: 0; 1: it was refused; 2: nobody can be reached, or the words are wrong.
    """
    if "--help" in words or "-h" in words:
        print(f"usage: thousand-island ctl {USAGE}")
        return GOOD
    try:
        path, do, more = _read(words)
        with Admin(path) as admin:
            answer = admin.ask(do, **more)
    except (Unreachable, WrongWords) as error:
        return say_what_is_wrong(error)
    print(json.dumps(answer), flush=True)
    return GOOD if answer["ok"] else REFUSED


def _read(words: Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """Path, command, and its other keys."""
    switches = [word for word in words if word.startswith("--")]
    path, do, *rest = [*(word for word in words if not word.startswith("--")), "", ""]
    if not path or not do:
        raise WrongWords(f"ctl: takes {USAGE}")
    if do not in _COMMANDS:
        raise WrongWords(f"ctl: {do}: there is no such command{near(do, _COMMANDS)} ({USAGE})")
    keys, given = _COMMANDS[do], [word for word in rest if word]
    if len(given) != len(keys):
        takes = " ".join([do, *(key.upper() for key in keys)])
        raise WrongWords(f"ctl: {do}: got {len(given)} words after it, takes {takes}")
    more: dict[str, Any] = dict(zip(keys, given, strict=True))
    for switch in switches:
        known = _SWITCHES.get(do, ())
        if switch not in known:
            raise WrongWords(f"ctl: {switch}: {do} takes no such flag{near(switch, known)}")
        more[switch.removeprefix("--")] = True
    return path, do, more
