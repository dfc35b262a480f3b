"""pyOpenSSL's private names, found and known by their C types.

The facts. What `cryptography` binds of OpenSSL lies in `SSL._lib`, its types and memory in
`SSL._ffi`, and a connection's pointers in `_ssl`, `_into_ssl` and `_from_ssl`. No promise holds any
of that. A name that is gone is an AttributeError; but the same name may hold another thing one
day, and C that is given a wrong pointer does not raise.

Our decision. Nothing of it is used before its type was compared with the one in this table, and
none before `_tls.proof` has seen all of it work, once in a process. After that a connection whose
pointers are of other types goes by the public calls, and so do all later ones.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import OpenSSL

_log = logging.getLogger("thousand_island_sync")


class Unexpected(Exception):
    """What is not as known here."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is called of OpenSSL, and how memory is made for it."""

    ffi: Any
    ssl_read: Any
    ssl_write: Any
    ssl_pending: Any
    ssl_set_bio: Any
    bio_read: Any
    bio_write: Any
    bio_held: Any
    bio_new: Any
    bio_memory: Any
    set_groups: Any
    clear_errors: Any
    session_reused: Any


_FUNCTIONS = {
    "ssl_read": ("SSL_read", "int(*)(SSL *, void *, int)"),
    "ssl_write": ("SSL_write", "int(*)(SSL *, void *, int)"),
    "ssl_pending": ("SSL_pending", "int(*)(SSL *)"),
    "ssl_set_bio": ("SSL_set_bio", "void(*)(SSL *, BIO *, BIO *)"),
    "bio_read": ("BIO_read", "int(*)(BIO *, void *, int)"),
    "bio_write": ("BIO_write", "int(*)(BIO *, void *, int)"),
    "bio_held": ("BIO_get_mem_data", "long(*)(BIO *, char * *)"),
    "bio_new": ("BIO_new", "BIO *(*)(BIO_METHOD *)"),
    "bio_memory": ("BIO_s_mem", "BIO_METHOD *(*)()"),
    "set_groups": ("SSL_CTX_set1_curves_list", "long(*)(SSL_CTX *, char *)"),
    "clear_errors": ("ERR_clear_error", "void(*)()"),
    "session_reused": ("SSL_session_reused", "int(*)(SSL *)"),
}
#: A connection's own, and a context's.
_POINTERS = {"_ssl": "SSL *", "_into_ssl": "BIO *", "_from_ssl": "BIO *"}
_CONTEXT = "SSL_CTX *"


def find(module: Any) -> Names:
    """The names in `OpenSSL.SSL`.

    Raises:
        Unexpected: one is gone, or is another thing.
    """
    ffi, lib = _attribute(module, "_ffi"), _attribute(module, "_lib")
    found = {}
    for ours, (name, kind) in _FUNCTIONS.items():
        found[ours] = _attribute(lib, name)
        _compare(f"SSL._lib.{name}", type_of(ffi, found[ours]), kind)
    for name in ("new", "from_buffer", "buffer", "cast", "addressof"):
        if not callable(_attribute(ffi, name)):
            raise Unexpected(f"SSL._ffi.{name} cannot be called")
    return Names(ffi=ffi, **found)


def _attribute(owner: Any, name: str) -> Any:
    found = getattr(owner, name, None)
    if found is None:
        raise Unexpected(f"there is no {name}")
    return found


def type_of(ffi: Any, thing: Any) -> str:
    """How cffi names the C type of a thing; another text where it has none."""
    try:
        return str(ffi.typeof(thing).cname)
    except Exception:
        return f"a {type(thing).__name__} of Python's"


def _compare(what: str, kind: str, known: str) -> None:
    if kind != known:
        raise Unexpected(f"{what} is {kind}, not {known}")


def check_connection(ffi: Any, connection: Any) -> tuple[Any, ...]:
    """The pointers of `_POINTERS`.

    Raises:
        Unexpected: it has not those that are known here.
    """
    found = []
    for name, kind in _POINTERS.items():
        pointer = getattr(connection, name, None)
        _compare(f"SSL.Connection.{name}", type_of(ffi, pointer), kind)
        found.append(pointer)
    return tuple(found)


def check_context(ffi: Any, context: Any) -> Any:
    """Its pointer.

    Raises:
        Unexpected: it has not the one that is known here.
    """
    pointer = getattr(context, "_context", None)
    _compare("SSL.Context._context", type_of(ffi, pointer), _CONTEXT)
    return pointer


def place_of(ffi: Any, function: Any) -> int:
    """Where in memory a function of OpenSSL's is.

    Raises:
        Unexpected: cffi does not say.
    """
    try:
        pointer = ffi.addressof(function.__self__, function.__name__)
        return int(ffi.cast("uintptr_t", pointer))
    except Exception as error:
        raise Unexpected(f"cffi does not tell the address of a function: {error}") from error


#: The names in use, or `None`: the public calls are.
names: Names | None = None
_told = False


def use(found: Names | None) -> None:
    """From now on, for connections to come."""
    global names
    names = found


def do_without(error: object) -> None:
    """The public calls from now on, and one warning in the life of the process.

    Thread: any.
    """
    global _told
    use(None)
    told, _told = _told, True
    if told:
        return
    text = (
        f"thousand_island_sync: pyOpenSSL {OpenSSL.__version__} is not as it is known here"
        f" ({error}), so TLS goes by its public calls: the same, with more CPU for each"
        " message; a later version of thousand_island_sync may know it"
    )
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:  # where warnings are errors, this is none: a client waits
        _log.warning(text)
