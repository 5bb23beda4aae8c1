"""The plain loop and whatever else computes a layer, on the same weights, inputs and draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyLSTM
from noisyexp.activations import NoiseSource, attach_noise

LAYERS: dict[str, Any] = {"lstm": NoisyLSTM, "gru": NoisyGRU}
VARIANTS = ("hard", "nan", "nah", "nani", "nanil", "nanis")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make(cell: str, *args: Any, gain: float = 4.0, **kwargs: Any) -> Any:
    """A layer whose units saturate often."""
    torch.manual_seed(3)
    layer = LAYERS[cell](*args, **kwargs)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if not name.endswith(".p"):
                weight.mul_(gain)
    attach_noise(layer, NoiseSource(17))
    return layer


def tensors_of(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, nn.utils.rnn.PackedSequence):
        return [output.data]
    return [t for part in output for t in tensors_of(part)]


def run(layer: Any, backend: str, x: Any, hx: list[Tensor] | None) -> dict[str, Tensor]:
    """Outputs and the gradients of everything, with the draws of one step of one run."""
    layer.backend = backend
    for unit in layer.modules():
        if getattr(unit, "noise_source", None) is not None:
            unit.noise_source.set_step(5)
    layer.zero_grad()
    inputs = [t.detach().clone().requires_grad_() for t in (hx or [])]
    data = x if isinstance(x, Tensor) else x.data
    leaf = data.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    given = leaf if isinstance(x, Tensor) else x._replace(data=leaf)
    state: Any = None
    if inputs:
        state = inputs[0] if isinstance(layer, nn.GRU) else tuple(inputs)
    outputs = tensors_of(layer(given, state))
    generator = torch.Generator().manual_seed(1)  # of the CPU: one loss for all machines
    loss = sum(
        (out * torch.randn(out.shape, generator=generator, dtype=out.dtype).to(out.device)).sum()
        for out in outputs
    )
    assert isinstance(loss, Tensor)
    if loss.requires_grad:  # not without any step
        loss.backward()  # type: ignore[no-untyped-call]
    found = {f"output {k}": out.detach() for k, out in enumerate(outputs)}
    found["x"] = leaf.grad if leaf.grad is not None else torch.zeros(())
    found |= {f"state {k}": t.grad for k, t in enumerate(inputs) if t.grad is not None}
    found |= {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    return found


def compare(layer: Any, x: Any, hx: list[Tensor] | None = None) -> None:
    """Relative to the largest element; sums over p of many draws of both signs to their terms."""
    slow, fast = run(layer, "eager", x, hx), run(layer, "auto", x, hx)
    assert slow.keys() == fast.keys()
    data = x if isinstance(x, Tensor) else x.data
    for name, expected in slow.items():
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        if name.endswith(".p"):  # what is added up may be larger than the sum
            scale = max(scale, 0.05 if expected.numel() > 1 else 0.25)
        limit = TOLERANCE[data.dtype] * max(scale, 1e-3)
        torch.testing.assert_close(
            fast[name], expected, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}"
        )
