"""The units of the paper, one class each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noisyexp.activations import functional as F
from noisyexp.activations.base import Activation
from noisyexp.kernels import bindings as K

_QUIET = (K.FORM_HARD, K.MULTIPLIER_MEAN)
_SOFT = (K.FORM_SOFT, K.MULTIPLIER_MEAN)


class Reference(Activation):
    """The soft unit itself: torch.tanh or torch.sigmoid."""

    variant = "reference"
    has_noise = False
    by_torch = True
    kernel_forms = (_SOFT, _SOFT)
    # No setting changes it: its state dict is that of torch's modules, both ways.
    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state

    def expected(self, x: Tensor) -> Tensor:
        """tanh(x) or the logistic g(x)."""
        return torch.tanh(x) if self.kind is F.TANH else torch.sigmoid(x)


class Hard(Activation):
    """The hard unit without noise (Eq 3 and 4)."""

    variant = "hard"
    has_noise = False
    kernel_forms = (_QUIET, _QUIET)

    def expected(self, x: Tensor) -> Tensor:
        """h(x)."""
        return F.hard(x, self.kind)


class NAN(Activation):
    """Normal noise where the unit saturates (Eq 12)."""

    variant = "nan"
    has_p = True
    dies_at_zero = True
    leaks = True
    kernel_forms = ((K.FORM_OUTPUT, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 12."""
        assert self.p is not None
        return F.nan(
            x, xi, self.p, self.kind, alpha=self.alpha, c=self.c, code_compat=self.code_compat
        )

    def expected(self, x: Tensor) -> Tensor:
        """Eq 12 with E[xi] = 0."""
        return F.nan_expected(x, self.kind, alpha=self.alpha)


class NAH(Activation):
    """Half-normal noise where the unit saturates (Algorithm 1)."""

    variant = "nah"
    has_p = True
    dies_at_zero = True
    leaks = True
    kernel_forms = (
        (K.FORM_OUTPUT, K.MULTIPLIER_HALF_NORMAL),
        (K.FORM_OUTPUT, K.MULTIPLIER_MEAN),
    )

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Algorithm 1."""
        assert self.p is not None
        return F.nah(x, xi, self.p, self.kind, alpha=self.alpha, c=self.c)

    def expected(self, x: Tensor) -> Tensor:
        """Eq 13."""
        assert self.p is not None
        return F.nah_expected(
            x, self.p, self.kind, alpha=self.alpha, c=self.c, code_compat=self.code_compat
        )


class NAHMean(NAH):
    """NAH with the mean of its noise in training, too: a learned slope, and no noise.

    With alpha 1 it folds back beyond the thresholds (slope -0.032 at x = 3 for tanh, c 0.5, p 1).
    Not in the paper. Against NAH it tells what half-normal noise does by being noise.
    """

    variant = "nah_mean"
    has_noise = False
    kernel_forms = (NAH.kernel_forms[1],) * 2


class _InputNoise(Activation):
    """Noise added to the input; at test time all of them are the hard unit."""

    def expected(self, x: Tensor) -> Tensor:
        """h(x)."""
        return F.hard(x, self.kind)


class NANI(_InputNoise):
    """Fixed noise at the input (Eq 14); c is the paper's sigma, 0.05 in Section 6.5."""

    variant = "nani"
    default_c = 0.05
    kernel_forms = ((K.FORM_INPUT, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 14."""
        return F.nani(x, xi, self.kind, sigma=self.c)


class NANIL(_InputNoise):
    """Learned noise at the input (Eq 9 in Eq 14)."""

    variant = "nanil"
    has_p = True
    dies_at_zero = True
    kernel_forms = ((K.FORM_INPUT_LEARNED, K.MULTIPLIER_NORMAL), _QUIET)

    def warn_of_dead_p(self) -> None:
        """As all; the code's formula has noise at p = 0."""
        if not self.code_compat:
            super().warn_of_dead_p()

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 9 in Eq 14."""
        assert self.p is not None
        return F.nanil(x, xi, self.p, self.kind, c=self.c, code_compat=self.code_compat)


class NANIS(_InputNoise):
    """Fixed noise at the input where saturated (Eq 15); c is sigma, 0.25 in the authors' code."""

    variant = "nanis"
    default_c = 0.25
    kernel_forms = ((K.FORM_INPUT_SATURATED, K.MULTIPLIER_NORMAL), _QUIET)

    def noisy(self, x: Tensor, xi: Tensor) -> Tensor:
        """Eq 15."""
        return F.nanis(x, xi, self.kind, sigma=self.c)
