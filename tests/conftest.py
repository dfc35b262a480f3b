"""Fixtures: servers, clients, certificates, recorded events, and the leak check.

A test that leaves a thread or a descriptor behind fails, and so does one in which a server
found that it breaks a rule of its own (`THOUSAND_ISLAND_DEBUG`).
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies

try:
    import trustme
except ImportError:  # a free-threaded 3.13: cffi, and so pyOpenSSL, has no build for it
    trustme = None  # type: ignore[assignment]

from tests.side_by_side import share_of, turn
from tests.support import Recorder, eventually
from thousand_island_sync import TCP, TLS, ThousandIsland, detach_logger, events
from thousand_island_sync._base import reports
from thousand_island_sync.testing._leaks import open_descriptors
from thousand_island_sync.testing._serve import at_a_free_port

# No test is timed: a machine may stand still for a while.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

#: What cannot even be imported without OpenSSL.
collect_ignore_glob = (
    []
    if trustme
    else [
        "test_tls*",
        "test_readme.py",
        "test_failures_tls.py",
        "test_benchmarks.py",
        "test_cluster.py",
    ]
)


#: The half of the quick tests that takes longest: marked `slow`, and run on the oldest Python and
#: the newest.
SLOW = {
    "test_cluster",
    "test_detach",
    "test_endings",
    "test_exits",
    "test_failures_accept",
    "test_failures_pool",
    "test_failures_stop",
    "test_shared_descriptor",
    "test_slots",
    "test_stop_in_time",
    "test_stress",
    "test_tls_hello",
    "test_accelerator",
    "test_users_code",
    "test_write_pollers",
}


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.stem in SLOW:
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves what is another process's, where `tests.side_by_side` runs several."""
    share = os.environ.get("TESTS_SHARE")
    if share is None:
        return
    number, _, place = share.partition(" ")
    Path(place).write_text("\n".join(sorted(item.nodeid for item in items)))
    others = [item for item in items if share_of(item.nodeid) != int(number)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if share_of(item.nodeid) == int(number)]


def pytest_collection_finish() -> None:
    """What is there before any test is none's: each collection of a test is quick without it."""
    # Hypothesis looks who refers to its random generator, and sees nobody in what is frozen: on
    # Python 3.14, where CI derandomizes it, the first test would fail of its warning.
    given(strategies.none())(lambda value: None)()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    share = os.environ.get("TESTS_SHARE")
    if share is None:
        return (yield)
    folder = Path(share.partition(" ")[2]).parents[1]
    with turn(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for target in open_descriptors().values():
        # Anonymous ones have numbers that change; files and pipes of pytest do not matter.
        kind = target.partition(":")[0]
        if kind in ("socket", "anon_inode", "pipe"):
            found[target if kind == "anon_inode" else kind] += 1
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails a test after which a thread or a descriptor is left that was not there before."""
    threads = set(threading.enumerate())
    before = _descriptors()
    yield
    detach_logger("error")
    found, reports.violations[:] = reports.violations[:], []
    assert not found, found
    left: list[str] = []

    def clean() -> bool:
        extra = [one for one in threading.enumerate() if one not in threads and one.is_alive()]
        left[:] = [one.name for one in extra]
        return not extra

    assert eventually(clean, 5), f"threads left behind: {left}"
    if (_descriptors() - before).total():
        gc.collect()
    assert eventually(lambda: not _descriptors() - before, 5), (
        f"descriptors left behind: {_descriptors() - before}"
    )


@pytest.fixture
def serve() -> Iterator[Callable[..., ThousandIsland]]:
    """Starts servers on free ports of 127.0.0.1; stops them afterwards."""
    servers: list[ThousandIsland] = []

    def start(handler_cls: type, **options: Any) -> ThousandIsland:
        options.setdefault("num_acceptors", 2)
        server = ThousandIsland(handler_cls=handler_cls, **at_a_free_port(options))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop(2_000)


@pytest.fixture
def client() -> Iterator[Callable[..., socket.socket]]:
    """Connects plain clients; closes them afterwards."""
    made: list[socket.socket] = []

    def connect(server: ThousandIsland, timeout: float = 10) -> socket.socket:
        address = server.local_address
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            made.append(sock)
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            return sock
        host = "127.0.0.1" if address[0] == "0.0.0.0" else address[0]
        sock = socket.create_connection((host, address[1]), timeout=timeout)
        made.append(sock)
        return sock

    yield connect
    for sock in made:
        sock.close()


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    """Connects recorders to events; disconnects them afterwards."""
    recorders: list[Recorder] = []

    def start(*names: str) -> Recorder:
        recorder = Recorder(names or tuple(events.ALL))
        recorders.append(recorder)
        return recorder

    yield start
    for recorder in recorders:
        recorder.close()


class Authority:
    """A certificate authority of the tests."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        issued = self.ca.issue_cert("localhost", "127.0.0.1", "a.example", "b.example")
        self.chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        self.key = issued.private_key_pem.bytes()
        self.ca_pem = self.ca.cert_pem.bytes()
        self.options: dict[str, Any] = {"certfile": self.chain, "keyfile": self.key}

    def client_context(
        self, version: ssl.TLSVersion | None = None, with_certificate: bool = False
    ) -> ssl.SSLContext:
        # Not the default context: that loads the machine's authorities, too, each time.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if with_certificate:
            self.ca.issue_cert("client@example.org").configure_cert(context)
        return context

    def server_context(self) -> Any:
        """A ready `OpenSSL.SSL.Context`, as users may bring one."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from OpenSSL import SSL

        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(x509.load_pem_x509_certificate(self.chain))
        context.use_privatekey(serialization.load_pem_private_key(self.key, None))
        return context


@pytest.fixture(scope="session")
def authority() -> Authority:
    if trustme is None:
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail("trustme is not installed, and this run requires it")
        pytest.skip("no trustme: TLS is not tested")
    return Authority()


@pytest.fixture
def secure(client: Callable[..., socket.socket]) -> Iterator[Callable[..., ssl.SSLSocket]]:
    """Connects clients over TLS, with a context of the test's; closes them afterwards."""
    wrapped: list[ssl.SSLSocket] = []

    def connect(
        server: ThousandIsland, context: ssl.SSLContext, name: str = "localhost"
    ) -> ssl.SSLSocket:
        sock = context.wrap_socket(client(server), server_hostname=name)
        wrapped.append(sock)
        return sock

    yield connect
    for sock in wrapped:
        sock.close()


class Wire:
    """One kind of connection: how to serve it, and how to connect a client to it."""

    def __init__(
        self,
        name: str,
        serve: Callable[..., ThousandIsland],
        client: Callable[..., socket.socket],
        authority: Authority | None,
        path: str,
    ) -> None:
        self.name = name
        self._serve, self._client, self._authority, self._path = serve, client, authority, path
        self.secure = name.startswith("tls")
        self._closing: list[ssl.SSLSocket] = []

    def serve(self, handler_cls: type, **options: Any) -> ThousandIsland:
        given = dict(options.pop("transport_options", {}))
        if self._authority is not None:
            given = {**self._authority.options, **given}
        if self.name == "unix":
            given["host"] = f"unix:{self._path}"
        transport = TLS if self.secure else TCP
        return self._serve(handler_cls, transport_cls=transport, transport_options=given, **options)

    def context(self) -> ssl.SSLContext | None:
        """A client's; `None` where there is no TLS."""
        if self._authority is None:
            return None
        version = ssl.TLSVersion.TLSv1_2 if self.name == "tls1.2" else ssl.TLSVersion.TLSv1_3
        return self._authority.client_context(version)

    def connect(self, server: ThousandIsland) -> socket.socket:
        sock = self._client(server)
        context = self.context()
        if context is None:
            return sock
        wrapped = context.wrap_socket(sock, server_hostname="localhost")
        self._closing.append(wrapped)
        return wrapped

    def end(self, sock: socket.socket) -> None:
        """Ends a client's sending side."""
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for sock in self._closing:
            sock.close()


@pytest.fixture(params=["tcp", "unix", "tls1.2", "tls1.3"])
def wire(
    request: pytest.FixtureRequest,
    serve: Callable[..., ThousandIsland],
    client: Callable[..., socket.socket],
    tmp_path: Any,
) -> Iterator[Wire]:
    """Every kind of connection: what is said of one holds for all."""
    authority = request.getfixturevalue("authority") if request.param.startswith("tls") else None
    made = Wire(request.param, serve, client, authority, str(tmp_path / "socket"))
    yield made
    made.close()


@pytest.fixture
def stopwatch() -> Callable[[], float]:
    """Seconds since the fixture was made."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads are switched every ten microseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
