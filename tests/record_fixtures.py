"""Hand-made run records and a small repository of row files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from noisyexp.records.config_hash import config_hash

METRICS = {
    "test_ppl": {"unit": "perplexity", "direction": "min", "label": "test perplexity"},
    "valid_ppl": {"unit": "perplexity", "direction": "min", "label": "validation perplexity"},
}
CONFIG = {
    "task": {"name": "ptb", "hidden": 200},
    "training": {"lr": 1.0, "max_grad_norm": 5.0},
    "act": {"variant": "nah", "label": "NAH", "c": 0.5},
    "anneal": None,
    "precision": "float32",
    "row": None,
    "data": {"source": "real"},
    "scale": "paper",
    "seed": 0,
}
RECORD: dict[str, Any] = {
    "schema": 1, "status": "complete", "reason": None, "experiment": "table9/nah", "task": "ptb",
    "act": "nah", "scale": "paper", "data": "real", "seed": 0, "config": CONFIG,
    "config_hash": "0123456789ab", "command": ["run.py", "experiment=table9/nah"],
    "code": {"commit": "a" * 40, "dirty": False},
    "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "noisyexp": "0.1.0"},
    "machine": {"device": "cpu", "name": "Test Processor", "threads": 2, "platform": "Linux"},
    "data_files": {}, "parameters": {"total": 4653200, "noise": 0}, "metrics": METRICS,
    "selection": "valid_ppl",
    "curve": [{"step": 2, "epoch": 1, "valid_ppl": 101.0}], "best": {"step": 2, "valid_ppl": 101.0},
    "final": {"step": 2, "valid_ppl": 101.0, "test_ppl": 100.0},
    "progress": {"step": 2, "total_steps": 2},
    "cost": {"wall_s": 1800.0, "train_s": 1700.0, "s_per_step": 0.1},
}  # fmt: skip
ROW = """\
# @package _global_
# {title}
# command: python run.py experiment=table9/{name} seed=0
# time:    3 minutes on a
#          quick machine
# expect:  valid_ppl about 180 after epoch 1
defaults:
  - override /task: ptb
  - override /act: {name}
row:
  table: 9
  order: {order}
  label: "{name}"
  source: {source}
  baseline: {baseline}
  seeds: [0, 1, 2]
  paper: {paper}
"""

#: Matplotlib names a clip path and a marker by a hash of its coordinates.
NAME = re.compile(r"\b[mp][0-9a-f]{10}\b")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

RecordMaker = Callable[..., Path]


def make_consistent(raw: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Let what was not `given` of a record follow from what was."""
    if "act" not in given and raw["experiment"]:
        raw["act"] = raw["experiment"].rpartition("/")[2]
    config = raw["config"] = copy.deepcopy(raw["config"])
    for key in ("training", "act", "task"):
        config.setdefault(key, {})
    config["task"].setdefault("name", raw["task"])
    config.update(seed=raw["seed"], scale=raw["scale"], data={"source": raw["data"]})
    if "config_hash" not in given:
        raw["config_hash"] = config_hash(config)
    raw["curve"] = [
        {"epoch": n + 1, "step": point.get("epoch", n + 1), **point}
        for n, point in enumerate(raw["curve"])
    ]
    if "curve" in given and "final" not in given:
        raw["final"] = {**raw["final"], **(raw["curve"][-1] if raw["curve"] else {})}
    if raw["final"] and raw["final"].get("step") not in [p["step"] for p in raw["curve"]]:
        at = {"step": 2, "epoch": 1, **raw["final"]}
        raw["final"] = {"step": at["step"], **raw["final"]}
        shared = {k: v for k, v in at.items() if not k.startswith("test")}
        raw["curve"] = [p for p in raw["curve"] if p["step"] < at["step"]] + [shared]
    if "best" not in given:
        raw["best"] = {}
    if "selection" not in given and raw["selection"] not in raw["metrics"]:
        raw["selection"] = next(iter(raw["metrics"]), None)


@pytest.fixture
def make_record(tmp_path: Path) -> RecordMaker:
    """Write a record with top-level fields replaced; `test_ppl` sets the final value.

    What follows from the fields follows them: the curve at the end of `final`, `best` where it is
    not given, seed, scale, data and hash of the configuration.
    """

    def make(path: Path | None = None, test_ppl: float | None = None, **fields: Any) -> Path:
        raw = {**copy.deepcopy(RECORD), **fields}
        if test_ppl is not None:
            raw["final"] = {**raw["final"], "test_ppl": test_ppl}
        make_consistent(raw, fields)
        path = path or tmp_path / "run.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(raw), encoding="utf-8")
        return path

    return make


@pytest.fixture
def table_root(tmp_path: Path) -> Path:
    """A repository with table9: soft (paper 110), nah (paper 100) and our hard row."""
    folder = tmp_path / "repo" / "configs" / "experiment" / "table9"
    folder.mkdir(parents=True)
    rows: dict[str, Mapping[str, object]] = {
        "soft": {"order": 1, "source": "paper", "baseline": "null", "paper": "{test_ppl: 110}"},
        "nah": {
            "order": 2, "source": "paper", "baseline": "table9/soft", "paper": "{test_ppl: 100}",
        },
        "hard": {"order": 3, "source": "ours", "baseline": "table9/soft", "paper": "{}"},
    }  # fmt: skip
    for name, values in rows.items():
        (folder / f"{name}.yaml").write_text(ROW.format(name=name, title=f"Row {name}.", **values))
    sheet = tmp_path / "repo" / "configs" / "sheet" / "table9.yaml"
    sheet.parent.mkdir()
    sheet.write_text("order: 1\ntitle: Table 9\nrows: table9\ncommand: make it\n")
    return tmp_path / "repo"


@pytest.fixture
def compose() -> Callable[[str, str], Mapping[str, Any]]:
    """The row files' resolved config: always that of the hand-made record."""
    return lambda experiment, scale: copy.deepcopy(CONFIG)


@pytest.fixture
def check_same_drawing() -> Callable[[Path, Path], None]:
    """Two SVG files are equal but for a last digit: the layout is solved in floating point."""

    def check(one: Path, other: Path) -> None:
        texts = [NAME.sub("name", path.read_text()) for path in (one, other)]
        assert NUMBER.sub("", texts[0]) == NUMBER.sub("", texts[1])
        numbers = [[float(x) for x in NUMBER.findall(text)] for text in texts]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)

    return check
