"""What a handshake agreed on, as users see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What the handshake agreed on; see `Socket.tls_info`.

    Attributes:
        version: `"TLSv1.2"` or `"TLSv1.3"`.
        cipher: OpenSSL's name of it, such as `"TLS_AES_128_GCM_SHA256"`.
        group: of the key exchange, such as `"X25519MLKEM768"`; `None` where OpenSSL tells none.
        server_name: what the client sent, on resumed sessions too; `None`: nothing (SNI).
        resumed: whether the session was resumed.
        alpn: the application protocol, or `None`.
    """

    version: str
    cipher: str | None
    group: str | None
    server_name: str | None
    resumed: bool
    alpn: str | None
