"""All steps of the machine at once against the same steps one after another: numbers, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.kernels import backend, cpu
from noisyexp.nn import fused_machine
from noisyexp.tasks.ntm_recall import model as ntm_model
from noisyexp.tasks.ntm_recall.model import NTM

F64 = torch.float64
VARIANTS = ("reference", "hard", "nan", "nah", "nah_mean", "nani", "nanil", "nanis")
STEPS, BATCH, FIRST = 6, 3, 2


@pytest.fixture(autouse=True)
def need_kernels() -> None:
    if cpu.library() is None:
        pytest.skip("no compiled kernels")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each pass that all its steps made at once: whether it keeps the unit's slopes."""
    seen: list[bool] = []
    whole = fused_machine._Machine.forward

    def forward(ctx: Any, call: Any, *tensors: Any) -> Any:
        seen.append(call.right[0])
        return whole(ctx, call, *tensors)

    monkeypatch.setattr(fused_machine._Machine, "forward", staticmethod(forward))
    return seen


def make(variant: str = "nah", **settings: Any) -> NTM:
    torch.manual_seed(0)
    spec = ActivationSpec(variant, settings)
    return NTM(
        inputs=5, outputs=3, controller="feedforward", controller_size=7, rows=11, width=4,
        read_heads=2, write_heads=3, memory_init="random", spec=spec,
    ).double()  # fmt: skip


def given(steps: int = STEPS) -> Tensor:
    torch.manual_seed(1)
    return (2 * torch.randn(steps, BATCH, 5, dtype=F64)).requires_grad_()


def results(machine: NTM, x: Tensor, one_by_one: bool, seed: int = 5) -> list[Tensor]:
    """Scores and all gradients; steps whose weights are asked for are made one by one."""
    torch.manual_seed(seed)
    scores = machine(x, FIRST if len(x) > FIRST else 0, [] if one_by_one else None)
    toward = torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view(scores.shape)
    wanted = [x, *machine.parameters()]
    loss = (scores * toward).sum()  # p is not used by every unit in evaluation
    return [scores.detach(), *torch.autograd.grad(loss, wanted, materialize_grads=True)]


def assert_same(found: list[Tensor], expected: list[Tensor], bound: float = 1e-12) -> None:
    for left, right in zip(found, expected, strict=True):
        size = max(1.0, float(right.abs().max()))
        torch.testing.assert_close(left, right, rtol=0, atol=bound * size, check_dtype=False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [STEPS, 1])
def test_values_and_gradients(variant: str, steps: int, passes: list[bool]) -> None:
    machine, x = make(variant), given(steps)
    expected = results(machine, x, one_by_one=True)
    assert not passes
    assert_same(results(machine, x, one_by_one=False), expected)
    assert len(passes) == 1
    machine.eval()  # kept slopes are of draws alone
    expected = results(machine, x, one_by_one=True)
    assert_same(results(machine, x, one_by_one=False), expected)
    assert passes[1:] == [False]


@pytest.mark.parametrize(
    "settings", [{"clip_output": True}, {"p_shape": "scalar"}, {"alpha": 1.2}, {"c": 3.0}], ids=str
)
def test_settings(settings: dict[str, Any], passes: list[bool]) -> None:
    machine, x = make("nah", **settings), given()
    expected = results(machine, x, one_by_one=True)
    assert_same(results(machine, x, one_by_one=False), expected)
    assert passes == ["clip_output" not in settings]


@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_plain_code(variant: str, passes: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kernels at all, weights not shared: what the equations say."""
    machine, x = make(variant), given()
    found = results(machine, x, one_by_one=False)
    monkeypatch.setenv(backend.SWITCH, "0")
    monkeypatch.setattr(ntm_model, "shared_weights", contextlib.nullcontext)
    assert_same(found, results(machine, x, one_by_one=True), 1e-9)
    assert len(passes) == 1


def test_float32_is_near_float64(passes: list[bool]) -> None:
    machine, x = make(), given()
    expected = results(machine, x, one_by_one=True)
    machine.float()
    found = results(machine, x.detach().float().requires_grad_(), one_by_one=False)
    assert {part.dtype for part in found} == {torch.float32}
    assert_same(found, expected, 2e-5)


def test_threads(passes: list[bool]) -> None:
    """Every number of them, with and without the right to the kept slopes."""
    machine, x = make(), given()
    expected = results(machine, x, one_by_one=False)
    torch.set_num_threads(2)
    try:
        assert_same(results(machine, x, one_by_one=False), expected)
    finally:
        torch.set_num_threads(1)


def test_without_gradients(passes: list[bool]) -> None:
    """Two steps are kept at a time."""
    machine, x = make(), given()
    expected = results(machine, x, one_by_one=True)[0]
    torch.manual_seed(5)
    with torch.no_grad():
        torch.testing.assert_close(machine(x, FIRST), expected, rtol=0, atol=1e-12)
    assert passes == [False]


def test_backward_twice(passes: list[bool]) -> None:
    """The first pass writes over what was kept; the second makes it again."""
    machine, x = make(), given()
    loss = machine(x).square().sum()
    wanted = [x, *machine.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert_same([*torch.autograd.grad(loss, wanted)], [*first])
    assert passes == [True]


def test_gradients_that_come_in_stay_as_they_are() -> None:
    """Each is somebody else's: here one tensor is the gradient of both sums."""
    machine, x = make(), given()
    state = machine.memory.first_state(BATCH)
    weights = fused_machine.MachineWeights(
        machine.controller.layer.weight[:, 5:], machine.memory.map.weight, machine.memory.map.bias
    )
    unit, projected = machine.controller.unit, machine.controller.project(x)
    h, reads = fused_machine.fused_machine(unit, projected, weights, state, 3)
    d_h, d_reads = torch.randn_like(h), torch.randn_like(reads)
    before = d_h.clone(), d_reads.clone()
    torch.autograd.backward([h, reads], [d_h, d_reads])
    assert torch.equal(d_h, before[0])
    assert torch.equal(d_reads, before[1])


def test_a_memory_that_wants_a_gradient(passes: list[bool]) -> None:
    machine, x = make(), given()
    machine.memory.memory0.requires_grad_()
    found = []
    for one_by_one in (True, False):
        torch.manual_seed(5)
        loss = machine(x, 0, [] if one_by_one else None).square().sum()
        found.append([*torch.autograd.grad(loss, [machine.memory.memory0])])
    assert float(found[0][0].abs().max()) > 1e-6
    assert_same(found[1], found[0])
    assert len(passes) == 1


def test_draws_of_a_source(passes: list[bool]) -> None:
    """The calls of the unit count as they do step by step; another kind of source is asked."""
    machine, x = make(), given()
    source = NoiseSource(3)
    attach_noise(machine, source)
    both = []
    for one_by_one in (True, False):
        source.set_step(4)
        both.append(results(machine, x, one_by_one))
        assert source._calls == {"controller.unit": STEPS}
    assert_same(both[1], both[0])

    class Still(NoiseSource):
        def normal(self, path: str, shape: Any, device: torch.device) -> Tensor:
            return torch.zeros(tuple(shape), device=device)

    attach_noise(machine, Still(3))
    results(machine, x, one_by_one=False)
    assert len(passes) == 1


def test_recomputed_by_a_checkpoint(passes: list[bool]) -> None:
    machine, x = make(), given()
    attach_noise(machine, source := NoiseSource(3))
    expected = results(machine, x, one_by_one=False)
    source.set_step(0)
    scores = checkpoint(machine, x, FIRST, use_reentrant=False)
    assert isinstance(scores, Tensor)
    toward = torch.linspace(-1, 1, scores.numel(), dtype=F64).view(scores.shape)
    found = torch.autograd.grad((scores * toward).sum(), [x, *machine.parameters()])
    assert_same([scores.detach(), *found], expected)
    assert len(passes) == 3


def test_many_gradients_at_once(passes: list[bool]) -> None:
    machine, x = make(), given()
    scores = machine(x).sum((1, 2))
    rows = torch.eye(STEPS, dtype=F64)
    one = [torch.autograd.grad(scores, x, row, retain_graph=True)[0] for row in rows]
    (many,) = torch.autograd.grad(scores, x, rows, is_grads_batched=True)
    assert_same([many], [torch.stack(one)])
    assert len(passes) == 1


def test_second_derivatives_are_refused(passes: list[bool]) -> None:
    machine, x = make(), given()
    (first,) = torch.autograd.grad(machine(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        first.sum().backward()
    assert len(passes) == 1


def hook(find: Callable[[NTM], torch.nn.Module]) -> Callable[[NTM], None]:
    return lambda machine: void(find(machine).register_forward_hook(lambda *_: None))


def void(_: object) -> None: ...


class Louder(torch.nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def louder(machine: NTM) -> None:
    old = machine.memory.map
    machine.memory.map = Louder(old.in_features, old.out_features).double()


@pytest.mark.parametrize(
    "change",
    [
        hook(lambda machine: machine.controller),
        hook(lambda machine: machine.controller.unit),
        hook(lambda machine: machine.memory),
        hook(lambda machine: machine.memory.map),
        lambda machine: setattr(machine.controller.unit, "backend", "eager"),
        louder,
        lambda machine: torch.nn.utils.parametrizations.weight_norm(machine.memory.map),
    ],
    ids=["controller", "unit", "memory", "map", "eager", "own map", "weight norm"],
)  # fmt: skip
def test_who_watches_or_changes_a_part_is_asked(
    change: Callable[[NTM], Any], passes: list[bool]
) -> None:
    """Such parts are called, step by step."""
    machine, x = make(), given()
    change(machine)
    expected = results(machine, x, one_by_one=True)
    assert_same(results(machine, x, one_by_one=False), expected)
    assert not passes


def test_autocast_goes_step_by_step(passes: list[bool]) -> None:
    machine = make().float()
    x = given().detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        machine(x)
    assert not passes
