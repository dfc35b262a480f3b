"""What a rolling restart costs its clients: `python -m benchmarks.restarts`.

Two processes take over from one another while four clients never pause, each with a
connection for every request. Three ways: on one inherited listening socket (`sockets`), and
with `reuse_port`, where each process has a listening socket of its own, without and with
`net.ipv4.tcp_migrate_req`, which lets the kernel hand what waits for a socket that closes to
another one. That setting belongs to a network namespace, so each way runs in one of its own
(needs root; without it the present setting is measured).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "an inherited listening socket": ("inherited", 0),
    "reuse_port": ("reuse_port", 0),
    "reuse_port, tcp_migrate_req=1": ("reuse_port", 1),
}
_SERVER = """
import socket, sys
from thousand_island_sync import Close, Handler, ThousandIsland

class Hello(Handler):
    def handle_data(self, data, sock):
        sock.send(b"hi")
        return Close()

how, number = sys.argv[1], int(sys.argv[2])
if how == "inherited":
    options = {"transport_options": {"sockets": [socket.socket(fileno=number)]}}
else:
    options = {"port": number, "transport_options": {"host": "127.0.0.1", "reuse_port": True}}
server = ThousandIsland(handler_cls=Hello, **options).start()
print("serving", flush=True)
server.serve_forever()
"""


def measure(how: str, restarts: int) -> Counter[str]:
    """Requests answered, restarts, and what went wrong by its name."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024, reuse_port=how == "reuse_port")
    address = listener.getsockname()
    if how == "reuse_port":
        # Bound, not listening: it only keeps the port.
        listener.close()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    counts: Counter[str] = Counter()
    over = threading.Event()

    def visits() -> None:
        while not over.is_set():
            try:
                with socket.create_connection(address, timeout=10) as sock:
                    sock.sendall(b"x")
                    answer = sock.recv(10)
                counts["answered" if answer == b"hi" else "ended without an answer"] += 1
            except OSError as error:
                counts[type(error).__name__] += 1

    def start() -> subprocess.Popen[str]:
        number = listener.fileno() if how == "inherited" else address[1]
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, how, str(number)],
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        return process

    process = start()
    clients = [threading.Thread(target=visits) for _ in range(4)]
    for client in clients:
        client.start()
    for _ in range(restarts):
        successor = start()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        process = successor
        counts["restarts"] += 1
        time.sleep(0.05)
    over.set()
    for client in clients:
        client.join()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.stdout is not None
    process.stdout.close()
    listener.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what each namespace runs
    given = parser.parse_args()
    if given.one:
        counts = measure(WAYS[given.one][0], given.restarts)
        answered, restarts = counts.pop("answered"), counts.pop("restarts")
        failed = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
        print(f"| {given.one} | {restarts} | {answered:,} | {failed} |")
        return
    print("| how | restarts | answered | failed |")
    print("|---|---|---|---|", flush=True)
    for name, (_, migrate) in WAYS.items():
        command = [sys.executable, "-m", "benchmarks.restarts", "--one", name]
        command += ["--restarts", str(given.restarts)]
        if os.geteuid() == 0:
            prepare = f"ip link set lo up && echo {migrate} > /proc/sys/net/ipv4/tcp_migrate_req"
            command = ["unshare", "-n", "sh", "-c", prepare + ' && exec "$@"', "sh", *command]
        subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
