"""All metadata is in setup.cfg, but for what it cannot say: the hot path in C is optional."""

import sys
import sysconfig

from setuptools import Extension, setup

native = Extension(
    "thousand_island_sync._native",
    ["native/module.c", "native/connection.c", "native/lock.c", "native/loop.c", "native/socket.c"],
    depends=["native/native.h"],
    extra_compile_args=["-std=c11", "-O2"],
    optional=True,  # without a compiler the Python does all of it
)
wanted = sys.platform == "linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")
setup(ext_modules=[native] if wanted else [])
