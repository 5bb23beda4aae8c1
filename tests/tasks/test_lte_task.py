"""Learning to execute as a task: model, loss, carried state, data by key, evaluation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise, noise_parameters
from noisyexp.cli.compose import check
from noisyexp.nn.language_model import LanguageModel
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.lte import LTE, LTEConfig
from noisyexp.tasks.lte.answers import answer, marks
from noisyexp.tasks.lte.layout import NO_TARGET, Matrix, encode
from noisyexp.tasks.lte.programs import ALPHABET, Program, split_of
from noisyexp.tasks.lte.scoring import chance_accuracies

CPU = torch.device("cpu")
VARIANTS = ("reference", "hard", "nan", "nah", "nani", "nanil", "nanis")
PAPER = LTEConfig(
    name="lte", hidden_size=400, num_layers=2, init_range=0.08, columns=100, steps=50,
    epoch_steps=100, data_epochs=2, strategy="combined", level_draw="per_call", target_length=6,
    target_nesting=3, threshold=95.0, patience=5, decay=0.8, min_lr=0.001, eval_windows=10,
    eval_columns=100, large_columns=2000,
)  # fmt: skip
SMALL = replace(
    PAPER, hidden_size=12, columns=6, steps=20, epoch_steps=10, target_length=3, target_nesting=1,
    eval_columns=8, large_columns=30,
)  # fmt: skip


def prepared(seed: int = 0, config: LTEConfig = SMALL) -> LTE:
    task = LTE(config, "real", seed)
    assert task.prepare(Path()) == {}
    return task


def model_of(task: LTE, variant: str = "reference") -> LanguageModel:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, LanguageModel)
    return model


def test_found_and_configured_as_in_the_paper() -> None:
    assert find_task("lte") is LTE and LTE.selection == "target_acc"
    (spec,) = check(["task=lte", "act=nah"])
    assert spec.task_config == PAPER
    training = spec.config.training
    assert (training.optimizer, training.lr, training.momentum) == ("sgd", 0.5, 0.0)
    assert (training.max_grad_norm, training.use_weights) == (5.0, "last")
    assert training.lr_schedule.rule == "constant" and training.evaluate_every == 1
    # 17 + 28 moves of five evaluations are the least that stagnation alone can take.
    assert training.epochs * PAPER.epoch_steps >= 4 * 22_500


def test_parameters() -> None:
    """42 x 400 + 2 x (4 x 400 x 800 + 8 x 400) + 400 x 42 + 42."""
    model = model_of(prepared(config=PAPER))
    assert sum(p.numel() for p in model.parameters()) == 2_600_042
    noisy = model_of(prepared(config=PAPER), "nah")
    assert sum(p.numel() for p in noise_parameters(noisy)) == 2 * 5 * 400
    assert sum(p.numel() for p in noisy.parameters()) == 2_600_042 + 4_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_initial_weights(variant: str) -> None:
    """U[-0.08, 0.08] for all but p, equal in all arms; p in [-1, 1]."""
    task = prepared(config=replace(SMALL, hidden_size=60))
    reference, model = model_of(task), model_of(task, variant)
    state, extra = model.state_dict(), {id(p) for p in noise_parameters(model)}
    for name, value in reference.state_dict().items():
        assert torch.equal(state[name], value), name
        assert 0.07 < float(value.detach().abs().max()) <= 0.08
    for name, value in model.named_parameters():
        assert (id(value) in extra) == (name not in reference.state_dict())
        if id(value) in extra:
            assert 0.5 < float(value.detach().abs().max()) <= 1.0


def test_loss_is_the_sum_of_scored_characters_over_columns() -> None:
    """Against torch's own LSTM in double precision, over three windows of one stream."""
    task = prepared()
    model = model_of(task)
    size = model.lstm.hidden_size
    lstm = nn.LSTM(size, size, 2).double()
    weights = {name: value.double() for name, value in model.state_dict().items()}
    lstm.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("lstm.")})
    matrix, state = task.training_set(0, CPU), None
    for step in range(3):
        output = task.loss(model, step, CPU)
        inputs = matrix.symbols[20 * step : 20 * step + 20]
        with torch.no_grad():
            hidden, state = lstm(weights["embedding.weight"][inputs], state)
            logs = (hidden @ weights["output.weight"].T + weights["output.bias"]).log_softmax(-1)
        total, right, scored = 0.0, 0, 0
        for row in range(20):
            for column in range(6):
                target = int(matrix.targets[20 * step + row + 1, column])
                if target != NO_TARGET:
                    scored += 1
                    total -= float(logs[row, column, target])
                    right += int(logs[row, column].argmax() == target)
        assert scored > 0
        assert output.loss.item() == pytest.approx(total / 6, rel=1e-5)
        assert (int(output.sums["right"]), int(output.sums["scored"])) == (right, scored)
        assert output.items == 120
    assert task.training_metrics({"right": 30.0, "scored": 40.0}) == {"train_acc": 75.0}


class Doubled(LTE):
    """Every column of a training set twice."""

    def training_set(self, epoch: int, device: torch.device) -> Matrix:
        matrix = super().training_set(epoch, device)
        return Matrix(matrix.symbols.repeat(1, 2), matrix.targets.repeat(1, 2))


def test_duplicated_columns_leave_the_gradient_unchanged() -> None:
    gradients = []
    for kind in (LTE, Doubled):
        task = kind(SMALL, "real", 0)
        model = model_of(task)
        task.loss(model, 0, CPU).loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_first_loss_is_that_of_guessing() -> None:
    output = prepared().loss(model_of(prepared(), "nah"), 0, CPU)
    nats = output.loss.item() * 6 / float(output.sums["scored"])
    assert nats == pytest.approx(math.log(42), abs=0.1)


def test_state_is_carried_detached_and_zero_at_each_epoch() -> None:
    task = prepared()
    model = model_of(task)
    first = task.loss(model, 0, CPU).loss.item()
    carried = task.state_dict()["state"]
    assert not any(part.requires_grad for part in carried)
    assert float(carried[0].abs().max()) > 0
    with_state = task.loss(model, 1, CPU).loss.item()
    task.load_state_dict({"state": None})
    assert task.loss(model, 1, CPU).loss.item() != with_state
    # Epoch 1 reads the set of epoch 0 once more, from its top and from a zero state.
    assert task.loss(model, 10, CPU).loss.item() == first
    task.validate(model.eval(), CPU)
    again = prepared()
    again.load_state_dict({"state": [part.clone() for part in carried]})
    assert again.loss(model, 1, CPU).loss.item() == with_state


def test_training_data_by_seed_moves_and_epoch() -> None:
    task, other = prepared(), prepared(seed=1)
    sets = [task.training_set(epoch, CPU).symbols for epoch in range(4)]
    assert sets[0].shape == (10 * 20 + 1, 6)
    assert torch.equal(sets[0], sets[1]) and torch.equal(sets[2], sets[3])
    assert not torch.equal(sets[0], sets[2])
    assert torch.equal(sets[0], prepared().training_set(1, CPU).symbols)  # any order of calls
    assert not torch.equal(sets[0], other.training_set(0, CPU).symbols)
    task.curriculum.decide({"valid_acc": 96.0, "train_acc": 50.0}, 0.5)
    assert not torch.equal(sets[2], task.training_set(2, CPU).symbols)


def test_level_of_each_set() -> None:
    """Under `naive` the curriculum decides; the evaluation sets of the last level never change."""

    def longest(matrix: Matrix) -> int:
        text = "".join(ALPHABET[s] for s in matrix.symbols.T.flatten().tolist())
        return max(
            len(digits) for digits in "".join(c if c.isdigit() else " " for c in text).split()
        )

    task = prepared(config=replace(SMALL, strategy="naive", eval_columns=20, columns=20))
    fixed = {name: task.evaluation_set(name) for name in ("target", "test", "test_large")}
    assert [m.symbols.shape for m in fixed.values()] == [(201, 20), (201, 20), (201, 30)]
    valid, low = task.evaluation_set("valid"), longest(task.training_set(0, CPU))
    assert longest(valid) <= 3 and low <= 3  # at most 10 + 4 * 10 at level (1, 1)
    for _ in range(2):
        task.curriculum.decide({"valid_acc": 96.0, "train_acc": 50.0}, 0.5)
    assert task.curriculum.current == (3, 1)
    assert longest(task.evaluation_set("valid")) >= 4 <= longest(task.training_set(0, CPU))
    assert not torch.equal(task.evaluation_set("valid").symbols, valid.symbols)
    for name, matrix in fixed.items():
        assert task.evaluation_set(name) is matrix
        assert torch.equal(prepared(5, task.config).evaluation_set(name).symbols, matrix.symbols)
    assert not torch.equal(fixed["test"].symbols, fixed["test_large"].symbols[:, :20])


class Oracle(LanguageModel):
    """Knows a matrix by heart, and is wrong in every column below `wrong`."""

    def __init__(self, matrix: Matrix, wrong: int) -> None:
        nn.Module.__init__(self)
        self.matrix, self.wrong, self.row = matrix, wrong, 0
        self.output = nn.Linear(len(ALPHABET), len(ALPHABET), bias=False)
        nn.init.eye_(self.output.weight)

    def zero_state(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.row = 0
        return torch.zeros(1), torch.zeros(1)

    def features(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        assert torch.equal(tokens, self.matrix.symbols[self.row : self.row + len(tokens)])
        self.row += len(tokens)
        targets = self.matrix.targets[self.row - len(tokens) + 1 : self.row + 1].clamp(min=0)
        scores = nn.functional.one_hot(targets, len(ALPHABET)).float()
        scores[:, : self.wrong] *= -1
        return scores, state


@pytest.mark.parametrize("wrong", [0, 3, 8])
def test_accuracy_of_a_model_that_knows_the_answers(wrong: int) -> None:
    task = prepared()
    matrix = task.evaluation_set("test")
    scored = (matrix.targets != NO_TARGET).sum(0)
    right, found = task._score("test", Oracle(matrix, wrong), CPU)
    assert torch.equal(found, scored)
    assert torch.equal(right, scored * (torch.arange(8) >= wrong))


@pytest.mark.parametrize("variant", ["nan", "nah", "nanis"])
def test_evaluation_has_no_noise(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared()
    model, source = model_of(task, variant), NoiseSource(0)
    attach_noise(model, source)
    with torch.no_grad():
        for p in model.lstm.parameters():
            p.mul_(20)  # so that units saturate
    assert task.loss(model, 0, CPU).loss.item() != task.loss(model, 0, CPU).loss.item()
    model.eval()

    def refuse(*args: Any) -> None:
        raise AssertionError("a draw in evaluation")

    monkeypatch.setattr(source, "normal", refuse)
    monkeypatch.setattr(torch, "randn", refuse)
    kept = task.state_dict()["state"]
    results = [{**task.validate(model, CPU), **task.test(model, CPU)} for _ in range(2)]
    assert results[0] == results[1] and set(results[0]) == set(LTE.metrics) - {"train_acc"}
    assert all(map(torch.equal, task.state_dict()["state"], kept))


def test_columns_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared()
    model = model_of(task).eval()
    before = task.test(model, CPU)
    monkeypatch.setattr("noisyexp.tasks.lte.scoring.CHUNK", 7)
    assert task.test(model, CPU) == before


def test_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisyexp.tasks.lte.scoring.CHANCE_PROGRAMS", 1_000)
    task = prepared()
    model = model_of(task, "nah").eval()
    text = task.sample(model, CPU).text
    assert text.count("  true    ") == text.count("  forced  ") == text.count("  free    ") == 10
    for source, target in task.test_programs(10):
        assert source[:-1].replace("#", "\n") + f"\n  true    {target}" in text
    assert task.sample(model, CPU).text == text
    assert marks("128.", "137.") == " ^^" and marks("12.", "1234.") == "  ^^^"
    assert marks("5.", "5.") == ""
    chance = chance_accuracies(task.target)
    assert chance["character"] < chance["position"] < chance["previous"] < 40
    assert f"always the same character {chance['character']:.1f} %" in text


def test_forced_answers_are_what_is_scored() -> None:
    task = prepared()
    model = model_of(task).eval()
    program = Program("print((3-8))@", "-5.")
    text = encode("".join(program))
    symbols = torch.tensor([*text, 0]).unsqueeze(1)
    logits, _ = model(symbols, model.zero_state(1))
    expected = "".join(ALPHABET[i] for i in logits[12:15, 0].argmax(-1).tolist())
    assert answer(model, program, CPU, forced=True) == expected
    free = answer(model, program, CPU, forced=False)
    assert free[0] == expected[0] and len(free) <= 6


def test_windows_must_hold_a_program() -> None:
    problems: list[str] = []
    build(LTEConfig, vars(PAPER) | {"eval_windows": 3}, "task", problems)
    assert problems == [
        "task.eval_windows=3: 3 * steps = 150 rows; programs of target_nesting=3 may have 200 "
        "characters"
    ]


@pytest.mark.slow
def test_it_learns() -> None:
    """4,000 updates at level (1, 1), 2 x 128 units: the training programs are mostly solved.

    No program of one operation on one digit that prints a number as it stands is a training
    program, by the hash, so that validation stays below until copying is learned from others.
    """
    config = replace(PAPER, hidden_size=128, columns=20, target_nesting=1, target_length=3)
    task = prepared(config=config)
    model = model_of(task)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for step in range(4_000):
        if step % 100 == 0:
            right = scored = 0.0
        optimizer.zero_grad()
        output = task.loss(model, step, CPU)
        output.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        right += float(output.sums["right"])
        scored += float(output.sums["scored"])
    assert right / scored > 0.7
    assert task.validate(model.eval(), CPU)["valid_acc"] > 60


def test_no_program_that_only_prints_a_digit_is_a_training_program() -> None:
    found = [split_of(Program(f"print({n})@", f"{n}.")) for n in range(1, 11)]
    assert found == ["valid", "test"] * 5
