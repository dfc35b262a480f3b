"""The limits of the house: objects own their data, and nobody reaches into another's.

`docs/design.md` has the objects, `tests/test_layers.py` the folders. What is over a limit today
stands in `tests/house_today.py`, which may only become shorter. The limits are not met by
functions that take another object's fields, nor by objects that hold fields for others.
"""

import re
from collections import defaultdict

import pytest

from tests.house import FACES, LIMITS, PACKAGE, ROOT, Package, figures, is_private
from tests.house_today import FOREIGN, TODAY

HOUSE = Package()
FIGURES = figures(HOUSE)
FILES = sorted(HOUSE.files)

#: What users may call, of each class that they get from us. One more is one more to keep for ever.
CONTRACT = {
    "server.ThousandIsland": """
        name start stop suspend resume wait serve_forever drain reload_transport
        watch_certificates status local_port local_address connections info""",
    "handler.Handler": """
        handle_connection handle_data handle_eof handle_upgrade handle_info handle_drain
        handle_call handle_close handle_error handle_timeout handle_shutdown handle_end admit""",
    "socket.Socket": """
        recv recv_into recv_exactly recv_until unread pending send sendall sendfile flush unsent
        shutdown close detach fileno makefile stats settimeout gettimeout timeout setblocking
        getblocking getpeername getsockname setsockopt getsockopt family type proto
        connection connection_id secure truncated stopping negotiated_protocol peer_certificate
        tls_info peer_credentials do_handshake version cipher getpeercert selected_alpn_protocol
        shared_ciphers""",
    "connection.Connection": """
        id server peername sockname accepted_at_ns closed send unsent post pending resume call
        close""",
}


#: Private methods that several unrelated classes have, and that mean the same in each of them.
ALIKE = {
    "_accept_all",
    "_answer",
    "_change",
    "_check",
    "_close",
    "_connections",
    "_emit",
    "_end",
    "_failed",
    "_full",
    "_is_over",
    "_listening",
    "_read",
    "_recv",
    "_refused",
    "_reload",
    "_run",
    "_send",
    "_serve",
    "_set_up",
    "_start",
    "_tell",
    "_tell_all",
    "_wait",
}


def cases(limit):
    """A case for each class, method or function that has a figure."""
    return pytest.mark.parametrize("name", sorted(FIGURES[limit]))


def check(limit, name, explanation=""):
    value, today = FIGURES[limit][name], TODAY[limit].get(name, 0)
    assert value <= max(today, LIMITS[limit]), (
        f"{name}: {value} {limit}, at most {LIMITS[limit]}"
        + (f"; it had {today} (tests/house_today.py)" if today else "; it is not in the table")
        + f". Where it only got another name, rename its line there. {explanation}"
    )


def test_the_table_has_only_what_is_over_a_limit():
    """`python -m tests.house --shrink` takes out and lowers what stands there for nothing."""
    for limit, rows in TODAY.items():
        for name, value in rows.items():
            assert FIGURES[limit].get(name, 0) == value > LIMITS[limit]


@cases("methods")
def test_a_class_has_few_methods_inherited_ones_with_it(name):
    check("methods", name)


@cases("fields")
def test_an_object_has_few_fields_inherited_ones_with_it(name):
    check("fields", name)


@cases("depth")
def test_inheritance_among_our_classes_is_two_deep(name):
    check("depth", name)


@cases("private methods")
def test_a_face_keeps_little_to_itself(name):
    check("private methods", name)


@cases("lines")
def test_a_public_method_of_a_face_delegates(name):
    check("lines", name)


@pytest.mark.parametrize("name", sorted(FACES))
def test_a_face_has_the_methods_of_the_contract(name):
    module, _, name_there = name.rpartition(".")
    methods = HOUSE.files[module].classes[name_there].public_methods
    assert set(methods) <= set(CONTRACT[name].split())


@cases("elsewhere")
def test_a_field_is_used_in_the_file_that_declares_it(name):
    file = HOUSE.files[name.removeprefix("__init__")]
    uses = [where for own, where in file.private_uses() if own]
    check("elsewhere", name, f"They are {', '.join(uses)}")


@pytest.mark.parametrize("name", FILES)
def test_a_function_has_at_most_six_parameters(name):
    for place, _ in HOUSE.files[name].functions():
        check("parameters", place)


def test_hardly_anything_reaches_into_another_object():
    uses = HOUSE.foreign_uses()
    allowed = max(FOREIGN, 2 * HOUSE.code_lines // 1_000)
    assert len(uses) <= allowed, "at most 2 in 1,000 lines of code; they are " + ", ".join(uses)


def test_the_package_s_top_folder_is_what_users_see():
    assert len(list(PACKAGE.glob("*.py"))) <= 16


@pytest.mark.parametrize(
    "page",
    [
        "docs/design.md",
        "docs/explanation/decisions.md",
        "docs/explanation/glossary.md",
        "CONTRIBUTING.md",
    ],
)
def test_what_a_page_names_is_there(page):
    """Files and folders of the package, the C, the tests and the documentation; objects by name."""
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:_|tests/|docs/|native/|transports/)[\w/.]*(?:/|\.\w+))`", text))
    missing = {
        name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()
    }
    assert not missing
    classes = {one.rpartition(".")[2] for file in HOUSE.files.values() for one in file.classes}
    objects = set(re.findall(r"^\| (?:`[^`]*`)? \| ([^|]*) \|", text, re.MULTILINE))
    named = {name for row in objects for name in re.findall(r"`([A-Z]\w+)`", row)}
    assert not named - classes


def test_unrelated_classes_have_no_private_method_of_one_name():
    """Who searches for a name finds what it is about, and nothing else."""
    owners = defaultdict(list)
    for one in HOUSE.classes:
        for name in filter(is_private, one.methods):
            if not any(set(one.chain) & set(other.chain) for other in owners[name]):
                owners[name].append(one)
    shared = {name: found for name, found in owners.items() if len(found) > 1}
    more = {name: [one.name for one in shared[name]] for name in shared.keys() - ALIKE}
    assert not more, "give each a name that says what it does there"
    assert shared.keys() == ALIKE, "take it out of the list"
