"""The compiled kernels against the plain loop: values, gradients, masks, odd sizes, threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from equivalence import VARIANTS, compare, make, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from noisyexp import NoisyLSTM
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.kernels import library
from noisyexp.nn.products import copy_pays

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"alpha": 1.0, "c": 0.5},
        {"alpha": 0.9, "c": 1.0, "clip_output": True},
        {"alpha": 1.15, "c": 3.0, "code_compat": True},
        {"alpha": 1.15, "c": 3.0, "p_shape": "scalar"},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_every_variant(
    cell: str, variant: str, dtype: torch.dtype, kwargs: dict[str, Any], training: bool
) -> None:
    layer = make(cell, 5, 19, 2, variant=variant, dtype=dtype, bidirectional=True, **kwargs)
    compare(layer.train(training), torch.randn(4, 7, 5, dtype=dtype) * 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(["lstm", "gru"]),
    variant=st.sampled_from(VARIANTS),
    sizes=st.tuples(*[st.sampled_from([1, 3, 7, 16, 65])] * 3),
    steps=st.sampled_from([1, 2, 5, 18]),
    layers=st.integers(1, 3),
    flags=st.tuples(*[st.booleans()] * 4),
    state=st.booleans(),
)
def test_any_shape(
    cell: str,
    variant: str,
    sizes: tuple[int, int, int],
    steps: int,
    layers: int,
    flags: tuple[bool, bool, bool, bool],
    state: bool,
) -> None:
    batch, inputs, hidden = sizes
    bias, batch_first, bidirectional, strided = flags
    layer = make(
        cell, inputs, hidden, layers, bias=bias, batch_first=batch_first,
        bidirectional=bidirectional, variant=variant, dtype=torch.float64, alpha=1.15, c=2.0,
        gain=2.0,
    )  # fmt: skip
    shape = (batch, steps, inputs) if batch_first else (steps, batch, inputs)
    x = torch.randn(*shape, dtype=torch.float64)
    if strided:  # every second column of a larger array
        x = torch.randn(*shape[:-1], 2 * inputs, dtype=torch.float64)[..., ::2]
    rows = (layers * (2 if bidirectional else 1), batch, hidden)
    count = 2 if cell == "lstm" else 1
    hx = [torch.randn(rows, dtype=torch.float64) for _ in range(count)] if state else None
    compare(layer, x, hx)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("lengths", [[5, 3, 1], [1, 4, 4, 2, 6, 1, 3]])
def test_packed_sequences(cell: str, lengths: list[int]) -> None:
    layer = make(cell, 3, 18, 2, variant="nah", bidirectional=True, dtype=torch.float64, c=2.0)
    parts = [torch.randn(n, 3, dtype=torch.float64) for n in lengths]
    compare(layer, pack_sequence(parts, enforce_sorted=False))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_equal_finite_differences(cell: str) -> None:
    """Independently of the plain loop; p too. No unit sits at a kink for this seed."""
    layer = make(cell, 3, 5, variant="nan", dtype=torch.float64, alpha=1.15, c=2.0)
    source = NoiseSource(1)
    attach_noise(layer, source)
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> Tensor:
        source.set_step(0)
        given_values = dict(zip(names, values, strict=True))
        output: Tensor = torch.func.functional_call(layer, given_values, (x,))[0]
        return output

    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *values), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_retained_graph_goes_back_three_times(cell: str, bias: bool, bidirectional: bool) -> None:
    """Backward overwrites what forward kept, and makes it again."""
    layer = make(cell, 4, 9, bias=bias, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    output = layer(x, None)[0].square().sum()
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(output, inputs, retain_graph=True)
    torch.autograd.grad(output, inputs, retain_graph=True)
    third = torch.autograd.grad(output, inputs)
    for one, two in zip(first, third, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_partial_gradients(cell: str) -> None:
    """Only a state, or only the last step, is used; inputs may need no gradient."""
    layer = make(cell, 4, 9, variant="nah", dtype=torch.float64)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    results = []
    for backend in ("eager", "auto"):
        layer.backend = backend
        layer.units["l0"][next(iter(layer.unit_kinds))].noise_source.set_step(0)
        layer.zero_grad()
        final = layer(x)[1]
        (final if cell == "gru" else final[1]).sum().backward()
        results.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_threads_do_not_change_a_bit_of_the_kernels() -> None:
    """One step: the products are the same, and so are all sums of the kernels."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            layer = make("lstm", 2, 300, variant="nah", c=2.0)
            found = run(layer, "auto", torch.ones(1, 64, 2), None)
            results.append([v for k, v in found.items() if k.endswith(".p") or "output" in k])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_nan_goes_through() -> None:
    """A diverged model must not look healthy: NaN in x, in a weight or in p reaches the output."""
    for name in ("x", "weight_hh_l0", "units.l0.c.p"):
        layer, x = make("lstm", 2, 5, variant="nah", c=2.0, gain=8.0), torch.randn(6, 4, 2) * 5
        with torch.no_grad():
            (x if name == "x" else layer.get_parameter(name)).fill_(float("nan"))
        assert layer(x)[0].isnan().any(), name


def test_noise_is_fresh_in_training_and_absent_in_evaluation() -> None:
    layer = make("gru", 3, 8, variant="nah", c=2.0)
    attach_noise(layer, None)
    x = torch.randn(4, 5, 3) * 3
    torch.manual_seed(0)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(0)
    assert torch.equal(layer(x)[0], first) and not torch.equal(first, second)
    layer.backend = "eager"
    torch.manual_seed(0)
    torch.testing.assert_close(layer(x)[0], first)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_six_numbers_a_unit_and_step_are_kept_for_backward() -> None:
    """Four gates, the cell and the output; no noise."""
    layer = NoisyLSTM(32, 32, variant="nah")
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() if tensor.shape[:2] == (50, 8) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(torch.randn(50, 8, 32))
    assert kept == 50 * 8 * 32 * 6  # gates, cells and the output


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("rows", [40, 60])
def test_several_threads_with_and_without_a_copy_of_the_weights(cell: str, rows: int) -> None:
    """The product of a step by W_hh^T, see `products.copy_pays`, against the plain loop."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        layer = make(cell, 2, 30, variant="hard")
        assert copy_pays(rows, layer.weight_hh_l0) == (rows == 40)
        x = torch.randn(16, rows, 2)
        fast, plain = (run(layer, backend, x, None) for backend in ("auto", "eager"))
    finally:
        torch.set_num_threads(before)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=2e-4, atol=2e-5)
