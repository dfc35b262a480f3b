"""pyOpenSSL's private names, found, and checked by their C types.

The facts. `SSL._lib` has the functions of OpenSSL that `cryptography` binds, `SSL._ffi` the types
and memory, and a connection has its pointers in `_ssl`, `_into_ssl` and `_from_ssl`. All of that is
private, and may change. A missing name raises an AttributeError; but the same name may have another
meaning one day, and C code that is given a wrong pointer does not raise.

Our decision. No name is used before its type was compared with this table, and before `_tls.proof`
has tested all of them, once in a process. If a connection has pointers of other types after that,
it uses the public calls, and so do all later ones.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import OpenSSL

_log = logging.getLogger("thousand_island_sync")


class Unexpected(Exception):
    """A private name is not as expected."""


@dataclass(frozen=True, slots=True)
class Names:
    """The functions of OpenSSL that are called, and cffi's, which allocates memory for them."""

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
        Unexpected: one is missing, or has another type.
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
    """cffi's name of the C type of a thing; another text if it has none."""
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
        Unexpected: they are missing, or have other types.
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
        Unexpected: it is missing, or has another type.
    """
    pointer = getattr(context, "_context", None)
    _compare("SSL.Context._context", type_of(ffi, pointer), _CONTEXT)
    return pointer


def place_of(ffi: Any, function: Any) -> int:
    """The address of a function of OpenSSL.

    Raises:
        Unexpected: cffi does not tell.
    """
    try:
        pointer = ffi.addressof(function.__self__, function.__name__)
        return int(ffi.cast("uintptr_t", pointer))
    except Exception as error:
        raise Unexpected(f"cffi does not tell the address of a function: {error}") from error


#: The names in use; `None`: the public calls are used.
names: Names | None = None
_told = False


def use(found: Names | None) -> None:
    """Sets the names in use, for later connections."""
    global names
    names = found


def do_without(error: object) -> None:
    """Uses the public calls from now on, and warns once in the life of the process.

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
    except RuntimeWarning:  # warnings are errors here, but a client waits
        _log.warning(text)
