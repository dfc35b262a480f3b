"""Sockets that systemd passes: by its own `systemd-socket-activate`, and in this process."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from tests.programs import ROOT, program
from tests.support import Echo, answers, echoes, first_client, free_port
from thousand_island_sync import ConfigError, ListenError, ThousandIsland, systemd
from thousand_island_sync._base import addresses

#: Where the descriptors lie that are "passed" here: those of pytest are below.
FIRST = 700


@pytest.fixture
def passed(monkeypatch):
    """Passes descriptors to this process, as systemd does; gives what has to be closed."""
    numbers = []

    def give(*sockets, names=None, pid=None, count=None):
        monkeypatch.setattr(systemd, "_inheritance", systemd._Inheritance(FIRST))
        for place, sock in enumerate(sockets):
            number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, FIRST + place)
            assert number == FIRST + place
            numbers.append(number)
            sock.close()
        variables = {
            "LISTEN_PID": str(os.getpid()) if pid is None else pid,
            "LISTEN_FDS": str(len(sockets)) if count is None else count,
            "LISTEN_FDNAMES": names,
        }
        for name, value in variables.items():
            if value:
                monkeypatch.setenv(name, value)
            else:
                monkeypatch.delenv(name, raising=False)

    yield give
    for number in numbers:
        os.close(number)


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock


def port_of(number):
    with socket.socket(fileno=os.dup(number)) as sock:
        return sock.getsockname()[1]


def asking(value="systemd", **options):
    return ThousandIsland(
        handler_cls=Echo, num_acceptors=2, transport_options={"sockets": value}, **options
    )


def refused(value="systemd"):
    """The error of a start, after which nothing is left (`no_leaks`)."""
    server = asking(value)
    with pytest.raises(ListenError) as caught:
        server.start()
    assert server.status == "new"
    assert "\n" not in str(caught.value)
    return caught.value


# ---- the option -----------------------------------------------------------------


def test_all_that_was_passed_is_served(passed, tmp_path):
    path = str(tmp_path / "a.sock")
    passed(listening(), listening(), listening(socket.AF_UNIX, path))
    with asking():
        for number in (FIRST, FIRST + 1):
            with socket.create_connection(("127.0.0.1", port_of(number)), 5) as sock:
                echoes(sock)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            echoes(sock)
    assert os.path.exists(path)


def test_ipv6_is_served(passed):
    passed(listening(socket.AF_INET6, ("::1", 0)))
    with asking() as server, socket.create_connection(server.local_address, 5) as sock:
        echoes(sock)


def test_vsock_is_listened_on(passed):
    """Its clients come from other machines, and so are none here."""
    try:
        sock = listening(socket.AF_VSOCK, (socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    except (AttributeError, OSError):
        pytest.skip("this system has no vsock(7)")
    address = sock.getsockname()
    passed(sock)
    with asking() as server:
        assert server.local_address == address
        assert server.info().local_address == address
        assert server.info().backlog is None
        assert addresses.show(address) == f"vsock:{address[0]}:{address[1]}"


def test_addresses_of_vsock_are_two_numbers():
    peer = (3, 1025)
    for understood in (addresses.plain, addresses.pair, addresses.remote, addresses.sharing_host):
        assert understood(peer) == peer


def test_one_acceptor_accepts_from_all_sockets(passed):
    passed(listening(), listening(), listening())
    options = {"sockets": "systemd"}
    with ThousandIsland(handler_cls=Echo, num_acceptors=1, transport_options=options):
        for number in range(FIRST, FIRST + 3):
            with socket.create_connection(("127.0.0.1", port_of(number)), 5) as sock:
                echoes(sock)


def test_those_of_a_name_are_served_and_no_others(passed):
    passed(listening(), listening(), listening(), names="web:admin:web")
    with asking("systemd:admin") as server:
        assert server.local_port == port_of(FIRST + 1)
        with asking("systemd:web") as web:
            assert web.local_port == port_of(FIRST)
            with socket.create_connection(("127.0.0.1", port_of(FIRST + 2)), 5) as sock:
                echoes(sock)


def test_the_variables_are_read_once_removed_and_remembered(passed, monkeypatch):
    passed(listening(), names="web")
    with asking() as server:
        port = server.local_port
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "5")
    with asking("systemd:web") as server:
        assert server.local_port == port
    assert os.environ["LISTEN_FDS"] == "5"


def test_close_on_exec_is_set(passed):
    passed(listening())
    os.set_inheritable(FIRST, True)
    with asking():
        assert not os.get_inheritable(FIRST)


def test_a_server_that_was_stopped_can_start_again(passed):
    passed(listening())
    server = asking()
    ports = set()
    for _ in range(3):
        with server:
            ports.add(server.local_port)
            with socket.create_connection(server.local_address, 5) as sock:
                assert answers(sock)
    assert len(ports) == 1
    os.fstat(FIRST)


def test_who_comes_while_nothing_serves_is_served_later(passed):
    """Stopped or suspended: the socket is systemd's, and goes on to listen."""
    passed(listening())
    server = asking()
    with server:
        address = server.local_address
        server.suspend()
        with socket.create_connection(address, 5) as waiting:
            waiting.sendall(b"x")
            server.resume()
            assert waiting.recv(1) == b"x"
    with socket.create_connection(address, 5) as waiting:
        waiting.sendall(b"x")
        with server:
            assert waiting.recv(1) == b"x"


def test_two_servers_at_once_cannot_have_the_same_socket(passed):
    passed(listening(), listening(), names="a:b")
    with asking("systemd:a") as first:
        error = refused("systemd")
        assert error.errno == errno.EADDRINUSE
        assert "descriptor 700 ('a')" in str(error)
        with asking("systemd:b"):  # of what was refused nothing is held
            first.stop()
            assert refused("systemd").errno == errno.EADDRINUSE
    with asking("systemd"):
        pass


def test_a_suspended_server_resumes_unless_another_has_its_socket(passed):
    passed(listening())
    with asking() as first:
        first.suspend()
        with asking() as second, socket.create_connection(second.local_address, 5) as sock:
            echoes(sock)
            with pytest.raises(ListenError, match="another server"):
                first.resume()
            assert first.status == "suspended"
        first.resume()
        with socket.create_connection(first.local_address, 5) as sock:
            echoes(sock)


def test_nothing_was_passed(passed):
    passed(count="0")
    error = refused()
    assert error.errno == errno.ENOENT
    assert "none was passed" in str(error)


def test_listen_fds_without_listen_pid_is_nothing(passed, monkeypatch):
    passed(count="3")
    monkeypatch.delenv("LISTEN_PID")
    assert "none was passed" in str(refused())
    assert "LISTEN_FDS" not in os.environ


def test_a_name_that_is_not_among_those_passed(passed):
    passed(listening(), listening(), names="web:admin")
    assert "none of the name 'wep'; it passed 'admin', 'web'" in str(refused("systemd:wep"))


def test_what_has_no_name_is_called_unknown(passed):
    passed(listening(), listening(), names=":web")
    with asking("systemd:unknown") as server:
        assert server.local_port == port_of(FIRST)


def test_they_were_passed_to_another_process(passed):
    passed(listening(), pid="1")
    assert f"process 1, and this one is {os.getpid()}: a wrapper stands between; use exec" in str(
        refused()
    )


@pytest.mark.parametrize(
    ("pid", "count"), [("x", "1"), (None, "x"), (None, "-1"), (None, "9" * 30)]
)
def test_variables_that_are_no_numbers(passed, pid, count):
    passed(pid=pid, count=count)
    assert "not what systemd passes" in str(refused())


def test_a_descriptor_that_is_not_open(passed):
    passed(listening(), count="2")
    assert "descriptor 701 ('unknown') of systemd's is not open" in str(refused())


def test_what_is_no_listening_stream_socket(passed, tmp_path):
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    one, other = socket.socketpair()
    with (tmp_path / "file").open("w") as file:
        passed(listening(), datagrams, one, file, names="a:b:c:d")
    other.close()
    for name in ("b", "c", "d"):
        error = refused(f"systemd:{name}")
        assert f"({name!r}) of systemd's is not a listening stream socket" in str(error)
        assert "ListenStream=" in str(error)
    refused("systemd")
    with asking("systemd:a"):
        pass


def test_a_wrong_value_is_refused_by_the_constructor():
    for value in ("systemd:", "system", "web"):
        with pytest.raises(ConfigError, match=r'sockets.*"systemd", or "systemd:NAME"'):
            asking(value)


def test_a_child_does_not_keep_what_its_parent_serves(passed):
    passed(listening(), listening(), names="a:b")
    with asking("systemd:a") as server:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.fstat(FIRST + 1)
                with pytest.raises(OSError):
                    os.fstat(FIRST)
                with asking("systemd:b"):
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with socket.create_connection(server.local_address, 5) as sock:
            echoes(sock)


# ---- listen_sockets ----------------------------------------------------------------


def test_listen_sockets_gives_copies(passed):
    passed(listening(), listening(), names="web:admin")
    numbers = [FIRST, FIRST + 1]
    for _ in range(2):
        found = systemd.listen_sockets()
        assert [sock.getsockname()[1] for sock in found] == [port_of(one) for one in numbers]
        assert not any(sock.get_inheritable() for sock in found)
        for sock in found:
            sock.close()
    (admin,) = systemd.listen_sockets("admin")
    with admin:
        assert admin.getsockname()[1] == port_of(FIRST + 1)
    assert systemd.listen_sockets("other") == []


def test_listen_sockets_where_nothing_was_passed(passed):
    passed(count="0")
    assert systemd.listen_sockets() == []


def test_listen_sockets_refuses_what_does_not_listen(passed):
    passed(listening(), socket.socket())
    with pytest.raises(ListenError, match="not a listening stream socket"):
        systemd.listen_sockets()


# ---- the real one --------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["--fdname=web"]])
def test_systemd_socket_activate(extra, tmp_path):
    """The first client starts the program, and is served."""
    activate = program("systemd-socket-activate")
    port = free_port()
    script = tmp_path / "service.py"
    script.write_text(
        "import os\n"
        "from tests.support import Echo\n"
        "from thousand_island_sync import ThousandIsland\n"
        f"value = 'systemd:web' if {bool(extra)} else 'systemd'\n"
        "server = ThousandIsland(handler_cls=Echo, transport_options={'sockets': value})\n"
        "server.serve_forever()\n"
    )
    command = [activate, f"--listen=127.0.0.1:{port}", *extra, "-E", "PYTHONPATH"]
    with subprocess.Popen(
        [*command, sys.executable, str(script)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            with first_client(port) as sock:
                echoes(sock)
        finally:
            process.terminate()
        assert process.wait(20) == 0
