"""The workflow that releases: it does what RELEASING.md does, with actions that nobody can move."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import publisher
from tests.markdown import ROOT, blocks_in

PATH = ROOT / ".github" / "workflows" / "release.yml"
TEXT = PATH.read_text()
WORKFLOW = yaml.safe_load(TEXT)
JOBS = WORKFLOW["jobs"]
PAGE = (ROOT / "RELEASING.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def steps(job):
    return JOBS[job]["steps"]


def commands(job):
    return [step["run"] for step in steps(job) if "run" in step]


def actions(job):
    """The names of the actions, without their versions."""
    return [step["uses"].partition("@")[0] for step in steps(job) if "uses" in step]


# ---- who may do what -----------------------------------------------------------------


def test_each_action_is_a_commit_with_its_version_beside_it():
    used = re.findall(r"^\s*(?:- )?uses: (.*)$", TEXT, re.MULTILINE)
    assert len(used) == sum(len(actions(job)) for job in JOBS) > 8
    for one in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_an_action_has_one_version():
    used = set(re.findall(r"uses: (\S+)@(\S+)", TEXT))
    assert len(used) == len({name for name, _ in used})


def test_only_what_publishes_has_a_token_and_only_for_a_tag_that_was_pushed():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    allowed = {job: JOBS[job]["permissions"] for job in JOBS if "permissions" in JOBS[job]}
    assert allowed == {"publish": {"id-token": "write"}}
    # A run by hand can have a tag for its ref: the type alone does not keep it from publishing.
    assert JOBS["publish"]["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert "secrets." not in TEXT
    for step in (step for job in JOBS for step in steps(job)):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_it_begins_by_a_tag_or_by_hand():
    begins = WORKFLOW[True]  # YAML 1.1 reads `on` as true
    assert set(begins) == {"push", "workflow_dispatch"}
    assert begins["push"] == {"tags": ["v*"]}


def test_nothing_is_published_that_was_not_checked():
    assert JOBS["publish"]["needs"] == "check"
    assert JOBS["check"]["needs"] == ["sdist", "wheels"]
    assert JOBS["wheels"]["needs"] == "sdist"
    assert actions("publish") == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert not commands("publish")


@pytest.mark.parametrize(("tag", "code"), [(f"v{publisher.VERSION}", 0), ("v0.0.1", 1)])
def test_a_tag_that_is_not_the_version_is_refused(tag, code):
    (command,) = [one for one in commands("sdist") if "GITHUB_REF_NAME" in one]
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    variables = {"GITHUB_REF_NAME": tag, "PATH": path}
    done = subprocess.run(["bash", "-euc", command], cwd=ROOT, env=variables)
    assert done.returncode == code


# ---- as the page says ----------------------------------------------------------------

#: A step of RELEASING.md -> what does the same here.
SAME = {
    "-m build": ("sdist", "python -m build --sdist"),
    "-m pip wheel": ("sdist", "THOUSAND_ISLAND_PURE=1 python -m pip wheel --no-deps"),
    "auditwheel": ("wheels", "python -m cibuildwheel"),
    "-m twine": ("check", "python -m twine check --strict dist/*"),
    "check-wheel-contents": ("check", "check-wheel-contents dist"),
    "-m tests.packages": ("check", "python -m tests.packages dist"),
}


def page_commands():
    """Without those that make an environment and put things in it, or clean up."""
    text = "\n".join(blocks_in("sh", "RELEASING.md")).replace("\\\n", " ")
    every = [line for line in text.splitlines() if line]
    return [one for one in every if not re.search(r"-m venv|pip install|^rm ", one)]


def test_it_does_each_step_of_the_page():
    done = []
    for line in page_commands():
        (step,) = [step for step in SAME if step in line.replace("/bin:", "/")]
        job, beginning = SAME[step]
        assert any(one.startswith(beginning) for one in commands(job)), line
        done.append(step)
    assert set(done) == set(SAME)


def test_the_page_names_what_an_index_has_to_know():
    assert f"`{PATH.name}`" in PAGE
    assert f"`{JOBS['publish']['environment']}`" in PAGE


def test_the_tools_that_build_wheels_are_of_one_version():
    installed = [one for one in commands("wheels") if "pip install" in one]
    assert [re.sub(r"==\d+(\.\d+)+$", "==", one) for one in installed] == [
        "python -m pip install cibuildwheel=="
    ]


def test_there_is_a_wheel_for_each_python_that_is_supported():
    supported = re.findall(
        r"Programming Language :: Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"])
    )
    built = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp3{minor}-*" for minor in supported]
    assert {"ubuntu-latest", "ubuntu-24.04-arm"} == set(
        JOBS["wheels"]["strategy"]["matrix"]["runner"]
    )
