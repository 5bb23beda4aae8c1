"""torch.compile: numbers of eager code, fresh noise, one graph, few of them."""

from __future__ import annotations

import pytest
import torch
from stack_helpers import assert_same, first, gradients
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import pack_sequence

from noisyexp import NoisyGRU, NoisyGRUCell, NoisyLSTM, NoisyLSTMCell, make_activation
from noisyexp.activations import (
    ActivationSpec,
    NoiseSource,
    attach_noise,
    fused,
    set_noise_level,
)
from noisyexp.kernels import library
from noisyexp.nn.attention import AdditiveAttention

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

X = torch.linspace(-4, 4, 24).view(3, 2, 4).sin() * 3


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = AdditiveAttention(4, 6, ActivationSpec("nah"))
        self.keys = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention.weights(x[0], self.keys(x).transpose(0, 1))


def modules() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    eager = make_activation("tanh", "nan", 4)
    eager.backend = "eager"
    return {
        "lstm": (NoisyLSTM(4, 5, bidirectional=True), X),
        "gru": (NoisyGRU(4, 5, bias=False), X),
        "lstm_cell": (NoisyLSTMCell(4, 5), X[0]),
        "gru_cell": (NoisyGRUCell(4, 5), X[0]),
        "unit": (make_activation("tanh", "nah", 4), X),
        "scalar_p": (make_activation("sigmoid", "nan", 4, p_shape="scalar"), X),
        "without_p": (make_activation("tanh", "nani", 4), X),
        "plain_unit": (eager, X),
        "attention": (Attends(), X),
    }


AOT = ("lstm", "unit")
"""By AOTAutograd, a second or two each; the others as graphs that run eagerly."""


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "aot_eager" if name in AOT else "eager") for name in modules()),
        *(
            pytest.param(name, "aot_eager", marks=pytest.mark.slow)
            for name in modules()
            if name not in AOT
        ),
    ],
)
def test_a_whole_graph_gives_the_numbers_of_eager_code(
    name: str, backend: str, rnn_in_graphs: None
) -> None:
    """Noise included: a graph draws the keys that eager code draws, in training."""
    module, x = modules()[name]
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    assert_same(gradients(module, compiled, x), gradients(module, module, x))
    torch.manual_seed(1)
    one, two = first(compiled(x)), first(compiled(x))
    assert not torch.equal(one, two)
    torch.manual_seed(1)
    assert torch.equal(first(compiled(x)), one)
    module.eval()
    assert_same([first(compiled(x))], [first(module(x))])


@pytest.mark.parametrize("variant", ["nah", "nan", "nani", "nanil"])
def test_a_unit_in_a_graph_keeps_its_noise_for_backward_if_it_is_small(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of both ways are those of eager code."""
    module, x = make_activation("tanh", variant, 4), 2 * X
    expected = gradients(module, module, x)
    for limit, keeps in ((X.numel(), True), (X.numel() - 1, False)):
        monkeypatch.setattr(fused, "KEPT_NUMBERS", limit)
        torch._dynamo.reset()
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        assert_same(gradients(module, compiled, x), expected)
        assert fused.may_keep(module, x) is keeps


def test_a_source_decides_the_noise_of_a_graph(rnn_in_graphs: None) -> None:
    """By seed, step and call, of the source that is attached now."""
    module = NoisyGRU(4, 5)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for seed in (7, 8):
        source = NoiseSource(seed)
        attach_noise(module, source)
        found = []
        for call in (module, compiled):
            source.set_step(3)
            found.append([*gradients(module, call, X), *gradients(module, call, X)])
        assert_same(*found)
        assert not torch.equal(found[0][0], found[0][len(found[0]) // 2])


def test_few_graphs_for_all_lengths_batches_and_levels_of_noise(rnn_in_graphs: None) -> None:
    """One for the first shape, one for other lengths, one for other batches; c and alpha: none."""
    counter = CompileCounterWithBackend("eager")
    module = NoisyLSTM(4, 5)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    frames = []
    for steps, batch in ((5, 3), (6, 3), (7, 4), (9, 5), (20, 6), (2, 2)):
        for c in (0.5, 0.4, 0.3):
            set_noise_level(module, c)
            for unit in module.units["l0"].values():  # type: ignore[union-attr, operator]
                unit.alpha = 1.0 + c / 10
            x = torch.randn(steps, batch, 4)
            torch.manual_seed(1)
            value = first(compiled(x))
            torch.manual_seed(1)
            assert_same([value], [first(module(x))])
        frames.append(counter.frame_count)
    assert frames == [1, 2, 3, 3, 3, 3]


def test_without_allow_rnn_a_layer_runs_as_it_is() -> None:
    """torch keeps LSTM and GRU out of its graphs; no graphs are made of what is within either."""
    counter = CompileCounterWithBackend("eager")
    module = nn.Sequential(nn.Linear(4, 4), NoisyLSTM(4, 5))
    compiled = torch.compile(module, backend=counter)
    assert_same(gradients(module, compiled, X), gradients(module, module, X))
    ours = counter.frame_count
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    torch.compile(nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 5)), backend=counter)(X)
    assert ours == counter.frame_count == 0  # the frame that calls it runs as it is, too


@pytest.mark.parametrize("in_graph", [False, True])
def test_packed_sequences(in_graph: bool) -> None:
    """As far as torch's own layer: breaks of the graph, and the numbers of eager code."""
    module = NoisyLSTM(4, 5)
    packed = pack_sequence([torch.randn(n, 4) for n in (3, 1, 4)], enforce_sorted=False)
    with torch._dynamo.config.patch(allow_rnn=in_graph):
        compiled = torch.compile(module, backend="eager")
        found = []
        for call in (module, compiled):
            torch.manual_seed(0)
            output, state = call(packed)
            loss = output.data.square().sum() + state[1].sum()
            found.append([loss.detach(), *torch.autograd.grad(loss, list(module.parameters()))])
    assert_same(*found)


def test_second_derivatives_are_refused(rnn_in_graphs: None) -> None:
    compiled = torch.compile(make_activation("tanh", "nah", 4), backend="eager", fullgraph=True)
    x = X.clone().requires_grad_()
    (first_derivative,) = torch.autograd.grad(compiled(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivatives: .* backend='eager'"):
        first_derivative.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_compiled_modes_give_the_numbers_of_eager_code(mode: str, in_graph: bool) -> None:
    """By torch's own compiler; its speed is measured by `make bench`."""
    module, x = NoisyLSTM(64, 100), torch.randn(26, 64, 64)
    with torch._dynamo.config.patch(allow_rnn=in_graph):
        compiled = torch.compile(module, mode=mode)
        assert_same(gradients(module, compiled, x), gradients(module, module, x), 1e-4)
