"""`Socket.makefile`: what a library finds out about its file object, beside `socket.socket`'s."""

import gzip
import io
import socket as stdlib_socket

import pytest

from tests.support import eventually, receive_all
from thousand_island_sync import Close, Handler


def _found(ask):
    """What it returns, or the name of what it raises."""
    try:
        return ask()
    except (AttributeError, OSError, ValueError) as error:
        return type(error).__name__


def _open_and_closed(makefile, mode, buffering):
    """What can be asked of a file object, of its raw file too, before and after its close."""
    file = makefile(mode, buffering=buffering)
    raw = file if buffering == 0 else getattr(file, "raw", None)
    kind = isinstance(file, io.RawIOBase) or type(file)
    facts = [kind]
    for _ in range(2):
        for asked in (file, raw):
            if asked is not None:
                facts += [_found(lambda asked=asked: asked.mode)]
                facts += [_found(getattr(asked, name)) for name in ("readable", "writable")]
                facts += [_found(lambda asked=asked: asked.fileno() >= 0)]
                facts += [_found(lambda asked=asked: asked.name >= 0)]
        file.close()
    return facts


@pytest.fixture
def stdlib_pair():
    one, other = stdlib_socket.socketpair()
    with one, other:
        yield one


@pytest.mark.parametrize(
    ("mode", "buffering"),
    [("rb", -1), ("wb", -1), ("rwb", -1), ("b", -1), ("rb", 0), ("wb", 0), ("rwb", 0), ("r", -1)],
)
def test_a_file_object_tells_the_same_of_itself(serve, client, stdlib_pair, mode, buffering):
    told = []

    class Asks(Handler):
        def handle_connection(self, socket):
            told.append(_open_and_closed(socket.makefile, mode, buffering))
            return Close()

    client(serve(Asks))
    assert eventually(lambda: told)
    assert told == [_open_and_closed(stdlib_pair.makefile, mode, buffering)]


@pytest.mark.filterwarnings("ignore:GzipFile was opened for writing:FutureWarning")
def test_gzip_sees_that_it_is_to_write(serve, client):
    class Compressed(Handler):
        def handle_connection(self, socket):
            with socket.makefile("wb") as file, gzip.GzipFile(fileobj=file) as packed:
                packed.write(b"what was sent")
            return Close()

    sock = client(serve(Compressed))
    assert gzip.decompress(receive_all(sock)) == b"what was sent"
