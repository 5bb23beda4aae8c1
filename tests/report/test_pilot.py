"""Pilot pages: the columns are what differs, the numbers those of the curves."""

from __future__ import annotations

from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.records.record_files import load_record
from noisyexp.records.run_record import RunRecord
from noisyexp.report.pilot import pilot_page, settings


def _record(make_record: Any, lr: float, values: list[float], **changes: Any) -> RunRecord:
    config = {"seed": 0, "training": {"lr": lr, "optimizer": "adam"}, "run_root": f"x{lr}"}
    curve = [{"step": 100 * (k + 1), "valid_ppl": v} for k, v in enumerate(values)]
    return load_record(
        make_record(**{"act": "reference", "config": config, "curve": curve, **changes})
    )


def test_settings_are_flat_and_leave_out_what_names_a_run() -> None:
    config = {"seed": 3, "run_root": "r", "row": {"x": 1}, "task": {"a": 1, "b": {"c": [2]}}}
    assert settings(config) == {"task.a": 1, "task.b.c": [2]}


def test_page_has_what_differs_and_the_metric_over_training(make_record: Any) -> None:
    long = [float(60 - k) for k in range(12)]
    records = [_record(make_record, 0.1, long), _record(make_record, 0.01, long[:6])]
    page = pilot_page("pilot", "ptb", records, "valid_ppl", "make it")
    table = [line for line in page.splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert heads == ["training.lr", "seed", *(f"{100 * k:,}" for k in range(1, 13)), "s/update"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert rows[0][:-1] == ["0.01", "0", *(f"{60 - k}.00" for k in range(6)), *"------"]
    assert rows[1][:-1] == ["0.1", "0", *(f"{60 - k}.00" for k in range(12))]


def test_noisy_arms_are_no_part_of_a_pilot(make_record: Any) -> None:
    records = [_record(make_record, 0.1, [1.0], act="nah")]
    with pytest.raises(RecordError, match="reference arm alone"):
        pilot_page("pilot", "ptb", records, "valid_ppl", "make it")
    with pytest.raises(RecordError, match="no run"):
        pilot_page("pilot", "ptb", [_record(make_record, 0.1, [1.0])], "absent", "make it")


def test_grid_names_the_best_run_of_each_arm(make_record: Any) -> None:
    """Keys that change together are one column; the kept weights decide, not the curve's end."""
    records = []
    for act, c, values, kept in (
        ("nani", 0.1, [5.0, 3.0], 3.0), ("nani", 0.5, [4.0, 2.5], 2.0), ("nanis", 0.1, [6.0], 6.0)
    ):  # fmt: skip
        config = {
            "seed": 0,
            "act": {"label": act.upper(), "variant": act, "c": c, "tanh": {"c": c}},
        }
        curve = [{"step": 100 * (k + 1), "valid_ppl": v} for k, v in enumerate(values)]
        records.append(
            load_record(
                make_record(
                    act=act, config=config, curve=curve, final={"step": 900, "valid_ppl": kept},
                )
            )
        )  # fmt: skip
    page = pilot_page("grid", "ptb", records, "valid_ppl", "make it")
    assert "| act.c | act.label | seed | " in page
    assert "- Best of 2 with nani: act.c 0.5, act.label NANI, validation perplexity 2.0000" in page
    assert (
        "- Best of 1 with nanis: act.c 0.1, act.label NANIS, validation perplexity 6.0000" in page
    )
    with pytest.raises(RecordError, match="a grid has no run of the reference"):
        pilot_page("grid", "ptb", [_record(make_record, 0.1, [1.0])], "valid_ppl", "make it")
