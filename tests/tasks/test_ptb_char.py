"""The character task: GRU model, loss, carried state, bits per character, configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec, NoiseSource, attach_noise, noise_parameters
from noisyexp.cli.compose import check
from noisyexp.cli.named_sweeps import expand_sweeps
from noisyexp.errors import DataError
from noisyexp.nn.language_model import LanguageModel, saturation_on
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.ptb_char import PTBChar, PTBCharConfig
from noisyexp.tasks.ptb_char import task as task_module
from noisyexp.tasks.ptb_char.task import bits_per_character
from noisyexp.tasks.ptb_char.text import encode
from noisyexp.tasks.text import carried

CPU = torch.device("cpu")
VARIANTS = ("reference", "hard", "nan", "nah", "nani", "nanil", "nanis")
PAPER = PTBCharConfig(
    name="ptb_char", hidden_size=1000, embedding_size=64, batch_size=100, steps=200,
    epoch_steps=None, valid_streams=1, max_eval_chars=None, train_words=200_000,
)  # fmt: skip
SMALL = replace(
    PAPER, hidden_size=8, embedding_size=5, batch_size=4, steps=6, valid_streams=3,
    max_eval_chars=1000, train_words=1000,
)  # fmt: skip


def prepared(config: PTBCharConfig = SMALL) -> PTBChar:
    task = PTBChar(config, "generated", 0)
    task.prepare(Path())
    return task


def model_of(task: PTBChar, variant: str = "reference") -> LanguageModel:
    torch.manual_seed(0)
    model = task.build_model(ActivationSpec(variant))
    assert isinstance(model, LanguageModel)
    return model


class TorchModel:
    """The same weights in torch's own modules in double precision."""

    def __init__(self, model: LanguageModel) -> None:
        weights = {name: value.detach().double() for name, value in model.state_dict().items()}
        self.embedding, self.weight = weights["embedding.weight"], weights["output.weight"]
        self.bias = weights["output.bias"]
        self.gru = nn.GRU(self.embedding.shape[1], self.weight.shape[1]).double()
        self.gru.load_state_dict(
            {k.removeprefix("gru."): v for k, v in weights.items() if k.startswith("gru.")}
        )

    @torch.no_grad()
    def bits(self, inputs: Tensor, targets: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """-log2 p of every target, (T, B), and the final state."""
        hidden, state = self.gru(self.embedding[inputs], state)
        logs = (hidden @ self.weight.T + self.bias).log_softmax(-1)
        return -logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1) / math.log(2), state


# The model.


def parameters(embedding: int, variant: str) -> int:
    model = LanguageModel(
        50, 1000, 1, 0.0, None, ActivationSpec(variant), cell="gru", embedding_size=embedding
    )
    return sum(p.numel() for p in model.parameters())


def test_parameters_at_the_size_of_the_paper() -> None:
    """50 x 64 + 3000 x (64 + 1000) + 2 x 3000 + 1000 x 50 + 50; one-hot: 50 for 64, no table."""
    assert parameters(64, "reference") == 3_251_250
    assert parameters(64, "nan") == 3_254_250
    assert parameters(0, "nani") == 3_000 * 1_050 + 6_000 + 50_050


def test_initial_weights_are_torchs_and_the_same_in_every_arm() -> None:
    task = prepared(replace(SMALL, hidden_size=64, embedding_size=16))
    reference = model_of(task).state_dict()
    torch.manual_seed(0)
    embedding, gru = nn.Embedding(len(task.corpus.vocab), 16), nn.GRU(16, 64)
    assert torch.equal(reference["embedding.weight"], embedding.weight)
    for name, value in gru.state_dict().items():
        assert torch.equal(reference[f"gru.{name}"], value)
    assert 0.12 < float(reference["output.weight"].abs().max()) <= 1 / 8
    for variant in VARIANTS:
        model = model_of(task, variant)
        own = noise_parameters(model)
        assert sum(p.numel() for p in own) == (3 * 64 if variant in ("nan", "nah", "nanil") else 0)
        assert all(0.9 < float(p.detach().abs().max()) <= 1 for p in own)
        state = model.state_dict()
        assert {name for name in state if not name.endswith((".p", "_extra_state"))} == set(
            reference
        )
        for name, value in reference.items():
            assert torch.equal(state[name], value), (variant, name)


SOFT = (torch.sigmoid, torch.tanh)
HARD = (lambda x: (0.25 * x + 0.5).clamp(0, 1), lambda x: x.clamp(-1, 1))


def gates_by_hand(model: LanguageModel, tokens: Tensor, hard: bool) -> tuple[Tensor, Tensor, float]:
    """Logits, final h, and the percent of inputs beyond 2 (gates) and 1 (candidate)."""
    sigmoid, tanh = HARD if hard else SOFT
    w = {name: value.detach() for name, value in model.named_parameters()}
    w_ih, w_hh = w["gru.weight_ih_l0"].chunk(3), w["gru.weight_hh_l0"].chunk(3)
    b_ih, b_hh = w["gru.bias_ih_l0"].chunk(3), w["gru.bias_hh_l0"].chunk(3)
    h, logits, beyond, total = torch.zeros(tokens.shape[1], len(w_hh[0])), [], 0, 0
    for row in tokens:
        x = w["embedding.weight"][row]
        from_x = [x @ w_ih[k].T + b_ih[k] for k in range(3)]
        from_h = [h @ w_hh[k].T + b_hh[k] for k in range(3)]
        r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
        n = from_x[2] + r * from_h[2]
        for inputs, threshold in zip(
            (from_x[0] + from_h[0], from_x[1] + from_h[1], n), (2, 2, 1), strict=True
        ):
            beyond += int((inputs.abs() > threshold).sum())
            total += inputs.numel()
        h = z * h + (1 - z) * tanh(n)
        logits.append(h @ w["output.weight"].T + w["output.bias"])
    return torch.stack(logits), h, 100 * beyond / total


@pytest.mark.parametrize("variant", ["reference", "hard", "nan"])
def test_forward_and_saturation_follow_the_equations(variant: str) -> None:
    task = prepared()
    model = model_of(task, variant).eval()  # NAN without noise is the hard unit at alpha 1
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith(".p"):
                weight.mul_(2)
    tokens = torch.randint(len(task.corpus.vocab), (7, 3))
    logits, (h,) = model(tokens, model.zero_state(3))
    expected, final, percent = gates_by_hand(model, tokens, variant != "reference")
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(h[0], final, rtol=1e-4, atol=1e-5)
    assert 10 < percent < 90
    assert saturation_on(model, tokens).percent == pytest.approx(
        percent, abs=0.7
    )  # one of 168 at a border
    assert model.recurrent.backend == "auto"


def test_one_hot_is_an_embedding_by_unit_vectors() -> None:
    task = prepared(replace(SMALL, embedding_size=0))
    size = len(task.corpus.vocab)
    model, other = model_of(task), model_of(prepared(replace(SMALL, embedding_size=size)))
    state = {**model.state_dict(), "embedding.weight": torch.eye(size)}
    other.load_state_dict(state)
    tokens = torch.randint(size, (5, 2))
    ours, theirs = (m(tokens, m.zero_state(2))[0] for m in (model, other))
    assert torch.allclose(ours, theirs, atol=1e-6)


# The loss.


def test_loss_is_the_mean_over_characters_with_carried_state() -> None:
    task = prepared()
    model = model_of(task)
    truth, state, streams = TorchModel(model), None, task.train_streams
    for step in range(3):
        output = task.loss(model, step, CPU)
        first = 6 * step
        bits, state = truth.bits(streams[first : first + 6], streams[first + 1 : first + 7], state)
        assert bits.shape == (6, 4)
        nats = bits * math.log(2)
        assert output.loss.item() == pytest.approx(float(nats.mean()), rel=1e-6)
        assert float(output.sums["nll"]) == pytest.approx(float(nats.sum()), rel=1e-6)
        assert (output.sums["characters"], output.items) == (24, 24)


def test_backpropagation_stops_at_the_window() -> None:
    task = prepared()
    model = model_of(task)
    task.loss(model, 0, CPU)
    carried = task.state_dict()["state"]
    assert len(carried) == 1 and not carried[0].requires_grad
    assert float(carried[0].abs().max()) > 0
    task.loss(model, 1, CPU).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    logits, _ = model(task.train_streams[6:12], (carried[0].clone(),))
    nn.functional.cross_entropy(logits.flatten(0, 1), task.train_streams[7:13].flatten()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.allclose(p.grad, gradients[name], atol=1e-7), name


def test_state_is_zero_at_the_start_of_a_pass_not_of_an_epoch() -> None:
    task = prepared(replace(SMALL, epoch_steps=2))
    windows = (len(task.corpus.train) // 4 - 1) // 6
    assert (task.steps_per_epoch, task.windows) == (2, windows)
    assert prepared().steps_per_epoch == windows
    model = model_of(task)
    first = task.loss(model, 0, CPU).loss.item()
    losses = [task.loss(model, step, CPU).loss.item() for step in (1, 2)]
    assert task.loss(model, windows, CPU).loss.item() == first
    # Window 2 begins an epoch and yet goes on from window 1.
    truth = TorchModel(model)
    streams = task.train_streams
    bits, _ = truth.bits(streams[:18], streams[1:19])
    assert losses[1] == pytest.approx(float(bits[12:].mean()) * math.log(2), rel=1e-6)


def test_carried_state_survives_its_state_dict() -> None:
    task, again = prepared(), prepared()
    model = model_of(task)
    assert task.state_dict() == {"state": None}
    for step in (0, 1):
        task.loss(model, step, CPU)
    again.load_state_dict(task.state_dict())
    task.validate(model.eval(), CPU)
    assert again.loss(model, 2, CPU).loss.item() == task.loss(model, 2, CPU).loss.item()


# Bits per character.


def test_a_uniform_model_needs_log2_of_50() -> None:
    task = prepared()
    symbols = "".join(chr(33 + index) for index in range(50))
    task.corpus = encode({"train": symbols * 40, "valid": symbols * 9, "test": symbols * 7}, {})
    task._cut(task.corpus)
    model = model_of(task, "nah").eval()
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
    log2_50 = pytest.approx(5.643856189774724, rel=1e-6)  # float32 rounds ln 50
    sums = {key: float(value) for key, value in task.loss(model, 0, CPU).sums.items()}
    assert task.training_metrics(sums) == {"train_bpc": log2_50}
    assert task.validate(model, CPU)["valid_bpc"] == log2_50
    assert task.test(model, CPU) == {"test_bpc": log2_50}


def test_bits_divide_once() -> None:
    assert bits_per_character(300 * math.log(8), 300) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 111, 5000])
def test_one_pass_equals_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared(replace(SMALL, max_eval_chars=1000, valid_streams=1))
    model = model_of(task).eval()
    text = task.corpus.test[:1000].unsqueeze(1)
    bits, _ = TorchModel(model).bits(text[:-1], text[1:])
    monkeypatch.setattr(carried, "CHUNK", chunk)
    assert task.test(model, CPU) == {"test_bpc": pytest.approx(float(bits.mean()), rel=1e-6)}
    assert len(bits) == 999
    valid = task.corpus.valid[:1000].unsqueeze(1)
    bits, _ = TorchModel(model).bits(valid[:-1], valid[1:])
    result = task.validate(model, CPU)["valid_bpc"]
    assert result == pytest.approx(float(bits.mean()), rel=1e-6)


def test_validation_by_streams_starts_each_from_zero() -> None:
    task = prepared()
    model = model_of(task).eval()
    text = task.corpus.valid[:1000]
    # 1000 / 3: streams of 333 that start at 0, 333 and 667.
    bits = [
        TorchModel(model).bits(text[a : a + 332, None], text[a + 1 : a + 333, None])[0]
        for a in (0, 333, 667)
    ]
    result = task.validate(model, CPU)["valid_bpc"]
    assert result == pytest.approx(float(torch.cat(bits).mean()), rel=1e-6)


@pytest.mark.parametrize("variant", ["nan", "nani", "nanis"])
def test_evaluation_has_no_noise(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared()
    model = model_of(task, variant)
    with torch.no_grad():
        model.embedding.weight.mul_(5)  # units saturate
    source = NoiseSource(0)
    attach_noise(model, source)
    losses = [task.loss(model, 0, CPU).loss.item() for _ in range(2)]
    assert losses[0] != losses[1]
    model.eval()

    def refuse(*args: Any) -> None:
        raise AssertionError("a draw in evaluation")

    monkeypatch.setattr(source, "normal", refuse)
    monkeypatch.setattr(source, "draw_key", refuse)
    results = [{**task.validate(model, CPU), **task.test(model, CPU)} for _ in range(2)]
    assert results[0] == results[1]


def test_it_learns_more_than_how_often_characters_occur() -> None:
    """150 updates: below the unigram entropy, above the floor."""
    task = prepared(
        replace(SMALL, hidden_size=48, embedding_size=12, batch_size=16, steps=20,
                train_words=6000, max_eval_chars=4000)
    )  # fmt: skip
    model = model_of(task, "nan")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(150):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    counts = torch.bincount(task.corpus.train).double()
    law = counts / counts.sum()
    unigram = float(-(law * law.log2()).sum())
    found = task.validate(model.eval(), CPU)["valid_bpc"]
    assert task.floor()["valid_bpc"] == task.floor()["test_bpc"] < found < 0.6 * unigram


# Configuration.


def test_configured_as_the_spec_says() -> None:
    assert find_task("ptb_char") is PTBChar and PTBChar.selection == "valid_bpc"
    (spec,) = check(["task=ptb_char", "act=nan_normal"])
    assert spec.task_config == PAPER
    training = spec.config.training
    assert (training.optimizer, training.lr, training.max_grad_norm) == ("adam", 0.001, 1.0)
    assert training.lr_schedule.rule == "constant" and training.use_weights == "best"


def test_the_grid_is_log_spaced() -> None:
    readme = Path(task_module.__file__).with_name("README.md").read_text()
    words = expand_sweeps(["-m", "sweep=ptb_char_sigma", "seed=0"])
    assert words[:3] == ["-m", "task=ptb_char", "act=nani,nanis"] and words[-1] == "seed=0"
    grid = next(word for word in words if word.startswith("act.c="))
    assert grid in readme
    specs = check(["experiment=fig8/nani", grid])
    sigmas = [spec.config.act.c for spec in specs]
    assert sigmas == pytest.approx([10 ** (-2 + 2 * k / 7) for k in range(8)], rel=5e-3)
    for spec in specs:
        assert spec.config.act.tanh.c == spec.config.act.sigmoid.c == spec.config.act.c


def test_too_little_text_is_an_error_that_says_what_to_change() -> None:
    problems: list[str] = []
    values = {**vars(SMALL), "valid_streams": 600}
    assert build(PTBCharConfig, values, "task", problems) is None
    assert problems == [
        "task.max_eval_chars=1000: each of valid_streams=600 streams needs two characters"
    ]
    with pytest.raises(DataError, match=r"for each of 3000 streams.*task.steps=6"):
        prepared(replace(SMALL, batch_size=3000))


def test_real_windows(data_root: Path) -> None:
    if not (data_root / "ptb" / "ptb.train.txt").is_file():
        pytest.skip(f"no Penn Treebank under {data_root}")
    task = PTBChar(PAPER, "real", 0)
    files = task.prepare(data_root)
    assert sorted(files) == ["ptb/ptb.test.txt", "ptb/ptb.train.txt", "ptb/ptb.valid.txt"]
    # floor(5,017,482 / 100) = 50,174 rows; floor(50,173 / 200) windows.
    assert task.train_streams.shape == (50_174, 100) and task.steps_per_epoch == 250
    assert task.valid_streams.shape == (393_042, 1) and task.test_stream.shape == (442_423, 1)
    assert task.floor() == {}
    model = model_of(task, "nan")
    task._cut(replace(task.corpus, valid=task.corpus.valid[:1000]))
    assert task.validate(model.eval(), CPU)["valid_bpc"] == pytest.approx(math.log2(50), abs=0.1)
