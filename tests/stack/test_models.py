"""Models as others write them, against the plain loop on the same draws."""

from __future__ import annotations

import pytest
import torch
from stack_helpers import assert_same
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, replace_activations
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.kernels import library
from noisyexp.nn.noisy import NoisyModule

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")


def check(model: nn.Module, *inputs: Tensor, call: nn.Module | None = None) -> None:
    """Loss and gradients of the kernels, or of `call` by them, are those of the plain loop."""
    source, found = NoiseSource(2), []
    attach_noise(model, source)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # so that every unit saturates somewhere
    for backend in ("auto", "eager"):
        for module in model.modules():
            if isinstance(module, NoisyModule):
                module.backend = backend
        model.zero_grad()
        source.set_step(1)
        torch.manual_seed(7)
        loss = (model if call is None or backend == "eager" else call)(*inputs)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(float(grad.abs().max()) > 0 for grad in found[1])
    assert_same(*found, tolerance=1e-4)


class Decoder(nn.Module):
    """Loops a cell by hand, with attention by dot products over a memory (B, S, 8)."""

    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell = nn.Embedding(11, 8), cell(16, 8)
        self.query, self.output = nn.Linear(8, 8), nn.Linear(16, 11)

    def forward(self, memory: Tensor, words: Tensor) -> Tensor:
        h = context = memory.mean(1)
        state = (h, torch.zeros_like(h)) if isinstance(self.cell, nn.LSTMCell) else h
        loss = memory.new_zeros(())
        for now, following in zip(words.t()[:-1], words.t()[1:], strict=True):
            state = self.cell(torch.cat([self.embed(now), context], -1), state)
            h = state[0] if isinstance(state, tuple) else state
            weights = (memory @ self.query(h)[:, :, None]).softmax(1)
            context = (weights * memory).sum(1)
            loss = loss + functional.cross_entropy(
                self.output(torch.cat([h, context], -1)), following
            )
        return loss


@pytest.mark.parametrize("cell", [NoisyLSTMCell, NoisyGRUCell])
def test_an_attention_decoder_that_loops_cells(cell: type[nn.Module]) -> None:
    memory, words = torch.linspace(-9, 9, 240).view(5, 6, 8).sin() * 3, torch.arange(35) % 11
    check(Decoder(cell), memory, words.view(5, 7))


class WeightDrop(nn.Module):
    """Dropout on recurrent weights, as in language models: the layer gets a new one a call."""

    def __init__(self, layer: nn.Module, as_parameter: bool) -> None:
        super().__init__()
        self.layer, self.as_parameter = layer, as_parameter
        self.raw = nn.Parameter(layer._parameters.pop("weight_hh_l0").detach())
        self._give(self.raw.detach().clone())

    def _give(self, weight: Tensor) -> None:
        if self.as_parameter:
            self.layer._parameters["weight_hh_l0"] = weight  # type: ignore[assignment]
        else:
            self.layer.weight_hh_l0 = weight

    def forward(self, x: Tensor) -> Tensor:
        self._give(functional.dropout(self.raw, 0.5, self.training))
        total: Tensor = self.layer(x)[0].square().sum()
        return total

    def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
        return (p for p in super().parameters(recurse) if p.is_leaf)


@pytest.mark.parametrize("as_parameter", [False, True])
@pytest.mark.parametrize("layer", [NoisyLSTM, NoisyGRU])
def test_a_weight_dropped_layer(layer: type[nn.Module], as_parameter: bool) -> None:
    torch.manual_seed(0)
    check(WeightDrop(layer(5, 9), as_parameter), torch.linspace(-9, 9, 90).view(6, 3, 5).sin())


@pytest.mark.parametrize("as_parameter", [False, True])
def test_a_weight_dropped_layer_of_torch_is_not_replaced(as_parameter: bool) -> None:
    """The layer that replaced it would have a recurrent weight of its own."""
    model = WeightDrop(nn.LSTM(5, 9), as_parameter)
    with pytest.warns(UserWarning, match=r"layer \(LSTM\) left alone"):
        report = replace_activations(model, "nah")
    assert type(model.layer) is nn.LSTM and not report
    assert "weight_hh_l0 is made outside of it" in str(report)


class Tagger(nn.Module):
    """Sentences of different lengths, packed, through both directions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.output = nn.Embedding(20, 8), nn.Linear(14, 4)
        self.layer = NoisyLSTM(8, 7, bidirectional=True, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor, tags: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(words), lengths, batch_first=True, enforce_sorted=False
        )
        hidden, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        scores = self.output(hidden).flatten(0, 1)
        return functional.cross_entropy(scores, tags.flatten(), ignore_index=-1)


def test_a_compiled_tagger_with_packed_input() -> None:
    model, words = Tagger(), torch.arange(24).view(4, 6) % 20
    lengths, tags = torch.tensor([3, 6, 1, 4]), torch.arange(24).view(4, 6) % 4
    tags[torch.arange(6) >= lengths[:, None]] = -1
    check(model, words, lengths, tags, call=torch.compile(model, backend="aot_eager"))
