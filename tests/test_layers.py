"""The layers of docs/design.md: each module imports only from rows above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "thousand_island_sync"

ROWS = [
    {"_native", "_native_sources", "_patched"},
    {"_fork"},
    {
        "errors",
        "_clock",
        "_states",
        "_compiled",
        "_hangup",
        "_sigpipe",
        "_reports",
        "_catalogue",
    },
    {"_locks"},
    {"_descriptors"},
    {"_latch", "_starting", "_waits"},
    {"_receiver_failures"},
    {"_signals", "_supervised"},
    {
        "_options",
        "_signal_handlers",
        "_unread",
        "_addresses",
        "_renewal",
        "_line_writer",
        "_log_limit",
    },
    {"_own_threads", "_status", "_wake_up"},
    {"_asked", "_in_order"},
    {"_listen_errors", "events", "_poller", "_alarm", "_timers", "_tendency", "_task"},
    {
        "_trial",
        "_worker",
        "transports._base",
        "transports._tcp_options",
        "transports._tls_private",
        "transports._tls_reasons",
    },
    {
        "logger",
        "_mailbox",
        "_linger",
        "_pool",
        "transports.tcp",
        "transports._tls_gaps",
        "transports._tls_records",
    },
    {"transports._tls_files", "transports._tls_wire"},
    {"transports._tls_hello"},
    {"transports._tls_handshake", "transports._tls_proof"},
    {"_workers", "transports._tls_channel", "transports._tls_context"},
    {"_queue", "transports._tls_twins"},
    {"_staying", "transports.tls"},
    {"_mending"},
    {"_watch"},
    {"_scheduler"},
    {"transports"},
    {"_buffer", "handler", "connection"},
    {"_socket_core", "_handler_check", "_result_error"},
    {"_arrivals", "_sending"},
    {"_receiving"},
    {"_sendfile"},
    {"_handover"},
    {"socket"},
    {"_environment", "_socketserver", "_config"},
    {"_connection_core"},
    {"_ending"},
    {"_handshaking"},
    {"_outcomes"},
    {"_connection"},
    {"_checked"},
    {"_registry", "_accept_turns"},
    {"_intake", "_orphans"},
    {"_door"},
    {"_acceptor"},
    {"_listener"},
    {"_twins"},
    {"_stop"},
    {"_run"},
    {"_changes"},
    {"_serving"},
    {"server"},
    {"", "__main__"},
]
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path):
    """The package's own modules that a file imports when it is imported."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    here = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
        base = [part for part in base if part]
        for alias in node.names:
            longer = ".".join([*base, alias.name])
            yield longer if longer in ROW_OF else ".".join(base)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_only_from_rows_above(path):
    own = ROW_OF[name_of(path)]
    for other in imported(path):
        assert ROW_OF[other] < own, f"{name_of(path)} imports {other}"


def test_every_module_has_its_row():
    assert {name_of(path) for path in FILES} | {"_native"} == set(ROW_OF)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_two_things_in_one(path):
    assert len(path.read_text().splitlines()) <= 400
