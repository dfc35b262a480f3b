"""Where the C meets an error in the middle: no reference is kept, no lock is held, and no stream
has lost a piece of itself."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from thousand_island_sync._base import compiled
from thousand_island_sync._server import accelerator

pytestmark = pytest.mark.skipif(not accelerator.in_c, reason="this run tests the Python")


def run(*command, **changed):
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            "PYTHONMALLOC": "debug",
            **os.environ,
            "PYTHONDEVMODE": "",
            "THOUSAND_ISLAND_DEBUG": "0",
            **changed,
        },
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout.splitlines()


def test_each_allocation_may_fail():
    pytest.importorskip("_testcapi", reason="this Python came without CPython's own test modules")
    *faults, met = run("-m", "tests.exits", *(["tls"] if find_spec("trustme") else []))
    assert faults == []
    assert int(met) > 100


#: The compiled module, of which the package has the base types, and nothing bound to it yet.
FRESH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("thousand_island_sync._native", sys.argv[1])
native = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
bind, bind_tls = native.bind, native.bind_tls

def taken(*_, **things):
    raise RuntimeError

native.bind = native.bind_tls = taken
from thousand_island_sync._server import accelerator
from thousand_island_sync.transports._tls import records
native.bind, native.bind_tls = bind, bind_tls
assert not accelerator.in_c
right = accelerator._GIVEN

def refused(error, said, call, *given, **things):
    try:
        call(*given, **things)
    except error as met:
        assert said in str(met), (said, met)
    else:
        raise SystemExit(f"nothing was raised: {said}")

def without_memory(call):
    # Each of its allocations fails in turn: how many it makes.
    import _testcapi
    for number in range(100):
        _testcapi.set_nomemory(number, number + 1)
        try:
            call()
        except MemoryError:
            continue
        else:
            return number
        finally:
            _testcapi.remove_mem_hooks()
"""
BIND = """
refused(RuntimeError, "`bind` comes first", native.Connection().run)
refused(RuntimeError, "`bind` comes first", native.Socket(1, 2, 3).send, b"x")
refused(RuntimeError, "`bind` comes first", native.Socket(1, 2, 3).recv)
refused(RuntimeError, "is taken", native.bind_tls, (1, 2, 3, 4), (1, 2, 3, 4))
refused(TypeError, "bind takes things", lambda: native.bind())
refused(TypeError, "", native.bind, 1)
for name in right:
    if name in native.__dict__:
        continue
    refused(TypeError, f"bind: no {name}", native.bind,
            **{key: one for key, one in right.items() if key != name})
refused(TypeError, "takes dict", native.bind, **{**right, "async_recv": []})
native.bind(**right)
refused(RuntimeError, "is taken", native.bind, **right)
explain = lambda: native.document(native.Socket, "send", "words")
assert without_memory(explain) > 0
assert native.Socket.send.__doc__.endswith("words")
refused(AttributeError, "walk", native.document, native.Socket, "walk", "")
refused(TypeError, "got ", native.document, native.Socket, "__init__", "")
for plain in (native.Client, native.Reader, native.Socket, native.TCPChannel, native.Task):
    refused(TypeError, "takes ", plain, *"123456789")
    refused(TypeError, "takes ", plain, sock=1)
"""
BIND_TLS = """
native.bind(**right)
states, functions = (object(),) * 4, (1, 2, 3, 4)
refused(TypeError, "", native.bind_tls)
refused(TypeError, "", native.bind_tls, states[:3], functions)
refused(TypeError, "", native.bind_tls, states, functions[:3])
refused(TypeError, "", native.bind_tls, states, (1, 2, 3, "there"))
refused(TypeError, "function 2 is nowhere", native.bind_tls, states, (1, 2, 0, 4))
native.bind_tls(states, functions)
refused(RuntimeError, "is taken", native.bind_tls, states, functions)
refused(TypeError, "", native.TLSWire)
refused(TypeError, "", native.TLSStream, native.RLock(), None)
refused(TypeError, "", native.TLSStream, None, native.TLSWire(None))
stream = native.TLSStream(native.RLock(), native.TLSWire(None))
for call in (stream.recv, stream.send):
    refused(TypeError, "takes", call)
    refused(TypeError, "takes", call, 1, 2, 3)
    refused(AttributeError, "", call, 1)
refused(TypeError, "", stream.place, 1)
refused(TypeError, "", stream.place, "here", 2, 3, None)
"""


@pytest.mark.parametrize("wrong", [BIND, BIND_TLS], ids=["bind", "bind_tls"])
def test_what_is_bound_is_looked_at(wrong):
    run("-c", FRESH + wrong, compiled.native.__file__)


#: The module is made anew in a process of which nothing else is known to it.
MAKE = """
import _imp, _testcapi, collections, ctypes, importlib.util, os, select, socket, sys
spec = importlib.util.spec_from_file_location("thousand_island_sync._native", sys.argv[1])
create, execute = _imp.create_dynamic, _imp.exec_dynamic

def refused():
    module = create(spec)
    try:
        execute(module)
    except (MemoryError, RuntimeError):  # which is what the import of a module says
        return True
    return False

def without_memory(number):  # in a child, for it is made once in a process
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    module, met = create(spec), False  # past what the import itself allocates
    _testcapi.set_nomemory(number, number + 1)
    try:
        execute(module)
    except (MemoryError, RuntimeError):
        met = True
    _testcapi.remove_mem_hooks()
    if met:
        module = create(spec)
        execute(module)
    assert module.SOURCES
    sys.exit(met)

if sys.version_info < (3, 13):  # whose own `dictresize` crashes as PyType_Ready calls it
    met = [without_memory(number) for number in range(900)]
    assert set(met) == {0, 1}, met
    assert met[-50:] == [0] * 50, met

libc, key = ctypes.CDLL(None), ctypes.c_uint()
while libc.pthread_key_create(ctypes.byref(key), None) == 0:
    last = key.value
assert refused()
libc.pthread_key_delete(last)
assert refused(), "it needs two"
libc.pthread_key_delete(last - 1)
module = create(spec)
execute(module)
assert module.SOURCES
try:
    execute(create(spec))
except ImportError as error:
    assert "another interpreter" in str(error)
else:
    raise SystemExit("two modules share one state")
"""


def test_a_module_that_cannot_be_made_leaves_nothing_behind():
    pytest.importorskip("_testcapi", reason="this Python came without CPython's own test modules")
    run("-c", MAKE, compiled.native.__file__)


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
        self.socket._stream.waiter = threading.get_ident()

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


#: An OpenSSL that takes in nothing of what was fetched, which it does without memory.
TAKES_NONE = """
import ctypes
from thousand_island_sync.transports._tls import private
right = private.place_of
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
takes_none = kind(lambda bio, bytes, size: asked.append(size) or -1)

def place_of(ffi, function):
    if function is not private.names.bio_write:
        return right(ffi, function)
    return ctypes.cast(takes_none, ctypes.c_void_p).value

private.place_of = place_of
from tests.slots import secure
for size in (10, 20_000):
    asked = []
    with secure()() as world:
        world.say(b"x" * size)
        world.deliver()
        try:
            world.channel.recv(100)
        except MemoryError:
            pass
        else:
            raise SystemExit("nothing was raised")
        assert len(asked) == 1, asked
        assert not world.channel._lock.locked()
        assert world.channel.truncated
        assert world.channel.recv(100) == b"", "what follows is taken for what was lost"
"""


def test_a_record_that_openssl_has_no_room_for_ends_the_stream():
    pytest.importorskip("trustme")
    run("-c", TAKES_NONE)
