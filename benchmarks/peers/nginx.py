"""nginx, one process, without kernel TLS: for files over TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

from .. import work
from ..measure import tool_of
from ..work import WORK
from . import Announce

_CONFIGURATION = """
worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen {host}:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};
        ssl_protocols TLSv1.3; location = /file/{size} {{ alias {file}; }}
    }}
}}
"""


def _await(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((work.HOST, port)).close()
            return
        time.sleep(0.01)
    os._exit(1)


def serve(announce: Announce) -> None:
    """This process becomes nginx, so that its CPU is nginx's."""
    with work.listening_socket() as probe:
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(dir=os.path.dirname(WORK.file))  # it goes with the file
    facts = {"folder": folder, "host": work.HOST, "port": port, "pem": WORK.pem}
    configuration = Path(folder) / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(**facts, file=WORK.file, size=os.path.getsize(WORK.file))
    )
    program = tool_of("nginx", "nginx-light")
    if not os.fork():
        _await(port)
        announce(port)
        os._exit(0)
    os.execv(program, [program, "-c", str(configuration), "-p", folder, "-e", f"{folder}/error"])
