"""Three Gaussians: the law of the points, the best classifier, what the record keeps (its spec)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, noise_parameters
from noisyexp.cli.compose import check
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.classification.mlp import MLP
from noisyexp.tasks.mixture import Mixture, MixtureConfig, data

CPU = torch.device("cpu")
CONFIG = MixtureConfig(
    name="mixture", hidden_size=8, num_layers=3, batch_size=64, train_size=3000, valid_size=1000,
    test_size=1000,
)  # fmt: skip
MEANS = torch.tensor([(-3.0, 0.0), (0.0, 3.0), (3.0, 0.0)], dtype=torch.float64)
DEVIATIONS = (0.5, 0.8, 1.2)


def prepared(seed: int = 0, **changes: Any) -> Mixture:
    task = Mixture(replace(CONFIG, **changes), "real", seed)
    task.prepare(Path())
    return task


def network(task: Mixture, variant: str, **settings: Any) -> MLP:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant, settings))
    assert isinstance(model, MLP)
    return model


def test_law_of_the_points() -> None:
    """Shares, means, deviations and covariance of 60,000 points, three standard errors."""
    size = 60_000
    points = data.points("law", size)
    for k, deviation in enumerate(DEVIATIONS):
        x = points.inputs[points.labels == k].double()
        n = len(x)
        assert abs(n - size / 3) <= 3 * math.sqrt(size * 2 / 9)
        assert float((x.mean(0) - MEANS[k]).abs().max()) <= 3 * deviation / math.sqrt(n)
        assert float((x.std(0) - deviation).abs().max()) <= 3 * deviation / math.sqrt(2 * n)
        covariance = float(((x[:, 0] - MEANS[k, 0]) * (x[:, 1] - MEANS[k, 1])).mean())
        assert abs(covariance) <= 3 * deviation**2 / math.sqrt(n)


def test_sets_are_the_same_for_every_seed() -> None:
    one, other = prepared(0), prepared(1)
    for split, size in (("train", 3000), ("valid", 1000), ("test", 1000)):
        assert one._sets[split].inputs.shape == (size, 2)
        assert torch.equal(one._sets[split].inputs, other._sets[split].inputs)
    assert not torch.equal(one._sets["valid"].inputs, one._sets["test"].inputs)
    assert not torch.equal(one.batch(0)[0], other.batch(0)[0])  # their order is not
    assert one.steps_per_epoch == 47 and len(one.batch(46)[0]) == 3000 - 46 * 64


class Bayes(nn.Module):
    """Scores of the classifier that knows the law."""

    def forward(self, x: Tensor) -> Tensor:
        return data.log_densities(x)


def test_densities() -> None:
    """Against torch's own normal law."""
    x = 6 * torch.rand(40, 2, dtype=torch.float64) - 3
    for k, deviation in enumerate(DEVIATIONS):
        log_p = torch.distributions.Normal(MEANS[k], deviation).log_prob(x).sum(-1)
        found = data.log_densities(x)[:, k] - math.log(2 * math.pi)
        torch.testing.assert_close(found, log_p - math.log(3))


def test_best_possible() -> None:
    """The integral against 200,000 points, three standard errors; found once more by the task."""
    nll, accuracy = data.best_possible()
    points = data.points("monte carlo", 200_000)
    each = -torch.log_softmax(data.log_densities(points.inputs.double()), -1)
    costs = each.gather(1, points.labels.unsqueeze(1)).squeeze(1)
    assert nll == pytest.approx(float(costs.mean()), abs=3 * float(costs.std()) / 200_000**0.5)
    right = (each.argmin(-1) == points.labels).double()
    assert accuracy == pytest.approx(100 * float(right.mean()), abs=3 * 100 * 0.104 / 200_000**0.5)
    assert accuracy == pytest.approx(98.91, abs=0.01)
    found = prepared(test_size=20_000).test(Bayes(), CPU)
    assert found["test_accuracy"] == pytest.approx(accuracy, abs=3 * 100 * 0.104 / 20_000**0.5)
    assert prepared().floor() == {"test_nll": nll, "test_accuracy": accuracy}


def test_parameters() -> None:
    """2 x 8 + 8, twice 8 x 8 + 8, 8 x 3 + 3; 24 p."""
    task = prepared()
    assert sum(p.numel() for p in network(task, "reference").parameters()) == 195
    assert sum(p.numel() for p in network(task, "nan").parameters()) == 219
    assert [p.numel() for p in noise_parameters(network(task, "nah"))] == [8, 8, 8]


def test_findings() -> None:
    task = prepared()
    model = network(task, "nah", c=1.0)
    before = [p.detach().clone() for p in noise_parameters(model)]
    with torch.no_grad():
        for p in noise_parameters(model):
            p.mul_(2)
    model.eval()
    found = task.findings(model, CPU)
    for k, (name, factor) in enumerate((("p_before", 1), ("p_after", 2))):
        for layer in range(3):
            expected = factor * before[layer]
            assert found[name][layer] == pytest.approx(expected.tolist(), abs=5.1e-5), k
    x = torch.tensor(found["pre_activations"])
    assert x.shape == (3, 8, 200)
    # The first two layers by hand, with the mean noise of Eq 13.
    points = task._sets["test"].inputs[:200]
    first = points @ model.layers[0].weight.T  # type: ignore[operator, union-attr]
    second = model.units[0](first) @ model.layers[1].weight.T  # type: ignore[operator, union-attr]
    torch.testing.assert_close(x[0], first.T.detach(), atol=6e-5, rtol=0)
    torch.testing.assert_close(x[1], second.T.detach(), atol=6e-5, rtol=0)
    assert found == task.findings(model, CPU)
    assert task.findings(network(task, "reference").eval(), CPU) == {}


def test_findings_of_one_p_for_a_layer() -> None:
    task = prepared()
    found = task.findings(network(task, "nan", p_shape="scalar").eval(), CPU)
    assert [len(set(p)) for p in found["p_after"]] == [1, 1, 1]
    assert [len(p) for p in found["p_after"]] == [8, 8, 8]


@pytest.mark.parametrize("variant", ["reference", "nan"])
def test_it_learns(variant: str) -> None:
    """300 updates at a larger rate reach 96 %; chance is 33 %, the best 98.9 %."""
    task = prepared()
    model = network(task, variant, **({"c": 1.0} if variant == "nan" else {}))
    with torch.no_grad():
        assert task.test(model.eval(), CPU)["test_accuracy"] < 90
    optimizer = torch.optim.Adam(model.train().parameters(), 0.01)
    for step in range(300):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found = task.test(model.eval(), CPU)
    assert found["test_accuracy"] > 96 and found["test_nll"] < 0.12
    text = task.sample(model, CPU).text
    assert text.count("%") == 3


def test_the_sample_shows_where_the_answers_change() -> None:
    """Top left (-6, 6), bottom right (6, -6); the components' means have their own answers."""
    (panel,) = prepared().sample(Bayes(), CPU).panels
    answers = panel.values
    assert answers.shape == (121, 121)
    rows_columns = {0: (60, 30), 1: (30, 60), 2: (60, 90)}  # 0.1 a step: x = -3 is column 30
    assert {k: int(answers[place]) for k, place in rows_columns.items()} == {0: 0, 1: 1, 2: 2}


def test_training_metrics() -> None:
    sums = {"nll": 15.0, "wrong": 30.0, "examples": 120.0}
    assert prepared().training_metrics(sums) == {"train_nll": 0.125, "train_accuracy": 75.0}


def test_configuration() -> None:
    assert find_task("mixture") is Mixture
    figure_6, figure_7 = check(["experiment=fig6/nan_normal,fig6/nah"])
    for spec, variant in ((figure_6, "nan"), (figure_7, "nah")):
        assert spec.task_config == CONFIG
        tanh = spec.config.act.tanh
        assert (spec.config.act.variant, tanh.alpha, tanh.c) == (variant, 1.0, 1.0)
    training = figure_6.plain["training"]
    assert (training["optimizer"], training["lr"], training["epochs"]) == ("adam", 0.001, 200)
    problems: list[str] = []
    build(MixtureConfig, vars(CONFIG) | {"batch_size": 3001}, "task", problems)
    assert problems == ["task.batch_size=3001: at most train_size=3000"]
