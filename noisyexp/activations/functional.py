"""The equations of "Noisy Activation Functions" (Gulcehre et al., 2016), one function each.

Notation, as in the paper:

    x       input of the unit, any shape (..., num_units)
    u(x)    linearisation of the soft unit around 0                      Eq 1, 2
    h(x)    hard unit: u clipped to the range of the soft unit           Eq 3, 4
    Delta   h(x) - u(x): zero inside the linear range                    Eq 8
    sigma   scale of the noise, c (g(p Delta) - 1/2)^2, g the logistic   Eq 9
    d(x)    -sgn(x) sgn(1 - alpha): the side that the noise pushes to    Eq 12
    xi      standard normal draw, shape of x
    alpha   weight of the hard unit against its linearisation            Eq 11
    p       learned scale inside g, shape () or (num_units,); c a number

Every function broadcasts, keeps the dtype of x, and is differentiable in x and p. Where the
authors' released code differs from the paper, `code_compat=True` gives the formula of the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

HALF_NORMAL_MEAN = math.sqrt(2.0 / math.pi)
"""E|xi| for a standard normal xi, the constant of Eq 13."""

HALF_NORMAL_MEAN_CODE = 0.797
"""The rounded constant in the authors' released code."""


@dataclass(frozen=True)
class Kind:
    """One saturating unit: slope x + offset, clipped to [low, high] from |x| = threshold on."""

    name: str
    slope: float
    offset: float
    low: float
    high: float
    threshold: float


TANH = Kind("tanh", slope=1.0, offset=0.0, low=-1.0, high=1.0, threshold=1.0)
SIGMOID = Kind("sigmoid", slope=0.25, offset=0.5, low=0.0, high=1.0, threshold=2.0)
KINDS = {kind.name: kind for kind in (TANH, SIGMOID)}


FAR = 1e18
"""Where |Delta| and |x| of infinite inputs are put: 0 times infinity would be NaN, where values and
gradients have limits."""


def linear(x: Tensor, kind: Kind) -> Tensor:
    """u(x), the first-order Taylor expansion of the soft unit around 0 (Eq 1 and 2)."""
    return x if kind.slope == 1.0 and kind.offset == 0.0 else kind.slope * x + kind.offset


def hard(x: Tensor, kind: Kind) -> Tensor:
    """h(x), the hard unit (Eq 3 and 4).

    This is not `torch.nn.functional.hardsigmoid`, whose slope is 1/6 and threshold 3. At |x| equal
    to the threshold the slope is that of u, as in the authors' code (the paper leaves it open).
    """
    return linear(x, kind).clamp(kind.low, kind.high)


def delta(x: Tensor, kind: Kind) -> Tensor:
    """Delta(x) = h(x) - u(x), zero inside the linear range (Eq 8)."""
    return hard(x, kind) - linear(x, kind)


def noise_scale(excess: Tensor, p: Tensor, c: float) -> Tensor:
    """sigma(x) = c (g(p Delta) - 1/2)^2 for excess = Delta (Eq 9). At most c/4, even in p.

    Computed in float32 at least: the square of a half-precision difference keeps few digits.
    """
    if excess.dtype in (torch.float16, torch.bfloat16):
        excess, p = excess.float(), p.float()
    return c * (torch.sigmoid(p * excess.clamp(-FAR, FAR)) - 0.5).square()


def direction(x: Tensor, alpha: float) -> Tensor:
    """d(x) = -sgn(x) sgn(1 - alpha) with sgn(0) = +1 (Eq 12).

    The convention matters: with sgn(0) = 0 the noise would vanish at alpha = 1.
    """
    side = 1.0 if alpha > 1.0 else -1.0
    return torch.where(x >= 0, side, -side).to(x.dtype)


def leaky(x: Tensor, kind: Kind, alpha: float) -> Tensor:
    """The part alpha h(x) + (1 - alpha) u(x) of Eq 11, without noise.

    Beyond the thresholds its slope is (1 - alpha) times that of u: a leak outwards for alpha < 1.
    For alpha > 1 the unit folds back; tanh with alpha = 1.15 is 0 again at |x| = 7.67.
    """
    return (
        hard(x, kind) if alpha == 1.0 else alpha * hard(x, kind) + (1.0 - alpha) * linear(x, kind)
    )


def nan(
    x: Tensor,
    xi: Tensor,
    p: Tensor,
    kind: Kind,
    *,
    alpha: float,
    c: float,
    code_compat: bool = False,
) -> Tensor:
    """NAN, normal noise: alpha h + (1 - alpha) u + d(x) sigma(x) xi (Eq 12).

    The authors' code pushes to -sgn(x) for every alpha, so that its xi has the other sign for
    alpha > 1; in distribution the two are the same.
    """
    side = direction(x, 1.0 if code_compat else alpha)
    noise = side * noise_scale(delta(x, kind), p, c) * xi
    return (leaky(x, kind, alpha) + noise).to(x.dtype)


def nan_expected(x: Tensor, kind: Kind, *, alpha: float) -> Tensor:
    """NAN at test time: E[xi] = 0 leaves alpha h + (1 - alpha) u."""
    return leaky(x, kind, alpha)


def nah(x: Tensor, xi: Tensor, p: Tensor, kind: Kind, *, alpha: float, c: float) -> Tensor:
    """NAH, half-normal noise: alpha h + (1 - alpha) u + d(x) sigma(x) |xi| (Algorithm 1)."""
    noise = direction(x, alpha) * noise_scale(delta(x, kind), p, c) * xi.abs()
    return (leaky(x, kind, alpha) + noise).to(x.dtype)


def nah_expected(
    x: Tensor, p: Tensor, kind: Kind, *, alpha: float, c: float, code_compat: bool = False
) -> Tensor:
    """NAH at test time: |xi| becomes its mean sqrt(2/pi) (Eq 13; 0.797 in the authors' code)."""
    mean = HALF_NORMAL_MEAN_CODE if code_compat else HALF_NORMAL_MEAN
    noise = direction(x, alpha) * noise_scale(delta(x, kind), p, c) * mean
    return (leaky(x, kind, alpha) + noise).to(x.dtype)


def nani(x: Tensor, xi: Tensor, kind: Kind, *, sigma: float) -> Tensor:
    """NANI, noise at the input: h(x + sigma xi) with a fixed sigma (Eq 14)."""
    return hard(x + sigma * xi.to(x.dtype), kind)


def nanil(
    x: Tensor, xi: Tensor, p: Tensor, kind: Kind, *, c: float, code_compat: bool = False
) -> Tensor:
    """NANIL, learned noise at the input: h(x + sigma(x) xi) with sigma of Eq 9 in Eq 14.

    The authors' code takes sigma = c softplus(p |Delta| / (|xi| + 1e-10)) instead. It is noisy in
    the linear range too, grows with |Delta| without bound, and depends on the sign of p.
    """
    if code_compat:
        if x.dtype != torch.float16:  # whose largest number is far below
            x = x.clamp(-FAR, FAR)
        sigma = c * softplus(p * delta(x, kind).abs() / (xi.abs() + 1e-10))
    else:
        sigma = noise_scale(delta(x, kind), p, c)
    return hard(x + (sigma * xi).to(x.dtype), kind)


def nanis(x: Tensor, xi: Tensor, kind: Kind, *, sigma: float) -> Tensor:
    """NANIS, noise at the input of saturated units only: h(x + 1[|x| >= x_t] sigma xi) (Eq 15).

    No gradient flows through the indicator. The authors' sigmoid of this name adds where it should
    multiply and is not reproduced.
    """
    saturated = (x.detach().abs() >= kind.threshold).to(x.dtype)
    return hard(x + saturated * sigma * xi.to(x.dtype), kind)


def penalized_tanh(x: Tensor, slope: float = 0.25) -> Tensor:
    """tanh(x) for x > 0, slope tanh(x) else. Not in the paper.

    Xu et al. (2016), Revise Saturated Activation Functions; slope 1/4 as in Eger et al. (2018).
    """
    value = torch.tanh(x)
    return torch.where(x > 0, value, slope * value)
