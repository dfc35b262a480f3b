"""The commands of docs/howto/operations.md, and which tests run them.

They are the lines of the page's blocks of `sh`. Each is run by `tests/test_operations_page.py`
(`ENDS`, `SERVES`), by a test elsewhere, or by none, for a reason.
"""

from __future__ import annotations

import re

from tests.markdown import blocks_in

PAGE = "docs/howto/operations.md"

#: Commands that end by themselves -> the program each needs. They are run in a folder with an
#: `app.py` and the files of certificates, beside a server with TLS and health.
ENDS: dict[str, str] = {
    "ulimit -n": "sh",
    "sysctl net.core.somaxconn net.ipv4.tcp_max_syn_backlog"
    " net.ipv4.ip_local_port_range fs.nr_open": "sysctl",
    "nstat -az TcpExtListenOverflows TcpExtListenDrops": "nstat",
    "thousand-island check app:Echo --certfile fullchain.pem --keyfile privkey.pem": "sh",
    "openssl verify -CAfile ca.pem fullchain.pem": "openssl",
    "openssl s_client -connect 127.0.0.1:4000 -servername localhost </dev/null"
    " | openssl x509 -noout -subject -enddate": "openssl",
    "openssl x509 -noout -checkend 1209600 -in fullchain.pem": "openssl",
    "curl -fsS http://127.0.0.1:8081/readyz": "curl",
}

#: Commands that serve until they are told to stop: they say where, and exit with 0.
SERVES: tuple[str, ...] = (
    "thousand-island app:Echo --port 4000 --health 127.0.0.1:8081"
    " --drain-delay-ms 3000 --shutdown-timeout-ms 10000",
    "thousand-island app:Echo --log-level info --log-format json --log-access",
    "thousand-island app:Echo --port 4000 --health 127.0.0.1:8081",
)

#: Commands that serve what systemd passes them, once a client comes.
ACTIVATED: tuple[str, ...] = (
    "systemd-socket-activate --listen=127.0.0.1:4000 --fdname=app"
    " thousand-island app:Echo --host systemd:app",
)

#: Commands that another test runs -> that test.
RUN_ELSEWHERE: dict[str, str] = {
    "systemd-analyze verify ./app.socket ./app.service": "tests/test_units.py::"
    "test_systemd_understands_the_units",
    **dict.fromkeys(
        [
            "thousand-island app:Echo --port 4000 --admin /run/app/admin.sock",
            *(
                f"thousand-island ctl /run/app/admin.sock {words}"
                for words in (
                    *("info", "workers", "connections", "dump", "log-level debug", "suspend"),
                    *("resume", "reload --wait", "reload --certificates", "drain", "stop"),
                )
            ),
            "thousand-island top /run/app/admin.sock --once --json",
        ],
        "tests/test_units.py::test_the_page_s_commands_of_the_admin_socket_run",
    ),
}

#: Commands that no test runs -> why.
NOT_RUN: dict[str, str] = {
    "systemctl enable --now app.socket": "it needs systemd as process 1, and changes the machine",
    "systemctl reload app.service": "the same; tests/test_units.py does what systemd does then",
    "pip install 'thousand_island_sync[json]'": "it needs a package index, and changes what is"
    " installed; what it installs is what tests/test_line_writer.py formats with",
}


def commands_of(text: str) -> list[str]:
    """The commands of a block: what is continued is one, comments are none."""
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def commands(page: str = PAGE) -> list[str]:
    """The commands of a page."""
    return commands_of("\n".join(blocks_in("sh", page)))
