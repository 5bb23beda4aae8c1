"""Points of three Gaussians in the plane, and the best that a classifier can do."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.tasks.classification.examples import Examples

MEANS = ((-3.0, 0.0), (0.0, 3.0), (3.0, 0.0))
DEVIATIONS = (0.5, 0.8, 1.2)
"""Of both coordinates, which are independent."""
CLASSES = len(MEANS)
DIMENSIONS = 2


def points(split: str, size: int) -> Examples:
    """`size` points, each of a component drawn with equal chances; the same for every seed."""
    generator = torch.Generator().manual_seed(derive_seed("mixture", split))
    labels = torch.randint(CLASSES, (size,), generator=generator)
    xi = torch.randn(size, DIMENSIONS, generator=generator)
    deviations = torch.tensor(DEVIATIONS)[labels].unsqueeze(1)
    return Examples(torch.tensor(MEANS)[labels] + deviations * xi, labels)


def log_densities(x: Tensor) -> Tensor:
    """Logarithm of (1/3) N(x; mean, deviation^2) for each component, less log 2 pi: (..., 3).

    Args:
        x: (..., 2).
    """
    means, deviations = x.new_tensor(MEANS), x.new_tensor(DEVIATIONS)
    squares = (x.unsqueeze(-2) - means).square().sum(-1)
    return -squares / (2 * deviations.square()) - 2 * deviations.log() - math.log(CLASSES)


@cache
def best_possible() -> tuple[float, float]:
    """Expected NLL in nats and accuracy in percent of the classifier that knows the law.

    Integrals over the plane by sums on a grid of spacing 0.02 that reaches seven deviations of the
    widest component beyond all means; the fourth digit of the accuracy is exact.
    """
    step, reach = 0.02, 7 * max(DEVIATIONS)
    axes = [
        torch.arange(
            min(mean[k] for mean in MEANS) - reach,
            max(mean[k] for mean in MEANS) + reach,
            step,
            dtype=torch.float64,
        )
        for k in range(DIMENSIONS)
    ]
    nll = right = 0.0
    for value in axes[0]:  # line by line: the whole grid would take 100 MB
        x = torch.stack([value.expand_as(axes[1]), axes[1]], -1)
        joint = log_densities(x)
        density = joint.exp() * step**2 / (2 * math.pi)
        nll -= float((density * joint.log_softmax(-1)).sum())
        right += float(density.amax(-1).sum())
    return nll, 100 * right
