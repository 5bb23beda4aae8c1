"""The documentation site: every page is in the navigation, every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from noisyexp.tasks import find_task, task_names
from scripts.docs_pages import MODULES, REFERENCE, keys_page, links, metrics_page, nav_pages
from scripts.docs_pages import site_files as linked_files

ROOT = Path(__file__).resolve().parents[2]
NAV = list(nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
WRITTEN = [name for name in NAV if not name.startswith(REFERENCE)]


def anchors(path: Path) -> set[str]:
    """Headings of a page as links name them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "noisyexp").rglob("README.md")}
    assert pages - set(NAV) == set()
    assert len(NAV) == len(set(NAV))
    made = {name.removeprefix(REFERENCE) for name in NAV if name.startswith(REFERENCE)}
    assert made == {f"{name}.md" for name in (*MODULES, "commands", "keys", "metrics")}


@pytest.mark.parametrize("name", [name for name in linked_files(WRITTEN) if name.endswith(".md")])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for link in links(path.read_text("utf-8")):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{name} links {link}"
        assert not anchor or anchor in anchors(target), f"{name} links {link}"


def test_what_counts_as_a_link() -> None:
    text = "[a](b.md#c) `[no](code.md)` ![p](x.png)\n```\n[no](block.md)\n```\n[web](https://x)"
    assert links(text) == ["b.md#c", "x.png"]


def test_the_reference_has_every_key_and_metric() -> None:
    keys, metrics = keys_page(), metrics_page()
    for wanted in ("`training.lr`", "`act.tanh.alpha`", "`anneal.schedule`", "`seed`"):
        assert keys.count(wanted) == 1
    assert str(ROOT) not in keys
    for name in task_names():
        task = find_task(name)
        section = metrics.partition(f"## {name}\n")[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert len(rows) == len(task.metrics)
        (selecting,) = (row for row in rows if row.endswith("| selects |"))
        assert selecting.startswith(f"| `{task.selection}` |")
        fields = vars(task.config_type)["__dataclass_fields__"]
        section = keys.partition(f"## task={name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `task\.(\w+)` \|", section, re.M) == list(fields)


class Loads(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        found = values.get("src") if tag != "link" else values.get("href")
        if found and values.get("rel") not in ("next", "prev", "canonical"):
            self.found.append(found)


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="extra docs missing")
    pytest.importorskip("mkdocstrings", reason="extra docs missing")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(NAV)
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert [name for name in loads.found if re.match(r"(https?:)?//", name)] == []
    text = (tmp_path / "site" / "reference" / "layers.html").read_text("utf-8")
    assert all(f'id="noisyexp.nn.{name}"' in text for name in ("NoisyLSTM", "NoisyGRU"))
