"""The fused output layer and loss against torch's two calls, float64 and closed forms."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from noisyexp.kernels import bindings as K
from noisyexp.kernels import cpu
from noisyexp.kernels import matmul as M
from noisyexp.kernels.backend import SWITCH
from noisyexp.nn import output
from noisyexp.nn.output import linear_cross_entropy

SIZES = [(1, 3, 2), (37, 5, 41), (50, 8, 64), (23, 4, 131)]


@pytest.fixture(params=["kernel", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to do a block, in blocks of a few rows."""
    monkeypatch.setattr(output, "ROWS", 7)
    monkeypatch.setattr(cpu, "NEAR", 1)
    if request.param == "torch":
        monkeypatch.setattr(cpu, "library", lambda: None)
    elif cpu.library() is None:
        pytest.skip("no compiled kernels here")
    return str(request.param)


def case(rows: int, width: int, classes: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """hidden, weight, bias, targets (some -1), weights of rows."""
    torch.manual_seed(rows)
    hidden, weight = torch.randn(rows, width), torch.randn(classes, width)
    found = [part.to(dtype).requires_grad_() for part in (hidden, weight, torch.randn(classes))]
    targets = torch.randint(classes, (rows,))
    targets[2::5] = -1
    return [*found, targets, torch.rand(rows).to(dtype)]


def truth(
    parts: list[Tensor], weights: Tensor | float, floor: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, costs and hits by torch's own functions, in float64."""
    hidden, weight, bias = (part.double() for part in parts[:3])
    targets, kept = parts[3], parts[3] >= 0
    logits = linear(hidden, weight, bias)
    costs = cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    if floor:
        costs = torch.where(kept, -torch.log(torch.exp(-costs) + floor), 0.0)
    right = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return (costs * weights).sum(), costs, (right == logits.max(1).values) & kept


def gradients(total: Tensor, parts: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total, parts[:3]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(
    path: str, size: tuple[int, int, int], floor: float, dtype: torch.dtype
) -> None:
    parts = case(*size, dtype)
    weights = parts[4]
    for given in (weights, 0.05):
        found = linear_cross_entropy(*parts[:4], row_weight=given, ignore_index=-1, floor=floor)
        total, costs, hits = truth(parts, given, floor)
        tolerance: dict[str, Any] = {"check_dtype": False}
        tolerance |= {"rtol": 2e-5, "atol": 2e-6} if dtype == torch.float32 else {}
        torch.testing.assert_close(found.total, total, **tolerance)
        torch.testing.assert_close(found.costs, costs, **tolerance)
        assert torch.equal(found.hits, hits) and not found.costs.requires_grad
        for ours, theirs in zip(
            gradients(found.total, parts), gradients(total, parts), strict=True
        ):
            torch.testing.assert_close(ours, theirs, **tolerance)
        with torch.no_grad():
            plain = linear_cross_entropy(*parts[:4], row_weight=given, ignore_index=-1, floor=floor)
        assert torch.equal(plain.costs, found.costs) and torch.equal(plain.hits, found.hits)


def test_gradcheck(path: str) -> None:
    hidden, weight, bias, targets, weights = case(9, 4, 5)

    def total(*parts: Tensor) -> Tensor:
        return linear_cross_entropy(
            *parts, targets, row_weight=weights, ignore_index=-1, floor=1e-3
        ).total

    assert torch.autograd.gradcheck(total, (hidden, weight, bias))


def test_shapes_of_sequences_and_no_bias(path: str) -> None:
    hidden, weight, _, targets, weights = case(24, 5, 41)
    found = linear_cross_entropy(
        hidden.view(4, 6, 5), weight, None, targets.view(4, 6), ignore_index=-1,
        row_weight=weights.view(4, 6),
    )  # fmt: skip
    total, costs, _ = truth([hidden, weight, weight.new_zeros(41), targets], weights)
    torch.testing.assert_close(found.total, total)
    torch.testing.assert_close(found.costs, costs.view(4, 6))
    assert found.hits.shape == (4, 6)
    ours = torch.autograd.grad(found.total, (hidden, weight))
    for a, b in zip(ours, torch.autograd.grad(total, (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_frozen_parts_get_no_gradient_and_the_others_the_same(
    path: str, frozen: tuple[int, ...]
) -> None:
    parts = case(37, 5, 41)
    full = gradients(linear_cross_entropy(*parts[:4], ignore_index=-1).total, parts)
    for index in frozen:
        parts[index].requires_grad_(False)
    total = linear_cross_entropy(*parts[:4], ignore_index=-1).total
    rest = [k for k in range(3) if k not in frozen]
    assert total.requires_grad == bool(rest)
    if rest:
        total.backward()
    for index in range(3):
        if index in rest:
            assert torch.equal(parts[index].grad, full[index])
        else:
            assert parts[index].grad is None


def test_upstream_gradient_scales_exactly_and_a_second_backward_adds(path: str) -> None:
    parts = case(37, 5, 41, torch.float32)
    total = linear_cross_entropy(*parts[:4], ignore_index=-1).total
    first = torch.autograd.grad(total, parts[:3], retain_graph=True)
    again = torch.autograd.grad(total, parts[:3], retain_graph=True)
    half = torch.autograd.grad(total / 4, parts[:3], retain_graph=True)
    for a, b, c in zip(first, again, half, strict=True):
        assert torch.equal(a, b) and torch.equal(a / 4, c)
    total.backward(retain_graph=True)
    total.backward()
    for part, once in zip(parts, first, strict=False):
        assert torch.equal(part.grad, 2 * once)


def test_no_rows_and_all_ignored(path: str) -> None:
    hidden, weight, bias, _, _ = case(6, 5, 41)
    for rows, targets in ((0, torch.empty(0, dtype=torch.int64)), (6, torch.full((6,), -100))):
        found = linear_cross_entropy(hidden[:rows], weight, bias, targets)
        assert found.total == 0 and not found.hits.any()
        for gradient in torch.autograd.grad(found.total, (hidden, weight, bias)):
            assert not gradient.any()


def test_far_logits(path: str) -> None:
    """A bias of minus infinity forbids a class; a far logit costs its distance, no more or less."""
    weight = torch.zeros(70, 1, requires_grad=True)
    bias = torch.zeros(70)
    bias[1::2] = -math.inf
    bias[4] = 1e4
    found = linear_cross_entropy(
        torch.zeros(2, 1), weight, bias.requires_grad_(), torch.tensor([4, 0])
    )
    assert found.costs.tolist() == [0.0, 1e4] and found.hits.tolist() == [True, False]
    found.total.backward()
    expected = torch.zeros(70)
    expected[4], expected[0] = 1.0, -1.0
    torch.testing.assert_close(bias.grad, expected, rtol=0, atol=1e-30)


@pytest.mark.parametrize("classes", [5, 64, 200])
def test_nan_is_not_hidden(path: str, classes: int) -> None:
    for place in (0, classes - 1):
        bias = torch.zeros(classes)
        bias[place] = math.nan
        weight = torch.zeros(classes, 1, requires_grad=True)
        found = linear_cross_entropy(torch.ones(1, 1), weight, bias, torch.tensor([2]))
        assert bool(found.total.isnan())
        found.total.backward()
        assert bool(weight.grad.isnan().all())


def test_infinite_logits_do_not_pass(path: str) -> None:
    bias = torch.tensor([0.0, math.inf, 0.0])
    found = linear_cross_entropy(torch.ones(1, 1), torch.zeros(3, 1), bias, torch.tensor([1]))
    assert not bool(found.total.isfinite())


def test_ties_hit(path: str) -> None:
    """Logits 0, 2, 2: either of the two is right."""
    hidden, weight = torch.ones(3, 1), torch.tensor([[0.0], [2.0], [2.0]])
    found = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2]))
    assert found.hits.tolist() == [False, True, True]


def test_one_number_by_hand(path: str) -> None:
    """p = 1/4 of one class of two with logits 0 and ln 3: cost ln 4, gradient p - 1 and 3/4."""
    bias = torch.tensor([0.0, math.log(3.0)], requires_grad=True)
    weight = torch.zeros(2, 1, requires_grad=True)
    found = linear_cross_entropy(torch.full((1, 1), 2.0), weight, bias, torch.tensor([0]))
    found.total.backward()
    assert float(found.total.detach()) == pytest.approx(math.log(4.0))
    torch.testing.assert_close(bias.grad, torch.tensor([-0.75, 0.75]))
    torch.testing.assert_close(weight.grad, torch.tensor([[-1.5], [1.5]]))


def test_second_derivatives_are_refused_or_right(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = case(9, 4, 5)
    total = linear_cross_entropy(*parts[:4], ignore_index=-1).total
    (d,) = torch.autograd.grad(total, parts[1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives.*NOISYEXP_KERNELS=0"):
        d.square().sum().backward()
    monkeypatch.setenv(SWITCH, "0")
    hidden, weight, bias, targets, weights = parts
    assert torch.autograd.gradgradcheck(
        lambda *p: linear_cross_entropy(*p, targets, row_weight=weights, ignore_index=-1).total,
        (hidden, weight, bias),
    )


def test_transforms_and_compilation_get_the_plain_functions() -> None:
    parts = case(9, 4, 5)
    hidden, weight, bias, targets, _ = parts

    def total(w: Tensor) -> Tensor:
        fixed = hidden.detach(), w, bias.detach(), targets
        return linear_cross_entropy(*fixed, ignore_index=-1).total

    (expected,) = torch.autograd.grad(truth(parts, 1.0)[0], weight)
    torch.testing.assert_close(torch.func.grad(total)(weight.detach()), expected)
    compiled = torch.compile(total, backend="eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(weight), weight)
    torch.testing.assert_close(found, expected)


def test_checkpoint_gives_the_same_gradients() -> None:
    parts = case(37, 5, 41)

    def loss(hidden: Tensor) -> Tensor:
        return linear_cross_entropy(hidden.tanh(), *parts[1:4], ignore_index=-1).total

    expected = torch.autograd.grad(loss(parts[0]), parts[:3])
    total = torch.utils.checkpoint.checkpoint(loss, parts[0], use_reentrant=False)
    for a, b in zip(torch.autograd.grad(total, parts[:3]), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (torch.tensor([0, 5]), IndexError, "target 5 is no class: they are 0 to 4"),
        (torch.tensor([-2, 0]), IndexError, "target -2 is no class"),
        (torch.tensor([[0, 1]]), ValueError, r"targets of shape \(1, 2\).*expected \(2,\)"),
        (torch.tensor([0.0, 1.0]), ValueError, "torch.float32: expected.*torch.int64"),
    ],
)
def test_mistakes(targets: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        linear_cross_entropy(torch.zeros(2, 3), torch.zeros(5, 3), None, targets)


def test_sums_do_not_depend_on_threads() -> None:
    library = cpu.library()
    if library is None:
        pytest.skip("no compiled kernels here")
    torch.manual_seed(0)
    logits, ids, found = torch.randn(61, 333), torch.randint(333, (61,)), []
    for threads in (1, 2, 7):
        d, costs, sums = logits.clone(), torch.empty(61), torch.zeros(K.CHUNKS, 333)
        arrays = (d, ids, torch.ones(61)), (costs, torch.empty(61, dtype=torch.bool), sums)
        before, after = ([t.data_ptr() for t in group] for group in arrays)
        size = ctypes.byref(K.Shape(1, 61, 333, threads))
        library.cross_entropy_f(size, *before, 0.0, *after)
        found.append(torch.cat([d.flatten(), costs, sums.flatten()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


class _Largest(TorchFunctionMode):
    """The largest storage that any function of torch gives, in bytes."""

    nbytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                self.nbytes = max(self.nbytes, one.untyped_storage().nbytes())
        return found


def test_logits_are_never_whole_in_memory() -> None:
    """Of 1200 x 16 x 20000, 92 MiB of logits, a few rows at a time."""
    hidden = torch.randn(1200, 16, requires_grad=True)
    layer, targets = nn.Linear(16, 20000), torch.randint(20000, (1200,))
    with _Largest() as largest:
        linear_cross_entropy(hidden, layer.weight, layer.bias, targets).total.backward()
    assert layer.weight.nbytes < largest.nbytes < 1200 * 20000 * 4 / 4


@pytest.mark.parametrize("form", ["rounded", "off"])
@pytest.mark.parametrize("module", ["autocast", "bf16"])
def test_half_precision_rounds_operands_alone(
    form: str, module: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs are those of rounded operands in float64, or of operands as they are.

    Gradients differ by the rounding of the gradient of logits, which is an operand too.
    """
    monkeypatch.setenv(M.SWITCH, "off" if path == "torch" else form)
    parts = case(200, 64, 500, torch.float32)
    rounds = M.form() is not None
    if module == "bf16":
        rounds = True
        parts[:3] = [part.detach().bfloat16().requires_grad_() for part in parts[:3]]
    with torch.autocast("cpu", torch.bfloat16, enabled=module == "autocast"):
        found = linear_cross_entropy(*parts[:4], ignore_index=-1)
    assert found.total.dtype == found.costs.dtype == torch.float32
    near = [part.detach().bfloat16() if rounds else part.detach() for part in parts[:2]]
    near = [part.double().requires_grad_() for part in (*near, parts[2].detach())]
    total, costs, _ = truth([*near, parts[3]], 1.0)
    torch.testing.assert_close(found.costs, costs.float(), rtol=1e-5, atol=1e-5)
    for a, b, given in zip(
        gradients(found.total, parts), gradients(total, near), parts, strict=False
    ):
        assert a.dtype == given.dtype
        assert float(((a - b).norm() / b.norm()).detach()) < 5e-3


def test_dtypes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"hidden is torch.float32 and weight torch.float64"):
        linear_cross_entropy(torch.zeros(1, 2), torch.zeros(3, 2).double(), None, torch.tensor([0]))


def test_fp16_keeps_small_gradients() -> None:
    """Weights of rows far below fp16's smallest number: gradients still have all their digits."""
    parts = case(60, 16, 300, torch.float32)
    with torch.autocast("cpu", torch.float16):
        small = linear_cross_entropy(*parts[:4], row_weight=1e-9, ignore_index=-1)
    expected = gradients(truth(parts, 1e-9)[0], parts)
    for a, b in zip(gradients(small.total, parts), expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 2e-3
