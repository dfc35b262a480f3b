"""The documentation's Python blocks run, and its commands are the ones that CI runs."""

import datetime
import signal
import socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import state_diagram
from tests.markdown import python_blocks
from tests.pages import ran, run_python
from tests.programs import ROOT, Script
from tests.state_diagram import ARROWS
from tests.support import receive, receive_all
from thousand_island_sync import TLS, Handler, ThousandIsland
from thousand_island_sync._connection.states import TRANSITIONS

README = (ROOT / "README.md").read_text()
BLOCKS = python_blocks("README.md")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[2][:30])
def test_the_blocks_can_be_imported(block):
    exec(compile(block, "README.md", "exec"), {})


@pytest.fixture
def first_program(tmp_path):
    """The first program, as a user would run it, but on a free port that it tells."""
    port_4000, its_end = "port=4000", ").serve_forever()"
    assert port_4000 in BLOCKS[0]
    assert BLOCKS[0].rstrip().endswith(its_end)
    # By the event: then signals are handled already.
    told = (
        "from thousand_island_sync import events\n"
        "    events.listener_start.connect(tell, weak=False)"
    )
    tell = "def tell(server, **_):\n    print('listening on', server.local_port, flush=True)\n\n\n"
    program = (
        BLOCKS[0]
        .replace(port_4000, "port=0")
        .replace("    ThousandIs", "    server = ThousandIs")
        .replace("if __name__", f"{tell}if __name__")
    )
    path = tmp_path / "first.py"
    path.write_text(program.replace(its_end, f")\n    {told}\n    server.serve_forever()"))
    with Script(str(path), environment={"PYTHONPATH": str(ROOT)}) as script:
        yield script


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_program_serves_until_a_signal_and_ends_well(first_program, number):
    with socket.create_connection(("127.0.0.1", int(first_program.port)), 5) as sock:
        sock.sendall(b"hello")
        assert receive(sock, 5) == b"hello"
        assert first_program.stop(number) == 0
        assert sock.recv(1) == b""
    assert first_program.errors == []
    ran("README.md", BLOCKS[0])


def test_the_counter_counts_lines_however_they_are_cut(serve, client):
    (block,) = python_blocks("docs/howto/handlers.md")
    page = "docs/howto/handlers.md"
    server = serve(run_python(page, block, {})["Counter"])
    sock = client(server)
    for piece in (b"o", b"ne\ntwo\nth", b"ree\nqu", b"it\n"):
        sock.sendall(piece)
    assert receive_all(sock) == b"lines, please\n4 lines\n"


def test_it_is_short_and_begins_with_eight_lines_that_serve():
    assert len(README.splitlines()) <= 150
    assert len(BLOCKS) == 1
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 8


def test_its_picture_is_drawn_from_the_table_of_states():
    assert set(ARROWS) == {(one, other) for one, many in TRANSITIONS.items() for other in many}
    assert state_diagram.PATH.read_text() == state_diagram.drawn(), (
        "run: python -m tests.state_diagram"
    )
    assert f"]({state_diagram.PATH.relative_to(ROOT)})" in README


# ---- docs/howto/tls.md ------------------------------------------------------------

TLS_BLOCKS = python_blocks("docs/howto/tls.md")


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

    def serve_forever(server, reload=None):
        served.append(server)
        if reload is not None:
            reload()

    monkeypatch.setattr(ThousandIsland, "serve_forever", serve_forever)
    names = {"server": server}
    run_python("docs/howto/tls.md", TLS_BLOCKS[number], names)
    if "serve_forever" in TLS_BLOCKS[number]:
        assert served
    elif "options" in names:
        TLS.prepare(**names["options"])


def test_there_are_blocks_about_tls():
    assert len(TLS_BLOCKS) == 7


def test_what_type_checkers_take_for_an_upgrade_of_ones_own_works(serve, client, authority):
    (block,) = [one for one in TLS_BLOCKS if "detach" in one]
    names = run_python("docs/howto/tls.md", block, {})
    with authority.ca.issue_cert("localhost").private_key_and_cert_chain_pem.tempfile() as path:
        names["context"].load_cert_chain(path)
    sock = client(serve(names["Upgrades"]))
    sock.sendall(b"STARTTLS\n")
    assert receive(sock, 9) == b"go ahead\n"
    with authority.client_context().wrap_socket(sock, server_hostname="localhost") as secure:
        assert secure.recv(100) == b"hello\n"


def test_ci_runs_the_readmes_command():
    assert "python -m pip install tox && tox" in README
    assert "tox" in (ROOT / ".ci" / "run").read_text()
    assert "python -m pip install . && python -m thousand_island_sync" in README
