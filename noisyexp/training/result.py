"""The result of a run: its test metrics, measured once, with the weights of the chosen epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyexp.activations import set_noise_level
from noisyexp.errors import CheckpointError, DivergedError
from noisyexp.fileio import explain_read
from noisyexp.training import checkpoint
from noisyexp.training.callbacks import Evaluate
from noisyexp.training.older import load_model
from noisyexp.training.trainer import Trainer


def best_epoch(trainer: Trainer) -> dict[str, float]:
    """The best epoch so far, empty when none could be measured."""
    return next(c for c in trainer.callbacks if isinstance(c, Evaluate)).best


def final_metrics(trainer: Trainer, folder: Path, digest: str) -> dict[str, Any]:
    """Row of the chosen epoch with the test metrics of its weights.

    Args:
        trainer: at the end of its run.
        folder: of the run, with its checkpoints.
        digest: hash of its configuration.

    Raises:
        DivergedError: nothing can be measured with these weights.
        CheckpointError: those of the best epoch are missing or damaged.
    """
    row = trainer.curve[-1]
    _check_measured(trainer, row)
    if trainer.config.use_weights == "best":
        row = _load_best(trainer, folder, digest)
        if "c" in row:  # annealed: the noise belongs to the weights
            set_noise_level(trainer.model, row["c"])
    return {**row, **trainer.evaluate(trainer.task.test)}


def _check_measured(trainer: Trainer, last: Mapping[str, Any]) -> None:
    """Weights with which nothing can be measured have diverged, though every loss was finite."""
    metric = trainer.task.selection
    value = last.get(metric, math.nan)
    unusable = trainer.config.use_weights == "last" and not math.isfinite(value)
    if not best_epoch(trainer) or unusable:
        raise DivergedError(trainer.step, trainer.learning_rate, None, None, metric)


def _load_best(trainer: Trainer, folder: Path, digest: str) -> dict[str, Any]:
    """Take the weights of the best epoch; returns its row of the curve."""
    path = folder / checkpoint.BEST
    again = (
        f"training.use_weights=best needs it. Delete {folder} to start this run from the beginning."
    )
    try:
        best = checkpoint.load(path, trainer.device, digest)
        if best.get("step") != best_epoch(trainer)["step"]:
            raise CheckpointError(f"{path} is of step {best.get('step')}, the best is another")
        load_model(trainer.model, best["model"])
    except FileNotFoundError as error:
        # Never fall back to the last weights in silence: a table would mix the two.
        raise CheckpointError(f"{path} is missing, and training.use_weights=best") from error
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {again}") from error
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit this run: {explain_read(error)}; {again}"
        ) from error
    return next(row for row in trainer.curve if row["step"] == best["step"])
