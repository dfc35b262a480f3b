"""`python -m benchmarks.tls`: what TLS costs, ours beside its peers in turn.

    python -m pip install '.[bench]'    # uvloop, trustme
    python -m benchmarks.tls            # about three minutes; --quick: one

Needs `redis-benchmark`, `openssl`, and for files `nginx` and `curl`. TLS 1.3 throughout, an
ECDSA P-256 certificate, nginx without kernel TLS. As in the other table, ratios are taken
within each round, and medians are shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .__main__ import row
from .measure import Server, ping, tool_of


def make_certificate(folder: str) -> tuple[str, ssl.SSLContext]:
    """(certificate and key in one file, a client's context)."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    path = str(Path(folder) / "server.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return path, context


def ratios_of(
    rounds: int, names: tuple[str, ...], measure: Callable[[str], float]
) -> dict[str, tuple[float, float, float]]:
    """For each peer: the median ratio of ours over it, and both medians."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            figures[name].append(measure(name))
    mine = figures[names[0]]
    return {
        name: (
            statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
            statistics.median(mine),
            statistics.median(theirs),
        )
        for name, theirs in figures.items()
    }


def measure_pings(rounds: int, requests: int, pem: str, context: ssl.SSLContext) -> None:
    def measure(name: str) -> float:
        with Server(name, "--pem", pem) as server:
            ping(server, requests // 10, 50, context)
            return ping(server, requests, 50, context)[0]

    targets = {"asyncio Protocol": 1.0, "uvloop Protocol": 1.25}
    found = ratios_of(rounds, ("ours", *targets), measure)
    for name, most in targets.items():
        ratio, mine, theirs = found[name]
        row(
            f"PING over TLS 1.3, 50 clients: ours / {name}, server CPU per request",
            f"{ratio:.2f} ({mine:.1f} / {theirs:.1f} us)",
            f"at most {most}",
            ratio <= most,
        )


def measure_handshakes(rounds: int, seconds: int, pem: str) -> None:
    """`openssl s_time`: one connection after the other, a full handshake each."""
    rates: dict[str, float] = {}

    def measure(name: str) -> float:
        with Server(name, "--pem", pem) as server:
            before = server.cpu_s()
            result = subprocess.run(
                [tool_of("openssl", "openssl"), "s_time", "-connect", f"127.0.0.1:{server.port}"]
                + ["-new", "-tls1_3", "-time", str(seconds)],
                capture_output=True,
                text=True,
                timeout=seconds + 30,
            )
            found = re.search(r"(\d+) connections in (\d+) real seconds", result.stdout)
            assert found is not None, result.stdout + result.stderr
            count = int(found.group(1))
            rates[name] = count / seconds
            return (server.cpu_s() - before) / count * 1e6

    name = "raw threads"
    ratio, mine, theirs = ratios_of(rounds, ("ours", name), measure)[name]
    row(
        "full handshakes: ours / a thread per connection with `ssl`, server CPU for each",
        f"{ratio:.2f} ({mine:.0f} / {theirs:.0f} us;"
        f" {rates['ours']:.0f} / {rates[name]:.0f} a second)",
        "at most 0.9",
        ratio <= 0.9,
    )


def measure_idle(count: int, pem: str, context: ssl.SSLContext) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    with Server("ours", "--pem", pem) as server:
        clients: list[ssl.SSLSocket] = []

        def connect(number: int) -> None:
            for _ in range(number):
                sock = socket.create_connection(("127.0.0.1", server.port))
                clients.append(context.wrap_socket(sock, server_hostname="localhost"))
                clients[-1].sendall(b"PING")
                clients[-1].recv(64)

        connect(50)
        memory = server.memory_kib()
        connect(count)
        time.sleep(0.5)
        each = (server.memory_kib() - memory) / count
        what = f"{count:,} idle TLS connections: private memory each"
        row(what, f"{each:.1f} KiB", "at most 40", each <= 40)
        for client in clients:
            client.close()


NGINX = """
worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};
        ssl_protocols TLSv1.3; root {folder};
    }}
}}
"""


def measure_files(rounds: int, mebibytes: int, pem: str, folder: str) -> None:
    """`curl` fetches one large file from each, in turn."""
    curl, nginx = tool_of("curl", "curl"), tool_of("nginx", "nginx-light")
    path = Path(folder) / "large"
    path.write_bytes(os.urandom(1 << 20) * mebibytes)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = Path(folder) / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, pem=pem))

    def fetch(port: int) -> float:
        result = subprocess.run(
            [curl, "-sSk", "-o", "/dev/null", "-w", "%{size_download} %{speed_download}"]
            + ["--tls13-ciphers", "TLS_AES_128_GCM_SHA256", f"https://127.0.0.1:{port}/large"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        size, speed = result.stdout.split()
        assert int(size) == mebibytes << 20, "not all of it arrived"
        return float(speed) / (1 << 20)

    process = subprocess.Popen([nginx, "-c", str(config), "-p", folder], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
        with Server("ours", "--pem", pem, "--file", str(path)) as server:
            ports = {"ours": server.port, "nginx": port}
            ratio, mine, theirs = ratios_of(
                rounds * 3, ("ours", "nginx"), lambda name: fetch(ports[name])
            )["nginx"]
    finally:
        process.terminate()
        process.wait()
    row(
        f"`sendfile` of {mebibytes} MiB over TLS 1.3: ours / nginx, rate",
        f"{ratio:.2f} ({mine:.0f} / {theirs:.0f} MiB/s)",
        "at least 0.9",
        ratio >= 0.9,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer requests")
    given = parser.parse_args()
    rounds, requests = (3, 30_000) if given.quick else (5, 100_000)
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()},"
        f" the peers' {ssl.OPENSSL_VERSION}; {rounds} rounds\n"
    )
    print("| what | measured | target | met |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pem, context = make_certificate(folder)
        measure_pings(rounds, requests, pem, context)
        measure_handshakes(rounds, 2 if given.quick else 5, pem)
        measure_idle(1_000, pem, context)
        measure_files(rounds, 256, pem, folder)


if __name__ == "__main__":
    main()
