"""What a release says of itself is one thing in all places."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

import noisyexp

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = re.findall(r"^## ([\d.]+) ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert citation["version"] == changes[0] == noisyexp.__version__
    assert changes == sorted(changes, key=lambda v: [int(n) for n in v.split(".")], reverse=True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")
def test_hosted_tests_run_every_python_that_is_promised() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    pythons = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(int(low), int(high))]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = re.findall(r"^make (\w+)$", "\n".join(step.get("run", "") for step in steps), re.M)
    assert set(targets) == {"lint", "test", "docs", "build"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(noisyexp.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_issue_forms_have_what_a_form_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    assert form["name"]
    assert form["description"]
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "dropdown"}
        assert field["attributes"]["label"]
        assert (field["type"] == "dropdown") == ("options" in field["attributes"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
