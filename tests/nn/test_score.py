"""The compiled score of attention against the plain form: values, all gradients, noise, memory."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import noisyexp.nn.attention as attention_module
from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.kernels import library
from noisyexp.nn.attention import AdditiveAttention

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

VARIANTS = ("hard", "nan", "nah", "nani", "nanil", "nanis")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make(
    variant: str = "nah", size: int = 19, dtype: torch.dtype = torch.float64, **settings: Any
) -> AdditiveAttention:
    torch.manual_seed(2)
    attention = AdditiveAttention(3, size, ActivationSpec(variant, {"dtype": dtype, **settings}))
    attach_noise(attention, NoiseSource(5))
    return attention.to(dtype)


def inputs(
    batch: int = 3, positions: int = 6, size: int = 19, dtype: torch.dtype = torch.float64,
    steps: int = 3,
) -> dict[str, Tensor]:  # fmt: skip
    """Queries (T, B, Q), keys, annotations and a mask in which every row has a real position."""
    generator = torch.Generator().manual_seed(batch * 1000 + positions)
    shapes = {
        "queries": (steps, batch, 3),
        "keys": (batch, positions, size),
        "annotations": (batch, positions, 4),
    }
    found = {
        name: torch.randn(shape, generator=generator, dtype=dtype) * 1.5
        for name, shape in shapes.items()
    }
    found["mask"] = torch.rand(batch, positions, generator=generator) < 0.7
    found["mask"][:, 0] = True
    return found


def start(attention: AdditiveAttention, backend: str = "auto", step: int = 4) -> None:
    attention.unit.backend = backend
    source = attention.unit.noise_source
    if source is not None:
        source.set_step(step)


def run(
    attention: AdditiveAttention, backend: str, given: dict[str, Tensor], leaf: bool, masked: bool
) -> dict[str, Tensor]:
    """Contexts and the gradients of everything after some steps with the same keys."""
    start(attention, backend)
    attention.zero_grad()
    leaves = {
        name: given[name].clone(memory_format=torch.preserve_format).requires_grad_()
        for name in ("queries", "keys", "annotations")
    }
    keys = leaves["keys"] if leaf else leaves["keys"] * 1.0
    mask = given["mask"] if masked else None
    steps = [attention(query, keys, leaves["annotations"], mask)[0] for query in leaves["queries"]]
    contexts = torch.stack(steps)
    generator = torch.Generator().manual_seed(1)
    contexts.backward(torch.randn(contexts.shape, generator=generator, dtype=contexts.dtype))
    parameters = dict(attention.named_parameters())
    del parameters["v.bias"]  # its gradient is zero but for rounding
    found = {"contexts": contexts.detach()}
    for name, tensor in (leaves | parameters).items():
        found[name] = torch.zeros(()) if tensor.grad is None else tensor.grad.clone()
    return found


def compare(
    attention: AdditiveAttention, given: dict[str, Tensor], leaf: bool = False, masked: bool = True
) -> None:
    """Relative to the largest element, p relative to the size of the terms that are added up."""
    slow = run(attention, "eager", given, leaf, masked)
    fast = run(attention, "auto", given, leaf, masked)
    assert slow.keys() == fast.keys()
    for name, expected in slow.items():
        scale = max(float(expected.abs().max()), 0.1 if name == "unit.p" else 1e-3)
        torch.testing.assert_close(
            fast[name], expected, rtol=0, atol=TOLERANCE[given["keys"].dtype] * scale,
            msg=lambda m, n=name: f"{n}: {m}",
        )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.0, "c": 0.5},
        {"alpha": 0.9, "c": 1.0, "clip_output": True},
        {"alpha": 1.15, "c": 3.0, "code_compat": True},
        {"alpha": 1.15, "c": 3.0, "p_shape": "scalar"},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_every_variant(
    variant: str, dtype: torch.dtype, settings: dict[str, Any], training: bool
) -> None:
    compare(make(variant, dtype=dtype, **settings).train(training), inputs(dtype=dtype))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    variant=st.sampled_from(VARIANTS),
    sizes=st.tuples(*[st.sampled_from([1, 3, 4, 17, 33])] * 2),
    size=st.sampled_from([1, 5, 16, 32, 65]),
    steps=st.integers(1, 3),
    flags=st.tuples(*[st.booleans()] * 3),
    layout=st.sampled_from(["contiguous", "time first", "strided", "one for all"]),
)
def test_any_shape_and_layout(
    variant: str, sizes: tuple[int, int], size: int, steps: int, flags: tuple[bool, bool, bool],
    layout: str,
) -> None:  # fmt: skip
    leaf, masked, scalar = flags
    attention = make(variant, size, alpha=1.15, c=2.0, p_shape="scalar" if scalar else "unit")
    given_tensors = inputs(*sizes, size, steps=steps)
    keys = given_tensors["keys"]
    if layout == "time first":
        keys = keys.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "strided":
        keys = torch.stack([keys, keys], -1)[..., 0]
    elif layout == "one for all":
        keys = keys[:1].expand_as(keys)
    given_tensors["keys"] = keys
    compare(attention, given_tensors, leaf, masked)


@pytest.mark.parametrize("variant", ["nan", "nanil"])
def test_gradients_equal_finite_differences(variant: str) -> None:
    """Independently of the plain form; p too. No unit sits at a kink for this seed."""
    attention, tensors = make(variant, 5, alpha=1.15, c=2.0), inputs(2, 5, 5, steps=2)
    names = [name for name, _ in attention.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in attention.parameters()]

    def function(queries: Tensor, keys: Tensor, *values: Tensor) -> Tensor:
        start(attention)
        given_values = dict(zip(names, values, strict=True))
        keys = keys * 1.0
        steps = [
            torch.func.functional_call(
                attention, given_values, (query, keys, tensors["annotations"], tensors["mask"])
            )[0]
            for query in queries
        ]
        return torch.stack(steps)

    leaves = [tensors[name].requires_grad_() for name in ("queries", "keys")]
    assert torch.autograd.gradcheck(function, (*leaves, *values), eps=1e-7, atol=1e-5)


def contexts_of(attention: AdditiveAttention, tensors: dict[str, Tensor], keys: Tensor) -> Tensor:
    steps = [
        attention(query, keys, tensors["annotations"], tensors["mask"])[0].square().sum()
        for query in tensors["queries"]
    ]
    return torch.stack(steps).sum()


def test_graphs_go_back_again_and_in_parts() -> None:
    """A retained graph; a pass that needs no gradient of keys; only some of the steps."""
    attention, tensors = make(c=2.0), inputs()
    queries, base = tensors["queries"].requires_grad_(), tensors["keys"].requires_grad_()

    def graph(keys: Tensor) -> tuple[Tensor, Tensor]:
        start(attention)
        first = attention(queries[0], keys, tensors["annotations"])[0].square().sum()
        second = attention(queries[1], keys, tensors["annotations"])[0].square().sum()
        return first, second

    grad = torch.autograd.grad
    one, two = graph(base)  # keys that are leaves take the plain way round
    expected = [grad(e, base, retain_graph=True)[0] for e in (one, two, one + two)]
    one, two = graph(base * 1.0)
    for _ in range(2):
        grad(one + two, queries, retain_graph=True)  # leaves a sum that nobody takes
        found = [grad(e, base, retain_graph=True)[0] for e in (one, two, one + two)]
        for left, right in zip(expected, found, strict=True):
            torch.testing.assert_close(right, left, rtol=1e-12, atol=1e-12)


def test_keys_in_other_hands() -> None:
    """Used beside the attention, by two attentions, asked for themselves, changed in place."""
    attention, other, tensors = make(c=2.0), make("nani"), inputs()
    base, found = tensors["keys"], []
    for backend in ("eager", "auto"):
        leaf = base.clone().requires_grad_()
        start(attention, backend)
        start(other, backend)
        keys = leaf * 2.0
        seen: list[Tensor] = []
        keys.register_hook(seen.append)
        loss = contexts_of(attention, tensors, keys) + keys.sin().sum()
        loss = loss + contexts_of(other, tensors, keys)
        itself, below = torch.autograd.grad(loss, (keys, leaf), retain_graph=True)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        changed = leaf * 2.0
        total = contexts_of(attention, tensors, changed.clone())
        changed.mul_(0.5)
        total = total + contexts_of(attention, tensors, changed)
        (after,) = torch.autograd.grad(total, leaf)
        found.append([itself, below, leaf.grad, seen[-1], after])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)


def test_keys_changed_in_place_between_two_graphs() -> None:
    attention, tensors, found = make(c=2.0), inputs(), []
    for backend in ("eager", "auto"):
        leaf = tensors["keys"].clone().requires_grad_()
        start(attention, backend)
        keys = leaf * 1.0
        contexts_of(attention, tensors, keys)
        keys.mul_(0.5)
        (gradient,) = torch.autograd.grad(contexts_of(attention, tensors, keys), leaf)
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_draws_are_those_of_the_plain_unit() -> None:
    """NANI is h(x + c xi): at x = 0 and small c the score of v = e_k is the draw of unit k."""
    attention = make("nani", 20, c=0.1)
    with torch.no_grad():
        attention.v.weight.zero_()[0, 13] = 1.0
    start(attention)
    keys = torch.zeros(3, 9, 20, dtype=torch.float64)
    calls = [attention._scores(torch.zeros(3, 20, dtype=torch.float64), keys) for _ in range(2)]
    start(attention)
    source = attention.unit.noise_source
    assert source is not None
    for scores in calls:
        xi = source.normal("unit", (3, 9, 20), torch.device("cpu"))[..., 13].double()
        expected = (0.1 * xi).clamp(-1, 1) + attention.v.bias.detach()
        torch.testing.assert_close(scores.detach(), expected, rtol=0, atol=1e-7)
    assert not torch.equal(*calls)


def test_a_source_of_its_own_kind_is_asked_for_its_draws() -> None:
    class Halves(NoiseSource):
        def normal(self, path: str, shape: Any, device: torch.device) -> Tensor:
            return 0.5 * super().normal(path, shape, device)

    attention = make(c=2.0)
    attach_noise(attention, Halves(5))
    compare(attention, inputs())


def test_without_a_source_torch_s_generator_decides() -> None:
    attention, tensors = make(c=2.0), inputs()
    attach_noise(attention, None)
    found = []
    for backend in ("auto", "eager", "auto"):
        attention.unit.backend = backend
        torch.manual_seed(0)
        found.append(contexts_of(attention, tensors, tensors["keys"]))
    found.append(contexts_of(attention, tensors, tensors["keys"]))
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])


def test_the_plain_form_where_the_kernel_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager backend, hooks, the soft unit, no positions."""
    monkeypatch.setattr(attention_module, "fused_score", None)
    tensors = inputs()
    args = (tensors["queries"][0], tensors["keys"], tensors["annotations"])
    with pytest.raises(TypeError):
        make()(*args)
    eager, hooked = make(), make()
    eager.unit.backend = "eager"
    seen: list[Any] = []
    hooked.unit.register_forward_hook(lambda *parts: seen.append(parts))
    for attention in (eager, hooked, make("reference")):
        attention(*args)
    assert len(seen) == 1
    context, weights = make()(args[0], args[1][:, :0], args[2][:, :0])
    assert torch.equal(context, torch.zeros_like(context)) and weights.shape == (3, 0)


def test_a_step_keeps_a_query_and_all_steps_one_gradient_of_keys() -> None:
    """No array of B x S x A is kept for backward beside the keys, nor made in it a second time."""
    attention, tensors = make(size=64), inputs(4, 50, 64)
    kept: dict[int, int] = {}
    base = tensors["keys"].requires_grad_()
    keys = base.view_as(base)

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = [attention._scores(attention.query(q), keys) for q in tensors["queries"]]
    assert kept.pop(keys.data_ptr()) == keys.nbytes
    parameters = [p.untyped_storage().data_ptr() for p in attention.parameters()]
    own = {place: size for place, size in kept.items() if place not in parameters}
    q_bytes = 4 * 64 * 8
    assert sum(own.values()) == 3 * q_bytes + tensors["queries"].nbytes
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.stack(scores).sum().backward()
    made = [event.self_cpu_memory_usage for event in profile.events()]
    assert [size for size in made if size >= keys.nbytes] == [keys.nbytes]


def test_keys_are_not_kept_alive() -> None:
    attention, tensors = make(), inputs()
    keys = tensors["keys"].requires_grad_() * 1.0
    loss = contexts_of(attention, tensors, keys)
    alive = weakref.ref(keys), weakref.ref(keys.__dict__["_noisyexp_key_gradient"][1])
    loss.backward()  # type: ignore[no-untyped-call]
    del keys, loss
    assert [reference() for reference in alive] == [None, None]


def test_nan_goes_through() -> None:
    for name in ("keys", "queries", "v.weight", "unit.p"):
        attention, tensors = make(c=2.0), inputs()
        with torch.no_grad():
            target = tensors.get(name)
            (attention.get_parameter(name) if target is None else target).fill_(float("nan"))
        assert contexts_of(attention, tensors, tensors["keys"]).isnan(), name


def test_threads_do_not_change_a_bit() -> None:
    before, results = torch.get_num_threads(), []
    attention, tensors = make(size=65, c=2.0), inputs(20, 21, 65)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            start(attention)
            leaf = tensors["keys"].clone().requires_grad_()
            q = torch.ones(20, 65, dtype=torch.float64, requires_grad=True)
            attention.zero_grad()
            scores = attention._scores(q, leaf)
            scores.backward(torch.ones_like(scores))
            ends = [q.grad, leaf.grad, attention.v.weight.grad, attention.unit.p.grad]
            results.append([scores.detach(), *ends])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
