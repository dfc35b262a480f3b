"""Where the C meets an error in the middle: no reference is kept, no lock is held, and no stream
has lost a piece of itself."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from thousand_island_sync._base import compiled
from thousand_island_sync._server import twins

pytestmark = pytest.mark.skipif(not twins.in_c, reason="this run tests the Python")


def run(*command, **changed):
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONDEVMODE": "0", "THOUSAND_ISLAND_DEBUG": "0", **changed},
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout.splitlines()


def test_each_allocation_may_fail():
    pytest.importorskip("_testcapi", reason="this Python came without CPython's own test modules")
    *faults, met = run("-m", "tests.exits", *(["tls"] if find_spec("trustme") else []))
    assert faults == []
    assert int(met) > 100


#: The compiled module, and nothing bound to it yet.
FRESH = """
import importlib.util, sys
from thousand_island_sync._server import twins
from thousand_island_sync.transports._tls import records
spec = importlib.util.spec_from_file_location("thousand_island_sync._native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
originals = {name.lstrip("_"): getattr(kind, name) for kind, name, _ in twins.TWINS}
right = {**twins._GIVEN, **originals}

def refused(error, said, call, *given, **things):
    try:
        call(*given, **things)
    except error as met:
        assert said in str(met), (said, met)
    else:
        raise SystemExit(f"nothing was raised: {said}")

class Other:
    __slots__ = ("alert",)

class Borrowing(Other):
    attached = twins.Task.attached
"""
BIND = """
refused(RuntimeError, "`bind` comes first", native.twin, twins.Lifecycle, "run", "")
refused(RuntimeError, "is taken", native.bind_tls, x=1)
refused(TypeError, "bind takes things", lambda: native.bind())
refused(TypeError, "", native.bind, 1)
for name in right:
    if name in native.__dict__:
        continue
    refused(TypeError, f"bind: no {name}", native.bind,
            **{key: one for key, one in right.items() if key != name})
refused(AttributeError, "attached", native.bind, **{**right, "Task": Other})
refused(TypeError, "Task.attached is no slot", native.bind, **{**right, "Task": Borrowing})
refused(TypeError, "Task is no class", native.bind, **{**right, "Task": 1})
refused(TypeError, "takes dict", native.bind, **{**right, "async_recv": []})
refused(TypeError, "must be real", native.bind, **{**right, "HAND_OVER_COST": "long"})
native.bind(**right)
refused(RuntimeError, "is taken", native.bind, **right)
"""
BIND_TLS = """
from thousand_island_sync.transports._tls.channel import TLSChannel, _Sink
from thousand_island_sync.transports._tls.wire import Wire
native.bind(**right)
functions = {name: 1 for name in ("ssl_read", "ssl_write", "bio_read", "bio_write")}
right = dict(Wire=Wire, TLSChannel=TLSChannel, PrivateRecords=records.PrivateRecords,
             Sink=_Sink, READ=1, recv=TLSChannel.recv, sink_send=_Sink.send, **functions)
refused(TypeError, "bind_tls takes things", lambda: native.bind_tls())
for name in right:
    refused(TypeError, f"bind: no {name}", native.bind_tls,
            **{key: one for key, one in right.items() if key != name})
refused(TypeError, "bio_read is nowhere", native.bind_tls, **{**right, "bio_read": 0})
refused(TypeError, "", native.bind_tls, **{**right, "bio_read": "there"})
native.bind_tls(**right)
refused(RuntimeError, "is taken", native.bind_tls, **right)
"""


@pytest.mark.parametrize("wrong", [BIND, BIND_TLS], ids=["bind", "bind_tls"])
def test_what_is_bound_is_looked_at(wrong):
    run("-c", FRESH + wrong, compiled.native.__file__, THOUSAND_ISLAND_PURE="1")


#: Each thread has buffers of its own, from its first call on.
BUFFERS = """
import threading, _testcapi
from tests.slots import Waiting, secure

def call(make, play, met):
    with make() as world:
        world.begin()
        for number in range(4):
            _testcapi.set_nomemory(number, number + 1)
            try:
                play(world)
            except MemoryError:
                met.append(number)
            except OSError:
                pass
            finally:
                _testcapi.remove_mem_hooks()

class Receives(Waiting):
    def begin(self):
        self.socket._waiter = threading.get_ident()

class Sends(secure()):
    def begin(self):
        pass

for make, play in (
    (Receives, lambda world: world.socket.recv(5)),
    (Sends, lambda world: world.sink.send(b"x" * 9_000, 0)),
):
    met = []
    thread = threading.Thread(target=call, args=(make, play, met))
    thread.start()
    thread.join()
    assert met and met[0] == 0, met
"""


def test_a_thread_without_memory_for_its_buffers_says_so():
    pytest.importorskip("_testcapi", reason="this Python came without CPython's own test modules")
    run("-c", BUFFERS)
