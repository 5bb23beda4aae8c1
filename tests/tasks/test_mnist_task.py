"""The digit network against hand-made inputs, closed forms and the real data (its spec)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, noise_parameters, variants
from noisyexp.cli.compose import check
from noisyexp.data.mnist import load_mnist
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.classification.examples import Examples, batch_rows
from noisyexp.tasks.classification.mlp import MLP, confusion, score
from noisyexp.tasks.mnist import MNISTConfig, MNISTTask, data

CPU = torch.device("cpu")
CONFIG = MNISTConfig(
    name="mnist", hidden_size=30, batch_size=50, train_size=480, valid_size=200, test_size=200,
    clean_size=100,
)  # fmt: skip


def prepared(source: str = "generated", root: Path | None = None, **changes: Any) -> MNISTTask:
    task = MNISTTask(replace(CONFIG, **changes), source, 0)
    task.prepare(root or Path())
    return task


def network(variant: str, sizes: tuple[int, ...] = (784, 30, 10), **settings: Any) -> MLP:
    torch.manual_seed(0)
    return MLP(sizes, ActivationSpec(variant, settings))


# --- the network


def test_parameters() -> None:
    """784 x 500 + 500 + 500 x 10 + 10, and one p for each hidden unit."""
    hard, nan = network("hard", (784, 500, 10)), network("nan", (784, 500, 10))
    assert sum(p.numel() for p in hard.parameters()) == 397_510
    assert sum(p.numel() for p in nan.parameters()) == 398_010
    assert [p.numel() for p in noise_parameters(nan)] == [500]


def test_first_weights() -> None:
    """Uniform on +-sqrt(6 / (in + out)): bounds, deviation bound / sqrt(3); biases 0."""
    model = network("nah", (784, 500, 10))
    for layer, inputs, outputs in zip(model.layers, (784, 500), (500, 10), strict=True):
        bound = math.sqrt(6 / (inputs + outputs))
        weight, bias = layer.weight.detach(), layer.bias.detach()
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not bias.any()
    (p,) = noise_parameters(model)
    assert float(p.detach().abs().max()) <= 1 and float(p.detach().std()) == pytest.approx(
        1 / math.sqrt(3), rel=0.1
    )


def test_every_arm_starts_from_the_same_weights() -> None:
    first = network("reference", (2, 8, 8, 3)).layers.state_dict()
    for variant in variants():
        other = network(variant, (2, 8, 8, 3))
        for name, weight in other.layers.state_dict().items():
            assert torch.equal(weight, first[name]), (variant, name)
    assert torch.equal(*(network(v).units[0].p for v in ("nan", "nah")))


def test_nan_without_noise_is_hard_bit_for_bit() -> None:
    x = 4 * torch.rand(50, 784) - 2
    hard, nan = network("hard").eval(), network("nan").eval()
    assert torch.equal(hard(x), nan(x))
    assert not torch.equal(hard(x), nan.train()(x))
    # Training with c = 0, as at the end of annealing.
    assert torch.equal(hard(x), network("nan", c=0.0).train()(x))
    assert torch.equal(hard(x), network("nani", c=0.0).train()(x))


def test_nanis_is_hard_inside_and_nani_outside() -> None:
    x = torch.linspace(-3, 3, 30 * 40).view(40, 30)
    xi = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    hard, nani, nanis = (
        network(variant, **settings).units[0](x, xi)
        for variant, settings in (("hard", {}), ("nani", {"c": 0.25}), ("nanis", {"c": 0.25}))
    )
    inside = x.abs() < 1
    assert torch.equal(nanis[inside], hard[inside])
    assert torch.equal(nanis[~inside], nani[~inside])
    assert not torch.equal(nani[inside], hard[inside])


def test_p_before_and_after() -> None:
    model = network("nah")
    (p,) = noise_parameters(model)
    before = p.detach().clone()
    with torch.no_grad():
        p.add_(1)
    assert model.p_before_and_after() == ([before.tolist()], [p.tolist()])
    assert network("hard").p_before_and_after() == ([], [])
    # Both are in the checkpoint.
    other = network("nah")
    torch.manual_seed(5)
    other = MLP((784, 30, 10), ActivationSpec("nah"))
    other.load_state_dict(model.state_dict())
    assert other.p_before_and_after() == model.p_before_and_after()


# --- scores


class Fixed(nn.Module):
    """Gives the first ten inputs back as scores."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :10]


def test_score_by_hand() -> None:
    """Scores log(q) with q = 0.5, 0.2 for the right class: NLL is the mean of -log q."""
    probability = torch.full((2, 10), 0.5 / 9)
    probability[0, 3], probability[1, 3] = 0.5, 0.5
    examples = Examples(probability.log(), torch.tensor([3, 4]))
    found = score(Fixed(), examples, CPU)
    assert found.nll == pytest.approx((math.log(2) + math.log(18)) / 2, rel=1e-6)
    assert found.error == 50.0
    table = confusion(Fixed(), examples, 10, CPU)
    assert int(table.sum()) == 2 and int(table[3, 3]) == int(table[4, 3]) == 1


def test_constant_scores_cost_log_10() -> None:
    task = prepared()
    with torch.no_grad():
        model = network("hard").eval()
        model.layers[1].weight.zero_()  # type: ignore[operator, union-attr]
        found = task.validate(model, CPU)
    assert found["valid_nll"] == pytest.approx(math.log(10), rel=1e-6)
    assert found["train_nll_clean"] == pytest.approx(math.log(10), rel=1e-6)


def test_saturation_of_hand_made_inputs() -> None:
    """Unit 0 sees 3 times the first pixel, beyond 1 in half of the images; the others see 0."""
    task = prepared(hidden_size=4)
    images = torch.zeros(200, 784, dtype=torch.uint8)
    images[:, 0] = torch.tensor([0, 255]).repeat(100)
    valid = Examples(images, torch.zeros(200, dtype=torch.int64))
    task.splits = task.splits._replace(valid=valid)
    model = network("nan", (784, 4, 10)).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.zero_()  # type: ignore[operator, union-attr]
        model.layers[0].weight[0, 0] = 3.0  # type: ignore[index]
        assert task.validate(model, CPU)["saturated"] == 12.5
        model.layers[0].weight[0, 0] = 1.0  # type: ignore[index]
        assert task.validate(model, CPU)["saturated"] == 0.0  # 1 is not beyond 1


# --- batches


def test_an_epoch_has_every_image_once() -> None:
    task = prepared()
    assert task.steps_per_epoch == 10  # nine of 50, one of 30
    for epoch in (0, 3):
        rows = [batch_rows(480, 50, 0, 10 * epoch + k) for k in range(10)]
        assert [len(row) for row in rows] == [50] * 9 + [30]
        assert sorted(torch.cat(rows).tolist()) == list(range(480))
    assert torch.equal(task.batch(4)[1], task.splits.train.labels[batch_rows(480, 50, 0, 4)])


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = batch_rows(480, 50, 0, 0)
    others = [batch_rows(480, 50, *key) for key in ((0, 10), (1, 0), (0, 1))]
    assert all(not torch.equal(first, other) for other in others)
    assert torch.equal(first, batch_rows(480, 50, 0, 0))


def test_training_metrics_are_those_of_the_epoch() -> None:
    """Weighted by images: the last batch has 30."""
    task, model = prepared(), network("hard")
    sums: dict[str, float] = {}
    with torch.no_grad():
        for step in range(task.steps_per_epoch):
            for name, value in task.loss(model, step, CPU).sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    found, whole = task.training_metrics(sums), score(model, task.splits.train, CPU)
    assert sums["examples"] == 480
    assert found["train_nll"] == pytest.approx(whole.nll, rel=1e-6)
    assert found["train_error"] == pytest.approx(whole.error)


# --- the stand-in


def test_generated_patterns() -> None:
    """A quarter of the cells is flipped; no seed changes them; the best match finds the class."""
    train, test = data.generate("train", 2000), data.generate("test", 2000)
    assert train.inputs.dtype == torch.uint8 and train.inputs.shape == (2000, 784)
    assert not torch.equal(train.inputs, test.inputs)
    assert torch.equal(data.generate("test", 200).inputs, prepared().splits.test.inputs)
    counts = torch.bincount(train.labels, minlength=10)
    assert all(abs(int(count) - 200) < 4 * math.sqrt(180) for count in counts)

    def cells(examples: Examples) -> Tensor:
        pixels = examples.inputs.float().view(-1, 7, 4, 7, 4) / 255
        return (pixels.mean((2, 4)) > 0.5).flatten(1)

    found = cells(train)
    patterns = torch.stack([found[train.labels == k].float().mean(0) > 0.5 for k in range(10)])
    flipped = (found ^ patterns[train.labels]).double().mean()
    assert float(flipped) == pytest.approx(0.25, abs=3 * math.sqrt(0.1875 / found.numel()))
    nearest = (cells(test).unsqueeze(1) ^ patterns).sum(-1).argmin(1)
    assert 0 < float((nearest != test.labels).double().mean()) < 0.2


def test_it_learns_the_stand_in() -> None:
    task, model = prepared(train_size=2000, batch_size=50), network("nan")
    optimizer = torch.optim.RMSprop(model.parameters(), 0.001)
    for step in range(80):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert task.test(model.eval(), CPU)["test_error"] < 25.0
        shown = task.sample(model, CPU)
    (panel,) = shown.panels
    assert panel.values.sum(1).tolist() == pytest.approx([100.0] * 10)


# --- configuration


def test_configuration() -> None:
    assert find_task("mnist") is MNISTTask
    (spec,) = check(["task=mnist", "act=nan_normal"])
    assert spec.task_config == MNISTConfig("mnist", 500, 100, 50_000, 10_000, 10_000, 10_000)
    training = spec.plain["training"]
    assert (training["optimizer"], training["lr"], training["epochs"]) == ("rmsprop", 0.001, 50)
    assert (training["weight_decay"], training["max_grad_norm"]) == (0.0, None)
    problems: list[str] = []
    build(MNISTConfig, vars(CONFIG) | {"train_size": 59_900, "clean_size": 1}, "task", problems)
    assert len(problems) == 1 and "train_size=59900 and valid_size=200" in problems[0]
    problems.clear()
    build(MNISTConfig, vars(CONFIG) | {"clean_size": 481}, "task", problems)
    assert problems == ["task.clean_size=481: at most train_size=480"]


def test_series_of_figure_5() -> None:
    expected = {
        "nan_normal": ("nan", 1.0, 0.5), "nani": ("nani", 1.0, 0.05),
        "nanis": ("nanis", 1.0, 0.25), "nah_alpha115": ("nah", 1.15, 0.5),
        "leak": ("nan", 1.15, 0.0),
    }  # fmt: skip
    specs = check([f"experiment={','.join(f'fig5/{row}' for row in expected)}"])
    acts = [spec.config.act for spec in specs]
    assert [(a.variant, a.tanh.alpha, a.tanh.c) for a in acts] == list(expected.values())


# --- the real data


@pytest.fixture(scope="module")
def real(data_root: Path) -> MNISTTask:
    if not (data_root / "mnist").is_dir():
        pytest.skip(f"no MNIST under {data_root}")
    sizes = {"train_size": 50_000, "valid_size": 10_000, "test_size": 10_000}
    return prepared("real", data_root, hidden_size=500, **sizes)


def test_splits(real: MNISTTask, data_root: Path) -> None:
    mnist, splits = load_mnist(data_root), real.splits
    assert [len(part.labels) for part in splits[:3]] == [50_000, 10_000, 10_000]
    assert torch.equal(torch.cat([splits.train.labels, splits.valid.labels]), mnist.labels)
    assert torch.equal(splits.valid.inputs, mnist.images[50_000:])
    # Labels of the validation set of the Theano tutorials.
    assert torch.bincount(splits.valid.labels).tolist() == [
        991, 1064, 990, 1030, 983, 915, 967, 1090, 1009, 961,
    ]  # fmt: skip
    inputs, _ = splits.train.take(slice(0, 1000))
    assert float(inputs.min()) == 0.0 and float(inputs.max()) == 1.0
    assert len(splits.files) == 4


def test_few_units_are_saturated_at_first(real: MNISTTask) -> None:
    """Output noise is silent at the start; an input has deviation |x| sqrt(2 / (784 + 500))."""
    model = network("nan", (784, 500, 10)).eval()
    with torch.no_grad():
        found = real.validate(model, CPU)
    norms = (real.splits.valid.inputs.float() / 255).norm(dim=1)
    beyond = torch.special.erfc(1 / (norms * math.sqrt(2 / 1284)) / math.sqrt(2)).mean()
    assert found["saturated"] == pytest.approx(100 * float(beyond), rel=0.3)
    assert 0.1 < found["saturated"] < 3
