"""docs/reference/events.md, made from `events.CATALOGUE`.

python -m tests.event_page            # writes the page
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

from tests.senders import SENDERS
from thousand_island_sync import events

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "events.md"

_HEAD = """# Events

Each event is a [blinker](https://blinker.readthedocs.io) signal in `thousand_island_sync.events`,
its name with `_` for `.`: `events.handler_error`. `events.ALL` maps the dotted names to the
signals, `events.CATALOGUE` to what stands here. This page is made from it by
`python -m tests.event_page`.

```python
from thousand_island_sync import events


@events.handler_error.connect
def on_error(server, *, event, measurements, metadata):
    print(server.name, event, metadata["connection_id"], measurements["error"])
```

A receiver is called on the thread where the event happened, and must not take long. blinker holds
receivers weakly: connect a lambda, or a function inside a function, with
`connect(receiver, weak=False)`. `connect(receiver, sender=server)` hears of one server only.

For type checkers the two dictionaries of each event are `TypedDict`s, named for it:
`measurements: events.HandlerErrorMeasurements, metadata: events.HandlerErrorMetadata`.
`dict[str, Any]` will do as well.

For each connection there is one `handler.start`, then one `handler.shutdown` or one
`handler.error`, then one `socket.close`, in that order. Every event also has
`monotonic_time_ns` in its measurements. "Level" is the one of `attach_logger` that writes it.
"""


def _type(type_: Any) -> str:
    if isinstance(type_, types.UnionType):
        return " or ".join(_type(one) for one in type_.__args__)
    return {"NoneType": "None", "object": "any"}.get(type_.__name__, type_.__name__)


def page() -> str:
    lines = [_HEAD]
    for name, one in events.CATALOGUE.items():
        sent = ", or ".join(sender.words for sender in SENDERS[name])
        about = f"Level: `{one.level}`. Thread: {sent}."
        lines.append(f"## `{name}`\n\n{one.description} {about}\n")
        lines.append("| | key | type | |\n|---|---|---|---|")
        for kind, keys in (("measurements", one.measurements), ("metadata", one.metadata)):
            for key, (type_, meaning) in keys.items():
                if key != "monotonic_time_ns":
                    lines.append(f"| {kind} | `{key}` | {_type(type_)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
