"""A peer that goes is an error of the send, whatever the process does on SIGPIPE: programs that
print set it to its default, which ends the process."""

import os
import subprocess
import sys

import pytest

#: Each way of sending to a client that has reset the connection, with SIGPIPE as the kernel has it
#: at first. The first send after a reset meets ECONNRESET, the second EPIPE, and that is it.
SENDS = """
import contextlib, io, os, select, signal, socket, ssl, struct, sys, tempfile, threading
from tests.conftest import Authority
from thousand_island_sync import TCP, TLS, Close, Handler, SocketError, ThousandIsland

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
file = tempfile.NamedTemporaryFile()
file.write(b"x" * 10_000)
file.flush()

def piped(sock):
    ours, theirs = os.pipe()
    os.write(theirs, b"x" * 100)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        sock.sendfile(pipe)

def shared(sock):
    os.set_blocking(sock.fileno(), False)  # by who has it, too
    sock.sendfile(file.name)

def buffered(sock):
    with sock.makefile("wb") as stream:
        stream.write(b"x")

def closed(sock):
    sock.close()

WAYS = {
    "bytes": lambda sock: sock.send(b"x"),
    "more than a record": lambda sock: sock.send(b"x" * 50_000),
    "a view": lambda sock: sock.send(memoryview(b"x" * 50)),
    "small pieces": lambda sock: sock.send([b"x", b"y"]),
    "large pieces": lambda sock: sock.send([b"x" * 20_000, b"y" * 20_000]),
    "in time": lambda sock: sock.send(b"x", timeout_ms=1_000),
    "all": lambda sock: sock.sendall(b"x"),
    "a file": lambda sock: sock.sendfile(file.name),
    "a part of a file": lambda sock: sock.sendfile(file.file, 10, 100),
    "a pipe": piped,
    "a file, the descriptor being shown": shared,
    "what is no file": lambda sock: sock.sendfile(io.BytesIO(b"x" * 100)),
    "a stream": buffered,
    "an end of writes": lambda sock: sock.shutdown(socket.SHUT_WR),
    "a close": closed,
}
begun, done = threading.Semaphore(0), threading.Semaphore(0)

class Sends(Handler):
    def handle_data(self, data, sock):
        begun.release()
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        assert poll.poll(10_000), "the client does not go"
        for _ in range(3):
            with contextlib.suppress(SocketError):
                WAYS[data.decode()](sock)
        done.release()
        return Close()

secure, unix = "tls" in sys.argv, "unix" in sys.argv
authority = Authority()
options = {"handler_cls": Sends, "port": 0, "host": "127.0.0.1", "transport_cls": TCP}
if unix:
    options["host"] = "unix:@sigpipe-%d" % os.getpid()
if secure:
    options.update(transport_cls=TLS, transport_options=authority.options)
with ThousandIsland(**options) as server:
    for name in WAYS:
        print(name, end=": ", flush=True)
        if unix:
            client = socket.socket(socket.AF_UNIX)
            client.connect(chr(0) + options["host"][6:])
        else:
            client = socket.create_connection(("127.0.0.1", server.local_port))
        if secure:
            context = authority.client_context()
            client = context.wrap_socket(client, server_hostname="localhost")
        client.sendall(name.encode())
        assert begun.acquire(timeout=10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert done.acquire(timeout=10)
        print("an error", flush=True)
print(len(WAYS), "ways")
"""


@pytest.mark.parametrize("pure", ["0", "1"], ids=["compiled", "pure"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_no_way_of_sending_ends_the_process(kind, pure):
    done = subprocess.run(
        [sys.executable, "-c", SENDS, kind],
        env={**os.environ, "THOUSAND_ISLAND_PURE": os.environ.get("THOUSAND_ISLAND_PURE", pure)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]
    assert done.stdout.endswith("15 ways\n")


#: sendfile(2) takes no flags: what it does with the signal is seen in the calling thread alone.
MASKS = """
import os, signal, socket, sys, tempfile
from thousand_island_sync._base import compiled, sigpipe

file = tempfile.TemporaryFile()
file.write(b"x" * 100)
file.flush()
send = compiled.send_file or sigpipe.sendfile

def broken():
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        try:
            send(ours.fileno(), file.fileno(), 0, 100)
        except BrokenPipeError:
            return signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.sigpending()
        raise SystemExit("no error")

handled = []
signal.signal(signal.SIGPIPE, lambda *_: handled.append(1))
print(*map(sorted, broken()), handled)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
print(*map(sorted, broken()))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
mask, pending = broken()
print(signal.SIGPIPE in mask, signal.SIGPIPE in pending)
"""


@pytest.mark.parametrize("pure", ["0", "1"], ids=["compiled", "pure"])
def test_a_file_that_nobody_takes_leaves_the_threads_signals_as_they_were(pure):
    done = subprocess.run(
        [sys.executable, "-c", MASKS],
        env={**os.environ, "THOUSAND_ISLAND_PURE": os.environ.get("THOUSAND_ISLAND_PURE", pure)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[] [] []", "[] []", "True True"]
