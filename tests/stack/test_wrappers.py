"""What wraps a model: DDP, FSDP2, averages of weights, copies, pickles, counters of operations."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from stack_helpers import assert_same, first, gradients
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from noisyexp import NoisyGRU, NoisyLSTM, make_activation
from noisyexp.activations import NoiseSource, attach_noise, set_noise_level
from noisyexp.kernels import library

X = torch.linspace(-4, 4, 24).view(3, 2, 4).sin() * 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), make_activation("tanh", "nah", 4), NoisyLSTM(4, 5))


def in_group(rank: int, count: int, rendezvous: str) -> None:
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=count,
        timeout=timedelta(seconds=60),
    )  # fmt: skip


def _ddp(rank: int, rendezvous: str, results: str) -> None:
    torch.set_num_threads(1)
    in_group(rank, 2, rendezvous)
    wrapped = nn.parallel.DistributedDataParallel(model().double())
    source = NoiseSource(rank)
    attach_noise(wrapped, source)
    rows = X.double()[:, rank : rank + 1]
    for _ in range(2):  # the second pass uses the buckets that the first one made
        wrapped.zero_grad()
        source.set_step(1)
        first(wrapped(rows)).square().sum().backward()
    torch.save([p.grad for p in wrapped.parameters()], f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_gradients_are_the_mean(tmp_path: Path) -> None:
    """Two processes over gloo, each with a row and noise of its own."""
    mp.spawn(_ddp, (f"file://{tmp_path}/group", str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    plain = model().double()
    for rank in (0, 1):
        attach_noise(plain, NoiseSource(rank))
        for unit in plain.modules():
            if hasattr(unit, "path"):
                unit.path = f"module.{unit.path}"
            if isinstance(getattr(unit, "noise_source", None), NoiseSource):
                unit.noise_source.set_step(1)
        (first(plain(X.double()[:, rank : rank + 1])).square().sum() / 2).backward()
    expected = [p.grad for p in plain.parameters()]
    for rank in (0, 1):
        assert_same(torch.load(tmp_path / f"{rank}.pt"), expected, 1e-9)


def test_fully_sharded_layers(tmp_path: Path) -> None:
    """FSDP2 on a mesh of one processor; p has a number a unit, as scalars cannot be sharded."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("torch 2.6 brings fully_shard")
    from torch.distributed.device_mesh import init_device_mesh

    in_group(0, 1, f"file://{tmp_path}/group")
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain, sharded = model(), model()
        for part in sharded:
            fsdp.fully_shard(part, mesh=mesh)
        fsdp.fully_shard(sharded, mesh=mesh)
        optimisers = [torch.optim.SGD(m.parameters(), 0.1) for m in (plain, sharded)]
        for step in range(2):
            losses = []
            for module, optimiser in zip((plain, sharded), optimisers, strict=True):
                torch.manual_seed(step)
                loss = first(module(X)).square().sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            assert_same(losses[:1], losses[1:])
        whole = [p.full_tensor() for p in sharded.parameters()]  # type: ignore[attr-defined]
        assert_same(whole, plain.parameters())
    finally:
        dist.destroy_process_group()


def test_an_average_of_weights() -> None:
    """EMA: p is averaged as any parameter, and the copy draws noise of its own."""
    module = model()
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    before = [p.detach().clone() for p in module.parameters()]
    average.update_parameters(module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    average.update_parameters(module)
    assert_same(average.module.parameters(), [p + 0.5 for p in before])
    assert not torch.equal(first(average(X)), first(average(X)))


def _pickled(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _pickled])
@pytest.mark.parametrize("with_source", [False, True])
def test_copies_compute_the_same_and_share_nothing(duplicate: Any, with_source: bool) -> None:
    module = model()
    if with_source:
        source = NoiseSource(3)
        attach_noise(module, source)
        source.set_step(4)
    first(module(X)).sum().backward()
    set_noise_level(module, 0.7)
    copied = duplicate(module)
    assert_same(gradients(copied, copied, X), gradients(module, module, X))
    set_noise_level(copied, 0.1)
    assert module[1].c == 0.7  # type: ignore[index, union-attr]
    assert float(module[1].alpha_and_c[1]) == 0.7  # type: ignore[index, union-attr]
    assert float(copied[1].alpha_and_c[1]) == 0.1  # type: ignore[index, union-attr]
    ours = {p.data_ptr() for p in module.parameters()}
    assert not ours & {p.data_ptr() for p in copied.parameters()}


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
@pytest.mark.parametrize(("layer", "gates"), [(NoisyLSTM, 4), (NoisyGRU, 3)])
def test_operations_are_counted(layer: Any, gates: int) -> None:
    """As two products forward and four backward."""
    module = layer(4, 5)
    x = X.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        first(module(x)).sum().backward()
    steps, batch = X.shape[:2]
    assert counter.get_total_flops() == 3 * 2 * steps * batch * gates * 5 * (4 + 5)


def test_layers_in_threads() -> None:
    """As DataParallel calls its replicas: one thread each, forward and backward."""
    module = model().eval()
    replicas = [copy.deepcopy(module) for _ in range(4)]

    def work(replica: nn.Module) -> list[torch.Tensor]:
        x = X.clone().requires_grad_()
        value = first(replica(x))
        return [value, *torch.autograd.grad(value.square().sum(), [x, *replica.parameters()])]

    expected = work(module)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, replicas):
            assert_same(found, expected)
