"""Just enough HTTP for probes (RFC 9110, RFC 9112): GET and HEAD of a few paths, without a body.

Each request gets one answer, also several in a row. If the end of a request cannot be found, its
answer is the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple

from .._base.supervised import say
from .small_server import MOST_BYTES, Answer

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
#: A field may go on in the next line, which begins with a blank (RFC 9112, 5.2).
_FOLD = re.compile(rb"\r?\n[ \t]+")
_END = re.compile(rb"\r?\n\r?\n")
_METHODS = (b"GET", b"HEAD")


class Page(NamedTuple):
    """An answer: its status, and what is written as JSON."""

    status: HTTPStatus
    content: Any


class Request(NamedTuple):
    """What was asked for: `size` bytes."""

    method: bytes
    path: str
    keeps: bool
    old: bool
    size: int


class _Bad(Exception):
    """What cannot be answered as it stands."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Pages:
    """Talks HTTP; as `small_server.Talk`.

    Args:
        pages: path -> what makes the answer.
    """

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages

    def greet(self) -> Answer | None:
        return None

    def answer(self, received: bytes, over: bool) -> Answer | None:
        try:
            request = _parse(received)
            if request is None and over and received.strip(b"\r\n"):
                raise _Bad(HTTPStatus.BAD_REQUEST, "the request is incomplete")
        except _Bad as error:
            page = Page(error.status, {"error": str(error)})
            written = _written(page, ("Connection: close",), with_body=True)
            return Answer(written, len(received), False)
        if request is None:
            return None
        page, fields = self._page(request)
        fields += ("Connection: close",) if not request.keeps else ()
        fields += ("Connection: keep-alive",) if request.keeps and request.old else ()
        written = _written(page, fields, with_body=request.method != b"HEAD")
        return Answer(written, request.size, request.keeps)

    def too_late(self) -> Answer:
        page = Page(HTTPStatus.REQUEST_TIMEOUT, {"error": "the request did not come in time"})
        return Answer(_written(page, ("Connection: close",), with_body=True), 0, False)

    def _page(self, request: Request) -> tuple[Page, tuple[str, ...]]:
        make = self._pages.get(request.path)
        if make is None:
            there = ", ".join(self._pages)
            return Page(HTTPStatus.NOT_FOUND, {"error": f"there is {there}"}), ()
        if request.method not in _METHODS:
            allowed = b", ".join(_METHODS).decode()
            error = {"error": f"takes {allowed}"}
            return Page(HTTPStatus.METHOD_NOT_ALLOWED, error), (f"Allow: {allowed}",)
        try:
            return make(), ()
        except Exception as error:
            say(f"{request.path} could not be answered", error)
            return Page(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "see the log"}), ()


def _parse(received: bytes) -> Request | None:
    """The first request; `None`: its end has not come yet.

    Raises:
        _Bad: it is none.
    """
    blank = len(received) - len(received.lstrip(b"\r\n"))  # RFC 9112, 2.2
    end = _END.search(received, blank)
    size = blank if end is None else end.end()
    if size > MOST_BYTES or (end is None and len(received) > MOST_BYTES):
        raise _Bad(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request may have {MOST_BYTES} bytes"
        )
    if end is None:
        return None
    first, *lines = re.split(rb"\r?\n", _FOLD.sub(b" ", received[blank : end.start()]))
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise _Bad(HTTPStatus.BAD_REQUEST, "this is not a request line")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise _Bad(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1 are supported"
        )
    fields = _fields(lines)
    size += _body_size(fields)
    if size > MOST_BYTES:
        raise _Bad(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {MOST_BYTES} bytes")
    if size > len(received):
        return None
    wishes = {one.strip().lower() for one in fields.get(b"connection", b"").split(b",")}
    old = minor == b"0"
    keeps = b"keep-alive" in wishes if old else b"close" not in wishes
    return Request(method, _path(target), keeps, old, size)


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for one in lines:
        field = _FIELD.fullmatch(one)
        if field is None:
            raise _Bad(HTTPStatus.BAD_REQUEST, "this is not a header field")
        name, value = field[1].lower(), field[2]
        if name in fields:
            value = fields[name] + b"," + value
        fields[name] = value
    return fields


def _body_size(fields: Mapping[bytes, bytes]) -> int:
    """Bytes behind the head, which belong to the request."""
    if b"transfer-encoding" in fields:
        raise _Bad(HTTPStatus.NOT_IMPLEMENTED, "a body in chunks is not supported; send none")
    length = fields.get(b"content-length", b"0")
    if not re.fullmatch(rb"[0-9]{1,18}", length):
        raise _Bad(HTTPStatus.BAD_REQUEST, "Content-Length takes one number")
    return int(length)


def _path(target: bytes) -> str:
    """Without the query; of an absolute URI its path (RFC 9112, 3.2.2)."""
    text = target.decode("ascii").partition("?")[0]
    absolute = re.fullmatch(r"https?://[^/]*(/.*)?", text, re.IGNORECASE)
    return (absolute[1] or "/") if absolute else text


def _written(page: Page, fields: tuple[str, ...], *, with_body: bool) -> bytes:
    body = json.dumps(page.content).encode() + b"\n"
    head = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        *fields,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + (body if with_body else b"")
