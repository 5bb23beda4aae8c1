"""Horizontal lines of figures: the level of a model that has not learned the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noisyexp.tasks.lte.scoring import chance_accuracies
from noisyexp.tasks.ntm_recall.data import chance_nats, query_blind_mean, query_blind_nats
from noisyexp.tasks.unique_count.data import majority_error

Levels = Mapping[str, Mapping[str, float]]
"""Label to value, by metric."""


def counting_levels(task: Mapping[str, Any]) -> Levels:
    """The majority error, and smooth counting at the lengths and values of Table 5."""
    lines = {"majority": majority_error(task["length"], task["num_values"])}
    if (task["length"], task["num_values"]) == (26, 11):
        # Best thresholds on sums of 1 - exp(-a n); tests/tasks/test_unique_count.py.
        lines |= {"smooth counting, a = 0.25": 34.1, "smooth counting, a = 1": 10.3}
    return {"valid_error": lines}


def recall_levels(task: Mapping[str, Any]) -> Levels:
    """Chance, and the best that a machine can do that knows the list and ignores the query."""
    low, high = task["min_items"], task["max_items"]
    blind = {
        "max": query_blind_nats(high), "mix": query_blind_mean(low, high),
        "min": query_blind_nats(low),
    }  # fmt: skip
    return {
        f"valid_nats_{role}": {"chance": chance_nats(), "query ignored": value}
        for role, value in blind.items()
    }


def program_levels(task: Mapping[str, Any]) -> Levels:
    """The most frequent character at each place of the output, given the one before it."""
    chance = chance_accuracies((task["target_length"], task["target_nesting"]))
    return {"target_acc": {"place and last character": chance["previous"]}}
