"""What a publisher does with slow consumers: the page's three policies, and a proxy that waits."""

import socket as stdlib_socket
import threading

import pytest

from tests.markdown import python_blocks
from tests.pages import run_python
from tests.programs import ROOT, UNCHECKED, Script
from tests.support import eventually, receive, receive_all, reset, running

CHUNK = b"0123456789abcdef" * 4_096

# ---- the how-to ------------------------------------------------------------------------------

DROP, DISCONNECT, WAIT = python_blocks("docs/howto/pushing.md")


def program_of(block):
    return run_python("docs/howto/pushing.md", block, {})


def subscribed(count, members):
    assert eventually(lambda: len(members) == count)


def test_drop(serve, client):
    page = program_of(DROP)
    publish = page["publish"]
    server = serve(page["Prices"])
    quick, slow = client(server), client(server)
    subscribed(2, page["Prices"].subscribers)
    price = 10**4_000  # long ones, of which fewer do
    while not publish(price := price + 1):
        assert receive(quick, 4_002) == b"%d\n" % price
    with slow.makefile("rb") as lines:
        seen = [int(lines.readline()) for _ in range(50)]
        while publish(price := price + 1):
            seen += [int(lines.readline()) for _ in range(50)]
        while seen[-1] != price:
            seen.append(int(lines.readline()))
    assert seen == sorted(set(seen))
    assert len(seen) < price - 10**4_000  # some were missed


def test_disconnect(serve, client):
    page = program_of(DISCONNECT)
    server = serve(page["Events"])
    quick, slow = client(server), client(server)
    subscribed(2, page["Events"].subscribers)
    sent = 0
    while len(page["Events"].subscribers) == 2 and sent < 1 << 26:
        page["publish"](CHUNK[:16_384])
        sent += 16_384
        assert receive(quick, 16_384) == CHUNK[:16_384]
    assert eventually(lambda: server.info().active_connections == 1)
    page["publish"](b"goes on")
    assert receive(quick, 7) == b"goes on"
    slow.close()


def test_wait(serve, client):
    page = program_of(WAIT)
    Stage = page["Stage"]
    server = serve(Stage)
    publisher = client(server)
    assert eventually(lambda: Stage.publisher is not None)
    quick, slow, leaver = client(server), client(server), client(server)
    subscribed(3, Stage.readers)
    whole = CHUNK * 256
    got = bytearray()

    def read():
        got.extend(receive(quick, len(whole)))

    with running(lambda: publisher.sendall(whole), read):
        (paused,) = (one for one in server.connections() if one is Stage.publisher)
        link = paused._inbox._link
        assert eventually(lambda: link.machine.state.name == "PAUSED")
        assert max(one.unsent for one in server.connections()) <= 262_144
        assert eventually(lambda: server.info().busy_threads == 0)
        reset(leaver)  # nobody waits for it
        assert receive(slow, len(whole)) == whole
    assert bytes(got) == whole


# ---- the proxy -------------------------------------------------------------------------------


@pytest.fixture
def proxy():
    path = str(ROOT / "examples" / "tcp_proxy.py")
    with Script(path, "--port", "0", "--upstream-port", "0", environment=UNCHECKED) as script:
        yield script
        assert not script.errors


def dial(script, upstream=False):
    port = script.wait_for(r"servers dial (\d+)") if upstream else script.port
    return stdlib_socket.create_connection(("127.0.0.1", int(port)), timeout=30)


def test_the_proxy_joins_two_and_passes_both_ways(proxy):
    with dial(proxy) as first, dial(proxy, upstream=True) as upstream, dial(proxy) as second:
        first.sendall(b"question")
        assert receive(upstream, 8) == b"question"
        upstream.sendall(b"answer")
        assert receive(first, 6) == b"answer"
        first.shutdown(stdlib_socket.SHUT_WR)
        assert receive_all(upstream) == b""
        upstream.sendall(b"a last word")
        upstream.close()
        assert receive_all(first) == b"a last word"
        with dial(proxy, upstream=True) as other:
            second.sendall(b"waits for another")
            assert receive(other, 17) == b"waits for another"


def test_a_side_that_is_reset_ends_the_other(proxy):
    with dial(proxy) as client, dial(proxy, upstream=True) as upstream:
        client.sendall(b"x")
        assert receive(upstream, 1) == b"x"
        reset(client)
        assert receive_all(upstream) == b""


def pass_through(proxy, size, pause_s):
    """Moves so many bytes from a quick side to one that reads a piece at a time; what the process
    took more of, in KiB, and its most threads."""
    pid = proxy.process.pid
    piece = CHUNK * 4
    with dial(proxy) as quick, dial(proxy, upstream=True) as slow:
        quick.sendall(b"x")
        assert receive(slow, 1) == b"x"
        before, most, threads = memory_of(pid), 0, 0

        def push():
            for _ in range(size // len(piece)):
                quick.sendall(piece)
            quick.shutdown(stdlib_socket.SHUT_WR)

        with running(push):
            left = size // len(piece)
            while left:
                assert receive(slow, len(piece)) == piece
                left -= 1
                threading.Event().wait(pause_s)
                if left % 16 == 0:
                    most, threads = max(most, memory_of(pid)), max(threads, threads_of(pid))
            assert receive_all(slow) == b""
    return most - before, threads


def memory_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def threads_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads"))


def test_a_quick_side_goes_at_the_pace_of_a_slow_one_in_flat_memory(proxy):
    more, _ = pass_through(proxy, 48 << 20, 0.001)
    assert more < 4_096


@pytest.mark.heavy
def test_a_gibibyte(proxy):
    more, threads = pass_through(proxy, 1 << 30, 0.001)
    assert more < 4_096
    assert threads < 40
