"""Character-level language modelling on the Penn Treebank (Figure 8)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from noisyexp.activations import ActivationSpec
from noisyexp.nn.language_model import LanguageModel, detach, saturation_on
from noisyexp.records.metric import Metric
from noisyexp.schema import option
from noisyexp.tasks.base import Sample, StepOutput, Wanted
from noisyexp.tasks.ptb_char.text import generate_characters, load_characters
from noisyexp.tasks.size import MOST_EXAMPLES, Size, linear, recurrent
from noisyexp.tasks.text.carried import ReadsStreams, whole_nll
from noisyexp.tasks.text.continuations import CHARACTERS, continuations, describe
from noisyexp.tasks.text.corpus import Corpus
from noisyexp.tasks.text.streams import to_streams

SIGNS = 50
"""About, of every text."""


@dataclass(frozen=True)
class PTBCharConfig:
    """Section `task` of a ptb_char run."""

    name: str = option("the task's folder")
    hidden_size: int = option("H, units of the GRU", low=1)
    embedding_size: int = option("size of the embedding; 0: one-hot characters", low=0)
    batch_size: int = option("B, parallel streams", low=1)
    steps: int = option("T, steps of a window and of backpropagation", low=1)
    epoch_steps: int | None = option("updates between validations; null: one pass", low=1)
    valid_streams: int = option("parallel streams of the validation text; 1: one pass", low=1)
    max_eval_chars: int | None = option(
        "characters of the validation and of the test text; null: all", low=1000
    )
    train_words: int = option("words of the generated training text", low=1000, high=MOST_EXAMPLES)

    def check(self) -> Iterator[str]:
        """Problems that need more than one field."""
        if self.max_eval_chars is not None and self.max_eval_chars < 2 * self.valid_streams:
            yield (
                f"max_eval_chars={self.max_eval_chars}: each of valid_streams={self.valid_streams} "
                "streams needs two characters"
            )


class PTBChar(ReadsStreams):
    """A GRU that reads characters and predicts the next one.

    Loss of a window: mean negative log-likelihood of its characters in nats, so that clipping to
    norm 1 means the same for every batch and length. The state is carried from window to window
    and is zero at the start of every pass over the text.
    """

    config_type = PTBCharConfig
    config: PTBCharConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "train_bpc": Metric("training bits per character, noise on", "bits", "min"),
        "valid_bpc": Metric("validation bits per character", "bits", "min"),
        "test_bpc": Metric("test bits per character", "bits", "min"),
        "saturated": Metric("saturated gates and candidates", "%", "min"),
    }
    selection = "valid_bpc"
    item = "characters"

    @classmethod
    def size(cls, config: PTBCharConfig, source: str) -> Size:
        """One GRU layer between characters."""
        h, e = config.hidden_size, config.embedding_size
        letters = 6e6 if source == "real" else 7.0 * config.train_words
        return Size(
            SIGNS * e + recurrent(3, e or SIGNS, h) + linear(h, SIGNS),
            8.0 * config.batch_size * config.steps * h,
            (8 if source == "real" else 24) * letters,
        )

    def prepare(self, root: Path) -> dict[str, str]:
        """Read the text and cut it into streams."""
        words = self.config.train_words
        if self.source == "real":
            self.corpus = load_characters(root)
        else:
            self.corpus = generate_characters(words, max(words // 10, min(words, 4000)))
        self._cut(self.corpus)
        return self.corpus.files

    def _cut(self, corpus: Corpus) -> None:
        config, limit = self.config, self.config.max_eval_chars
        self.train_streams = to_streams(corpus.train, config.batch_size)
        self.valid_streams = to_streams(corpus.valid[:limit], config.valid_streams)
        self.test_stream = corpus.test[:limit].unsqueeze(1)
        self.check_length("train", self.train_streams)

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        """One GRU layer with `spec` in both gates and the candidate; torch's initial weights."""
        config = self.config
        return LanguageModel(
            len(self.corpus.vocab),
            config.hidden_size,
            num_layers=1,
            dropout=0.0,
            init_range=None,
            spec=spec,
            cell="gru",
            embedding_size=config.embedding_size,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates between two validations: 250, one pass, with 100 streams and 200 steps."""
        return self.config.epoch_steps or self.windows

    def batch(self, model: nn.Module, step: int, device: torch.device) -> tuple[Tensor, ...]:
        """Characters and next characters of one window, (T, B) each, and the state before it."""
        assert isinstance(model, LanguageModel)
        index = step % self.windows
        if index == 0:
            self.begin_text()
        return self.window_at(model, index, device)

    def loss_of_batch(
        self, model: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[StepOutput, tuple[Tensor, ...]]:
        """Mean negative log-likelihood of one window in nats a character."""
        assert isinstance(model, LanguageModel)
        inputs, targets, *state = batch
        count = targets.numel()
        found, new = model.loss(inputs, tuple(state), targets, 1.0 / count)
        sums: dict[str, Tensor | float] = {"nll": found.costs.sum(), "characters": count}
        return StepOutput(found.total, sums, count), detach(new)

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Bits per character of the training text, noise on, while the weights move."""
        return {"train_bpc": bits_per_character(sums["nll"], sums["characters"])}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Bits per character of the validation text, and the saturated units on its first rows."""
        assert isinstance(model, LanguageModel)
        streams = self.valid_streams.to(device)
        return {
            "valid_bpc": score(model, streams),
            "saturated": saturation_on(model, streams[: self.config.steps]).percent,
        }

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Bits per character of the test text in one pass, all characters but the first."""
        assert isinstance(model, LanguageModel)
        return {"test_bpc": score(model, self.test_stream.to(device))}

    def floor(self) -> dict[str, float]:
        """Bits per character of the best possible predictor of the generated language."""
        nats = self.corpus.floor_nats
        if nats is None:
            return {}
        return {name: nats / math.log(2) for name in ("valid_bpc", "test_bpc")}

    def write(self, model: nn.Module, device: torch.device, wanted: Wanted) -> list[str]:
        """Continuations of a prompt."""
        assert isinstance(model, LanguageModel)
        return continuations(model, self.corpus.vocab, device, CHARACTERS, wanted)

    def sample(self, model: nn.Module, device: torch.device) -> Sample:
        """What the model writes after the first words of the validation text, and what is hard."""
        assert isinstance(model, LanguageModel)
        return Sample(describe(model, self.corpus.valid, self.corpus.vocab, device, CHARACTERS))


def bits_per_character(nats: float, characters: float) -> float:
    """Sum of -log2 p over all predicted characters, divided once by their number."""
    return nats / math.log(2) / max(characters, 1)


def score(model: LanguageModel, streams: Tensor) -> float:
    """Bits per character of streams (rows, B), each from a zero state, all rows but the first."""
    return bits_per_character(*whole_nll(model, streams))
