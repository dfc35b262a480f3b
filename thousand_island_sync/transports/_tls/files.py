"""Certificates, keys and revocation lists, from a path or from bytes; each error names the option
that is wrong, says what was found there, and shows no key."""

from __future__ import annotations

import datetime
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from ..._base import whole_file
from ...errors import ConfigError
from .reasons import reasons

#: Lists of all that an authority has ever revoked are the largest.
_MOST_BYTES = 256 << 20
_A_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_A_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def read_pem(value: Any, name: str) -> bytes:
    """What is in a file, or the given bytes."""
    if isinstance(value, bytes):
        return value
    if "-----BEGIN" in os.fsdecode(value):
        raise ConfigError(
            f"{name}: got the text of a PEM file, which is not shown; give its path, or in Python"
            " its bytes"
        )
    try:
        return whole_file.read(value, _MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot read {os.fspath(value)!r}: {error.strerror}; check the path and"
            " its permissions"
        ) from error


def shown(value: Any) -> str:
    return "the given bytes" if isinstance(value, bytes) else repr(os.fspath(value))


def certificates(value: Any, name: str) -> list[x509.Certificate]:
    """All certificates in it: one at least."""
    data = read_pem(value, name)
    try:
        return x509.load_pem_x509_certificates(data)
    except Exception as error:
        if _A_CERTIFICATE in data:
            found = "what is there cannot be read as one"
        elif _A_KEY.search(data):
            found = "there is a private key: are certfile and keyfile swapped?"
        else:
            found = 'one begins with "-----BEGIN CERTIFICATE-----"'
        raise ConfigError(f"{name}: no PEM certificate in {shown(value)}; {found}") from error


def revocations(value: Any, name: str) -> x509.CertificateRevocationList:
    data = read_pem(value, name)
    try:
        return x509.load_pem_x509_crl(data)
    except Exception as error:
        raise ConfigError(f"{name}: no PEM revocation list in {shown(value)}") from error


def use_certificate(context: SSL.Context, options: Mapping[str, Any]) -> None:
    """Loads `certfile`, `keyfile` and `password` into a context.

    Raises:
        ConfigError: one of them is wrong; its name comes first.
    """
    certfile, keyfile = options["certfile"], options["keyfile"]
    chain = certificates(certfile, "certfile")
    try:
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
    except Exception as error:
        raise ConfigError(
            f"certfile: the certificate in {shown(certfile)} cannot be served: {_words(error)}"
        ) from error
    _use_key(context, certfile, keyfile, options["password"])
    _warn_if_expired(chain[0], certfile)


def _use_key(context: SSL.Context, certfile: Any, keyfile: Any, password: Any) -> None:
    name, source = ("certfile", certfile) if keyfile is None else ("keyfile", keyfile)
    key = _key(source, password, name)
    try:
        context.use_privatekey(key)
        context.check_privatekey()
    except SSL.Error:
        raise ConfigError(
            f"keyfile: the key in {shown(source)} does not belong to the certificate in"
            f" {shown(certfile)} (certfile)"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"{name}: the key in {shown(source)} is of a kind that TLS cannot use: {error}"
        ) from None


def _key(value: Any, password: Any, name: str) -> Any:
    data = read_pem(value, name)
    if not _A_KEY.search(data):
        raise ConfigError(_no_key(value, name, data))
    secret = password.encode() if isinstance(password, str) else password
    try:
        return _loaded(data, secret)
    except TypeError:
        why = f"{name}: the key in {shown(value)} is encrypted; give its password"
    except Exception:  # its text may quote the file
        if secret:
            why = f"password: a wrong password for the key in {shown(value)}, or a damaged key"
        else:
            why = f"{name}: no usable PEM private key in {shown(value)}: it cannot be read"
    raise ConfigError(why)


def _loaded(data: bytes, secret: bytes | None) -> Any:
    if secret is not None:
        try:
            return serialization.load_pem_private_key(data, secret)
        except TypeError:
            pass  # it is not encrypted, or the password is empty
    return serialization.load_pem_private_key(data, None)


def _no_key(value: Any, name: str, data: bytes) -> str:
    if name == "certfile":
        return (
            f"keyfile: is not given, and in {shown(value)} (certfile) there is no private key"
            " either; give the PEM file of the certificate's key"
        )
    if _A_CERTIFICATE in data:
        found = "there is a certificate: are certfile and keyfile swapped?"
    else:
        found = 'one begins with "-----BEGIN PRIVATE KEY-----"'
    return f"{name}: no usable PEM private key in {shown(value)}; {found}"


def _words(error: Exception) -> str:
    """OpenSSL's own words, which quote no file."""
    if isinstance(error, (SSL.Error, crypto.Error)):
        return "; ".join(filter(None, reasons(error))) or "OpenSSL does not say why"
    return str(error)


def trust(certificates_: list[x509.Certificate], name: str, add: Callable[[Any], None]) -> None:
    """Calls `add` with each certificate. If OpenSSL refuses one, the error names the option."""
    for certificate in certificates_:
        try:
            add(certificate)
        except Exception as error:
            raise ConfigError(f"{name}: OpenSSL refuses a certificate: {_words(error)}") from error


def _warn_if_expired(certificate: x509.Certificate, certfile: Any) -> None:
    ended = certificate.not_valid_after_utc
    if ended < datetime.datetime.now(datetime.timezone.utc):
        warnings.warn(
            f"certfile: the certificate in {shown(certfile)} expired on {ended:%Y-%m-%d};"
            " it is served all the same, clients will refuse it",
            stacklevel=2,
        )
