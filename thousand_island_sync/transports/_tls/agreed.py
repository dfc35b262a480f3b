"""What was negotiated over TLS, under the names of the standard library's `ssl`.

Libraries that were written for an `ssl.SSLSocket` call methods of `Socket`, which call these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .session import Session

if TYPE_CHECKING:
    from cryptography import x509

    from .stream import Stream

#: OpenSSL's long names of a distinguished name's attributes (RFC 4519; X.520), by object
#: identifier. Others are shown by their numbers, as OpenSSL does.
_LONG_NAMES = {
    "2.5.4.3": "commonName",
    "2.5.4.4": "surname",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "userId",
    "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionLocalityName",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionStateOrProvinceName",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionCountryName",
}
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

#: A name as in `ssl`: for each of its parts, pairs of an attribute's name and its value.
Name = tuple[tuple[tuple[str, str], ...], ...]


class AgreedByTLS:
    """See `transports.base.Agreed`."""

    __slots__ = ("_session", "_stream")

    def __init__(self, session: Session, stream: Stream) -> None:
        self._session = session
        self._stream = stream

    def version(self) -> str | None:
        return self._session.tls_info(handshake_done=False).version

    def cipher(self) -> tuple[str, str, int] | None:
        return self._session.cipher()

    def getpeercert(self, binary_form: bool) -> Any:
        certificate = self._session.peer_certificate()
        if certificate is None:
            return None
        return in_der(certificate) if binary_form else decoded(certificate)

    def pending(self) -> int:
        return self._stream.pending()


def in_der(certificate: x509.Certificate) -> bytes:
    """Its bytes."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def decoded(certificate: x509.Certificate) -> dict[str, Any]:
    """The dictionary that `ssl.SSLSocket.getpeercert` gives of it."""
    from cryptography import x509

    found: dict[str, Any] = {
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        "version": certificate.version.value + 1,
        "serialNumber": _hexadecimal(certificate.serial_number),
        "notBefore": _time(certificate.not_valid_before_utc),
        "notAfter": _time(certificate.not_valid_after_utc),
    }
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            found["subjectAltName"] = tuple(_general_name(one) for one in value)
        elif isinstance(value, x509.AuthorityInformationAccess):
            for key, method in (("OCSP", _OCSP), ("caIssuers", _CA_ISSUERS)):
                places = [one.access_location for one in value]
                methods = [one.access_method.dotted_string for one in value]
                _add(found, key, [p for p, m in zip(places, methods, strict=True) if m == method])
        elif isinstance(value, x509.CRLDistributionPoints):
            _add(found, "crlDistributionPoints", [n for one in value for n in one.full_name or ()])
    return found


_OCSP = "1.3.6.1.5.5.7.48.1"
_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"


def _add(found: dict[str, Any], key: str, names: list[x509.GeneralName]) -> None:
    from cryptography import x509

    addresses = tuple(one.value for one in names if isinstance(one, x509.UniformResourceIdentifier))
    if addresses:
        found[key] = addresses


def _name(name: x509.Name) -> Name:
    return tuple(
        tuple(
            (_LONG_NAMES.get(one.oid.dotted_string, one.oid.dotted_string), str(one.value))
            for one in part
        )
        for part in name.rdns
    )


def _general_name(name: x509.GeneralName) -> tuple[str, Any]:
    from cryptography import x509

    match name:
        case x509.DNSName():
            return "DNS", name.value
        case x509.RFC822Name():
            return "email", name.value
        case x509.UniformResourceIdentifier():
            return "URI", name.value
        case x509.IPAddress():
            return "IP Address", _shown_address(name.value)
        case x509.DirectoryName():
            return "DirName", _name(name.value)
        case x509.RegisteredID():
            return "Registered ID", name.value.dotted_string
    return "othername", "<unsupported>"


def _shown_address(address: Any) -> str:
    """As OpenSSL prints it: an IPv6 address in capitals, with no group of zeroes left out."""
    if getattr(address, "version", 4) == 4:
        return str(address)
    return ":".join(f"{int(part, 16):X}" for part in address.exploded.split(":"))


def _hexadecimal(number: int) -> str:
    text = f"{number:X}"
    return "0" * (len(text) % 2) + text


def _time(when: Any) -> str:
    """As OpenSSL prints it, in every locale."""
    clock = f"{when.hour:02}:{when.minute:02}:{when.second:02}"
    return f"{_MONTHS[when.month - 1]} {when.day:2} {clock} {when.year} GMT"
