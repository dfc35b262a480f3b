"""What a publisher fills in, in one place, and what comes of it: addresses, links, SECURITY.md."""

import configparser
import re
import runpy
import tomllib

import pytest

from tests.programs import ROOT
from thousand_island_sync import __version__

PUBLISHER = runpy.run_path(str(ROOT / "publisher.py"), run_name="publisher")
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
TARGET = re.compile(r"\]\(([^)]+)\)")

#: Filled in.
CHOSEN = {
    **METADATA["tool"]["publisher"],
    "repository": "https://forge.example/group/thousand_island_sync",
    "documentation": "https://docs.example/thousand_island_sync",
    "security": "security@forge.example",
}
EMPTY = {**CHOSEN, "repository": "", "documentation": "", "security": ""}


def at(address):
    """Where in the checkout the address of a file points."""
    beginning = rf"{CHOSEN['repository']}/(?:blob|raw)/v{re.escape(__version__)}/"
    return re.sub(beginning, "", address)


def test_the_settings_of_this_checkout_can_be_what_they_are():
    assert set(PUBLISHER["settings"]()) == set(CHOSEN)


def test_each_link_of_the_readme_resolves():
    relative = [one for one in TARGET.findall(README) if not one.startswith(("https:", "#"))]
    assert relative
    for target in relative:
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_a_package_page_has_absolute_links_only_and_each_resolves():
    targets = TARGET.findall(PUBLISHER["description"](CHOSEN, README))
    assert len(targets) == len(TARGET.findall(README))
    for target in targets:
        assert target.startswith("https://")
        if target.startswith(CHOSEN["repository"]):
            assert (ROOT / at(target).partition("#")[0]).exists(), target


def test_a_package_page_without_a_repository_has_no_link_that_leads_nowhere():
    page = PUBLISHER["description"](EMPTY, README)
    assert all(target.startswith("https://") for target in TARGET.findall(page))
    for text in re.findall(r"!?\[([^\]]+)\]\((?!https:)", README):
        assert text in page


def test_an_image_is_asked_for_where_images_are_served():
    page = PUBLISHER["description"](CHOSEN, "![flow](docs/a.svg) [page](docs/a.md#b)")
    served = f"{CHOSEN['repository']}/raw/v{__version__}/docs/a.svg"
    shown = f"{CHOSEN['repository']}/blob/v{__version__}/docs/a.md#b"
    assert page == f"![flow]({served}) [page]({shown})"


def test_the_package_has_the_addresses_that_are_filled_in_and_no_other():
    assert PUBLISHER["addresses"](EMPTY) == {}
    assert PUBLISHER["addresses"](CHOSEN) == {
        "Documentation": CHOSEN["documentation"],
        "Source": CHOSEN["repository"],
        "Issues": f"{CHOSEN['repository']}/issues",
        "Changelog": f"{CHOSEN['repository']}/blob/v{__version__}/CHANGELOG.md",
        "Security": "mailto:security@forge.example",
    }
    form = {**EMPTY, "security": "https://forge.example/report"}
    assert PUBLISHER["addresses"](form) == {"Security": "https://forge.example/report"}


def test_the_security_page_says_what_the_setting_says():
    page = (ROOT / "SECURITY.md").read_text()
    assert PUBLISHER["security_page"](PUBLISHER["settings"](), page) == page, (
        "run: python publisher.py"
    )
    filled = PUBLISHER["security_page"](CHOSEN, page)
    assert "in private to <security@forge.example>" in filled
    assert "Nobody has published this copy" not in filled
    assert "Nobody has published this copy" in PUBLISHER["security_page"](EMPTY, filled)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repository", "github.com/owner/project"),
        ("repository", "https://forge.example/project/"),
        ("documentation", "docs"),
        ("security", "the maintainers"),
    ],
)
def test_a_setting_that_cannot_be_is_told(name, value, monkeypatch):
    monkeypatch.setitem(METADATA["tool"]["publisher"], name, value)
    monkeypatch.setattr(PUBLISHER["tomllib"], "loads", lambda text: METADATA)
    with pytest.raises(SystemExit, match=rf"{name} is '{value}'; it takes"):
        PUBLISHER["settings"]()


def test_the_oldest_dependencies_that_the_package_takes_are_those_that_are_tested():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    tested = set(tox["testenv:oldest"]["deps"].split())
    bounds = [re.split(">=", one) for one in METADATA["project"]["dependencies"]]
    assert {f"{name}=={bound}" for name, bound in bounds} == {
        re.sub(r"(==\d+\.\d+)\.0$", r"\1", one) for one in tested
    }
    assert "oldest" in re.split(r"[,\s]+", tox["tox"]["env_list"])


def test_the_changelog_begins_with_this_version_and_has_a_date_for_each():
    page = (ROOT / "CHANGELOG.md").read_text()
    first, *versions = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert first == "[Unreleased]"
    assert versions[0].startswith(f"[{__version__}] - ")
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", one) for one in versions)


def test_the_changelog_has_the_sections_of_its_form_in_order_and_says_nothing_twice():
    page = (ROOT / "CHANGELOG.md").read_text()
    order = ["Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for version in page.split("\n## ")[1:]:
        sections = [name.split()[0] for name in re.findall(r"^### (.*)$", version, re.MULTILINE)]
        assert sections == sorted(sections, key=order.index)
        entries = re.findall(r"^- (.*)$", version, re.MULTILINE)
        assert len(entries) == len(set(entries))
