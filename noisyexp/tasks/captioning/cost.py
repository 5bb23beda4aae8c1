"""What training minimises: cost of captions, penalty of attention, and REINFORCE (Xu et al. 2015).

As in the released code, whose constants these are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from noisyexp.nn.output import CrossEntropy, linear_cross_entropy
from noisyexp.tasks.captioning.data import Batch
from noisyexp.tasks.captioning.model import Captioner, Sampler, Unrolled

TINY = 1e-8
"""Added to a probability inside the logarithm."""
SAMPLED = 0.5
"""Probability that a batch of hard attention samples; else it uses the weights themselves."""
REWARD_DIVISOR = 10.0
ENTROPY_WEIGHT = 0.002
BASELINE_DECAY = 0.9


class Cost(NamedTuple):
    """Of a batch.

    Attributes:
        loss: to differentiate: mean of `nll` with all that is added.
        nll: (B,), nats of each caption, its end included.
    """

    loss: Tensor
    nll: Tensor


def word_costs(
    model: Captioner, readout: Tensor, targets: Tensor, weight: float = 1.0
) -> CrossEntropy:
    """-ln(p + 1e-8) of every word, and their sum times `weight`.

    Args:
        model: its output layer is used.
        readout: (B, T, E).
        targets: ids, (B, T).
        weight: of each word in the total.
    """
    layer = model.output
    return linear_cross_entropy(
        readout, layer.weight, layer.bias, targets, row_weight=weight, floor=TINY
    )


def doubly_stochastic(alpha: Tensor) -> Tensor:
    """Mean over locations of the sum over the batch of (1 - sum over steps of alpha)^2.

    A location should be looked at once in all. The sum over the batch, where a mean would be
    expected, is the released code's; the penalty grows with the batch.

    Args:
        alpha: (B, T, S).
    """
    return (1.0 - alpha.sum(1)).square().sum(0).mean()


def hard_gradient(alpha: Tensor, used: Tensor, costs: Tensor, baseline: Tensor) -> Tensor:
    """Gradient that hard attention puts at the weights.

    (R_b - baseline) / 10 * used / alpha + 0.002 (ln alpha + 1), with R_b the cost of caption b
    averaged over its steps: REINFORCE with a baseline, and the entropy of the weights.

    Args:
        alpha: (B, T, S).
        used: (B, T, S), the sample, or alpha.
        costs: (B, T), without a graph.
        baseline: running mean of `costs`.

    Returns:
        (B, T, S).
    """
    alpha = alpha.detach().clamp(min=torch.finfo(alpha.dtype).tiny)  # ln 0 has no use
    advantage = (costs.mean(1) - baseline).view(-1, 1, 1) / REWARD_DIVISOR
    return advantage * used.detach() / alpha + ENTROPY_WEIGHT * (alpha.log() + 1.0)


def training_cost(model: Captioner, batch: Batch, penalty: float, total: int | None = None) -> Cost:
    """Cost of captions of one length; draws dropout and samples from torch's generator.

    With hard attention the gradient at the weights is that of `hard_gradient`. The penalty then has
    no effect; where the weights themselves make the context, its gradient through them stays. The
    baseline moves.

    Args:
        model: in training mode.
        batch: captions.
        penalty: weight of `doubly_stochastic`.
        total: captions that the mean is over, where `batch` is a share of them; soft attention.
    """
    if model.shape.attention != "hard":
        out = model(batch.annotations, batch.inputs)
        found = word_costs(model, out.readout, batch.targets, 1.0 / (total or len(batch.targets)))
        loss = found.total
        if penalty:
            loss = loss + penalty * doubly_stochastic(out.alpha)
        return Cost(loss, found.costs.sum(1))
    out = model(batch.annotations, batch.inputs, sampler=Sampler(bool(torch.rand(()) < SAMPLED)))
    loss, costs, _ = word_costs(model, out.readout, batch.targets, 1.0 / len(batch.targets))
    loss = loss + inject(out, costs, model.get_buffer("baseline"))
    with torch.no_grad():
        model.get_buffer("baseline").lerp_(costs.mean(), 1.0 - BASELINE_DECAY)
    return Cost(loss, costs.sum(1))


def inject(out: Unrolled, costs: Tensor, baseline: Tensor) -> Tensor:
    """A zero whose gradient at the weights is that of `hard_gradient`."""
    at_alpha = out.alpha * hard_gradient(out.alpha, out.used, costs, baseline.clone())
    return (at_alpha - at_alpha.detach()).sum()


@torch.no_grad()
def caption_nll(model: Captioner, batch: Batch, generator: torch.Generator) -> Tensor:
    """Nats of each caption, its end included, (B,) float64; the model is in evaluation mode.

    Hard attention samples here too, as in training, and takes its draws from `generator`.

    Args:
        model: in evaluation mode.
        batch: captions, of any lengths: what follows the first end of a row is not counted.
        generator: of the CPU.
    """
    ended = (batch.targets == 0).cumsum(1)
    mask = (ended - (batch.targets == 0).int()) == 0
    sampler = None
    if model.shape.attention == "hard":
        sampler = Sampler(bool(torch.rand((), generator=generator) < SAMPLED), generator)
    out = model(batch.annotations, batch.inputs, None if bool(mask.all()) else mask, sampler)
    return (word_costs(model, out.readout, batch.targets).costs * mask).double().sum(1)
