"""The tables of options are the one source: signatures, `TypedDict`s and docs agree with them."""

import inspect
import re

import pytest

from tests.option_page import PAGE, page
from tests.support import Echo
from thousand_island_sync import (
    TCP,
    TLS,
    ConfigError,
    HostOptions,
    Prepared,
    ReloadOptions,
    ServerOptions,
    ThousandIsland,
    TransportOptions,
)
from thousand_island_sync._base.options import MISSING
from thousand_island_sync._server.config import OPTIONS

#: What each signature has, in order, from which table.
SIGNATURES = [
    (ThousandIsland, OPTIONS),
    (TLS.prepare, TLS.OPTIONS),
    (ThousandIsland.reload_transport, TLS.OPTIONS.keys() - TLS.LISTENING),
    (Prepared.reload, TLS.OPTIONS.keys() - TLS.LISTENING),
]
#: What a type says that a check says as well.
SAYS = {None: "None", False: "bool", 5: "int", 1.5: "float", "x": "str", b"x": "bytes"}
#: Name, what the table has, and the type as it is written for type checkers.
ALL = [
    *(
        (name, option, inspect.signature(ThousandIsland).parameters[name].annotation)
        for name, option in OPTIONS.items()
    ),
    *(
        (name, option, TransportOptions.__annotations__[name].__forward_arg__)
        for name, option in TLS.OPTIONS.items()
    ),
]
EACH = pytest.mark.parametrize(("name", "option", "annotation"), ALL)
#: What is looked at after the check of each option by itself.
LATER = {"handler_cls", "handler_options", "transport_options", "context"}


@pytest.mark.parametrize(("function", "names"), SIGNATURES)
def test_a_signature_has_each_option_as_a_keyword_only_parameter(function, names):
    *parameters, last = inspect.signature(function).parameters.values()
    if parameters[0].name == "self":
        del parameters[0]
    assert {one.name for one in parameters} == set(names)
    assert {one.kind for one in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert (last.kind, last.annotation) == (inspect.Parameter.VAR_KEYWORD, "Never")


def test_the_defaults_are_the_tables():
    parameters = inspect.signature(ThousandIsland).parameters
    assert list(parameters) == [*OPTIONS, "unknown"]
    for name, option in OPTIONS.items():
        required = option.default is MISSING
        default = inspect.Parameter.empty if required else option.default
        assert parameters[name].default is default or parameters[name].default == default, name
    prepared = inspect.signature(TLS.prepare).parameters
    for name, option in TLS.OPTIONS.items():
        assert prepared[name].default == option.default, name


def test_what_is_left_out_of_a_reload_has_no_default():
    for function in (ThousandIsland.reload_transport, Prepared.reload):
        *options, _ = inspect.signature(function).parameters.values()
        assert {one.default for one in options if one.name != "self"} == {MISSING}


def test_the_type_for_who_hands_options_on_is_the_signature():
    parameters = inspect.signature(ThousandIsland).parameters
    handed_on = ServerOptions.__annotations__
    assert {name: one.__forward_arg__ for name, one in handed_on.items()} == {
        name: one.annotation
        for name, one in parameters.items()
        if name not in ("handler_cls", "unknown")
    }
    assert not ServerOptions.__required_keys__


def test_the_types_of_transports_have_what_the_transports_take():
    assert TransportOptions.__annotations__.keys() == TLS.OPTIONS.keys()
    assert ReloadOptions.__annotations__.keys() == TLS.OPTIONS.keys() - TLS.LISTENING
    assert HostOptions.__annotations__.keys() == TLS.OPTIONS.keys() - TCP.OPTIONS.keys() - {"sni"}
    assert not TransportOptions.__required_keys__


@EACH
def test_a_type_lets_through_what_the_check_does(name, option, annotation):
    """Of simple values: None, and one of each plain type."""
    if name in LATER:
        assert option.check(object())
        return
    outside = re.sub(r"\[.*\]", "", annotation.replace("PEM", "str | bytes"))
    words = set(re.findall(r"\w+", outside))
    choices = re.findall(r"'([^']+)'", annotation.replace('"', "'")) if "Literal" in words else []
    for value, says in SAYS.items():
        if (name, value) == ("sockets", "x"):
            continue  # a text that begins with "systemd"
        allowed = says in words or (says == "int" and "float" in words)
        assert option.check(value) == allowed, (value, annotation)
    assert all(option.check(choice) for choice in choices)
    assert bool(choices) == ("Literal" in words)


def said_of(doc):
    """`name: meaning.` of a docstring's list, in one line each."""
    flat = re.sub(r"\n {12,}", " ", inspect.cleandoc(doc).replace("\n    ", "\n        "))
    return dict(re.findall(r"^ +(\w+): (.*)\.$", flat, re.MULTILINE))


@pytest.mark.parametrize(
    ("described", "table", "above"),
    [
        (ThousandIsland, OPTIONS, ()),
        (HostOptions, TLS.OPTIONS, ()),
        (ReloadOptions, TLS.OPTIONS, HostOptions.__annotations__),
        (TransportOptions, TLS.OPTIONS, ReloadOptions.__annotations__),
    ],
)
def test_a_docstring_says_of_each_option_what_the_table_says(described, table, above):
    said = said_of(described.__doc__)
    names = table if described is ThousandIsland else described.__annotations__
    assert {name: said.get(name) for name in names if name not in above} == {
        name: table[name].means for name in names if name not in above
    }


@EACH
def test_each_option_is_described_in_one_sentence_its_unit_first(name, option, annotation):
    assert option.means
    assert option.means[0].islower() or option.means.startswith(("`", "PEM", "TCP", "OpenSSL"))
    assert not option.means.endswith(".")
    unit = {"_ms": "milliseconds", "_s": "seconds"}.get(
        name[name.rindex("_") :] if "_" in name else ""
    )
    assert unit is None or option.means.startswith(unit)


@pytest.mark.parametrize("given", [{}, {"port": 0}])
def test_what_has_to_be_given_is_told_although_the_signature_says_it(given):
    with pytest.raises(ConfigError, match="handler_cls: is required"):
        ThousandIsland(**given)


def test_an_explicit_port_4000_is_told_from_the_default(tmp_path):
    ThousandIsland(handler_cls=Echo, host=f"unix:{tmp_path}/a")
    with pytest.raises(ConfigError, match="port: got 4000"):
        ThousandIsland(handler_cls=Echo, host=f"unix:{tmp_path}/a", port=4000)


def test_the_page_is_made_from_the_tables():
    assert PAGE.read_text() == page(), "run: python -m tests.option_page"


@pytest.mark.parametrize(
    "call",
    [
        lambda: TLS.prepare(b"s3cret"),
        lambda: ThousandIsland(handler_cls=Echo).reload_transport(b"s3cret"),
        lambda: ThousandIsland(handler_cls=Echo).reload_transport({}, nodelay=True),
        lambda: ThousandIsland(Echo),
    ],
)
def test_a_value_without_a_name_is_a_config_error_that_does_not_show_it(call):
    with pytest.raises(ConfigError, match="every option is given by its name: ") as error:
        call()
    assert "s3cret" not in str(error.value)
