"""`watch_certificates`: files of certificates, looked at on a thread that ends with the server."""

import logging
import ssl
import threading

import pytest

from tests.support import Echo, eventually
from thousand_island_sync import TCP, TLS, ConfigError, ThousandIsland
from thousand_island_sync._base.supervised import Supervised
from thousand_island_sync._server.certificate_watch import CertificateWatch

pytest.importorskip("trustme")


class Files:
    """Stands for a server's certificates: some files, and a loader that counts."""

    def __init__(self, *paths):
        self.paths = [str(path) for path in paths]
        self.loads = 0
        self.error = None

    def files(self):
        return self.paths

    def reload(self):
        self.loads += 1
        if self.error is not None:
            raise self.error


class Server:
    """Stands for a server that ends when it is told to, and counts the waits for that."""

    def __init__(self):
        self.ended = threading.Event()
        self.waits = 0

    def wait(self, seconds):
        self.waits += 1
        return self.ended.wait(seconds)


@pytest.fixture
def watched():
    """Watches files until the test is over."""
    servers = []

    def start(files, interval_ms=5):
        server = Server()
        servers.append(server)
        watch = CertificateWatch(files, server.wait, "t")
        watch.ask(interval_ms)
        watch.begin()
        return watch, server

    yield start
    for server in servers:
        server.ended.set()


def test_it_loads_when_a_file_changes_and_not_otherwise(watched, tmp_path):
    first, second = tmp_path / "cert", tmp_path / "key"
    first.write_bytes(b"1")
    files = Files(first, second)
    _, server = watched(files)
    second.write_bytes(b"appears")
    assert eventually(lambda: files.loads == 1)
    first.write_bytes(b"longer")
    assert eventually(lambda: files.loads == 2)
    second.unlink()
    assert eventually(lambda: files.loads == 3)
    looks = server.waits
    assert eventually(lambda: server.waits > looks + 3)
    assert files.loads == 3


@pytest.mark.parametrize("error", [ConfigError("certfile: bad"), RuntimeError("a bug")])
def test_what_goes_wrong_is_logged_once_and_it_goes_on(error, watched, tmp_path, caplog):
    file = tmp_path / "cert"
    files = Files(file)
    files.error = error
    with caplog.at_level(logging.INFO):
        watched(files)
        file.write_bytes(b"bad")
        assert eventually(lambda: "old ones stay in use" in caplog.text)
        files.error = None
        file.write_bytes(b"better now")
        assert eventually(lambda: "certificates reloaded" in caplog.text)
    (told,) = [record for record in caplog.records if "old ones stay" in record.message]
    assert told.levelno == logging.ERROR


def test_a_later_call_replaces_an_earlier_one(watched, tmp_path):
    file = tmp_path / "cert"
    files = Files(file)
    watch, _ = watched(files, 5)
    watch.ask(7)
    watch.begin()
    names = [thread.name for thread in threading.enumerate()]
    assert eventually(lambda: [t.name for t in threading.enumerate()].count("t-certificates") == 1)
    assert "t-certificates" in names


@pytest.mark.parametrize("interval", [0, -1, float("inf"), float("nan"), "60", None, True])
def test_an_interval_is_a_number_of_milliseconds(interval, authority):
    server = secure(authority)
    with pytest.raises(ConfigError, match=r"watch_certificates: interval_ms: got .* milliseconds"):
        server.watch_certificates(interval)


# ---- with a server ----------------------------------------------------------


def secure(authority, **options):
    given = {"certfile": authority.chain, "keyfile": authority.key, **options}
    return ThousandIsland(
        handler_cls=Echo, host="127.0.0.1", port=0, transport_cls=TLS, transport_options=given
    )


def write(folder, authority, name="localhost"):
    """A certificate with its key, in one file: its path, and what a client sees."""
    issued = authority.ca.issue_cert(name)
    path = folder / f"{name}.pem"
    new = folder / "new"
    new.write_bytes(issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes())
    new.rename(path)
    return path, ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def shown(server, authority, client, name="localhost"):
    context = authority.client_context()
    with context.wrap_socket(client(server), server_hostname=name) as tls:
        return tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("when", ["before it starts", "while it runs"])
def test_new_files_are_served_and_the_thread_ends_with_the_server(
    when, authority, client, tmp_path
):
    path, old = write(tmp_path, authority)
    server = secure(authority, certfile=path, keyfile=None)
    if when == "before it starts":
        server.watch_certificates(interval_ms=5)
    for _ in range(2):  # a server that is started again watches again
        with server:
            if when == "while it runs":
                server.watch_certificates(interval_ms=5)
            assert shown(server, authority, client) == old
            _, old = write(tmp_path, authority)
            assert eventually(lambda: shown(server, authority, client) == old)  # noqa: B023
            names = {thread.name for thread in threading.enumerate()}
            assert "thousand-island-certificates" in names
        assert eventually(
            lambda: "thousand-island-certificates" not in {t.name for t in threading.enumerate()}
        )


def test_asking_a_server_that_does_not_run_starts_no_thread(authority, tmp_path):
    path, _ = write(tmp_path, authority)
    before = threading.active_count()
    server = secure(authority, certfile=path, keyfile=None)
    server.watch_certificates()
    assert threading.active_count() == before


def test_bad_files_are_one_error_and_the_old_ones_stay(authority, client, tmp_path, caplog):
    path, old = write(tmp_path, authority)
    with secure(authority, certfile=path, keyfile=None) as server:
        server.watch_certificates(interval_ms=5)
        path.write_bytes(b"half a certif")
        assert eventually(lambda: "old ones stay in use" in caplog.text)
        assert shown(server, authority, client) == old
    assert caplog.text.count("old ones stay in use") == 1
    assert "no PEM certificate in" in caplog.text


@pytest.mark.parametrize("prepared", [False, True])
def test_the_certificates_of_hosts_are_watched_too(prepared, authority, client, tmp_path):
    path, old = write(tmp_path, authority, "a.example")
    host = TLS.prepare(certfile=path) if prepared else {"certfile": path}
    with secure(authority, sni={"a.example": host}) as server:
        server.watch_certificates(interval_ms=5)
        assert shown(server, authority, client, "a.example") == old
        _, new = write(tmp_path, authority, "a.example")
        assert eventually(lambda: shown(server, authority, client, "a.example") == new)


def test_what_was_prepared_is_renewed_for_everybody_who_uses_it(authority, client, tmp_path):
    path, _ = write(tmp_path, authority)
    prepared = TLS.prepare(certfile=path)

    def make():
        return ThousandIsland(
            handler_cls=Echo,
            host="127.0.0.1",
            port=0,
            transport_cls=TLS,
            transport_options=prepared,
        )

    with make() as watches, make() as other:
        watches.watch_certificates(interval_ms=5)
        _, new = write(tmp_path, authority)
        assert eventually(lambda: shown(watches, authority, client) == new)
        assert shown(other, authority, client) == new


@pytest.mark.parametrize("transport", [TCP, TLS])
def test_where_there_are_no_files_that_is_told(transport, authority):
    server = (
        secure(authority)
        if transport is TLS
        else ThousandIsland(handler_cls=Echo, host="127.0.0.1", port=0)
    )
    with pytest.raises(ConfigError, match="this server has no certificate files"):
        server.watch_certificates()


def test_what_a_start_leaves_that_ctrl_c_ends_there_the_next_stop_ends(
    authority, tmp_path, monkeypatch
):
    path, _ = write(tmp_path, authority)
    server = secure(authority, certfile=path, keyfile=None)
    server.watch_certificates(interval_ms=5)
    launched = Supervised.start

    def start(thread):
        launched(thread)
        if thread.name.endswith("-certificates"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Supervised, "start", start)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert server.stop()
    # `no_leaks` sees the threads.


def test_no_thread_that_can_be_started_is_an_error_of_the_log(authority, tmp_path, caplog):
    path, _ = write(tmp_path, authority)
    with (
        secure(authority, certfile=path, keyfile=None) as server,
        pytest.MonkeyPatch.context() as m,
    ):

        def start(thread):
            raise RuntimeError("can't start new thread")

        m.setattr(Supervised, "start", start)
        server.watch_certificates(interval_ms=5)
        assert "certificates are not watched" in caplog.text
        assert server.status == "running"
