"""The recall task: chance levels, sets, arms that share their weights, what a sample shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise, set_noise_level
from noisyexp.cli.compose import check
from noisyexp.nn.saturation import Saturation
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.ntm_recall import NTMRecall, NTMRecallConfig, data
from noisyexp.tasks.ntm_recall.model import NTM
from noisyexp.tasks.ntm_recall.task import score

CPU = torch.device("cpu")
CONFIG = NTMRecallConfig(
    name="ntm_recall", problem="recall", min_items=2, max_items=4, counts="batch",
    growing_bound=False, batch_size=8, epoch_steps=10, controller="feedforward",
    controller_size=20, read_heads=2, write_heads=1, memory_rows=16, memory_width=8,
    memory_init="random", valid_size=200, test_size=200,
)  # fmt: skip
CONTROLLERS = ["feedforward", "lstm"]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prepared(**changes: Any) -> NTMRecall:
    task = NTMRecall(replace(CONFIG, **changes), "real", 0)
    task.prepare(Path())
    return task


def made(task: NTMRecall, variant: str = "reference", **settings: Any) -> NTM:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant, settings))
    assert isinstance(model, NTM)
    attach_noise(model, NoiseSource(0))
    return model


# --- levels and scoring


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("memory_init", ["random", "constant"])
def test_an_untrained_machine_is_at_chance(controller: str, memory_init: str) -> None:
    """12.4 to 12.6 nats and 9.0 +- 0.1 wrong bits, as the mean over some first weights."""
    task = prepared(
        max_items=6,
        controller=controller,
        controller_size=100,
        memory_init=memory_init,
        valid_size=500,
    )
    wrong = []
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            found = task.validate(task.build_model(ActivationSpec("reference")).eval(), CPU)
        assert all(12.4 < found[f"valid_nats_{role}"] < 12.6 for role in ("min", "max", "mix"))
        wrong += [found[f"valid_wrong_{role}"] for role in ("min", "max", "mix")]
    assert sum(wrong) / len(wrong) == pytest.approx(9.0, abs=0.1)


class Oracle(nn.Module):
    """Answers from the input alone with probability `p`; `flips` bits of every answer wrong."""

    def __init__(self, p: float, flips: int = 0) -> None:
        super().__init__()
        self.logit, self.flips = torch.tensor(p).logit(), flips

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        scores = torch.zeros(len(x), x.shape[1], 6)
        for i in range(x.shape[1]):
            blocks = [x[t + 1 : t + 4, i, :6] for t in range(0, len(x), 4) if x[t, i, 6]]
            cue = int(x[:, i, 7].nonzero()[-1])
            query = x[cue - 3 : cue, i, :6]
            place = next(k for k, block in enumerate(blocks) if torch.equal(block, query))
            answer = (2 * blocks[place + 1] - 1) * self.logit
            answer.view(-1)[: self.flips] *= -1
            scores[cue + 1 : cue + 4, i] = answer
        return scores[first:]


def test_scores_of_known_answers() -> None:
    """18 bits at -ln p each; flipped ones at -ln(1 - p). Padding of short episodes is not asked."""
    task = prepared(max_items=6, valid_size=50)
    found = task.validate(Oracle(0.9), CPU)
    for role in ("min", "max", "mix"):
        assert found[f"valid_nats_{role}"] == pytest.approx(18 * 0.1053605, rel=1e-5)
        assert found[f"valid_wrong_{role}"] == 0.0
    flipped = task.test(Oracle(0.9, flips=4), CPU)
    assert flipped["test_nats_mix"] == pytest.approx(14 * 0.1053605 + 4 * 2.3025851, rel=1e-5)
    assert flipped["test_wrong_mix"] == 4.0
    uncertain = task.validate(Oracle(0.5), CPU)
    assert uncertain["valid_nats_max"] == pytest.approx(data.chance_nats(), rel=1e-6)
    # The gradient is that of nats a sequence: the training loss is the mean over episodes.
    output = task.loss(Oracle(0.9), 3, CPU)
    assert float(output.loss) == pytest.approx(18 * 0.1053605, rel=1e-5)
    assert output.items == 8
    sums = {name: float(value) for name, value in output.sums.items()}
    assert task.training_metrics(sums)["train_nats"] == pytest.approx(18 * 0.1053605, rel=1e-5)
    assert task.training_metrics(sums)["train_wrong"] == 0.0


def test_padding_does_not_change_an_answer() -> None:
    """Episodes of different lengths score the same together and one by one."""
    task = prepared(counts="episode")
    model, episodes = made(task).eval().requires_grad_(False), task.batch(0)
    lengths = (episodes.mask.cumsum(0).argmax(0) + 1).tolist()
    assert len(set(lengths)) > 1
    total = 0.0
    for i, length in enumerate(lengths):
        one = data.Episodes(*(part[:length, i : i + 1] for part in episodes))
        total += float(score(model, one)[0])
    assert float(score(model, episodes)[0]) == pytest.approx(total, rel=1e-5)


# --- data


def test_batches_depend_on_seed_and_step_alone() -> None:
    one, other = prepared(), NTMRecall(CONFIG, "real", 1)
    for left, right in zip(one.batch(7), prepared().batch(7), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(one.batch(7).x, one.batch(8).x)
    assert not torch.equal(one.batch(7).x, other.batch(7).x)
    other.prepare(Path())
    assert torch.equal(one._sets["test_mix"].x, other._sets["test_mix"].x)  # no seed changes these


def test_item_counts_of_batches_and_sets() -> None:
    task = prepared(max_items=5)
    assert {len(task.batch(step).x) for step in range(40)} == {16, 20, 24, 28}
    for step in range(3):
        assert len(task.batch(step).x[:, :, 6].sum(0).unique()) == 1
    each = prepared(max_items=5, counts="episode", batch_size=64).batch(0)
    assert each.x[:, :, 6].sum(0).unique().tolist() == [2, 3, 4, 5]
    items = {name: part.x[:, :, 6].sum(0).int() for name, part in task._sets.items()}
    assert items["valid_min"].unique().tolist() == [2] and len(items["valid_min"]) == 200
    assert items["test_max"].unique().tolist() == [5]
    assert items["valid_mix"].bincount().tolist() == [0, 0, 50, 50, 50, 50]
    growing = prepared(max_items=16, growing_bound=True, counts="episode", batch_size=500)
    assert int(growing.batch(0).x[:, :, 6].sum(0).max()) == 11
    sets = [task._sets[name].x for name in ("valid_max", "test_max")]
    assert not torch.equal(sets[0], sets[1])


# --- arms


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_all_arms_start_from_the_same_weights(controller: str) -> None:
    task = prepared(controller=controller)
    reference = made(task).state_dict()
    for variant in ("hard", "nan", "nah", "nanil"):
        state = made(task, variant).state_dict()
        for name, value in reference.items():
            assert torch.equal(state[name], value), name
        extra = [name for name in state if name not in reference]
        assert all(name.endswith((".p", "_extra_state")) for name in extra)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_without_noise_the_noisy_arm_is_the_hard_one(controller: str) -> None:
    """alpha = 1 and evaluation, or c = 0 in training: bit for bit, gradients too."""
    task, found = prepared(controller=controller), []
    x = task.batch(0).x
    for variant, settings in (("hard", {}), ("nan", {"alpha": 1.0, "c": 0.0})):
        model = made(task, variant, **settings)
        for weight in model.controller.parameters():
            if weight.dim() > 1:
                weight.data *= 8  # so that units saturate
        train = model(x)
        train.square().sum().backward()
        grads = [p.grad for name, p in model.named_parameters() if not name.endswith(".p")]
        found.append([train, model.eval()(x), *grads])
    for left, right in zip(*found, strict=True):
        assert torch.equal(left, right)


def test_c_30_is_silent_at_first_and_loud_once_units_saturate() -> None:
    task = prepared()
    hard, noisy = made(task, "hard"), made(task, "nan")
    set_noise_level(noisy, 30.0)
    episodes = task.batch(0)
    with torch.no_grad():
        one, other = score(hard, episodes)[0], score(noisy, episodes)[0]
    assert float(one) == pytest.approx(float(other), rel=1e-3)
    for model in (hard, noisy):
        model.controller.layer.weight.data *= 10  # pre-activations beyond 1
    with torch.no_grad():
        one, other = score(hard, episodes)[0], score(noisy, episodes)[0]
    assert abs(float(one - other)) > 0.1


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_noise_is_in_the_controller_alone(controller: str) -> None:
    model = made(prepared(controller=controller), "nan")
    noisy = [name for name, _ in model.named_parameters() if name.endswith(".p")]
    assert len(noisy) == (1 if controller == "feedforward" else 5)
    assert all(name.startswith("controller.") for name in noisy)


# --- the machine


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_input_of_all_steps_is_projected_at_once(controller: str) -> None:
    """Against W [x, r] + b, and h from a plain tanh or LSTM cell, step by step."""
    model = made(prepared(controller=controller)).double()
    x = torch.randn(5, 3, 8, dtype=torch.float64)
    memory, outputs = model.memory.first_state(3), []
    state = model.controller.first_state(3)
    for step in x:
        seen = torch.cat([step, memory.reads], -1)
        if controller == "feedforward":
            state = (torch.tanh(model.controller.layer(seen)),)
        else:
            state = nn.LSTMCell.forward(model.controller.cell, seen, state)
        memory = model.memory(state[0], memory)
        outputs.append(model.output(torch.cat([state[0], memory.reads], -1)))
    torch.testing.assert_close(model(x), torch.stack(outputs))
    torch.testing.assert_close(model(x, first=3), torch.stack(outputs)[3:])


def test_sizes_of_graves() -> None:
    """Feed-forward 256 with 4 + 4 heads and LSTM 100 with 1 + 1 heads, memory 128 x 20."""

    def parameters(**changes: Any) -> int:
        model = made(prepared(memory_rows=128, memory_width=20, **changes))
        first = model.memory.scores0.numel() + model.memory.reads0.numel()
        first += 0 if changes["controller"] == "feedforward" else model.controller.state0.numel()
        return sum(p.numel() for p in model.parameters()) - first

    # The spec counts 119,382 and 61,618; torch's LSTM has a second bias of 4 x 100.
    big = {"controller_size": 256, "read_heads": 4, "write_heads": 4}
    assert parameters(controller="feedforward", **big) == 119_382
    small = {"controller_size": 100, "read_heads": 1, "write_heads": 1}
    assert parameters(controller="lstm", **small) == 61_618 + 400


def test_saturation() -> None:
    task = prepared()
    model, seen = made(task).eval(), Saturation()
    with torch.no_grad():
        model.controller.layer.weight.zero_()
        model.controller.layer.bias[:5] = 1.5  # 5 of 20 units beyond 1
        model.controller.layer.bias[5:] = -0.99
        with seen.watch(model):
            model(task.batch(0).x)
        model(task.batch(0).x)  # not watched
        ((_, total),) = seen.counts.values()
        assert seen.percent == 25.0 and total == task.batch(0).x[..., 0].numel() * 20
        assert task.validate(model, CPU)["saturated"] == 25.0


def test_saturation_of_an_lstm() -> None:
    """Sigmoids saturate at 2, tanh at 1; what is computed stays the same."""
    task = prepared(controller="lstm")
    model, seen = made(task, "nan").eval(), Saturation()
    cell = model.controller.cell
    with torch.no_grad():
        for weight in cell.parameters():
            weight.zero_()
        cell.bias_ih[:80] = 1.5  # the gates i, f, g, o in this order: only g is saturated
        x = task.batch(0).x
        with seen.watch(model):
            watched = model(x)
        assert cell.backend == "auto"
        torch.testing.assert_close(model(x), watched)
    # Of the five units g always is; the cell passes 1 after two steps: .875 * (1 + .875) > 1.
    steps = len(x)
    assert seen.percent == pytest.approx(100 * (steps + steps - 1) / (5 * steps))


def test_sample() -> None:
    task = prepared()
    shown = task.sample(made(task).eval(), CPU)
    panels = {panel.title: panel.values for panel in shown.panels}
    steps = 4 * (4 + 2)
    assert {name: tuple(values.shape) for name, values in panels.items()} == {
        "input": (8, steps), "target": (6, 3), "output": (6, 3),
        "written to": (16, steps), "read from": (16, steps),
    }  # fmt: skip
    assert torch.equal(panels["target"].T, task._sets["valid_max"].target[-3:, 0])
    torch.testing.assert_close(panels["written to"].sum(0), torch.ones(steps))  # one write head
    target, output, verdict = shown.text.splitlines()
    assert target == "target " + " ".join(
        "".join(str(int(bit)) for bit in column) for column in panels["target"].T
    )
    wrong = sum(a != b for a, b in zip(target[7:], output[7:], strict=True))
    assert verdict == f"{wrong} of 18 bits wrong"


# --- configuration


def test_configuration() -> None:
    assert find_task("ntm_recall") is NTMRecall
    (spec,) = check(["task=ntm_recall", "act=nan_normal"])
    assert spec.task_config == replace(
        CONFIG, max_items=16, counts="episode", batch_size=64, epoch_steps=500,
        controller_size=256, read_heads=4, write_heads=4, memory_rows=128, memory_width=20,
        valid_size=640, test_size=3200,
    )  # fmt: skip
    training = spec.config.training
    assert (training.optimizer, training.lr, training.max_grad_norm) == ("adam", 0.001, 10.0)
    assert training.epochs * spec.task_config.epoch_steps == 50_000
    for wrong, message in (({"min_items": 1}, "recall needs"), ({"min_items": 5}, "max_items=4")):
        problems: list[str] = []
        build(NTMRecallConfig, vars(CONFIG) | wrong, "task", problems)
        assert len(problems) == 1 and message in problems[0]


def test_every_metric_is_reported() -> None:
    task = prepared(valid_size=4, test_size=4)
    model = made(task).eval()
    output = task.loss(model, 0, CPU)
    sums = {name: float(value) for name, value in output.sums.items()}
    with torch.no_grad():
        found = {**task.validate(model, CPU), **task.test(model, CPU)}
    assert {**found, **task.training_metrics(sums)}.keys() == NTMRecall.metrics.keys()
    assert NTMRecall.selection == "valid_nats_mix"
