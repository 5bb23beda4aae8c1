"""Optimisers of the authors' Theano code that torch has in another form.

Their step is part of the rule: the code of the attention models ignores the learning rate that it
is given, so a configuration names the constants and these classes take them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class _Rule(torch.optim.Optimizer):
    """One rule for every parameter; gradients are dense, all state is tensors.

    Lists of tensors are worked on at once, which on a GPU takes a few launches for all of them.
    """

    _state: tuple[str, ...]
    """Names of the zeros that a parameter starts with."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; `closure` is torch's and not used by the trainer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            if group["weight_decay"]:
                decayed = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
                gradients = list(decayed)
            for p in parameters:
                if not self.state[p]:
                    self._start(p)
            self._update(parameters, gradients, [self.state[p] for p in parameters], group)
        return loss

    def _start(self, parameter: Tensor) -> None:
        self.state[parameter].update({n: torch.zeros_like(parameter) for n in self._state})

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
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

    _state = ("square", "mean", "velocity")

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
    ) -> None:
        square, mean, velocity = ([state[name] for state in states] for name in self._state)
        decay = group["decay"]
        torch._foreach_mul_(square, decay)
        torch._foreach_addcmul_(square, gradients, gradients, value=1.0 - decay)
        torch._foreach_mul_(mean, decay)
        torch._foreach_add_(mean, gradients, alpha=1.0 - decay)
        # By rounding, n - m^2 of large gradients that hardly change can be far below zero.
        variance = torch._foreach_addcmul(square, mean, mean, value=-1.0)
        torch._foreach_clamp_min_(variance, 0.0)
        torch._foreach_add_(variance, group["eps"])
        for each in variance:  # torch 2.4 has no list form of it
            each.rsqrt_()
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_addcmul_(velocity, gradients, variance, value=-group["lr"])
        torch._foreach_add_(parameters, velocity)


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

    _state = ("mean", "square")

    @staticmethod
    def rate(group: Mapping[str, Any], updates: float) -> float:
        """Step of a parameter at its update number `updates`, from 1."""
        b1, b2 = group["betas"]
        return float(group["lr"] * math.sqrt(1.0 - b2**updates) / (1.0 - b1**updates))

    def _start(self, parameter: Tensor) -> None:
        self.state[parameter]["step"] = torch.zeros(())
        super()._start(parameter)

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
    ) -> None:
        mean, square = ([state[name] for state in states] for name in self._state)
        for state in states:
            state["step"] += 1
        rates = [-self.rate(group, float(state["step"])) for state in states]
        b1, b2 = group["betas"]
        torch._foreach_mul_(mean, 1.0 - b1)
        torch._foreach_add_(mean, gradients, alpha=b1)
        torch._foreach_mul_(square, 1.0 - b2)
        torch._foreach_addcmul_(square, gradients, gradients, value=b2)
        root = torch._foreach_sqrt(square)
        torch._foreach_add_(root, group["eps"])
        torch._foreach_addcdiv_(parameters, mean, root, rates)
