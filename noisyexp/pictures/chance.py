"""Horizontal lines of figures: what predictors reach that have not learned the task."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

from noisyexp.records.run_record import RunRecord
from noisyexp.tasks import find_task


def chance_levels(record: RunRecord) -> Mapping[str, Mapping[str, float]]:
    """Value by metric of the curve and name of the predictor.

    Records of older versions lack it: it follows from their configuration.
    """
    task = record.config["task"]
    return record.chance or find_task(task["name"]).chance(SimpleNamespace(**task))
