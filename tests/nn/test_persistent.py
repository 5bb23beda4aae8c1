"""All steps in one launch: the source as C on any machine, the kernels where there is a GPU.

As C the blocks run one after another, a step at a time, with shared memory that begins as
not-a-number. What that cannot show, the waiting of blocks for each other, needs a GPU.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence import VARIANTS, compare, make, run
from torch.nn.utils.rnn import pack_sequence

from noisyexp.activations import attach_noise
from noisyexp.kernels import bindings, build, cpu, cuda, dispatch, persistent
from noisyexp.nn import fused
from noisyexp.nn.half_products import HalfProducts
from noisyexp.nn.persistent import PersistentProducts
from noisyexp.nn.products import Products
from noisyexp.places import CACHE_VARIABLE

MACHINES = ["source", *(["cuda"] if torch.cuda.is_available() else [])]
GPU = persistent.Limits(132, 232448)
SMALL = (persistent.Limits(7, 30_000), persistent.Limits(132, 12_000), persistent.Limits(3, 60_000))
"""Such that cuts have several groups, slices and chunks."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if build.find_compiler() is None:
        pytest.skip("no C compiler")
    target = tmp_path_factory.mktemp("gpu") / "persistent.so"
    flags = ["-O1", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    path = str(build.SOURCES / "persistent.cu")
    command = [build.find_compiler(), "-x", "c", *flags, path, "-lm", "-o", str(target)]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    assert library.size_of_persistent() == ctypes.sizeof(bindings.Persistent)
    return library


def counters(cut: persistent.Cut, device: torch.device) -> torch.Tensor:
    """Where there is no stream that could keep them."""
    size = (cut.groups + 1) * persistent.COUNTERS_APART
    return torch.zeros(size, dtype=torch.int32, device=device)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that sets the limits of the machine; after the test, something has run there."""
    ran: list[persistent.Cut] = []
    launch, limits = persistent.launch, persistent.limits_of
    if request.param == "source":
        library = request.getfixturevalue("source")

        def launch(cell: str, work: Any, cut: Any, steps: Any, index: Any) -> None:
            function = getattr(library, f"{cell}_{'backward' if work.backward else 'forward'}_all")
            function.argtypes, function.restype = [bindings.Persistent, ctypes.c_int], None
            function(steps, cut.threads)

        monkeypatch.setattr(cuda, "why_not", lambda index: None)
        monkeypatch.setitem(dispatch.BACKENDS, "cpu", cuda)
        own = cuda.KERNELS - {"normal_fill"}  # draws are those of the plain loop
        monkeypatch.setattr(cuda, "KERNELS", own)
        monkeypatch.setattr(persistent, "counters", counters)

    def count(cell: str, work: Any, cut: Any, *rest: Any) -> None:
        ran.append(cut)
        launch(cell, work, cut, *rest)

    def choose(found: persistent.Limits) -> torch.device:
        if request.param == "cuda":
            real = limits(0)
            assert real is not None
            found = persistent.Limits(*map(min, real, found))
        monkeypatch.setattr(persistent, "limits_of", lambda index: found)
        return torch.device("cpu") if request.param == "source" else torch.device("cuda", 0)

    monkeypatch.setattr(persistent, "launch", count)
    choose.ran = ran  # type: ignore[attr-defined]
    yield choose
    assert ran


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(machine: Any, cell: str, variant: str) -> None:
    layer = make(cell, 5, 9, variant=variant, bidirectional=True, c=2.0)
    device = machine(SMALL[0])
    compare(layer.to(device), (torch.randn(3, 5, 5) * 2).to(device))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("limits", SMALL)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 7), (2, 37, 18), (3, 21, 33)])
def test_odd_sizes(
    machine: Any, cell: str, limits: persistent.Limits, sizes: tuple[int, int, int]
) -> None:
    steps, batch, hidden = sizes
    layer = make(cell, 4, hidden, variant="nah", c=2.0, bias=batch != 3)
    device = machine(limits)
    compare(layer.to(device), torch.randn(steps, batch, 4).to(device))
    # layers of which not all fits are there to see that they run, too
    assert all(cut.bytes <= limits.shared for cut in machine.ran)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_way_to_cut(
    machine: Any, cell: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tile, several chunks, parts of sums; halves against the same products one at a time."""
    layer = make(cell, 4, 18, variant="nah", c=2.0)
    device = machine(SMALL[2])
    layer, x = layer.to(device), torch.randn(3, 21, 4).to(device)
    works = {
        backward: persistent.Work(
            4 if cell == "lstm" else 3, 21, 18, persistent.OPERANDS[dtype], backward
        )
        for backward in (False, True)
    }
    cuts: dict[Any, list[persistent.Cut]] = {True: [], False: []}
    for backward, work in works.items():
        seen = set()
        for cut in persistent._candidates(work, SMALL[2]):
            kind = (cut.tile_rows, cut.tile_columns, cut.chunks > 1, cut.splits > 1)
            if kind not in seen and cut.threads == 128 and cut.splits < 4:
                seen.add(kind)
                cuts[backward].append(cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.BACKENDS, "cpu", cpu)
        steps = HalfProducts(dtype) if dtype != torch.float32 else Products()
        expected = passes(layer, x, steps)
    products = PersistentProducts(dtype, steps, SMALL[2])
    for index in range(max(map(len, cuts.values()))):
        of_passes = {b: (works[b], cuts[b][index % len(cuts[b])]) for b in works}
        monkeypatch.setattr(persistent, "best_cuts", lambda *_, found=of_passes: found)
        found = passes(layer, x, products)
        for name, value in expected.items():
            limit = 2e-5 if dtype == torch.float32 else 1e-3
            limit *= max(float(value.abs().max()), 0.05)
            torch.testing.assert_close(found[name], value, rtol=0, atol=limit)
    assert len(machine.ran) == 2 * max(map(len, cuts.values()))


def passes(layer: Any, x: torch.Tensor, products: Products) -> dict[str, torch.Tensor]:
    """Output and gradients of a layer by such products, with the draws of one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "choose_products", lambda call, x: products)
        return run(layer, "auto", x, None)


def test_layers_that_do_not_fit_or_do_not_pay_go_by_steps() -> None:
    """The sizes of the benchmark, on an H100 or H200."""
    for sizes in ((4, 20, 200, 0), (4, 100, 400, 0), (3, 80, 512, 0), (3, 80, 1024, 1)):
        found = persistent.best_cuts(*sizes, GPU)
        assert found.keys() == {False, True}
        assert all(cut.bytes <= GPU.shared for _, cut in found.values())
        assert all(cut.groups * cut.slices <= GPU.processors for _, cut in found.values())
    assert persistent.best_cuts(3, 80, 1024, 0, GPU) == {}  # measured: slower than by steps
    assert persistent.best_cuts(4, 20, 4000, 0, GPU) == {}  # 256 MB of weights
    assert persistent.best_cuts(4, 20, 200, 0, persistent.Limits(3, 20_000)) == {}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("limits", SMALL[:2])
def test_packed_sequences_states_and_layers(
    machine: Any, cell: str, limits: persistent.Limits
) -> None:
    layer = make(cell, 3, 18, 2, variant="nah", bidirectional=True, c=2.0)
    device = machine(limits)
    parts = [torch.randn(n, 3).to(device) for n in (1, 4, 4, 2, 6, 1, 3)]
    states = 2 if cell == "lstm" else 1
    hx = [torch.randn(4, 7, 18).to(device) for _ in range(states)]
    compare(layer.to(device), pack_sequence(parts, enforce_sorted=False), hx)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cuda_half_precision_under_autocast(cell: str) -> None:
    """One launch a pass there, too: half operands, float32 sums, near float32's values."""
    layer = make(cell, 24, 40, 2, gain=1.0, variant="nah", c=0.5).cuda()
    x, found = torch.randn(7, 9, 24).cuda(), []
    for half in (None, torch.bfloat16, torch.float16):
        for unit in layer.modules():
            if getattr(unit, "noise_source", None) is not None:
                unit.noise_source.set_step(5)
        layer.zero_grad()
        with torch.autocast("cuda", half, enabled=half is not None):
            output = layer(x)[0]
        assert output.dtype == (half or torch.float32)
        output.float().square().sum().backward()
        found.append([output.float(), *(p.grad for p in layer.parameters())])
    for half_results, limit in ((found[1], 3e-2), (found[2], 5e-3)):
        for exact, half_result in zip(found[0], half_results, strict=True):
            scale = max(float(exact.detach().norm()), 0.05)
            assert float((half_result - exact).detach().norm()) < limit * scale


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("by_steps", [False, True])
def test_cuda_graphs_draw_anew_at_every_replay(
    cell: str, by_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of a captured layer are those of the call, and its noise is fresh."""
    monkeypatch.setattr(persistent, "enabled", not by_steps)
    x = torch.randn(5, 9, 24).cuda()
    for variant in ("hard", "nah"):
        layer = make(cell, 24, 40, variant=variant, c=2.0).cuda()
        attach_noise(layer, None)
        leaf = x.clone().requires_grad_()
        called = layer(leaf)[0]
        wanted = torch.autograd.grad(called.square().sum(), [leaf, *layer.parameters()])
        expected = called.detach()
        del called, leaf  # a graph that is alive keeps its stream, which may not be captured
        captured = torch.cuda.make_graphed_callables(layer, (x.clone().requires_grad_(),))
        outputs = []
        for _ in range(3):
            leaf = x.clone().requires_grad_()
            output = captured(leaf)[0]
            grads = torch.autograd.grad(output.square().sum(), [leaf, *layer.parameters()])
            outputs.append(output.detach().clone())
            if variant == "hard":
                for grad, exact in zip(grads, wanted, strict=True):
                    torch.testing.assert_close(grad, exact, rtol=1e-4, atol=1e-4)
        if variant == "hard":
            torch.testing.assert_close(outputs[2], expected, rtol=1e-4, atol=1e-5)
        else:  # a normal draw is new for most of the saturated units
            for a, b in ((0, 1), (1, 2)):
                assert float((outputs[a] - outputs[b]).abs().mean()) > 1e-3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_was_not_written_is_never_read(
    machine: Any, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is handed over as it is begins as not-a-number."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    device = machine(SMALL[0])
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        compare(make(cell, 4, 13, variant="nah", c=2.0).to(device), torch.randn(4, 9, 4).to(device))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_goes_back_twice(
    machine: Any, cell: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backward writes over the gates, which the second time are made again, with their biases."""
    layer = make(cell, 4, 13, variant="nah", c=2.0)
    device = machine(SMALL[0])
    steps = HalfProducts(dtype) if dtype != torch.float32 else Products()
    products = PersistentProducts(dtype, steps, SMALL[0])
    monkeypatch.setattr(fused, "choose_products", lambda call, x: products)
    layer, x = layer.to(device), torch.randn(4, 9, 4).to(device)
    loss, parameters = layer(x)[0].square().sum(), list(layer.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    for again, once in zip(torch.autograd.grad(loss, parameters), first, strict=True):
        torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_nvrtc_compiles_every_program(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where NVRTC is at hand, which needs no GPU."""
    try:
        cuda._nvrtc()
    except build.BuildError as error:
        pytest.skip(str(error))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    for cell in bindings.CELLS:
        for operands in persistent.OPERANDS.values():
            defines = (f"-DCELL=CELL_{cell.upper()}", f"-DOPERANDS={operands}")
            code = cuda.compile_for(capability, "persistent.cu", defines)
            assert b"forward_all" in code and b"backward_all" in code
    assert len(list(tmp_path.iterdir())) == 6
