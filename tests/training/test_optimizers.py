"""Every optimiser of the table: its rule in NumPy, torch's own step, clip, state, exceptions."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyexp.kernels import backend, cpu
from noisyexp.training import one_pass
from noisyexp.training.config import TrainingConfig
from noisyexp.training.optimizer import (
    OPTIMIZERS,
    build_optimizer,
    clip_factor,
    gradient_norm,
    step,
)

Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]
SETTINGS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.1},
    "sgd with momentum": {"lr": 0.1, "momentum": 0.9},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "rmsprop": {"lr": 0.01, "rms_decay": 0.9, "rms_eps": 1e-6},
    "rmsprop with momentum": {"lr": 0.01, "rms_decay": 0.9, "rms_eps": 1e-6, "momentum": 0.7},
    "adadelta": {"lr": 0.5, "rms_decay": 0.95, "rms_eps": 1e-6},
    "graves_rmsprop": {"lr": 1e-3, "rms_decay": 0.95, "rms_eps": 1e-4, "momentum": 0.9},
    "uncorrected_adam": {"lr": 2e-4},
}
STEPS = 5
SHAPES = [(1500,), (3, 7), (), (0,)]  # more than one piece of the kernel, and less than one vector


def of(name: str) -> str:
    return name.split()[0]


def numpy_update(
    name: str, w: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int, decay: float
) -> np.ndarray:
    """The published rules, one update; `state` starts as zeros."""
    given = SETTINGS[name]
    lr, momentum = given["lr"], given.get("momentum", 0.0)
    rho, eps = given.get("rms_decay", 0.0), given.get("rms_eps", 0.0)
    a, b, c = (state.setdefault(key, np.zeros_like(w)) for key in "abc")
    kind = of(name)
    if kind == "adamw":
        w = w - lr * decay * w
    else:
        g = g + decay * w
    if kind == "sgd":
        a[...] = momentum * a + g
        return w - lr * a
    if kind in ("adam", "adamw"):
        a[...] = 0.9 * a + 0.1 * g
        b[...] = 0.999 * b + 0.001 * g * g
        return w - lr * (a / (1 - 0.9**t)) / (np.sqrt(b / (1 - 0.999**t)) + 1e-8)
    if kind == "uncorrected_adam":
        a[...] = 0.9 * a + 0.1 * g
        b[...] = 0.999 * b + 0.001 * g * g
        rate = lr * math.sqrt(1 - 0.001**t) / (1 - 0.1**t)
        return w - rate * a / (np.sqrt(b) + 1e-8)
    a[...] = rho * a + (1 - rho) * g * g
    if kind == "rmsprop":
        b[...] = momentum * b + g / (np.sqrt(a) + eps)
        return w - lr * b
    if kind == "adadelta":
        delta = np.sqrt(b + eps) / np.sqrt(a + eps) * g
        b[...] = rho * b + (1 - rho) * delta * delta
        return w - lr * delta
    assert kind == "graves_rmsprop"
    b[...] = rho * b + (1 - rho) * g
    c[...] = momentum * c - lr * g / np.sqrt(a - b * b + eps)
    return w + c


@pytest.fixture
def gradients() -> list[list[Tensor]]:
    """For each step and shape, of very different sizes."""
    torch.manual_seed(1)
    return [
        [10.0 ** (n - 2) * torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
        for n in range(STEPS)
    ]


@pytest.fixture
def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]


@pytest.fixture
def build(make_training: Callable[..., TrainingConfig]) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser `name` of `SETTINGS` for these parameters."""

    def make(name: str, held: list[nn.Parameter], decay: float = 0.0) -> torch.optim.Optimizer:
        config = make_training(optimizer=of(name), weight_decay=decay, **SETTINGS[name])
        return build_optimizer(nn.ParameterList(held), config)

    return make


@pytest.fixture
def only_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every step but those that make the state, one of three at most, is the kernels'."""
    if cpu.library() is None:
        pytest.skip("no compiled kernels")
    inner = one_pass.step_in_one_pass
    own = []

    def counted(optimizer: torch.optim.Optimizer, factor: float) -> bool:
        done = inner(optimizer, factor)
        own.append(not done)
        return done

    monkeypatch.setattr("noisyexp.training.optimizer.step_in_one_pass", counted)
    yield
    assert 3 * sum(own) <= len(own) > 0


def test_the_table_has_a_rule_here_and_in_the_kernels() -> None:
    assert {of(name) for name in SETTINGS} == set(OPTIMIZERS)
    assert {choice.make for choice in OPTIMIZERS.values()} == set(one_pass._PASSES)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", SETTINGS)
def test_rule(
    name: str,
    decay: float,
    limit: float | None,
    kernels: bool,
    build: Callable[..., torch.optim.Optimizer],
    weights: list[nn.Parameter],
    gradients: list[list[Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NumPy's loops of all steps, with and without clip and weight decay."""
    if not kernels:
        monkeypatch.setenv(backend.SWITCH, "0")
    expected = [p.detach().numpy().copy() for p in weights]
    states: list[dict[str, Any]] = [{} for _ in weights]
    optimizer = build(name, weights, decay)
    for t, each in enumerate(gradients, 1):
        norm = math.sqrt(sum(float((g.numpy() ** 2).sum()) for g in each))
        factor = 1.0 if limit is None or norm <= limit else limit / (norm + 1e-6)
        for k, g in enumerate(each):
            args = (factor * g.numpy(), states[k], t, decay)
            expected[k] = numpy_update(name, expected[k], *args)
            weights[k].grad = g.clone()
        found = gradient_norm(weights)
        assert float(found) == pytest.approx(norm, rel=1e-12)
        step(optimizer, clip_factor(found, limit))
    for p, right in zip(weights, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("only_kernels")
def test_bits_of_torch(
    name: str,
    dtype: torch.dtype,
    build: Callable[..., torch.optim.Optimizer],
    weights: list[nn.Parameter],
    gradients: list[list[Tensor]],
) -> None:
    """A step equals `clip_grad_norm_` and torch's step, weights and state, bit for bit.

    So it is on processors with fused multiply-add, where torch uses it, too.
    """
    ours = [nn.Parameter(p.detach().to(dtype)) for p in weights]
    theirs = copy.deepcopy(ours)
    one, other = build(name, ours, 0.1), build(name, theirs, 0.1)
    for each in gradients:
        for p, q, g in zip(ours, theirs, each, strict=True):
            p.grad, q.grad = g.to(dtype), g.to(dtype)
        norm = gradient_norm(ours)
        step(one, clip_factor(norm, 3.0))
        assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 3.0))
        other.step()
    exact = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    bounds = (0.0, 0.0) if exact else (1e-5, 1e-7)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=bounds[0], atol=bounds[1])
        assert one.state[p].keys() == other.state[q].keys()
        for key, value in one.state[p].items():
            torch.testing.assert_close(value, other.state[q][key], rtol=bounds[0], atol=bounds[1])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_of_torchs_steps_goes_on_in_one_pass(
    name: str,
    build: Callable[..., torch.optim.Optimizer],
    weights: list[nn.Parameter],
    gradients: list[list[Tensor]],
) -> None:
    """Saved after two of torch's own steps, loaded, and gone on with; and the other way round."""
    first = build(name, weights)
    results = []
    for p, g in zip(weights, gradients[0], strict=True):
        p.grad = g.clone()
    first.step()
    for turn in range(2):
        again = copy.deepcopy(weights)
        other = build(name, again)
        other.load_state_dict(copy.deepcopy(first.state_dict()))
        for each in gradients[1:]:
            for p, g in zip(again, each, strict=True):
                p.grad = g.clone()
            step(other) if turn else other.step()
        results.append([again, other.state_dict()])
    for p, q in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_has_no_gradient_stays(
    name: str, build: Callable[..., torch.optim.Optimizer], gradients: list[list[Tensor]]
) -> None:
    """Frozen weights, and those that no loss has reached yet; their first step comes later."""
    torch.manual_seed(0)
    held = [nn.Parameter(torch.randn(40, dtype=torch.float64)) for _ in range(3)]
    held[0].requires_grad_(False)
    lone = [copy.deepcopy(held[2])]
    before = [p.detach().clone() for p in held]
    optimizer, own = build(name, held), build(name, lone)
    for turn in range(4):
        held[1].grad = torch.full_like(held[1], 0.5)
        step(optimizer)
        if turn >= 2:
            for p in (held[2], lone[0]):
                p.grad = torch.full_like(p, 0.25)
    assert torch.equal(held[0], before[0]) and not torch.equal(held[1], before[1])
    step(own)
    torch.testing.assert_close(held[2], lone[0], rtol=1e-12, atol=0)
    assert not torch.equal(held[2], before[2])


@pytest.mark.usefixtures("only_kernels")
def test_threads_change_no_bit(build: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    start = [torch.randn(n) for n in (50_001, 3, 20_000)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(3)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            held = [nn.Parameter(p.clone()) for p in start]
            optimizer = build("adam", held)
            for each in gradients:
                for p, g in zip(held, each, strict=True):
                    p.grad = g.clone()
                step(optimizer, 0.5)
            results.append(held)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_weights_that_are_not_contiguous_take_torchs_step_and_say_so() -> None:
    kept = nn.Parameter(torch.randn(4, 3).T)
    q = nn.Parameter(kept.detach().clone())
    kept.grad = torch.ones_like(kept)
    q.grad = torch.ones_like(q)
    with pytest.warns(RuntimeWarning, match=r"shape \(3, 4\) is not contiguous"):
        step(torch.optim.SGD([kept], 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(torch.optim.SGD([q.contiguous().detach().requires_grad_()], 0.1))
    torch.testing.assert_close(kept.detach(), q.detach() - 0.1)


def test_norm_without_gradients_and_factor() -> None:
    assert float(gradient_norm([nn.Parameter(torch.ones(2))])) == 0.0
    assert clip_factor(torch.tensor(2.0), None) == 1.0
    assert clip_factor(torch.tensor(2.0), 3.0) == 1.0
    assert clip_factor(torch.tensor(4.0), 1.0) == pytest.approx(0.25, rel=1e-6)
    assert math.isnan(clip_factor(torch.tensor(math.nan), 1.0))


def test_the_configuration_follows_the_table(make_training: Callable[..., TrainingConfig]) -> None:
    assert make_training(optimizer="adamw", weight_decay=0.1).optimizer == "adamw"
    with pytest.raises(AssertionError, match=r"choose from sgd, .*Did you mean adadelta"):
        make_training(optimizer="adadelt")
    with pytest.raises(AssertionError, match="adamw has none"):
        make_training(optimizer="adamw", momentum=0.5)
