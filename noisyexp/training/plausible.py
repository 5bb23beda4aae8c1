"""Whether the state in a checkpoint can be that of a run, before anything of it is used.

A file with a right digest may still be of a run that was set up otherwise, and older checkpoints
have no digest. Shapes of weights are left to `load_state_dict` of the model, which compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from noisyexp.training.callbacks import Evaluate
from noisyexp.training.optimizer import names_kept

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

PARTS: dict[str, Any] = {
    "step": int, "epoch": int, "stop": bool, "sums": Mapping, "curve": list,
    "train_seconds": (int, float), "model": Mapping, "optimizer": Mapping, "scaler": Mapping,
    "task": Mapping, "callbacks": Mapping,
}  # fmt: skip
SETTINGS = ("momentum", "weight_decay", "eps", "betas", "alpha", "rho", "decay")
"""Of an optimiser, which never change during a run."""


def problem(trainer: Trainer, state: Mapping[str, Any]) -> str | None:
    """What is wrong with `state` as one of `trainer`; None for nothing."""
    for name, kind in PARTS.items():
        value = state.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return f"{name} is {type(value).__name__}" if name in state else f"{name} is missing"
    try:
        return next(chain(_of_counts(trainer, state), _of_optimizer(trainer, state)), None)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of another kind, deeper in
        return f"{type(error).__name__}: {error}"


def _of_counts(trainer: Trainer, state: Mapping[str, Any]) -> Iterator[str]:
    """Steps, epochs, the curve and its best row, which say the same thing several times."""
    step, epoch, curve = state["step"], state["epoch"], state["curve"]
    last = trainer.total_steps
    if not 0 <= step <= last:
        yield f"step {step} of {last}"
        return
    if not 0 <= epoch <= trainer.config.epochs:
        yield f"epoch {epoch} of {trainer.config.epochs}"
        return
    starts = [min(n * trainer.task.steps_per_epoch, last) for n in (epoch, epoch + 1)]
    if not starts[0] <= step <= starts[1]:
        yield f"step {step} in epoch {epoch + 1}, which has steps {starts[0]} to {starts[1]}"
    if len(curve) != epoch:
        yield f"a curve of {len(curve)} rows after {epoch} epochs"
        return
    for number, row in enumerate(curve, 1):
        at = min(number * trainer.task.steps_per_epoch, last)
        if not isinstance(row, Mapping) or (row.get("step"), row.get("epoch")) != (at, number):
            yield f"row {number} of the curve is not that of step {at}"
            return
        if not all(value is None or isinstance(value, int | float) for value in row.values()):
            yield f"row {number} of the curve holds more than numbers"
            return
    if state["stop"] and not curve:
        yield "training has ended before its first epoch"
    if not (math.isfinite(state["train_seconds"]) and state["train_seconds"] >= 0):
        yield f"train_seconds={state['train_seconds']}"
    if not all(isinstance(value, int | float) for value in state["sums"].values()):
        yield "sums of an epoch that are no numbers"
    yield from _of_best(trainer, state)


def _of_best(trainer: Trainer, state: Mapping[str, Any]) -> Iterator[str]:
    if not any(isinstance(callback, Evaluate) for callback in trainer.callbacks):
        return
    kept = state["callbacks"].get("Evaluate")
    best = kept.get("best") if isinstance(kept, Mapping) else None
    if not isinstance(best, Mapping):
        yield "the best epoch is not named"
        return
    key = trainer.task.selection
    measured = [row for row in state["curve"] if isinstance(row.get(key), int | float)]
    if best:
        same = [row for row in measured if row["step"] == best.get("step")]
        if not same or same[0][key] != best.get(key):
            yield "the best epoch is not in the curve"
    elif any(math.isfinite(row[key]) for row in measured):
        yield "the best epoch is not named"


def _of_optimizer(trainer: Trainer, state: Mapping[str, Any]) -> Iterator[str]:
    optimizer, kept = trainer.optimizer, state["optimizer"]
    groups, states = kept.get("param_groups"), kept.get("state")
    if not isinstance(groups, list) or not isinstance(states, Mapping):
        yield "optimizer has no groups or no state"
        return
    held: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    places = [place for group in groups for place in group.get("params", [])]
    if len(groups) != len(optimizer.param_groups) or len(places) != len(held):
        yield f"an optimiser of {len(places)} weights; this one has {len(held)}"
        return
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        rate = group.get("lr")
        if not isinstance(rate, int | float) or not math.isfinite(rate) or rate < 0:
            yield f"a learning rate of {rate}"
        for name in SETTINGS:
            if name in own and name in group and group[name] != own[name]:
                yield f"an optimiser with {name}={group[name]}; this run has {own[name]}"
    names = names_kept(optimizer)
    weights = dict(zip(places, held, strict=True))
    # In half precision the first updates may have been skipped.
    if names and state["step"] and not states and not trainer.scaler.is_enabled():
        yield f"an optimiser that knows nothing after {state['step']} updates"
    for place, values in states.items():
        if place not in weights or not isinstance(values, Mapping):
            yield f"the optimiser has a state for weight {place}"
            continue
        size = weights[place].shape
        for name in sorted(names):
            value = values.get(name)
            # A p of shape () was kept so by older versions; counters have no shape of their own.
            fits = isinstance(value, Tensor) and (value.shape == size or value.dim() == 0)
            if not fits and not (name == "step" and isinstance(value, int | float)):
                yield f"the optimiser's {name} of weight {place} is missing or of another shape"
