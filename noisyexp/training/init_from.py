"""Starting a run from the weights of another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from noisyexp.activations import noise_parameters
from noisyexp.activations.base import EXTRA_STATE
from noisyexp.errors import CheckpointError
from noisyexp.training import checkpoint
from noisyexp.training.load import find_trained
from noisyexp.training.older import load_model

DIGITS = 16


@cache
def weights_digest(place: str) -> str:
    """What tells the weights of a run from others: a part of the configuration's hash.

    Args:
        place: run folder or name of published weights, see `find_trained`.

    Raises:
        RecordError, CheckpointError: there are none.
    """
    return _digest(find_trained(place).model)


def _digest(state: Mapping[str, Any]) -> str:
    return checkpoint.digest(dict(sorted(_weights(state).items())))[:DIGITS]


def _weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without the settings of units: a run has those of its own configuration."""
    return {key: value for key, value in state.items() if not key.endswith(EXTRA_STATE)}


def start_from(model: nn.Module, place: str, wanted: str | None) -> None:
    """Put the weights of another run into `model`.

    The p of noisy units may be missing there, as after a run of reference units: it then stays as
    it was drawn. Those that the model does not have are left out.

    Args:
        model: of the new run.
        place: see `weights_digest`.
        wanted: digest of the weights; None for any.

    Raises:
        CheckpointError: they are of another model, or not those that the run was configured with.
    """
    found = find_trained(place).model
    if wanted is not None and _digest(found) != wanted:
        raise CheckpointError(
            f"init_from={place}: its weights changed since the run was configured"
        )
    own = _weights(model.state_dict())
    free = {id(p) for p in noise_parameters(model)}
    noise = {name for name, p in model.named_parameters() if id(p) in free}
    given = {key: value for key, value in _weights(found).items() if key in own or not _is_p(key)}
    wrong = [_difference(key, own, given) for key in sorted(own.keys() | given.keys())
             if _shape(own, key) != _shape(given, key)
             and not (key in noise and key not in given)]  # fmt: skip
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"init_from={place}: weights of another model: {'; '.join(wrong[:3])}{more}. "
            "Task, sizes and layers have to be those of that run"
        )
    load_model(model, {**own, **given})


def _is_p(key: str) -> bool:
    return key.rpartition(".")[2] == "p"


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _difference(key: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    mine, theirs = _shape(own, key), _shape(given, key)
    if mine is None:
        return f"{key} is there and not in this model"
    return f"{key} is missing there" if theirs is None else f"{key} is {theirs} there, {mine} here"
