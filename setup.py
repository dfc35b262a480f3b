"""All metadata is in pyproject.toml, but for what it cannot say: the hot path in C is optional, and
what depends on who publishes this.

`THOUSAND_ISLAND_PURE=1` compiles nothing: the wheel is for every machine (`py3-none-any`).
"""

import os
import runpy
import shutil
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCES = runpy.run_path("thousand_island_sync/_base/native_sources.py")
DIGEST = SOURCES["digest"](Path("native"))


class BuildWithDigest(build_py):
    """Writes down which C sources the Python goes with."""

    def run(self):
        super().run()
        if not self.editable_mode:
            written = Path(self.build_lib, "thousand_island_sync", "_base", SOURCES["WRITTEN_DOWN"])
            written.write_text(DIGEST + "\n")


class BuildBeside(build_ext):
    """Leaves what was compiled beside the source, too, where whatever is run in the checkout
    finds it: the command line, the tests, the benchmarks."""

    def initialize_options(self):
        super().initialize_options()
        self.force = True  # what lies there may be older than its sources, whatever their times say

    def run(self):
        super().run()
        for extension in self.extensions:
            made = Path(self.get_ext_fullpath(extension.name))
            beside = Path(*extension.name.split(".")[:-1]) / made.name
            if made.exists() and not (beside.exists() and beside.samefile(made)):
                with suppress(OSError):  # the source may be somebody else's
                    beside.unlink(missing_ok=True)  # a new file: the old one may be in use
                    shutil.copy(made, beside)


optimized = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O2"]
native = Extension(
    "thousand_island_sync._native",
    sorted(map(str, Path("native").glob("*.c"))),
    define_macros=[("NATIVE_SOURCES", f'"{DIGEST}"')],
    # What the files share is theirs: calls and the state are reached directly.
    extra_compile_args=["-std=c11", "-fvisibility=hidden", *optimized],
    optional=True,  # without a compiler the Python does all of it
)
wanted = (
    sys.platform == "linux"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and os.environ.get("THOUSAND_ISLAND_PURE") != "1"
)
PUBLISHER = runpy.run_path("publisher.py")
chosen = PUBLISHER["settings"]()
setup(
    long_description=PUBLISHER["description"](chosen, Path("README.md").read_text()),
    long_description_content_type="text/markdown",
    project_urls=PUBLISHER["addresses"](chosen),
    ext_modules=[native] if wanted else [],
    cmdclass={"build_ext": BuildBeside, "build_py": BuildWithDigest},
)
