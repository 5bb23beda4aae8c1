"""Penn Treebank as a task: loss, carried state, both perplexities (spec checks 3, 5 and 6)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise
from noisyexp.errors import DataError
from noisyexp.nn.language_model import LanguageModel
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.ptb import PTB
from noisyexp.tasks.text import carried
from noisyexp.tasks.text.streams import num_windows
from noisyexp.tasks.text.word_model import WordModelConfig, zaremba_perplexity

CPU = torch.device("cpu")
SMALL = WordModelConfig(
    name="ptb", hidden_size=8, num_layers=2, dropout=0.0, init_range=0.1, batch_size=4, steps=5,
    reset="zero", max_tokens=None, vocab_size=40, train_tokens=1000,
)  # fmt: skip
PAPER = replace(SMALL, hidden_size=200, batch_size=20, steps=20)


def prepared(config: WordModelConfig = SMALL, source: str = "generated", root: str = ".") -> PTB:
    task = PTB(config, source, 0)
    task.prepare(Path(root))
    return task


def model_of(task: PTB, variant: str = "reference") -> LanguageModel:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, LanguageModel)
    return model


class TorchModel:
    """The same weights in torch's own modules, with its own sum of the loss."""

    def __init__(self, model: LanguageModel) -> None:
        weights = {name: value.detach().double() for name, value in model.state_dict().items()}
        size = model.lstm.hidden_size
        self.lstm = nn.LSTM(size, size, model.lstm.num_layers).double()
        self.lstm.load_state_dict(
            {k.removeprefix("lstm."): v for k, v in weights.items() if k.startswith("lstm.")}
        )
        self.embedding, self.weight = weights["embedding.weight"], weights["output.weight"]
        self.bias = weights["output.bias"]

    @torch.no_grad()
    def nll(self, inputs: Tensor, targets: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """-ln p of every target, (T, B), and the final state."""
        hidden, state = self.lstm(self.embedding[inputs], state)
        scores = (hidden @ self.weight.T + self.bias).log_softmax(-1)
        return -scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1), state


def test_task_is_found_by_its_folder() -> None:
    assert find_task("ptb") is PTB
    assert PTB.selection == "valid_ppl"
    assert {metric.direction for metric in PTB.metrics.values()} == {"min"}


def test_loss_is_the_sum_over_time_of_the_mean_over_streams() -> None:
    task = prepared()
    model = model_of(task)
    truth, state = TorchModel(model), None
    streams = task.train_streams
    for step in range(3):
        output = task.loss(model, step, CPU)
        rows = slice(step * 5, step * 5 + 5)
        targets = streams[step * 5 + 1 : step * 5 + 6]
        nll, state = truth.nll(streams[rows], targets, state)
        assert nll.shape == (5, 4)
        assert output.loss.item() == pytest.approx(float(nll.mean(1).sum()), rel=1e-6)
        assert float(output.sums["nll"]) == pytest.approx(float(nll.sum()), rel=1e-6)
        assert (output.sums["tokens"], output.items) == (20, 20)


@pytest.mark.parametrize("variant", ["reference", "hard", "nah", "nani"])
def test_first_loss_is_that_of_guessing(variant: str) -> None:
    task = prepared(replace(SMALL, vocab_size=200, train_tokens=2000))
    loss = task.loss(model_of(task, variant), 0, CPU).loss.item()
    assert loss / 5 == pytest.approx(math.log(200), abs=0.05)


def test_backpropagation_stops_at_the_window() -> None:
    task = prepared()
    model = model_of(task)
    task.loss(model, 0, CPU).loss.backward()
    carried = task.state_dict()["state"]
    assert not any(part.requires_grad for part in carried)
    assert float(carried[0].abs().max()) > 0
    # The gradient of window 1 is that of a model fed with the state as a constant.
    model.zero_grad()
    task.loss(model, 1, CPU).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    streams = task.train_streams
    model.zero_grad()
    logits, _ = model(streams[5:10], (carried[0].clone(), carried[1].clone()))
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), streams[6:11].flatten())
    (nll * 5).backward()  # the mean over 20 tokens is 1/5 of the sum over time of the mean of 4
    for name, p in model.named_parameters():
        assert p.grad is not None and gradients[name] is not None
        assert torch.allclose(p.grad, gradients[name], rtol=1e-4, atol=1e-7), name


def test_a_zero_reset_begins_every_epoch_from_zeros() -> None:
    task = prepared()
    model = model_of(task)
    per_epoch = task.steps_per_epoch
    assert per_epoch == num_windows(250, 5) == 49
    first = task.loss(model, 0, CPU).loss.item()
    assert task.loss(model, 1, CPU).loss.item() != first
    task.validate(model.eval(), CPU)
    assert task.loss(model, per_epoch, CPU).loss.item() == first
    assert task.loss(model, 2 * per_epoch, CPU).loss.item() == first


def test_a_zaremba_reset_begins_later_epochs_from_the_end_of_validation() -> None:
    task = prepared(replace(SMALL, reset="zaremba"))
    model = model_of(task).eval()
    truth, streams, valid = TorchModel(model), task.train_streams, task.valid_streams
    windows = num_windows(len(valid), 5)
    from_zero = float(truth.nll(streams[:5], streams[1:6])[0].mean(1).sum())
    assert task.loss(model, 0, CPU).loss.item() == pytest.approx(from_zero, rel=1e-6)
    metrics = task.validate(model, CPU)
    _, state = truth.nll(valid[: windows * 5], valid[1 : windows * 5 + 1])
    expected = float(truth.nll(streams[:5], streams[1:6], state)[0].mean(1).sum())
    assert abs(expected - from_zero) > 1e-3
    loss = task.loss(model, task.steps_per_epoch, CPU).loss.item()
    assert loss == pytest.approx(expected, rel=1e-6)
    # Validation itself starts from zeros in both modes.
    assert task.validate(model, CPU) == metrics


def test_carried_state_survives_its_state_dict() -> None:
    task, again = prepared(), prepared()
    model = model_of(task)
    assert task.state_dict() == {"state": None}
    again.load_state_dict(task.state_dict())
    assert again.loss(model, 0, CPU).loss.item() == task.loss(model, 0, CPU).loss.item()
    for step in (1, 2):
        task.loss(model, step, CPU)
    again.load_state_dict(task.state_dict())
    assert again.loss(model, 3, CPU).loss.item() == task.loss(model, 3, CPU).loss.item()


def uniform(model: LanguageModel) -> LanguageModel:
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
    return model.eval()


@pytest.mark.parametrize("vocab_size", [40, 173])
def test_a_uniform_model_has_the_perplexity_of_the_vocabulary(vocab_size: int) -> None:
    task = prepared(replace(SMALL, vocab_size=vocab_size))
    model = uniform(model_of(task, "nah"))
    sums = {key: float(value) for key, value in task.loss(model, 0, CPU).sums.items()}
    # Up to the rounding of ln V to float32, 1e-7 of about 5.
    assert task.training_metrics(sums)["train_ppl"] == pytest.approx(vocab_size, rel=2e-6)
    assert task.validate(model, CPU)["valid_ppl"] == pytest.approx(vocab_size, rel=2e-6)
    assert task.test(model, CPU)["test_ppl"] == pytest.approx(vocab_size, rel=2e-6)


def test_training_perplexity_divides_once() -> None:
    task = prepared()
    metrics = task.training_metrics({"nll": 300 * math.log(7), "tokens": 300})
    assert metrics == {"train_ppl": pytest.approx(7)}


def test_the_formula_of_the_2015_code() -> None:
    """184 windows divided by 184.35, and how the bias is undone (rows = 3,688, T = 20)."""
    for honest in (60.0, 120.49, 10_000.0):
        reported = zaremba_perplexity(3_680 * math.log(honest), 3_688, 20)
        assert reported == pytest.approx(honest ** (184 / 184.35), rel=1e-12)
        assert math.exp(184.35 / 184 * math.log(reported)) == pytest.approx(honest, rel=1e-6)
    # The numbers of Table 2, and one of the large model with T = 35.
    for reported, honest in ((119.4, 120.49), (111.7, 112.71), (112.6, 113.62)):
        nll = 3_680 * math.log(honest)
        assert zaremba_perplexity(nll, 3_688, 20) == pytest.approx(reported, abs=0.01)
    assert zaremba_perplexity(105 * 35 * math.log(83.4), 3_688, 35) == pytest.approx(82.2, abs=0.1)


def test_validation_by_both_formulas() -> None:
    task = prepared()
    model = model_of(task).eval()
    valid = task.valid_streams
    assert valid.shape == (250, 4)
    # 49 windows of 5: 245 of the 249 targets of a stream.
    nll, _ = TorchModel(model).nll(valid[:245], valid[1:246])
    metrics = task.validate(model, CPU)
    assert metrics["valid_ppl"] == pytest.approx(math.exp(float(nll.mean())), rel=1e-6)
    reported = math.exp(float(nll.view(49, 5, 4).mean((1, 2)).sum()) / (249 / 5))
    assert metrics["valid_ppl_zaremba"] == pytest.approx(reported, rel=1e-6)
    undone = math.exp(249 / 5 / 49 * math.log(metrics["valid_ppl_zaremba"]))
    assert undone == pytest.approx(metrics["valid_ppl"], rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 111, 500, 5000])
def test_test_perplexity_does_not_depend_on_the_chunks(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepared(replace(SMALL, max_tokens=334))
    model = model_of(task).eval()
    stream = task.test_stream
    assert stream.shape == (334, 1)
    nll, _ = TorchModel(model).nll(stream[:-1], stream[1:])
    assert len(nll) == 333
    monkeypatch.setattr(carried, "CHUNK", chunk)
    result = task.test(model, CPU)
    assert result == {"test_ppl": pytest.approx(math.exp(float(nll.mean())), rel=1e-6)}


@pytest.mark.parametrize("reset", ["zero", "zaremba"])
def test_testing_changes_nothing(reset: str) -> None:
    task = prepared(replace(SMALL, reset=reset))
    model = model_of(task).eval()
    task.loss(model, 0, CPU)
    before = task.state_dict()["state"]
    first = task.test(model, CPU)
    assert task.test(model, CPU) == first
    assert all(torch.equal(a, b) for a, b in zip(task.state_dict()["state"], before, strict=True))


@pytest.mark.parametrize("variant", ["nan", "nah", "nani", "nanil", "nanis"])
def test_evaluation_has_no_noise(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared(replace(SMALL, max_tokens=120, dropout=0.3))
    model = model_of(task, variant)
    source = NoiseSource(0)
    attach_noise(model, source)
    noisy = [task.loss(model, 0, CPU).loss.item() for _ in range(2)]
    assert noisy[0] != noisy[1]
    model.eval()

    def refuse(*args: Any) -> None:
        raise AssertionError("a draw in evaluation")

    monkeypatch.setattr(source, "normal", refuse)
    monkeypatch.setattr(torch, "randn", refuse)
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        results.append({**task.validate(model, CPU), **task.test(model, CPU)})
    assert results[0] == results[1]


def test_floor_of_the_generated_language() -> None:
    task = prepared()
    nats = task.corpus.floor_nats
    assert nats is not None
    assert task.floor() == {"valid_ppl": math.exp(nats), "test_ppl": math.exp(nats)}
    assert 1 < math.exp(nats) < 40


def test_too_little_text_is_an_error_that_says_what_to_change() -> None:
    problems: list[str] = []
    values = {**vars(SMALL), "max_tokens": 100, "batch_size": 10, "steps": 10}
    assert build(WordModelConfig, values, "task", problems) is None
    assert problems == [
        "task.max_tokens=100: at least batch_size * (steps + 1) = 110 tokens are needed for one "
        "window"
    ]
    with pytest.raises(DataError, match=r"train text has 2 tokens for each of 500 streams"):
        prepared(replace(SMALL, batch_size=500))


# The real text.


@pytest.fixture(scope="module")
def real(data_root: Path) -> PTB:
    if not (data_root / "ptb" / "ptb.train.txt").is_file():
        pytest.skip(f"no Penn Treebank under {data_root}")
    task = PTB(PAPER, "real", 0)
    files = task.prepare(data_root)
    assert sorted(files) == ["ptb/ptb.test.txt", "ptb/ptb.train.txt", "ptb/ptb.valid.txt"]
    return task


def test_real_sizes(real: PTB) -> None:
    assert real.steps_per_epoch == 2_323
    assert 13 * real.steps_per_epoch == 30_199
    assert num_windows(len(real.valid_streams), 20) == 184
    assert real.test_stream.shape == (82_430, 1)
    assert real.floor() == {}
    longer = replace(PAPER, steps=35)
    assert num_windows(len(real.train_streams), longer.steps) == 1_327
    assert num_windows(len(real.valid_streams), longer.steps) == 105


@pytest.mark.parametrize("variant", ["reference", "nah"])
def test_real_first_loss(variant: str, real: PTB) -> None:
    loss = real.loss(model_of(real, variant), 0, CPU).loss.item()
    assert loss / 20 == pytest.approx(9.21, abs=0.05)


@pytest.mark.slow
def test_real_first_updates(real: PTB) -> None:
    """300 updates of the reference: one gradient in five is clipped, and the loss falls."""
    model = model_of(real)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    norms, losses = [], []
    for step in range(300):
        optimizer.zero_grad()
        loss = real.loss(model, step, CPU).loss
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 5.0)))
        optimizer.step()
        losses.append(float(loss.detach()) / 20)
    # With the loss averaged over the 20 steps the norms would be 20 times smaller.
    assert sum(norm > 5 for norm in norms) > 30
    assert sorted(norms)[150] > 2
    # 687 is what the frequencies of the words alone give on the validation text.
    assert math.exp(sum(losses[-100:]) / 100) < 700
