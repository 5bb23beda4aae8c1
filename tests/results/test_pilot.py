"""Pilot pages: the columns are what differs, the numbers those of the curves."""

from __future__ import annotations

from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.results.pilot import pilot_page, settings
from noisyexp.results.records import Record, load_record


def _record(make_record: Any, lr: float, values: list[float], **changes: Any) -> Record:
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
    page = pilot_page("ptb", records, "valid_ppl", "make it")
    table = [line for line in page.splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert heads == ["training.lr", "seed", *(f"{100 * k:,}" for k in range(1, 13)), "s/update"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert rows[0][:-1] == ["0.01", "0", *(f"{60 - k}.00" for k in range(6)), *"------"]
    assert rows[1][:-1] == ["0.1", "0", *(f"{60 - k}.00" for k in range(12))]


def test_noisy_arms_are_no_part_of_a_pilot(make_record: Any) -> None:
    records = [_record(make_record, 0.1, [1.0], act="nah")]
    with pytest.raises(RecordError, match="reference arm alone"):
        pilot_page("ptb", records, "valid_ppl", "make it")
    with pytest.raises(RecordError, match="no run"):
        pilot_page("ptb", [_record(make_record, 0.1, [1.0])], "absent", "make it")
