"""Noise as a function of (seed, step, module path, call)."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noisyexp.activations import (
    ActivationSpec,
    NoiseSource,
    attach_noise,
    derive_seed,
    make_activation,
)
from noisyexp.kernels import DrawKey, normal

CPU = torch.device("cpu")


def draw(
    seed: int = 0, step: int = 0, path: str = "a", call: int = 0, shape: tuple[int, ...] = (5, 3)
) -> Tensor:
    """The draw of one key from a new source."""
    source = NoiseSource(seed)
    source.set_step(step)
    for _ in range(call):
        source.normal(path, (1,), CPU)
    return source.normal(path, shape, CPU)


def test_the_key_alone_decides() -> None:
    expected = [draw(7, 12, "net.3", call) for call in (0, 1)]
    source = NoiseSource(7)
    for step in (0, 11):  # other steps, paths, calls and shapes before it
        source.set_step(step)
        for path in ("net.3", "net.4", "net.3"):
            source.normal(path, (step + 1, 2), CPU)
    torch.manual_seed(99)
    source.set_step(12)
    source.normal("net.4", (100,), CPU)
    assert torch.equal(source.normal("net.3", (5, 3), CPU), expected[0])
    source.normal("net.5", (4,), CPU)
    assert torch.equal(source.normal("net.3", (5, 3), CPU), expected[1])
    source.set_step(12)  # the step again, as after a restart
    assert torch.equal(source.normal("net.3", (5, 3), CPU), expected[0])


def test_every_part_of_the_key_counts() -> None:
    keys = [{}, {"seed": 1}, {"step": 1}, {"path": "b"}, {"call": 1}]
    for one, two in combinations([draw(**key) for key in keys], 2):  # type: ignore[arg-type]
        assert not torch.isclose(one, two).any()


def test_the_generator_of_torch_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw()
    assert torch.equal(before, torch.get_rng_state())


def test_seeds_of_different_keys_differ() -> None:
    keys = [
        (seed, step, path, call)
        for seed in range(12)
        for step in (0, 1, 2, 11, 12, 111)
        for path in ("", "1", "2", "a", "a.b", "a.b.1")
        for call in (0, 1, 2, 12)
    ]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "23") != derive_seed(12, "3") != derive_seed(123)
    # Another value would break the resumption of runs that an earlier version has started.
    assert derive_seed(0, 0, "a", 0) == 4244946443610980013


def test_draws_are_standard_normal() -> None:
    n = 1_000_000
    xi = draw(shape=(n,)).double()
    # Standard errors of the first four moments of N(0, 1).
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = math.sqrt(variance / n)
        assert float(xi.pow(power).mean()) == pytest.approx(mean, abs=4 * error)
    for z, tail in ((1.0, 0.158655), (1.96, 0.0249979), (3.0, 0.00134990)):
        error = math.sqrt(tail / n)
        assert float((xi > z).double().mean()) == pytest.approx(tail, abs=4 * error)
    assert xi.dtype == torch.float64 and draw().dtype == torch.float32


def test_draws_of_different_keys_are_independent() -> None:
    """Correlations within four standard errors, 1/sqrt(n), also of the squares and with a lag."""
    n = 200_000
    keys = [{"seed": s, "step": t, "path": a, "call": c}
            for s, t, a, c in [(0, 0, "units.l0.i", 0), (0, 0, "units.l0.f", 0),
                               (0, 1, "units.l0.i", 0), (0, 2, "units.l0.i", 0),
                               (1, 0, "units.l0.i", 0), (0, 0, "units.l0.i", 1)]]  # fmt: skip
    sample = [draw(**key, shape=(n,)).double() for key in keys]  # type: ignore[arg-type]
    limit = 4 / math.sqrt(n)
    for one, two in combinations(sample, 2):
        assert abs(float((one * two).mean())) < limit
        assert abs(float((one[1:] * two[:-1]).mean())) < limit
        assert abs(float(((one**2 - 1) * (two**2 - 1) / 2).mean())) < limit


def two_layers(variant: str) -> nn.Module:
    spec = ActivationSpec(variant, {"c": 0.5})
    return nn.ModuleDict(
        {"first": nn.Sequential(nn.Linear(4, 4), spec("tanh", 4)), "gate": spec("sigmoid", 4)}
    )


def test_sites_are_module_paths() -> None:
    model, source = two_layers("nah"), NoiseSource(3)
    assert attach_noise(model, source) == ["first.1", "gate"]
    x = torch.full((2, 4), 6.0)
    for path in ("first.1", "gate"):
        unit = model.get_submodule(path)
        source.set_step(8)
        expected = unit(x, draw(3, 8, path, shape=(2, 4)))
        torch.testing.assert_close(unit(x), expected)
    attach_noise(model, None)
    torch.manual_seed(0)
    expected = normal(DrawKey(int(torch.randint(2**63 - 1, ()))), (2, 4), CPU)
    torch.manual_seed(0)
    unit = model.get_submodule("gate")
    torch.testing.assert_close(unit(x), unit(x, expected))


def test_each_call_in_a_step_draws_anew_and_evaluation_draws_nothing() -> None:
    unit, source, x = make_activation("tanh", "nani", 3), NoiseSource(0), torch.zeros(2, 3)
    attach_noise(unit, source)
    first, second = unit(x), unit(x)
    assert not torch.isclose(first, second).any()
    source.set_step(0)
    unit.eval()(x)
    assert torch.equal(unit.train()(x), first)  # evaluation in between has used up no call


def test_variants_see_common_random_numbers() -> None:
    """Solving each unit's equation for xi gives the same draw at the same path and step."""
    solved: dict[str, list[Tensor]] = {}
    for variant in ("nan", "nah", "nani", "nanis"):
        model, source = two_layers(variant), NoiseSource(11)
        attach_noise(model, source)
        source.set_step(5)
        unit = model.get_submodule("gate")
        unit.c = 0.01 if variant in ("nani", "nanis") else 0.5
        with torch.no_grad():
            if unit.p is not None:
                unit.p.fill_(2.0)
            # NANI in the linear range; NANIS just saturated, where only draws inward show.
            x = torch.full((50, 4), {"nani": 0.5, "nanis": 2.0}.get(variant, 6.0))
            y = unit(x).double()
        if variant in ("nan", "nah"):
            solved[variant] = [(1.0 - y) / (0.125 * math.tanh(1.0) ** 2)]
        else:
            solved[variant] = [((y - 0.5) / 0.25 - x) / 0.01]
    xi = draw(11, 5, "gate", shape=(50, 4)).double()
    torch.testing.assert_close(solved["nan"][0], xi, atol=1e-4, rtol=0)
    torch.testing.assert_close(solved["nah"][0], xi.abs(), atol=1e-4, rtol=0)
    torch.testing.assert_close(solved["nani"][0], xi, atol=1e-3, rtol=0)
    torch.testing.assert_close(solved["nanis"][0], xi.clamp(max=0), atol=1e-3, rtol=0)


def test_a_copied_model_goes_on_with_the_same_draws() -> None:
    model, source, x = two_layers("nah"), NoiseSource(2), torch.full((2, 4), 6.0)
    attach_noise(model, source)
    source.set_step(4)
    gate = model.get_submodule("gate")
    gate(x)
    twin = copy.deepcopy(model).get_submodule("gate")
    assert torch.equal(twin(x), gate(x))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kernels", ["0", "1"])
def test_checkpointing_is_right_or_refused(
    kernels: str, reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same noise in the second forward pass, or an error; never other noise without a word."""
    torch.manual_seed(0)
    monkeypatch.setenv("NOISYEXP_KERNELS", kernels)
    unit = make_activation("tanh", "nah", num_units=6)
    x = torch.randn(9, 6).mul(3).requires_grad_()

    def gradient(checkpointed: bool) -> Tensor:
        torch.manual_seed(1)
        x.grad = None
        y = checkpoint(unit, x, use_reentrant=reentrant) if checkpointed else unit(x)
        y.square().sum().backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(gradient(True), gradient(False))
    source = NoiseSource(0)
    attach_noise(unit, source)
    expected = gradient(False)
    source.set_step(0)
    if reentrant:
        with pytest.raises(RuntimeError, match="computed again during backward"):
            gradient(True)
    else:
        assert torch.equal(gradient(True), expected)
