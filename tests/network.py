"""Two network namespaces and a bad cable between them.

The cable is a pair of TUN devices (L3) and a thread that carries packets from one to the
other: late, out of order, or not at all. It does in user space what `tc netem` does in the
kernel, and needs no kernel module, so that it works wherever namespaces are allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_serials = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def refuse(why: str) -> None:
    """Skips the test, or fails it where the run requires everything."""
    if os.environ.get("REQUIRE_PROGRAMS"):
        pytest.fail(f"{why}, and this run requires it")
    pytest.skip(why)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


class Namespace:
    """A network namespace of its own; sockets that are made inside belong to it for good."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"tis-{os.getpid()}-{next(_serials)}"
        _ip("netns", "add", self.name)
        self._fd = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace meanwhile."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._set(self._fd)
            yield
        finally:
            self._set(before)
            os.close(before)

    @staticmethod
    def _set(fd: int) -> None:
        if _libc.setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")

    def device(self, peer: str) -> int:
        """A TUN device with the namespace's address; its descriptor."""
        with self.entered():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            request = struct.pack("16sH22x", b"cable", _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(fd, _TUNSETIFF, request)
        _ip("-n", self.name, "addr", "add", self.address, "peer", peer, "dev", "cable")
        _ip("-n", self.name, "link", "set", "cable", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        return fd

    def listener(self) -> socket.socket:
        with self.entered():
            return socket.create_server((self.address, 0))

    def connect(self, address: tuple[str, int], timeout: float = 20) -> socket.socket:
        with self.entered():
            return socket.create_connection(address, timeout=timeout)

    def close(self) -> None:
        os.close(self._fd)
        _ip("netns", "del", self.name)


class Cable:
    """Carries packets between two namespaces.

    `delay` is in seconds, each way; `loss` and `reorder` are shares of packets, those of the
    second overtaking the others. While `pulled`, nothing arrives at all.
    """

    def __init__(self, one: Namespace, other: Namespace) -> None:
        self.delay = self.loss = self.reorder = 0.0
        self.pulled = False
        self.carried = self.lost = 0
        self._ends = {}
        first, second = one.device(other.address), other.device(one.address)
        self._ends = {first: second, second: first}
        self._chance = random.Random(7)
        self._late: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self._over, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="cable")
        self._thread.start()

    def _carry(self) -> None:
        poller = select.poll()
        for fd in (*self._ends, self._over):
            poller.register(fd, select.POLLIN)
        while True:
            timeout = None
            if self._late:
                timeout = max(0.0, (self._late[0][0] - time.monotonic()) * 1_000)
            for fd, _ in poller.poll(timeout):
                if fd == self._over:
                    return
                self._read(fd)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(self._late)
                self._write(target, packet)

    def _read(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(fd, 65_536)
                if self.pulled or self._chance.random() < self.loss:
                    self.lost += 1
                    continue
                late = 0.0 if self._chance.random() < self.reorder else self.delay
                when = time.monotonic() + late
                entry = (when, next(self._order), self._ends[fd], packet)
                heapq.heappush(self._late, entry)

    def _write(self, fd: int, packet: bytes) -> None:
        if self.pulled:
            self.lost += 1
            return
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(fd, packet)
            self.carried += 1

    def close(self) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        for fd in (*self._ends, self._over, self._wake):
            os.close(fd)


class Network:
    """A server's side, a client's side, and the cable."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.near = Namespace("10.77.0.1")
            undo.callback(self.near.close)
            self.far = Namespace("10.77.0.2")
            undo.callback(self.far.close)
            self.cable = Cable(self.near, self.far)
            undo.callback(self.cable.close)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()


def make() -> Network:
    """A network, or a skip that says why there is none."""
    if not Path("/dev/net/tun").exists():
        refuse("/dev/net/tun is not there")
    try:
        return Network()
    except FileNotFoundError:
        refuse("the program ip (iproute2) is not installed")
    except PermissionError as error:
        refuse(f"network namespaces are not allowed: {error}")
    except subprocess.CalledProcessError as error:
        refuse(f"network namespaces are not allowed: {error.stderr.strip()}")
    raise AssertionError
