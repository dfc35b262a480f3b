"""The commands of docs/operations.md, and which tests run them.

They are the lines of the page's blocks of `sh`. Each is run by `tests/test_operations_page.py`
(`ENDS`, `SERVES`), by a test elsewhere, or by none, for a reason.
"""

from __future__ import annotations

import re

from tests.programs import ROOT

PAGE = "docs/operations.md"

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
}

#: Commands that serve until they are told to stop: they say where, and exit with 0.
SERVES: tuple[str, ...] = (
    "thousand-island app:Echo --port 4000 --drain-delay-ms 3000 --shutdown-timeout-ms 10000",
    "thousand-island app:Echo --log-level info --log-format json --log-access",
)

#: Commands that another test runs -> that test.
RUN_ELSEWHERE: dict[str, str] = {}

#: Commands that no test runs -> why.
NOT_RUN: dict[str, str] = {
    "pip install 'thousand_island_sync[json]'": "it needs a package index, and changes what is"
    " installed; what it installs is what tests/test_line_writer.py formats with",
}


def commands(page: str = PAGE) -> list[str]:
    """The commands of a page: what is continued is one, comments are none."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = re.sub(r" *\\\n *", " ", "\n".join(blocks)).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
