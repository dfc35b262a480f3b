"""What is said of a value that no callback may return."""

import pytest

from thousand_island_sync import Close, Continue, Error, SwitchTransport
from thousand_island_sync._connection.result_error import result_error


class Shy:
    def __repr__(self):
        raise RuntimeError("not to be shown")


async def coroutine(): ...


def generator():
    yield


async def asynchronous_generator():
    yield


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Close, "that is the class; return Close()"),
        (Continue, "that is the class; return Continue()"),
        (Error, "that is the class; return Error(reason)"),
        (SwitchTransport, "that is the class; return SwitchTransport(...)"),
        (int, "it takes None, Continue(), Close(), Error(reason) or SwitchTransport(...)"),
        (b"x", "returned b'x'; it takes None, Continue(), Close()"),
        (coroutine(), "callbacks are plain functions, which may block"),
        (generator(), "take the `yield` out"),
        (asynchronous_generator(), "take the `yield` out"),
        (Shy(), "returned a Shy that cannot be shown; "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_says_what_to_do(value, says):
    error = result_error("Mine.handle_data", value)
    assert str(error).startswith("Mine.handle_data returned ")
    assert says in str(error)


def test_a_long_value_is_not_shown_whole():
    assert len(str(result_error("Mine.handle_data", b"x" * 100_000))) < 400
