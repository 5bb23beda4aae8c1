"""Time and memory of attention with noise in its score, against the soft tanh: `make bench`.

The decoder steps of one update at two sizes, forward and backward, nothing of the decoder but the
attention itself. The arms take turns in one process with one thread; medians of its processor time
are quoted, which is the time on the clock of an idle machine. Writes
results/bench/attention.{json,md}.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import held_mib, write_result
from benchmarks.pages import attention_page
from noisyexp.activations import ActivationSpec
from noisyexp.nn.attention import AdditiveAttention
from noisyexp.nn.shared import shared_weights
from noisyexp.training.memory import keep_freed_memory

SIZES = {
    "translation": {"batch": 32, "positions": 30, "units": 512, "steps": 30, "learned": True},
    "captioning": {"batch": 64, "positions": 196, "units": 512, "steps": 13, "learned": False},
}
ARMS = ("reference", "hard", "nah", "nani", "nanil", "nah plain")
PLAIN_ROUNDS = 2
"""The plain form takes its turn in this many rounds only: it is slow and needs gigabytes."""
SETTINGS: dict[str, dict[str, Any]] = {
    "nah": {"alpha": 1.15, "c": 0.5}, "nani": {"c": 0.05}, "nanil": {"c": 0.5}
}  # fmt: skip
KEY_SCALE = 0.7
"""Standard deviation of the keys: with the queries, a quarter of the units saturates."""


def make(arm: str, units: int) -> AdditiveAttention:
    """The attention of one arm."""
    torch.manual_seed(0)
    variant = arm.split()[0]
    spec = ActivationSpec(variant, SETTINGS.get(variant, {}))
    attention = AdditiveAttention(units, units, spec)
    if arm.endswith("plain"):
        attention.unit.backend = "eager"
    return attention


def make_inputs(size: dict[str, int]) -> dict[str, Tensor]:
    """Queries (T, B, A), keys (B, S, A) and annotations (B, S, A).

    The annotations of translation are learned; those of captioning are features of images.
    """
    torch.manual_seed(1)
    batch, positions, units = size["batch"], size["positions"], size["units"]
    found = {
        "queries": torch.randn(size["steps"], batch, units),
        "keys": KEY_SCALE * torch.randn(batch, positions, units),
        "annotations": torch.randn(batch, positions, units),
    }
    for name, tensor in found.items():
        tensor.requires_grad_(name != "annotations" or bool(size["learned"]))
    return found


def contexts(attention: AdditiveAttention, inputs: dict[str, Tensor]) -> Tensor:
    """All steps, (T, B, A); the keys come from a layer, as they do in a model."""
    keys = inputs["keys"].view_as(inputs["keys"])
    with shared_weights():
        steps = [attention(query, keys, inputs["annotations"])[0] for query in inputs["queries"]]
    return torch.stack(steps)


def one_pass(attention: AdditiveAttention, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Milliseconds of processor time, forward and both ways."""
    attention.zero_grad(set_to_none=True)
    for tensor in inputs.values():
        tensor.grad = None
    began = time.process_time()
    output = contexts(attention, inputs)
    middle = time.process_time()
    output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]
    end = time.process_time()
    return {"forward_ms": 1000 * (middle - began), "both_ms": 1000 * (end - began)}


def held_for_backward(attention: AdditiveAttention, inputs: dict[str, Tensor]) -> float:
    """MiB that backward through all steps needs, without parameters and inputs."""
    known = [*attention.parameters(), *inputs.values()]
    return held_mib(lambda: contexts(attention, inputs), known)


def measure(size: dict[str, int], rounds: int) -> dict[str, Any]:
    """One row of the page: times and memory by arm, and the share of saturated units."""
    inputs = make_inputs(size)
    attentions = {arm: make(arm, size["units"]) for arm in ARMS}
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for turn in range(rounds + 1):
        for arm, attention in attentions.items():
            if turn > PLAIN_ROUNDS and arm.endswith("plain"):
                continue
            times = one_pass(attention, inputs)
            if turn:  # the first round warms up
                found[arm].append(times)
    with torch.no_grad():
        q = attentions["hard"].query(inputs["queries"][0])
        saturated = ((inputs["keys"] + q.unsqueeze(1)).abs() > 1.0).float().mean()
    return {
        **size,
        "saturated": float(saturated),
        "times": {
            arm: {part: statistics.median(t[part] for t in values) for part in values[0]}
            for arm, values in found.items()
        },
        "held_mib": {arm: held_for_backward(attentions[arm], inputs) for arm in ARMS},
    }


def main(rounds: int = 7) -> int:
    """Measure, print and write results/bench/attention.{json,md}."""
    keep_freed_memory()  # as a run does
    torch.set_num_threads(1)
    write_result(
        "attention",
        attention_page,
        rounds={"plain": PLAIN_ROUNDS, "others": rounds},
        sizes={name: measure(size, rounds) for name, size in SIZES.items()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
