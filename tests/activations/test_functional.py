"""The equations against test vectors, closed forms and the identities that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisyexp.activations import functional as F

Blocks = Callable[[str], Iterator[tuple[dict[str, Any], dict[str, Tensor]]]]
KINDS = list(F.KINDS.values())
quick = settings(deadline=None, max_examples=60, derandomize=True, database=None)

kinds = st.sampled_from(KINDS)
inputs = st.floats(-50, 50)
draws = st.floats(-6, 6)
slopes = st.floats(-5, 5)
scales = st.floats(0, 30)
alphas = st.sampled_from([0.9, 1.0, 1.05, 1.15])


def f64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(actual: Tensor, expected: Any, atol: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64).expand(actual.shape)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def slopes_of(function: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
    """Value of an elementwise function and its slope in each of its arguments."""
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    value = function(*leaves)
    grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return value.detach(), *(
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, grads, strict=True)
    )


def written_out(
    variant: str, kind: F.Kind, x: float, xi: float, p: float, alpha: float, c: float
) -> float:
    """The paper's five units in plain Python, sigma in the form (c/4) tanh(p Delta / 2)^2."""
    low, top, threshold = (-1.0, 1.0, 1.0) if kind.name == "tanh" else (0.0, 1.0, 2.0)

    def u(v: float) -> float:
        return v if kind.name == "tanh" else v / 4 + 0.5

    def h(v: float) -> float:
        return min(max(u(v), low), top)

    sigma = c / 4 * math.tanh(p * (h(x) - u(x)) / 2) ** 2
    if variant in ("nan", "nah"):
        sign_x = 1 if x >= 0 else -1
        sign_alpha = 1 if 1 - alpha >= 0 else -1
        eps = xi if variant == "nan" else abs(xi)
        return alpha * h(x) + (1 - alpha) * u(x) - sign_x * sign_alpha * sigma * eps
    if variant == "nanil":
        return h(x + sigma * xi)
    return h(x + c * xi) if variant == "nani" or abs(x) >= threshold else h(x)


def call(
    variant: str, kind: F.Kind, x: Tensor, xi: Tensor, p: Tensor, alpha: float, c: float
) -> Tensor:
    if variant == "nanil":
        return F.nanil(x, xi, p, kind, c=c)
    if variant in ("nan", "nah"):
        return getattr(F, variant)(x, xi, p, kind, alpha=alpha, c=c)
    return getattr(F, variant)(x, xi, kind, sigma=c)


@pytest.mark.parametrize("block", ["paper_NAN", "paper_NAH", "code_NAN", "code_NAH"])
def test_vectors_of_noise_at_the_output(blocks: Blocks, block: str) -> None:
    source, variant = block.split("_")
    for row, v in blocks(block):
        kind = F.KINDS[row["act"]]
        extra = {"code_compat": source == "code"} if variant == "NAN" else {}
        fixed = {"alpha": row["alpha"], "c": row["c"], **extra}
        function = F.nan if variant == "NAN" else F.nah
        xi = v["xi"]
        phi, dx, dp = slopes_of(lambda x, p: function(x, xi, p, kind, **fixed), v["x"], v["p"])  # noqa: B023
        close(phi, v["phi"])
        close(dx, v["dphi_dx"])
        close(dp, v["dphi_dp"])


@pytest.mark.parametrize("variant", ["NANI", "NANIS"])
def test_vectors_of_fixed_noise_at_the_input(blocks: Blocks, variant: str) -> None:
    function = getattr(F, variant.lower())
    for row, v in blocks(variant):
        kind, xi = F.KINDS[row["act"]], v["xi"]
        phi, dx = slopes_of(lambda x: function(x, xi, kind, sigma=row["c"]), v["x"])  # noqa: B023
        close(phi, v["paper"])
        close(dx, v["paper_dx"])
        if variant == "NANI":
            close(phi, v["code"])


@pytest.mark.parametrize("column", ["paper", "code"])
def test_vectors_of_learned_noise_at_the_input(blocks: Blocks, column: str) -> None:
    for row, v in blocks("NANIL"):
        kind, xi, compat = F.KINDS[row["act"]], v["xi"], column == "code"
        phi, dx, dp = slopes_of(
            lambda x, p: F.nanil(x, xi, p, kind, c=row["c"], code_compat=compat),  # noqa: B023
            v["x"],
            v["p"],
        )
        close(phi, v[column])
        close(dx, v[f"{column}_dx"])
        close(dp, v[f"{column}_dp"])


# act, alpha, c, p, x, xi; then (phi, dphi/dx, dphi/dp) of NAH, of NAN (None: as NAH), and of NAN
# in the authors' code ("nah" or "paper": as that one), to eight digits.
EXCERPT: list[tuple[Any, ...]] = [
    ("tanh", 1, .5, 1, 3, .4, (.97099872, -.01599250, -.03198500), None, "nah"),
    ("tanh", 1, .5, 1, 3, -1.3, (.90574583, -.05197563, -.10395125),
     (1.09425417, .05197563, .10395125), "paper"),
    ("tanh", 1.15, .5, 1, 3, .4, (.72900128, -.13400750, .03198500), None,
     (.67099872, -.16599250, -.03198500)),
    ("tanh", 1.15, .5, -1, 3, .4, (.72900128, -.13400750, -.03198500), None,
     (.67099872, -.16599250, .03198500)),
    ("tanh", 1.15, .5, .5, -3, -1.3, (-.73470224, -.12047123, -.11811507),
     (-.66529776, -.17952877, .11811507), "nah"),
    ("tanh", 1.15, .5, 1, -6, 2, (-.49335194, -.14344093, -.03279534), None,
     (-.00664806, -.15655907, .03279534)),
    ("tanh", .9, .5, 1, 1.5, 2, (1.03500371, .04244321, -.02877840), None, "nah"),
    ("tanh", .9, .25, 1, -2, -1.3, (-1.08264888, .07047123, .02952877),
     (-1.11735112, .12952877, -.02952877), "paper"),
    ("tanh", 1.15, .5, 1, .5, 2, (.5, 1, 0), None, "nah"),
    ("sigmoid", 1, .25, 1, 3, .4, (.99961341, -.00076519, -.00076519), None, "nah"),
    ("sigmoid", 1.1, .25, 1, 6, .4, (.90533881, -.02272856, .00908577), None,
     (.89466119, -.02727144, -.00908577)),
    ("sigmoid", 1.1, .25, 1, -6, -1.3, (.08264888, -.01761781, -.02952877),
     (.11735112, -.03238219, .02952877), "nah"),
    ("sigmoid", 1.15, 1, -1, -3, 2, (.02976817, -.02219624, .01530376), None,
     (.04523183, -.05280376, -.01530376)),
    ("sigmoid", .9, .5, .5, 6, 2, (1.08500371, .01780540, -.05755679), None, "nah"),
    ("sigmoid", 1.1, .25, 1, 1.5, 2, (.875, .25, 0), None, "nah"),
]  # fmt: skip


@pytest.mark.parametrize("row", EXCERPT, ids=lambda row: "-".join(map(str, row[:6])))
def test_excerpt_of_the_specification(row: tuple[Any, ...]) -> None:
    name, alpha, c, p, x, xi, nah, nan, code = row
    nan = nah if nan is None else nan
    code = {"nah": nah, "paper": nan}.get(code, code) if isinstance(code, str) else code
    kind, draw, fixed = F.KINDS[name], f64(xi), {"alpha": alpha, "c": c}
    leaves = f64(float(x)), f64(float(p))
    for function, expected in (
        (lambda x, p: F.nah(x, draw, p, kind, **fixed), nah),
        (lambda x, p: F.nan(x, draw, p, kind, **fixed), nan),
        (lambda x, p: F.nan(x, draw, p, kind, **fixed, code_compat=True), code),
    ):
        close(torch.stack(slopes_of(function, *leaves)), f64(expected), atol=6e-9)


@quick
@given(
    st.sampled_from(["nan", "nah", "nani", "nanil", "nanis"]),
    kinds, inputs, draws, slopes, alphas, scales,
)  # fmt: skip
def test_every_unit_equals_its_equation(
    variant: str, kind: F.Kind, x: float, xi: float, p: float, alpha: float, c: float
) -> None:
    expected = written_out(variant, kind, x, xi, p, alpha, c)
    close(call(variant, kind, f64(x), f64(xi), f64(p), alpha, c), expected)


@pytest.mark.parametrize(
    ("name", "c", "x", "sigma"),
    [
        ("tanh", 0.5, 1.5, 0.0075), ("tanh", 0.5, 2.0, 0.0267),
        ("tanh", 0.5, 3.0, 0.0725), ("tanh", 0.5, 6.0, 0.1217),
        ("sigmoid", 0.15, 3.0, 0.0006), ("sigmoid", 0.15, 4.0, 0.0022),
        ("sigmoid", 0.15, 6.0, 0.0080),
    ],
)  # fmt: skip
def test_typical_noise_scales(name: str, c: float, x: float, sigma: float) -> None:
    for sign in (1, -1):
        actual = F.noise_scale(F.delta(f64(sign * x), F.KINDS[name]), f64(1.0), c)
        close(actual, sigma, atol=5e-5)


@quick
@given(kinds, inputs, slopes, scales)
def test_noise_scale_is_even_in_p_and_at_most_a_quarter_of_c(
    kind: F.Kind, x: float, p: float, c: float
) -> None:
    excess = F.delta(f64(x), kind)
    sigma = F.noise_scale(excess, f64(p), c)
    assert 0 <= sigma <= c / 4
    close(F.noise_scale(excess, f64(-p), c), sigma)


def test_noise_scale_near_the_threshold() -> None:
    """c (p Delta)^2 / 16 in the limit: 0.000625 for p = 0.5, Delta = 0.2, where it is 0.000624."""
    sigma = float(F.noise_scale(f64(0.2), f64(0.5), 1.0))
    assert sigma == pytest.approx(0.000624, abs=5e-7) and sigma < 0.5**2 * 0.2**2 / 16
    near = float(F.noise_scale(f64(-0.002), f64(0.5), 1.0))
    assert near == pytest.approx(0.5**2 * 0.002**2 / 16, rel=1e-6)


def test_slope_of_the_noise_scale_peaks_where_computed() -> None:
    """|sigma'| <= 0.0962 c |p| |u'|, reached at |p Delta| = 1.317."""
    c, p = 0.5, 1.7
    for kind in KINDS:
        x = torch.linspace(kind.threshold, kind.threshold + 40, 400_001, dtype=torch.float64)
        _, slope = slopes_of(lambda x, kind=kind: F.noise_scale(F.delta(x, kind), f64(p), c), x)
        largest = slope.abs().argmax()
        assert slope[largest] == pytest.approx(0.0962 * c * p * kind.slope, rel=1e-3)
        assert abs(p * F.delta(x, kind)[largest]) == pytest.approx(1.317, abs=1e-3)


@quick
@given(kinds, st.floats(-1, 1), draws, st.floats(-1e3, 1e3), alphas, scales)
def test_inside_the_linear_range_there_is_no_noise(
    kind: F.Kind, part: float, xi: float, p: float, alpha: float, c: float
) -> None:
    x = f64(part * kind.threshold)
    expected = F.hard(x, kind)
    for variant in ("nan", "nah", "nanil"):
        close(call(variant, kind, x, f64(xi), f64(p), alpha, c), expected, atol=1e-15)
        _, slope = slopes_of(lambda x, v=variant: call(v, kind, x, f64(xi), f64(p), alpha, c), x)
        close(slope, kind.slope, atol=1e-15)


@quick
@given(kinds, inputs.filter(bool), draws, slopes, alphas, scales)
def test_units_are_odd_around_their_centre(
    kind: F.Kind, x: float, xi: float, p: float, alpha: float, c: float
) -> None:
    """tanh: phi(-x) = -phi(x); sigmoid: phi(-x) = 1 - phi(x). Noise at the input turns with x."""
    total = kind.low + kind.high
    for variant in ("nan", "nah", "nani", "nanil", "nanis"):
        turned = xi if variant in ("nan", "nah") else -xi
        one = call(variant, kind, f64(x), f64(xi), f64(p), alpha, c)
        other = call(variant, kind, f64(-x), f64(turned), f64(p), alpha, c)
        close(one + other, total)


@quick
@given(kinds, inputs, draws, slopes, alphas, scales)
def test_the_sign_of_p_matters_not(
    kind: F.Kind, x: float, xi: float, p: float, alpha: float, c: float
) -> None:
    for variant in ("nan", "nah", "nanil"):
        one, other = (
            slopes_of(
                lambda x, p, v=variant: call(v, kind, x, f64(xi), p, alpha, c),
                f64(x),
                f64(sign * p),
            )
            for sign in (1, -1)
        )
        close(other[0], one[0])
        close(other[1], one[1])
        close(other[2], -one[2])


def test_released_nanil_departs_from_the_paper() -> None:
    """It is noisy in the linear range (c ln 2) and depends on the sign of p."""
    x, xi = f64([0.5, 3.0]), f64([0.4, -1.3])
    noisy = F.nanil(x, xi, f64(1.0), F.TANH, c=0.25, code_compat=True)
    assert noisy[0].item() == pytest.approx(0.5 + 0.25 * math.log(2) * 0.4, abs=1e-12)
    flipped = F.nanil(x, xi, f64(-1.0), F.TANH, c=5.0, code_compat=True)
    assert flipped[1] != F.nanil(x, xi, f64(1.0), F.TANH, c=5.0, code_compat=True)[1]


def test_hard_units_are_clipped_lines_and_not_the_hardsigmoid_of_torch() -> None:
    x = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    assert torch.equal(F.hard(x, F.TANH), torch.clip(x, -1, 1))
    assert torch.equal(F.hard(x, F.SIGMOID), torch.clip(0.25 * x + 0.5, 0, 1))
    assert F.hard(f64(1.0), F.SIGMOID) == 0.75
    assert F.hard(f64(2.0), F.SIGMOID) == 1.0 and F.hard(f64(-2.0), F.SIGMOID) == 0.0
    difference = F.hard(x, F.SIGMOID) - torch.nn.functional.hardsigmoid(x)
    assert difference.abs().max() == pytest.approx(1 / 6, abs=1e-3)  # at |x| = 2


def test_linearisation_is_the_tangent_of_the_soft_unit_at_zero() -> None:
    for kind, soft in ((F.TANH, torch.tanh), (F.SIGMOID, torch.sigmoid)):
        value, slope = slopes_of(soft, f64(0.0))
        x = f64([-3.0, 0.0, 0.7])
        close(F.linear(x, kind), value + slope * x, atol=0)


@quick
@given(st.floats(2.01, 40), st.floats(0.1, 4), scales)
def test_alpha_decides_on_which_side_of_the_line_the_noise_lies(
    x: float, p: float, c: float
) -> None:
    """For x > 0 NAH pushes inward at alpha <= 1 and outward at alpha > 1; mirrored for x < 0."""
    for kind in KINDS:
        for alpha, side in ((0.9, -1), (1.0, -1), (1.0 + 1e-9, 1), (1.15, 1)):
            for sign in (1, -1):
                v = f64(sign * x)
                push = F.nah(v, f64(1.0), f64(p), kind, alpha=alpha, c=c) - F.leaky(v, kind, alpha)
                expected = F.noise_scale(F.delta(v, kind), f64(p), c) * side * sign
                close(push, expected)


def test_alpha_other_than_one_ends_hard_saturation() -> None:
    close(F.nan_expected(f64([1 + 1 / 0.15, -1 - 1 / 0.15]), F.TANH, alpha=1.15), 0.0, 1e-14)
    close(F.nan_expected(f64(22.0), F.SIGMOID, alpha=1.1), 0.5)
    close(F.nan_expected(f64(10.0), F.SIGMOID, alpha=0.9), 0.9 + 0.1 * 3)
    close(F.nan_expected(f64(10.0), F.SIGMOID, alpha=1.0), 1.0)


def test_alpha_above_one_folds_back_and_the_mean_of_nah_too() -> None:
    """The slope beyond the thresholds is 1 - alpha, times that of u; below 0 it folds back."""
    for kind in KINDS:
        for alpha in (0.85, 1.0, 1.15):
            _, slope = slopes_of(lambda x, k=kind, a=alpha: F.leaky(x, k, a), f64([3.0, -3.0]))
            close(slope, (1 - alpha) * kind.slope, 1e-15)
    close(F.leaky(f64(3.0), F.TANH, 1.15), 0.7, 1e-15)
    # sigma(3) = (c/4) tanh(1)^2, its slope -(c/4) tanh(1) / cosh(1)^2 towards the threshold.
    mean = lambda x: F.nah_expected(x, f64(1.0), F.TANH, alpha=1.0, c=0.5)  # noqa: E731
    _, slope = slopes_of(mean, f64(3.0))
    constant = math.sqrt(2 / math.pi) * 0.125
    close(slope, -constant * math.tanh(1) / math.cosh(1) ** 2)
    close(mean(f64(50.0)), 1 - constant)  # 0.2 c below the hard unit, and no further


def test_penalized_tanh() -> None:
    x = f64([-40.0, -1.0, -1e-9, 0.0, 1e-9, 2.0])
    value, slope = slopes_of(F.penalized_tanh, x)
    close(value, [-0.25, -0.25 * math.tanh(1), -2.5e-10, 0.0, 1e-9, math.tanh(2)], 1e-15)
    close(slope, [0.0, 0.25 / math.cosh(1) ** 2, 0.25, 0.25, 1.0, 1 / math.cosh(2) ** 2], 1e-15)


def test_remarks_of_the_paper_in_numbers() -> None:
    """The logistic's fixed point is 0.659 (the paper has 0.69), the hard sigmoid's 2/3."""
    soft = hard = f64(0.0)
    for _ in range(60):
        soft, hard = torch.sigmoid(soft), F.hard(hard, F.SIGMOID)
    assert soft.item() == pytest.approx(0.659046068, abs=1e-9)
    assert hard.item() == pytest.approx(2 / 3, abs=1e-12)
    # The noise is not proportional to the saturation: square of it near the threshold, then flat.
    small, large = (F.noise_scale(f64([d, 2 * d]), f64(1.0), 0.5) for d in (1e-4, 40.0))
    assert (small[1] / small[0]).item() == pytest.approx(4.0, abs=1e-6)
    close(large, 0.125)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_scale_of_half_precision_keeps_its_digits(dtype: torch.dtype) -> None:
    """In half precision g - 1/2 loses the small scales, here sigma = 0.5 (g(0.05) - 1/2)^2."""
    excess = torch.tensor([-0.0625, -0.5, -2.0], dtype=dtype)  # exact in both formats
    p = torch.tensor(0.75, dtype=dtype)
    sigma = F.noise_scale(excess, p, 0.5)
    assert sigma.dtype == torch.float32
    exact = [0.5 / 4 * math.tanh(0.75 * d / 2) ** 2 for d in (0.0625, 0.5, 2.0)]
    torch.testing.assert_close(sigma, torch.tensor(exact), rtol=1e-4, atol=0)
