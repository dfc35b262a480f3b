"""Scans a server with default TLS settings with sslyze, against Mozilla's profile.

sslyze pins an older `cryptography` than pyOpenSSL needs; so it is installed into a folder
of its own, and only its process sees that. `tox -e sslyze` does both.

    python -m tests.sslyze_check FOLDER
"""

import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support import Echo
from thousand_island_sync import TLS, ThousandIsland

#: Profile, our options, whether that is compliant; the last shows that the scan can fail.
CASES = (
    ("intermediate", {}, True),
    ("modern", {"min_version": "1.3"}, True),
    ("modern", {}, False),
)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificates():
    """(chain and key in one PEM, the authority's PEM): of the profile's lifetime, and
    stricter about extensions than trustme's."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        + ("encipher_only", "decipher_only"),
        False,
    )

    def build(subject, public_key, lifetime, is_ca):
        builder = x509.CertificateBuilder(
            issuer_name=name("test authority"),
            subject_name=subject,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - day,
            not_valid_after=now + lifetime * day,
        )
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), is_ca)
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage
            ),
            True,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        return builder.add_extension(identifier, False).add_extension(authority, False)

    authority = build(name("test authority"), ca_key.public_key(), 365, True)
    server = build(name("localhost"), key.public_key(), 89, False)
    server = server.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    pem = serialization.Encoding.PEM
    ca_pem = authority.sign(ca_key, hashes.SHA256()).public_bytes(pem)
    plain = serialization.NoEncryption()
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return server.sign(ca_key, hashes.SHA256()).public_bytes(pem) + key_pem, ca_pem


def scan(folder, profile, options, expected, chain, ca_file):
    """Whether sslyze finds what is expected; its report is printed if not."""
    shown = options
    options = {"certfile": chain, **options}
    with ThousandIsland(
        handler_cls=Echo, host="127.0.0.1", port=0, transport_cls=TLS, transport_options=options
    ) as server:
        command = [sys.executable, "-m", "sslyze", "--certinfo_ca_file", ca_file]
        command += ["--mozilla_config", profile, f"localhost:{server.local_port}"]
        result = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            timeout=300,
        )
    compliant = result.returncode == 0 and "Compliant" in result.stdout
    verdict = "compliant" if compliant else "not compliant"
    print(f"Mozilla's {profile!r} profile, options {shown}: {verdict}")
    if compliant is not expected:
        print(result.stdout[-4_000:], result.stderr[-4_000:])
    return compliant is expected


def main():
    chain, ca_pem = certificates()
    with tempfile.TemporaryDirectory() as place:
        ca_file = Path(place) / "ca.pem"
        ca_file.write_bytes(ca_pem)
        results = [scan(sys.argv[1], *case, chain, str(ca_file)) for case in CASES]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
