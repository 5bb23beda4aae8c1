"""From folders to the rows of a report: their numbers by NumPy, their order, and Python's way."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from noisyexp.cli.report import main
from noisyexp.cli.runs import main as list_runs
from noisyexp.errors import NoisyexpError, RecordError
from noisyexp.experiments import frame, means
from noisyexp.report.averages import average
from noisyexp.report.html_report import make_html
from tests.record_fixtures import CONFIG, RecordMaker

SEEDS = 4
STRENGTHS = (None, 0.5, 2.0, 10.0)
"""Of units of one's own, with the reference before them, which has none."""


def number(strength: float | None, seed: int) -> float:
    """What a run comes to: nothing that is regular, nothing that is equal."""
    return 100.0 + 3.0 * np.cos(7.0 * (strength or 0.0) + 0.3 * seed) + 0.01 * seed**2


@pytest.fixture
def folder(tmp_path: Path, make_record: RecordMaker) -> Path:
    """Four groups of four seeds; names of folders that are in no order."""
    names = [f"{i:02d}" for i in range(SEEDS * len(STRENGTHS))]
    random.Random(3).shuffle(names)
    for strength in STRENGTHS:
        act = "reference" if strength is None else "mine"
        own = {} if strength is None else {"strength": strength}
        config = {**CONFIG, "act": {"variant": act, "settings": own}}
        for seed in range(SEEDS):
            make_record(
                tmp_path / "runs" / names.pop() / "run.json", number(strength, seed), act=act,
                seed=seed, experiment=None, config=config,
                cost={"wall_s": 60.0 + seed, "train_s": 30.0, "s_per_step": 0.002},
            )  # fmt: skip
    return tmp_path / "runs"


def test_rows_of_means_are_those_of_numpy(folder: Path) -> None:
    rows = means(folder, metrics=["test_ppl"])
    assert [row["act.settings.strength"] for row in rows] == [None, 0.5, 2.0, 10.0]
    assert [row["act"] for row in rows] == ["reference", "mine", "mine", "mine"]
    student = stats.t.ppf(0.975, SEEDS - 1)
    base = np.array([number(None, seed) for seed in range(SEEDS)])
    for row, strength in zip(rows, STRENGTHS, strict=True):
        values = np.array([number(strength, seed) for seed in range(SEEDS)])
        half = student * values.std(ddof=1) / np.sqrt(SEEDS)
        assert (row["runs"], row["complete"], row["seeds"]) == (SEEDS, SEEDS, "0 1 2 3")
        assert row["test_ppl_mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert row["test_ppl_low"] == pytest.approx(values.mean() - half, rel=1e-9)
        assert row["test_ppl_high"] == pytest.approx(values.mean() + half, rel=1e-9)
        if strength is None:
            assert row["test_ppl_difference_mean"] is None
            continue
        apart = values - base
        half = student * apart.std(ddof=1) / np.sqrt(SEEDS)
        found = [row[f"test_ppl_difference_{end}"] for end in ("mean", "low", "high", "seeds")]
        assert found == pytest.approx(
            [apart.mean(), apart.mean() - half, apart.mean() + half, SEEDS], rel=1e-9, abs=1e-9
        )
        worse, better = apart.mean() - half > 0, apart.mean() + half < 0
        word = "worse" if worse else "better" if better else "no difference shown"
        assert row["test_ppl_verdict"] == word


def test_runs_are_chosen_and_compared_as_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"metrics": ["test_ppl"], "by": ["act.settings.strength"]}
    rows = means([folder], where={"act": "mine"}, baseline={"act.settings.strength": 2}, **asked)
    assert rows == means(
        str(folder), where="act=mine", baseline="act.settings.strength=2.0", **asked
    )
    assert [row["act.settings.strength"] for row in rows] == [2.0, 0.5, 10.0]  # baseline first
    out = tmp_path / "means.csv"
    words = ["metric=test_ppl", "by=act.settings.strength", "where=act=mine"]
    assert main([str(folder), *words, "baseline=act.settings.strength=2", f"out={out}"]) == 0
    lines = list(csv.DictReader(out.read_text().splitlines()))
    texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    assert lines == texts
    with pytest.raises(RecordError, match="where=act=nan: none of 16 runs has it"):
        means(folder, where={"act": "nan"})
    with pytest.raises(NoisyexpError, match=r"Did you mean act\.settings\.strength"):
        means(folder, by=["act.settings.strenght"])


def test_a_frame_of_means_has_their_rows(folder: Path) -> None:
    pytest.importorskip("pandas")
    rows = means(folder)
    table = frame(rows)
    assert list(table.columns) == list(rows[0]) and len(table) == len(STRENGTHS)
    assert table["test_ppl_mean"].tolist() == [row["test_ppl_mean"] for row in rows]
    assert len(frame(folder)) == SEEDS * len(STRENGTHS)
    assert frame([]).empty


def test_lists_are_in_the_order_of_settings_and_seeds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in that of the hashes that name the folders; 10 comes after 2."""
    report = average([folder])
    assert [[run.record.seed for run in group.runs] for group in report.groups] == [
        list(range(SEEDS))
    ] * len(STRENGTHS)
    assert list_runs([str(folder)]) == 0
    head, *lines, _ = capsys.readouterr().out.splitlines()
    assert "wall time" in head
    found = [tuple(line.split()[:3]) for line in lines]
    ordered = [("mine", f"{s:g}", str(n)) for s in STRENGTHS[1:] for n in range(SEEDS)]
    assert found == [*ordered, *(("reference", "-", str(n)) for n in range(SEEDS))]


def test_a_page_has_one_word_for_each_kind_of_time(folder: Path) -> None:
    text = make_html(average([folder]))
    heads = {head for head in ("wall time [min]", "training time [ms/step]") if head in text}
    assert len(heads) == 2 and ">time [" not in text
    hours = 4 * sum(60 + seed for seed in range(SEEDS)) / 3600
    assert f"{hours:.4g} hours of wall time" in text
