"""The counting task against the exact law, chance levels and a hand-set solution (its spec)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.cli.compose import check
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.unique_count import UniqueCount, UniqueCountConfig, data

CPU = torch.device("cpu")
CONFIG = UniqueCountConfig(
    name="unique_count", num_values=11, length=26, encoding="scalar", embedding_size=16,
    hidden_size=20, mlp_size=20, target="classification", batch_size=64, epoch_steps=1000,
    curriculum=False, curriculum_steps=1000, curriculum_start=5, valid_size=2000, test_size=3000,
)  # fmt: skip

# Exact percentages for length 26, 6 ... 11 distinct values, by the number of values.
LAW = {
    11: (0.006, 0.228, 3.209, 18.758, 44.208, 33.590),
    10: (0.034, 0.987, 10.432, 40.648, 47.899),
    9: (0.210, 4.583, 32.292, 62.912),
}
MAJORITY = {1: 0, 2: 9.1, 3: 25.6, 4: 45.9, 5: 50.8, 6: 53.1, 8: 58.7, 10: 62.3, 12: 66.3, 15: 65.5,
            18: 61.9, 20: 64.4, 22: 59.1, 24: 56.1, 26: 55.8}  # fmt: skip


def prepared(**changes: Any) -> UniqueCount:
    task = UniqueCount(replace(CONFIG, **changes), "real", 0)
    task.prepare(Path())
    return task


@pytest.mark.parametrize("num_values", LAW)
def test_exact_law(num_values: int) -> None:
    found = data.law(26, num_values)
    assert sum(found) == pytest.approx(1.0, abs=1e-12)
    for u, percent in enumerate(LAW[num_values], start=6):
        assert 100 * found[u] == pytest.approx(percent, abs=0.00051)
    # Independently: E U = V (1 - (1 - 1/V)^L).
    mean = num_values * (1 - (1 - 1 / num_values) ** 26)
    assert sum(u * p for u, p in enumerate(found)) == pytest.approx(mean, abs=1e-12)


def test_chance_levels() -> None:
    assert data.majority_error(26, 11) == pytest.approx(55.79, abs=0.005)
    assert data.majority_error(26, 10) == pytest.approx(52.10, abs=0.005)
    assert data.majority_error(26, 9) == pytest.approx(37.09, abs=0.005)
    assert data.entropy(26, 11) == pytest.approx(1.166, abs=0.0005)
    for length, error in MAJORITY.items():
        assert data.majority_error(length, 11) == pytest.approx(error, abs=0.06)


def test_empirical_law_of_the_sequences() -> None:
    """100,000 sequences, three standard errors at every count."""
    values, counts = data.sequences(5, 26, 100_000, 11)
    assert values.shape == (26, 100_000) and int(values.min()) == 0 and int(values.max()) == 10
    assert counts.tolist()[:200] == [len(set(column)) for column in values.T[:200].tolist()]
    law = data.law(26, 11)
    for u, p in enumerate(law):
        found = float((counts == u).double().mean())
        assert abs(found - p) <= 3 * math.sqrt(p * (1 - p) / 100_000) + 1e-9


@pytest.mark.parametrize(("a", "error"), [(0.25, 34.1), (1.0, 10.3)])
def test_smooth_counting_plateaus(a: float, error: float) -> None:
    """The best thresholds on the sum over values of 1 - exp(-a n), as the README quotes them."""
    values, counts = data.sequences(9, 26, 100_000, 11)
    often = nn.functional.one_hot(values, 11).sum(0).double()
    response = ((1 - torch.exp(-a * often)).sum(1) * 1e9).round()
    sums, place = response.unique(return_inverse=True)
    ones = torch.ones((), dtype=torch.float64)
    table = torch.zeros(len(sums), 12).double().index_put_((place, counts), ones, accumulate=True)
    right = torch.zeros(12).double()  # most right answers so far, by the last; answers never fall
    for row in table:
        right = right.cummax(0).values + row
    assert 100 * (1 - float(right.max()) / 100_000) == pytest.approx(error, abs=3 * 0.16)


def test_permutations_keep_the_label() -> None:
    values, counts = data.sequences(1, 26, 500, 11)
    assert torch.equal(data.count_unique(values[torch.randperm(26)], 11), counts)
    assert torch.equal(data.count_unique(torch.randperm(11)[values], 11), counts)


def test_batches_depend_on_seed_and_step_alone() -> None:
    one, other = prepared(), UniqueCount(CONFIG, "real", 1)
    assert torch.equal(one.batch(7)[0], prepared().batch(7)[0])
    assert not torch.equal(one.batch(7)[0], one.batch(8)[0])
    assert not torch.equal(one.batch(7)[0], other.batch(7)[0])
    other.prepare(Path())
    assert torch.equal(one._sets["test"][0], other._sets["test"][0])  # no seed changes these
    assert not torch.equal(one._sets["test"][0][:, :2000], one._sets["valid"][0])


def test_curriculum_lengths() -> None:
    task = prepared(curriculum=True)
    assert [data.longest(s, 26, 5, 1000) for s in (0, 47, 48, 500, 999, 1000, 5000)] == [
        5, 5, 6, 15, 25, 26, 26,
    ]  # fmt: skip
    lengths = {len(task.batch(step)[0]) for step in range(40)}
    assert lengths == {3, 4, 5}
    assert {len(task.batch(step)[0]) for step in range(1000, 1030)} == {26}
    middle = [len(task.batch(step)[0]) for step in range(500, 520)]
    assert min(middle) >= 8 and max(middle) <= 15
    assert {len(prepared().batch(step)[0]) for step in range(5)} == {26}


class OneHotHead(nn.Module):
    """22 ReLUs on the averaged one-hot input: relu(m) - relu(m - 1/26), times 26, summed."""

    def __init__(self, regression: bool) -> None:
        super().__init__()
        self.regression = regression

    def forward(self, values: Tensor) -> Tensor:
        pooled = nn.functional.one_hot(values, 11).double().mean(0)
        count = 26 * (pooled.relu() - (pooled - 1 / 26).relu()).sum(-1, keepdim=True)
        if self.regression:
            return count.float()
        return -(count - torch.arange(12)).abs().float()


@pytest.mark.parametrize("target", ["classification", "regression"])
def test_a_hand_set_head_makes_no_error(target: str) -> None:
    """Labels, pooling and scoring are right: the pooled one-hot is a sufficient statistic."""
    task = prepared(target=target)
    found = task.validate(OneHotHead(target == "regression"), CPU)
    assert found["valid_error"] == 0.0
    table = task.confusion(OneHotHead(target == "regression"), CPU)
    assert int(table.sum()) == 3000 and int(table.diag().sum()) == 3000


class Constant(nn.Module):
    """Always the law of the counts, or always its mean."""

    def __init__(self, regression: bool) -> None:
        super().__init__()
        law = data.law(26, 11)
        mean = sum(u * p for u, p in enumerate(law))
        logits = [math.log(p) if p else -1e4 for p in law]
        self.answer = torch.tensor([mean] if regression else logits)

    def forward(self, values: Tensor) -> Tensor:
        return self.answer.expand(values.shape[1], -1)


def test_constant_predictors_score_the_chance_levels() -> None:
    """Cross-entropy 1.166 and error 55.8 %; squared error 0.667. Three standard errors."""
    task = prepared(test_size=50_000)
    found = task.test(Constant(False), CPU)
    assert found["test_error"] == pytest.approx(55.79, abs=3 * 0.222)
    assert found["test_loss"] == pytest.approx(1.166, abs=0.015)
    squared = prepared(test_size=50_000, target="regression").test(Constant(True), CPU)
    assert squared["test_loss"] == pytest.approx(0.667, abs=0.02)
    assert squared["test_error"] == pytest.approx(55.79, abs=3 * 0.222)


def saturating(task: UniqueCount, variant: str, **settings: Any) -> nn.Module:
    """A model with weights so large that most of its units saturate."""
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant, settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("lstm.") and not name.endswith(".p"):
                weight *= 20
    return model


@pytest.mark.parametrize("encoding", ["scalar", "embedding"])
def test_repeatable_evaluation(encoding: str) -> None:
    task = prepared(encoding=encoding)
    model = saturating(task, "nah", c=5.0)
    values = task.batch(0)[0]
    assert not torch.equal(model(values), model(values))
    model.eval()
    with torch.no_grad():
        assert task.validate(model, CPU) == task.validate(model, CPU)


def test_untrained_model() -> None:
    task = prepared()
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec("nah")).eval()
    with torch.no_grad():
        assert task.validate(model, CPU)["valid_loss"] == pytest.approx(math.log(12), abs=0.15)


def test_hard_units_are_nan_without_noise() -> None:
    """alpha = 1, evaluation: NAN is the hard LSTM, also where units saturate; in training not."""
    task = prepared()
    values = task.batch(0)[0]
    hard, noisy = saturating(task, "hard"), saturating(task, "nan", c=5.0)
    assert not torch.allclose(hard(values), noisy(values), atol=1e-2)
    torch.testing.assert_close(hard.eval()(values), noisy.eval()(values))


def test_it_learns_what_the_inputs_say() -> None:
    """Sequences of 3 of 3 values by embedding: solved in a few hundred updates."""
    task = prepared(
        num_values=3, length=3, encoding="embedding", hidden_size=32, mlp_size=32,
        curriculum_start=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec("reference"))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(300):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert task.test(model.eval(), CPU)["test_error"] < 1.0


def test_training_metrics() -> None:
    sums = {"wrong": 30.0, "sequences": 120.0, "values": 1200.0, "cell": 60.0}
    assert prepared().training_metrics(sums) == {
        "train_error": 25.0, "train_length": 10.0, "train_cell": 0.5,
    }  # fmt: skip


def test_largest_cell_is_that_of_the_layer() -> None:
    task = prepared()
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec("hard"))
    output = task.loss(model, 3, CPU)
    x = (task.batch(3)[0] / 10).unsqueeze(-1)
    cell = float(model.lstm(x)[1][1].detach().abs().max())  # type: ignore[operator, union-attr]
    assert float(output.sums["cell"]) == pytest.approx(64 * cell, rel=1e-6)


def test_the_look_counts_right_answers() -> None:
    """A hand-set head: every row of the confusion matrix has 100 % on its diagonal."""
    task = prepared()
    shown = task.sample(OneHotHead(False), CPU)
    first = int(task._sets["test"][1].min())
    (panel,) = shown.panels
    assert torch.equal(panel.values[first:], 100 * torch.eye(12, dtype=torch.float64)[first:])
    assert not panel.values[:first].any()  # counts that no sequence has
    assert shown.text.count("100.0 %") == 12 - first


def test_configuration() -> None:
    assert find_task("unique_count") is UniqueCount
    (spec,) = check(["task=unique_count", "act=nan_normal"])
    assert spec.task_config == replace(
        CONFIG, hidden_size=100, mlp_size=100, valid_size=10_000, test_size=50_000,
        encoding="embedding", curriculum_steps=50_000,
    )  # fmt: skip
    problems: list[str] = []
    build(UniqueCountConfig, vars(CONFIG) | {"curriculum_start": 27}, "task", problems)
    assert len(problems) == 1 and "curriculum_start=27: at most length=26" in problems[0]
