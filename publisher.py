"""What a publisher's settings come to: `[tool.publisher]` of pyproject.toml.

    python publisher.py     writes SECURITY.md's line about where to report

`setup.py` takes the package's addresses and its description from here. It runs this file by
itself, before anything is installed.
"""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VERSION: str = runpy.run_path(str(ROOT / "thousand_island_sync" / "_base" / "version.py"))[
    "VERSION"
]

#: A link or an image of Markdown whose target is no address and no heading of the same page.
_RELATIVE = re.compile(
    r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?:|mailto:|#)(?P<path>[^)\s]+)\)"
)
#: In SECURITY.md, around what is written there.
_REPORT = re.compile(r"(<!-- where to report -->\n).*?(<!-- end -->)", re.DOTALL)

_NOWHERE = """\
**Nobody has published this copy yet, so it names no address.** Whoever publishes it fills in
`security` in `[tool.publisher]` of `pyproject.toml`, and this line then says where to report. Until
then, report to whoever you got the copy from, in private."""


def settings() -> dict[str, str]:
    """Those of pyproject.toml, empty ones included.

    Raises:
        SystemExit: a setting cannot be what it is.
    """
    found: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "publisher"
    ]
    for name in ("repository", "documentation"):
        if found[name] and not re.fullmatch(r"https?://\S+[^/\s]", found[name]):
            raise SystemExit(
                f"pyproject.toml, [tool.publisher]: {name} is {found[name]!r}; it takes an address"
                " that begins with https:// and does not end with a slash"
            )
    if found["security"] and not re.fullmatch(r"https?://\S+|[^@\s]+@[^@\s]+", found["security"]):
        raise SystemExit(
            f"pyproject.toml, [tool.publisher]: security is {found['security']!r}; it takes an"
            " e-mail address, or one that begins with https://"
        )
    return found


def addresses(chosen: dict[str, str]) -> dict[str, str]:
    """The package's `Project-URL`s: those that the settings say."""
    repository, security = chosen["repository"], chosen["security"]
    found = {
        "Documentation": chosen["documentation"],
        "Source": repository,
        "Issues": repository and f"{repository}/issues",
        "Changelog": repository and _place(chosen, "files", "CHANGELOG.md"),
        "Security": f"mailto:{security}" if "@" in security and ":" not in security else security,
    }
    return {label: address for label, address in found.items() if address}


def _place(chosen: dict[str, str], form: str, path: str) -> str:
    return chosen[form].format(repository=chosen["repository"], version=VERSION, path=path)


def description(chosen: dict[str, str], readme: str) -> str:
    """The README for a page that has none of the project's files beside it: its relative links
    become addresses. Where the settings name no repository, only their text stays."""

    def absolute(link: re.Match[str]) -> str:
        image, text, path = link["image"], link["text"], link["path"]
        if not chosen["repository"]:
            return text
        return f"{image}[{text}]({_place(chosen, 'images' if image else 'files', path)})"

    return _RELATIVE.sub(absolute, readme)


def security_page(chosen: dict[str, str], page: str) -> str:
    """SECURITY.md with its line about where to report."""
    where = chosen["security"]
    told = f"Report a vulnerability in private to <{where}>." if where else _NOWHERE
    return _REPORT.sub(lambda found: f"{found[1]}{told}\n{found[2]}", page)


if __name__ == "__main__":
    page = ROOT / "SECURITY.md"
    page.write_text(security_page(settings(), page.read_text()))
