"""The units as modules: noise in training, its expectation in evaluation, p, c, errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noisyexp.activations import (
    activations,
    make_activation,
    reset_noise_parameters,
    set_noise_level,
)
from noisyexp.activations import functional as F
from noisyexp.kernels import DrawKey, normal
from tests.activations.units import ALL, KINDS, NOISY, WITH_P, make

Blocks = Callable[[str], Iterator[tuple[dict[str, Any], dict[str, Tensor]]]]


def sigma(kind: str, x: float, p: float, c: float) -> float:
    """(c/4) tanh(p Delta / 2)^2 with Delta written out."""
    excess = max(abs(x) - 1, 0) if kind == "tanh" else max(abs(x) / 4 - 0.5, 0)
    return c / 4 * math.tanh(p * excess / 2) ** 2


def value(y: Tensor) -> float:
    return float(y.detach())


def test_test_time_vectors(blocks: Blocks) -> None:
    """Eq 13 and E[xi] = 0, and the constant 0.797 of the authors' code."""
    for row, v in blocks("test_time"):
        for column in ("paper", "code"):
            unit = make(
                row["act"], row["variant"].lower(), len(v["x"]), v["p"],
                alpha=row["alpha"], c=row["c"], code_compat=column == "code",
            ).eval()  # fmt: skip
            torch.testing.assert_close(unit(v["x"]).detach(), v[column], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("variant", "kind", "alpha", "x", "paper", "code"),
    [
        ("nah", "tanh", 1.0, 3.0, 0.94215081, 0.94221494),
        ("nah", "tanh", 1.15, 3.0, 0.75784919, 0.75778506),
        ("nah", "tanh", 1.15, -6.0, -0.34708338, -0.34697575),
        ("nah", "sigmoid", 1.0, -6.0, 0.02129876, 0.02127514),
        ("nan", "tanh", 1.15, 3.0, 0.7, 0.7),
    ],
)
def test_test_time_examples(
    variant: str, kind: str, alpha: float, x: float, paper: float, code: float
) -> None:
    for compat, expected in ((False, paper), (True, code)):
        unit = make(kind, variant, alpha=alpha, c=0.5, code_compat=compat).eval()
        assert value(unit(torch.tensor([x]).double())) == pytest.approx(expected, abs=6e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("alpha", "x", "p"), [(1.0, 3.5, 1.3), (1.15, -5.0, -0.7), (0.9, 9.0, 2)])
def test_monte_carlo_moments(kind: str, alpha: float, x: float, p: float) -> None:
    """A million draws: mean and spread within five standard errors of the closed forms."""
    draws, c = 1_000_000, 0.5
    torch.manual_seed(0)
    points = torch.full((draws, 1), x, dtype=torch.float64)
    u, low = (x, -1.0) if kind == "tanh" else (0.25 * x + 0.5, 0.0)
    still = alpha * min(max(u, low), 1.0) + (1 - alpha) * u
    scale = sigma(kind, x, p, c)
    assert 0 < scale <= c / 4
    side = (1 if x >= 0 else -1) * (1 if alpha > 1 else -1)
    expected = {  # mean, standard deviation, standard error of the latter in units of itself
        "nan": (still, scale, math.sqrt(1 / (2 * draws))),
        "nah": (
            still + side * scale * math.sqrt(2 / math.pi),
            scale * math.sqrt(1 - 2 / math.pi),
            math.sqrt((3.8692 - 1) / (4 * draws)),  # kurtosis of the half-normal law: 3.8692
        ),
    }
    for variant, (mean, std, error) in expected.items():
        unit = make(kind, variant, p=p, alpha=alpha, c=c)
        sample = unit(points).detach()
        assert value(sample.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(draws))
        assert value(sample.std()) == pytest.approx(std, rel=5 * error)
        # Evaluation is that mean exactly: the expectation over the noise.
        assert value(unit.eval()(points[:1])) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["nan", "nah"])
@pytest.mark.parametrize("mode", ["float32", "autocast", "bfloat16"])
def test_alpha_one_is_noisy_in_saturation(kind: str, variant: str, mode: str) -> None:
    """With sgn(0) = 0 the factor sgn(1 - alpha) would remove all noise at alpha = 1."""
    torch.manual_seed(1)
    unit = make_activation(kind, variant, 1, alpha=1.0, c=0.5)
    x, xi = torch.full((4000, 1), 9.0), torch.randn(4000, 1)
    with torch.no_grad():
        unit.p.fill_(1.0)  # type: ignore[union-attr]
        if mode == "bfloat16":
            y = unit(x.bfloat16(), xi)
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
                y = unit(x, xi)
                y_half = unit(nn.functional.linear(x, torch.eye(1)), xi)
                assert y_half.dtype == (torch.bfloat16 if mode == "autocast" else torch.float32)
                assert y_half.unique().numel() > 10
    assert y.dtype == (torch.bfloat16 if mode == "bfloat16" else torch.float32)
    eps = xi if variant == "nan" else xi.abs()
    expected = 1.0 - sigma(kind, 9.0, 1.0, 0.5) * eps
    tolerance = 2**-8 if mode == "bfloat16" else 1e-6
    torch.testing.assert_close(y.float(), expected, atol=tolerance, rtol=tolerance)
    assert y.unique().numel() > 10


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic_and_draws_nothing(kind: str, variant: str) -> None:
    unit = make(kind, variant, 5, alpha=1.15).eval()
    x = torch.linspace(-9, 9, 50, dtype=torch.float64).view(10, 5)
    before = torch.get_rng_state()
    first = unit(x)
    assert torch.equal(first, unit(x))
    assert torch.equal(first, unit(x, torch.full_like(x, 3.0)))  # a given draw is ignored too
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("variant", NOISY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compat", [False, True])
def test_given_noise_is_used_in_training(kind: str, variant: str, compat: bool) -> None:
    # With sigma <= c/4 only a large c lets the learned noise at the input leave saturation.
    c = 30.0 if variant == "nanil" else 0.5
    unit = make(kind, variant, 3, alpha=1.15, c=c, code_compat=compat)
    torch.manual_seed(0)
    x, xi = 3 * torch.randn(2, 40, 3, dtype=torch.float64)
    u = F.KINDS[kind]
    expected = {
        "nan": lambda: F.nan(x, xi, unit.p, u, alpha=1.15, c=c, code_compat=compat),
        "nah": lambda: F.nah(x, xi, unit.p, u, alpha=1.15, c=c),
        "nani": lambda: F.nani(x, xi, u, sigma=c),
        "nanil": lambda: F.nanil(x, xi, unit.p, u, c=c, code_compat=compat),
        "nanis": lambda: F.nanis(x, xi, u, sigma=c),
    }[variant]()
    torch.testing.assert_close(unit(x, xi), expected, rtol=1e-12, atol=1e-12)
    assert not torch.isclose(unit(x, xi), unit.eval()(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_units_without_noise(kind: str) -> None:
    x = torch.linspace(-8, 8, 333).unsqueeze(1)
    soft = torch.tanh(x) if kind == "tanh" else torch.sigmoid(x)
    clipped = torch.clip(x, -1, 1) if kind == "tanh" else torch.clip(0.25 * x + 0.5, 0, 1)
    for mode in (True, False):
        reference, hard = (make_activation(kind, v, 1).train(mode) for v in ("reference", "hard"))
        assert torch.equal(reference(x), soft) and torch.equal(hard(x), clipped)
        for variant in ("nani", "nanil", "nanis") if not mode else ():
            assert torch.equal(make_activation(kind, variant, 1).eval()(x), clipped)
        for variant in ("nani", "nanis"):  # fixed noise at the input, of size 0
            assert torch.equal(make_activation(kind, variant, 1, c=0.0).train(mode)(x), clipped)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compat", [False, True])
def test_gradcheck(kind: str, variant: str, compat: bool) -> None:
    """Slopes in x and p against finite differences, with xi fixed and away from the kinks."""
    unit = make(kind, variant, 4, alpha=1.15, c=0.7, code_compat=compat)
    x = torch.tensor([[-7.3, -2.6, -1.45, -0.4], [0.3, 1.4, 2.7, 6.1]], dtype=torch.float64)
    xi = torch.tensor([[0.4, -1.3, 0.9, 0.2], [-0.7, 1.1, -2.1, -0.05]], dtype=torch.float64)
    p = torch.tensor([0.8, -1.2, 0.5, 1.0], dtype=torch.float64)

    def function(x: Tensor, p: Tensor) -> Tensor:
        own = {"p": p} if unit.p is not None else {}
        return torch.func.functional_call(unit, own, (x, xi))

    step = 1e-3  # no kink this near: left and right slope agree
    one, two = function(x + step, p) - function(x, p), function(x, p) - function(x - step, p)
    assert (one - two).abs().max() < 1e-5
    leaves = (x.requires_grad_(), p.requires_grad_(unit.p is not None))
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("variant", WITH_P)
def test_p_is_uniform_after_reset(variant: str) -> None:
    """U[-1, 1]: std 1/sqrt(3) = .577, also where the host model has overwritten everything."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 20_000), make_activation("tanh", variant, 20_000))
    unit = next(activations(model))
    assert unit.p is not None and unit.p.shape == (20_000,)
    for _ in range(2):
        p = unit.p.detach().clone()
        assert -1 <= p.min() < -0.99 and 0.99 < p.max() <= 1
        assert value(p.std()) == pytest.approx(1 / math.sqrt(3), abs=0.01)
        assert value(p.mean()) == pytest.approx(0, abs=0.02)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        reset_noise_parameters(model)
        assert not torch.equal(p, unit.p)
    assert model[0].weight.abs().max() <= 0.1  # only p was drawn again
    for seed in (3, 3):
        reset_noise_parameters(model, torch.Generator().manual_seed(seed))
        p, last = unit.p.detach().clone(), p
    assert torch.equal(p, last)
    scalar = make_activation("tanh", variant, 20_000, p_shape="scalar").p
    assert scalar is not None and scalar.shape == (1,) and -1 <= value(scalar) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_and_slope_nan_is_the_hard_unit_bit_for_bit(kind: str) -> None:
    """So a row that gives alpha to one kind of unit alone has hard units of the other kind."""
    found = []
    for variant, more in (("hard", {}), ("nan", {"alpha": 1.0, "c": 0.0})):
        x = torch.linspace(-9, 9, 4001).reshape(-1, 1).requires_grad_()
        y = make_activation(kind, variant, 1, **more)(x)
        found.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_penalized_tanh_is_the_same_unit_in_every_place() -> None:
    x = torch.linspace(-3, 3, 301, dtype=torch.float64).reshape(-1, 1)
    gate, tanh = (make_activation(kind, "penalized_tanh", 1) for kind in ("sigmoid", "tanh"))
    expected = torch.where(x > 0, torch.tanh(x), torch.tanh(x) / 4)
    for unit in (gate, tanh, gate.eval()):
        torch.testing.assert_close(unit(x), expected, atol=1e-15, rtol=0)
    with pytest.raises(ValueError, match="clip_output"):
        make_activation("sigmoid", "penalized_tanh", 1, clip_output=True)


def test_scalar_p_is_one_p_for_all_units() -> None:
    x, xi = torch.full((2, 3), 4.0).double(), torch.ones(2, 3).double()
    units = [make("tanh", "nah", 3, 0.6, p_shape=shape) for shape in ("unit", "scalar")]
    assert torch.equal(units[0](x, xi), units[1](x, xi))
    units[1](x, xi).sum().backward()
    units[0](x, xi).sum().backward()
    assert units[0].p is not None and units[1].p is not None
    total = units[0].p.grad.sum(0, keepdim=True)  # type: ignore[union-attr]
    torch.testing.assert_close(units[1].p.grad, total)


@pytest.mark.parametrize("kind", KINDS)
def test_c_changes_at_run_time(kind: str) -> None:
    x, xi = (torch.full((1, 1), v, dtype=torch.float64) for v in (5.0, -0.8))
    model = nn.ModuleList(make(kind, variant) for variant in (*ALL, "nah_mean"))
    before = [unit.c for unit in model if not unit.uses_c]
    for c in (30.0, 0.5):
        set_noise_level(model, c)
        by_name = {unit.variant: unit for unit in activations(model)}
        noise = sigma(kind, 5.0, 1.0, c)
        assert value(by_name["nan"](x, xi)) == pytest.approx(1 + 0.8 * noise, abs=1e-12)
        assert value(by_name["nah"](x, xi)) == pytest.approx(1 - 0.8 * noise, abs=1e-12)
        mean = 1 - math.sqrt(2 / math.pi) * noise
        assert value(by_name["nah_mean"](x)) == pytest.approx(mean, abs=1e-12)
        z = 5.0 - 0.8 * c
        kicked = max(min(z, 1), -1) if kind == "tanh" else max(min(z / 4 + 0.5, 1), 0)
        for variant in ("nani", "nanis"):
            assert value(by_name[variant](x, xi)) == pytest.approx(kicked, abs=1e-12)
    assert before == [unit.c for unit in model if not unit.uses_c]


@example("nan", "sigmoid", -10.0, 0.0, 0.9, 0.5, False)  # below 0 without the clip
@example("nan", "tanh", 1.5, -5.0, 1.0, 30.0, True)  # above 1
@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(
    st.sampled_from(NOISY), st.sampled_from(KINDS), st.floats(-40, 40), st.floats(-5, 5),
    st.sampled_from([0.9, 1.0, 1.15]), st.floats(0, 30), st.booleans(),
)  # fmt: skip
def test_clip_output_keeps_the_range_of_the_soft_unit(
    variant: str, kind: str, x: float, xi: float, alpha: float, c: float, training: bool
) -> None:
    free, clipped = (
        make(kind, variant, alpha=alpha, c=c, clip_output=clip).train(training)(
            torch.tensor([x]).double(), torch.tensor([xi]).double()
        )
        for clip in (False, True)
    )
    assert torch.equal(clipped, free.clamp(-1 if kind == "tanh" else 0, 1))


@pytest.mark.parametrize("variant", NOISY)
def test_draws_come_from_the_generator_of_torch(variant: str) -> None:
    """As a library: `torch.manual_seed` makes a call reproducible and two calls differ."""
    unit = make("tanh", variant, 6, c=30.0)
    x = torch.linspace(-4, 4, 60, dtype=torch.float64).view(10, 6)
    torch.manual_seed(5)
    first, second = unit(x), unit(x)
    torch.manual_seed(5)
    assert torch.equal(first, unit(x)) and torch.equal(second, unit(x))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    xi = normal(DrawKey(int(torch.randint(2**63 - 1, ()))), x.shape, x.device)
    torch.testing.assert_close(first, unit(x, xi))  # torch decides the key, nothing else


@pytest.mark.parametrize("variant", ALL)
def test_copy_and_state_dict(variant: str) -> None:
    unit = make_activation("sigmoid", variant, 7, c=0.3)
    twin, other = copy.deepcopy(unit), make_activation("sigmoid", variant, 7, c=0.3)
    x, xi = torch.randn(2, 7) * 6, torch.randn(2, 7)
    assert torch.equal(twin(x, xi), unit(x, xi))
    settings = [] if variant == "reference" else ["_extra_state"]
    assert list(unit.state_dict()) == (["p"] if variant in WITH_P else []) + settings
    assert not other.load_state_dict(unit.state_dict(), strict=True).missing_keys
    assert torch.equal(other(x, xi), unit(x, xi))
    if unit.p is not None:
        assert twin.p is not unit.p
        unit.reset_p()
        assert not torch.equal(twin.p, unit.p)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_the_mean_of_nah_is_nah_in_evaluation(kind: str, backend: str) -> None:
    """In training and in evaluation, with its gradient, and nothing is drawn."""
    mean = make_activation(kind, "nah_mean", 5, alpha=0.9, c=2.0, dtype=torch.float64)
    nah = make_activation(kind, "nah", 5, alpha=0.9, c=2.0, dtype=torch.float64).eval()
    nah.load_state_dict({**nah.state_dict(), "p": mean.p})
    mean.backend, state = backend, torch.get_rng_state()
    x = torch.linspace(-6, 6, 40, dtype=torch.float64).view(8, 5)
    for training in (True, False):
        found, expected = (x.clone().requires_grad_() for _ in range(2))
        mean.train(training)(found).square().sum().backward()
        nah(expected).square().sum().backward()
        assert found.grad is not None and expected.grad is not None
        torch.testing.assert_close(found.grad, expected.grad)
        assert mean.p.grad is not None and nah.p.grad is not None
        torch.testing.assert_close(mean.p.grad, nah.p.grad)
        assert not nah.p.grad.eq(0).all()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["nan", "nah", "nanil"])
@pytest.mark.parametrize(("num_units", "shape"), [(4, (2, 1)), (4, (3, 2)), (0, (2, 1)), (4, ())])
def test_another_last_size_than_num_units_is_refused(
    variant: str, num_units: int, shape: tuple[int, ...], training: bool
) -> None:
    """Beside p of another size torch would widen x in silence."""
    unit = make_activation("tanh", variant, num_units=num_units).train(training)
    width = shape[-1] if shape else 1
    for backend in ("auto", "eager"):
        unit.backend = backend
        with pytest.raises(ValueError, match=f"num_units={num_units}.* last size of x is {width}:"):
            unit(torch.ones(shape))
    one = make_activation("tanh", variant, num_units=num_units, p_shape="scalar").train(training)
    assert one(torch.ones(shape)).shape == shape
