"""The programs that load the servers, and what they tell: `redis-benchmark`, `ab`, `wrk`.

Each function runs one of them for about so many seconds and gives `Figures`: for each request
the server's CPU in microseconds, the rate, the median and the 99th percentile of the client's
waiting in milliseconds, and the most memory and threads that the server had meanwhile.

Answers are checked: by a request on a connection of our own before and after, each byte of
it; by `ab` their length, by `wrk` each byte up to a mebibyte; `redis-benchmark` ends only when
there were as many answers as requests, and gives up at an error.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import work
from .measure import Server, tool_of

#: cpu_us, rate, p50_ms, p99_ms, memory_kib, threads, and what a scenario adds.
Figures = dict[str, float]

#: redis-benchmark's output, longest of all that it may take.
_LIMIT_S = 60


class Wrong(AssertionError):
    """A server gave a wrong answer, or none."""


class Watch:
    """Runs programs and notes what a server uses meanwhile."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.memory_kib = server.memory_kib()
        self.threads = server.threads()

    def run(self, *commands: list[str]) -> list[str]:
        """What the commands printed, run beside one another until the first ends."""
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(
                    subprocess.Popen(
                        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                    )
                )
                for command in commands
            ]
            for process in running:
                stack.callback(process.kill)
            deadline = time.monotonic() + _LIMIT_S
            while all(process.poll() is None for process in running):
                if time.monotonic() > deadline:
                    raise Wrong(f"{self._server.name}: {commands[0]} does not end")
                time.sleep(0.05)
                self.threads = max(self.threads, self._server.threads())
            self.memory_kib = max(self.memory_kib, self._server.memory_kib())
            texts = []
            for process, command in zip(running, commands, strict=True):
                if process.poll() is None:
                    texts.append("")
                    continue
                assert process.stdout is not None
                texts.append(process.stdout.read())
                if process.returncode:
                    raise Wrong(f"{self._server.name}: {command}: {texts[-1][-500:]}")
        return texts

    def figures(self, cpu_s: float, requests: float, rate: float) -> Figures:
        return {
            "cpu_us": cpu_s / requests * 1e6,
            "rate": rate,
            "memory_kib": self.memory_kib,
            "threads": self.threads,
        }


# ---- redis-benchmark ----------------------------------------------------------------


def redis(
    server: Server,
    seconds: float,
    clients: int,
    *,
    pipeline: int = 1,
    keep: bool = True,
    first: int = 2_000,
) -> Figures:
    """PINGs; `first` are sent to warm the server up and to see how many fit the time."""
    check_ping(server)
    command = redis_command(server, clients, "-P", str(pipeline), "-t", "ping_mbulk")
    command += ["-k", str(int(keep))]
    watch = Watch(server)
    told = _parse(watch.run([*command, "-n", str(first)])[0])
    count = max(first // 2, int(told["rate"] * seconds))
    before = server.cpu_s()
    told = _parse(watch.run([*command, "-n", str(count)])[0])
    used = server.cpu_s() - before
    check_ping(server)
    return watch.figures(used, count, told["rate"]) | told


def mixed(server: Server, seconds: float) -> Figures:
    """20 clients whose requests block for 20 ms each, and 40 whose do not, at once.

    The figures are those of the quick ones; `naps` is the rate of the others.
    """
    naps = redis_command(server, 20, "-n", "1000000", "NAP")
    quick = redis_command(server, 40, "-t", "ping_mbulk")
    watch = Watch(server)
    told = _parse(watch.run([*quick, "-n", "2000"], naps)[0])
    count = int(told["rate"] * seconds) + 1_000
    probe = naps[:-3] + ["-n", str(max(20, int(900 * seconds))), "NAP"]
    before = server.cpu_s()
    with subprocess.Popen(probe, stdout=subprocess.PIPE, text=True) as napping:
        told = _parse(watch.run([*quick, "-n", str(count)])[0])
        used = server.cpu_s() - before
        # The naps must outlast the quick ones, or the figures are of a load that had ended.
        lasted = napping.poll() is None
        out, _ = napping.communicate(timeout=_LIMIT_S)
    found = watch.figures(used, count, told["rate"]) | told
    found["naps"] = _parse(out)["rate"]
    found["overlapped"] = float(lasted)
    return found


def redis_command(server: Server, clients: int, *more: str) -> list[str]:
    """`redis-benchmark` against a server, over TLS if that speaks it."""
    program = tool_of("redis-benchmark", "redis-tools")
    tls = ["--tls", "--insecure"] if server.work.pem else []
    return [program, "-p", str(server.port), "-c", str(clients), "--csv", *tls, *more]


def _parse(text: str) -> Figures:
    rows = list(csv.DictReader(io.StringIO(text[text.find('"test"') :])))
    if len(rows) != 1:
        raise Wrong(f"redis-benchmark: {text[-500:]}")
    return {
        "rate": float(rows[0]["rps"]),
        "p50_ms": float(rows[0]["p50_latency_ms"]),
        "p99_ms": float(rows[0]["p99_latency_ms"]),
    }


def connect(server: Server) -> socket.socket:
    """A client's socket; over TLS if the server speaks it, its certificate verified."""
    client = socket.create_connection((work.HOST, server.port), timeout=30)
    if not server.work.pem:
        return client
    try:
        context = ssl.create_default_context(cafile=server.work.pem)
        return context.wrap_socket(client, server_hostname="localhost")
    except BaseException:
        client.close()
        raise


def check_ping(server: Server) -> None:
    with connect(server) as client:
        client.sendall(work.PING)
        got = client.recv(64)
    if got != work.PONG:
        raise Wrong(f"{server.name} answered {got!r} to a PING")


# ---- HTTP ---------------------------------------------------------------------------


def ab(server: Server, seconds: float, clients: int, path: str = "/send/100") -> Figures:
    """A connection for each request."""
    check_body(server, path)
    program = tool_of("ab", "apache2-utils")
    watch = Watch(server)
    with tempfile.NamedTemporaryFile() as table:
        command = [program, "-q", "-c", str(clients), "-e", table.name]
        url = f"http://{work.HOST}:{server.port}{path}"
        told = _parse_ab(watch.run([*command, "-n", "1000", url])[0])
        count = max(1_000, int(told * seconds))
        before = server.cpu_s()
        rate = _parse_ab(watch.run([*command, "-n", str(count), url])[0])
        used = server.cpu_s() - before
        percent = list(csv.reader(Path(table.name).read_text().splitlines()))
    check_body(server, path)
    waits = {"p50_ms": float(percent[51][1]), "p99_ms": float(percent[100][1])}
    return watch.figures(used, count, rate) | waits


def _parse_ab(text: str) -> float:
    facts = dict(re.findall(r"^([A-Z][^:\n]*):\s+([\d.]+)", text, re.MULTILINE))
    if facts.get("Failed requests") != "0" or "Non-2xx responses" in facts:
        raise Wrong(f"ab: {text[-800:]}")
    return float(facts["Requests per second"])


#: Larger bodies are counted by wrk, not looked at: its Lua collects them for that, and the
#: client would be what is measured.
_LARGEST_CHECKED = 1 << 20
#: Checks each byte of each body and tells what it saw as JSON.
_LUA = """
local block = ''
for byte = 0, 255 do block = block .. string.char(byte) end
size, wanted, wrong = 0, '', 0  -- global, for thread:get
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(given)
    size = tonumber(given[1])
    if %CHECKED% then
        wanted = string.rep(block, math.floor(size / 256)) .. string.sub(block, 1, size % 256)
    end
end
if %CHECKED% then
    response = function(status, headers, body)
        if status ~= 200 or body ~= wanted then wrong = wrong + 1 end
    end
end
function done(summary, latency, requests)
    local bad = 0
    for _, thread in ipairs(threads) do bad = bad + thread:get('wrong') end
    local e = summary.errors
    print(string.format('JSON{"bytes":%.0f,"us":%d,"p50":%d,"p99":%d,"wrong":%d}',
        summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
        bad + e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(server: Server, seconds: float, clients: int, kind: str, size: int) -> Figures:
    """Kept connections; bodies of one size. A server that gave not one body in the time is given
    four times as much, twice at most."""
    path = f"/{kind}/{size}"
    check_body(server, path)
    scheme = "https" if server.work.pem else "http"
    url = f"{scheme}://{work.HOST}:{server.port}{path}"
    whole = max(1, round(seconds))
    for duration in (whole, 4 * whole, 16 * whole):
        watch, before = Watch(server), server.cpu_s()
        facts = _run_wrk(watch, duration, clients, url, size)
        used = server.cpu_s() - before
        # What was under way when the time was over is counted by its part.
        requests = facts["bytes"] / (size + len(work.head(size, True)))
        if requests >= 1 or facts["wrong"]:
            break
    if facts["wrong"] or requests < 1:
        raise Wrong(f"{server.name}: {path}: wrk found {facts}")
    rate = requests / facts["us"] * 1e6
    waits = {"p50_ms": facts["p50"] / 1_000, "p99_ms": facts["p99"] / 1_000}
    return watch.figures(used, requests, rate) | waits


def _run_wrk(watch: Watch, seconds: int, clients: int, url: str, size: int) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA.replace("%CHECKED%", str(size <= _LARGEST_CHECKED).lower()))
        script.flush()
        command = [tool_of("wrk", "wrk"), "-t", "1", "-c", str(clients), "-d", f"{seconds}s"]
        command += ["--timeout", "30s", "-s", script.name, url, "--", str(size)]
        told = watch.run(command)[0]
    found = re.search(r"JSON(.*)", told)
    if found is None:
        raise Wrong(f"wrk: {told[-500:]}")
    facts: dict[str, float] = json.loads(found.group(1))
    return facts


def check_body(server: Server, path: str) -> None:
    size = int(path.rpartition("/")[2])
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(server) as client:
        client.sendall(request.encode())
        with client.makefile("rb") as file:
            status = file.readline()
            while file.readline() not in (b"\r\n", b""):
                pass
            got = file.read()
    wanted = (work.PATTERN * (size // len(work.PATTERN) + 1))[:size]
    if b" 200 " not in status or got != wanted:
        raise Wrong(f"{server.name}: {path}: {status!r} and {len(got)} bytes")


# ---- other clients ------------------------------------------------------------------


def handshakes(server: Server, seconds: float) -> Figures:
    """`openssl s_time`: one connection after the other, a full handshake each."""
    watch = Watch(server)
    whole = max(1, round(seconds))
    before = server.cpu_s()
    told = watch.run(
        [tool_of("openssl", "openssl"), "s_time", "-connect", f"{work.HOST}:{server.port}"]
        + ["-new", "-tls1_3", "-time", str(whole)]
    )[0]
    found = re.search(r"(\d+) connections in (\d+) real seconds", told)
    if found is None:
        raise Wrong(f"s_time: {told[-500:]}")
    count = int(found.group(1))
    return watch.figures(server.cpu_s() - before, count, count / int(found.group(2)))


Load = Callable[[Server, float], Figures]
