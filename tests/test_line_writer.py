"""Lines for a stream that perhaps nobody reads."""

import contextlib
import fcntl
import io
import json
import logging
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from tests.support import break_start_off, busy_seconds, eventually, running
from thousand_island_sync import ConfigError
from thousand_island_sync._telemetry import log_formats
from thousand_island_sync._telemetry.line_writer import (
    MOST_CHARACTERS,
    LineHandler,
    LineWriter,
    close_all,
)

#: A page: of the kernel's sizes for a pipe the smallest.
SMALL_PIPE = 4_096


@pytest.fixture
def pipe():
    """A small pipe as a text stream, and the descriptor that it is read from."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    stream = os.fdopen(writer, "w")
    yield stream, reader
    stream.close()
    os.close(reader)


def read_lines(reader, until):
    """What comes out of the pipe, until a line contains something."""
    text = ""
    while until not in text:
        text += os.read(reader, 1 << 16).decode()
    return text.splitlines()


def read_to_the_end(pipe, writer):
    """All that comes out of the pipe; the writer is closed. What was dropped may be said in several
    lines: it depends on when the writer's thread gets to run."""
    stream, reader = pipe
    parts = []

    def read():
        while part := os.read(reader, 1 << 20):
            parts.append(part)

    with running(read):
        close_all(writer, within=10)
        stream.close()
    return b"".join(parts)


def fill(writer, count, first=0):
    for number in range(first, first + count):
        writer.put(f"line {number} " + "." * 90)


def test_lines_come_in_order_and_all_of_them_while_somebody_reads(pipe):
    stream, reader = pipe
    writer = LineWriter(stream)
    fill(writer, 500)
    found = read_lines(reader, "line 499 ")
    assert [line.split()[1] for line in found] == [str(number) for number in range(500)]
    close_all(writer)


def test_who_writes_never_waits_and_what_was_dropped_is_said_when_the_stream_moves_again(pipe):
    stream, reader = pipe
    writer = LineWriter(stream, most=10)
    with running(lambda: fill(writer, 1_000), within=10):
        pass  # nobody reads
    writer.put("the end")
    os.set_blocking(reader, False)
    found = []

    def all_is_told():
        with contextlib.suppress(BlockingIOError):
            found.append(os.read(reader, 1 << 16).decode())
        told = sum(map(int, re.findall("^([0-9]+) lines were dropped", "".join(found), re.M)))
        return len(re.findall("^line ", "".join(found), re.M)) + told in (1_000, 1_001)

    assert eventually(all_is_told)
    numbers = [int(one) for one in re.findall("^line ([0-9]+) ", "".join(found), re.M)]
    assert numbers == sorted(numbers)
    assert len(numbers) < 1_000
    close_all(writer)


def test_closing_waits_for_a_stream_that_stands_as_long_as_it_was_told(pipe):
    stream, _ = pipe
    writer = LineWriter(stream)
    fill(writer, 200)
    with running(lambda: close_all(writer, writer, within=0.05), within=5):
        pass
    assert writer._thread.is_alive()
    _read_away(pipe[1], writer)


def _read_away(reader, writer):
    """Lets the writer's thread end."""
    os.set_blocking(reader, False)

    def ended():
        try:
            os.read(reader, 1 << 16)
        except BlockingIOError:
            pass
        return not writer._thread.is_alive()

    assert eventually(ended)


def test_closing_writes_what_waits_then_nothing_more(pipe):
    stream, reader = pipe
    writer = LineWriter(stream)
    writer.put("last")
    close_all(writer)
    writer.put("too late")
    stream.close()
    assert os.read(reader, 1 << 16) == b"last\n"
    assert os.read(reader, 1 << 16) == b""


def test_no_thread_is_left_of_one_whose_start_ctrl_c_broke_off(pipe, monkeypatch):
    break_start_off(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        LineWriter(pipe[0])
    # `no_leaks` sees the thread.


def test_a_descriptor_that_somebody_made_non_blocking_gets_every_line(pipe):
    stream, reader = pipe
    os.set_blocking(stream.fileno(), False)
    writer = LineWriter(stream)
    fill(writer, 500)
    assert len(read_lines(reader, "line 499 ")) == 500
    close_all(writer)


def test_a_reader_that_has_gone_costs_lines_and_no_busy_loop():
    reader, end = os.pipe()
    os.close(reader)
    with os.fdopen(end, "w") as stream:
        writer = LineWriter(stream)
        fill(writer, 100)
        assert eventually(lambda: writer._lines.empty())
        assert busy_seconds(0.1) < 0.09
        close_all(writer)


def test_a_stream_without_a_descriptor_and_none_at_all():
    stream = io.StringIO()
    writer, nowhere = LineWriter(stream), LineWriter(None)
    writer.put("hello")
    nowhere.put("hello")
    close_all(writer, nowhere)
    assert stream.getvalue() == "hello\n"


def test_long_lines_wait_in_bounded_memory_too(pipe):
    writer = LineWriter(pipe[0])
    line = "." * (1 << 20)
    for _ in range(50):
        writer.put(line)
    assert sum(len(one) for one in snapshot(writer) if isinstance(one, str)) <= MOST_CHARACTERS
    text = read_to_the_end(pipe, writer)
    told = sum(map(int, re.findall(rb"(\d+) lines were dropped here", text)))
    assert told > 0
    assert text.count(line.encode()) + told == 50


def snapshot(writer):
    """What waits; nobody takes of it meanwhile: the stream stands."""
    waiting = [writer._lines.get() for _ in range(writer._lines.qsize())]
    for one in waiting:
        writer._lines.put(one)
    return waiting


def test_a_forked_child_writes_its_lines_itself(pipe):
    stream, reader = pipe
    writer = LineWriter(stream)
    pid = os.fork()
    if not pid:
        writer.put("of the child")
        close_all(writer)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 1 << 16) == b"of the child\n"
    close_all(writer)


def test_records_are_lines_and_one_that_cannot_be_formatted_is_told_as_such():
    stream = io.StringIO()
    writer = LineWriter(stream)
    handler = LineHandler(writer)
    record = logging.LogRecord("x", logging.INFO, "here.py", 7, "%d", ("text",), None)
    handler.handle(logging.LogRecord("x", logging.INFO, "here.py", 7, "fine", None, None))
    handler.handle(record)
    close_all(writer)
    assert stream.getvalue() == "fine\na line of here.py:7 cannot be formatted: '%d'\n"


def test_what_the_handler_says_itself_has_the_format_of_all_lines(pipe):
    writer = LineWriter(pipe[0], most=5)
    handler = LineHandler(writer)
    handler.setFormatter(log_formats.json())
    text = "." * 100
    for _ in range(200):
        handler.handle(logging.LogRecord("x", logging.INFO, "here.py", 7, text, None, None))
    handler.handle(logging.LogRecord("x", logging.INFO, "here.py", 7, "%d", ("text",), None))
    lines = [json.loads(line) for line in read_to_the_end(pipe, writer).splitlines()]
    told = [line for line in lines if line.get("event_name") == "log.dropped"]
    assert told[-1]["level"] == "WARNING"
    assert told[-1]["message"].startswith(f"{told[-1]['dropped']} lines were dropped here")
    assert len(lines) - len(told) + sum(line["dropped"] for line in told) == 201


def test_a_record_that_cannot_be_formatted_is_one_of_the_same_format():
    stream = io.StringIO()
    writer = LineWriter(stream)
    handler = LineHandler(writer)
    handler.setFormatter(log_formats.json())
    handler.handle(logging.LogRecord("x", logging.INFO, "here.py", 7, "%d", ("text",), None))
    close_all(writer)
    line = json.loads(stream.getvalue())
    assert line["level"] == "ERROR"
    assert line["message"] == "a line of here.py:7 cannot be formatted: '%d'"


def test_a_line_of_json_has_its_time_its_level_and_its_traceback():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("shop", logging.ERROR, "x", 7, "%s", ("ü\n",), error_info(error))
    line = log_formats.json().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("ERROR", "shop", "ü\n")
    assert datetime.fromisoformat(found["timestamp"]).utcoffset() == timedelta(0)
    assert "ValueError: two" in found["exc_info"]


def error_info(error):
    return type(error), error, error.__traceback__


def test_json_without_its_package_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythonjsonlogger.json", None)
    with pytest.raises(ConfigError, match=r"python-json-logger.*thousand_island_sync\[json\]"):
        log_formats.json()


def test_an_interpreter_ends_beside_a_stream_that_stands():
    """Its exit takes the lock of standard error; a thread that waits there must not hold it."""
    code = (
        "import sys, threading\n"
        "from thousand_island_sync._telemetry.line_writer import LineWriter, close_all\n"
        "writer = LineWriter(sys.stderr)\n"
        "for _ in range(2_000): writer.put('.' * 200)\n"
        "close_all(writer, within=0.05)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.wait(20) == 0
