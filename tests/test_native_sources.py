"""A compiled file that is not of the C sources beside it is told of, and not used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from thousand_island_sync._base import compiled, native_sources

ROOT = Path(__file__).resolve().parent.parent
in_c_only = pytest.mark.skipif(compiled.native is None, reason="this run tests the Python")

ASKS = "import thousand_island_sync; print(thousand_island_sync._server.accelerator.in_c)"


def asked(folder):
    """Whether the C is used by a copy of the package, and what was said of it."""
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        cwd=folder,
        env={**os.environ, "THOUSAND_ISLAND_PURE": "0", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip(), done.stderr


@pytest.fixture
def copy(tmp_path):
    for name in ("thousand_island_sync", "native"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_digest_tells_names_and_contents_apart(tmp_path):
    seen = set()
    for name, content in (("a.c", "x"), ("b.c", "x"), ("a.c", "xy"), ("a.h", "x"), ("b.h", "")):
        (tmp_path / name).write_text(content)
        seen.add(native_sources.digest(tmp_path))
    assert len(seen) == 5
    (tmp_path / "notes.txt").write_text("no source")
    assert native_sources.digest(tmp_path) in seen


@in_c_only
def test_what_is_used_is_made_of_the_sources_here():
    assert native_sources.digest(ROOT / "native") == compiled.native.SOURCES


@in_c_only
def test_a_file_that_is_older_than_a_source_is_told_of_once_and_not_used(copy):
    assert asked(copy) == ("True", "")
    with (copy / "native" / "gil.c").open("a") as source:
        source.write("/* one remark more */\n")
    in_c, said = asked(copy)
    assert in_c == "False"
    assert said.count("RuntimeWarning") == 1
    assert "is not made of the C sources that are here" in said
    assert "install again" in said


@in_c_only
def test_a_wheel_has_the_digest_written_down(copy, tmp_path):
    wheel = tmp_path / "wheel"
    for name in ("setup.py", "publisher.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(wheel)]
    subprocess.run(command, cwd=copy, check=True, timeout=60, capture_output=True)
    written = wheel / "thousand_island_sync" / "_base" / native_sources.WRITTEN_DOWN
    assert written.read_text().strip() == native_sources.digest(ROOT / "native")
    shutil.copy(compiled.native.__file__, wheel / "thousand_island_sync")
    assert asked(wheel) == ("True", "")
    written.write_text("0" * 64)  # an old package's
    in_c, said = asked(wheel)
    assert in_c == "False"
    assert "RuntimeWarning" in said


@in_c_only
def test_a_copy_of_the_package_alone_is_believed(copy):
    shutil.rmtree(copy / "native")
    assert asked(copy) == ("True", "")
