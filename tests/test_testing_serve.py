"""`thousand_island_sync.testing.serve`, `EventRecorder`: sentence by sentence as the contract
has it."""

import logging
import os
import socket
import ssl
import threading

import pytest

from tests.support import Echo, echoes, receive
from thousand_island_sync import (
    TLS,
    ConfigError,
    Handler,
    HandlerResultError,
    ServerNotRunning,
    SwitchTransport,
    ThousandIsland,
    attach_logger,
    events,
)
from thousand_island_sync.testing import EventRecorder, serve

log = logging.getLogger("thousand_island_sync")


class Fails(Handler):
    """Raises `KeyError`, which is logged."""

    def handle_data(self, data, socket):
        raise KeyError("no such user")


def ask_and_wait(server):
    """Sends something, and waits for the end."""
    sock = server.connect()
    sock.sendall(b"x")
    assert sock.recv(1) == b""


# ---- what it yields -----------------------------------------------------------------


def test_it_yields_a_started_server_on_a_free_port_of_127_0_0_1():
    with serve(Echo) as first, serve(Echo) as second:
        assert isinstance(first, ThousandIsland)
        assert first.status == "running"
        assert first.local_address[0] == "127.0.0.1"
        assert first.local_port != second.local_port
        echoes(first.connect())
    assert first.status == "stopped"


def test_options_are_those_of_the_server(tmp_path):
    path = f"unix:{tmp_path}/socket"
    with serve(Echo, host=path, name="mine", max_connections=1) as server:
        assert (server.name, server.local_address) == ("mine", f"{tmp_path}/socket")
        echoes(server.connect())
    with serve(Echo, transport_options={"host": "unix:@ours-in-a-test"}) as server:
        echoes(server.connect())
    with serve(Echo, transport_options={"host": "0.0.0.0"}) as server:
        assert server.local_address[0] == "0.0.0.0"
        echoes(server.connect())
    with pytest.raises(ConfigError, match="read_timeout"), serve(Echo, read_timeout=5):
        pytest.fail("it began")


def test_a_server_that_cannot_listen_leaves_nothing_behind():
    with serve(Echo) as server, pytest.raises(OSError, match="in use"):
        with serve(Echo, port=server.local_port):
            pytest.fail("it began")
    assert [one for one in log.handlers if type(one).__name__ == "_Log"] == []


def test_a_body_may_stop_the_server_itself():
    with serve(Echo) as server:
        echoes(server.connect())
        assert server.stop()
        with pytest.raises(ServerNotRunning):
            server.connect()


# ---- connect ---------------------------------------------------------------------------


def test_connect_gives_a_connected_socket_which_is_closed_at_the_end():
    with serve(Echo) as server:
        sock = server.connect()
        assert type(sock) is socket.socket
        assert sock.gettimeout() == 5
        assert server.connect(timeout_ms=100).gettimeout() == 0.1
        assert server.connect(timeout_ms=None).gettimeout() is None
        echoes(sock)
    assert sock.fileno() == -1


def test_over_tls_it_is_an_ssl_socket_unverified_without_ca_certs(authority, tmp_path):
    with serve(Echo, transport_cls=TLS, transport_options=authority.options) as server:
        sock = server.connect()
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getpeercert() == {}
        echoes(sock)
        verified = server.connect(ca_certs=authority.ca_pem)
        assert dict(verified.getpeercert())["subject"] is not None
        echoes(verified)
        (tmp_path / "ca").write_bytes(authority.ca_pem)
        echoes(server.connect(ca_certs=tmp_path / "ca", server_hostname="a.example"))
        with pytest.raises(ssl.SSLCertVerificationError):
            server.connect(ca_certs=authority.ca_pem, server_hostname="b.invalid")


def test_a_client_has_a_certificate_and_protocols_of_its_own(authority, tmp_path):
    class Says(Handler):
        def handle_connection(self, socket):
            names = socket.peer_certificate().subject.rfc4514_string()
            socket.send(f"{socket.negotiated_protocol()} {names}".encode())

    issued = authority.ca.issue_cert("client@example.org", common_name="a client")
    chain, key = (issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes())
    options = {
        **authority.options,
        "ca_certs": authority.ca_pem,
        "verify": "required",
        "alpn_protocols": ["h2", "http/1.1"],
    }
    (tmp_path / "both").write_bytes(key + chain)
    with serve(Says, transport_cls=TLS, transport_options=options) as server:
        for given in ({"certfile": chain, "keyfile": key}, {"certfile": tmp_path / "both"}):
            sock = server.connect(**given, alpn=["http/1.1"])
            said = sock.recv(200)
            assert said.startswith(b"http/1.1 ")
            assert b"CN=a client" in said


def test_what_belongs_to_tls_is_refused_on_a_plain_server():
    with serve(Echo) as server, pytest.raises(ConfigError, match="ca_certs: needs TLS"):
        server.connect(ca_certs=b"...")


# ---- what it looks at afterwards --------------------------------------------------------------


def test_a_connection_that_is_cut_is_an_error():
    release = threading.Event()

    class Stuck(Handler):
        def handle_data(self, data, socket):
            socket.send(b"begun")
            release.wait(20)

    with pytest.raises(AssertionError, match=r"stop\(\) was False") as caught:
        with serve(Stuck, shutdown_timeout_ms=100) as server:
            sock = server.connect()
            sock.sendall(b"x")
            assert sock.recv(5) == b"begun"
    release.set()
    assert "was cut" in str(caught.value)


def test_a_thread_that_is_left_is_an_error_which_says_where_it_stands():
    release = threading.Event()

    def stand_here():
        release.wait(20)

    thread = threading.Thread(target=stand_here, name="forgotten")
    with pytest.raises(AssertionError, match=r"'forgotten'.*stand_here"):
        with serve(Echo):
            thread.start()
    release.set()
    thread.join()


def test_threads_that_may_stay_are_named():
    release = threading.Event()
    threads = [
        threading.Thread(target=release.wait, name=name) for name in ("driver", "pool-1", "pool-2")
    ]
    with serve(Echo, ignore_threads=["driver", "pool-*"]):
        for thread in threads:
            thread.start()
    release.set()
    for thread in threads:
        thread.join()


def test_a_thread_that_ends_within_a_second_is_none():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(0.2,))
    with serve(Echo):
        thread.start()


def test_a_descriptor_that_is_left_is_an_error_which_says_what_it_is(tmp_path):
    (tmp_path / "forgotten").write_bytes(b"")
    with pytest.raises(AssertionError, match=r"descriptor is left.*forgotten"):
        with serve(Echo):
            fd = os.open(tmp_path / "forgotten", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(AssertionError, match=r"socket:.*connected to"):
        with serve(Echo) as server:
            sock = socket.create_connection(server.local_address)
    sock.close()


class Closes:
    """Closes a descriptor at its end."""

    def __init__(self, fd):
        self.fd = fd

    def __del__(self):
        os.close(self.fd)


def test_what_only_the_collector_frees_is_not_left(tmp_path):
    with serve(Echo):
        circle = [Closes(os.open(tmp_path, os.O_RDONLY))]
        circle.append(circle)
        del circle


def test_what_belongs_to_a_server_that_still_runs_does_not_count():
    other = ThousandIsland(handler_cls=Echo, port=0, host="127.0.0.1", name="still-here")
    with other, socket.socket() as sock:
        with serve(Echo) as server:
            echoes(server.connect())
            sock.connect(other.local_address)
            echoes(sock)
            assert len(other.connections()) == 1
    inner = ThousandIsland(handler_cls=Echo, port=0, host="127.0.0.1")
    with serve(Echo, name="outer"):
        inner.start()
    inner.stop()


def test_a_traceback_in_the_log_is_an_error_but_for_what_was_expected():
    with pytest.raises(AssertionError, match=r"handle_data.*\n(.*\n)*.*KeyError: 'no such user'"):
        with serve(Fails) as server:
            ask_and_wait(server)
    for expect in (KeyError, (OSError, LookupError), [KeyError]):
        with serve(Fails, expect=expect) as server:
            ask_and_wait(server)
    with pytest.raises(AssertionError, match="KeyError"):
        with serve(Fails, expect=OSError) as server:
            ask_and_wait(server)


def test_a_wrong_result_is_an_exception_too():
    class Wrong(Handler):
        def handle_data(self, data, socket):
            return 5

    with serve(Wrong, expect=HandlerResultError) as server:
        ask_and_wait(server)


def test_a_line_at_level_error_is_one_as_well_and_what_is_less_is_not():
    with pytest.raises(AssertionError, match="ERROR was logged: by hand"):
        with serve(Echo):
            log.error("by hand")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        with serve(Echo):
            log.warning("with a traceback", exc_info=ZeroDivisionError())
    with serve(Echo):
        log.warning("by hand")


def test_lines_of_the_attached_logger_are_of_the_exceptions_that_they_tell(caplog):
    class Upgrades(Handler):
        def handle_data(self, data, socket):
            return SwitchTransport(TLS, {})

    attach_logger("error")
    with serve(Upgrades, expect=ConfigError) as server:
        ask_and_wait(server)


def test_of_two_servers_each_answers_for_itself():
    with serve(Fails, expect=KeyError, name="fails") as fails, serve(Echo) as good:
        ask_and_wait(fails)
        echoes(good.connect())
    with pytest.raises(AssertionError, match=r"serve\(Fails\)"):
        with serve(Echo), serve(Fails) as fails:
            ask_and_wait(fails)


def test_what_the_body_raises_is_what_the_test_sees_with_the_rest_as_a_note():
    class Mine(Exception):
        pass

    with pytest.raises(Mine) as caught:
        with serve(Fails) as server:
            ask_and_wait(server)
            raise Mine
    (note,) = caught.value.__notes__
    assert note.startswith("serve(Fails): ")
    assert "KeyError" in note
    with pytest.raises(Mine) as caught:
        with serve(Echo):
            raise Mine
    assert not hasattr(caught.value, "__notes__")


# ---- EventRecorder -------------------------------------------------------------------------------


def test_a_recorder_connects_at_once_and_has_the_events_in_order():
    with serve(Echo) as server:
        recorder = EventRecorder(server)
        echoes(server.connect())
        server.stop()
        names = [name for name, _, _ in recorder.events]
        wanted = ["handler.start", "socket.recv", "socket.send", "handler.shutdown", "socket.close"]
        wanted = [name for name in wanted if name in names]
        places = [names.index(name) for name in wanted]
        assert places == sorted(places)
        assert len(wanted) >= 4
        (closed,) = recorder.wait_for("socket.close")
        assert (closed.name, closed.measurements["bytes_sent"]) == ("socket.close", 1)
        recorder.close()


def test_a_recorder_is_of_some_servers_or_of_all():
    with serve(Echo) as first, serve(Echo) as second:
        with EventRecorder(first) as of_first, EventRecorder() as of_all:
            for server in (second, first):
                echoes(server.connect())
            of_first.wait_for("handler.start")
            of_all.wait_for("handler.start", 2)
            assert len([one for one in of_first.events if one.name == "handler.start"]) == 1


def receivers():
    return {name: set(signal.receivers) for name, signal in events.ALL.items()}


def test_after_its_end_it_hears_nothing_and_keeps_what_it_has():
    connected = receivers()
    with serve(Echo) as server:
        with EventRecorder(server) as recorder:
            echoes(server.connect())
            recorder.wait_for("acceptor.accept")
        before = recorder.events
        echoes(server.connect())
    assert recorder.events == before
    assert receivers() == connected


def test_waiting_returns_as_many_as_were_asked_for():
    with serve(Echo) as server, EventRecorder(server) as recorder:
        for _ in range(3):
            server.connect()
        found = recorder.wait_for("handler.start", count=2)
        assert [one.name for one in found] == ["handler.start"] * 2
        _, measurements, metadata = found[0]
        assert measurements["monotonic_time_ns"] > 0
        assert metadata["remote_address"] == "127.0.0.1"


def test_what_does_not_come_is_an_error_that_says_what_came_instead():
    with serve(Echo) as server, EventRecorder(server) as recorder:
        echoes(server.connect())
        recorder.wait_for("handler.start")
        with pytest.raises(AssertionError, match=r"handler\.error came 0 times.*handler\.start"):
            recorder.wait_for("handler.error", timeout_ms=20)
        with pytest.raises(AssertionError, match=r"came 1 times.*and not 2"):
            recorder.wait_for("handler.start", count=2, timeout_ms=20)


def test_an_unknown_event_is_a_config_error_with_the_nearest_name():
    with EventRecorder() as recorder, pytest.raises(ConfigError, match=r"mean handler\.error\?"):
        recorder.wait_for("handler.errors")


def test_a_recorder_waits_for_what_another_thread_causes():
    with serve(Echo) as server, EventRecorder(server) as recorder:
        sock = server.connect()
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
        threading.Timer(0.05, sock.close).start()
        assert recorder.wait_for("socket.close", timeout_ms=5_000)


def test_waiting_without_a_limit_ends_with_the_event():
    with serve(Echo) as server, EventRecorder(server) as recorder:
        server.connect()
        assert len(recorder.wait_for("handler.start", timeout_ms=None)) == 1


def test_what_a_recorder_does_for_an_event_grows_with_no_number_of_events():
    class Counted(list):
        looked = 0

        def __iter__(self):
            Counted.looked += len(self)
            return super().__iter__()

    with EventRecorder() as recorder:
        recorder._events = Counted()
        waiting = threading.Thread(target=recorder.wait_for, args=("handler.start", 300))
        waiting.start()
        for number in range(300):
            recorder._receive(
                None, event="handler.start", measurements={}, metadata={"number": number}
            )
        waiting.join(5)
    assert not waiting.is_alive()
    assert Counted.looked == 0
