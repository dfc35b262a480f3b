"""`thousand-island top PATH`: what a server does, second by second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .client import GOOD, REFUSED, Admin, Unreachable, WrongWords, say_what_is_wrong
from .commands import near

USAGE = "PATH [--once] [--json]"
_FLAGS = ("--once", "--json")
#: Seconds between two looks; `--once` takes two.
_EVERY_S, _ONCE_S = 1.0, 0.5
#: Callbacks that are listed.
_LISTED = 15
#: Rates, by the figure of `info` whose growth they are.
_RATES = {
    "accepted_per_s": "accepted_total",
    "rejected_per_s": "rejected_total",
    "bytes_received_per_s": "bytes_received_total",
    "bytes_sent_per_s": "bytes_sent_total",
}


#: The same of threads.
_THREADS = {"all": "handler_threads", "busy": "busy_threads", "waited_for": "waiting_connections"}


class Refused(Exception):
    """A command was refused."""


class Look(NamedTuple):
    """What was seen at a moment."""

    at: float
    info: dict[str, Any]
    workers: list[dict[str, Any]]
    callbacks: list[dict[str, Any]]


def look(admin: Admin) -> Look:
    """Asks.

    Raises:
        Unreachable: nobody answers any more.
        Refused: one of the questions was.
    """
    info = _asked(admin, "info")["info"]
    at = time.monotonic()
    workers = _asked(admin, "workers")["workers"]
    stacks = _asked(admin, "dump")["stacks"]
    callbacks = [
        {key: value for key, value in one.items() if key != "stack"}
        for one in stacks
        if "callback" in one
    ]
    return Look(at, info, workers, callbacks[:_LISTED])


def _asked(admin: Admin, do: str) -> dict[str, Any]:
    answer = admin.ask(do)
    if not answer["ok"]:
        raise Refused(f"{do}: {answer.get('error')}")
    return answer


def shown(before: Look, after: Look) -> dict[str, Any]:
    """Two looks, as one JSON object."""
    passed = max(after.at - before.at, 1e-3)
    rates = {
        name: round((after.info[figure] - before.info[figure]) / passed, 1)
        for name, figure in _RATES.items()
        if figure in after.info
    }
    return {
        "info": after.info,
        "rates": rates,
        "threads": {name: after.info[figure] for name, figure in _THREADS.items()},
        "callbacks": after.callbacks,
        "workers": after.workers,
    }


def looks(path: str, every_s: float) -> Iterator[dict[str, Any]]:
    """One after the other, for good."""
    with Admin(path) as admin:
        before = look(admin)
        while True:
            time.sleep(every_s)
            after = look(admin)
            yield shown(before, after)
            before = after


def top(words: Sequence[str]) -> int:
    """`thousand-island top PATH [--once] [--json]`.

    Returns:
        The exit code: 0; 1: it was refused; 2: nobody can be reached, the words are wrong, or the
        extra is missing.
    """
    if "--help" in words or "-h" in words:
        print(f"usage: thousand-island top {USAGE}")
        return GOOD
    try:
        path, once, as_json = _read(words)
        found = looks(path, _ONCE_S if once else _EVERY_S)
        if as_json:
            for one in found:
                print(json.dumps(one), flush=True)
                if once:
                    break
        else:
            _draw(found, path, once)
    except Refused as error:
        say_what_is_wrong(error)
        return REFUSED
    except (Unreachable, WrongWords) as error:
        return say_what_is_wrong(error)
    except KeyboardInterrupt:
        pass
    return GOOD


def _read(words: Sequence[str]) -> tuple[str, bool, bool]:
    flags = [word for word in words if word.startswith("--")]
    paths = [word for word in words if not word.startswith("--")]
    for flag in flags:
        if flag not in _FLAGS:
            raise WrongWords(f"top: {flag}: there is no such flag{near(flag, _FLAGS)}")
    if len(paths) != 1:
        raise WrongWords(f"top: takes {USAGE}")
    return paths[0], "--once" in flags, "--json" in flags


# ---- for people: rich ---------------------------------------------------------------


def _draw(found: Iterator[dict[str, Any]], path: str, once: bool) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise WrongWords(
            "top: needs the extra top: pip install 'thousand_island_sync[top]'; or give --json"
        ) from None
    console = Console()
    if once:
        console.print(_page(next(found), path))
        return
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        for one in found:
            live.update(_page(one, path), refresh=True)


def _page(one: Mapping[str, Any], path: str) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    info = one["info"]
    figures = Table.grid(padding=(0, 2))
    for name, value in (*info.items(), *one["rates"].items()):
        if name not in ("name", "status", "servers"):
            figures.add_row(Text(name, "dim"), Text(_written(value)))
    workers = _table("workers", one["workers"])
    callbacks = _table("longest callbacks", one["callbacks"])
    head = Text(f"{info['name']}  {info['status']}  {path}", "bold")
    return Group(head, figures, callbacks, workers)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left", box=None)
    for name in names:
        table.add_column(name)
    for row in rows:
        # Not as text with rich's own marks in it: who names a server may have brackets there.
        table.add_row(*(Text(_cell(name, row)) for name in names))
    return table


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name, "")
    return str(value) if name == "pid" else _written(value)


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ":".join(map(str, value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
