"""docs/reference/options.md, made from the tables of options.

python -m tests.option_page            # writes the page
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from thousand_island_sync import TCP, TLS
from thousand_island_sync._base.options import MISSING, Option
from thousand_island_sync._command.extras import EXTRAS
from thousand_island_sync._command.table import WITH_FLAGS, flag
from thousand_island_sync._server.config import OPTIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "options.md"

_HEAD = """# Options

Every option is a keyword-only parameter with a type. A wrong value, or a name that there is none
of, is a `ConfigError` from the constructor, before anything is opened; it says what would do. Times
that end in `_ms` are milliseconds, `None` is no limit. This page is made from the tables that
check them, by `python -m tests.option_page`; so are the command line's flags.

The command line takes them as flags, as variables of the environment (`THOUSAND_ISLAND_` and the
name in capitals), and as keys of the file that `--config`, or `THOUSAND_ISLAND_CONFIG`, names,
those of the transport under `[transport]`. In a line and in a variable a list is written with
commas, what is a mapping as JSON; in all three `None` is `none`. What is true or false is `--x` or
`--no-x`, and `true` or `false`. `--alpn` is short for `--alpn-protocols`. `password` has no flag:
everybody sees the arguments of a process.
"""
_SERVER = """## `ThousandIsland(...)`
"""
_TRANSPORT = """## `transport_options` of the listening socket

The types of `transport_options` are the `TypedDict` `TransportOptions`:
`options: TransportOptions = {...}` for what you keep in a variable. `TLS.prepare(**options)` checks
a set once, and what it returns may be given in its place. These stay as they are as long as the
server listens.
"""
_EACH = """## `transport_options` of each connection

`reload_transport` changes these, and those of TLS, for new connections.
"""
_TLS = """## `transport_options` of TLS

With `transport_cls=TLS`; see [tls.md](../howto/tls.md).
"""


_COMMAND = """## The command line's own

`thousand-island --help` lists all flags, `thousand-island check` prints what comes of them.
"""


def _default(option: Option) -> str:
    if option.default is MISSING:
        return "required"
    if isinstance(option.default, type):
        return f"`{option.default.__name__}`"
    if isinstance(option.default, int) and not isinstance(option.default, bool):
        return f"`{option.default:_}`"
    shown = repr(option.default).replace("'", '"')
    return f"`{shown}`"


def _row(name: str, option: Option) -> str:
    written = ""
    if name in WITH_FLAGS:
        switch = f", `{flag('no_' + name)}`" if option.takes == "True or False" else ""
        written = f"`{flag(name)}`{switch}"
    takes = option.takes.replace("|", "\\|")
    return f"| `{name}` | {_default(option)} | {takes} | {option.means} | {written} |"


def _table(options: Mapping[str, Option]) -> list[str]:
    head = "| option | default | takes | | in a command line |\n|---|---|---|---|---|"
    return [head, *(_row(name, option) for name, option in options.items()), ""]


def page() -> str:
    listening = {name: TCP.OPTIONS[name] for name in TCP.OPTIONS if name in TCP.LISTENING}
    each = {name: TCP.OPTIONS[name] for name in TCP.OPTIONS if name not in TCP.LISTENING}
    tls = {name: TLS.OPTIONS[name] for name in TLS.OPTIONS if name not in TCP.OPTIONS}
    lines = [_HEAD]
    command = {name: extra.option for name, extra in EXTRAS.items()}
    for head, table in (
        (_COMMAND, command),
        (_SERVER, OPTIONS),
        (_TRANSPORT, listening),
        (_EACH, each),
        (_TLS, tls),
    ):
        lines += [head, *_table(table)]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
