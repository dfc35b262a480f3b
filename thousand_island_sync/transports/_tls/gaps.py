"""Functions of OpenSSL for which pyOpenSSL 26.4 has no public call.

Two functions of OpenSSL are called through pyOpenSSL's private names (`_tls.private`). Without
those, each has a public fallback, so nothing breaks: the first is then less strict, the second
slower.
"""

from __future__ import annotations

from OpenSSL import SSL

from . import private
from .private import Unexpected


def set_groups(context: SSL.Context, groups: bytes) -> bool:
    """Key exchange groups, in order (SSL_CTX_set1_groups_list(3)). Whether they were set.

    If not, OpenSSL's own list stays: the same groups and two more, which are as strong.
    """
    names = private.names
    if names is None:
        return False
    try:
        pointer = private.check_context(names.ffi, context)
    except Unexpected as error:
        private.do_without(error)
        return False
    done = bool(names.set_groups(pointer, groups))
    if not done:
        names.clear_errors()  # else the next call reports them
    return done


def resumed(connection: SSL.Connection) -> bool | None:
    """Whether the session was resumed (SSL_session_reused(3)); `None`: it cannot tell."""
    names = private.names
    if names is None:
        return None
    try:
        ssl, _, _ = private.check_connection(names.ffi, connection)
    except Unexpected as error:
        private.do_without(error)
        return None
    return bool(names.session_reused(ssl))
