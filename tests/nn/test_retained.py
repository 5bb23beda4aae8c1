"""Several backward passes of one graph, one after another or at once; outputs that are changed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell
from noisyexp.kernels import cpu
from noisyexp.nn import fused

Sizes = tuple[int, int, int, int]
LAYERS = {"lstm": NoisyLSTM, "gru": NoisyGRU}
CELLS = {"lstm": NoisyLSTMCell, "gru": NoisyGRUCell}
needs_kernels = pytest.mark.skipif(cpu.library() is None, reason="no compiled kernels here")


def graph(
    cell: str, dtype: torch.dtype = torch.float32, sizes: Sizes = (30, 8, 8, 16), **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a noisy layer, and what it has gradients of; sizes: T, B, I, H."""
    torch.manual_seed(0)
    steps, batch, inputs, hidden = sizes
    layer = LAYERS[cell](inputs, hidden, variant="nah", **options).to(dtype)
    x = torch.randn(steps, batch, inputs, dtype=dtype, requires_grad=True)
    return layer(x)[0].square().sum(), [x, *layer.parameters()]


def again(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, wanted, retain_graph=True))


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert [torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)] == (
        [True] * len(theirs)
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", list(LAYERS))
def test_every_pass_has_the_same_bits(cell: str, dtype: torch.dtype, bias: bool) -> None:
    for sizes in ((6, 3, 4, 5), (12, 2, 4, 24)):
        loss, wanted = graph(cell, dtype, sizes, bias=bias, num_layers=2, bidirectional=True)
        expected = again(loss, wanted)
        for _ in range(2):
            assert_equal(again(loss, wanted), expected)


@pytest.mark.parametrize("cell", list(LAYERS))
def test_every_pass_has_the_same_bits_in_the_code_of_gpus(cell: str, device: torch.device) -> None:
    """Also with operands of half precision."""
    torch.manual_seed(0)
    layer = LAYERS[cell](4, 5, variant="nah", bidirectional=True).to(device)
    x = torch.randn(6, 3, 4, device=device)
    for half in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = layer(x)[0].float().square().sum()
        expected = again(loss, list(layer.parameters()))
        for _ in range(2):
            assert_equal(again(loss, list(layer.parameters())), expected)


@pytest.mark.parametrize("cell", list(LAYERS))
def test_gradcheck_as_it_is(cell: str) -> None:
    """Its default takes no difference at all between two passes."""
    torch.manual_seed(0)
    layer = LAYERS[cell](4, 5, num_layers=2, bidirectional=True, variant="hard").double()
    x = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], x)


@needs_kernels
@pytest.mark.parametrize("cell", list(LAYERS))
def test_a_pass_that_begins_while_another_runs(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first has read any gate, the second has done all its work."""
    loss, wanted = graph(cell)
    run, within = fused.backward_pass, []

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(fused, "backward_pass", run)
        within.extend(again(loss, wanted))
        return run(*arguments)

    expected = again(*graph(cell))
    monkeypatch.setattr(fused, "backward_pass", interrupted)
    outer = again(loss, wanted)
    assert_equal(outer, expected)
    assert_equal(within, expected)


@pytest.mark.parametrize("cell", list(LAYERS))
def test_threads_in_one_graph(cell: str) -> None:
    """Each has the gradients of one by itself, those of p too."""
    expected = again(*graph(cell))
    loss, wanted = graph(cell)
    found: list[list[Tensor]] = []

    def work() -> None:
        for _ in range(30):
            found.append(again(loss, wanted))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 90
    for one in found:
        assert_equal(one, expected)


@needs_kernels
@pytest.mark.parametrize("cell", list(LAYERS))
def test_an_output_changed_in_place_is_an_error_and_a_copy_is_not(cell: str) -> None:
    """Backward reads the output: torch says so, instead of wrong numbers."""
    layer, x = LAYERS[cell](4, 5), torch.randn(6, 3, 4)
    drop = nn.Dropout(0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        drop(layer(x)[0]).sum().backward()
    found = []
    for output in (lambda: drop(layer(x)[0].clone()), lambda: nn.Dropout(0.5)(layer(x)[0])):
        torch.manual_seed(2)
        found.append(list(torch.autograd.grad(output().sum(), list(layer.parameters()))))
    assert_equal(*found)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("cell", list(CELLS))
def test_states_of_a_cell_may_be_reset_in_place(cell: str, backend: str, batched: bool) -> None:
    """Between steps, as where an episode ends; the gradients are those of products with a mask."""
    torch.manual_seed(0)
    module = CELLS[cell](4, 5, variant="hard", backend=backend).double()
    x = torch.randn(5, *([3] if batched else []), 4, dtype=torch.float64)
    mask = torch.ones((*x.shape[1:-1], 5), dtype=torch.float64)
    mask[0] = 0.0

    def gradients(in_place: bool) -> list[Tensor]:
        state: Any = None
        total = x.new_zeros(())
        for step in x:
            state = module(step, state)
            parts = state if isinstance(state, tuple) else (state,)
            if in_place:
                for part in parts:
                    part[0] = 0
            else:
                parts = tuple(part * mask for part in parts)
                state = parts if isinstance(state, tuple) else parts[0]
            total = total + sum(part.sum() for part in parts)
        return list(torch.autograd.grad(total, list(module.parameters())))

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("cell", list(LAYERS))
def test_final_states_of_a_layer_may_be_reset_in_place(cell: str, backend: str) -> None:
    layer, x = LAYERS[cell](4, 5, variant="hard", backend=backend), torch.randn(6, 3, 4)
    output, final = layer(x)
    torch.manual_seed(0)
    expected = torch.autograd.grad(output.sum(), list(layer.parameters()), retain_graph=True)
    for part in final if isinstance(final, tuple) else (final,):
        part[:, 0] = 0
    assert_equal(list(torch.autograd.grad(output.sum(), list(layer.parameters()))), list(expected))
