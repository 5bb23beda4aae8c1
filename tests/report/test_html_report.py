"""The page of a report, in a real browser: numbers, sorting, switching, nothing on the console."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.report import main
from noisyexp.report.charts import chart_data
from noisyexp.report.groups import make_groups
from noisyexp.report.run_set import find_runs
from tests.record_fixtures import CONFIG, RecordMaker

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
VALUES = {"nah": [105.0, 107.0], "hard": [112.0, 110.5], "<b>own</b>": [120.0, 121.0]}


@pytest.fixture
def page(tmp_path: Path, make_record: RecordMaker) -> Path:
    """A page of three groups of two runs with curves of three epochs."""
    for name, values in VALUES.items():
        for seed, value in enumerate(values):
            curve = [{"step": 9 * i, "epoch": i, "valid_ppl": value + 9 - 3 * i} for i in (1, 2, 3)]
            make_record(
                tmp_path / "runs" / f"{len(name)}-{seed}" / "run.json", value + 1, seed=seed,
                experiment=None, act=name, curve=curve,
                config={**CONFIG, "act": {"variant": name, "c": 0.5}},
            )  # fmt: skip
    out = tmp_path / "page.html"
    assert main([str(tmp_path / "runs"), f"out={out}", "baseline=act=hard"]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1200,1400"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def opened(page: Path, browser: Any) -> Iterator[Any]:
    """The browser with the page, loaded from a server that has nothing else."""
    quiet = functools.partial(Quiet, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/{page.name}")
        wait_until(browser, "return window.Bokeh && Bokeh.documents.length === 1")
        yield browser
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def wait_until(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(script))


def column(browser: Any, place: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll('#groups tbody tr')]"
        f".filter(row => !row.hidden).map(row => row.cells[{place}].textContent)"
    )
    return list(browser.execute_script(script))


def choose(browser: Any, models: str, label: str) -> None:
    """Press the button of that label."""
    browser.execute_script(
        f"{models} const group = all.filter(m => m.type === 'RadioButtonGroup')"
        f".find(m => m.labels.includes('{label}'));"
        f"group.active = group.labels.indexOf('{label}');"
    )


def test_the_page_in_a_browser(opened: Any) -> None:
    heads = [head.text.strip() for head in opened.find_elements("css selector", "#groups th")]
    assert heads[:3] == ["act", "n", "validation perplexity"]
    # The numbers are those of the records: 105, 107 at the end, less nothing.
    assert column(opened, 2)[column(opened, 0).index("nah")].startswith("106.00 ±")
    assert "<b>own</b>" in column(opened, 0)

    buttons = opened.find_elements("css selector", "#groups th button")
    buttons[2].click()
    assert column(opened, 0) == ["nah", "hard", "<b>own</b>"]
    buttons[2].click()
    assert column(opened, 0) == ["<b>own</b>", "hard", "nah"]

    box = opened.find_element("id", "filter")
    box.send_keys("nah")
    assert column(opened, 0) == ["nah"]
    box.clear()

    models = (
        "const all = [...Bokeh.documents[0]._all_models.values()];"
        "const plots = all.filter(m => m.type === 'Figure');"
    )
    assert opened.execute_script(f"{models} return plots.map(p => p.visible)").count(True) == 1
    choose(opened, models, "log y")
    wait_until(opened, f"{models} return plots.find(p => p.visible).y_scale.type === 'LogScale'")
    choose(opened, models, "step")
    wait_until(
        opened,
        f"{models} const xs = all.filter(m => m.type === 'ColumnDataSource')"
        ".map(s => [...(s.data.x ?? [])].join());"
        f"return xs.filter(x => x === '9,18,27').length === {len(VALUES)}",
    )

    problems = [e for e in opened.get_log("browser") if e["level"] == "SEVERE"]
    assert problems == []


def test_the_page_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert '<script src="' not in text and '<link rel="stylesheet' not in text
    assert "<b>own</b></td>" not in text  # a name is text, never markup


def test_curves_of_the_page_are_those_of_the_records(page: Path) -> None:
    groups = make_groups(find_runs([page.parent / "runs"])[0])
    data = chart_data(groups)["valid_ppl"]
    place = [group.settings["act"] for group in groups].index("nah")
    assert data["epoch"][place]["x"] == [1.0, 2.0, 3.0]
    assert data["step"][place]["mean"] == [112.0, 109.0, 106.0]
