"""Optimisers of the authors' Theano code that torch has in another form.

Their step is part of the rule: the code of the attention models ignores the learning rate that it
is given, so a configuration names the constants and these classes take them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class _Rule(torch.optim.Optimizer):
    """One rule for every parameter; gradients are dense, all state is tensors."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; `closure` is torch's and not used by the trainer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad
                if group["weight_decay"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                self._update(parameter, gradient, self.state[parameter], group)
        return loss

    def _update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError


class GravesRMSprop(_Rule):
    """RMSProp of Graves (2013), Eq 38 to 45, as the attention models have it.

        n <- d n + (1 - d) g^2
        m <- d m + (1 - d) g
        v <- momentum v - lr g / sqrt(n - m^2 + eps)
        theta <- theta + v

    `torch.optim.RMSprop(centered=True)` adds eps behind the root and accumulates v without lr.

    Args:
        params: parameters or groups.
        lr: step, 1e-4 in the code.
        decay: d, 0.95.
        momentum: 0.9.
        eps: inside the root, 1e-4.
        weight_decay: L2 penalty.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        decay: float = 0.95,
        momentum: float = 0.9,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr, "decay": decay, "momentum": momentum, "eps": eps,
            "weight_decay": weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        if not state:
            for name in ("square", "mean", "velocity"):
                state[name] = torch.zeros_like(parameter)
        square, mean, velocity = state["square"], state["mean"], state["velocity"]
        decay = group["decay"]
        square.mul_(decay).addcmul_(gradient, gradient, value=1.0 - decay)
        mean.mul_(decay).add_(gradient, alpha=1.0 - decay)
        # By rounding, n - m^2 of large gradients that hardly change can be far below zero.
        variance = torch.addcmul(square, mean, mean, value=-1.0).clamp_(min=0)
        scale = variance.add_(group["eps"]).rsqrt_()
        velocity.mul_(group["momentum"]).addcmul_(gradient, scale, value=-group["lr"])
        parameter.add_(velocity)


class UncorrectedAdam(_Rule):
    """Adam of the authors' code, whose bias correction is practically none.

        m <- m + b1 (g - m),   v <- v + b2 (g^2 - v)
        theta <- theta - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    with b1 = 0.1 and b2 = 0.001 where the published rule has 0.9^t and 0.999^t in the correction.
    The first steps are 3 to 3.5 times those of `torch.optim.Adam`.

    Args:
        params: parameters or groups.
        lr: step, 2e-4 in the code.
        betas: b1 and b2.
        eps: beside the root, 1e-8.
        weight_decay: L2 penalty.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.1, 0.001),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def _update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        if not state:
            state["step"] = torch.zeros(())
            for name in ("mean", "square"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        t, (b1, b2) = float(state["step"]), group["betas"]
        state["mean"].mul_(1.0 - b1).add_(gradient, alpha=b1)
        state["square"].mul_(1.0 - b2).addcmul_(gradient, gradient, value=b2)
        rate = group["lr"] * math.sqrt(1.0 - b2**t) / (1.0 - b1**t)
        parameter.addcdiv_(state["mean"], state["square"].sqrt().add_(group["eps"]), value=-rate)
