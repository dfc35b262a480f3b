import threading
from collections.abc import Callable
from typing import Any

SOURCES: str
taken: bool

def bind(**things: Any) -> None: ...
def classify(unknown: Any, quick: Any, suspect: Any, /) -> None: ...
def unread(fd: int, /) -> int: ...
def send_file(fd: int, file: int, offset: int, count: int, /) -> int | None: ...
def timer_open() -> int: ...
def timer_set(fd: int, seconds: float, /) -> None: ...
def document(type: type, name: str, text: str, /) -> None: ...
def bind_tls(**things: Any) -> tuple[Any, Any]: ...
def holds_any() -> bool: ...
def holds_none() -> None: ...
def watch_locks(watch: Any, /) -> None: ...

Lock = threading.Lock
RLock = threading.RLock

# The base types: as their equals in Python, which say what the fields are, and which type checkers
# go by.

class Task:
    alert: Any
    attached: Any
    average: float
    classified: Any
    deaf: bool
    deadline: float
    fd: int
    hung_up: Any
    machine: Any
    no_sample: Any
    ownership: int
    place: int
    reads: Any
    timer: Any
    timer_at: float
    wants_write: bool
    write_edges: bool
    def __init__(self, fd: int, /) -> None: ...
    def run(self) -> int: ...
    def may_stay(self) -> bool: ...
    def stay(self, timeout: float, wanted: Callable[[float], bool], /) -> tuple[int, bool]: ...
    def broke(self) -> None: ...
    def unwatched(self, error: OSError, /) -> None: ...
    def stop_begins(self) -> None: ...

class Worker:
    looking: bool
    parked: Any
    permit: bool
    task: Any
    turn: int
    waited: bool

class Deadlines:
    _clock: Any
    _next: float
    calls: Any
    def __init__(self, clock: Callable[[], float], /) -> None: ...

class WatchdogTimer:
    state: int

class RunQueue:
    _alone: int
    _batch: int
    _deadlines: Any
    _epoll: Any
    _last_found: int
    _ready: Any
    _tasks: Any
    _unlooked: int
    _watchdog_timer: Any
    lock: Any
    sleepers: int
    def __init__(self, lock: Any, tasks: list[Any], deadlines: Any, watchdog: Any, /) -> None: ...
    def look(self, worker: Any, /) -> bool: ...

class BlockingEstimate:
    sample_mask: int
    timed_by_kernel: bool

class Runner:
    _estimate: Any
    _queue: Any
    def __init__(self, queue: Any, estimate: Any, /) -> None: ...
    def run_batch(self, worker: Any, /) -> int | None: ...

class Client:
    _host: Any
    _id: Any
    _port: int
    _serial: int
    _sockname: Any
    accepted_at: float
    acceptor_id: Any
    closed: Any
    env: Any
    sock: Any
    def __init__(
        self,
        env: Any,
        sock: Any,
        host: Any,
        port: int,
        accepted_at: float,
        serial: int,
        /,
    ) -> None: ...

class Closing:
    _env: Any
    _machine: Any
    stream: Any
    task: Any
    def __init__(self, task: Any, stream: Any, machine: Any, env: Any, /) -> None: ...

class Connection:
    def run(self) -> int: ...
    def receive(self) -> int: ...
    def stay(self, timeout: Any, wanted: Any, /) -> Any: ...

class Socket:
    _reader: Any
    _stream: Any
    _writer: Any
    def __init__(self, stream: Any, reader: Any, writer: Any, /) -> None: ...
    def send(self, data: Any, flags: int = 0, *, timeout_ms: Any = ...) -> int: ...
    def recv(self, length: int = 65536, flags: int = 0, *, timeout_ms: Any = ...) -> bytes: ...

class TCPChannel:
    _exposed: Any
    _limited: Any
    _receive_timeout: Any
    _sock: Any
    def __init__(self, sock: Any, /) -> None: ...
    def wait_recv(self, length: int, timeout: float, /) -> bytes | None: ...

class Machine:
    _env: Any
    _eof_told: Any
    _task: Any
    _transport: Any
    callbacks: Any
    drain: Any
    handshake: Any
    no_room: Any
    pause: Any
    short_proves: Any
    socket: Any
    source: Any
    state: Any
    stream: Any
    def __init__(
        self, task: Any, env: Any, transport: Any, callbacks: Any, state: Any, /
    ) -> None: ...

class Callbacks:
    _left: Any
    _whose: Any
    clock: Any
    context: Any
    frames: Any
    read_deadline: float
    read_timeout: Any
    receiver: Any
    total_deadline: Any
    def __init__(
        self, whose: Any, clock: Any, context: Any, read_timeout: Any, read_deadline: float, /
    ) -> None: ...

class Duplex:
    _limit: Any
    channel: Any
    connection: Any
    reader: Any
    sock: Any
    state: Any
    waiter: Any
    writer: Any
    def __init__(
        self, connection: Any, sock: Any, channel: Any, state: Any, limit: Any, /
    ) -> None: ...

class Reader:
    _receiving: Any
    _stream: Any
    buffer: Any
    bytes_received: Any
    framed: Any
    incoming: Any
    recv_count: Any
    def __init__(self, stream: Any, incoming: Any, /) -> None: ...

class Writer:
    _reader: Any
    _sending: Any
    _sink: Any
    _stream: Any
    answered: Any
    buffer: Any
    bytes_sent: Any
    outgoing: Any
    send_count: Any
    def __init__(
        self, stream: Any, reader: Any, sink: Any, turn: Any, outgoing: Any, /
    ) -> None: ...

class TLSWire:
    exposed: bool
    held: Any
    kernel_drained: bool
    owed: bool
    reads_ended: bool
    recv_wants: int
    send_wants: int
    sock: Any
    source: Any
    def __init__(self, *given: Any) -> None: ...
    def fetch(self) -> Any: ...

class TLSStream:
    keeps: Any
    large: bool
    lock: Any
    unread: Any
    wire: Any
    def place(self, *places: Any) -> None: ...
    def recv(self, length: int, flags: int = 0, /) -> bytes | None: ...
    def send(self, data: Any, flags: int = 0, /) -> int: ...
