"""The compiled step of the memory against the plain code, values and gradients, and its edges."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from noisyexp.activations import ActivationSpec
from noisyexp.kernels import backend, cpu
from noisyexp.nn.memory import MemoryHeads, MemoryState
from noisyexp.tasks.ntm_recall import model as ntm_model
from noisyexp.tasks.ntm_recall.model import NTM

F32, F64 = torch.float32, torch.float64
# N, M, W, R: the paper's, one head each, fewer locations than a vector, no multiple of it, one row.
SIZES = [(128, 20, 4, 4), (128, 20, 1, 1), (37, 7, 3, 2), (5, 4, 2, 3), (1, 3, 1, 1)]
BATCH, INPUTS = 3, 6


@pytest.fixture(autouse=True)
def need_kernels() -> None:
    if cpu.library() is None:
        pytest.skip("no compiled kernels")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Tensor], list[Tensor]]]:
    """Values and gradients of one step, by the kernel or by the plain code."""

    def run(
        fused: bool, heads: MemoryHeads, h: Tensor, state: MemoryState, outputs: str = "mwr"
    ) -> tuple[list[Tensor], list[Tensor]]:
        monkeypatch.setenv(backend.SWITCH, "1" if fused else "0")
        inputs = [t.detach().clone().requires_grad_() for t in (h, state.memory, state.weights)]
        found = heads(inputs[0], MemoryState(inputs[1], inputs[2], state.reads))
        assert (type(found.memory.grad_fn).__name__ == "_MemoryBackward") == fused
        torch.manual_seed(9)
        weighted = [(part * torch.randn(part.shape, dtype=F64).to(part)).sum() for part in found]
        loss = sum(each for each, name in zip(weighted, "mwr", strict=True) if name in outputs)
        assert isinstance(loss, Tensor)
        wanted = [*inputs, heads.map.weight, heads.map.bias]
        return [*found], [*torch.autograd.grad(loss, wanted)]

    return run


def make(
    size: tuple[int, int, int, int], dtype: torch.dtype, scale: float = 2.0
) -> tuple[MemoryHeads, Tensor, MemoryState]:
    torch.manual_seed(0)
    rows, width, writers, readers = size
    heads = MemoryHeads(INPUTS, rows, width, readers, writers).to(dtype)
    weights = torch.rand(BATCH, writers + readers, rows, dtype=dtype) + 0.01
    state = MemoryState(
        torch.randn(BATCH, rows, width, dtype=dtype),
        weights / weights.sum(-1, keepdim=True),
        torch.zeros(BATCH, readers * width, dtype=dtype),
    )
    return heads, scale * torch.randn(BATCH, INPUTS, dtype=dtype), state


def assert_equal(
    found: tuple[list[Tensor], list[Tensor]],
    expected: tuple[list[Tensor], list[Tensor]],
    bound: float,
) -> None:
    """Apart by at most `bound` of the largest number of each tensor (of 1 where all are small)."""
    for left, right in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        size = max(1.0, float(right.detach().abs().max()))
        torch.testing.assert_close(left, right, rtol=0, atol=bound * size)


@pytest.mark.parametrize("outputs", ["mwr", "m", "w", "r"])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(
    size: tuple[int, int, int, int], outputs: str, steps: Callable[..., tuple[list, list]]
) -> None:
    """In float64 to 1e-10; a last step gives no gradient of its memory, others of all."""
    made = make(size, F64)
    assert_equal(steps(True, *made, outputs), steps(False, *made, outputs), 1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_float32(size: tuple[int, int, int, int], steps: Callable[..., tuple[list, list]]) -> None:
    """Both round; measured against the plain code in float64."""
    exact = make(size, F64)
    made = exact[0], exact[1].float(), MemoryState(*(part.float() for part in exact[2]))
    expected = steps(False, *exact)
    made[0].float()
    found = steps(True, *made)
    assert_equal(tuple([t.double() for t in side] for side in found), expected, 2e-5)


def extreme(name: str, heads: MemoryHeads, state: MemoryState) -> MemoryState:
    """Settings at their limits: the map gives its bias alone."""
    torch.nn.init.zeros_(heads.map.weight)
    bounded, opened, positive, shifts = heads.map.bias.detach().split(heads._sizes)
    heads_count = heads.read_heads + heads.write_heads
    keys = bounded[heads.write_heads * heads.width :]
    if name == "zero key":
        keys.zero_()
    elif name == "gamma near 1, then large":
        positive[heads_count:] = torch.linspace(-40, 60, heads_count)
    elif name == "beta 0, then large":
        positive[:heads_count] = torch.linspace(-800, 300, heads_count)
    elif name == "gates and erasures closed and open":
        opened.copy_(torch.linspace(-700, 700, len(opened)))
    elif name == "shifts without doubt":
        shifts.copy_(300 * torch.randn(len(shifts)).to(shifts))
    elif name == "empty locations":
        return state._replace(
            weights=torch.eye(heads.rows)[:heads_count].expand(BATCH, -1, -1).to(shifts)
        )
    elif name == "zero rows":
        memory = state.memory.clone()
        memory[:, ::2] = 0
        return state._replace(memory=memory)
    else:
        raise ValueError(name)
    return state


@pytest.mark.parametrize(
    "name",
    [
        "zero key", "gamma near 1, then large", "beta 0, then large", "empty locations",
        "gates and erasures closed and open", "shifts without doubt", "zero rows",
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [F64, F32])
def test_edges(name: str, dtype: torch.dtype, steps: Callable[..., tuple[list, list]]) -> None:
    heads, h, state = make((37, 7, 2, 3), dtype)
    state = extreme(name, heads, state)
    found, expected = steps(True, heads, h, state), steps(False, heads, h, state)
    assert all(bool(t.isfinite().all()) for t in [*found[0], *found[1]])
    assert_equal(found, expected, 1e-10 if dtype == F64 else 2e-4)


def test_not_a_number_stays(steps: Callable[..., tuple[list, list]]) -> None:
    heads, h, state = make((37, 7, 2, 3), F32)
    h[0, 0] = torch.nan
    for part in steps(True, heads, h, state)[0]:
        assert bool(part[0].isnan().any()) and bool(part[1:].isfinite().all())


def test_many_steps_from_the_first_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learned first state and the layout that steps hand on to each other."""
    torch.manual_seed(0)
    heads = MemoryHeads(INPUTS, 19, 5, 2, 2).double()
    inputs, results = torch.randn(6, BATCH, INPUTS, dtype=F64), []
    for switch in "10":
        monkeypatch.setenv(backend.SWITCH, switch)
        state, loss = heads.first_state(BATCH), torch.zeros((), dtype=F64)
        for h in inputs:
            state = heads(h, state)
            loss = loss + (state.reads**2).sum()
        parts = [heads.scores0, *heads.map.parameters()]
        results.append([loss, state.memory, *torch.autograd.grad(loss, parts)])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_threads_change_no_bit(steps: Callable[..., tuple[list, list]]) -> None:
    made = make((128, 20, 4, 4), F32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(steps(True, *made))
    finally:
        torch.set_num_threads(before)
    (values, _), (others, _) = results
    assert all(torch.equal(left, right) for left, right in zip(values, others, strict=True))
    for left, right in zip(results[0][1][:3], results[1][1][:3], strict=True):
        assert torch.equal(left, right)


def test_what_backward_needs_is_small() -> None:
    """The map's output, the weights and the memories: of the last three, the next step has two."""
    heads, h, state = make((128, 20, 4, 4), F32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        heads(h, state)
    memory, weights = state.memory.numel(), state.weights.numel()
    most = 2 * memory + 2 * weights + BATCH * heads.map.out_features + heads.map.weight.numel()
    assert sum(t.numel() for t in kept) <= most + h.numel()


def test_second_derivatives_are_an_error() -> None:
    heads, h, state = make((5, 4, 1, 1), F64)
    h.requires_grad_()
    (gradient,) = torch.autograd.grad(heads(h, state).reads.sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


def test_transforms_and_half_precision_take_the_plain_code() -> None:
    heads, h, state = make((5, 4, 1, 1), F32)

    def total(h: Tensor) -> Tensor:
        return heads(h, state).reads.sum()

    expected = torch.autograd.grad(total(h.requires_grad_()), h)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # said once a process
        torch.testing.assert_close(torch.func.grad(total)(h.detach()), expected)
        half = heads.bfloat16()
        small = MemoryState(*(part.bfloat16() for part in state))
        assert half(h.detach().bfloat16(), small).memory.dtype == torch.bfloat16


def test_several_python_threads_at_once() -> None:
    """Each call has a workspace of its own."""
    heads, h, state = make((128, 20, 4, 4), F32)
    with torch.no_grad():
        expected = heads(h, state)
    wrong: list[int] = []

    def work() -> None:
        with torch.no_grad():
            for turn in range(20):
                if not all(
                    torch.equal(a, b) for a, b in zip(heads(h, state), expected, strict=True)
                ):
                    wrong.append(turn)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("controller", ["feedforward", "lstm"])
def test_a_whole_machine(controller: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels and weight gradients made at the end, against the plain code step by step."""
    torch.manual_seed(0)
    machine = NTM(
        inputs=4, outputs=3, controller=controller, controller_size=8, rows=19, width=5,
        read_heads=2, write_heads=2, memory_init="random", spec=ActivationSpec("nah"),
    ).double()  # fmt: skip
    x, results = torch.randn(7, BATCH, 4, dtype=F64), []
    for switch in "10":
        monkeypatch.setenv(backend.SWITCH, switch)
        if switch == "0":
            monkeypatch.setattr(ntm_model, "shared_weights", contextlib.nullcontext)
        torch.manual_seed(5)
        loss = (machine(x, first=2) ** 2).sum()
        results.append([loss, *torch.autograd.grad(loss, [*machine.parameters()])])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)
