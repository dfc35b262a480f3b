"""CPython's own tests of servers, run on this library: `tox -e cpython3.13`.

The test files are those of the Python that runs this; where it has none, as Debian's, this says so.
Each module runs in a process of its own, over TCP and over TLS, as `tests/cpython_adapter.py` says.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

#: A module, and the parts of it that serve connections; none: all of it.
MODULES: dict[str, tuple[str, ...]] = {
    "test.test_xmlrpc": (),
    "test.test_imaplib": (),
    "test.test_httpservers": (),
    "test.test_socketserver": (),
    "test.test_docxmlrpc": (),
    # The rest of it serves nobody, but for `logging.config.listen`, which asks select(2) whether
    # its listening socket has a client; here that is nobody's to ask.
    "test.test_logging": ("SocketHandlerTest", "HTTPHandlerTest"),
}
#: Seconds that a module may take.
LIMIT_S = 150


def run(transport: str, module: str) -> bool:
    """Whether it passed; prints what it said if not."""
    command = [sys.executable, "-m", "tests.cpython_adapter", transport, module]
    with tempfile.TemporaryFile() as said:
        try:
            code = subprocess.run(
                [*command, *MODULES[module]],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        said.seek(0)
        text = said.read().decode(errors="replace")
    if code:
        print(f"{text}\n{transport} {module}: exit code {code}", flush=True)
    else:
        print(f"{transport} {text.strip().splitlines()[-1]}", flush=True)
    return code == 0


def main() -> int:
    if importlib.util.find_spec("test") is None or not all(map(importlib.util.find_spec, MODULES)):
        print(f"{sys.executable} has no package `test` with CPython's own tests: none were run")
        return 0
    jobs = [(transport, module) for module in MODULES for transport in ("tcp", "tls")]
    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(lambda job: run(*job), jobs))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
