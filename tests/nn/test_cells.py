"""Single steps against the layers, which are tested against torch and the equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell
from noisyexp.activations import NoiseSource, attach_noise

PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "lstm": (NoisyLSTMCell, NoisyLSTM, nn.LSTMCell),
    "gru": (NoisyGRUCell, NoisyGRU, nn.GRUCell),
}
cells = pytest.mark.parametrize("cell", ["lstm", "gru"])
backends = pytest.mark.parametrize("backend", ["auto", "eager"])


@cells
@backends
@pytest.mark.parametrize("variant", ["hard", "nah"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_loop_of_steps_is_a_layer(cell: str, backend: str, variant: str, bias: bool) -> None:
    """Without noise (evaluation: NAH has its expectation) values and gradients are the layer's."""
    cell_class, layer_class, _ = PAIRS[cell]
    kwargs = {"bias": bias, "dtype": torch.float64, "variant": variant, "backend": backend}
    layer, step = layer_class(3, 7, **kwargs).eval(), cell_class(3, 7, **kwargs).eval()
    state = {
        name.replace("_l0", "").replace(".l0", ""): v for name, v in layer.state_dict().items()
    }
    step.load_state_dict(state)
    x = torch.randn(6, 4, 3, dtype=torch.float64) * 3
    expected = layer(x)[0]
    outputs, hx = [], None
    for row in x:
        hx = step(row, hx)
        outputs.append(hx[0] if cell == "lstm" else hx)
    torch.testing.assert_close(torch.stack(outputs), expected)
    expected.square().sum().backward()
    torch.stack(outputs).square().sum().backward()
    for name, parameter in layer.named_parameters():
        own = step.get_parameter(name.replace("_l0", "").replace(".l0", ""))
        torch.testing.assert_close(own.grad, parameter.grad)


@cells
@pytest.mark.parametrize("variant", ["nan", "nah", "nani", "nanil", "nanis"])
def test_fused_steps_equal_the_equations(cell: str, variant: str) -> None:
    """With noise: the draws of the calls of one step of a run, in both backends."""
    step = PAIRS[cell][0](3, 9, variant=variant, alpha=1.15, c=2.0, dtype=torch.float64)
    source = NoiseSource(8)
    attach_noise(step, source)
    found: list[list[Tensor]] = []
    for backend in ("eager", "auto"):
        step.backend = backend
        step.zero_grad()
        source.set_step(3)
        torch.manual_seed(1)
        hx, total = None, torch.zeros((), dtype=torch.float64)
        for _ in range(4):
            hx = step(torch.randn(5, 3, dtype=torch.float64) * 6, hx)
            total = total + (hx[0] if cell == "lstm" else hx).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        found.append([total.detach(), *(p.grad.clone() for p in step.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@cells
def test_the_reference_is_torch(cell: str) -> None:
    cell_class, _, torch_class = PAIRS[cell]
    ours, theirs = cell_class(3, 5, variant="reference"), torch_class(3, 5)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert {n for n, _ in ours.named_parameters()} == {n for n, _ in theirs.named_parameters()}
    x = torch.randn(2, 3)
    for backend in ("auto", "eager"):
        ours.backend = backend
        torch.testing.assert_close(ours(x), theirs(x))


@cells
@backends
def test_unbatched_and_wrong_shapes(cell: str, backend: str) -> None:
    step = PAIRS[cell][0](3, 5, variant="nah", backend=backend).eval()
    x = torch.randn(1, 3)
    batched, alone = step(x), step(x[0])
    if cell == "lstm":
        batched, alone = batched[0], alone[0]
    torch.testing.assert_close(alone, batched[0])
    with pytest.raises(ValueError, match="input_size=3"):
        step(torch.randn(2, 4))
    wrong = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"state of shape \(2, 4\): expected \(2, 5\)"):
        step(torch.randn(2, 3), (wrong, wrong) if cell == "lstm" else wrong)


@cells
def test_arms_share_their_first_weights(cell: str) -> None:
    weights = []
    for variant in ("reference", "nah"):
        torch.manual_seed(0)
        step = PAIRS[cell][0](3, 5, variant=variant)
        weights.append([step.weight_ih, step.weight_hh, nn.Linear(2, 2).weight])
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))
