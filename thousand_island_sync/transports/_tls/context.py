"""From TLS options to an `OpenSSL.SSL.Context`; every mistake in the options is found here.

A context that has served a connection may not be changed (pyOpenSSL refuses); a new
certificate is a new context. When an SNI callback changes a connection's context, the
connection keeps its verify mode and its lowest version: so the mode is set on the
connection, too, and the version is checked there. Sessions resume across contexts with
different CAs unless tickets and the cache are off (nginx had CVE-2025-23419 from that).
So they are off if several hosts share a port and any of them verifies clients, or might
later: hosts that an `sni` callable chooses, and those that can be reloaded. A client that
shows a certificate fails its second connection unless the context has a session id
(SSL_CTX_set_session_id_context(3)).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from ...errors import ConfigError
from .files import certificates, revocations, trust, use_certificate
from .gaps import set_groups
from .hello import Built
from .reasons import Notes, note_fault

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
VERIFY_NONE = SSL.VERIFY_NONE
_MODES = {
    "none": VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "required": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
# Forward secrecy and authenticated encryption only (RFC 9325, 4.2); TLS 1.3 has no others.
_CIPHERS = (
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    ":ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
)
# Post-quantum first, then what Mozilla's profiles allow: not X448, nor P-521.
_GROUPS = b"X25519MLKEM768:X25519:P-256:P-384"
_CRL_CHECK = 0x4  # X509_V_FLAG_CRL_CHECK


def build(options: Mapping[str, Any], *, resumes: bool) -> Built:
    """The context for checked options, without SNI.

    Args:
        resumes: whether sessions may be resumed. If not, its `Policy` sends no tickets.

    Raises:
        ConfigError: says which file or option, and what to do. Shows no key.
    """
    mode = _MODES[options["verify"]]
    if options["context"] is not None:
        context = options["context"]
        _set_keylog(context, options["keylog_file"])
        return Built(context, context.get_verify_mode(), 0)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    min_version = _VERSIONS[options["min_version"]]
    context.set_min_proto_version(min_version)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # idle connections: 50 -> 32 KiB
    use_certificate(context, options)
    _set_ciphers(context, options["ciphers"])
    set_groups(context, _GROUPS)
    _set_verification(context, options, mode)
    if not resumes:
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if options["alpn_protocols"]:
        context.set_alpn_select_callback(_alpn(options["alpn_protocols"]))
    _set_keylog(context, options["keylog_file"])
    return Built(context, mode, min_version)


def _set_ciphers(context: SSL.Context, ciphers: str | None) -> None:
    names = (ciphers or _CIPHERS).split(":")
    modern = [name for name in names if name.startswith("TLS_")]
    older = [name for name in names if not name.startswith("TLS_")]
    try:
        if modern:
            context.set_tls13_ciphersuites(":".join(modern).encode())
        if older:
            context.set_cipher_list(":".join(older).encode())
    except (SSL.Error, UnicodeError):
        raise ConfigError(
            f"ciphers: got {ciphers!r}, takes OpenSSL cipher names joined by ':'"
            " (openssl ciphers -s -v lists them)"
        ) from None


def _set_verification(context: SSL.Context, options: Mapping[str, Any], mode: int) -> None:
    context.set_verify(mode, note_fault)
    identity = hashlib.sha256(repr((options["verify"], options["certfile"])).encode())
    if options["ca_certs"] == "system":
        context.set_default_verify_paths()
    elif options["ca_certs"] is not None:
        store = context.get_cert_store()
        assert store is not None

        def add(certificate: x509.Certificate) -> None:
            store.add_cert(crypto.X509.from_cryptography(certificate))
            if mode != VERIFY_NONE:
                context.add_client_ca(certificate)
            identity.update(certificate.public_bytes(serialization.Encoding.DER))

        trust(certificates(options["ca_certs"], "ca_certs"), "ca_certs", add)
    if options["crl"] is not None:
        _set_revocations(context, options["crl"])
    context.set_session_id(identity.digest())


def _set_revocations(context: SSL.Context, crl: Any) -> None:
    revoked = revocations(crl, "crl")
    store = context.get_cert_store()
    assert store is not None
    store.add_crl(revoked)
    store.set_flags(_CRL_CHECK)


def _alpn(ours: Any) -> Callable[[Any, list[bytes]], bytes]:
    wanted: list[bytes] = [name.encode("ascii") for name in ours]

    def choose(connection: Any, offered: list[bytes]) -> bytes:
        for name in wanted:
            if name in offered:
                return name
        notes = connection.get_app_data()
        if isinstance(notes, Notes):
            notes.reason = "the client offers none of our alpn_protocols"
        return b""  # refuses this client; an exception would stay in the context

    return choose


def _set_keylog(context: SSL.Context, path: Any) -> None:
    if path is None:
        return
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise ConfigError(
            f"keylog_file: cannot write {os.fspath(path)!r}: {error.strerror}"
        ) from error

    def write(connection: Any, line: bytes) -> None:
        try:
            with open(path, "ab", buffering=0) as file:  # one write(2), which appends
                file.write(line + b"\n")
        except OSError:
            pass  # callbacks must not raise

    context.set_keylog_callback(write)
