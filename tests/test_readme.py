"""The documentation's Python blocks run, and its commands are the ones that CI runs."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.programs import ROOT, python_blocks
from thousand_island_sync import TLS, Handler, ThousandIsland

README = (ROOT / "README.md").read_text()
BLOCKS = python_blocks("README.md")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[2][:30])
def test_the_blocks_run(block, capsys):
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) == 2


# ---- docs/tls.md ------------------------------------------------------------

TLS_BLOCKS = python_blocks("docs/tls.md")


@pytest.fixture
def in_a_folder_with_files(tmp_path, monkeypatch, authority):
    """The files that the page names."""
    monkeypatch.chdir(tmp_path)
    for name in ("fullchain.pem", "default.pem", "a.pem", "b.pem", "new.pem"):
        (tmp_path / name).write_bytes(authority.chain + authority.key)
    (tmp_path / "privkey.pem").write_bytes(authority.key)
    for name in ("clients-ca.pem", "b-ca.pem"):
        (tmp_path / name).write_bytes(authority.ca_pem)
    now = datetime.datetime.now(datetime.timezone.utc)
    (tmp_path / "clients-crl.pem").write_bytes(
        x509.CertificateRevocationListBuilder(
            issuer_name=x509.load_pem_x509_certificate(authority.ca_pem).subject,
            last_update=now,
            next_update=now + datetime.timedelta(days=1),
        )
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@pytest.mark.parametrize("number", range(len(TLS_BLOCKS)))
def test_the_blocks_about_tls_run(number, in_a_folder_with_files, monkeypatch):
    server = ThousandIsland(
        handler_cls=Handler, transport_cls=TLS, transport_options={"certfile": "default.pem"}
    )
    served = []
    monkeypatch.setattr(ThousandIsland, "serve_forever", lambda server: served.append(server))
    names = {"server": server}
    exec(compile(TLS_BLOCKS[number], "docs/tls.md", "exec"), names)
    if "serve_forever" in TLS_BLOCKS[number]:
        assert served
    elif "options" in names:
        TLS.prepare(**names["options"])


def test_there_are_blocks_about_tls():
    assert len(TLS_BLOCKS) == 4


def test_ci_runs_the_readmes_command():
    assert "python -m pip install tox && tox" in README
    assert "tox" in (ROOT / ".ci" / "run").read_text()
    assert "python -m pip install . && python -m thousand_island_sync" in README
