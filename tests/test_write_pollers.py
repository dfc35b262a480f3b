"""What waits for peers that do not read goes out on every poller there is: the tests of
`test_slow_readers` once more, with kqueue (against a stand-in for the module), poll and select."""

import selectors

import pytest

from tests.conftest import Wire
from tests.test_poller import Module
from tests.test_slow_readers import *  # noqa: F403
from thousand_island_sync._connection import outflow
from thousand_island_sync._scheduler.poller import KqueuePoller, SelectorPoller
from thousand_island_sync._scheduler.write_poller import KqueueWrites, LookedAt
from thousand_island_sync._server import run

#: Of the scheduler, and of the driver.
POLLERS = {
    "kqueue": (lambda: KqueuePoller(Module), lambda: KqueueWrites(Module)),
    "poll": (lambda: SelectorPoller(selectors.PollSelector), LookedAt),
    "select": (lambda: SelectorPoller(selectors.SelectSelector), LookedAt),
}


@pytest.fixture(params=POLLERS, autouse=True)
def pollers(request, monkeypatch):
    of_scheduler, of_driver = POLLERS[request.param]
    monkeypatch.setattr(run, "new_poller", of_scheduler)
    monkeypatch.setattr(outflow, "new_write_poller", of_driver)


@pytest.fixture(params=["tcp", "tls1.3"])
def wire(request, serve, client, tmp_path):
    authority = request.getfixturevalue("authority") if request.param != "tcp" else None
    made = Wire(request.param, serve, client, authority, str(tmp_path / "socket"))
    yield made
    made.close()
