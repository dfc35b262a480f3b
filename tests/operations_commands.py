"""The commands of docs/operations.md, and which tests run them.

They are the lines of the page's blocks of `sh`. Each is run by `tests/test_operations_page.py`
(`RUN_HERE`), by a test elsewhere, or by none, for a reason.
"""

from __future__ import annotations

import re

from tests.programs import ROOT

PAGE = "docs/operations.md"

#: Commands that are run as they stand -> the program each needs.
RUN_HERE: dict[str, str] = {
    "ulimit -n": "sh",
    "sysctl net.core.somaxconn net.ipv4.tcp_max_syn_backlog"
    " net.ipv4.ip_local_port_range fs.nr_open": "sysctl",
    "nstat -az TcpExtListenOverflows TcpExtListenDrops": "nstat",
}

#: Commands that another test runs -> that test.
RUN_ELSEWHERE: dict[str, str] = {}

#: Commands that no test runs -> why.
NOT_RUN: dict[str, str] = {}


def commands(page: str = PAGE) -> list[str]:
    """The commands of a page: what is continued is one, comments are none."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = re.sub(r" *\\\n *", " ", "\n".join(blocks)).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
