"""Whatever is written in a command line, in the environment or in a file is taken, or is one line
and exit code 2. Nothing is listened on: all of it goes to `check`."""

import contextlib
import io
import os
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from thousand_island_sync.__main__ import main
from thousand_island_sync._command.table import TABLE, WITH_FLAGS, flag

FLAGS = [*map(flag, WITH_FLAGS), "--alpn", "--no-nodelay", "--config", "--bogus", "--port=", "-x"]
#: Values for everything; no name of a module that is there.
VALUES = st.sampled_from(
    ["0", "1", "-1", "1e400", "nan", "none", "true", "", " ", "a,b", "{}", "[[1]]", "[" * 100_000]
    + ["no.such:Name", "unix:", "unix:@", "::", "systemd", "systemd:", "/no/such", "\udcff", "\0"]
) | st.text(max_size=8).map(lambda text: text.replace(":", ""))
WORDS = st.lists(
    st.sampled_from(FLAGS) | VALUES | st.builds("{}={}".format, st.sampled_from(FLAGS), VALUES),
    max_size=6,
)
VARIABLES = st.dictionaries(
    st.sampled_from([f"THOUSAND_ISLAND_{name.upper()}" for name in (*TABLE, "config", "x")]),
    VALUES.map(lambda text: text.replace("\0", "")),
    max_size=3,
)


def outcome(words, variables):
    """The exit code, and what went to the two streams."""
    output, errors = io.StringIO(), io.StringIO()
    kept = {name: value for name, value in os.environ.items() if "THOUSAND_ISLAND" not in name}
    with (
        mock.patch.dict(os.environ, {**kept, **variables}, clear=True),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = main(["check", *words])
    return code, output.getvalue(), errors.getvalue()


def judge(code, output, errors, words):
    if code == 0:
        assert output
        assert errors.count("\n") <= 1  # variables of unknown names
    else:
        assert code == 2
        assert output == ""
        shown = [line for line in errors.splitlines() if line.startswith("thousand-island: ")]
        assert len(shown) == 1
        assert shown[0].isprintable()
        # With `--log-level debug` the traceback of an import comes first.
        assert errors.endswith(shown[0] + "\n")


@settings(max_examples=200)
@given(WORDS)
@example(["--handler-options", "[" * 100_000])
@example(["--config", "\0"])
@example(["..a:b"])
@example(["a b:c"])
@example(["a.:b"])
@example([".:b"])
@example(["a:.b"])
@example(["--name", "\udcff"])
@example(["--host", "\udcff"])
@example(["--host", "a" * 300])
@example(["--sockets", "systemd", "--host", "::"])
def test_any_words(words):
    judge(*outcome(words, {}), words)


@settings(max_examples=100)
@given(VARIABLES)
def test_any_variables(variables):
    judge(*outcome([], variables), [])


TOML = st.binary(max_size=40) | st.builds(
    "{} = {}\n".format,
    st.sampled_from([*TABLE, "transport", "[transport]\nverify", "a"]),
    st.sampled_from(
        ["1", "-1", "1.5", "nan", "inf", "true", '"none"', '""', '"\\u0000"', "[]", "{}", "[[1]]"]
        + ["1979-05-27", "{ a = { b = 1 } }", "[1, 'a']", '"{"', '"unix:"', "[" * 5_000]
    ),
).map(str.encode)


@settings(max_examples=300)
@given(TOML)
def test_any_file(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    judge(*outcome(["--config", str(file)], {}), [])
