"""Steps of torch's optimisers, and of the authors', by the compiled kernels: one pass over memory.

The optimiser keeps its settings and its state, so that a run may change between this and its own
step at any update. Both give the same bits where torch rounds as the kernels do; a test compares.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels import dispatch
from noisyexp.kernels.optimizers import Rule, TensorUpdate, update
from noisyexp.training.original_optimizers import GravesRMSprop, UncorrectedAdam

Group = Mapping[str, Any]

_NOT_HERE = (
    "amsgrad", "maximize", "capturable", "differentiable", "centered", "nesterov", "dampening",
    "fused",
)  # fmt: skip
"""Options that the kernels do not have."""


@dataclass(frozen=True)
class _Pass:
    """How one optimiser is told to the kernels.

    Attributes:
        rule: for a group's settings.
        states: names of what it remembers of a weight; "momentum_buffer" where there is momentum.
        settings: numbers of `kernels.optimizers.update` for a group.
        correction: step and divisor of a weight by the number of its updates, this one included.
    """

    rule: Callable[[Group], Rule]
    states: tuple[str, ...]
    settings: Callable[[Group], dict[str, float]]
    correction: Callable[[Group, float], tuple[float, float]] = field(
        default=lambda group, updates: (float(group["lr"]), 1.0)
    )


def _mean_square(name: str) -> Callable[[Group], dict[str, float]]:
    """Settings of a rule whose decay of the mean square is the group's `name`."""
    return lambda group: {
        "decay": group[name],
        "rest": 1 - group[name],
        "eps": group["eps"],
        "momentum": group.get("momentum", 0.0),
    }


def _adam(group: Group) -> dict[str, float]:
    b1, b2 = group["betas"]
    return {"mean_rest": 1 - b1, "decay": b2, "rest": 1 - b2, "eps": group["eps"]}


def _adam_correction(group: Group, updates: float) -> tuple[float, float]:
    b1, b2 = group["betas"]
    return float(group["lr"] / (1 - b1**updates)), float((1 - b2**updates) ** 0.5)


def _adamw(group: Group) -> dict[str, float]:
    return {
        **_adam(group), "weight_decay": 0.0, "shrink": 1 - group["lr"] * group["weight_decay"],
    }  # fmt: skip


def _uncorrected_adam(group: Group) -> dict[str, float]:
    b1, b2 = group["betas"]
    return {
        "mean_decay": 1.0 - b1, "mean_rest": b1, "decay": 1.0 - b2, "rest": b2, "eps": group["eps"],
    }  # fmt: skip


_PASSES: dict[type[torch.optim.Optimizer], _Pass] = {
    torch.optim.SGD: _Pass(
        lambda group: Rule.MOMENTUM if group["momentum"] else Rule.SGD,
        ("momentum_buffer",),
        lambda group: {"momentum": group["momentum"]},
    ),
    torch.optim.Adam: _Pass(
        lambda group: Rule.ADAM, ("exp_avg", "exp_avg_sq"), _adam, _adam_correction
    ),
    torch.optim.AdamW: _Pass(
        lambda group: Rule.ADAM, ("exp_avg", "exp_avg_sq"), _adamw, _adam_correction
    ),
    torch.optim.RMSprop: _Pass(
        lambda group: Rule.RMSPROP, ("square_avg", "momentum_buffer"), _mean_square("alpha")
    ),
    torch.optim.Adadelta: _Pass(
        lambda group: Rule.ADADELTA, ("square_avg", "acc_delta"), _mean_square("rho")
    ),
    GravesRMSprop: _Pass(
        lambda group: Rule.GRAVES_RMSPROP, ("square", "mean", "velocity"), _mean_square("decay")
    ),
    UncorrectedAdam: _Pass(
        lambda group: Rule.UNCORRECTED_ADAM,
        ("mean", "square"),
        _uncorrected_adam,
        lambda group, updates: (UncorrectedAdam.rate(group, updates), 1.0),
    ),
}


class _NotHereError(Exception):
    """Why this step is the optimiser's own."""


def step_in_one_pass(optimizer: torch.optim.Optimizer, factor: float) -> bool:
    """One update with all gradients times `factor`, or nothing and False where it cannot be had.

    Gradients stay as they are. The optimiser makes its state itself, in a first step of its own.
    Hooks of `optimizer.step` are not called.

    Args:
        optimizer: any; its own step is right for those that are not known here.
        factor: of all gradients, at most 1.
    """
    found = _PASSES.get(type(optimizer))
    devices = {p.device for group in optimizer.param_groups for p in group["params"]}
    if found is None or not all(dispatch.runs("update", device) for device in devices):
        return False
    try:
        work = [_work_of(optimizer, group, found) for group in optimizer.param_groups]
    except _NotHereError as reason:
        if str(reason):
            warnings.warn(
                f"the optimiser takes torch's own steps, several times slower: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
        return False
    for group, tensors in zip(optimizer.param_groups, work, strict=True):
        settings = {"weight_decay": group["weight_decay"], **found.settings(group)}
        for dtype in (torch.float32, torch.float64):
            rows = [
                _row(optimizer.state.get(p, {}), states, p, gradient, found, group)
                for p, gradient, states in tensors
                if p.dtype == dtype
            ]
            if rows:
                update(found.rule(group), dtype, rows, factor=factor, **settings)
    return True


_Work = list[tuple[Tensor, Tensor, list[Tensor]]]


def _work_of(optimizer: torch.optim.Optimizer, group: Group, found: _Pass) -> _Work:
    """Weights of a group that have a gradient, with it and their state.

    Raises:
        _NotHereError: the kernels cannot do this group; without a message where it is only that
            the state has to be made first.
    """
    options = [name for name in _NOT_HERE if group.get(name)]
    if options or isinstance(group["lr"], Tensor):
        raise _NotHereError(f"option {', '.join(options) or 'lr as a tensor'}")
    names = [n for n in found.states if n != "momentum_buffer" or group["momentum"]]
    work = []
    for p in group["params"]:
        if p.grad is None:
            continue
        if p.grad.layout != torch.strided:
            raise _NotHereError("a sparse gradient")
        state = optimizer.state.get(p, {})
        if any(state.get(name) is None for name in names):
            raise _NotHereError
        states = [state[name] for name in names]
        gradient = p.grad if p.grad.is_contiguous() else p.grad.contiguous()
        for tensor in (p, gradient, *states):
            if tensor.dtype != p.dtype or tensor.dtype not in (torch.float32, torch.float64):
                raise _NotHereError(f"a weight in {tensor.dtype}")
            if not tensor.is_contiguous():
                raise _NotHereError(f"a weight of shape {tuple(p.shape)} is not contiguous")
        work.append((p, gradient, states))
    return work


def _row(
    state: dict[str, Any],
    states: list[Tensor],
    p: Tensor,
    gradient: Tensor,
    found: _Pass,
    group: Group,
) -> TensorUpdate:
    """One weight for the kernel; counts its update where the optimiser counts."""
    updates = 0.0
    if "step" in state:
        state["step"] += 1
        updates = float(state["step"])
    rate, divisor = found.correction(group, updates)
    row = TensorUpdate(
        p.data_ptr(), gradient.data_ptr(), size=p.numel(), rate=rate, divisor=divisor
    )
    for place, tensor in enumerate(states):
        row.state[place] = tensor.data_ptr()
    return row
