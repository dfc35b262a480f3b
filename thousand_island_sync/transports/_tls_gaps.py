"""What OpenSSL has and pyOpenSSL 26.4 has no public call for.

Two functions of the library underneath are reached through pyOpenSSL's private names. Where
those are gone, each falls back on something that is public: nothing breaks, the one is
less strict and the other slower.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

_lib: Any = getattr(SSL, "_lib", None)
_set_groups: Any = getattr(_lib, "SSL_CTX_set1_curves_list", None)
_clear_errors: Any = getattr(_lib, "ERR_clear_error", None)
_session_reused: Any = getattr(_lib, "SSL_session_reused", None)

#: Whether `resumed` can tell; else somebody has to watch the handshake.
KNOWS_RESUMED = _session_reused is not None


def set_groups(context: SSL.Context, groups: bytes) -> bool:
    """Key exchange groups, in order (SSL_CTX_set1_groups_list(3)); whether it was done.

    If not, OpenSSL's own list stays: the same groups and two more, as strong.
    """
    pointer: Any = getattr(context, "_context", None)
    if pointer is None or _set_groups is None or _clear_errors is None:
        return False
    done = bool(_set_groups(pointer, groups))
    if not done:
        _clear_errors()  # or the next call finds them
    return done


def resumed(connection: SSL.Connection) -> bool | None:
    """Whether the session was resumed (SSL_session_reused(3)); `None`: it cannot tell."""
    pointer: Any = getattr(connection, "_ssl", None)
    if pointer is None or _session_reused is None:
        return None
    return bool(_session_reused(pointer))
