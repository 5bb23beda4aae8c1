"""The authors' RMSProp and Adam against their formulas, computed by hand in plain numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from noisyexp.training.config import TrainingConfig
from noisyexp.training.optimizer import build_optimizer
from noisyexp.training.original_optimizers import GravesRMSprop, UncorrectedAdam

GRADIENTS = [0.5, -2.0, 0.003, 0.0, 40.0]


def run(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[float]:
    values = []
    for gradient in GRADIENTS:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        values.append(float(parameter.detach()[0]))
    return values


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(3, dtype=torch.float64))


def test_rmsprop_by_hand() -> None:
    """eps is inside the root, the variance is centred, the step is inside the velocity."""
    theta, n, m, v, expected = 1.0, 0.0, 0.0, 0.0, []
    for g in GRADIENTS:
        n = 0.95 * n + 0.05 * g * g
        m = 0.95 * m + 0.05 * g
        v = 0.9 * v - 1e-4 * g / math.sqrt(n - m * m + 1e-4)
        theta += v
        expected.append(theta)
    p = weight()
    assert run(GravesRMSprop([p]), p) == pytest.approx(expected, rel=1e-12)
    # torch's own has eps beside the root: 1e-4 against 1e-2 for a gradient of nearly nothing.
    q = weight()
    own = torch.optim.RMSprop([q], 1e-4, 0.95, 1e-4, momentum=0.9, centered=True)
    assert run(own, q) != pytest.approx(expected, rel=1e-6)


def test_rounding_makes_no_variance_negative() -> None:
    """Equal gradients of 1e4: n - m^2 is 0, by rounding below -1e-4, of which there is no root."""
    p = nn.Parameter(torch.full((64,), 1.0))
    optimizer = GravesRMSprop([p])
    lowest = 0.0
    for step in range(600):
        p.grad = torch.linspace(1e4, 2e4, 64)
        optimizer.step()
        n, m = (optimizer.state[p][name] for name in ("square", "mean"))
        lowest = min(lowest, float((n - m * m).min()))
        assert bool(p.isfinite().all()), step
    assert lowest < -1e-4


def test_adam_by_hand() -> None:
    theta, m, v, expected = 1.0, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        rate = 2e-4 * math.sqrt(1 - 0.001**t) / (1 - 0.1**t)
        theta -= rate * m / (math.sqrt(v) + 1e-8)
        expected.append(theta)
    p = weight()
    assert run(UncorrectedAdam([p]), p) == pytest.approx(expected, rel=1e-12)


def test_the_first_step_of_adam_is_three_and_a_half_times_the_usual() -> None:
    """sqrt(0.999) / 0.9 * 0.1 / sqrt(0.001) = 3.512 where torch has 1."""
    steps = []
    for kind in (UncorrectedAdam, torch.optim.Adam):
        p = weight()
        optimizer = kind([p], lr=2e-4)
        p.grad = torch.full_like(p, 0.7)
        optimizer.step()
        steps.append(1 - float(p.detach()[0]))
    assert steps[0] / steps[1] == pytest.approx(3.512, abs=0.001)


@pytest.mark.parametrize("kind", [GravesRMSprop, UncorrectedAdam])
def test_weight_decay_is_added_to_the_gradient(kind: type[torch.optim.Optimizer]) -> None:
    p, q = weight(), weight()
    decayed, plain = kind([p], weight_decay=0.1), kind([q])  # type: ignore[call-arg]
    p.grad, q.grad = torch.full_like(p, 0.5), torch.full_like(q, 0.6)
    decayed.step()
    plain.step()
    assert torch.equal(p, q)
    p.grad = None  # a parameter without a gradient stays
    decayed.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("kind", [GravesRMSprop, UncorrectedAdam])
def test_state_goes_through_a_checkpoint(kind: type[torch.optim.Optimizer]) -> None:
    """Two steps, saved, and two more by another optimiser, bit for bit; plain types alone."""

    def advance(optimizer: torch.optim.Optimizer, p: nn.Parameter, gradients: list[float]) -> None:
        for gradient in gradients:
            p.grad = torch.full_like(p, gradient)
            optimizer.step()

    p = weight()
    optimizer = kind([p])  # type: ignore[call-arg]
    advance(optimizer, p, GRADIENTS[:2])
    q = nn.Parameter(p.detach().clone())
    other = kind([q])  # type: ignore[call-arg]
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(optimizer, p, GRADIENTS[2:])
    advance(other, q, GRADIENTS[2:])
    assert torch.equal(p, q)
    assert all(isinstance(v, torch.Tensor) for v in optimizer.state_dict()["state"][0].values())


def test_chosen_by_name(make_training: Callable[..., TrainingConfig]) -> None:
    model = nn.Linear(2, 1)
    settings = {"rms_decay": 0.95, "rms_eps": 1e-4, "momentum": 0.9, "lr": 1e-4}
    made = build_optimizer(model, make_training(optimizer="graves_rmsprop", **settings))
    assert isinstance(made, GravesRMSprop)
    group = made.param_groups[0]
    assert [group[k] for k in ("lr", "decay", "momentum", "eps")] == [1e-4, 0.95, 0.9, 1e-4]
    made = build_optimizer(model, make_training(optimizer="uncorrected_adam", lr=2e-4))
    assert isinstance(made, UncorrectedAdam) and made.param_groups[0]["lr"] == 2e-4
    with pytest.raises(AssertionError, match="uncorrected_adam has none"):
        make_training(optimizer="uncorrected_adam", momentum=0.5)
