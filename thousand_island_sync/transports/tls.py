"""TLS: TCP (or a Unix socket) with an encrypted channel.

OpenSSL is imported when the first `TLS` is made, not with the package.
"""

from __future__ import annotations

import copy
import functools
import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from .._base.option_kinds import PEM, a_path, pem, read_json, read_list, yes_no
from .._base.options import (
    Option,
    at_home,
    is_mapping,
    is_sequence,
    is_text,
    one_of,
    optional,
)
from .._base.signatures import spelled_out
from ..errors import ConfigError, NotSupported
from ._option_types import ReloadOptions, TransportOptions
from .base import Channel
from .tcp import TCP

if TYPE_CHECKING:
    from ._tls.hello import Built, Chooser


def _are_protocols(value: Any) -> bool:
    return is_sequence(value) and all(
        is_text(name) and name.isascii() and len(name) <= 255 for name in value
    )


_TLS: dict[str, Option] = {
    "certfile": pem("PEM path or bytes: the certificate chain, the server's own first"),
    "keyfile": pem("PEM path or bytes: its private key, unless `certfile` has it", secret=True),
    "password": Option(
        None,
        lambda value: value is None or isinstance(value, (str, bytes)),
        "a text or bytes",
        "what the private key is encrypted with",
        str,
        secret=True,
    ),
    "ca_certs": pem(
        "PEM path or bytes: who may sign the clients' certificates; `\"system\"`: the machine's"
        " store",
        takes=PEM + ', or "system"',
    ),
    "verify": Option(
        "none",
        one_of("none", "optional", "required"),
        '"none", "optional" or "required"',
        'whether clients show certificates: `"none"`, `"optional"`, `"required"`; the last two need'
        " `ca_certs`",
        str,
    ),
    "alpn_protocols": Option(
        (),
        _are_protocols,
        'a list of texts such as "http/1.1"',
        'application protocols, the preferred first, such as `["h2", "http/1.1"]`',
        read_list,
    ),
    "sni": Option(
        None,
        lambda value: value is None or is_mapping(value) or callable(value),
        "a mapping of host names to TLS options, or a callable",
        "certificates of further hosts: a mapping of host name to `HostOptions`, or a callable that"
        " is given the name",
        read_json,
        secret=True,
    ),
    "min_version": Option(
        "1.2",
        one_of("1.2", "1.3"),
        '"1.2" or "1.3"',
        'the lowest version of TLS: `"1.2"` or `"1.3"`',
        str,
    ),
    "ciphers": Option(
        None,
        optional(is_text),
        "OpenSSL cipher names joined by ':'",
        "OpenSSL's names of ciphers, with `:` between them; `None`: a modern choice",
        str,
    ),
    "session_tickets": yes_no(
        None, "whether clients get tickets to resume sessions; `None`: as OpenSSL does"
    ),
    "crl": pem("PEM path or bytes: a list of clients' certificates that were revoked"),
    "keylog_file": a_path("a path: the keys of all connections are written there, for Wireshark"),
    "context": Option(
        None,
        lambda value: True,
        "an OpenSSL.SSL.Context",
        "a ready, unused `OpenSSL.SSL.Context`; excludes the others but `keylog_file`",
    ),
}
at_home(_TLS, "belongs in transport_options, and needs transport_cls=TLS")
#: All that `TLS` takes.
TLS_OPTIONS: Mapping[str, Option] = {**TCP.OPTIONS, **_TLS}
_BESIDE_CONTEXT = {"context", "keylog_file"}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Prepared:
    """What `TLS.prepare` made: options, checked and built. Takes the place of a mapping wherever
    options of TLS are given; `reload` changes them for all who use it."""

    def __init__(self, transport: TLS) -> None:
        self.current: TLS = transport

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        return self.current.given

    def __repr__(self) -> str:
        return f"<TLS options {self.current.redacted()}>"

    @spelled_out(ReloadOptions)
    def reload(self, **options: Unpack[ReloadOptions]) -> None:
        """Builds anew with these options over the present ones, and swaps: for everybody who uses
        it, from their next connection on.

        Args:
            options: see `ReloadOptions`; what is left out stays as it is.

        Raises:
            ConfigError: they are bad; the old ones stay.

        Thread: any.
        """
        self.current = TLS({**self.current.given, **options})


class TLS(TCP):
    """TLS 1.2 and 1.3 through pyOpenSSL, for `transport_cls` and `SwitchTransport`.

    Args:
        options: what `transport_options` takes: see `TransportOptions`.

    Raises:
        ConfigError: an option is wrong, or a file is missing, unreadable or does not
            fit; before a port is bound.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = TLS_OPTIONS

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.prepared: Prepared | None = None
        self._check()
        self._built = self._build()

    @classmethod
    def of(cls, options: Any) -> TLS:
        if not isinstance(options, Prepared):
            made = super().of(options)
            assert isinstance(made, TLS)
            return made
        transport = copy.copy(options.current)
        transport.prepared = options
        return transport

    @classmethod
    @spelled_out(TransportOptions, lambda name: TLS_OPTIONS[name].default)
    def prepare(cls, **options: Unpack[TransportOptions]) -> Prepared:
        """Checks a set of options once and returns it built.

        Args:
            options: see `TransportOptions`; those of the listening socket count in
                `transport_options` alone.

        Returns:
            What `transport_options`, an entry of `sni`, its callable, and `SwitchTransport` take
            in place of a mapping. Its `reload(**options)` changes it for all of them.

        Raises:
            ConfigError: as the constructor of a server.

        Thread: any.
        """
        return Prepared(cls(options))

    def with_host(self, host: str) -> TLS:
        transport = copy.copy(self)
        listening = TCP({"host": host, **self._listening()})
        transport.given = {**self.given, "host": listening.options["host"]}
        transport.options = listening.options | {name: self.options[name] for name in _TLS}
        return transport

    def _present(self) -> TCP:
        return self if self.prepared is None else self.prepared.current

    def _given_now(self) -> dict[str, Any]:
        """What was prepared may have been reloaded; the listening sockets are the server's."""
        if self.prepared is None:
            return self.given
        own = {name: value for name, value in self.given.items() if name in self.LISTENING}
        return {**self.prepared.given, **own}

    def _listening(self) -> dict[str, Any]:
        return {name: value for name, value in self.given.items() if name in TCP.OPTIONS}

    def _check(self) -> None:
        options, where = self.options, self.where()
        if options["context"] is not None:
            self._check_context()
        elif options["certfile"] is None:
            raise ConfigError(f"{where}certfile: is required for TLS; {PEM}")
        if options["verify"] != "none" and options["ca_certs"] is None:
            raise ConfigError(
                f"{where}verify: {options['verify']!r} needs ca_certs: a PEM file of the CAs that"
                ' sign the clients\' certificates, or "system"'
            )

    def _check_context(self) -> None:
        from OpenSSL import SSL

        if not isinstance(self.options["context"], SSL.Context):
            raise ConfigError(
                f"{self.where()}context: got {type(self.options['context']).__name__}, takes an"
                " OpenSSL.SSL.Context"
            )
        others = sorted(name for name in self.given if name in _TLS and name not in _BESIDE_CONTEXT)
        if others:
            raise ConfigError(
                f"{self.where()}context: excludes {', '.join(others)}; set them on the context"
            )

    # ---- contexts -------------------------------------------------------------

    def _build(self) -> Built:
        from OpenSSL import SSL

        # All of it here, or the first client waits for the import.
        from ._tls import accelerator, channel, context, private, proof  # noqa: F401
        from ._tls.hello import Policy, follow

        self._channel_cls = channel.TLSChannel

        sni = self.options["sni"]
        names = self._names(sni) if is_mapping(sni) else {}
        hosts = [self.options, *(found().options for found in names.values())]
        # A callable, or a host that can be reloaded, may turn strict at any time.
        changes = callable(sni) or (
            is_mapping(sni) and any(isinstance(entry, Prepared) for entry in sni.values())
        )
        strict = self.options["verify"] != "none" or any(
            found()._built.mode != context.VERIFY_NONE for found in names.values()
        )
        resumes = not changes and not (names and strict)
        resumes = resumes and all(host["session_tickets"] is not False for host in hosts)
        built = context.build(self.options, resumes=resumes)
        chooser: Chooser | None = None
        if names:
            chooser = functools.partial(_by_name, names)
        elif callable(sni):
            chooser = functools.partial(_by_callable, sni)
        if self.options["context"] is None:
            watched = private.names is None
            follow(built.context, Policy(chooser, callable(sni), resumes, watched))
            if not resumes and not proof.TICKETS_CAN_BE_OFF:
                built.context.set_options(SSL.OP_NO_TICKET)
        return built

    def _names(self, sni: Mapping[str, Any]) -> dict[str, Callable[[], TLS]]:
        found: dict[str, Callable[[], TLS]] = {}
        for name, entry in sni.items():
            host = _host_name(name)
            found[host] = self._entry(name, entry)
        return found

    def _entry(self, name: str, entry: Any) -> Callable[[], TLS]:
        if isinstance(entry, Prepared):
            return lambda: entry.current
        if not is_mapping(entry):
            raise ConfigError(f"sni: {name}: takes a mapping of TLS options, or TLS.prepare(...)")
        for option in entry:
            if option in TCP.OPTIONS or option == "sni":
                raise ConfigError(f"sni: {name}: {option}: belongs to the server, not to one host")
        try:
            made = TLS(entry)
        except ConfigError as error:
            raise ConfigError(f"sni: {name}: {error}") from error
        return lambda: made

    def now(self) -> Built:
        """The context for the next handshake."""
        prepared = self.prepared
        return self._built if prepared is None else prepared.current._built

    # ---- channels -------------------------------------------------------------

    def carrier(self, sock: socket.socket) -> Channel:
        return self._channel_cls(sock, self.now().context)

    def upgrade(self, sock: socket.socket, old: Channel) -> Channel:
        if old.secure:
            raise NotSupported("SwitchTransport: the connection is encrypted already")
        return self.channel(sock)


def _host_name(name: Any) -> str:
    """A host name or a `*.` wildcard, in lower case (RFC 6066, 3; RFC 6125, 6.4.3)."""
    if isinstance(name, str):
        lowered = name.lower().rstrip(".")
        labels = (lowered[2:] if lowered.startswith("*.") else lowered).split(".")
        if all(_LABEL.fullmatch(label) for label in labels):
            return lowered
    raise ConfigError(f"sni: got {name!r}, takes host names such as 'a.example' or '*.example'")


def _by_name(names: Mapping[str, Callable[[], TLS]], name: str | None) -> Built | None:
    if name is None:
        return None
    found = names.get(name) or names.get("*." + name.partition(".")[2])
    return None if found is None else found()._built


def _by_callable(sni: Callable[[str | None], Any], name: str | None) -> Built | None:
    from OpenSSL import SSL

    from ._tls.hello import Built

    chosen = sni(name)
    if chosen is None:
        return None
    if isinstance(chosen, Prepared):
        return chosen.current._built
    if isinstance(chosen, SSL.Context):
        return Built(chosen, chosen.get_verify_mode(), 0)
    raise ConfigError(
        f"sni: the callable returned {type(chosen).__name__}, takes what TLS.prepare made,"
        " an OpenSSL.SSL.Context, or None"
    )
