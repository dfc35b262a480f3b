"""The pytest plugin of `thousand_island_sync`: the fixture `thousand_island`.

It is a module of its own, beside the package, so that a run of pytest that does not use the fixture
imports nothing of the package (`pytest11`, in setup.cfg).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from thousand_island_sync import Handler
    from thousand_island_sync.testing import Server


@pytest.fixture
def thousand_island() -> Iterator[Callable[..., Server]]:
    """Starts servers: `srv = thousand_island(Echo, **options)`, with the options of
    `thousand_island_sync.testing.serve`, `expect` and `ignore_threads` among them.

    Each is stopped and looked at, as `serve` does it, at the end of the test, the last one first;
    or at the end of `with srv:`.
    """
    from thousand_island_sync.testing import Server

    made: list[Server] = []

    def start(handler_cls: type[Handler], **options: Any) -> Server:
        server = Server(handler_cls=handler_cls, **options)
        made.append(server)
        return server

    yield start
    failures: list[BaseException] = []
    for server in reversed(made):
        try:
            with server:
                pass
        except BaseException as failure:
            failures.append(failure)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"and: {other}")
        raise failures[0]
