"""Groups of runs: what tells them apart, their means, and what they are compared with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from scipy import stats

from noisyexp.errors import RecordError
from noisyexp.report.averages import average
from noisyexp.report.group_curves import MOST_POINTS, group_curve, thin
from noisyexp.report.group_table import Report, shown, to_csv, to_json, to_markdown, to_text
from noisyexp.report.groups import find_baseline, make_groups, metrics_of, verdict
from noisyexp.report.run_set import conditions, find_runs, meets
from noisyexp.report.statistics import Estimate, paired_difference
from tests.record_fixtures import CONFIG, RecordMaker

ALPHAS = {1.0: [110.0, 112.0, 111.0, 115.0], 1.15: [105.0, 107.0, 104.0, 111.0]}


@pytest.fixture
def folder(tmp_path: Path, make_record: RecordMaker) -> Path:
    """Eight runs that differ in alpha and seed; alpha for tanh goes with it."""
    for alpha, values in ALPHAS.items():
        for seed, value in enumerate(values):
            act = {**CONFIG["act"], "alpha": alpha, "tanh": {"alpha": alpha, "c": 0.5}}
            make_record(
                tmp_path / "runs" / f"{alpha}-{seed}" / "run.json",
                value, seed=seed, experiment=None, config={**CONFIG, "act": act},
                cost={"wall_s": 60.0, "train_s": 50.0, "s_per_step": 0.1},
            )  # fmt: skip
    return tmp_path / "runs"


def report_of(folder: Path, **baseline: str) -> Report:
    runs, notes = find_runs([folder])
    groups = make_groups(runs)
    wanted = {key.replace("__", "."): value for key, value in baseline.items()} or None
    return Report(groups, metrics_of(groups, ["test_ppl"]), find_baseline(groups, wanted), notes)


def test_only_the_setting_that_differs_is_a_key(folder: Path) -> None:
    groups = make_groups(find_runs([folder])[0])
    assert [dict(group.settings) for group in groups] == [{"act.alpha": 1.0}, {"act.alpha": 1.15}]


def test_means_and_intervals_are_those_of_scipy(folder: Path) -> None:
    for group, values in zip(make_groups(find_runs([folder])[0]), ALPHAS.values(), strict=True):
        found = group.estimate("test_ppl")
        assert found is not None
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values)
        )
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
            (low, high)
        )


def test_differences_are_paired_by_seed(folder: Path) -> None:
    report = report_of(folder, act__alpha="1")
    first, second = report.groups
    assert report.difference(first, "test_ppl") is None
    by_seed = [dict(enumerate(values)) for values in ALPHAS.values()]
    assert report.difference(second, "test_ppl") == paired_difference(by_seed[1], by_seed[0])


@pytest.mark.parametrize(
    ("mean", "half", "n", "direction", "word"),
    [
        (-5.0, 1.0, 4, "min", "better"),
        (-5.0, 1.0, 4, "max", "worse"),
        (-5.0, 6.0, 4, "min", "no difference shown"),
        (-5.0, 1.0, 3, "min", "too few seeds"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_rule_of_the_tables(
    mean: float, half: float, n: int, direction: str, word: str
) -> None:
    assert verdict(Estimate(mean, half, n), direction) == word


def test_a_csv_has_one_head_line_and_one_line_a_group(folder: Path) -> None:
    lines = list(csv.DictReader(to_csv(report_of(folder)).splitlines()))
    assert [line["act.alpha"] for line in lines] == ["1.0", "1.15"]
    assert [float(line["test_ppl_mean"]) for line in lines] == [112.0, 106.75]
    assert all(line["complete"] == "4" and line["seeds"] == "0 1 2 3" for line in lines)


def test_the_best_mean_is_marked_by_the_direction(folder: Path) -> None:
    text = to_markdown(report_of(folder))
    assert "| **106.75 ±" in text and "**112.00" not in text
    assert "106.75 ± 4.93 *" in to_text(report_of(folder))


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (107.769, 0.4506, "107.77 ± 0.45"),
        (-4.7312, 1.3081, "-4.731 ± 1.308"),
        (-0.82651, 2.01281, "-0.8265 ± 2.013"),
        (107.769, 0.001, "107.77 ± 0.001"),
        (1e-7, 2.5e-8, "1e-07 ± 2.5e-08"),
        (0.0, 0.0, "0 ± 0"),
        (12.5, None, "12.50"),
    ],
)
def test_an_interval_has_the_decimals_of_its_mean(
    mean: float, half: float | None, text: str
) -> None:
    assert shown(Estimate(mean, half, 4)) == text
    assert shown(Estimate(mean, half, 4), sign=True) == ("" if mean < 0 else "+") + text


def test_runs_that_did_not_finish_are_counted_and_named(
    folder: Path, make_record: RecordMaker
) -> None:
    act = {**CONFIG["act"], "alpha": 1.15, "tanh": {"alpha": 1.15, "c": 0.5}}
    make_record(
        folder / "lost" / "run.json", seed=9, experiment=None, status="diverged", final={},
        reason="non-finite loss at step 3", config={**CONFIG, "act": act},
    )  # fmt: skip
    report = report_of(folder)
    assert [group.statuses["diverged"] for group in report.groups] == [0, 1]
    assert "| 4 of 5 |" in to_markdown(report)
    assert "seed 9: diverged: non-finite loss at step 3" in to_text(report)
    content = json.loads(to_json(report))
    assert content["groups"][1]["test_ppl_mean"] == 106.75
    assert len(content["not_in_the_means"]) == 1


def test_a_setting_that_older_records_lack_has_the_usual_value(
    folder: Path, make_record: RecordMaker
) -> None:
    for path in folder.glob("1.0-*/run.json"):
        raw = json.loads(path.read_text())
        raw["config"]["training"]["new"] = 0.99
        make_record(path, **{key: raw[key] for key in raw if key != "config_hash"})
    assert len(make_groups(find_runs([folder])[0])) == 2


def test_a_copy_of_a_run_is_counted_once(folder: Path) -> None:
    source = folder / "1.0-0" / "run.json"
    target = folder / "records" / "nah-paper-seed0.json"
    target.parent.mkdir()
    target.write_text(source.read_text())
    runs, notes = find_runs([folder])
    assert len(runs) == 8
    assert len(notes) == 1 and "counted once" in notes[0]


def test_damaged_records_are_named_and_left_out(folder: Path) -> None:
    (folder / "1.0-0" / "run.json").write_text("{")
    runs, notes = find_runs([folder])
    assert len(runs) == 7
    assert len(notes) == 1 and "1.0-0" in notes[0]


def test_several_runs_of_a_seed_are_no_group(folder: Path) -> None:
    with pytest.raises(RecordError, match=r"seed 0 is there 2 times.*act\.alpha"):
        make_groups(find_runs([folder])[0], by=["act"])


@pytest.mark.parametrize(
    ("text", "count"),
    [("act.alpha=1", 4), ("act.alpha=1.00,seed=2", 1), ("act=nah", 8), ("act=nan", 0)],
)
def test_conditions_choose_runs(folder: Path, text: str, count: int) -> None:
    runs = find_runs([folder])[0]
    assert sum(meets(run, conditions(text, runs)) for run in runs) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [("act.alhpa=1", r"act\.alhpa: no run has it. Did you mean act\.alpha"), ("nah", "key=value")],
)
def test_a_wrong_condition_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        conditions(text, find_runs([folder])[0])


def test_a_baseline_is_one_group(folder: Path) -> None:
    groups = make_groups(find_runs([folder])[0])
    with pytest.raises(RecordError, match="2 groups"):
        find_baseline(groups, {"act": "nah"})
    with pytest.raises(RecordError, match="no group has it"):
        find_baseline(groups, {"act": "hard"})
    assert find_baseline(groups, None) == {}


def test_a_baseline_that_is_not_clear_is_no_silence(folder: Path, make_record: RecordMaker) -> None:
    """Two groups of soft units: the table says so, and how one of them is chosen."""
    for n, lr in enumerate((1.0, 0.5)):
        training = {**CONFIG["training"], "lr": lr}
        act = {"variant": "reference", "c": None}
        make_record(
            folder / f"soft{n}" / "run.json", 110.0, act="reference", experiment=None,
            config={**CONFIG, "act": act, "training": training},
        )  # fmt: skip
    report = average([folder])
    said = "No differences: 2 groups of ptb have reference units; baseline= or where= chooses one."
    assert not report.compares
    assert said in to_text(report).splitlines() and said in to_markdown(report)
    report = average([folder], baseline="act=reference,training.lr=0.5")
    assert report.compares and "No differences" not in to_text(report)


def test_a_curve_is_the_mean_at_common_points(tmp_path: Path, make_record: RecordMaker) -> None:
    curves = [[3.0, 2.0, 1.0], [5.0, 3.0]]
    for seed, values in enumerate(curves):
        curve = [{"step": i, "epoch": i, "valid_ppl": v} for i, v in enumerate(values, 1)]
        make_record(
            tmp_path / str(seed) / "run.json", seed=seed, curve=curve,
            final={"step": len(values), "valid_ppl": values[-1]},
        )  # fmt: skip
    (group,) = make_groups(find_runs([tmp_path])[0])
    curve = group_curve(group, "valid_ppl", "epoch")
    assert (curve.x, curve.mean, curve.n) == ([1.0, 2.0], [4.0, 2.5], 2)
    half = float(stats.t.ppf(0.975, 1)) * stats.sem([3.0, 5.0])
    assert curve.high[0] - curve.mean[0] == pytest.approx(half)


def test_long_curves_are_thinned_with_their_end() -> None:
    places = [float(i) for i in range(10 * MOST_POINTS + 7)]
    kept = thin(places)
    assert len(kept) <= MOST_POINTS and kept[-1] == places[-1]
    assert thin(places[:5]) == places[:5]


def test_settings_of_a_unit_are_not_lent_to_others(
    tmp_path: Path, make_record: RecordMaker
) -> None:
    """A unit without a setting has none; every group of a grid is named by all of it."""
    for steep in (None, 1.0, 3.0):
        for lift in (None,) if steep is None else (0.5, 1.0):
            own = {} if steep is None else {"steep": steep, "lift": lift}
            act = {**CONFIG["act"], "settings": own}
            unit = "nah" if steep is None else "arctan"
            make_record(
                tmp_path / f"{unit}-{steep}-{lift}" / "run.json", 100.0, act=unit, seed=0,
                experiment=None, config={**CONFIG, "act": act},
            )  # fmt: skip
    runs, _ = find_runs([tmp_path])
    (nah,) = [run for run in runs if run.settings["act"] == "nah"]
    assert "act.settings.steep" not in nah.settings
    wanted = conditions("act.settings.steep=3.0,act.settings.lift=0.5", runs)
    assert [run.settings["act"] for run in runs if meets(run, wanted)] == ["arctan"]
    names = [group.name for group in make_groups(runs)]
    assert len(set(names)) == 5
    grid = [
        f"arctan, act.settings.steep={steep}, act.settings.lift={lift}"
        for steep in (1, 3) for lift in (0.5, 1)
    ]  # fmt: skip
    assert sorted(names) == [*grid, "nah"]
    # In a report numbers are in the order of numbers, what has none before what has one.
    report = average([tmp_path])
    assert [group.name for group in report.groups] == [*grid, "nah"]
    report = average([tmp_path], baseline="act=nah", by=["act.settings.lift", "act.settings.steep"])
    assert [tuple(group.settings.values()) for group in report.groups] == [
        (None, None), (0.5, 1.0), (0.5, 3.0), (1.0, 1.0), (1.0, 3.0),
    ]  # fmt: skip


def test_a_terminal_has_a_table_for_every_task(folder: Path, make_record: RecordMaker) -> None:
    """With the metrics of each, and what the marks mean."""
    metrics = {"test_nats": {"label": "test cost", "unit": "nats", "direction": "min"}}
    for seed in (0, 1):
        make_record(
            folder / f"other-{seed}" / "run.json", 5.0, task="other", seed=seed, metrics=metrics,
            final={"step": 2, "test_nats": 5.0 + seed}, curve=[], selection="test_nats",
            experiment=None,
        )  # fmt: skip
    runs, _ = find_runs([folder])
    groups = make_groups(runs)
    report = Report(groups, metrics_of(groups, []), find_baseline(groups, None))
    first, second, *_ = to_text(report).split("\n\n")
    heads = [table.splitlines()[0] for table in (first, second)]
    assert sorted("test cost" in head for head in heads) == [False, True]
    assert sorted("perplexity" in head for head in heads) == [False, True]
    assert to_text(report).splitlines()[-1] == (
        "* the best mean; ± half the width of the 95 % interval over seeds."
    )
    assert all(group.name.startswith(group.task) for group in groups)
