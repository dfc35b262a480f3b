"""What is measured: for each scenario who serves, what for, and which load."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from . import crowds, load
from .load import Load
from .work import PATTERN, Work

_THREADS = ("raw threads", "socketserver", "thread pool")
_LOOPS = ("asyncio Protocol", "asyncio streams", "uvloop Protocol", "uvloop streams")
_OTHERS = ("gevent", "trio", "Twisted")
_WSGI = ("cheroot", "waitress")
_ALL = ("ours", "ours, looping", *_THREADS, *_LOOPS, *_OTHERS)
#: A pool of 64 threads serves no more than 64 at a time, and the others wait for ever.
_UNBOUNDED = tuple(name for name in _ALL if name != "thread pool")
_HTTP = ("ours", *_THREADS, *_LOOPS, *_OTHERS, *_WSGI)
_FILES = (
    "ours",
    "raw threads",
    "raw threads, pread",
    "asyncio streams",
    "uvloop streams",
    "gevent",
    "trio",
    "Twisted",
    *_WSGI,
)
#: Without threads for connections: ten thousand threads measure the machine.
_MANY = ("ours", *_LOOPS, *_OTHERS)
_TLS_FILES = ("ours", "raw threads, pread", "asyncio streams", "uvloop streams", "nginx")
_TLS = ("ours", "raw threads", *_LOOPS, *_OTHERS)

SIZES = {"1 KiB": 1 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One table of the report.

    Args:
        name: by which `--only` finds it, and its plot.
        title: what is done.
        peers: who serves; the first is ours.
        load: what is done to it.
        work: what each server is started for.
        note: how to read it.
        ends: the load ends the server, which has one turn only then.
    """

    name: str
    title: str
    peers: tuple[str, ...]
    load: Load
    work: Work = dataclasses.field(default_factory=Work)
    note: str = ""
    ends: bool = False


def _pings() -> list[Scenario]:
    found = [
        Scenario(
            f"ping-{clients}",
            f"PING, {clients} connection{'s' if clients > 1 else ''}",
            _ALL if clients < 64 else _UNBOUNDED,
            functools.partial(load.redis, clients=clients),
            Work(threads=max(64, clients)),  # who loops holds one for each connection
        )
        for clients in (1, 50, 500)
    ]
    found.append(
        Scenario(
            "one-by-one",
            "PING, 200 a second from 20 connections, one after the other",
            _ALL,
            functools.partial(crowds.one_by_one, rate=200.0),
            note="Most servers are at rest most of the time: each request finds them asleep.",
        )
    )
    pipelined = functools.partial(load.redis, clients=50, pipeline=16, first=20_000)
    found.append(Scenario("pipelined", "PING, 50 connections, pipelined by 16", _ALL, pipelined))
    return found


def _per_request() -> Scenario:
    return Scenario(
        "connection-per-request",
        "a connection for each request (`ab`, 50 at a time), HTTP, 100 bytes",
        _HTTP,
        functools.partial(load.ab, clients=50),
        Work(http=True),
        "Ours closes without losing what is under way: it ends its sending side, and waits for"
        " the client's end; the raw loops close at once.",
    )


def _bodies(folder: Path) -> list[Scenario]:
    found = []
    for kind, peers in (("send", _HTTP), ("file", _FILES)):
        for words, size in SIZES.items():
            path = folder / f"file-{size}"
            if kind == "file":
                path.write_bytes(PATTERN * (size // len(PATTERN)))
            what = "from memory" if kind == "send" else "from a file"
            clients = 4 if size >= 1 << 20 else 50
            note = "`raw threads` is a loop over `os.sendfile`." if kind == "file" else ""
            found.append(
                Scenario(
                    f"{kind}-{words.replace(' ', '')}",
                    f"HTTP, bodies of {words} {what} (`wrk`, {clients} connections)",
                    peers,
                    functools.partial(load.wrk, clients=clients, kind=kind, size=size),
                    Work(http=True, largest=size, file=str(path)),
                    note,
                )
            )
    return found


def _tls(folder: Path) -> list[Scenario]:
    pem = make_certificate(folder)
    file = folder / "file-tls"
    file.write_bytes(PATTERN * (SIZES["64 MiB"] // len(PATTERN)))
    ping = functools.partial(load.redis, clients=50)
    return [
        Scenario("tls-ping", "PING over TLS 1.3, 50 connections", _TLS, ping, Work(pem=pem)),
        Scenario(
            "tls-idle",
            "PING over TLS 1.3, 50 connections beside 1,000 idle ones",
            _TLS,
            functools.partial(crowds.idle, count=1_000),
            Work(pem=pem),
            ends=True,
        ),
        Scenario(
            "tls-file",
            "HTTPS, a file of 64 MiB (`wrk`, 4 connections)",
            _TLS_FILES,
            functools.partial(load.wrk, clients=4, kind="file", size=SIZES["64 MiB"]),
            Work(http=True, file=str(file), pem=pem),
            "nginx reads and encrypts in C, without kernel TLS.",
        ),
        Scenario(
            "tls-handshakes",
            "full TLS 1.3 handshakes, one after the other (`openssl s_time`), ECDSA P-256",
            _TLS,
            load.handshakes,
            Work(pem=pem),
        ),
    ]


def _blocking() -> list[Scenario]:
    found = [
        Scenario(
            f"sleep-{sleep_ms:g}",
            f"handlers that block for {sleep_ms:g} ms, 50 connections",
            _ALL,
            functools.partial(load.redis, clients=50, first=400),
            Work(sleep_ms=sleep_ms),
            f"No more than {50 / sleep_ms * 1_000:,.0f} a second are possible. The event loops"
            " give what blocks to 64 threads.",
        )
        for sleep_ms in (0.5, 5.0, 50.0)
    ]
    found.append(
        Scenario(
            "mixed",
            "40 connections that are quick beside 20 whose requests block for 20 ms",
            _ALL[:1] + _ALL[2:],
            load.mixed,
            Work(nap_ms=20),
            "The figures are those of the quick ones; `naps` is the rate of the others, of"
            " which 1,000 a second are possible.",
        )
    )
    found.append(
        Scenario(
            "computing",
            "handlers that compute in Python for about a millisecond, 50 connections",
            _ALL,
            functools.partial(load.redis, clients=50, first=400),
            Work(compute=12_000),
        )
    )
    found.append(
        Scenario(
            "beside-computing",
            "PING, 50 connections, beside one whose requests compute for about 100 ms",
            tuple(name for name in _ALL if name not in ("ours, looping", "gevent")),
            crowds.beside_computing,
            Work(crunch=1_200_000),
            "The figures are those of the quick ones, but the CPU is of all; `crunches` is the"
            " rate of the others. The event loops give those to a thread; gevent, whose threads"
            " are none of the system's, is not asked.",
        )
    )
    return found


def _crowds() -> list[Scenario]:
    most = crowds.most_connections()
    found = [
        Scenario(
            f"idle-{name}",
            f"50 active connections beside {count:,} idle ones",
            _MANY + (("raw threads",) if count <= 1_000 else ()),
            functools.partial(crowds.idle, count=count),
            note="`each_kib` is an idle connection's memory, `times_alone` the CPU for a request"
            " over that without idle ones, `rest_percent` CPU when nothing happens.",
            ends=True,
        )
        for name, count in (("1000", 1_000), ("10000", 10_000), ("most", most))
    ]
    found.append(
        Scenario(
            "sipping-readers",
            "PING, 50 connections, beside eight that read a mebibyte at 800 KiB/s each",
            _ALL[:1] + _ALL[2:],
            crowds.beside_sipping_readers,
        )
    )
    found.append(
        Scenario(
            "slow-readers",
            f"PING, 50 connections, beside {crowds.NON_READERS} that ask for six mebibytes and"
            " read nothing",
            ("ours", "raw threads", "asyncio Protocol", "uvloop Protocol", "gevent"),
            crowds.beside_non_readers,
            Work(threads=128),
            "`p99 alone` is over that of the same 50 without the others; memory is with them."
            " What the kernel does not take, ours keeps: 256 KiB for each and 64 MiB for all (and"
            " takes nothing more from these clients); an event loop keeps it without a limit"
            " (uvloop without a copy), and a thread waits for each.",
        )
    )
    return found


def _telemetry() -> Scenario:
    return Scenario(
        "telemetry",
        "PING, 50 connections: who listens to events",
        ("ours", "ours, a receiver on every event", "ours, logger at trace"),
        functools.partial(load.redis, clients=50),
    )


def scenarios(folder: Path) -> list[Scenario]:
    """All of them; `folder` is for the files that are sent, and a certificate."""
    return [
        *_pings(),
        _per_request(),
        *_blocking(),
        *_tls(folder),
        *_bodies(folder),
        *_crowds(),
        _telemetry(),
    ]


def make_certificate(folder: Path) -> str:
    """The path of a certificate, its key, and the authority's, by which a client verifies it."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    path = str(folder / "server.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    authority.cert_pem.write_to_path(path, append=True)
    return path
