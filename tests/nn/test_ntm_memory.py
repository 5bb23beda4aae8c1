"""The memory against Graves's equations, written out as loops and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from noisyexp.nn.memory import (
    MemoryHeads,
    MemoryState,
    address,
    content_weights,
    sharpen,
    shift,
    write,
)

F64 = torch.float64


def one_hot(*places: int, size: int) -> Tensor:
    """(1, H, size): each head at one place."""
    return torch.eye(size)[list(places)].unsqueeze(0)


@pytest.fixture
def heads() -> MemoryHeads:
    torch.manual_seed(0)
    return MemoryHeads(7, rows=5, width=4, read_heads=2, write_heads=2).double()


def random_state(heads: MemoryHeads, batch: int) -> MemoryState:
    weights = torch.rand(batch, heads.read_heads + heads.write_heads, heads.rows, dtype=F64)
    return MemoryState(
        torch.randn(batch, heads.rows, heads.width, dtype=F64),
        weights / weights.sum(-1, keepdim=True),
        torch.randn(batch, heads.read_heads * heads.width, dtype=F64),
    )


# --- addressing


def test_content_is_the_softmax_of_cosines() -> None:
    memory = torch.tensor([[[3.0, 4.0], [0.0, -2.0], [5.0, 0.0]]])
    key, beta = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0]]])
    cosines = (0.6, 0.0, 1.0)
    total = sum(math.exp(2 * c) for c in cosines)
    found = content_weights(key, beta, memory)[0, 0]
    assert found.tolist() == pytest.approx([math.exp(2 * c) / total for c in cosines], abs=1e-6)


def test_a_strong_matching_key_finds_its_location() -> None:
    torch.manual_seed(1)
    memory = torch.randn(1, 16, 8)
    found = content_weights(0.1 * memory[:, 5:6], torch.full((1, 1, 1), 200.0), memory)
    torch.testing.assert_close(found, one_hot(5, size=16))


@pytest.mark.parametrize(("s", "place"), [((0, 0, 1), 3), ((0, 1, 0), 2), ((1, 0, 0), 1)])
def test_shift_moves_location_2(s: tuple[int, ...], place: int) -> None:
    """s holds the weights of -1, 0 and +1: mass on +1 moves location 2 to 3."""
    amount = torch.tensor(s, dtype=torch.float32).view(1, 1, 3)
    assert torch.equal(shift(one_hot(2, size=6), amount), one_hot(place, size=6))


def test_shift_wraps() -> None:
    forth, back = torch.tensor([[[0.0, 0.0, 1.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    assert torch.equal(shift(one_hot(5, size=6), forth), one_hot(0, size=6))
    assert torch.equal(shift(one_hot(0, size=6), back), one_hot(5, size=6))


def test_shift_is_the_convolution_of_the_paper() -> None:
    torch.manual_seed(2)
    w, s = torch.rand(7, dtype=F64), torch.rand(3, dtype=F64)
    by_amount = {(amount % 7): float(s[amount + 1]) for amount in (-1, 0, 1)}
    expected = [
        sum(float(w[j]) * by_amount.get((i - j) % 7, 0.0) for j in range(7)) for i in range(7)
    ]
    assert shift(w.view(1, 1, 7), s.view(1, 1, 3))[0, 0].tolist() == pytest.approx(expected)


def test_sharpening() -> None:
    w = torch.tensor([[[0.1, 0.2, 0.7]]])
    torch.testing.assert_close(sharpen(w, torch.ones(1, 1, 1)), w)
    powers = [0.1**3, 0.2**3, 0.7**3]
    found = sharpen(w, torch.full((1, 1, 1), 3.0))[0, 0]
    assert found.tolist() == pytest.approx([power / sum(powers) for power in powers], abs=1e-6)


def test_a_diffuse_weighting_survives_a_large_gamma() -> None:
    """As powers in float32 it would be 0 everywhere: 128^-40."""
    torch.manual_seed(3)
    w = torch.softmax(0.01 * torch.randn(1, 1, 128), -1)
    assert float((w**40).sum()) == 0.0
    found = sharpen(w, torch.full((1, 1, 1), 40.0))
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
    exact = w.double() ** 40
    torch.testing.assert_close(found.double(), exact / exact.sum(), rtol=1e-3, atol=0)


def test_sharpening_has_a_finite_gradient_at_empty_locations() -> None:
    w = one_hot(1, size=4).requires_grad_()
    gamma = torch.full((1, 1, 1), 12.0, requires_grad=True)
    sharpen(w, gamma)[0, 0, 1].backward()
    assert w.grad is not None and gamma.grad is not None
    assert bool(w.grad.isfinite().all()) and bool(gamma.grad.isfinite().all())


def test_a_closed_gate_keeps_the_weights(heads: MemoryHeads) -> None:
    state = random_state(heads, 3)
    settings = heads.settings(heads.map(torch.randn(3, 7, dtype=F64)))
    stay = torch.tensor([0.0, 1.0, 0.0], dtype=F64).expand(3, 4, 3)
    kept = settings._replace(
        gate=torch.zeros_like(settings.gate), s=stay, gamma=torch.ones_like(settings.gamma)
    )
    torch.testing.assert_close(address(kept, state.memory, state.weights), state.weights)
    opened = kept._replace(gate=torch.ones_like(settings.gate))
    content = content_weights(settings.key, settings.beta, state.memory)
    torch.testing.assert_close(address(opened, state.memory, state.weights), content)


def test_weights_sum_to_1(heads: MemoryHeads) -> None:
    state = random_state(heads, 3)
    weights = heads(10 * torch.randn(3, 7, dtype=F64), state).weights
    assert weights.shape == (3, 4, 5) and bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, dtype=F64))


# --- writing


def test_erase_comes_before_add() -> None:
    """w = e = 1 and a = v leaves exactly v; the other locations stay."""
    memory = torch.arange(12.0).view(1, 4, 3)
    v = torch.tensor([[[0.5, -1.0, 0.25]]])
    found = write(memory, one_hot(2, size=4), torch.ones(1, 1, 3), v)
    assert torch.equal(found[0, 2], v[0, 0])
    assert torch.equal(found[0, [0, 1, 3]], memory[0, [0, 1, 3]])


def test_several_heads_multiply_erasures_and_sum_adds() -> None:
    memory = torch.tensor([[[8.0], [8.0]]])
    weights = torch.tensor([[[0.5, 0.0], [0.5, 1.0]]])
    erase, add = torch.tensor([[[1.0], [0.5]]]), torch.tensor([[[2.0], [6.0]]])
    # Location 0: 8 (1 - .5)(1 - .25) + 1 + 3 = 7; location 1: 8 (1 - 0)(1 - .5) + 0 + 6 = 10.
    assert write(memory, weights, erase, add)[0, :, 0].tolist() == [7.0, 10.0]


# --- one step


def by_loops(heads: MemoryHeads, h: Tensor, state: MemoryState) -> MemoryState:
    """Graves et al. (2014), equations 2-9, for one episode, location by location."""
    rows, width, writers = heads.rows, heads.width, heads.write_heads
    total = writers + heads.read_heads
    raw = (heads.map.weight @ h + heads.map.bias).split(heads._sizes)
    add = torch.tanh(raw[0][: writers * width]).view(writers, width)
    key = torch.tanh(raw[0][writers * width :]).view(total, width)
    erase = torch.sigmoid(raw[1][: writers * width]).view(writers, width)
    gate = torch.sigmoid(raw[1][writers * width :])
    beta, gamma = softplus(raw[2][:total]), 1 + softplus(raw[2][total:])
    old, found = state.memory[0], torch.zeros(total, rows, dtype=F64)
    for head in range(total):
        cosine = torch.stack(
            [key[head] @ row / (key[head].norm() * row.norm() + 1e-12) for row in old]
        )
        content = torch.exp(beta[head] * cosine)
        content = content / content.sum()
        mixed = gate[head] * content + (1 - gate[head]) * state.weights[0, head]
        scores = raw[3].view(total, 3)[head].exp()
        s = dict(zip((-1, 0, 1), scores / scores.sum(), strict=True))
        for i in range(rows):
            moved = sum(mixed[(i - amount) % rows] * share for amount, share in s.items())
            found[head, i] = torch.as_tensor(moved) ** gamma[head]
        found[head] /= found[head].sum()
    new = old.clone()
    for w, e in zip(found[:writers], erase, strict=True):
        new = new * (1 - torch.outer(w, e))
    for w, a in zip(found[:writers], add, strict=True):
        new = new + torch.outer(w, a)
    reads = torch.cat([w @ new for w in found[writers:]])
    return MemoryState(new.unsqueeze(0), found.unsqueeze(0), reads.unsqueeze(0))


def test_a_step_equals_the_equations(heads: MemoryHeads) -> None:
    torch.manual_seed(4)
    state, h = random_state(heads, 3), 3 * torch.randn(3, 7, dtype=F64)
    with torch.no_grad():
        found = heads(h, state)
        for episode in range(3):
            one = slice(episode, episode + 1)
            expected = by_loops(heads, h[episode], MemoryState(*(part[one] for part in state)))
            for left, right in zip(found, expected, strict=True):
                torch.testing.assert_close(left[one], right, rtol=1e-6, atol=1e-9)


def test_gradient_of_a_step(heads: MemoryHeads) -> None:
    torch.manual_seed(5)
    state, h = random_state(heads, 2), torch.randn(2, 7, dtype=F64)

    def step(h: Tensor, memory: Tensor, weights: Tensor, map_weight: Tensor) -> tuple[Tensor, ...]:
        given = {"map.weight": map_weight}
        arguments = (h, MemoryState(memory, weights, state.reads))
        return tuple(torch.func.functional_call(heads, given, arguments))

    inputs = (h, state.memory, state.weights, heads.map.weight.detach())
    assert torch.autograd.gradcheck(step, [part.clone().requires_grad_() for part in inputs])


# --- the first state


def differences_after(heads: MemoryHeads, steps: int) -> float:
    """Largest difference between two rows of the memory after some writes."""
    torch.manual_seed(6)
    state = heads.first_state(2)
    with torch.no_grad():
        for _ in range(steps):
            state = heads(torch.randn(2, 7), state)
    return float((state.memory - state.memory[:, :1]).abs().max())


@pytest.mark.parametrize("init", ["random", "constant"])
def test_the_first_state_breaks_the_symmetry(init: str) -> None:
    torch.manual_seed(0)
    heads = MemoryHeads(7, 32, 4, 1, 1, init)
    state = heads.first_state(2)
    torch.testing.assert_close(state.weights.sum(-1), torch.ones(2, 2))
    if init == "constant":
        assert bool((state.memory == 1e-6).all())
    else:
        assert float(state.memory.abs().max()) <= 1 / 6 < 2 * float(state.memory.abs().max())
    assert differences_after(heads, 4) > 0.01


def test_a_symmetric_first_state_stays_symmetric() -> None:
    """What the learned first weights are for: without them every location stays alike."""
    heads = MemoryHeads(7, 32, 4, 1, 1, "constant")
    torch.nn.init.zeros_(heads.scores0)
    assert differences_after(heads, 8) == 0.0


def test_sizes_and_settings() -> None:
    heads = MemoryHeads(7, 32, 4, 3, 2)
    # Per head key, strength, gate, shifts, gamma; per write head erase and add.
    outputs = 5 * (4 + 1 + 1 + 3 + 1) + 2 * 2 * 4
    assert heads.map.weight.shape == (outputs, 7)
    with torch.no_grad():
        settings = heads.settings(heads.map(100 * torch.randn(6, 7)))
    assert settings.key.shape == (6, 5, 4) and settings.add.shape == (6, 2, 4)
    assert float(settings.key.abs().max()) <= 1 and float(settings.gamma.min()) >= 1
    assert float(settings.beta.min()) >= 0
    torch.testing.assert_close(settings.s.sum(-1), torch.ones(6, 5))
    with pytest.raises(ValueError, match="zeros"):
        MemoryHeads(7, 32, 4, 1, 1, "zeros")


def test_autocast_leaves_the_memory_alone() -> None:
    torch.manual_seed(7)
    heads = MemoryHeads(7, 32, 4, 1, 1)
    h, state = torch.randn(2, 7).bfloat16(), heads.first_state(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heads(h, state)
    for left, right in zip(found, heads(h.float(), state), strict=True):
        assert left.dtype == torch.float32 and torch.equal(left, right)
